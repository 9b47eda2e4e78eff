//! PROBE and PROBE_REPLY (`docs/spec/wire.md#probe-and-probe_reply`).

use zerocopy::byteorder::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{HEADER_LEN, WireError, split, zero};

/// Bytes of UDP payload of PROBE and PROBE_REPLY.
pub const PROBE_LEN: usize = HEADER_LEN + FIXED_LEN;

const FIXED_LEN: usize = 24;
const SETTLED: u8 = 1;
const HOME: u8 = 2;
const LAST: u8 = 4;
const MORE: u8 = 8;
/// No engine has this number.
const NOBODY: u8 = u8::MAX;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    nonce: U64,
    echo: U64,
    hit: u8,
    seen: u8,
    seen_from: U16,
    seen_to: U16,
    flags: u8,
    reserved: u8,
}

/// A packet of a flow that arrived somewhere: by which ports, and at which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenAt {
    /// Source and destination port.
    pub ports: (u16, u16),
    /// The engine whose queue it was.
    pub engine: u8,
}

/// PROBE or PROBE_REPLY after its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What the answer echoes; not 0.
    pub nonce: u64,
    /// The nonce of the packet that this one answers, and the engine on whose queue that arrived.
    pub answers: Option<(u64, u8)>,
    /// Where the flow's last packet arrived that was no probe.
    pub seen: Option<SeenAt>,
    /// The sender needs no other pair for its own direction.
    pub settled: bool,
    /// The answer is to come on the flow's own path.
    pub home: bool,
    /// No answer is wanted.
    pub last: bool,
    /// Another follows at once: a PROBE, and this one is answered only if it hit; or a second answer to the same PROBE.
    pub more: bool,
}

impl Probe {
    /// Reads what follows the header.
    ///
    /// # Errors
    /// Truncated, or a forbidden value.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (body, _) = split(bytes, FIXED_LEN, "probe")?;
        let truncated = |_| WireError::Truncated { what: "probe", need: FIXED_LEN, have: bytes.len() };
        let (raw, _) = Raw::ref_from_prefix(body).map_err(truncated)?;
        if raw.nonce.get() == 0 {
            return Err(WireError::Value { what: "nonce", value: 0 });
        }
        zero("flags of a probe", raw.flags & !(SETTLED | HOME | LAST | MORE))?;
        zero("reserved bits of a probe", raw.reserved)?;
        let seen = SeenAt { ports: (raw.seen_from.get(), raw.seen_to.get()), engine: raw.seen };
        Ok(Self {
            nonce: raw.nonce.get(),
            answers: (raw.echo.get() != 0).then_some((raw.echo.get(), raw.hit)),
            seen: (raw.seen != NOBODY).then_some(seen),
            settled: raw.flags & SETTLED != 0,
            home: raw.flags & HOME != 0,
            last: raw.flags & LAST != 0,
            more: raw.flags & MORE != 0,
        })
    }

    /// Writes it to the start of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than 24 bytes.
    pub fn emit(&self, out: &mut [u8]) {
        let (echo, hit) = self.answers.unwrap_or((0, 0));
        let seen = self.seen.unwrap_or(SeenAt { ports: (0, 0), engine: NOBODY });
        let flag = |on, bit| if on { bit } else { 0 };
        let raw = Raw {
            nonce: self.nonce.into(),
            echo: echo.into(),
            hit,
            seen: seen.engine,
            seen_from: seen.ports.0.into(),
            seen_to: seen.ports.1.into(),
            flags: flag(self.settled, SETTLED) | flag(self.home, HOME) | flag(self.last, LAST) | flag(self.more, MORE),
            reserved: 0,
        };
        out[..FIXED_LEN].copy_from_slice(raw.as_bytes());
    }
}
