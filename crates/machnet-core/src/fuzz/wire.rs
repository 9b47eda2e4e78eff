//! Parsers: any bytes give values or an error, and what is written from the values reads the same.

use crate::wire::{
    AckBlock, Chunk, Data, HEADER_LEN, Handshake, Header, PROBE_LEN, PacketType, Probe, RESET_LEN, Reset, Retry,
};

pub(crate) fn header(bytes: &[u8]) {
    let Ok((header, rest)) = Header::parse(bytes) else { return };
    assert_eq!(rest, &bytes[HEADER_LEN..]);
    let mut out = [0xa5; HEADER_LEN];
    header.emit(&mut out);
    assert_eq!(out, bytes[..HEADER_LEN], "a header has one form");
}

pub(crate) fn ack(bytes: &[u8]) {
    let Ok((block, rest)) = AckBlock::parse(bytes) else { return };
    let len = bytes.len() - rest.len();
    assert_eq!(block.len(), len);
    let mut out = vec![0xa5; len];
    assert_eq!(block.emit(&mut out), len);
    assert_eq!(out, bytes[..len], "a block has one form");
}

pub(crate) fn chunks(bytes: &[u8]) {
    let mut packet = vec![0; Data::FIXED_LEN];
    packet.extend_from_slice(bytes);
    data_after(0, &packet);
}

pub(crate) fn data(bytes: &[u8]) {
    let Some((&blocks, rest)) = bytes.split_first() else { return };
    data_after(blocks % 4, rest);
}

/// DATA behind a header that announces so many blocks. Chunks that are skipped are not written again.
fn data_after(blocks: u8, bytes: &[u8]) {
    let header = Header { packet_type: PacketType::Data, blocks, ack_now: false, flow: 1, number: 0 };
    let Ok(data) = Data::parse(&header, bytes) else { return };
    assert_eq!(data.blocks().count(), usize::from(blocks));
    let mut out = vec![0xa5; bytes.len()];
    Data::emit_fixed(data.floor, data.credit, &mut out);
    let mut at = Data::FIXED_LEN;
    for block in data.blocks() {
        at += block.emit(&mut out[at..]);
    }
    for chunk in data.chunks() {
        legal(&chunk);
        at += chunk.emit(&mut out[at..]);
    }
    let again = Data::parse(&header, &out[..at]).expect("what was written reads");
    assert_eq!((again.floor, again.credit), (data.floor, data.credit));
    assert!(again.blocks().eq(data.blocks()));
    assert!(again.chunks().eq(data.chunks()));
}

/// What the flow relies on, without looking again.
fn legal(chunk: &Chunk<'_>) {
    if let Chunk::Part { offset, total, payload, .. } = *chunk {
        let end = u64::from(offset) + payload.len() as u64;
        assert!(!payload.is_empty() && offset.is_multiple_of(64) && end <= total.into());
        assert!(end == u64::from(total) || end.is_multiple_of(64));
    }
}

pub(crate) fn handshake(bytes: &[u8]) {
    let Ok(handshake) = Handshake::parse(bytes) else { return };
    assert!(handshake.token.len() <= Handshake::MAX_TOKEN && handshake.source != 0);
    let mut out = vec![0xa5; Handshake::PACKET_LEN - HEADER_LEN];
    handshake.emit(&mut out);
    assert_eq!(Handshake::parse(&out), Ok(handshake));
}

pub(crate) fn retry(bytes: &[u8]) {
    let Ok(retry) = Retry::parse(bytes) else { return };
    let mut out = [0xa5; 4 + Handshake::MAX_TOKEN];
    let len = retry.emit(&mut out);
    assert_eq!(out[..len], bytes[..len], "a RETRY has one form");
}

pub(crate) fn reset(bytes: &[u8]) {
    let Ok(reset) = Reset::parse(bytes) else { return };
    let mut out = [0xa5; RESET_LEN - HEADER_LEN];
    Reset::emit(reset.reason, &bytes[4..], &mut out);
    let again = Reset::parse(&out).expect("what was written reads");
    assert_eq!((again.reason, again.flow, again.number), (reset.reason, reset.flow, reset.number));
}

pub(crate) fn probe(bytes: &[u8]) {
    let Ok(probe) = Probe::parse(bytes) else { return };
    let mut out = [0xa5; PROBE_LEN - HEADER_LEN];
    probe.emit(&mut out);
    assert_eq!(Probe::parse(&out), Ok(probe));
}

/// All of a packet, as the engine reads it.
pub(crate) fn packet(bytes: &[u8]) {
    let Ok((header, rest)) = Header::parse(bytes) else {
        let _ = Header::is_foreign_init(bytes);
        return;
    };
    match header.packet_type {
        PacketType::Init | PacketType::Accept => handshake(rest),
        PacketType::Retry => retry(rest),
        PacketType::Data => data_after(header.blocks, rest),
        PacketType::Reset => reset(rest),
        PacketType::Probe | PacketType::ProbeReply => probe(rest),
    }
}
