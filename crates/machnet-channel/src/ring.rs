//! Rings in memory that both sides write, one producer and one consumer each, in the shape of an AF_XDP socket's.
//!
//! ```text
//!   line 0        line 1        line 2       line 3         then
//!   produced      consumed      wants data   wants room     descriptor 0, 1, … capacity − 1
//!   producer's    consumer's    set by the   set by the     producer's
//!                               consumer     producer
//! ```
//!
//! `produced` and `consumed` count descriptors for ever, modulo 2⁶⁴; descriptor `n` lies at `n` modulo the capacity. What
//! a descriptor means is its users' business; it is one word, so it is read whole.
//!
//! **Nobody here trusts the other side.** Nothing loops on shared memory and nothing is swapped in a loop: a side that
//! dies between any two instructions leaves words that are old, never ones that block. An index is read once into a
//! local and must lie between the last one and what is possible, else it is a [`RingError`]: the ring is then of no use,
//! and its owner ends the connection. A descriptor is read once; whoever takes it checks it.
//!
//! **Sleeping.** Each direction of wanting has a word of its own, on a line that is written only when somebody goes to
//! sleep or is woken, so that looking at it costs nothing while both sides are awake:
//!
//! ```text
//!   producer: publish, fence(SeqCst), wants data? ─yes─▶ clear it, ring
//!   consumer: wants data = 1, fence(SeqCst), look again, sleep
//! ```
//!
//! and the same with room for data, the other way round. One of the two fences comes first: either the producer sees the
//! word, or the consumer sees the descriptor. How to ring is the users' business, but a ring must not get lost if it
//! comes before the sleep (a byte in a socket does not). Whoever sets its word all the time makes the other side ring
//! all the time: ringing must not block. It can cost time, nothing else.
//!
//! Reference: `docs/spec/shm.md#rings`.

use std::fmt;

use crate::Words;
use crate::sync::atomic::{Ordering, fence};
use crate::sync::mutant;

/// Words from one line to the next. Two cache lines, because prefetchers fetch them in pairs. Loom has no caches.
const LINE: usize = if cfg!(machnet_loom) { 1 } else { 16 };

const PRODUCED: usize = 0;
const CONSUMED: usize = LINE;
const WANTS_DATA: usize = 2 * LINE;
const WANTS_ROOM: usize = 3 * LINE;
const DESCRIPTORS: usize = 4 * LINE;

/// How many words a ring of `capacity` descriptors takes.
#[must_use]
pub const fn ring_words(capacity: u32) -> usize {
    DESCRIPTORS + capacity as usize
}

/// The other side's index is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingError {
    /// Whose index.
    pub side: RingSide,
    /// What was found.
    pub found: u64,
    /// The least that it could be.
    pub least: u64,
    /// The most that it could be.
    pub most: u64,
}

/// A side of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingSide {
    /// Who writes descriptors.
    Producer,
    /// Who reads them.
    Consumer,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, found, least, most } = self;
        let side = match side {
            RingSide::Producer => "producer",
            RingSide::Consumer => "consumer",
        };
        write!(f, "the {side}'s index is {found}; it must be from {least} to {most}")
    }
}

impl std::error::Error for RingError {}

/// Where a ring lies, and what both sides do with it.
#[derive(Debug)]
struct Ring<W> {
    words: W,
    base: usize,
    capacity: u64,
}

impl<W: Words> Ring<W> {
    fn new(words: W, base: usize, capacity: u32) -> Self {
        assert!(capacity.is_power_of_two(), "a ring's capacity must be a power of two, not {capacity}");
        assert!(base + ring_words(capacity) <= words.words().len(), "a ring outside of its memory");
        Self { words, base, capacity: capacity.into() }
    }

    #[inline]
    fn load(&self, at: usize, order: Ordering) -> u64 {
        self.words.words()[self.base + at].load(order)
    }

    #[inline]
    fn store(&self, at: usize, value: u64, order: Ordering) {
        self.words.words()[self.base + at].store(value, order);
    }

    #[inline]
    const fn slot(&self, index: u64) -> usize {
        DESCRIPTORS + (index & (self.capacity - 1)) as usize
    }

    /// After what the other side may wait for was stored: true if it sleeps and must be rung.
    #[inline]
    fn must_ring(&self, wants: usize) -> bool {
        // A load while nobody sleeps. Not swapped: who sees the word set rings in any case, and there is one ringer.
        let sleeps = self.load(wants, Ordering::Relaxed) != 0;
        if sleeps {
            self.store(wants, 0, Ordering::Relaxed);
        }
        sleeps
    }
}

/// The writing side of a ring.
#[derive(Debug)]
pub struct RingProducer<W> {
    ring: Ring<W>,
    /// The next descriptor to write. Ours alone: what is in shared memory is told, never read back.
    next: u64,
    /// The consumer's index as last looked at.
    consumed: u64,
}

impl<W: Words> RingProducer<W> {
    /// The producer of the fresh (zeroed) ring of `capacity` descriptors at word `base`.
    ///
    /// # Panics
    /// If `capacity` is not a power of two, or the ring is not inside `words`.
    #[must_use]
    pub fn new(words: W, base: usize, capacity: u32) -> Self {
        Self { ring: Ring::new(words, base, capacity), next: 0, consumed: 0 }
    }

    /// How many descriptors can be pushed, as far as is known without looking.
    #[inline]
    #[must_use]
    pub fn room(&self) -> u32 {
        (self.ring.capacity - self.next.wrapping_sub(self.consumed)) as u32
    }

    /// How many descriptors were pushed and are, as far as is known, not consumed.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.next.wrapping_sub(self.consumed) as u32
    }

    /// Looks at the consumer's index. Returns how many more descriptors than known it has consumed.
    ///
    /// # Errors
    /// The index is impossible: the other side is broken, or hostile.
    #[inline]
    pub fn look(&mut self) -> Result<u32, RingError> {
        // Acquire: pairs with `release`; what the consumer read, it read before we write there again.
        let found = self.ring.load(CONSUMED, Ordering::Acquire);
        let freed = found.wrapping_sub(self.consumed);
        if freed > self.next.wrapping_sub(self.consumed) {
            let (least, most) = (self.consumed, self.next);
            return Err(RingError { side: RingSide::Consumer, found, least, most });
        }
        self.consumed = found;
        Ok(freed as u32)
    }

    /// True if the consumer's index is not the one last seen.
    #[must_use]
    pub fn has_consumed(&self) -> bool {
        self.ring.load(CONSUMED, Ordering::Relaxed) != self.consumed
    }

    /// Writes a descriptor, which the consumer sees after [`RingProducer::publish`]. False if there is no [`room`]
    /// (look again, or sleep).
    ///
    /// [`room`]: RingProducer::room
    #[inline]
    #[must_use]
    pub fn push(&mut self, descriptor: u64) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.ring.store(self.ring.slot(self.next), descriptor, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the consumer what was pushed, and all that was written before. Whoever rings by other means than
    /// [`RingProducer::publish`]'s does so after this.
    #[inline]
    pub fn show(&mut self) {
        // Release: pairs with the Acquire in the consumer's `look`.
        let order = if mutant!("ring_publish_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        self.ring.store(PRODUCED, self.next, order);
    }

    /// Shows the consumer what was pushed, and all that was written before. True if it sleeps: ring then.
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        self.show();
        // Orders the index before the look at the word; pairs with the fence in the consumer's `arm`.
        if !mutant!("ring_publish_fence") {
            fence(Ordering::SeqCst);
        }
        self.ring.must_ring(WANTS_DATA)
    }

    /// Before sleeping for room: asks to be rung. [`RingProducer::look`] once more before sleeping.
    #[inline]
    pub fn arm(&self) {
        self.ring.store(WANTS_ROOM, 1, Ordering::Relaxed);
        // Pairs with the fence in `release`.
        if !mutant!("ring_want_room_fence") {
            fence(Ordering::SeqCst);
        }
    }

    /// Awake again: needs no ring.
    #[inline]
    pub fn disarm(&self) {
        self.ring.store(WANTS_ROOM, 0, Ordering::Relaxed);
    }
}

/// The reading side of a ring.
#[derive(Debug)]
pub struct RingConsumer<W> {
    ring: Ring<W>,
    /// The next descriptor to read. Ours alone.
    next: u64,
    /// The producer's index as last looked at.
    produced: u64,
}

impl<W: Words> RingConsumer<W> {
    /// The consumer of the fresh (zeroed) ring of `capacity` descriptors at word `base`.
    ///
    /// # Panics
    /// If `capacity` is not a power of two, or the ring is not inside `words`.
    #[must_use]
    pub fn new(words: W, base: usize, capacity: u32) -> Self {
        Self { ring: Ring::new(words, base, capacity), next: 0, produced: 0 }
    }

    /// How many descriptors can be popped, as far as is known without looking.
    #[inline]
    #[must_use]
    pub fn ready(&self) -> u32 {
        self.produced.wrapping_sub(self.next) as u32
    }

    /// Looks at the producer's index. Returns how many descriptors can be popped: never more than the ring has.
    ///
    /// # Errors
    /// The index is impossible: the other side is broken, or hostile.
    #[inline]
    pub fn look(&mut self) -> Result<u32, RingError> {
        // Acquire: pairs with `publish`; what was written before is seen.
        let found = self.ring.load(PRODUCED, Ordering::Acquire);
        let (known, most) = (self.produced.wrapping_sub(self.next), self.ring.capacity);
        let ready = found.wrapping_sub(self.next);
        if ready < known || ready > most {
            let (least, most) = (self.produced, self.next.wrapping_add(most));
            return Err(RingError { side: RingSide::Producer, found, least, most });
        }
        self.produced = found;
        Ok(ready as u32)
    }

    /// True if there is more to pop than [`RingConsumer::ready`] says, or that, or the producer's index cannot be.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.ring.load(PRODUCED, Ordering::Relaxed) != self.next
    }

    /// The next descriptor, as far as is known without looking; whatever the other side wrote there. Each call reads it
    /// anew.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<u64> {
        (self.next != self.produced).then(|| self.ring.load(self.ring.slot(self.next), Ordering::Relaxed))
    }

    /// Passes the descriptor that was peeked at.
    #[inline]
    pub fn advance(&mut self) {
        if self.next != self.produced {
            self.next = self.next.wrapping_add(1);
        }
    }

    /// The next descriptor, as far as is known without looking; whatever the other side wrote there.
    #[inline]
    pub fn pop(&mut self) -> Option<u64> {
        let descriptor = self.peek()?;
        self.advance();
        Some(descriptor)
    }

    /// Gives back what was popped, and all that it stood for. Whoever rings by other means than
    /// [`RingConsumer::release`]'s does so after this.
    #[inline]
    pub fn give_back(&mut self) {
        // Release: pairs with the Acquire in the producer's `look`.
        self.ring.store(CONSUMED, self.next, Ordering::Release);
    }

    /// Gives back what was popped, and all that it stood for. True if the producer sleeps: ring then.
    #[inline]
    #[must_use]
    pub fn release(&mut self) -> bool {
        self.give_back();
        // Orders the index before the look at the word; pairs with the fence in the producer's `arm`.
        if !mutant!("ring_release_fence") {
            fence(Ordering::SeqCst);
        }
        self.ring.must_ring(WANTS_ROOM)
    }

    /// Before sleeping for data: asks to be rung. [`RingConsumer::look`] once more before sleeping.
    #[inline]
    pub fn arm(&self) {
        self.ring.store(WANTS_DATA, 1, Ordering::Relaxed);
        // Pairs with the fence in `publish`.
        if !mutant!("ring_want_data_fence") {
            fence(Ordering::SeqCst);
        }
    }

    /// Awake again: needs no ring.
    #[inline]
    pub fn disarm(&self) {
        self.ring.store(WANTS_DATA, 0, Ordering::Relaxed);
    }
}
