//! The header of every packet (`docs/spec/wire.md#header`).

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MIN_ELICITING_LEN, WireError, split, zero};

/// Length of the header.
pub const HEADER_LEN: usize = 16;
/// The version spoken.
pub const VERSION: u8 = 1;
/// Versions spoken, bit v for version v.
pub const VERSIONS: u16 = 1 << VERSION;

/// The path index of probes: their numbers are a space of their own.
const PROBE_PATH: u8 = 255;

const BLOCKS: u8 = 0b011;
const ACK_NOW: u8 = 0b100;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    version_type: u8,
    flags: u8,
    path: u8,
    key: u8,
    flow: U64,
    number: U32,
}

/// Packet types that may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketType {
    /// Opens a flow.
    Init = 1,
    /// Answers INIT.
    Accept = 2,
    /// Asks for the INIT again, with a token.
    Retry = 3,
    /// Everything within a flow.
    Data = 4,
    /// Says that a packet's flow is not known.
    Reset = 5,
    /// Tries a pair of ports.
    Probe = 6,
    /// Says where that arrived, and tries the way back.
    ProbeReply = 7,
}

impl PacketType {
    /// The path index that its numbers belong to.
    const fn path(self) -> u8 {
        match self {
            Self::Probe | Self::ProbeReply => PROBE_PATH,
            _ => 0,
        }
    }
}

/// What of a packet says which engine of an endpoint it belongs to (`docs/spec/wire.md#several-engines`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The flow of this id.
    Flow(u64),
    /// Whoever accepts flows of this initiator.
    Initiator {
        /// The id that it chose.
        source: u64,
        /// It receives on one port alone.
        single_port: bool,
    },
}

/// Whom a packet is for, as far as that can be said without knowing any flow; `None` if it is nobody's, or says only whose
/// packet it answers. Nothing else of the packet is looked at.
#[must_use]
#[inline]
pub fn addressee(packet: &[u8]) -> Option<Addressee> {
    let header = packet.first_chunk::<HEADER_LEN>()?;
    if header[0] >> 4 != VERSION {
        return None;
    }
    if header[0] & 0x0f == PacketType::Init as u8 {
        let source = packet.get(16..24)?.try_into().ok().map(u64::from_be_bytes)?;
        let ports = packet.get(48..52)?;
        return Some(Addressee::Initiator { source, single_port: ports[..2] == ports[2..] });
    }
    let id = header[4..12].try_into().ok().map(u64::from_be_bytes)?;
    (id != 0).then_some(Addressee::Flow(id))
}

/// The header's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Packet type.
    pub packet_type: PacketType,
    /// Number of acknowledgement blocks, 0–3; 0 except in DATA.
    pub blocks: u8,
    /// The sender wants an acknowledgement at once.
    pub ack_now: bool,
    /// The flow, by the id its receiver chose; 0 where none is known.
    pub flow: u64,
    /// Low half of the packet number.
    pub number: u32,
}

impl Header {
    /// Splits `packet` into its header and what follows.
    ///
    /// # Errors
    /// [`WireError::Version`] for any other version (of a packet long enough to say so), and the usual ones.
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (_, rest) = split(packet, HEADER_LEN, "header")?;
        let (raw, _) = Raw::ref_from_prefix(packet).map_err(|_| WireError::Truncated {
            what: "header",
            need: HEADER_LEN,
            have: packet.len(),
        })?;
        if raw.version_type >> 4 != VERSION {
            return Err(WireError::Version(raw.version_type >> 4));
        }
        let packet_type = match raw.version_type & 0x0f {
            1 => PacketType::Init,
            2 => PacketType::Accept,
            3 => PacketType::Retry,
            4 => PacketType::Data,
            5 => PacketType::Reset,
            6 => PacketType::Probe,
            7 => PacketType::ProbeReply,
            other => return Err(WireError::PacketType(other)),
        };
        let known = if packet_type == PacketType::Data { BLOCKS | ACK_NOW } else { 0 };
        zero("flags", raw.flags & !known)?;
        if raw.path != packet_type.path() {
            return Err(WireError::Value { what: "path", value: raw.path.into() });
        }
        zero("key", raw.key)?;
        let header = Self {
            packet_type,
            blocks: raw.flags & BLOCKS,
            ack_now: raw.flags & ACK_NOW != 0,
            flow: raw.flow.get(),
            number: raw.number.get(),
        };
        match packet_type {
            PacketType::Init => zero("flow id of INIT", header.flow)?,
            PacketType::Reset => {}
            _ if header.flow == 0 => return Err(WireError::Value { what: "flow id", value: 0 }),
            _ => {}
        }
        Ok((header, rest))
    }

    /// Writes the header to the first [`HEADER_LEN`] bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter.
    pub fn emit(&self, out: &mut [u8]) {
        let raw = Raw {
            version_type: VERSION << 4 | self.packet_type as u8,
            flags: self.blocks & BLOCKS | if self.ack_now { ACK_NOW } else { 0 },
            path: self.packet_type.path(),
            key: 0,
            flow: self.flow.into(),
            number: self.number.into(),
        };
        out[..HEADER_LEN].copy_from_slice(raw.as_bytes());
    }

    /// The source of an unparsable INIT of another version: enough to answer it. The place of version, type and flow
    /// id never changes. One shorter than a RESET is not answered.
    #[must_use]
    pub fn is_foreign_init(packet: &[u8]) -> bool {
        packet.len() >= MIN_ELICITING_LEN && packet[0] >> 4 != VERSION && packet[0] & 0x0f == PacketType::Init as u8
    }
}
