//! Every call into DPDK, with its argument why it is sound. Ports are numbers; DPDK checks those it is given, except on
//! the fast path, where [`Port`](crate::Port) owns them.

use std::ffi::{CStr, CString, OsStr, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::ptr::NonNull;

use dpdk_sys::{dpdk_counters, dpdk_facts, rte_mbuf, rte_mempool};

/// A pool's mbuf.
pub(crate) type Mbuf = *mut rte_mbuf;

/// Of a driver that returned -1, which most do for want of a number: it is none.
#[derive(Debug, thiserror::Error)]
#[error("its driver says no more than that it failed")]
pub(crate) struct Unsaid;

/// What DPDK returns: a negative errno, or something else.
fn check(code: c_int) -> io::Result<c_int> {
    match code {
        -1 => Err(io::Error::other(Unsaid)),
        ..0 => Err(error(-code)),
        0.. => Ok(code),
    }
}

/// DPDK's numbers are the system's, and from 1000 on its own.
fn error(number: c_int) -> io::Error {
    if number < 1000 {
        return io::Error::from_raw_os_error(number);
    }
    // SAFETY: returns a string that lives as long as the thread, for any number.
    let text = unsafe { dpdk_sys::rte_strerror(number) };
    // SAFETY: as above.
    io::Error::other(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// This thread's `rte_errno`, as an error.
fn last_error() -> io::Error {
    // SAFETY: reads a thread-local number.
    error(unsafe { dpdk_sys::dpdk_errno() })
}

/// Text with a zero inside means nothing to DPDK.
fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("a zero byte in \"{}\"", text.escape_debug())))
}

/// Where the log goes.
pub(crate) fn log_to(sink: unsafe extern "C" fn(*const std::ffi::c_char, usize)) -> io::Result<()> {
    // SAFETY: `sink` is there as long as the program, and takes any bytes.
    match unsafe { dpdk_sys::dpdk_log_to(Some(sink)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// True while a line is logged that only who works on its driver wants to read.
pub(crate) fn logs_for_developers() -> bool {
    // SAFETY: reads a thread-local number.
    unsafe { dpdk_sys::dpdk_logs_debug() != 0 }
}

/// Lets the drivers that match `pattern` log all they can.
pub(crate) fn log_all_of(pattern: &str) -> io::Result<()> {
    let pattern = c_string(pattern)?;
    // SAFETY: a string that is only read.
    check(unsafe { dpdk_sys::dpdk_log_debug(pattern.as_ptr()) }).map(|_| ())
}

/// Calls `function` in EAL's interrupt thread as soon as it is done with what it is doing.
pub(crate) fn after_interrupts(function: extern "C" fn(*mut c_void)) -> io::Result<()> {
    // SAFETY: a function that does nothing with what it is given, and is there as long as the program.
    check(unsafe { dpdk_sys::dpdk_after_interrupts(Some(function)) }).map(|_| ())
}

/// Starts EAL. The caller sees to it that it happens once.
pub(crate) fn eal_init(arguments: &[String]) -> io::Result<()> {
    let arguments: Vec<CString> = arguments.iter().map(|text| c_string(text)).collect::<io::Result<_>>()?;
    // EAL permutes the pointers, and keeps some of the strings.
    let mut pointers: Vec<_> = arguments.iter().map(|text| text.clone().into_raw()).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
    // SAFETY: `count` pointers to strings that are never freed.
    match unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) } {
        code if code < 0 => Err(last_error()),
        _ => Ok(()),
    }
}

/// Where EAL's files are, once it was started, or tried to.
pub(crate) fn runtime_directory() -> PathBuf {
    // SAFETY: returns a string that lives as long as the program, and changes while EAL is started only, which happens once.
    let text = unsafe { dpdk_sys::rte_eal_get_runtime_dir() };
    // SAFETY: as above.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()))
}

/// True if EAL's memory is in huge pages.
pub(crate) fn has_huge_pages() -> bool {
    // SAFETY: reads a number.
    unsafe { dpdk_sys::rte_eal_has_hugepages() != 0 }
}

/// The release of the library in use.
pub(crate) fn version() -> String {
    // SAFETY: returns a constant string.
    let text = unsafe { dpdk_sys::rte_version() };
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Attaches a device. EAL runs.
pub(crate) fn probe(device: &str) -> io::Result<()> {
    let device = c_string(device)?;
    // SAFETY: a string that is only read.
    check(unsafe { dpdk_sys::rte_dev_probe(device.as_ptr()) }).map(|_| ())
}

/// The port called `name`.
pub(crate) fn port_by_name(name: &str) -> Option<u16> {
    let (name, mut port) = (c_string(name).ok()?, 0);
    // SAFETY: a string that is only read, and a place for a number.
    (unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) } == 0).then_some(port)
}

/// All ports.
pub(crate) fn ports() -> impl Iterator<Item = u16> {
    // SAFETY: any number may be asked for.
    let next = |from| u32::from(unsafe { dpdk_sys::dpdk_next_port(from) });
    let port = move |from| Some(next(from)).filter(|&port| port < dpdk_sys::DPDK_PORTS).map(|port| port as u16);
    std::iter::successors(port(0), move |&last| port(last + 1))
}

pub(crate) fn facts(port: u16) -> io::Result<dpdk_facts> {
    let mut facts = dpdk_facts::default();
    // SAFETY: a place for the answer.
    check(unsafe { dpdk_sys::dpdk_facts(port, &raw mut facts) })?;
    Ok(facts)
}

pub(crate) fn counters(port: u16) -> io::Result<dpdk_counters> {
    let mut counters = dpdk_counters::default();
    // SAFETY: a place for the answer.
    check(unsafe { dpdk_sys::dpdk_counters(port, &raw mut counters) })?;
    Ok(counters)
}

pub(crate) fn configure(
    port: u16,
    queues: u16,
    (rx_offloads, tx_offloads): (u64, u64),
    spread_by: u64,
    mtu: u16,
    link_interrupts: bool,
) -> io::Result<()> {
    let lsc = link_interrupts.into();
    // SAFETY: numbers only.
    let code = unsafe { dpdk_sys::dpdk_configure(port, queues, rx_offloads, tx_offloads, spread_by, mtu, lsc) };
    check(code).map(|_| ())
}

/// As many descriptors as the device allows: the nearest to those wished for.
pub(crate) fn adjust_descriptors(port: u16, wish: u16) -> io::Result<(u16, u16)> {
    let (mut rx, mut tx) = (wish, wish);
    // SAFETY: places for two numbers.
    check(unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &raw mut rx, &raw mut tx) })?;
    Ok((rx, tx))
}

/// Sets up a queue pair.
///
/// # Safety
/// `pool` lives as long as the port has the queue.
pub(crate) unsafe fn queues(port: u16, queue: u16, (rx, tx): (u16, u16), pool: NonNull<rte_mempool>) -> io::Result<()> {
    // SAFETY: a pool that lives long enough, says the caller.
    check(unsafe { dpdk_sys::dpdk_rx_queue(port, queue, rx, pool.as_ptr()) })?;
    // SAFETY: numbers only.
    check(unsafe { dpdk_sys::dpdk_tx_queue(port, queue, tx) }).map(|_| ())
}

/// `by_interrupts`, here and below: in EAL's interrupt thread, so that no interrupt of the device is handled meanwhile.
pub(crate) fn start(port: u16, by_interrupts: bool) -> io::Result<()> {
    // SAFETY: numbers.
    check(unsafe { dpdk_sys::dpdk_start(port, by_interrupts.into()) }).map(|_| ())
}

pub(crate) fn stop(port: u16, by_interrupts: bool) -> io::Result<()> {
    // SAFETY: numbers.
    check(unsafe { dpdk_sys::dpdk_stop(port, by_interrupts.into()) }).map(|_| ())
}

pub(crate) fn remove(port: u16, by_interrupts: bool) -> io::Result<()> {
    // SAFETY: numbers.
    check(unsafe { dpdk_sys::dpdk_remove(port, by_interrupts.into()) }).map(|_| ())
}

/// Receives frames for groups, if the device filters them. Many do not have it, and do not filter.
pub(crate) fn receive_groups(port: u16) -> io::Result<()> {
    // SAFETY: a number.
    check(unsafe { dpdk_sys::rte_eth_allmulticast_enable(port) }).map(|_| ())
}

/// `None` if the device does not know.
pub(crate) fn link_is_up(port: u16) -> Option<bool> {
    // SAFETY: a number.
    check(unsafe { dpdk_sys::dpdk_link_is_up(port) }).ok().map(|up| up == 1)
}

/// Makes the calling thread one that DPDK knows: pools then have a cache for it. Fails if there are too many such.
pub(crate) fn register_thread() -> io::Result<()> {
    // SAFETY: EAL runs, and the thread is none of its own.
    match unsafe { dpdk_sys::rte_thread_register() } {
        code if code < 0 => Err(last_error()),
        _ => Ok(()),
    }
}

pub(crate) fn unregister_thread() {
    // SAFETY: the thread was registered.
    unsafe { dpdk_sys::rte_thread_unregister() }
}

/// A new pool; see `dpdk_pool`.
pub(crate) fn new_pool(name: &str, count: u32, cache: u32, room: u16, node: i32) -> io::Result<NonNull<rte_mempool>> {
    let name = c_string(name)?;
    // SAFETY: a string that is copied, and numbers.
    let pool = unsafe { dpdk_sys::dpdk_pool(name.as_ptr(), count, cache, room, node) };
    NonNull::new(pool).ok_or_else(last_error)
}

/// The mbufs of a pool, each with its number, and the buffers behind them.
///
/// # Safety
/// `pool` is a pool of [`new_pool`], with `count` mbufs, none of them in use.
pub(crate) unsafe fn mbufs(pool: NonNull<rte_mempool>, count: u32) -> Vec<(Mbuf, NonNull<u8>)> {
    let mut mbufs: Vec<Mbuf> = vec![std::ptr::null_mut(); count as usize];
    // SAFETY: a pool, says the caller, and room for `count` pointers.
    let listed = unsafe { dpdk_sys::dpdk_pool_mbufs(pool.as_ptr(), mbufs.as_mut_ptr(), mbufs.len()) };
    assert_eq!(listed, mbufs.len(), "a pool has as many mbufs as it was made with");
    // SAFETY: mbufs of that pool.
    let buffer = |&mbuf: &Mbuf| NonNull::new(unsafe { dpdk_sys::dpdk_buffer(mbuf) }.cast());
    mbufs.iter().map(|mbuf| (*mbuf, buffer(mbuf).expect("each mbuf has a buffer"))).collect()
}

/// A pool of mbufs without buffers, and all of them.
pub(crate) fn tails(name: &str, count: u32, node: i32) -> io::Result<(NonNull<rte_mempool>, Vec<Mbuf>)> {
    let name = c_string(name)?;
    // SAFETY: a string that is copied, and numbers.
    let pool = NonNull::new(unsafe { dpdk_sys::dpdk_tails(name.as_ptr(), count, node) }).ok_or_else(last_error)?;
    let mut mbufs: Vec<Mbuf> = vec![std::ptr::null_mut(); count as usize];
    // SAFETY: the pool was just made, and there is room for so many pointers.
    if unsafe { dpdk_sys::dpdk_alloc(pool.as_ptr(), mbufs.as_mut_ptr(), count) } < 0 {
        // SAFETY: nobody has it.
        unsafe { free_pool(pool) };
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok((pool, mbufs))
}

/// `size` bytes that devices can read, from a multiple of `alignment` on. DPDK maps and keeps free memory zeroed.
pub(crate) fn reserve(name: &str, size: usize, alignment: usize, node: i32) -> io::Result<NonNull<u8>> {
    let name = c_string(name)?;
    // SAFETY: a string that is copied, and numbers.
    let start = unsafe { dpdk_sys::dpdk_reserve(name.as_ptr(), size, alignment, node) };
    NonNull::new(start.cast()).ok_or_else(last_error)
}

/// # Safety
/// Nobody uses the memory of that name any more.
pub(crate) unsafe fn release(name: &str) {
    if let Ok(name) = c_string(name) {
        // SAFETY: says the caller; another name is refused.
        let _ = unsafe { dpdk_sys::dpdk_release(name.as_ptr()) };
    }
}

/// Where devices see `length` bytes of DPDK's memory, if those are one piece for them.
pub(crate) fn device_address(start: NonNull<u8>, length: usize) -> Option<u64> {
    // SAFETY: looks an address up, whatever is there.
    let address = unsafe { dpdk_sys::dpdk_device_address(start.as_ptr().cast(), length) };
    (address != u64::MAX).then_some(address)
}

/// # Safety
/// `pool` is a pool of [`new_pool`] or [`tails`], and nobody uses it or an mbuf of it any more.
pub(crate) unsafe fn free_pool(pool: NonNull<rte_mempool>) {
    // SAFETY: says the caller.
    unsafe { dpdk_sys::rte_mempool_free(pool.as_ptr()) }
}
