//! Fuzz bodies of a flow's sub-machines (`crate::fuzz`): each drives one by operations read from bytes, next to a model
//! too naive to be wrong.

mod acks;
mod credit;
mod loss;
mod receive;
mod units;

use machnet_channel::{Frame, FramePool, FrameRef, Message, Region};

use super::{Need, Store, UnitSet};

pub(crate) use acks::acks;
pub(crate) use credit::credit;
pub(crate) use loss::loss;
pub(crate) use receive::receive;
pub(crate) use units::units;

/// Frames of one size, which may be refused.
struct Heap {
    pool: FramePool,
    /// Frames of packets, and of lists of those; and in how many a message may stay.
    packets: FramePool,
    lists: FramePool,
    chain: u32,
    /// Only the oldest message of a flow gets memory.
    only_oldest: bool,
    refuse: bool,
}

const FRAMES: u32 = 32;
const FRAME_SIZE: u32 = 4096;
/// Of a message that stays in its packets.
const MOST_PARTS: u32 = 9;

impl Heap {
    fn new() -> Self {
        let pool = |count| Region::anonymous(FRAME_SIZE, count).expect("memory").1;
        // More packets than all lists together keep.
        let (packets, lists) = (pool(FRAMES * (MOST_PARTS + 1)), pool(FRAMES));
        Self { pool: pool(FRAMES), packets, lists, chain: 0, only_oldest: false, refuse: false }
    }

    fn gives(&self, need: Need) -> bool {
        !self.refuse && (need != Need::Later || !self.only_oldest)
    }

    fn in_use(&self) -> u32 {
        self.pool.capacity() - self.pool.free()
    }

    /// A packet, and `payload` in it.
    fn packet(&mut self, payload: &[u8]) -> FrameRef {
        let mut frame = self.packets.take().expect("a frame");
        frame.bytes_mut().expect("a frame of its own")[..payload.len()].copy_from_slice(payload);
        frame.share(0..payload.len() as u32)
    }

    /// Frames of packets, and of lists.
    fn kept(&self) -> [u32; 2] {
        [&self.packets, &self.lists].map(|pool| pool.capacity() - pool.free())
    }
}

impl Store for Heap {
    fn keep(&mut self, _: &FrameRef, payload: &[u8], need: Need) -> Option<Message> {
        self.gives(need).then(|| payload.to_vec().into())
    }

    fn chain(&mut self, total: u32, len: u32) -> Option<Frame> {
        if total.div_ceil(len) <= self.chain { self.lists.take() } else { None }
    }

    fn keeps(&self, _: u32, parts: u32, _: bool) -> bool {
        parts < self.chain
    }

    fn note_chain(&mut self, _: bool) {}

    fn buffer(&mut self, len: u32, need: Need) -> Option<Frame> {
        assert!(len <= FRAME_SIZE, "no message is longer than the limit");
        if self.gives(need) { self.pool.take() } else { None }
    }

    fn units(&mut self, len: u32) -> Box<UnitSet> {
        let mut units = Box::<UnitSet>::default();
        units.reset(len);
        units
    }

    fn recycle(&mut self, _: Box<UnitSet>) {}
}

/// A packet for those who want one to lend from.
fn packet() -> FrameRef {
    let (_, mut pool) = Region::anonymous(64, 1).expect("memory");
    pool.take().expect("a frame").share(0..0)
}
