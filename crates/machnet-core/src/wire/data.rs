//! DATA: what stands between its header and its chunks (`docs/spec/wire.md#data`).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{AckBlock, Chunks, Header, WireError, split, zero};

/// The least length of a packet that elicits an acknowledgement.
pub const MIN_ELICITING_LEN: usize = 40;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    floor: U16,
    reserved: U16,
    credit: U32,
}

/// A DATA packet after its header, checked down to the last chunk.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// The packet's number − the oldest outstanding one.
    pub floor: u16,
    /// Cumulative credit, units, modulo 2³².
    pub credit: u32,
    /// How many blocks there are, and where they begin: they are checked, and read when they are asked for.
    count: u8,
    blocks: &'a [u8],
    chunks: Chunks<'a>,
}

impl<'a> Data<'a> {
    /// Length of the fixed part.
    pub const FIXED_LEN: usize = 8;

    /// Reads what follows `header`.
    ///
    /// # Errors
    /// The first thing in the packet that is wrong; nothing of it counts then.
    #[inline]
    pub fn parse(header: &Header, bytes: &'a [u8]) -> Result<Self, WireError> {
        let (_, blocks) = split(bytes, Self::FIXED_LEN, "DATA")?;
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| WireError::Truncated {
            what: "DATA",
            need: Self::FIXED_LEN,
            have: bytes.len(),
        })?;
        zero("reserved bits of DATA", raw.reserved.get())?;
        let mut rest = blocks;
        for _ in 0..header.blocks {
            rest = AckBlock::check(rest)?;
        }
        let (floor, credit, chunks) = (raw.floor.get(), raw.credit.get(), Chunks::parse(rest)?);
        Ok(Self { floor, credit, count: header.blocks, blocks, chunks })
    }

    /// Writes the fixed part to the start of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than [`Data::FIXED_LEN`].
    pub fn emit_fixed(floor: u16, credit: u32, out: &mut [u8]) {
        let raw = Raw { floor: floor.into(), reserved: 0.into(), credit: credit.into() };
        out[..Self::FIXED_LEN].copy_from_slice(raw.as_bytes());
    }

    /// The acknowledgement blocks.
    pub fn blocks(&self) -> impl Iterator<Item = AckBlock> {
        let mut rest = self.blocks;
        (0..self.count).map_while(move |_| {
            let (block, after) = AckBlock::parse(rest).ok()?;
            rest = after;
            Some(block)
        })
    }

    /// The first of them.
    #[must_use]
    #[inline]
    pub fn block(&self) -> Option<AckBlock> {
        if self.count > 0 { AckBlock::parse(self.blocks).ok().map(|(block, _)| block) } else { None }
    }

    /// The chunks.
    #[must_use]
    pub const fn chunks(&self) -> Chunks<'a> {
        self.chunks
    }
}
