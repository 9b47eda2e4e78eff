//! Frames of two pieces: headers in an mbuf of the port's pool, and behind it a part of a message, where its application wrote it.
//!
//! ```text
//!   frame of the pool   ├─ headroom ─┼─ headers ─┤
//!                                     mbuf ─ next ─▶ mbuf without a buffer
//!                                                      │
//!   long frame          ├─ message … ───────────┼─ part ─┼───────┤
//! ```
//!
//! Both mbufs are ours and stay so: each has a second owner while the device has it ([`dpdk_sys::dpdk_attach`]), and is lent to it with the
//! reference that keeps its bytes. So the device gives both back as it gives back any frame, when and in which order it likes, or never;
//! nothing is called back, and nothing is counted but in the frames.
//!
//! The memory of long frames is taken when the first one is wanted: who sends no long messages does without.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::rte_mempool;
use machnet_channel::{Frame, FramePool, FrameRef, Region};
use machnet_core::LONG_FRAME;

use crate::ffi::{self, Mbuf};

/// What the device reads as the end of a frame, where it sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) length: u16,
}

/// See the module.
pub(crate) struct Gather {
    pool: NonNull<rte_mempool>,
    /// Mbufs that nobody has.
    spare: Vec<Mbuf>,
    count: usize,
    name: String,
    node: i32,
    /// Long frames that there may be.
    limit: u32,
    long: Long,
}

enum Long {
    /// Nobody wanted one.
    Unwanted,
    /// There is no memory for them.
    Failed,
    /// The memory, and where devices see each.
    Made { frames: FramePool, addresses: Box<[u64]> },
}

/// What is left of it, until nobody reads there.
pub(crate) struct Remains {
    pool: NonNull<rte_mempool>,
    memory: Option<String>,
}

impl Remains {
    /// # Safety
    /// Its port is closed, and its frames are gone.
    pub(crate) unsafe fn free(&self) {
        // SAFETY: says the caller.
        unsafe { ffi::free_pool(self.pool) };
        if let Some(name) = &self.memory {
            // SAFETY: as above.
            unsafe { ffi::release(name) };
        }
    }
}

impl Gather {
    /// `tails` second pieces at a time, and `limit` long frames.
    pub(crate) fn new(name: &str, tails: u32, limit: u32, node: i32) -> io::Result<Self> {
        let (pool, spare) = ffi::tails(&format!("{name}-t"), tails, node)?;
        let count = spare.len();
        Ok(Self { pool, spare, count, name: format!("{name}-l"), node, limit, long: Long::Unwanted })
    }

    /// A long frame; `lease` keeps its memory, too.
    pub(crate) fn frame(&mut self, lease: Arc<()>) -> Option<Frame> {
        if matches!(self.long, Long::Unwanted) {
            self.long = self.make(lease).unwrap_or_else(|error| {
                tracing::warn!(frames = self.limit, %error, "no memory for long frames: long messages are copied");
                Long::Failed
            });
        }
        match &mut self.long {
            Long::Made { frames, .. } => frames.take(),
            Long::Unwanted | Long::Failed => None,
        }
    }

    fn make(&self, lease: Arc<()>) -> io::Result<Long> {
        let (size, count) = (LONG_FRAME as usize, self.limit as usize);
        let start = ffi::reserve(&self.name, size * count, size, self.node)?;
        // SAFETY: inside what was reserved.
        let starts: Vec<_> = (0..count).map(|n| unsafe { start.add(n * size) }).collect();
        let addresses: Option<Box<[u64]>> = starts.iter().map(|&start| ffi::device_address(start, size)).collect();
        let Some(addresses) = addresses else {
            // SAFETY: nobody has it yet.
            unsafe { ffi::release(&self.name) };
            return Err(io::Error::other("its pages do not follow each other for the device"));
        };
        // SAFETY: so many bytes each, next to each other, zeroed, which stay until the lease is over and the port is gone: see `Retired`.
        let (_, mut frames) = unsafe { Region::lent(&starts, LONG_FRAME, Box::new(lease)) }?;
        for index in 0..self.limit {
            // SAFETY: no device has it.
            drop(unsafe { frames.adopt(index) });
        }
        Ok(Long::Made { frames, addresses })
    }

    /// The piece that `tail` is, if it is of a long frame.
    pub(crate) fn piece(&self, tail: &FrameRef) -> Option<Piece> {
        let Long::Made { frames, addresses } = &self.long else { return None };
        let (index, range) = frames.locate(tail)?;
        let length = u16::try_from(range.end - range.start).ok()?;
        Some(Piece { address: addresses[index as usize] + u64::from(range.start), length })
    }

    /// Puts `tail`, which is `piece`, behind the frame of `mbuf`; returns the mbuf that it lies in. The caller has asked whether one is left.
    ///
    /// # Safety
    /// `mbuf` is prepared, and `tail` is kept as long as the device has either.
    pub(crate) unsafe fn attach(&mut self, mbuf: Mbuf, tail: &FrameRef, piece: Piece) -> Option<Mbuf> {
        let behind = self.spare.pop()?;
        let start = tail.as_ref().as_ptr().cast_mut().cast();
        // SAFETY: an mbuf that is ours alone, and bytes that live long enough, says the caller; they are read only.
        unsafe { dpdk_sys::dpdk_attach(mbuf, behind, start, piece.address, piece.length) };
        Some(behind)
    }

    /// Takes an mbuf back that the device is done with: true if it is one of those that [`Gather::attach`] returned. Else it is one of
    /// the port's, and there is nothing behind it any more.
    ///
    /// # Safety
    /// The device is done with it.
    pub(crate) unsafe fn detach(&mut self, mbuf: Mbuf) -> bool {
        // SAFETY: an mbuf of this pool or the port's, which is ours alone, says the caller.
        let is_tail = unsafe { dpdk_sys::dpdk_detach(mbuf, self.pool.as_ptr()) } == 1;
        if is_tail {
            self.spare.push(mbuf);
        }
        is_tail
    }

    /// Second pieces that frames may yet have.
    pub(crate) fn left(&self) -> usize {
        self.spare.len()
    }

    /// Those that the device has.
    pub(crate) fn lent(&self) -> usize {
        self.count - self.spare.len()
    }

    /// What is to be freed once nobody reads there.
    pub(crate) fn remains(self) -> Remains {
        let memory = matches!(self.long, Long::Made { .. }).then_some(self.name);
        Remains { pool: self.pool, memory }
    }
}
