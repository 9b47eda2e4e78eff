//! Chunks of DATA packets (`docs/spec/wire.md#chunks`).

use super::{Reason, WireError, split};

/// Length of a chunk's header.
pub const CHUNK_HEADER_LEN: usize = 4;

const PAD: u8 = 0;
const MESSAGE: u8 = 1;
const FIN: u8 = 2;
const STOP: u8 = 3;
const ABORT: u8 = 4;
const BLOCKED: u8 = 5;
const PING: u8 = 6;
const REFUSED: u8 = 9;

/// Flag of MESSAGE: the payload is the whole message.
const WHOLE: u16 = 1;

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// A whole message.
    Whole {
        /// Message id.
        id: u32,
        /// The message.
        payload: &'a [u8],
    },
    /// Part of a message.
    Part {
        /// Message id.
        id: u32,
        /// Where the payload begins; a multiple of 64.
        offset: u32,
        /// Length of the message.
        total: u32,
        /// The bytes from `offset`; not empty, and a multiple of 64 long unless it ends the message.
        payload: &'a [u8],
    },
    /// No message from this id on.
    Fin {
        /// The first id that will not come.
        next: u32,
    },
    /// The sender reads no more.
    Stop(Reason),
    /// The flow ends.
    Abort(Reason),
    /// The sender has data and no credit.
    Blocked {
        /// Cumulative units that would unblock it, modulo 2³².
        wanted: u32,
    },
    /// Asks for an acknowledgement.
    Ping,
    /// There was no memory for packets; asks for nothing.
    Refused {
        /// Low half of the number of the first.
        first: u32,
        /// And of the last.
        last: u32,
    },
}

impl<'a> Chunk<'a> {
    /// Bytes of a MESSAGE chunk in front of a whole message's payload.
    pub const WHOLE_OVERHEAD: usize = CHUNK_HEADER_LEN + 4;
    /// Bytes of a MESSAGE chunk in front of a part's payload.
    pub const PART_OVERHEAD: usize = CHUNK_HEADER_LEN + 12;

    /// Bytes on the wire.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Whole { payload, .. } => Self::WHOLE_OVERHEAD + payload.len(),
            Self::Part { payload, .. } => Self::PART_OVERHEAD + payload.len(),
            Self::Fin { .. } | Self::Blocked { .. } => CHUNK_HEADER_LEN + 4,
            Self::Stop(_) | Self::Abort(_) => CHUNK_HEADER_LEN + 2,
            Self::Ping => CHUNK_HEADER_LEN,
            Self::Refused { .. } => CHUNK_HEADER_LEN + 8,
        }
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Splits the first chunk off `bytes`; `None` for PAD, unknown and reserved types.
    fn parse(bytes: &'a [u8]) -> Result<(Option<Self>, &'a [u8]), WireError> {
        let (head, rest) = split(bytes, CHUNK_HEADER_LEN, "chunk header")?;
        let chunk_type = head[0] >> 4;
        let flags = u16::from_be_bytes([head[0], head[1]]) & 0x0fff;
        let len = u16::from_be_bytes([head[2], head[3]]) as usize;
        let (body, rest) = split(rest, len, "chunk body")?;
        let chunk = match chunk_type {
            MESSAGE if flags & WHOLE != 0 => {
                let (id, payload) = take_u32(body, "whole message")?;
                Self::Whole { id, payload }
            }
            MESSAGE => {
                let (id, body) = take_u32(body, "message part")?;
                let (offset, body) = take_u32(body, "message part")?;
                let (total, payload) = take_u32(body, "message part")?;
                check_part(offset, total, payload.len())?;
                Self::Part { id, offset, total, payload }
            }
            FIN => Self::Fin { next: take_u32(body, "FIN")?.0 },
            STOP => Self::Stop(take_reason(body, "STOP")?),
            ABORT => Self::Abort(take_reason(body, "ABORT")?),
            BLOCKED => Self::Blocked { wanted: take_u32(body, "BLOCKED")?.0 },
            PING => Self::Ping,
            REFUSED => {
                let (first, body) = take_u32(body, "REFUSED")?;
                Self::Refused { first, last: take_u32(body, "REFUSED")?.0 }
            }
            _ => return Ok((None, rest)),
        };
        Ok((Some(chunk), rest))
    }

    /// Writes the chunk to the start of `out`; returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than [`Chunk::len`], or the chunk longer than 65 539 bytes.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let body = self.len() - CHUNK_HEADER_LEN;
        let (chunk_type, flags) = match self {
            Self::Whole { .. } => (MESSAGE, WHOLE),
            Self::Part { .. } => (MESSAGE, 0),
            Self::Fin { .. } => (FIN, 0),
            Self::Stop(_) => (STOP, 0),
            Self::Abort(_) => (ABORT, 0),
            Self::Blocked { .. } => (BLOCKED, 0),
            Self::Ping => (PING, 0),
            Self::Refused { .. } => (REFUSED, 0),
        };
        emit_header(chunk_type, flags, body, out);
        let out = &mut out[CHUNK_HEADER_LEN..][..body];
        match *self {
            Self::Whole { id, payload } => {
                out[..4].copy_from_slice(&id.to_be_bytes());
                out[4..].copy_from_slice(payload);
            }
            Self::Part { id, offset, total, payload } => {
                out[..4].copy_from_slice(&id.to_be_bytes());
                out[4..8].copy_from_slice(&offset.to_be_bytes());
                out[8..12].copy_from_slice(&total.to_be_bytes());
                out[12..].copy_from_slice(payload);
            }
            Self::Fin { next: value } | Self::Blocked { wanted: value } => out.copy_from_slice(&value.to_be_bytes()),
            Self::Stop(reason) | Self::Abort(reason) => out.copy_from_slice(&(reason as u16).to_be_bytes()),
            Self::Ping => {}
            Self::Refused { first, last } => {
                out[..4].copy_from_slice(&first.to_be_bytes());
                out[4..].copy_from_slice(&last.to_be_bytes());
            }
        }
        self.len()
    }

    /// Writes what stands in front of a whole message of `len` bytes; returns its length, [`Chunk::WHOLE_OVERHEAD`].
    ///
    /// # Panics
    /// If `out` is shorter, or the chunk longer than 65 539 bytes.
    pub fn emit_before_whole(id: u32, len: usize, out: &mut [u8]) -> usize {
        emit_header(MESSAGE, WHOLE, Self::WHOLE_OVERHEAD - CHUNK_HEADER_LEN + len, out);
        out[CHUNK_HEADER_LEN..Self::WHOLE_OVERHEAD].copy_from_slice(&id.to_be_bytes());
        Self::WHOLE_OVERHEAD
    }

    /// Writes what stands in front of `len` bytes from `offset` on of a message of `total`; returns its length, [`Chunk::PART_OVERHEAD`].
    ///
    /// # Panics
    /// If `out` is shorter, or the chunk longer than 65 539 bytes.
    pub fn emit_before_part(id: u32, offset: u32, total: u32, len: usize, out: &mut [u8]) -> usize {
        emit_header(MESSAGE, 0, Self::PART_OVERHEAD - CHUNK_HEADER_LEN + len, out);
        for (place, value) in out[CHUNK_HEADER_LEN..Self::PART_OVERHEAD].chunks_exact_mut(4).zip([id, offset, total]) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        Self::PART_OVERHEAD
    }

    /// Writes a PAD chunk that fills `out`, which must have room for a chunk header.
    ///
    /// # Panics
    /// If it has not.
    pub fn emit_pad(out: &mut [u8]) {
        let body = out.len() - CHUNK_HEADER_LEN;
        emit_header(PAD, 0, body, out);
        out[CHUNK_HEADER_LEN..].fill(0);
    }
}

fn emit_header(chunk_type: u8, flags: u16, body: usize, out: &mut [u8]) {
    let body = u16::try_from(body).unwrap_or_else(|_| unreachable!("a chunk is no longer than a datagram"));
    out[..2].copy_from_slice(&(u16::from(chunk_type) << 12 | flags).to_be_bytes());
    out[2..4].copy_from_slice(&body.to_be_bytes());
}

fn take_u32<'a>(bytes: &'a [u8], what: &'static str) -> Result<(u32, &'a [u8]), WireError> {
    match bytes.split_first_chunk::<4>() {
        Some((value, rest)) => Ok((u32::from_be_bytes(*value), rest)),
        None => Err(WireError::Truncated { what, need: 4, have: bytes.len() }),
    }
}

fn take_reason(bytes: &[u8], what: &'static str) -> Result<Reason, WireError> {
    match bytes.first_chunk::<2>() {
        Some(value) => Ok(u16::from_be_bytes(*value).into()),
        None => Err(WireError::Truncated { what, need: 2, have: bytes.len() }),
    }
}

fn check_part(offset: u32, total: u32, len: usize) -> Result<(), WireError> {
    const UNIT: u32 = machnet_channel::UNIT as u32;
    if len == 0 {
        return Err(WireError::Value { what: "length of a part", value: 0 });
    }
    if !offset.is_multiple_of(UNIT) {
        return Err(WireError::Value { what: "offset of a part", value: offset.into() });
    }
    let end = u64::from(offset) + len as u64;
    if end > u64::from(total) {
        return Err(WireError::Value { what: "end of a part", value: end });
    }
    if end < u64::from(total) && !end.is_multiple_of(u64::from(UNIT)) {
        return Err(WireError::Value { what: "end of a part", value: end });
    }
    Ok(())
}

/// The chunks of a packet, already checked.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'a> {
    bytes: &'a [u8],
    elicits: bool,
    refuses: bool,
}

impl<'a> Chunks<'a> {
    /// Checks `bytes` from the first chunk to the last.
    ///
    /// # Errors
    /// What is wrong with the first chunk that is.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = bytes;
        let (mut elicits, mut refuses) = (false, false);
        while !rest.is_empty() {
            let chunk_type = rest[0] >> 4;
            (_, rest) = Chunk::parse(rest)?;
            elicits |= !matches!(chunk_type, PAD | REFUSED);
            refuses |= chunk_type == REFUSED;
        }
        Ok(Self { bytes, elicits, refuses })
    }

    /// True if there is a chunk other than PAD and REFUSED: the packet is to be acknowledged.
    #[must_use]
    pub const fn elicits(&self) -> bool {
        self.elicits
    }

    /// The first and last number of the first REFUSED.
    #[must_use]
    pub fn refused(mut self) -> Option<(u32, u32)> {
        if !self.refuses {
            return None;
        }
        self.find_map(|chunk| match chunk {
            Chunk::Refused { first, last } => Some((first, last)),
            _ => None,
        })
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        while !self.bytes.is_empty() {
            match Chunk::parse(self.bytes) {
                Ok((chunk, rest)) => {
                    self.bytes = rest;
                    if chunk.is_some() {
                        return chunk;
                    }
                }
                // Checked in `parse`.
                Err(_) => self.bytes = &[],
            }
        }
        None
    }
}
