//! What a transmit queue has not given back: the device takes from a queue in order, and returns in order most of the time.

use std::collections::VecDeque;

use machnet_channel::FrameRef;

use crate::ffi::Mbuf;
use crate::pool::Pool;

/// Refusals in a row, one in each round of an engine that waits, beyond those of a peer that merely has much to do or lost its core for a
/// moment.
const PATIENCE: u32 = 4096;

/// Frames, oldest first, and the same as mbufs. Second pieces are frames of their own, behind the first.
#[derive(Default)]
pub(crate) struct Lent {
    frames: VecDeque<FrameRef>,
    mbufs: VecDeque<Mbuf>,
    /// How often in a row the queue took nothing.
    refusals: u32,
}

impl Lent {
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn push(&mut self, frame: FrameRef, mbuf: Mbuf) {
        self.frames.push_back(frame);
        self.mbufs.push_back(mbuf);
    }

    pub(crate) fn extend(&mut self, frames: impl Iterator<Item = FrameRef>, mbufs: &[Mbuf]) {
        self.mbufs.extend(mbufs);
        self.frames.extend(frames);
    }

    /// The queue took so many of what it was offered. True if it took nothing for so long that nobody seems to read it over there.
    pub(crate) const fn offered(&mut self, taken: usize) -> bool {
        self.refusals = if taken > 0 { 0 } else { self.refusals.saturating_add(1) };
        self.refusals > PATIENCE
    }

    /// Takes back what the device is done with, in order.
    pub(crate) fn reap(&mut self, pool: &mut Pool) {
        loop {
            let (mbufs, _) = self.mbufs.as_slices();
            // SAFETY: so many mbufs that were prepared and given to the device.
            let done = unsafe { dpdk_sys::dpdk_done(mbufs.as_ptr(), mbufs.len()) };
            let all = done == mbufs.len();
            if pool.tails_lent() > 0 {
                for at in 0..done {
                    take_back(pool, self.mbufs[at]);
                }
            }
            self.mbufs.drain(..done);
            for frame in self.frames.drain(..done) {
                pool.frames().recycle(frame);
            }
            if !all || self.mbufs.is_empty() {
                break;
            }
        }
    }

    /// And out of order.
    #[cold]
    pub(crate) fn search(&mut self, pool: &mut Pool) {
        for _ in 0..self.frames.len() {
            let (Some(frame), Some(mbuf)) = (self.frames.pop_front(), self.mbufs.pop_front()) else { break };
            // SAFETY: an mbuf that was prepared and given to the device.
            if unsafe { dpdk_sys::dpdk_done(&raw const mbuf, 1) } == 1 {
                take_back(pool, mbuf);
                pool.frames().recycle(frame);
            } else {
                self.push(frame, mbuf);
            }
        }
    }
}

/// Separates an mbuf that the device is done with, and that is ours again, from its frame's other piece.
pub(crate) fn take_back(pool: &mut Pool, mbuf: Mbuf) {
    if let Some(gather) = pool.gather() {
        // SAFETY: the device is done with it, say the callers.
        unsafe { gather.detach(mbuf) };
    }
}
