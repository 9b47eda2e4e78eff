//! One direction of payload in shared memory: a ring of descriptors, and the data area they point into.
//!
//! A descriptor is one word (`docs/spec/shm.md#descriptors`), so that it is read whole, once:
//!
//! ```text
//!   bits 0–15 length │ 16–31 offset in units of 64 B │ 32–63 tag, which means what both sides like
//! ```
//!
//! The sender gives out its data area in order, as the ring is in order, and keeps to itself what it gave out; what the
//! receiver has consumed is free again. A piece of payload lies in one piece: the end of the area is skipped if it is too
//! short. Dense data keeps the part of the area that small pieces use in the cache.

use std::fmt;

use crate::{RingConsumer, RingError, RingProducer, Words, ring_words};

/// Data is given out in units of this many bytes: a cache line. Loom has no caches.
const UNIT: usize = if cfg!(machnet_loom) { 8 } else { 64 };
const WORD: usize = 8;

/// Where a pipe lies, and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipePlace {
    /// First word of the ring.
    pub ring: usize,
    /// First word of the data area.
    pub data: usize,
    /// Descriptors of the ring, a power of two.
    pub descriptors: u32,
    /// Bytes of the data area: a multiple of 64, up to 4 MiB.
    pub bytes: u32,
    /// The longest piece, bytes: below 65 536, and at most a quarter of the area.
    pub max_piece: u32,
}

impl PipePlace {
    /// Words of the ring.
    #[must_use]
    pub const fn ring_words(&self) -> usize {
        ring_words(self.descriptors)
    }
}

/// Why a pipe is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeError {
    /// An index that cannot be.
    Ring(RingError),
    /// A descriptor that points outside of the data area, or to more than the longest piece.
    Descriptor {
        /// Bytes from the beginning of the area.
        offset: usize,
        /// Bytes.
        len: usize,
    },
}

impl From<RingError> for PipeError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl fmt::Display for PipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Descriptor { offset, len } => {
                write!(f, "a descriptor of {len} bytes at {offset} is not inside the data area")
            }
        }
    }
}

impl std::error::Error for PipeError {}

/// What waits in a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes.
    pub len: usize,
    /// What the sender said of it.
    pub tag: u32,
    /// Bytes from the beginning of the data area.
    offset: usize,
}

impl Descriptor {
    const fn pack(self) -> u64 {
        let Self { len, offset, tag } = self;
        ((tag as u64) << 32) | (((offset / UNIT) as u64) << 16) | (len as u64)
    }

    const fn unpack(word: u64) -> Self {
        Self { len: word as u16 as usize, offset: (word >> 16) as u16 as usize * UNIT, tag: (word >> 32) as u32 }
    }
}

/// The sending side.
#[derive(Debug)]
pub struct PipeSender<W> {
    words: W,
    ring: RingProducer<W>,
    /// First word of the data area.
    base: usize,
    /// Units of the data area.
    units: u32,
    /// The first free unit, and how many are not.
    head: u32,
    used: u32,
    /// Units of each descriptor in flight, skipped ones included. Ours alone.
    given: Box<[u16]>,
    /// How many descriptors were pushed and reclaimed, modulo the ring's capacity.
    pushed: u32,
    reclaimed: u32,
}

impl<W: Words + Clone> PipeSender<W> {
    /// The sender of a fresh (zeroed) pipe.
    ///
    /// # Panics
    /// If the place is not inside `words`, or its sizes cannot be.
    #[must_use]
    pub fn new(words: W, place: &PipePlace) -> Self {
        let PipePlace { ring, data, descriptors, bytes, max_piece } = *place;
        assert!(data + bytes as usize / WORD <= words.words().len(), "a data area outside of its memory");
        assert!(max_piece <= u32::from(u16::MAX) && bytes as usize / UNIT <= 1 << 16, "sizes beyond a descriptor's");
        let ring = RingProducer::new(words.clone(), ring, descriptors);
        let given = vec![0; descriptors as usize].into();
        Self { words, ring, base: data, units: bytes / UNIT as u32, head: 0, used: 0, given, pushed: 0, reclaimed: 0 }
    }

    /// Copies a piece, of at most the longest length, into the area. False if there is no room. [`PipeSender::publish`]
    /// or [`PipeSender::show`] shows it.
    ///
    /// # Errors
    /// The receiver's index is impossible.
    #[inline]
    pub fn send(&mut self, tag: u32, payload: &[u8]) -> Result<bool, RingError> {
        let units = payload.len().div_ceil(UNIT) as u32;
        let mut skipped = self.skip(units);
        if self.ring.room() == 0 || skipped + units > self.units - self.used {
            self.reclaim()?;
            skipped = self.skip(units);
            if self.ring.room() == 0 || skipped + units > self.units - self.used {
                return Ok(false);
            }
        }
        let at = if skipped > 0 { 0 } else { self.head };
        self.words.copy_in(self.base + at as usize * (UNIT / WORD), payload);
        let pushed = self.ring.push(Descriptor { len: payload.len(), offset: at as usize * UNIT, tag }.pack());
        debug_assert!(pushed, "there was room");
        let mask = self.given.len() - 1;
        self.given[self.pushed as usize & mask] = (skipped + units) as u16;
        self.pushed = self.pushed.wrapping_add(1);
        self.used += skipped + units;
        self.head = if at + units == self.units { 0 } else { at + units };
        Ok(true)
    }

    /// Units to leave out at the end of the area, so that `units` lie in one piece.
    #[inline]
    const fn skip(&self, units: u32) -> u32 {
        if self.head + units > self.units { self.units - self.head } else { 0 }
    }

    /// Takes back what the receiver has consumed. True if that was anything.
    ///
    /// # Errors
    /// The receiver's index is impossible.
    pub fn reclaim(&mut self) -> Result<bool, RingError> {
        let freed = self.ring.look()?;
        let mask = self.given.len() - 1;
        for _ in 0..freed {
            self.used -= u32::from(self.given[self.reclaimed as usize & mask]);
            self.reclaimed = self.reclaimed.wrapping_add(1);
        }
        Ok(freed > 0)
    }

    /// True if the receiver has consumed something since the last look, or its index cannot be.
    #[must_use]
    pub fn has_reclaimable(&self) -> bool {
        self.ring.has_consumed()
    }

    /// Shows the receiver what was sent. True if it must be rung.
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// [`PipeSender::publish`] for who rings by other means than the ring's: neither fences nor looks.
    #[inline]
    pub fn show(&mut self) {
        self.ring.show();
    }

    /// As [`RingProducer::arm`].
    pub fn arm(&self) {
        self.ring.arm();
    }

    /// As [`RingProducer::disarm`].
    pub fn disarm(&self) {
        self.ring.disarm();
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct PipeReceiver<W> {
    words: W,
    ring: RingConsumer<W>,
    base: usize,
    /// Bytes of the data area.
    bytes: usize,
    max_piece: usize,
    /// The next piece, read and checked, not taken.
    next: Option<Descriptor>,
}

impl<W: Words + Clone> PipeReceiver<W> {
    /// The receiver of a fresh (zeroed) pipe.
    ///
    /// # Panics
    /// If the place is not inside `words`, or its sizes cannot be.
    #[must_use]
    pub fn new(words: W, place: &PipePlace) -> Self {
        let PipePlace { ring, data, descriptors, bytes, max_piece } = *place;
        assert!(data + bytes as usize / WORD <= words.words().len(), "a data area outside of its memory");
        let ring = RingConsumer::new(words.clone(), ring, descriptors);
        Self { words, ring, base: data, bytes: bytes as usize, max_piece: max_piece as usize, next: None }
    }

    /// How many pieces wait; looks only if none is known of.
    ///
    /// # Errors
    /// The sender's index is impossible.
    #[inline]
    pub fn ready(&mut self) -> Result<u32, RingError> {
        match self.ring.ready() {
            0 => self.ring.look(),
            ready => Ok(ready),
        }
    }

    /// How many pieces wait; looks in any case.
    ///
    /// # Errors
    /// The sender's index is impossible.
    pub fn look(&mut self) -> Result<u32, RingError> {
        self.ring.look()
    }

    /// True if a piece waits, or the sender's index cannot be.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.ring.has_data()
    }

    /// The next piece, as far as is known without looking; it is read once, and stays until it is taken or skipped.
    ///
    /// # Errors
    /// It is not inside the area, or too long.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Descriptor>, PipeError> {
        if self.next.is_none() {
            let Some(word) = self.ring.peek() else { return Ok(None) };
            let descriptor = Descriptor::unpack(word);
            let Descriptor { len, offset, .. } = descriptor;
            if len > self.max_piece || offset + len > self.bytes {
                self.ring.advance();
                return Err(PipeError::Descriptor { offset, len });
            }
            self.next = Some(descriptor);
        }
        Ok(self.next)
    }

    /// Copies out the piece that [`PipeReceiver::peek`] showed, as much as `buffer` takes; without one, nothing.
    #[inline]
    pub fn take(&mut self, buffer: &mut [u8]) {
        if let Some(Descriptor { len, offset, .. }) = self.next.take() {
            let len = len.min(buffer.len());
            self.words.copy_out(self.base + offset / WORD, &mut buffer[..len]);
            self.ring.advance();
        }
    }

    /// Copies the next piece into `buffer`, which has room for the longest; returns its tag and length.
    ///
    /// # Errors
    /// It is not inside the area, or too long.
    #[inline]
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(u32, usize)>, PipeError> {
        let Some(Descriptor { len, tag, .. }) = self.peek()? else { return Ok(None) };
        self.take(buffer);
        Ok(Some((tag, len)))
    }

    /// Gives the room of what was taken back. True if the sender must be rung.
    #[inline]
    #[must_use]
    pub fn release(&mut self) -> bool {
        self.ring.release()
    }

    /// [`PipeReceiver::release`] for who rings by other means than the ring's: neither fences nor looks.
    #[inline]
    pub fn give_back(&mut self) {
        self.ring.give_back();
    }

    /// As [`RingConsumer::arm`].
    pub fn arm(&self) {
        self.ring.arm();
    }

    /// As [`RingConsumer::disarm`].
    pub fn disarm(&self) {
        self.ring.disarm();
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use proptest::prelude::*;

    use super::*;
    use crate::ForeignRegion;

    const PLACE: PipePlace = PipePlace { ring: 16, data: 256, descriptors: 64, bytes: 8192, max_piece: 2000 };
    const TAG: u32 = 0xffff_0007;

    type Sender = PipeSender<Arc<ForeignRegion>>;
    type Receiver = PipeReceiver<Arc<ForeignRegion>>;

    fn pair() -> (Sender, Receiver, Arc<ForeignRegion>) {
        let (region, _fd) = ForeignRegion::create("test", 12_288).unwrap();
        let region = Arc::new(region);
        (Sender::new(Arc::clone(&region), &PLACE), Receiver::new(Arc::clone(&region), &PLACE), region)
    }

    fn content(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (seed * 31 + i) as u8).collect()
    }

    proptest! {
        /// Datagrams of any lengths come out as they went in, whoever runs ahead; in the end everything is free.
        #[test]
        fn what_is_sent_arrives(steps in prop::collection::vec((0..=2000_usize, 0..80_usize, 0..80_usize), 1..60)) {
            let (mut sender, mut receiver, _region) = pair();
            let mut underway = VecDeque::new();
            let (mut sent, mut buffer) = (0, vec![0; 2000]);
            for (len, sends, receives) in steps {
                for _ in 0..sends {
                    if !sender.send(TAG, &content(sent, len)).unwrap() {
                        prop_assert!(!underway.is_empty(), "an empty wire has room for anything");
                        break;
                    }
                    underway.push_back((sent, len));
                    sent += 1;
                }
                prop_assert!(!sender.publish());
                for _ in 0..receives {
                    prop_assert_eq!(receiver.ready().unwrap() > 0, !underway.is_empty());
                    let Some((tag, len)) = receiver.receive(&mut buffer).unwrap() else { break };
                    let (number, expected) = underway.pop_front().unwrap();
                    prop_assert_eq!((tag, len), (TAG, expected));
                    prop_assert_eq!(&buffer[..len], &content(number, len)[..]);
                }
                prop_assert!(!receiver.release());
            }
            while receiver.ready().unwrap() > 0 {
                receiver.receive(&mut buffer).unwrap();
            }
            let _ = receiver.release();
            sender.reclaim().unwrap();
            prop_assert_eq!(sender.used, 0);
        }

        /// Any descriptor is a datagram inside the area, or an error that says where it points.
        #[test]
        fn any_descriptor_is_checked(words in prop::collection::vec(any::<u64>(), 1..64)) {
            let (_sender, mut receiver, region) = pair();
            let ring = PLACE.ring;
            let first = ring + ring_words(64) - 64;
            for (at, word) in region.words()[first..].iter().zip(&words) {
                at.store(*word, Relaxed);
            }
            region.words()[ring].store(words.len() as u64, Relaxed);
            let mut buffer = vec![0; 2000];
            for word in words {
                let (len, offset) = ((word & 0xffff) as usize, (word >> 16 & 0xffff) as usize * 64);
                receiver.ready().unwrap();
                match receiver.receive(&mut buffer) {
                    Ok(received) => {
                        prop_assert_eq!(received.unwrap().1, len);
                        prop_assert!(len <= 2000 && offset + len <= 8192);
                    }
                    Err(error) => {
                        prop_assert_eq!(error, PipeError::Descriptor { offset, len });
                        prop_assert!(len > 2000 || offset + len > 8192);
                    }
                }
            }
        }
    }

    #[test]
    fn descriptors_keep_their_fields() {
        let descriptor = Descriptor { len: 65_507, offset: 65_535 * UNIT, tag: TAG };
        assert_eq!(Descriptor::unpack(descriptor.pack()), descriptor);
        assert_eq!(Descriptor::unpack(0).pack(), 0);
    }
}
