//! Acknowledgement blocks (`docs/spec/wire.md#acknowledgement-block`).

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{WireError, split, zero};

/// The most bitmap words of a block.
pub const MAX_BITMAP_WORDS: usize = 16;

const FIXED_LEN: usize = 12;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    largest: U32,
    run: U16,
    path: u8,
    words: u8,
    delay_us: U16,
    reserved: U16,
}

/// What a receiver says it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckBlock {
    /// Low half of the largest packet number received.
    pub largest: u32,
    /// How many consecutive numbers, ending with `largest`; ≥ 1.
    pub run: u16,
    /// Time from receiving `largest` to sending the block, µs.
    pub delay_us: u16,
    /// Number of bitmap words used.
    pub words: u8,
    /// Bit `i` (from the top of the first word) is number `largest − run − 1 − i`.
    pub bitmap: [u64; MAX_BITMAP_WORDS],
}

impl AckBlock {
    /// Bytes on the wire.
    #[must_use]
    pub const fn len(&self) -> usize {
        Self::len_with(self.words as usize)
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Bytes on the wire of a block with `words` bitmap words.
    #[must_use]
    pub const fn len_with(words: usize) -> usize {
        FIXED_LEN + 8 * words
    }

    /// Splits a block off `bytes`.
    ///
    /// # Errors
    /// Truncated; run 0; more than 16 words; reserved bits set.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (raw, words, rest) = Self::split(bytes)?;
        let mut bitmap = [0; MAX_BITMAP_WORDS];
        for (word, bytes) in bitmap.iter_mut().zip(words.chunks_exact(8)) {
            *word = U64::read_from_bytes(bytes).map_or(0, U64::get);
        }
        let (largest, run, delay_us) = (raw.largest.get(), raw.run.get(), raw.delay_us.get());
        Ok((Self { largest, run, delay_us, words: raw.words, bitmap }, rest))
    }

    /// Skips a block, if [`AckBlock::parse`] would take it.
    pub(super) fn check(bytes: &[u8]) -> Result<&[u8], WireError> {
        Self::split(bytes).map(|(_, _, rest)| rest)
    }

    /// A block's fixed part, its bitmap, and what follows.
    #[inline]
    fn split(bytes: &[u8]) -> Result<(&Raw, &[u8], &[u8]), WireError> {
        let what = "acknowledgement block";
        let (_, rest) = split(bytes, FIXED_LEN, what)?;
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| WireError::Truncated {
            what,
            need: FIXED_LEN,
            have: bytes.len(),
        })?;
        if raw.run.get() == 0 {
            return Err(WireError::Value { what: "run", value: 0 });
        }
        if raw.words as usize > MAX_BITMAP_WORDS {
            return Err(WireError::Value { what: "bitmap words", value: raw.words.into() });
        }
        zero("path of the acknowledgement", raw.path)?;
        zero("reserved bits of the acknowledgement", raw.reserved.get())?;
        let (words, rest) = split(rest, 8 * raw.words as usize, "acknowledgement bitmap")?;
        Ok((raw, words, rest))
    }

    /// Writes the block to the start of `out`; returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than [`AckBlock::len`].
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let raw = Raw {
            largest: self.largest.into(),
            run: self.run.into(),
            path: 0,
            words: self.words,
            delay_us: self.delay_us.into(),
            reserved: 0.into(),
        };
        out[..FIXED_LEN].copy_from_slice(raw.as_bytes());
        for (i, word) in self.bitmap[..self.words as usize].iter().enumerate() {
            out[FIXED_LEN + 8 * i..][..8].copy_from_slice(&word.to_be_bytes());
        }
        self.len()
    }
}
