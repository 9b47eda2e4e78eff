//! INIT, ACCEPT and RETRY (`docs/spec/wire.md#handshake`).

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BASE_PAYLOAD, HEADER_LEN, WireError, split, zero};

const FIXED_LEN: usize = 48;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    source: U64,
    instance: U64,
    max_message: U32,
    credit: U32,
    max_ack_delay_us: U32,
    versions: U16,
    engines: u8,
    reserved: u8,
    first_port: U16,
    last_port: U16,
    features: U32,
    token_len: U16,
    extensions_len: U16,
    reserved2: U32,
}

/// What both sides tell each other in INIT and ACCEPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The id that packets to the sender must bear; not 0.
    pub source: u64,
    /// A random number of the sender's start.
    pub instance: u64,
    /// The largest message the sender receives, bytes.
    pub max_message: u32,
    /// Initial credit, units.
    pub credit: u32,
    /// How long the sender delays acknowledgements, µs.
    pub max_ack_delay_us: u32,
    /// Versions spoken, as bits.
    pub versions: u16,
    /// Engines of the sender; ≥ 1.
    pub engines: u8,
    /// First and last UDP port the sender receives on.
    pub ports: (u16, u16),
    /// Empty, or what a RETRY gave.
    pub token: &'a [u8],
}

impl<'a> Handshake<'a> {
    /// Bytes of UDP payload that INIT and ACCEPT take.
    pub const PACKET_LEN: usize = BASE_PAYLOAD;
    /// The longest token.
    pub const MAX_TOKEN: usize = 64;

    /// Reads what follows the header.
    ///
    /// # Errors
    /// Truncated, or a forbidden value.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (_, rest) = split(bytes, FIXED_LEN, "handshake")?;
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| WireError::Truncated {
            what: "handshake",
            need: FIXED_LEN,
            have: bytes.len(),
        })?;
        let forbid = |what, value: u64| Err(WireError::Value { what, value });
        if raw.source.get() == 0 {
            return forbid("source flow id", 0);
        }
        if raw.engines == 0 {
            return forbid("engines", 0);
        }
        if raw.first_port.get() == 0 || raw.first_port.get() > raw.last_port.get() {
            return forbid("first port", raw.first_port.get().into());
        }
        zero("reserved bits of the handshake", raw.reserved)?;
        zero("reserved bits of the handshake", raw.reserved2.get())?;
        if raw.token_len.get() as usize > Self::MAX_TOKEN {
            return forbid("token length", raw.token_len.get().into());
        }
        let (token, rest) = split(rest, raw.token_len.get() as usize, "token")?;
        let (mut extensions, _) = split(rest, raw.extensions_len.get() as usize, "extensions")?;
        while !extensions.is_empty() {
            let (head, body) = split(extensions, 4, "extension")?;
            let len = u16::from_be_bytes([head[2], head[3]]) as usize;
            (_, extensions) = split(body, len, "extension")?;
        }
        Ok(Self {
            source: raw.source.get(),
            instance: raw.instance.get(),
            max_message: raw.max_message.get(),
            credit: raw.credit.get(),
            max_ack_delay_us: raw.max_ack_delay_us.get(),
            versions: raw.versions.get(),
            engines: raw.engines,
            ports: (raw.first_port.get(), raw.last_port.get()),
            token,
        })
    }

    /// Fills `out`, the packet after its header, padding included.
    ///
    /// # Panics
    /// If `out` is too short, or the token too long.
    pub fn emit(&self, out: &mut [u8]) {
        assert!(self.token.len() <= Self::MAX_TOKEN, "a token is at most 64 bytes");
        let raw = Raw {
            source: self.source.into(),
            instance: self.instance.into(),
            max_message: self.max_message.into(),
            credit: self.credit.into(),
            max_ack_delay_us: self.max_ack_delay_us.into(),
            versions: self.versions.into(),
            engines: self.engines,
            reserved: 0,
            first_port: self.ports.0.into(),
            last_port: self.ports.1.into(),
            features: 0.into(),
            token_len: (self.token.len() as u16).into(),
            extensions_len: 0.into(),
            reserved2: 0.into(),
        };
        out[..FIXED_LEN].copy_from_slice(raw.as_bytes());
        out[FIXED_LEN..][..self.token.len()].copy_from_slice(self.token);
        out[FIXED_LEN + self.token.len()..].fill(0);
    }
}

/// RETRY after its header: the token to come back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry<'a> {
    /// Up to [`Handshake::MAX_TOKEN`] bytes.
    pub token: &'a [u8],
}

impl<'a> Retry<'a> {
    /// Bytes in front of the token.
    pub const OVERHEAD: usize = 4;

    /// Reads what follows the header.
    ///
    /// # Errors
    /// Truncated, or a token that is empty or too long.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, rest) = split(bytes, Self::OVERHEAD, "RETRY")?;
        let len = u16::from_be_bytes([head[0], head[1]]);
        zero("reserved bits of RETRY", u16::from_be_bytes([head[2], head[3]]))?;
        if len == 0 || len as usize > Handshake::MAX_TOKEN {
            return Err(WireError::Value { what: "token length", value: len.into() });
        }
        Ok(Self { token: split(rest, len as usize, "token")?.0 })
    }

    /// Writes it to the start of `out`; returns its length.
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        out[..2].copy_from_slice(&(self.token.len() as u16).to_be_bytes());
        out[2..4].fill(0);
        out[Self::OVERHEAD..][..self.token.len()].copy_from_slice(self.token);
        Self::OVERHEAD + self.token.len()
    }
}

const _: () = assert!(HEADER_LEN + FIXED_LEN + Handshake::MAX_TOKEN <= BASE_PAYLOAD);
