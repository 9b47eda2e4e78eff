//! mbufs as frames of a region.
//!
//! ```text
//!                    adopt                                          drop, on any thread
//!   mempool ─▶ NIC ─────────▶ frame of the engine or application ────────────────────────▶ free list
//!      ▲                                                                                  │    │ take
//!      └──────────────── surrender: those that are more than a few ───────────────────────┴────┘
//! ```
//!
//! A frame is the buffer of one mbuf, all of it, and has its number. The pool has mbufs for the rings, over and above
//! those that the engine and the application may have: whatever they hold, the NIC can receive.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dpdk_sys::rte_mempool;
use machnet_channel::{Frame, FramePool, FrameRef, Region};

use crate::eal;
use crate::ffi::{self, Mbuf};
use crate::gather::{Gather, Piece, Remains};

/// Room in front of a received frame, and the least in front of a transmitted one: some drivers put a header there.
pub(crate) const HEADROOM: u32 = 128;
/// mbufs that a thread's cache of a pool may hold beside the pool; DPDK allows half as many more.
const CACHE: u32 = 128;
/// Frames that came home and are kept, to be sent next.
const KEPT: u32 = 64;
/// mbufs allocated or freed at once.
const BATCH: usize = 32;

/// A mempool that nobody uses, but in whose memory messages may lie; and what frames of two pieces were made of.
struct Retired {
    pool: NonNull<rte_mempool>,
    remains: Option<Remains>,
    /// Alive as long as the region is.
    region: Weak<()>,
}

// SAFETY: DPDK's pools may be freed by any thread.
unsafe impl Send for Retired {}

/// Pools whose ports are gone. Freed when the next one is made: who drops a message calls nothing of DPDK.
static RETIRED: Mutex<Vec<Retired>> = Mutex::new(Vec::new());

fn sweep(retired: &mut Vec<Retired>) {
    retired.retain(|old| {
        if old.region.strong_count() > 0 {
            return true;
        }
        // SAFETY: its port is closed, and the last frame of its regions is gone.
        unsafe { ffi::free_pool(old.pool) };
        if let Some(remains) = &old.remains {
            // SAFETY: as above.
            unsafe { remains.free() };
        }
        false
    });
}

/// A port's frames.
pub(crate) struct Pool {
    pool: NonNull<rte_mempool>,
    frames: FramePool,
    region: Weak<()>,
    /// By frame.
    mbufs: Box<[Mbuf]>,
    /// If the device sends frames of two pieces.
    gather: Option<Gather>,
    /// Allocated and not yet adopted.
    spare: Vec<Mbuf>,
    /// Frames that are not the device's: in use or on the free list.
    abroad: u32,
    /// How many may be in use.
    budget: u32,
}

// SAFETY: mbufs and pools may be used by any thread, by one at a time, and a `Pool` is not shared.
unsafe impl Send for Pool {}

impl Pool {
    /// `budget` frames to use, of `room` bytes behind the headroom, and mbufs for the rings.
    pub(crate) fn new(name: &str, budget: u32, rings: u32, room: u16, node: i32) -> io::Result<Self> {
        let mut retired = RETIRED.lock().unwrap_or_else(PoisonError::into_inner);
        sweep(&mut retired);
        drop(retired);
        // Twice the cache: the thread that polls may change.
        let count = budget + rings + KEPT + BATCH as u32 + 2 * (CACHE + CACHE / 2);
        let size = HEADROOM as u16 + room;
        let pool = ffi::new_pool(name, count, CACHE, size, node).map_err(|error| {
            let mebibytes = (u64::from(count) * u64::from(size)) >> 20;
            let needed = mebibytes + mebibytes / 4 + 64;
            let mend = if ffi::has_huge_pages() {
                eal::more_huge_pages(needed)
            } else {
                format!("give DPDK at least {needed} MiB (memory=…)")
            };
            let text = format!("no memory for {count} frames of {size} bytes ({error}): {mend}, or take fewer frames");
            io::Error::new(io::ErrorKind::OutOfMemory, text)
        })?;
        // SAFETY: the pool was just made.
        let (mbufs, starts): (Vec<_>, Vec<_>) = unsafe { ffi::mbufs(pool, count) }.into_iter().unzip();
        let token = Arc::new(());
        let region = Arc::downgrade(&token);
        // SAFETY: buffers of that size each, of distinct mbufs, in memory that DPDK maps zeroed and that stays until the
        // token is gone: see `Retired`.
        let (_, frames) = unsafe { Region::lent(&starts, size.into(), Box::new(token)) }?;
        Ok(Self {
            pool,
            frames,
            region,
            mbufs: mbufs.into(),
            gather: None,
            spare: Vec::with_capacity(BATCH),
            abroad: 0,
            budget,
        })
    }

    /// Frames may have a second piece from now on, of which the device may hold `tails` at a time.
    pub(crate) fn set_gather(&mut self, name: &str, tails: u32, long_frames: u32, node: i32) -> io::Result<()> {
        self.gather = Some(Gather::new(name, tails, long_frames, node)?);
        Ok(())
    }

    /// A long frame to build in. The first one takes the memory of all.
    pub(crate) fn long_frame(&mut self) -> Option<Frame> {
        let lease = self.region.upgrade()?;
        self.gather.as_mut()?.frame(lease)
    }

    /// The piece that `tail` is, if the device can read it there.
    pub(crate) fn piece(&self, tail: &FrameRef) -> Option<Piece> {
        let gather = self.gather.as_ref()?;
        if let Some((mbuf, offset, length)) = self.mbuf(tail) {
            // SAFETY: an mbuf of this pool.
            let start = unsafe { dpdk_sys::dpdk_buffer_address(mbuf) };
            return Some(Piece { address: start + u64::from(offset), length });
        }
        gather.piece(tail)
    }

    pub(crate) const fn gather(&mut self) -> Option<&mut Gather> {
        self.gather.as_mut()
    }

    /// Mbufs for second pieces that are free.
    pub(crate) fn tails_left(&self) -> usize {
        self.gather.as_ref().map_or(0, Gather::left)
    }

    /// And those that the device has.
    pub(crate) fn tails_lent(&self) -> usize {
        self.gather.as_ref().map_or(0, Gather::lent)
    }

    pub(crate) const fn mempool(&self) -> NonNull<rte_mempool> {
        self.pool
    }

    /// Keeps the mempool while the device may use it.
    pub(crate) fn lease(&self) -> Option<Arc<()>> {
        self.region.upgrade()
    }

    pub(crate) fn frames(&mut self) -> &mut FramePool {
        &mut self.frames
    }

    /// Frames that somebody holds, the device aside.
    pub(crate) fn in_use(&self, held_by_device: usize) -> u32 {
        (self.abroad - self.frames.free()).saturating_sub(held_by_device as u32)
    }

    /// How many more may be used.
    pub(crate) fn left(&self, held_by_device: usize) -> u32 {
        self.budget.saturating_sub(self.in_use(held_by_device))
    }

    /// Bytes of a frame.
    pub(crate) fn frame_size(&self) -> u32 {
        self.frames.frame_size()
    }

    pub(crate) const fn budget(&self) -> u32 {
        self.budget
    }

    /// A frame to build in. The caller has asked whether one is left.
    pub(crate) fn take(&mut self) -> Option<Frame> {
        if let Some(frame) = self.frames.take() {
            return Some(frame);
        }
        if self.spare.is_empty() {
            let mut mbufs = [ptr::null_mut(); BATCH];
            // SAFETY: the pool is there, and room for so many pointers.
            if unsafe { dpdk_sys::dpdk_alloc(self.pool.as_ptr(), mbufs.as_mut_ptr(), BATCH as u32) } < 0 {
                return None;
            }
            self.spare.extend(mbufs);
        }
        let mbuf = self.spare.pop()?;
        // SAFETY: an mbuf of this pool.
        let index = unsafe { dpdk_sys::dpdk_index(mbuf) };
        // SAFETY: it was just allocated, so it is ours alone.
        Some(unsafe { self.adopt(index) })
    }

    /// Takes over the frame of an mbuf.
    ///
    /// # Safety
    /// The mbuf was given by the device or the mempool, and is nobody else's.
    pub(crate) unsafe fn adopt(&mut self, index: u32) -> Frame {
        self.abroad += 1;
        // SAFETY: says the caller.
        unsafe { self.frames.adopt(index) }
    }

    /// The mbuf of a frame, and the part of it that is meant; `None` if the frame is of another pool.
    pub(crate) fn mbuf(&self, frame: &FrameRef) -> Option<(Mbuf, u16, u16)> {
        let (index, range) = self.frames.locate(frame)?;
        // A frame has fewer than 2¹⁶ bytes.
        Some((self.mbufs[index as usize], range.start as u16, (range.end - range.start) as u16))
    }

    /// Gives the mempool back what came home and is not needed at once.
    pub(crate) fn restock(&mut self) {
        self.frames.gather();
        while self.frames.free() > KEPT {
            let mut mbufs = [ptr::null_mut(); BATCH];
            let mut count = 0;
            for place in &mut mbufs {
                // A frame counts as free a little before it can be taken.
                let Some(index) = self.frames.surrender() else { break };
                *place = self.mbufs[index as usize];
                count += 1;
            }
            if count == 0 {
                break;
            }
            self.abroad -= count;
            // SAFETY: mbufs that the device is done with, each with one owner: us.
            unsafe { dpdk_sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr(), count) };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut retired = RETIRED.lock().unwrap_or_else(PoisonError::into_inner);
        // Swept later: this pool's own handle keeps its region until it is gone.
        let remains = self.gather.take().map(Gather::remains);
        retired.push(Retired { pool: self.pool, remains, region: Weak::clone(&self.region) });
    }
}
