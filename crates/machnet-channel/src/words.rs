//! Memory that a stranger may write while we read it, as words.
//!
//! What another process writes cannot be borrowed: a `&[u8]` promises that nobody writes. So such memory is reached only
//! through atomic words, each of which may change between any two looks. Every byte is copied, once, into memory of our
//! own before anybody interprets it; what was copied may be torn or nonsense, never undefined.
//!
//! The rings ([`crate::RingProducer`]) run on any [`Words`]: on a [`crate::ForeignRegion`] in the product, on loom's own
//! atomics in its models.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Bytes per word.
const WORD: usize = 8;

/// A row of words that others read and write at any time.
pub trait Words {
    /// The words. Their number never changes.
    fn words(&self) -> &[AtomicU64];

    /// Writes `bytes`, beginning at word `at`. The rest of the last word becomes 0.
    ///
    /// Relaxed: whoever is to read them must learn of them by a Release store, as [`crate::RingProducer::publish`] is.
    ///
    /// # Panics
    /// If they do not fit. Offsets come from this side, or were checked.
    #[inline]
    fn copy_in(&self, at: usize, bytes: &[u8]) {
        let (body, tail) = bytes.as_chunks::<WORD>();
        let words = &self.words()[at..at + bytes.len().div_ceil(WORD)];
        for (word, bytes) in words.iter().zip(body) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        if !tail.is_empty() {
            let mut last = [0; WORD];
            last[..tail.len()].copy_from_slice(tail);
            words[body.len()].store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }

    /// Reads into `bytes`, beginning at word `at`: each word once.
    ///
    /// # Panics
    /// If there are not as many. Offsets come from this side, or were checked.
    #[inline]
    fn copy_out(&self, at: usize, bytes: &mut [u8]) {
        let words = &self.words()[at..at + bytes.len().div_ceil(WORD)];
        let (body, tail) = bytes.as_chunks_mut::<WORD>();
        for (word, bytes) in words.iter().zip(body.iter_mut()) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        if !tail.is_empty() {
            let last = words[body.len()].load(Ordering::Relaxed).to_ne_bytes();
            tail.copy_from_slice(&last[..tail.len()]);
        }
    }
}

impl<W: Words> Words for Arc<W> {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        self.as_ref().words()
    }
}

/// Words of this process, for models and tests.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct HeapWords(Box<[AtomicU64]>);

#[cfg(test)]
impl HeapWords {
    pub(crate) fn new(words: usize) -> Arc<Self> {
        Arc::new(Self((0..words).map(|_| AtomicU64::new(0)).collect()))
    }
}

#[cfg(test)]
impl Words for HeapWords {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_and_place_come_back() {
        let words = HeapWords::new(16);
        for at in 0..4 {
            for len in 0..=96_u8 {
                let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(7) ^ at as u8 | 1).collect();
                words.copy_in(at, &bytes);
                let mut back = vec![0; usize::from(len)];
                words.copy_out(at, &mut back);
                assert_eq!(back, bytes);
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn nothing_is_read_beyond_the_end() {
        HeapWords::new(4).copy_out(3, &mut [0; 9]);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn nothing_is_written_beyond_the_end() {
        HeapWords::new(4).copy_in(2, &[0; 17]);
    }
}
