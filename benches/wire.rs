//! What a packet costs in the wire formats alone: building and reading one full DATA packet, and one small one.
//!
//! `cargo bench --bench wire`. Everything an engine does besides is in `examples/echo`.
#![allow(missing_docs, reason = "criterion's macros make an undocumented main")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use machnet_core::wire::{AckBlock, BASE_PAYLOAD, Chunk, Data, HEADER_LEN, Header, MAX_BITMAP_WORDS, PacketType};

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

fn wire(criterion: &mut Criterion) {
    for len in [64, 1024] {
        let payload = vec![1; len];
        let mut packet = [0; BASE_PAYLOAD];
        let end = emit(&payload, &mut packet);
        assert_eq!(parse(&packet[..end]), len);
        let mut group = criterion.benchmark_group(format!("{len} B"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("emit", |bencher| {
            bencher.iter_batched_ref(|| [0; BASE_PAYLOAD], |out| emit(black_box(&payload), out), BatchSize::SmallInput);
        });
        group.bench_function("parse", |bencher| bencher.iter(|| parse(black_box(&packet[..end]))));
        group.finish();
    }
}

criterion_group!(benches, wire);
criterion_main!(benches);
