//! Devices come and go: attaching one, and again when its peer left it.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dpdk_sys::rte_mempool;
use machnet_core::net::MacAddr;

use crate::config::control;
use crate::gate::{self, Gate};
use crate::quirks::Quirks;
use crate::refusal::{self, Kernels};
use crate::{Device, Facts, ffi, interface, log};

/// How long a device that waits for its peer while it is attached may do so.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device that was started again: the port's number, and how many peers had left before that, for the one that it finds may leave at
/// once.
pub(crate) type Started = (u16, u32);

/// A device of this process; removed again when dropped, unless it is kept.
pub(crate) struct Attached {
    id: u16,
    name: String,
    /// If it is virtual.
    arguments: String,
}

impl Attached {
    pub(crate) const fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn arguments(&self) -> &str {
        &self.arguments
    }

    /// From now on it is its port's.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }

    /// How it is attached again, with the address and the queues that it has now.
    pub(crate) fn again(&self, mac: MacAddr, queues: Queues) -> Again {
        let arguments = Quirks::of(&self.name).with_mac(&self.arguments, mac);
        Again { name: self.name.clone(), arguments, queues }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = remove(self.id, &self.name) {
            tracing::warn!(port = self.name, %error, "cannot remove");
        }
    }
}

/// How a port's queues are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queues {
    pub(crate) rx_offloads: u64,
    pub(crate) tx_offloads: u64,
    /// What is hashed to choose a queue; 0 is nothing.
    pub(crate) spread_by: u64,
    /// What the device is told of it; 0 is nothing.
    pub(crate) mtu: u16,
    pub(crate) link_interrupts: bool,
    pub(crate) descriptors: (u16, u16),
}

/// The pools that queues receive into, by queue, and what keeps them until the port is gone.
#[derive(Clone)]
pub(crate) struct Rings(pub(crate) Vec<(NonNull<rte_mempool>, Arc<()>)>);

// SAFETY: DPDK's pools may be used by any thread.
unsafe impl Send for Rings {}
// SAFETY: as above, and by several at a time.
unsafe impl Sync for Rings {}

impl Queues {
    /// # Safety
    /// `rings` live as long as the port.
    pub(crate) unsafe fn set_up(&self, id: u16, rings: &Rings) -> io::Result<()> {
        let count = rings.0.len() as u16;
        ffi::configure(
            id,
            count,
            (self.rx_offloads, self.tx_offloads),
            self.spread_by,
            self.mtu,
            self.link_interrupts,
        )?;
        for (queue, (pool, _)) in (0..).zip(&rings.0) {
            // SAFETY: says the caller.
            unsafe { ffi::queues(id, queue, self.descriptors, *pool) }?;
        }
        if let Err(error) = ffi::receive_groups(id) {
            tracing::debug!(port = id, %error, "no filter for groups to open");
        }
        Ok(())
    }
}

/// What brings a link back whose peer came back.
pub(crate) enum Comeback {
    /// It comes by itself.
    Alone,
    /// Starting the port again.
    Start,
    /// Attaching the device again.
    Attach(Again),
}

/// A virtual device that is attached again when its peer is gone, for it would not connect again by itself.
#[derive(Clone, Debug)]
pub(crate) struct Again {
    name: String,
    arguments: String,
    queues: Queues,
}

impl Again {
    /// Removes the device, if it is there (`old`), attaches and starts it again: in a thread of its own, for its driver waits for
    /// the peer's answers. After an error the device is not there.
    ///
    /// # Safety
    /// `rings` live until the thread has ended and the port is gone. Nobody else uses the port meanwhile, once who is behind `gates` has
    /// come out.
    pub(crate) unsafe fn attach(
        &self,
        old: Option<u16>,
        rings: Rings,
        gates: Vec<Arc<Gate>>,
    ) -> io::Result<JoinHandle<io::Result<Started>>> {
        let again = self.clone();
        thread::Builder::new().name("dpdk-attach".to_owned()).spawn(move || {
            Gate::wait_for_all(&gates);
            let _control = control();
            if let Some(id) = old {
                remove(id, &again.name)?;
            }
            let attached = attach_vdev(&again.name, &again.arguments)?;
            // SAFETY: says the caller.
            unsafe { again.queues.set_up(attached.id(), &rings) }?;
            let left = gate::left();
            ffi::start(attached.id(), false)?;
            let id = attached.id();
            attached.keep();
            Ok((id, left))
        })
    }
}

/// Starts the port again, in a thread of its own, for connecting to a peer that stands still takes as long as that does.
pub(crate) fn restart(
    id: u16,
    by_interrupts: bool,
    gates: Vec<Arc<Gate>>,
) -> io::Result<JoinHandle<io::Result<Started>>> {
    thread::Builder::new().name("dpdk-restart".to_owned()).spawn(move || {
        Gate::wait_for_all(&gates);
        let _control = control();
        // If it is started.
        let _ = ffi::stop(id, by_interrupts);
        // By stopping, too.
        let left = gate::left();
        ffi::start(id, by_interrupts).map(|()| (id, left))
    })
}

/// Removes the port of the device called `name`.
pub(crate) fn remove(id: u16, name: &str) -> io::Result<()> {
    ffi::remove(id, Quirks::of(name).ends_by_interrupts())
}

/// Attaches `device`, which is to have so many queue pairs, for the host that has `address`.
pub(crate) fn attach(device: &Device, address: Option<IpAddr>, queues: u16) -> io::Result<Attached> {
    log::forget();
    let found = |id, name: &str| Attached { id, name: name.to_owned(), arguments: String::new() };
    match device {
        Device::Pci(address) => {
            if ffi::port_by_name(address).is_none() {
                let kernels = |error| Kernels::here().of_pci(address).unwrap_or_else(|| unprobed(&error, address));
                probe(address, address).map_err(kernels)?;
            }
            let id = ffi::port_by_name(address).ok_or_else(|| {
                let untaken = || {
                    let ports = known();
                    not_found(format!("no DPDK driver took {address}, which may be none for a network; {ports}"))
                };
                Kernels::here().of_pci(address).unwrap_or_else(untaken)
            })?;
            Ok(found(id, address))
        }
        Device::Mac(mac) => {
            let has = |port: &u16| ffi::facts(*port).is_ok_and(|facts| facts.mac == mac.0);
            let id = ffi::ports().find(has).ok_or_else(|| {
                let nobodys = || {
                    let mend = "ip link shows those of the kernel's interfaces; a port must be bound to vfio-pci first";
                    not_found(format!(
                        "no port has the address {mac}, nor has one of the kernel's on PCI: {mend}; {}",
                        known()
                    ))
                };
                Kernels::here().of_mac(*mac).unwrap_or_else(nobodys)
            })?;
            Ok(found(id, &mac.to_string()))
        }
        Device::Vdev { name, arguments } => {
            let quirks = Quirks::of(name);
            quirks.check(arguments)?;
            if let Some(interface) = quirks.interface(arguments) {
                interface::is_there(interface)?;
            }
            let arguments = quirks.with_queues(arguments, queues)?;
            let arguments = address.map_or_else(|| arguments.clone(), |ip| quirks.with_mac_of(&arguments, ip));
            attach_vdev(name, &arguments)
        }
    }
}

fn attach_vdev(name: &str, arguments: &str) -> io::Result<Attached> {
    if ffi::port_by_name(name).is_some() {
        let text = format!("{name} is open in this process already: give another number");
        return Err(io::Error::new(ErrorKind::AddrInUse, text));
    }
    let quirks = Quirks::of(name);
    let socket = quirks.socket(arguments).map(PathBuf::from);
    if let Some(path) = &socket {
        remove_stale(path)?;
    }
    let visitor = socket.filter(|_| quirks.waits).map(Visitor::new);
    let whole = if arguments.is_empty() { name.to_owned() } else { format!("{name},{arguments}") };
    let probed = probe(&whole, name);
    if visitor.is_some_and(Visitor::came) {
        let text =
            format!("nobody connected to the socket of {whole} within {} s: start its peer first", PATIENCE.as_secs());
        return Err(io::Error::new(ErrorKind::TimedOut, text));
    }
    probed.map_err(|error| unprobed(&error, &whole))?;
    let id =
        ffi::port_by_name(name).ok_or_else(|| not_found(format!("{whole} is no network device{}", what_was_said())))?;
    Ok(Attached { id, name: name.to_owned(), arguments: arguments.to_owned() })
}

/// Ends the wait of a driver that accepts a connection before it lets its device be: comes to its socket, and goes, when it took too
/// long.
struct Visitor {
    done: mpsc::Sender<()>,
    came: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Visitor {
    fn new(path: PathBuf) -> Self {
        let (done, waited) = mpsc::channel();
        let came = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("dpdk-visitor".to_owned()).spawn({
            let came = Arc::clone(&came);
            move || {
                if waited.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    came.store(true, Ordering::Relaxed);
                    // An error means that nobody waits.
                    drop(UnixStream::connect(path));
                }
            }
        });
        Self { done, came, thread: thread.ok() }
    }

    /// Ends it; true if it came.
    fn came(self) -> bool {
        drop(self.done);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
        self.came.load(Ordering::Relaxed)
    }
}

fn not_found(text: String) -> io::Error {
    io::Error::new(ErrorKind::NotFound, text)
}

/// Attaches a device.
fn probe(device: &str, name: &str) -> io::Result<()> {
    match ffi::probe(device) {
        // It is there, and its port is looked for next.
        Err(_) if ffi::port_by_name(name).is_some() => Ok(()),
        other => other,
    }
}

fn unprobed(error: &io::Error, device: &str) -> io::Error {
    let (kind, mend) =
        refusal::reason(error, &log::said()).unwrap_or((error.kind(), "its arguments or its surroundings do not fit"));
    io::Error::new(kind, format!("DPDK cannot attach {device} ({error}): {mend}{}", what_was_said()))
}

/// The log, if there is any, to be appended to an error.
pub(crate) fn what_was_said() -> String {
    let said = log::said();
    if said.is_empty() { String::new() } else { format!("\n  {}", said.join("\n  ")) }
}

/// The ports that there are, for who named another.
fn known() -> String {
    let names: Vec<_> = ffi::ports()
        .filter_map(|port| ffi::facts(port).ok())
        .map(|raw| Facts::new(&raw))
        .map(|facts| format!("{} ({})", facts.name, facts.mac))
        .collect();
    if names.is_empty() { "there are no ports".to_owned() } else { format!("there are: {}", names.join(", ")) }
}

/// Removes the socket that a process left behind which was killed; nothing else that may be there.
fn remove_stale(path: &Path) -> io::Result<()> {
    let taken =
        |what: &str| io::Error::new(ErrorKind::AddrInUse, format!("{} {what}: take another path", path.display()));
    // Who connects to what is no socket is refused, too.
    let is_socket = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.is_ok_and(|file| file.file_type().is_socket()),
    };
    if !is_socket {
        return Err(taken("is there, and is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| taken(&format!("was left by another process, and cannot be removed ({error})"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // Another kind of socket is alive, too.
        _ => Err(taken("is in use by another process")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// The path of a device's socket is said by people, who err.
    #[test]
    fn only_sockets_that_nobody_serves_are_removed() {
        let directory = std::env::temp_dir().join(format!("machnet-stale-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("s");
        remove_stale(&path).unwrap();
        let refused = |part: &str| {
            let error = remove_stale(&path).unwrap_err();
            assert!(error.kind() == ErrorKind::AddrInUse && error.to_string().contains(part), "{error}");
        };

        std::fs::write(&path, "precious").unwrap();
        refused("is no socket: take another path");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        refused("is no socket");
        std::fs::remove_file(&path).unwrap();

        let listener = UnixListener::bind(&path).unwrap();
        refused("is in use by another process");
        drop(listener);
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        std::fs::remove_dir(&directory).unwrap();
    }
}
