//! The tag of a piece, and messages in several pieces (`docs/spec/sidecar.md#pipes`).
//!
//! ```text
//!   bits 0–14 slot │ 15 MORE │ 16–31 generation, its low half
//! ```

use super::malformed::Malformed;
use crate::{PipeSender, Words};

/// A piece of a message that the application sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The flow.
    pub slot: u32,
    /// Bytes of this piece.
    pub len: usize,
    /// Others of the same message follow.
    pub more: bool,
    /// It is the first of its message. A message of which the last piece did not come before was given up.
    pub begins: bool,
}

const MORE: u32 = 1 << 15;

const fn pack(slot: u32, more: bool, generation: u32) -> u32 {
    slot | if more { MORE } else { 0 } | generation << 16
}

/// Slot, MORE, generation.
pub(super) const fn unpack(tag: u32) -> (u32, bool, u16) {
    (tag & (MORE - 1), tag & MORE != 0, (tag >> 16) as u16)
}

/// Puts `message` from byte `*from` on into a pipe, as far as there is room; true if that is all of it.
#[inline]
pub(super) fn put<W: Words + Clone>(
    pipe: &mut PipeSender<W>,
    max_piece: u32,
    slot: u32,
    generation: u32,
    message: &[u8],
    from: &mut usize,
) -> Result<bool, Malformed> {
    loop {
        let rest = &message[*from..];
        let piece = &rest[..rest.len().min(max_piece as usize)];
        let more = piece.len() < rest.len();
        if !pipe.send(pack(slot, more, generation), piece)? {
            return Ok(false);
        }
        *from += piece.len();
        if !more {
            return Ok(true);
        }
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_fields() {
        for (slot, more, generation) in [(0, false, 0), (32_767, true, u32::MAX), (1, true, 0x1_0002)] {
            assert_eq!(unpack(pack(slot, more, generation)), (slot, more, generation as u16));
        }
    }
}
