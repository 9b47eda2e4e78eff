//! The parts of a message while it arrives, each in the packet that brought it.
//!
//! ```text
//!   offset    0        1408      2816           5632
//!   parts     │ frame 7 │ frame 8 │   (missing)   │ frame 9 │     in order, none overlaps another
//! ```
//!
//! A part goes where it belongs, whatever came before; one that was there already is known. One that covers some of another, as a part
//! cut for longer packets may, has no place here: what there is can be copied elsewhere ([`Chain::parts`]).
//!
//! The list is a frame, too: nothing is allocated, and whoever drops the chain, on any thread, sends list and parts home. It holds
//! numbers alone. All parts lie in frames of one region, which the chain keeps alive by one reference for all of them.

use std::ptr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::frame::RegionInner;
use crate::sync::Arc;
use crate::{Frame, FrameRef};

/// Parts of a message, in order.
pub struct Chain {
    list: Frame,
}

/// The first bytes of the list; parts follow.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    /// `Arc::into_raw` of the parts' region, its provenance exposed; 0 before the first.
    region: u64,
    /// Parts in the list, and how many of them are no longer the chain's.
    count: u32,
    read: u32,
    /// Bytes of the others.
    len: u32,
    unused: [u32; 3],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Part {
    /// Where in the message it begins.
    offset: u32,
    /// Its frame, of which the chain has one hold for it, and where in that it lies.
    index: u32,
    start: u32,
    end: u32,
}

impl Part {
    const fn len(&self) -> u32 {
        self.end - self.start
    }

    /// Where in the message it ends.
    const fn stop(&self) -> u32 {
        self.offset + self.len()
    }
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Joined {
    /// It is one of the chain's now.
    New,
    /// The chain has all of it.
    Known,
    /// The chain has some of it.
    Overlaps,
    /// It may not stay in its packet, or the list is full.
    Refused,
}

impl Chain {
    /// Bytes that the list of so many parts has.
    #[must_use]
    pub const fn list_len(parts: u32) -> u32 {
        (size_of::<Head>() as u32).saturating_add(parts.saturating_mul(size_of::<Part>() as u32))
    }

    /// An empty chain whose list is in `list`. `None` if that is shorter than an empty list, or lent.
    #[must_use]
    pub fn new(mut list: Frame) -> Option<Self> {
        *view_mut(list.bytes_mut()?)?.0 = Head::default();
        Some(Self { list })
    }

    fn view(&self) -> (Head, &[Part]) {
        let Ok((head, rest)) = Head::ref_from_prefix(self.list.bytes()) else { return (Head::default(), &[]) };
        let parts = <[Part]>::ref_from_prefix(rest).map_or(&[][..], |(parts, _)| parts);
        (*head, &parts[head.read as usize..head.count as usize])
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.view().0.len
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of parts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.view().1.len()
    }

    /// Puts `payload`, which lies in `packet` and begins at `offset` of the message, where it belongs. If that is new, `allows` is asked
    /// whether it may stay in its packet, beside as many parts as there are. No part is empty.
    ///
    /// # Panics
    /// If `payload` does not lie in `packet`.
    pub fn join(&mut self, offset: u32, payload: &[u8], packet: &FrameRef, allows: impl FnOnce(u32) -> bool) -> Joined {
        let Some((head, parts)) = self.list.bytes_mut().and_then(view_mut) else { return Joined::Refused };
        let count = head.count as usize;
        let stop = offset + payload.len() as u32;
        // In order: mostly.
        let place = if count == 0 || parts[count - 1].stop() <= offset {
            count
        } else {
            // The first that ends behind the beginning.
            let place = parts[..count].partition_point(|part| part.stop() <= offset);
            let next = &parts[place];
            if next.offset <= offset && stop <= next.stop() {
                return Joined::Known;
            }
            if next.offset < stop {
                return Joined::Overlaps;
            }
            place
        };
        let region = Arc::as_ptr(&packet.region).expose_provenance() as u64;
        let is_other = head.region != 0 && head.region != region;
        if is_other || head.read > 0 || count == parts.len() || !allows(head.count) {
            return Joined::Refused;
        }
        let before = payload.as_ptr().addr().wrapping_sub(packet.as_ref().as_ptr().addr());
        let inside = before.checked_add(payload.len()).is_some_and(|end| end <= packet.len() as usize);
        assert!(inside, "a part that does not lie in its packet");
        let start = packet.start + before as u32;
        if head.region == 0 {
            head.region = Arc::into_raw(Arc::clone(&packet.region)).expose_provenance() as u64;
        }
        packet.share_at(start);
        parts.copy_within(place..count, place + 1);
        parts[place] = Part { offset, index: packet.index, start, end: start + payload.len() as u32 };
        head.count += 1;
        head.len += payload.len() as u32;
        Joined::New
    }

    /// The region of the parts, if there was one.
    fn region(&self) -> Option<&RegionInner> {
        let at = ptr::with_exposed_provenance::<RegionInner>(self.view().0.region as usize);
        // SAFETY: 0, or of `Arc::into_raw` in `join`, and that reference is the chain's until it is dropped: nobody else writes the list.
        unsafe { at.as_ref() }
    }

    fn bytes(&self, part: &Part) -> &[u8] {
        let Some(region) = self.region() else { return &[] };
        // SAFETY: written by `join` from a reference to that range, and the hold that it made is the chain's.
        unsafe { region.slice(part.index, part.start, part.end) }
    }

    /// Each part, and where in the message it begins.
    pub fn parts(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.view().1.iter().map(|part| (part.offset, self.bytes(part)))
    }

    /// The first part.
    pub(crate) fn first(&self) -> &[u8] {
        self.view().1.first().map_or(&[], |part| self.bytes(part))
    }

    /// Takes the first part.
    pub(crate) fn pop(&mut self) -> Option<FrameRef> {
        let first = *self.view().1.first()?;
        let region = self.region()?;
        // SAFETY: of `Arc::into_raw`, see `region`; the new reference is the one that is made of it below.
        unsafe { Arc::increment_strong_count(ptr::from_ref(region)) };
        // SAFETY: as above.
        let region = unsafe { Arc::from_raw(ptr::from_ref(region)) };
        // The chain's hold becomes the reference's.
        self.forget_first(first.len());
        Some(FrameRef::new(region, first.index, first.start..first.end))
    }

    /// Takes the first `len` bytes, if they lie in one part.
    pub(crate) fn head(&mut self, len: u32) -> Option<FrameRef> {
        let first = self.view().1.first()?;
        if len == first.len() {
            return self.pop();
        }
        let (index, start) = (first.index, first.start);
        let region = self.region().filter(|_| len < first.len())?;
        // SAFETY: as in `pop`.
        unsafe { Arc::increment_strong_count(ptr::from_ref(region)) };
        // SAFETY: as in `pop`.
        let region = unsafe { Arc::from_raw(ptr::from_ref(region)) };
        region.retain(index);
        self.advance(len as usize);
        Some(FrameRef::new(region, index, start..start + len))
    }

    /// The first part, which had so many bytes left, is no longer the chain's.
    fn forget_first(&mut self, len: u32) {
        if let Some((head, _)) = self.list.bytes_mut().and_then(view_mut) {
            head.read += 1;
            head.len -= len;
        }
    }

    /// Drops the first `n` bytes; parts that end with them go home.
    ///
    /// # Panics
    /// If fewer are left.
    pub(crate) fn advance(&mut self, mut n: usize) {
        assert!(n <= self.len() as usize, "advance past the end");
        while n > 0
            && let Some(first) = self.view().1.first().copied()
        {
            let len = first.len() as usize;
            if n < len {
                if let Some((head, parts)) = self.list.bytes_mut().and_then(view_mut) {
                    let first = &mut parts[head.read as usize];
                    (first.start, first.offset) = (first.start + n as u32, first.offset + n as u32);
                    head.len -= n as u32;
                }
                return;
            }
            n -= len;
            self.forget_first(len as u32);
            if let Some(region) = self.region() {
                region.release(first.index);
            }
        }
    }
}

fn view_mut(list: &mut [u8]) -> Option<(&mut Head, &mut [Part])> {
    let (head, rest) = Head::mut_from_prefix(list).ok()?;
    let (parts, _) = <[Part]>::mut_from_prefix(rest).ok()?;
    Some((head, parts))
}

impl Drop for Chain {
    fn drop(&mut self) {
        let Some(region) = self.region() else { return };
        for part in self.view().1 {
            region.release(part.index);
        }
        // SAFETY: of `Arc::into_raw`, see `region`; nobody uses the list any more.
        drop(unsafe { Arc::from_raw(ptr::from_ref(region)) });
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("len", &self.len()).field("parts", &self.count()).finish()
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;
    use crate::{FramePool, Region};

    fn packet(pool: &mut FramePool, bytes: &[u8]) -> FrameRef {
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap()[3..3 + bytes.len()].copy_from_slice(bytes);
        frame.share(3..3 + bytes.len() as u32)
    }

    /// A part in a packet that has a byte more on either side.
    fn join(chain: &mut Chain, pool: &mut FramePool, offset: u32, bytes: &[u8]) -> Joined {
        let packet = packet(pool, &[&[9], bytes, &[9]].concat());
        chain.join(offset, &packet.as_ref()[1..1 + bytes.len()], &packet, |_| true)
    }

    fn pools() -> (FramePool, FramePool) {
        (Region::anonymous(64, 8).unwrap().1, Region::anonymous(Chain::list_len(4), 1).unwrap().1)
    }

    #[test]
    fn parts_find_their_place_and_none_is_taken_twice() {
        let (mut pool, mut lists) = pools();
        let mut chain = Chain::new(lists.take().unwrap()).unwrap();
        assert!(chain.is_empty());
        assert_eq!(join(&mut chain, &mut pool, 4, b"4567"), Joined::New);
        assert_eq!(join(&mut chain, &mut pool, 12, b"cd"), Joined::New);
        assert_eq!(join(&mut chain, &mut pool, 0, b"0123"), Joined::New);
        let other = packet(&mut pool, b"89abcdef");
        let mut put = |offset, len: usize| {
            chain.join(offset, &other.as_ref()[..len], &other, |parts| {
                assert_eq!(parts, 3, "asked for what is new alone");
                false
            })
        };
        assert_eq!((put(8, 4), put(4, 4), put(5, 2)), (Joined::Refused, Joined::Known, Joined::Known));
        for (offset, len) in [(0, 8), (6, 4), (7, 2), (8, 6), (8, 5), (13, 2), (11, 2)] {
            assert_eq!(put(offset, len), Joined::Overlaps, "{offset}, {len}");
        }
        drop(other);
        let (mut stranger, _) = pools();
        assert_eq!(join(&mut chain, &mut stranger, 8, b"89ab"), Joined::Refused, "of another region");
        assert_eq!((chain.len(), chain.count(), pool.free(), stranger.free()), (10, 3, 5, 8));
        assert_eq!(join(&mut chain, &mut pool, 8, b"89ab"), Joined::New);
        let parts: Vec<_> = chain.parts().collect();
        assert_eq!(parts, [(0, &b"0123"[..]), (4, b"4567"), (8, b"89ab"), (12, b"cd")]);
        assert_eq!(join(&mut chain, &mut pool, 14, b"e"), Joined::Refused, "the list is full");
        drop(chain);
        assert_eq!((pool.free(), lists.free()), (8, 1));
    }

    #[test]
    fn what_was_read_goes_home_at_once_and_the_rest_when_it_is_dropped() {
        let (mut pool, mut lists) = pools();
        let mut chain = Chain::new(lists.take().unwrap()).unwrap();
        for (offset, text) in [(0, b"012"), (3, b"345"), (6, b"678"), (9, b"9ab")] {
            assert_eq!(join(&mut chain, &mut pool, offset, text), Joined::New);
        }
        for (n, first, left, free) in [(0, "012", 12, 4), (1, "12", 11, 4), (2, "345", 9, 5), (4, "78", 5, 6)] {
            chain.advance(n);
            assert_eq!((chain.first(), chain.len(), pool.free()), (first.as_bytes(), left, free));
        }
        assert_eq!(join(&mut chain, &mut pool, 12, b"c"), Joined::Refused, "it is being read");
        let [one, rest] = [chain.head(1).unwrap(), chain.pop().unwrap()];
        assert_eq!((one.as_ref(), rest.as_ref(), chain.len()), (&b"7"[..], &b"8"[..], 3));
        assert!(chain.head(4).is_none());
        drop(chain);
        assert_eq!((pool.free(), lists.free()), (7, 1));
        drop(pool);
        assert_eq!((one.as_ref(), rest.as_ref()), (&b"7"[..], &b"8"[..]), "the region lives as long as they");
    }

    #[test]
    fn a_list_needs_room() {
        let (mut short, _) = pools();
        let mut frame = Region::anonymous(16, 1).unwrap().1.take().unwrap();
        assert!(frame.bytes_mut().is_some() && Chain::new(frame).is_none());
        let frame = short.take().unwrap();
        let loan = frame.lend(0..1);
        assert!(Chain::new(frame).is_none());
        drop(loan);
        assert_eq!(short.free(), 8);
        let mut chain = Chain::new(short.take().unwrap()).unwrap();
        assert_eq!((chain.len(), chain.count(), chain.first()), (0, 0, &b""[..]));
        assert!(chain.pop().is_none() && chain.head(1).is_none() && chain.parts().next().is_none());
    }
}
