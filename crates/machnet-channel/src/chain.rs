//! The parts of a message while it arrives, each in the packet that brought it.
//!
//! ```text
//!   offset    0        1408      2816           5632
//!   parts     │ frame 7 │ frame 8 │   (missing)   │ frame 9 │     in order, none overlaps another
//! ```
//!
//! A part goes where it belongs, whatever came before; one that was there already is known. One that covers some of another, as a part
//! cut for longer packets may, has no place here: what there is can be copied elsewhere ([`Chain::parts`]).

use std::collections::VecDeque;

use crate::FrameRef;

/// Parts of a message, in order.
#[derive(Clone, Default)]
pub struct Chain {
    parts: VecDeque<Part>,
    /// Bytes that they have.
    len: u32,
}

#[derive(Clone)]
struct Part {
    /// Where in the message it begins.
    offset: u32,
    frame: FrameRef,
}

impl Part {
    const fn len(&self) -> u32 {
        self.frame.len()
    }

    const fn end(&self) -> u32 {
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
    /// It may not stay in its packet.
    Refused,
}

impl Chain {
    /// An empty chain with room for so many parts.
    #[must_use]
    pub fn with_room(parts: usize) -> Self {
        Self { parts: VecDeque::with_capacity(parts), len: 0 }
    }

    /// Bytes of all parts.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of parts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Puts `len` bytes that begin at `offset` of the message where they belong; `frame` gives them, and is asked only for what is
    /// new. No part is empty.
    pub fn join(&mut self, offset: u32, len: u32, frame: impl FnOnce() -> Option<FrameRef>) -> Joined {
        let end = offset + len;
        // In order: mostly.
        let place = if self.parts.back().is_none_or(|last| last.end() <= offset) {
            self.parts.len()
        } else {
            // The first that ends behind the beginning.
            let place = self.parts.partition_point(|part| part.end() <= offset);
            let next = &self.parts[place];
            if next.offset <= offset && end <= next.end() {
                return Joined::Known;
            }
            if next.offset < end {
                return Joined::Overlaps;
            }
            place
        };
        let Some(frame) = frame() else { return Joined::Refused };
        debug_assert_eq!(frame.len(), len, "what was announced");
        self.parts.insert(place, Part { offset, frame });
        self.len += len;
        Joined::New
    }

    /// Each part, and where in the message it begins.
    pub fn parts(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.parts.iter().map(|part| (part.offset, part.frame.as_ref()))
    }

    /// The first part.
    pub(crate) fn first(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part.frame.as_ref())
    }

    /// Takes the first part.
    pub(crate) fn pop(&mut self) -> Option<FrameRef> {
        let part = self.parts.pop_front()?;
        self.len -= part.len();
        Some(part.frame)
    }

    /// Takes the first `len` bytes, if they lie in one part.
    pub(crate) fn head(&mut self, len: u32) -> Option<FrameRef> {
        let first = self.parts.front().filter(|first| len <= first.len())?;
        let head = first.frame.slice(0..len);
        self.advance(len as usize);
        Some(head)
    }

    /// Drops the first `n` bytes; parts that end with them go home.
    ///
    /// # Panics
    /// If fewer are left.
    pub(crate) fn advance(&mut self, mut n: usize) {
        assert!(n <= self.len as usize, "advance past the end");
        self.len -= n as u32;
        while let Some(part) = self.parts.front_mut() {
            let len = part.len() as usize;
            if n < len {
                part.frame.advance(n);
                return;
            }
            n -= len;
            self.parts.pop_front();
        }
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("len", &self.len).field("parts", &self.parts.len()).finish()
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;
    use crate::{FramePool, Region};

    fn frame(pool: &mut FramePool, bytes: &[u8]) -> FrameRef {
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap()[8..8 + bytes.len()].copy_from_slice(bytes);
        frame.share(8..8 + bytes.len() as u32)
    }

    fn join(chain: &mut Chain, pool: &mut FramePool, offset: u32, bytes: &[u8]) -> Joined {
        chain.join(offset, bytes.len() as u32, || Some(frame(pool, bytes)))
    }

    #[test]
    fn parts_find_their_place_and_none_is_taken_twice() {
        let (_region, mut pool) = Region::anonymous(64, 8).unwrap();
        let mut chain = Chain::with_room(4);
        assert!(chain.is_empty());
        assert_eq!(join(&mut chain, &mut pool, 4, b"4567"), Joined::New);
        assert_eq!(join(&mut chain, &mut pool, 12, b"cd"), Joined::New);
        assert_eq!(join(&mut chain, &mut pool, 0, b"0123"), Joined::New);
        assert_eq!(chain.join(8, 4, || None), Joined::Refused);
        let never = || panic!("nothing new");
        assert_eq!(chain.join(4, 4, never), Joined::Known);
        assert_eq!(chain.join(5, 2, never), Joined::Known);
        for (offset, len) in [(0, 8), (6, 4), (7, 2), (8, 6), (8, 5), (13, 2), (11, 2)] {
            assert_eq!(chain.join(offset, len, never), Joined::Overlaps, "{offset}, {len}");
        }
        assert_eq!((chain.len(), chain.count(), pool.free()), (10, 3, 5));
        assert_eq!(join(&mut chain, &mut pool, 8, b"89ab"), Joined::New);
        let parts: Vec<_> = chain.parts().collect();
        assert_eq!(parts, [(0, &b"0123"[..]), (4, b"4567"), (8, b"89ab"), (12, b"cd")]);
        drop(chain);
        assert_eq!(pool.free(), 8);
    }

    #[test]
    fn what_was_read_goes_home_at_once() {
        let (_region, mut pool) = Region::anonymous(64, 3).unwrap();
        let mut chain = Chain::with_room(3);
        for (offset, text) in [(0, b"012"), (3, b"345"), (6, b"678")] {
            assert_eq!(join(&mut chain, &mut pool, offset, text), Joined::New);
        }
        for (n, first, left, free) in [(0, "012", 9, 0), (1, "12", 8, 0), (2, "345", 6, 1), (4, "78", 2, 2)] {
            chain.advance(n);
            assert_eq!((chain.first(), chain.len(), pool.free()), (first.as_bytes(), left, free));
        }
        assert_eq!((chain.pop().unwrap().as_ref(), chain.len()), (&b"78"[..], 0));
        assert!(chain.pop().is_none() && chain.first().is_empty() && pool.free() == 3);
    }
}
