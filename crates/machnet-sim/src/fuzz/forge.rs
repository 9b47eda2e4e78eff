//! Packets that no engine made.

use arbitrary::{Result, Unstructured};
use machnet_core::wire::{
    AckBlock, Chunk, Data, HEADER_LEN, Handshake, Header, MAX_BITMAP_WORDS, MIN_ELICITING_LEN, PROBE_LEN, PacketType,
    Probe, RESET_LEN, Reason, Reset, Retry, SeenAt, VERSIONS,
};

const TYPES: [PacketType; 7] = [
    PacketType::Init,
    PacketType::Accept,
    PacketType::Retry,
    PacketType::Data,
    PacketType::Reset,
    PacketType::Probe,
    PacketType::ProbeReply,
];

/// A well-formed packet of somebody who does not see the wire: its ids are none that `known` says are in use. Guessing one
/// takes 2³² tries, but a fuzzer reads comparisons.
pub(super) fn blind(u: &mut Unstructured<'_>, known: impl Fn(u64) -> bool) -> Result<Vec<u8>> {
    let kind = *u.choose(&TYPES)?;
    let slot = u64::from(u.int_in_range(0..=3u8)?) << 32;
    let mut id = || -> Result<u64> { Ok(unknown(slot | u64::from(u.arbitrary::<u32>()?.max(1)), &known)) };
    let (flow, other) = (id()?, id()?);
    build(u, kind, if kind == PacketType::Init { 0 } else { flow }, other, 0)
}

fn unknown(mut id: u64, known: &impl Fn(u64) -> bool) -> u64 {
    while known(id) {
        id ^= 1 << 31 | 1;
        id = id.wrapping_add(2);
    }
    id
}

/// A packet in the place of `old`, of the same flow, with a number near to its own.
pub(super) fn knowing(u: &mut Unstructured<'_>, old: &[u8]) -> Result<Vec<u8>> {
    let Ok((header, _)) = Header::parse(old) else { return Ok(old.to_vec()) };
    let kind = if u.ratio(3, 4)? { PacketType::Data } else { *u.choose(&TYPES)? };
    let number = header.number.wrapping_add(u.int_in_range(0..=40)?).wrapping_sub(4);
    let flow = if kind == PacketType::Init { 0 } else { header.flow.max(1) };
    build(u, kind, flow, header.flow.max(1), number)
}

/// Bits flipped, an end cut off, or bytes added; mostly where headers are.
pub(super) fn alter(u: &mut Unstructured<'_>, packet: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=3)? {
        let len = packet.len();
        match u.int_in_range(0..=9)? {
            0 => packet.truncate(u.int_in_range(0..=len)?),
            1 => packet.resize(len + u.int_in_range(1..=64)?, u.arbitrary()?),
            2..=7 if len > 0 => packet[u.int_in_range(0..=len.min(80) - 1)?] ^= u.int_in_range(1..=255u8)?,
            _ if len > 0 => packet[u.int_in_range(0..=len - 1)?] ^= u.int_in_range(1..=255u8)?,
            _ => {}
        }
    }
    Ok(())
}

fn build(u: &mut Unstructured<'_>, packet_type: PacketType, flow: u64, source: u64, number: u32) -> Result<Vec<u8>> {
    let data = packet_type == PacketType::Data;
    let blocks = if data { u.int_in_range(0..=2)? } else { 0 };
    let header = Header { packet_type, blocks, ack_now: data && u.arbitrary()?, flow, number };
    let mut out = vec![0; Handshake::PACKET_LEN];
    header.emit(&mut out);
    let body = &mut out[HEADER_LEN..];
    let len = match packet_type {
        PacketType::Init | PacketType::Accept => {
            handshake(u, source, body)?;
            body.len()
        }
        PacketType::Retry => Retry { token: &[7; 64][..u.int_in_range(1..=64)?] }.emit(body),
        PacketType::Reset => {
            let answered = Header { packet_type: PacketType::Data, blocks: 0, ack_now: false, flow: source, number };
            let mut echo = [0; HEADER_LEN];
            answered.emit(&mut echo);
            Reset::emit(reason(u)?, &echo, body);
            RESET_LEN - HEADER_LEN
        }
        PacketType::Data => contents(u, blocks, body)?,
        PacketType::Probe | PacketType::ProbeReply => {
            Probe {
                nonce: u.int_in_range(1..=u64::MAX)?,
                answers: u.arbitrary::<bool>()?.then_some((source.max(1), u.arbitrary()?)),
                seen: u
                    .arbitrary::<bool>()?
                    .then_some(SeenAt { ports: u.arbitrary()?, engine: u.int_in_range(0..=254)? }),
                settled: u.arbitrary()?,
                home: u.arbitrary()?,
                last: u.arbitrary()?,
                more: u.arbitrary()?,
            }
            .emit(body);
            PROBE_LEN - HEADER_LEN
        }
    };
    out.truncate(HEADER_LEN + len);
    Ok(out)
}

fn handshake(u: &mut Unstructured<'_>, source: u64, out: &mut [u8]) -> Result<()> {
    let port = u.arbitrary::<u16>()?.max(1);
    Handshake {
        source,
        instance: u.int_in_range(0..=3)?,
        max_message: u.arbitrary()?,
        credit: u.arbitrary()?,
        max_ack_delay_us: u.arbitrary()?,
        versions: VERSIONS,
        engines: u.arbitrary::<u8>()?.max(1),
        ports: (port, port),
        token: &[9; 64][..u.int_in_range(0..=64)?],
    }
    .emit(out);
    Ok(())
}

/// What follows the header of DATA; returns its length.
fn contents(u: &mut Unstructured<'_>, blocks: u8, out: &mut [u8]) -> Result<usize> {
    Data::emit_fixed(u.arbitrary()?, u.arbitrary()?, out);
    let mut at = Data::FIXED_LEN;
    for _ in 0..blocks {
        let mut bitmap = [0; MAX_BITMAP_WORDS];
        bitmap[0] = u.arbitrary()?;
        let largest = if u.ratio(7, 8)? { u.int_in_range(0..=60)? } else { u.arbitrary()? };
        let words = u.int_in_range(0..=2)?;
        bitmap[usize::from(words)..].fill(0);
        let run = u.int_in_range(1..=70)?;
        at += AckBlock { largest, run, delay_us: u.arbitrary()?, words, bitmap }.emit(&mut out[at..]);
    }
    for _ in 0..u.int_in_range(0..=3)? {
        at += chunk(u, &mut out[at..])?;
    }
    if at + HEADER_LEN < MIN_ELICITING_LEN {
        Chunk::emit_pad(&mut out[at..at + 24]);
        at += 24;
    }
    Ok(at)
}

fn chunk(u: &mut Unstructured<'_>, out: &mut [u8]) -> Result<usize> {
    let payload = [u.arbitrary::<u8>()?; 256];
    let id = if u.ratio(7, 8)? { u.int_in_range(0..=12)? } else { u.arbitrary()? };
    Ok(match u.int_in_range(0..=7)? {
        0 => Chunk::Whole { id, payload: &payload[..u.int_in_range(0..=256)?] },
        1..=2 => {
            let units: u32 = u.int_in_range(1..=4)?;
            let offset = 64 * u.int_in_range(0..=80u32)?;
            let end = offset + 64 * units;
            let total = if u.arbitrary()? { end } else { end + u.int_in_range(0..=super::host::MAX_MESSAGE)? };
            Chunk::Part { id, offset, total, payload: &payload[..64 * units as usize] }
        }
        3 => Chunk::Fin { next: id },
        4 => Chunk::Stop(reason(u)?),
        5 => Chunk::Abort(reason(u)?),
        6 => Chunk::Blocked { wanted: u.arbitrary()? },
        _ => Chunk::Ping,
    }
    .emit(out))
}

fn reason(u: &mut Unstructured<'_>) -> Result<Reason> {
    Ok(u.int_in_range(0..=8u16)?.into())
}
