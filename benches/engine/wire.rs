//! The wire formats alone: building and reading one full DATA packet, and one small one.

use std::hint::black_box;

use machnet_core::wire::{AckBlock, BASE_PAYLOAD, Chunk, Data, HEADER_LEN, Header, MAX_BITMAP_WORDS, PacketType};

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case { name: "emit_64", operations: 1, counts: true, make: || emitting(64) },
    Case { name: "emit_1024", operations: 1, counts: true, make: || emitting(1024) },
    Case { name: "parse_64", operations: 1, counts: true, make: || parsing(64) },
    Case { name: "parse_1024", operations: 1, counts: true, make: || parsing(1024) },
];

fn emitting(len: usize) -> Box<dyn FnMut(bool)> {
    let payload = vec![1; len];
    let mut packet = [0; BASE_PAYLOAD];
    Box::new(move |counted| {
        let (payload, out) = (black_box(&payload), black_box(&mut packet));
        black_box(if counted { counted_emit(payload, out) } else { emit(payload, out) });
    })
}

fn parsing(len: usize) -> Box<dyn FnMut(bool)> {
    let mut packet = [0; BASE_PAYLOAD];
    let end = emit(&vec![1; len], &mut packet);
    assert_eq!(parse(&packet[..end]), len);
    Box::new(move |counted| {
        let packet = black_box(&packet[..end]);
        black_box(if counted { counted_parse(packet) } else { parse(packet) });
    })
}

#[inline(never)]
fn counted_emit(payload: &[u8], out: &mut [u8]) -> usize {
    black_box(emit(payload, out))
}

#[inline(never)]
fn counted_parse(packet: &[u8]) -> usize {
    black_box(parse(packet))
}

/// Writes a DATA packet with one acknowledgement block and a whole message; returns its length.
fn emit(payload: &[u8], out: &mut [u8]) -> usize {
    let header = Header { packet_type: PacketType::Data, blocks: 1, ack_now: false, flow: 7, number: 9 };
    header.emit(out);
    Data::emit_fixed(3, 32_768, &mut out[HEADER_LEN..]);
    let mut at = HEADER_LEN + Data::FIXED_LEN;
    let block = AckBlock { largest: 5, run: 6, delay_us: 20, words: 0, bitmap: [0; MAX_BITMAP_WORDS] };
    at += block.emit(&mut out[at..]);
    at + Chunk::Whole { id: 1, payload }.emit(&mut out[at..])
}

/// Reads a packet down to its last chunk; returns how many payload bytes it carries.
fn parse(packet: &[u8]) -> usize {
    let Ok((header, rest)) = Header::parse(packet) else { return 0 };
    let Ok(data) = Data::parse(&header, rest) else { return 0 };
    data.chunks().map(|chunk| if let Chunk::Whole { payload, .. } = chunk { payload.len() } else { 0 }).sum()
}
