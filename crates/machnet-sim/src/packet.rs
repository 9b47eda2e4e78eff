//! What a packet is, as far as filters and readers of traces care.

use std::fmt::Write as _;

use machnet_core::wire::{self, Data, Handshake, Header, PacketType, Probe, Reset};

/// What a packet is (`docs/spec/wire.md#header`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// INIT.
    Init,
    /// ACCEPT.
    Accept,
    /// RESET.
    Reset,
    /// The chunks of a DATA packet.
    Data(Vec<Chunk>),
    /// Anything else, malformed packets too.
    Other,
}

/// A chunk (`docs/spec/wire.md#chunks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// A whole message or part of one.
    Message {
        /// Message id.
        id: u32,
        /// Where it begins.
        offset: u32,
        /// Bytes of payload.
        len: usize,
    },
    /// FIN.
    Fin,
    /// STOP.
    Stop,
    /// ABORT.
    Abort,
    /// BLOCKED.
    Blocked,
    /// PING.
    Ping,
    /// REFUSED.
    Refused,
}

impl Seen {
    /// Reads a packet.
    #[must_use]
    pub fn read(packet: &[u8]) -> Self {
        let Ok((header, rest)) = Header::parse(packet) else { return Self::Other };
        match header.packet_type {
            PacketType::Init => Self::Init,
            PacketType::Accept => Self::Accept,
            PacketType::Reset => Self::Reset,
            PacketType::Retry | PacketType::Probe | PacketType::ProbeReply => Self::Other,
            PacketType::Data => Data::parse(&header, rest)
                .map_or(Self::Other, |data| Self::Data(data.chunks().map(|chunk| Chunk::of(&chunk)).collect())),
        }
    }

    /// True for a DATA packet with such a chunk.
    pub fn has(&self, test: impl Fn(&Chunk) -> bool) -> bool {
        matches!(self, Self::Data(chunks) if chunks.iter().any(test))
    }

    /// True for a DATA packet that carries messages.
    #[must_use]
    pub fn has_message(&self) -> bool {
        self.has(|chunk| matches!(chunk, Chunk::Message { .. }))
    }
}

impl Chunk {
    const fn of(chunk: &wire::Chunk<'_>) -> Self {
        match *chunk {
            wire::Chunk::Whole { id, payload } => Self::Message { id, offset: 0, len: payload.len() },
            wire::Chunk::Part { id, offset, payload, .. } => Self::Message { id, offset, len: payload.len() },
            wire::Chunk::Fin { .. } => Self::Fin,
            wire::Chunk::Stop(_) => Self::Stop,
            wire::Chunk::Abort(_) => Self::Abort,
            wire::Chunk::Blocked { .. } => Self::Blocked,
            wire::Chunk::Ping => Self::Ping,
            wire::Chunk::Refused { .. } => Self::Refused,
        }
    }
}

/// A packet in words, on one line.
#[must_use]
pub fn describe(packet: &[u8]) -> String {
    try_describe(packet).unwrap_or_else(|error| format!("{error}: {}", hex(&packet[..packet.len().min(32)])))
}

fn try_describe(packet: &[u8]) -> Result<String, wire::WireError> {
    let (header, rest) = Header::parse(packet)?;
    let mut text = format!("{:?} to {:016x} pn {}", header.packet_type, header.flow, header.number);
    // Writing to a String does not fail.
    let _ = match header.packet_type {
        PacketType::Init | PacketType::Accept => {
            let Handshake { source, credit, max_message, token, .. } = Handshake::parse(rest)?;
            write!(text, " from {source:016x} credit {credit} max {max_message} token {} B", token.len())
        }
        PacketType::Data => {
            let data = Data::parse(&header, rest)?;
            let ack_now = if header.ack_now { " ACK_NOW" } else { "" };
            let _ = write!(text, " floor −{} credit {}{ack_now}", data.floor, data.credit);
            for block in data.blocks() {
                let _ = write!(text, " ack {}×{}", block.largest, block.run);
                for word in &block.bitmap[..block.words.into()] {
                    let _ = write!(text, ":{word:016x}");
                }
            }
            data.chunks().try_for_each(|chunk| match chunk {
                wire::Chunk::Whole { id, payload } => write!(text, " [message {id}, {} B]", payload.len()),
                wire::Chunk::Part { id, offset, total, payload } => {
                    write!(text, " [message {id}, {offset}..{} of {total}]", offset as usize + payload.len())
                }
                other => write!(text, " [{other:?}]"),
            })
        }
        PacketType::Reset => {
            let Reset { reason, .. } = Reset::parse(rest)?;
            write!(text, " {reason:?}")
        }
        PacketType::Retry => Ok(()),
        PacketType::Probe | PacketType::ProbeReply => write!(text, " {:?}", Probe::parse(rest)?),
    };
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
