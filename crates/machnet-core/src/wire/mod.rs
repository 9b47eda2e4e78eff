//! The wire formats of `docs/spec/wire.md`: for each structure owned values, a total `parse`, and `emit`.
//!
//! `parse` takes any bytes and gives values or a [`WireError`]; it checks everything the specification says about one
//! packet alone. What depends on a flow (is this number new, was that ever sent) is the flow's business.

mod ack;
mod chunk;
mod data;
mod handshake;
mod header;
mod probe;
mod reset;

pub use ack::{AckBlock, MAX_BITMAP_WORDS};
pub use chunk::{CHUNK_HEADER_LEN, Chunk, Chunks};
pub use data::{Data, MIN_ELICITING_LEN};
pub use handshake::{Handshake, Retry};
pub use header::{Addressee, HEADER_LEN, Header, PacketType, VERSION, VERSIONS, addressee};
pub use probe::{PROBE_LEN, Probe, SeenAt};
pub use reset::{RESET_LEN, Reset};

use crate::DropReason;

/// UDP payload that every path carries; INIT and ACCEPT are padded to it (`docs/spec/wire.md#encapsulation`).
pub const BASE_PAYLOAD: usize = 1232;

/// Bytes kept free at the end of each packet, for an AEAD tag (`docs/spec/wire.md#encapsulation`).
pub const TAILROOM: usize = 16;

/// The most acknowledgement blocks a packet carries.
pub const MAX_BLOCKS: usize = 3;

/// A packet that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The structure ends after the packet.
    #[error("{what} needs {need} bytes, {have} are left")]
    Truncated {
        /// Which structure.
        what: &'static str,
        /// Bytes it needs.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// A version we do not speak.
    #[error("version {0}")]
    Version(u8),
    /// A type we do not know, or one that is reserved.
    #[error("packet type {0}")]
    PacketType(u8),
    /// A field has a value that the specification forbids.
    #[error("{what} is {value}")]
    Value {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

impl From<WireError> for DropReason {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Truncated { .. } => Self::Truncated,
            WireError::Version(_) => Self::Version,
            WireError::PacketType(_) => Self::PacketType,
            WireError::Value { .. } => Self::Malformed,
        }
    }
}

/// `bytes` split after the first `need`, or the error that names `what`.
fn split<'a>(bytes: &'a [u8], need: usize, what: &'static str) -> Result<(&'a [u8], &'a [u8]), WireError> {
    bytes.split_at_checked(need).ok_or(WireError::Truncated { what, need, have: bytes.len() })
}

/// An error if `value`, reserved as 0, is not.
fn zero(what: &'static str, value: impl Into<u64>) -> Result<(), WireError> {
    let value = value.into();
    if value == 0 { Ok(()) } else { Err(WireError::Value { what, value }) }
}

/// Reasons of STOP, ABORT and RESET (`docs/spec/wire.md#reasons`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
#[repr(u16)]
pub enum Reason {
    /// The application wanted it.
    #[default]
    None = 0,
    /// Nobody listens at the port.
    Refused = 1,
    /// None of the versions is spoken.
    Version = 2,
    /// No flow has this id.
    UnknownFlow = 3,
    /// The peer broke the specification.
    Protocol = 4,
    /// A message exceeds the receiver's limit.
    TooLarge = 5,
    /// The endpoint closes.
    Shutdown = 6,
    /// The application is gone, and what it left was not taken in time.
    Linger = 7,
}

impl From<u16> for Reason {
    fn from(value: u16) -> Self {
        match value {
            1 => Self::Refused,
            2 => Self::Version,
            3 => Self::UnknownFlow,
            4 => Self::Protocol,
            5 => Self::TooLarge,
            6 => Self::Shutdown,
            7 => Self::Linger,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests;
