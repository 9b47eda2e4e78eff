//! Writing in front of a payload that others read: how headers get before a message that its application built in a frame.
//!
//! ```text
//!   frame   ├──────────────── front ────────────────┼──────── payload ────────┤
//!           │  bytes that nobody else refers to     │  the flow's reference, until it is acknowledged
//!           │             ◀── headers, layer by layer   and the packet's, until the device is done
//! ```
//!
//! A reference may have the *front* of its frame: nobody else refers to a byte before that place. Who has it may grow the reference
//! to the left and write what it grew by ([`FrameRef::grow`]); nothing that others can read is ever written. The right is
//! one per frame: [`FrameRef::depart`] moves it from the message to its first packet, and from then on the message's own
//! reference is as read-only as any. So the same frame is not given to a device twice: a retransmission is a copy in a fresh frame.
//!
//! Whoever slices or clones a reference shows its bytes to others: from there on it is theirs, too.
//! A reference that is the last one to its frame has the front whatever was before.

use std::ops::Range;
// Not `crate::sync`'s: it is written through `&self` by who slices, and otherwise read by who has the reference alone, which orders
// the two already. There is nothing for loom to look at.
use std::sync::atomic::AtomicU32 as Cell;

use crate::sync::atomic::Ordering;
use crate::{Frame, FrameRef, Message};

/// Bytes before this place are referred to by nobody else; 0 if others may.
pub(crate) struct Front(Cell);

impl Front {
    pub(crate) const fn none() -> Self {
        Self(Cell::new(0))
    }

    /// Another reference begins at `start`.
    #[inline]
    pub(crate) fn share(&self, start: u32) {
        if self.0.load(std::sync::atomic::Ordering::Relaxed) > start {
            self.0.store(start, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl Frame {
    /// [`Frame::share`], and the reference has the front. `None`, and the frame goes home, if it is lent to somebody.
    ///
    /// # Panics
    /// If `range` is not inside the frame.
    #[must_use]
    pub fn share_with_front(self, range: Range<u32>) -> Option<FrameRef> {
        let mut whole = self.share(range);
        whole.may_grow().then_some(whole)
    }
}

impl FrameRef {
    /// The frame that a message was built in and that it lies in, headers to be written in front of it; `None` for a message that
    /// is elsewhere, or has been sent.
    pub fn built(message: &mut Message) -> Option<&mut Self> {
        let frame = message.lent_mut()?;
        (frame.start > 0 && *frame.front.0.get_mut() >= frame.start).then_some(frame)
    }

    /// True if a message lies in a frame.
    #[must_use]
    pub const fn has(message: &Message) -> bool {
        message.lent().is_some()
    }

    /// `len` bytes of a message from `offset` on, where they lie, if it was built in a frame: for a packet whose headers lie elsewhere. Any
    /// number of times: nobody writes any more. `None` if the message lies elsewhere, or is not so long.
    #[must_use]
    pub fn part_of(message: &Message, offset: u32, len: u32) -> Option<Self> {
        let frame = message.lent()?;
        let end = offset.checked_add(len)?;
        (frame.region.is_building(frame.index) && end <= frame.end - frame.start).then(|| frame.slice(offset..end))
    }

    /// Writes `more` behind this reference, and takes it in. The reference is as it was if others refer to its frame, or the frame has no
    /// room.
    ///
    /// # Errors
    /// The reference.
    pub fn append(self, more: &[u8]) -> Result<Self, Self> {
        let (mut frame, Range { start, end }) = self.into_frame()?;
        let room = frame.bytes_mut().and_then(|bytes| bytes.get_mut(end as usize..)?.get_mut(..more.len()));
        let written = room.map(|room| room.copy_from_slice(more)).is_some();
        let whole = frame.share(start..if written { end + more.len() as u32 } else { end });
        if written { Ok(whole) } else { Err(whole) }
    }

    /// True if [`FrameRef::grow`] may write in front of this reference.
    pub fn may_grow(&mut self) -> bool {
        let front = self.front.0.get_mut();
        if *front >= self.start {
            return true;
        }
        // Acquire: pairs with the Release in `release`, so that past readers' reads are over. At 1 nobody else can raise it.
        let is_last = self.region.meta(self.index).count.load(Ordering::Acquire) == 1;
        if is_last {
            *front = self.start;
        }
        is_last
    }

    /// Takes `n` more bytes in front into the reference, to be written; `None` if others may refer to them, or the frame has
    /// fewer.
    pub fn grow(&mut self, n: u32) -> Option<&mut [u8]> {
        if n > self.start || !self.may_grow() {
            return None;
        }
        self.start -= n;
        // SAFETY: inside the frame: `n` is at most what `start` was.
        let first = unsafe { self.region.start_of(self.index).add(self.start as usize) };
        // SAFETY: `n` bytes of the frame, initialised, to which nobody else refers: they are before the front. From this
        // reference others are made only when the slice is gone, for it borrows it mutably.
        Some(unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), n as usize) })
    }

    /// A second reference to the same bytes, which gets the front of this one; `None` if this one has none.
    pub fn depart(&mut self) -> Option<Self> {
        if !self.may_grow() {
            return None;
        }
        let mut packet = self.clone();
        // Cloning left the front at `start`.
        std::mem::swap(packet.front.0.get_mut(), self.front.0.get_mut());
        Some(packet)
    }

    /// Bytes in front of the reference, in the frame.
    #[must_use]
    pub const fn headroom(&self) -> u32 {
        self.start
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{FramePool, Region};

    fn pool() -> FramePool {
        Region::anonymous(64, 2).unwrap().1
    }

    #[test]
    fn headers_are_written_while_the_payload_is_read() {
        let mut pool = pool();
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap()[32..39].copy_from_slice(b"payload");
        let mut message = frame.share_with_front(32..39).unwrap();
        let at = message.as_ref().as_ptr();
        let mut packet = message.depart().unwrap();
        let payload = message.as_ref();
        packet.grow(4).unwrap().copy_from_slice(b"head");
        packet.grow(2).unwrap().copy_from_slice(b"IP");
        assert_eq!((packet.as_ref(), payload, payload.as_ptr()), (&b"IPheadpayload"[..], &b"payload"[..], at));
        // Refused by the device: the lower header is cut off, and written again.
        packet.advance(2);
        packet.grow(2).unwrap().copy_from_slice(b"ip");
        assert_eq!(packet.as_ref(), b"ipheadpayload");
        assert!(message.grow(1).is_none() && message.depart().is_none(), "the packet has the front");
        drop(packet);
        assert!(message.grow(1).is_some(), "and whoever is last");
        drop(message);
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn what_was_shown_to_others_is_not_written() {
        let mut pool = pool();
        let mut packet = pool.take().unwrap().share_with_front(32..40).unwrap();
        packet.grow(8).unwrap().fill(1);
        let header = packet.slice(2..4);
        packet.advance(8);
        assert!(packet.grow(1).is_none(), "it would be before what was shown");
        assert_eq!(header.as_ref(), [1; 2]);
        drop(header);
        packet.grow(8).unwrap().fill(2);
        let shown = packet.clone();
        assert!(packet.grow(24).is_some() && packet.grow(1).is_none(), "the rest of the frame, and no more");
        packet.advance(24);
        packet.advance(1);
        assert!(packet.grow(1).is_none());
        drop(shown);
    }

    #[test]
    fn a_lent_frame_has_no_front() {
        let mut pool = pool();
        let frame = pool.take().unwrap();
        let loan = frame.lend(0..4);
        assert!(frame.share_with_front(8..16).is_none());
        drop(loan);
        assert_eq!(pool.free(), 2);
        let mut whole = pool.take().unwrap().share(8..16);
        let other = whole.clone();
        assert!(whole.grow(1).is_none() && whole.depart().is_none());
        drop(other);
        assert!(whole.grow(8).is_some());
    }

    #[test]
    fn only_messages_that_were_built_in_a_frame_and_not_sent_are_built() {
        let mut pool = pool();
        let mut message = Message::from(pool.take().unwrap().share_with_front(8..16).unwrap());
        let mut clone = message.clone();
        assert!(FrameRef::built(&mut clone).is_none(), "a copy of it has no front");
        let packet = FrameRef::built(&mut message).unwrap().depart();
        assert!(packet.is_some() && FrameRef::built(&mut message).is_none());
        drop((clone, packet));
        assert!(FrameRef::built(&mut message).is_none(), "it was sent once");
        assert!(FrameRef::built(&mut Message::from(pool.take().unwrap().share(8..16))).is_none(), "received");
        assert!(FrameRef::built(&mut Message::from("elsewhere")).is_none());
    }

    #[test]
    fn what_belongs_together_is_put_together() {
        let mut pool = pool();
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap()[50..54].copy_from_slice(b"head");
        let head = frame.share(50..54);
        let shown = head.clone();
        let head = head.append(b"tail").unwrap_err();
        drop(shown);
        let head = head.append(&[7; 11]).unwrap_err();
        let mut whole = head.append(b"and tail").unwrap();
        assert_eq!(whole.as_ref(), b"headand tail");
        assert!(whole.may_grow(), "it is the only one");
        drop(whole);
        assert_eq!(pool.free(), 2);
    }

    proptest! {
        /// Whatever is done with references to one frame: no byte changes that another one can read.
        #[test]
        fn nobody_sees_a_byte_change(steps in prop::collection::vec((0..5_u8, any::<prop::sample::Index>(), 0..40_u32), 1..60)) {
            let mut pool = pool();
            let first = pool.take().unwrap().share_with_front(30..50).unwrap();
            let mut refs = vec![(first.as_ref().to_vec(), first)];
            for (n, (what, which, amount)) in steps.into_iter().enumerate() {
                if refs.is_empty() {
                    break;
                }
                let at = which.index(refs.len());
                let (seen, frame) = &mut refs[at];
                let len = seen.len() as u32;
                match what {
                    0 => if let Some(bytes) = frame.grow(amount) {
                        bytes.fill(n as u8);
                        *seen = frame.as_ref().to_vec();
                    },
                    1 => {
                        frame.advance(amount.min(len) as usize);
                        seen.drain(..amount.min(len) as usize);
                    }
                    2 => {
                        let part = frame.slice(amount.min(len)..len);
                        refs.push((part.as_ref().to_vec(), part));
                    }
                    3 => if let Some(packet) = frame.depart() {
                        refs.push((packet.as_ref().to_vec(), packet));
                    },
                    _ => drop(refs.swap_remove(at)),
                }
                for (seen, frame) in &refs {
                    prop_assert_eq!(&seen[..], frame.as_ref());
                }
            }
        }
    }
}
