//! Where received messages stay: the packet's own frame, or a frame of a region whose size fits.
//!
//! Regions with frames of 256 B and more, each four times the one before, up to the largest message. Their memory is
//! address space until used, is recycled when the application drops a message, and is bounded: nothing here touches the heap per message
//! (`docs/adr/0004-reassembly-in-frames.md`). When those of a size are used up, what is sure to be read gets more of it
//! from [`Reserve`] (`docs/adr/0012-stopped-readers-stop-nobody.md`).

use machnet_channel::{Chain, Frame, FramePool, FrameRef, Message, Region};

use super::reserve::Reserve;
use crate::flow::{Need, Store, UnitSet};

/// Whole messages up to this length are copied, so that a slow reader pins this much and not a packet's frame.
const COPY_BELOW: usize = 256;
const SMALLEST: u32 = 256;

/// Memory of unit sets that is kept for reuse: 64-bit words in all, and sets.
const SPARE_WORDS: usize = 1 << 16;
const SPARE_UNITS: usize = 4096;

#[derive(Debug)]
pub(crate) struct Buffers {
    /// By frame size, ascending.
    classes: Vec<FramePool>,
    reserve: Reserve,
    /// Received payloads are to be copied: the driver has few frames left.
    copy_all: bool,
    /// How many packets' frames a long message may stay in, and how many did and did not of those that might have.
    chain_frames: u32,
    chains: [u64; 2],
    /// Somebody waits for a frame: nobody takes a larger one than needed.
    contended: bool,
    /// What the peer at hand may yet reassemble, bytes: messages that are next in their flows, and others.
    peer_room: [u64; 2],
    /// Unit sets to use again, and the words they have.
    #[expect(clippy::vec_box, reason = "the boxes are what is recycled")]
    spare_units: Vec<Box<UnitSet>>,
    spare_words: usize,
}

impl Buffers {
    /// Buffers of about `bytes` in all: half in equal shares for each size up to `max_message`, at least two frames; half in reserve.
    pub(crate) fn new(bytes: u64, max_message: u32, chain_frames: u32) -> std::io::Result<Self> {
        let sizes: Vec<u32> =
            std::iter::successors(Some(SMALLEST), |&size| (size < max_message).then_some(4 * size)).collect();
        let share = bytes / 2 / sizes.len() as u64;
        let pool = |size: u32| {
            let count = u32::try_from((share / u64::from(size)).max(2)).unwrap_or(u32::MAX - 1);
            Ok(Region::anonymous(size, count)?.1)
        };
        let classes = sizes.into_iter().map(pool).collect::<std::io::Result<_>>()?;
        Ok(Self {
            classes,
            reserve: Reserve::new(bytes / 2),
            copy_all: false,
            chain_frames,
            chains: [0; 2],
            contended: false,
            peer_room: [u64::MAX; 2],
            spare_units: Vec::new(),
            spare_words: 0,
        })
    }

    /// The size of the smallest frame that holds `len` bytes.
    pub(crate) const fn frame_size(len: u32) -> u64 {
        let mut size = SMALLEST as u64;
        while size < len as u64 {
            size *= 4;
        }
        size
    }

    /// Says whether somebody waits for a frame.
    pub(crate) const fn set_contended(&mut self, contended: bool) {
        self.contended = contended;
    }

    /// Says whether the driver has few frames left.
    pub(crate) const fn set_copy_all(&mut self, copy_all: bool) {
        self.copy_all = copy_all;
    }

    /// Says what the peer may reassemble whose packet comes next (see [`super::peers::Peers::room`]).
    pub(crate) const fn set_peer_room(&mut self, room: [u64; 2]) {
        self.peer_room = room;
    }

    /// The smallest free frame that fits; a larger one rather than none, unless somebody waits for those; at last one of
    /// the reserve. Half of each class is kept for messages that are next in their flow, a quarter for those whose application
    /// reads, the reserve likewise. None is larger than `room`.
    fn take(&mut self, len: u32, room: u64, need: Need) -> Option<Frame> {
        let choices = if self.contended { 1 } else { self.classes.len() };
        let fitting = self.classes.iter_mut().filter(|pool| pool.frame_size() >= len).take(choices);
        let allowed = fitting.filter(|pool| u64::from(pool.frame_size()) <= room);
        let kept = |pool: &FramePool| match need {
            Need::Later => pool.capacity() / 2,
            Need::Unread => pool.capacity() / 4,
            Need::Next => 0,
        };
        let frame = allowed.filter(|pool| pool.free() > kept(pool)).find_map(|pool| {
            pool.gather();
            pool.take()
        });
        if frame.is_some() || need != Need::Next || Self::frame_size(len) > room {
            return frame;
        }
        self.reserve.take(len)
    }

    /// Long messages that stayed in their packets, and those that did not, of applications that take them in pieces.
    pub(crate) const fn chains(&self) -> [u64; 2] {
        self.chains
    }

    /// Frames in use, of all classes.
    pub(crate) fn in_use(&self) -> u64 {
        self.classes.iter().map(|pool| u64::from(pool.capacity() - pool.free())).sum::<u64>() + self.reserve.in_use()
    }
}

impl Store for Buffers {
    fn keep(&mut self, packet: &FrameRef, payload: &[u8], need: Need) -> Option<Message> {
        if payload.is_empty() {
            return Some(Message::new());
        }
        if payload.len() > COPY_BELOW && !self.copy_all {
            let start = payload.as_ptr().addr().checked_sub(packet.as_ref().as_ptr().addr())? as u32;
            return Some(packet.slice(start..start + payload.len() as u32).into());
        }
        let mut frame = self.take(payload.len() as u32, u64::MAX, need)?;
        frame.bytes_mut()?[..payload.len()].copy_from_slice(payload);
        Some(frame.share(0..payload.len() as u32).into())
    }

    fn chain(&mut self, total: u32, len: u32) -> Option<Frame> {
        let parts = total.div_ceil(len);
        if parts > self.chain_frames || self.copy_all {
            return None;
        }
        // Half of each size is left to those that are copied: this one can be, too.
        self.take(Chain::list_len(parts), u64::MAX, Need::Later)
    }

    fn keeps(&self, len: u32, parts: u32, ends: bool) -> bool {
        (ends || len as usize > COPY_BELOW) && parts < self.chain_frames && !self.copy_all
    }

    fn note_chain(&mut self, stayed: bool) {
        self.chains[usize::from(!stayed)] += 1;
    }

    fn buffer(&mut self, len: u32, need: Need) -> Option<Frame> {
        let kind = usize::from(need == Need::Later);
        let room = self.peer_room[kind];
        let frame = self.take(len, room, need)?;
        // One is always allowed ([`u64::MAX`]), but only one.
        let left = if room == u64::MAX { 0 } else { room.saturating_sub(frame.bytes().len() as u64) };
        self.peer_room[kind] = left;
        Some(frame)
    }

    fn units(&mut self, len: u32) -> Box<UnitSet> {
        let mut units = self.spare_units.pop().unwrap_or_default();
        self.spare_words -= units.capacity();
        units.reset(len);
        units
    }

    fn recycle(&mut self, units: Box<UnitSet>) {
        let words = self.spare_words + units.capacity();
        if words <= SPARE_WORDS && self.spare_units.len() < SPARE_UNITS {
            self.spare_words = words;
            self.spare_units.push(units);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(bytes: u64) -> Buffers {
        Buffers::new(bytes, 1 << 20, 4).unwrap()
    }

    #[test]
    fn takes_the_next_size_and_then_none() {
        let mut buffers = buffers(0);
        let taken: Vec<_> = std::iter::from_fn(|| buffers.take(5000, u64::MAX, Need::Next)).collect();
        let sizes: Vec<_> = taken.iter().map(|frame| frame.bytes().len()).collect();
        assert_eq!(sizes, [16 << 10, 16 << 10, 64 << 10, 64 << 10, 256 << 10, 256 << 10, 1 << 20, 1 << 20]);
        assert!(
            buffers.take(5000, u64::MAX, Need::Next).is_none() && buffers.take(4096, u64::MAX, Need::Next).is_some()
        );
        assert_eq!(buffers.in_use(), 8);
        drop(taken);
        let taken: Vec<_> = std::iter::from_fn(|| buffers.take(5000, u64::MAX, Need::Later)).collect();
        assert_eq!(taken.len(), 4, "half of each size is kept for the oldest messages");
        drop(taken);
        buffers.set_contended(true);
        let taken: Vec<_> = std::iter::from_fn(|| buffers.take(5000, u64::MAX, Need::Next)).collect();
        assert_eq!(taken.len(), 2, "nobody takes more than needed while somebody waits");
        drop(taken);
        assert_eq!(buffers.in_use(), 0);
    }

    #[test]
    fn who_does_not_read_leaves_something_to_others() {
        // Four frames of 16 KiB, two of each larger size, and as much in reserve as seven of 64 KiB.
        let mut buffers = buffers(14 << 16);
        let unread: Vec<_> = std::iter::from_fn(|| buffers.take(5000, u64::MAX, Need::Unread)).collect();
        assert_eq!(unread.len(), 3 + 2 + 2 + 2);
        let read: Vec<_> = std::iter::from_fn(|| buffers.take(5000, u64::MAX, Need::Next)).collect();
        assert_eq!(read.len(), 1 + 16, "the last one, and a piece of the reserve");
    }

    #[test]
    fn a_peer_gets_what_its_room_allows() {
        let mut buffers = buffers(0);
        buffers.set_peer_room([u64::MAX, 20_000]);
        let large = buffers.buffer(1 << 20, Need::Next);
        assert!(large.is_some() && buffers.buffer(1, Need::Next).is_none(), "one, and no more");
        let other = buffers.buffer(5000, Need::Later);
        assert_eq!(other.unwrap().bytes().len(), 16 << 10);
        assert!(buffers.buffer(4000, Need::Later).is_none() && buffers.buffer(1000, Need::Later).is_some());
        buffers.set_peer_room([5000, 0]);
        assert!(buffers.buffer(5000, Need::Next).is_none(), "its frame would be larger");
        assert!(buffers.buffer(4096, Need::Next).is_some() && buffers.buffer(904, Need::Next).is_none());
    }

    #[test]
    fn lends_large_payloads_and_copies_small_ones() {
        let (_, mut pool) = Region::anonymous(2048, 1).unwrap();
        let mut buffers = buffers(0);
        let packet = pool.take().unwrap().share(0..1400);
        let lent = buffers.keep(&packet, &packet.as_ref()[100..1000], Need::Next).unwrap();
        assert_eq!(lent.as_slice().as_ptr(), packet.as_ref()[100..].as_ptr());
        let copied = buffers.keep(&packet, &packet.as_ref()[100..356], Need::Next).unwrap();
        assert_ne!(copied.as_slice().as_ptr(), packet.as_ref()[100..].as_ptr());
        buffers.set_copy_all(true);
        let copied_too = buffers.keep(&packet, &packet.as_ref()[100..1000], Need::Next).unwrap();
        assert_ne!(copied_too.as_slice().as_ptr(), lent.as_slice().as_ptr());
        assert_eq!(buffers.in_use(), 2);
    }

    #[test]
    fn parts_stay_in_their_packets_while_there_are_frames_enough() {
        let mut buffers = buffers(0);
        let list = buffers.chain(4000, 1000).unwrap();
        assert!(list.bytes().len() as u32 >= Chain::list_len(4) && buffers.chain(4001, 1000).is_none());
        assert!(buffers.keeps(257, 3, false) && !buffers.keeps(257, 4, true), "four packets and no fifth");
        assert!(!buffers.keeps(256, 0, false), "a packet for little");
        assert!(buffers.keeps(1, 0, true), "the end of a message is what is left");
        buffers.set_copy_all(true);
        assert!(buffers.chain(4000, 1000).is_none() && !buffers.keeps(257, 3, false));
        drop(list);
        assert_eq!((buffers.in_use(), buffers.chains()), (0, [0; 2]));
    }
}
