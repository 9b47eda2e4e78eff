//! Writes `tools/sample.pcapng`: a packet of every type, and one for everything that can be wrong with one, for the test of
//! the Wireshark dissector. `cargo run -p machnet-sim --example sample_capture -- FILE`
#![allow(clippy::print_stderr, reason = "a program")]

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::ExitCode;

use machnet_core::Instant;
use machnet_core::wire::{
    AckBlock, Chunk, Data, HEADER_LEN, Handshake, Header, MAX_BITMAP_WORDS, PROBE_LEN, PacketType, Probe, RESET_LEN,
    Reason, Reset, Retry, SeenAt, VERSIONS,
};
use machnet_sim::{Event, EventKind, write_pcapng};

const A: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 40_000));
const B: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 9000));
/// Engine 0, slots 1 and 2.
const A_ID: u64 = 1 << 32 | 0xaaaa_0001;
const B_ID: u64 = 2 << 32 | 0xbbbb_0002;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: sample_capture FILE");
        return ExitCode::FAILURE;
    };
    let mut capture = Capture(Vec::new());
    conversation(&mut capture);
    faults(&mut capture);
    match File::create(&path).and_then(|mut file| write_pcapng(&mut file, &capture.0)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// Every packet type and chunk.
fn conversation(capture: &mut Capture) {
    capture.add(A, B, &handshake(PacketType::Init, 0, A_ID, 0, &[]));
    let mut retry = vec![0; HEADER_LEN + 20];
    header(PacketType::Retry, A_ID, 0, 0).emit(&mut retry);
    Retry { token: b"come back!123456" }.emit(&mut retry[HEADER_LEN..]);
    capture.add(B, A, &retry);
    capture.add(A, B, &handshake(PacketType::Init, 0, A_ID, 1, b"come back!123456"));
    capture.add(B, A, &handshake(PacketType::Accept, A_ID, B_ID, 0, &[]));

    let payload = [0x5a; 128];
    capture.add(A, B, &data(B_ID, 2, &[], &[Chunk::Ping, Chunk::Whole { id: 0, payload: b"hello" }]));
    let part = Chunk::Part { id: 1, offset: 64, total: 192, payload: &payload };
    capture.add(A, B, &data(B_ID, 3, &[], &[part, Chunk::Whole { id: 2, payload: &[] }]));
    // Received: 96–100, 94, 92–90, and far below that 30.
    let mut bitmap = [0; MAX_BITMAP_WORDS];
    bitmap[0] = 0b10111 << 59;
    bitmap[1] = 1 << 63;
    let block = AckBlock { largest: 100, run: 5, delay_us: 40, words: 2, bitmap };
    capture.add(B, A, &data(A_ID, 7, &[block], &[]));
    let wrapped = AckBlock { largest: 1, run: 3, delay_us: 0, words: 0, bitmap: [0; MAX_BITMAP_WORDS] };
    capture.add(B, A, &data(A_ID, 8, &[wrapped], &[Chunk::Blocked { wanted: 77 }, Chunk::Stop(Reason::None)]));
    capture.add(A, B, &data(B_ID, 4, &[], &[Chunk::Fin { next: 3 }]));
    capture.add(A, B, &data(B_ID, 5, &[], &[Chunk::Abort(Reason::Protocol)]));

    // Skipped: NEW_ID, CRYPTO, a type without a name. Taken for none: a reason without a name.
    let mut skipped = data(B_ID, 6, &[], &[]);
    skipped.extend_from_slice(&[0x70, 0, 0, 2, 1, 2, 0x80, 0, 0, 0, 0xf0, 0, 0, 1, 9, 0x40, 0, 0, 2, 0, 99]);
    capture.add(A, B, &skipped);
    capture.add(B, A, &reset(0, &data(B_ID, 6, &[], &[]), Reason::UnknownFlow));
    capture.add(B, A, &reset(A_ID, &handshake(PacketType::Init, 0, A_ID, 0, &[]), Reason::Refused));

    let first = Probe { nonce: 7, answers: None, seen: None, settled: false, home: true, last: false, more: false };
    capture.add(A, B, &probe(PacketType::Probe, B_ID, &first));
    let seen = Some(SeenAt { ports: (40_000, 9000), engine: 2 });
    let answer = Probe { nonce: 8, answers: Some((7, 3)), seen, settled: true, home: false, last: false, more: true };
    capture.add(B, A, &probe(PacketType::ProbeReply, A_ID, &answer));
}

/// One fault each, in the conversation above: the heuristic would not take them for Machnet.
fn faults(capture: &mut Capture) {
    let good = data(B_ID, 9, &[], &[Chunk::Ping]);
    let mut with = |at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        capture.add(A, B, &packet);
    };
    with(0, &[0x24]); // version 2
    with(0, &[0x16]); // the path of a PROBE
    with(0, &[0x19]); // type 9
    with(1, &[0x08]); // an unknown flag
    with(2, &[1]); // path
    with(3, &[1]); // key
    with(4, &[0; 8]); // no flow id
    with(18, &[0, 1]); // reserved bits of DATA
    with(26, &[0, 200]); // a chunk beyond the packet
    with(24, &[0x20, 0, 0, 2]); // a FIN of two bytes
    for len in [10, 20, 27] {
        capture.add(A, B, &good[..len]);
    }

    let block = AckBlock { largest: 5, run: 1, delay_us: 0, words: 0, bitmap: [0; MAX_BITMAP_WORDS] };
    let mut acked = |at: usize, value: u8| {
        let mut packet = data(B_ID, 10, &[block], &[]);
        packet[at] = value;
        capture.add(A, B, &packet);
    };
    acked(29, 0); // run 0
    acked(30, 1); // path
    acked(31, 17); // 17 words
    acked(31, 2); // words beyond the packet
    acked(35, 1); // reserved bits
    capture.add(A, B, &data(B_ID, 11, &[block, block], &[]));

    for (offset, total, len) in [(1, 128, 64), (0, 128, 0), (64, 100, 64), (0, 128, 65)] {
        capture.add(A, B, &data(B_ID, 12, &[], &[Chunk::Part { id: 0, offset, total, payload: &[0; 128][..len] }]));
    }

    let init = handshake(PacketType::Init, 0, A_ID, 0, &[]);
    let mut with = |at: usize, bytes: &[u8]| {
        let mut packet = init.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        capture.add(A, B, &packet);
    };
    with(4, &[1; 8]); // a flow id
    with(16, &[0; 8]); // no source id
    with(46, &[0]); // no engine
    with(47, &[1]); // reserved bits
    with(48, &[0, 0]); // port 0
    with(56, &[0, 65]); // a token too long
    with(58, &[255, 255]); // extensions beyond the packet
    with(58, &[0, 6, 0, 0, 0, 0, 0, 1, 0, 9]); // an extension beyond the extensions
    capture.add(A, B, &init[..200]);
    capture.add(A, B, &reset(0, &good, Reason::UnknownFlow)[..30]);
}

fn header(packet_type: PacketType, flow: u64, number: u32, blocks: usize) -> Header {
    Header { packet_type, blocks: blocks as u8, ack_now: blocks > 0, flow, number }
}

fn handshake(packet_type: PacketType, flow: u64, source: u64, number: u32, token: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; Handshake::PACKET_LEN];
    header(packet_type, flow, number, 0).emit(&mut packet);
    Handshake {
        source,
        instance: 0x1122_3344_5566_7788,
        max_message: 64 << 20,
        credit: 32_768,
        max_ack_delay_us: 250,
        versions: VERSIONS,
        engines: 1,
        ports: (9000, 9000),
        token,
    }
    .emit(&mut packet[HEADER_LEN..]);
    packet
}

fn data(flow: u64, number: u32, blocks: &[AckBlock], chunks: &[Chunk<'_>]) -> Vec<u8> {
    let mut packet = vec![0; Handshake::PACKET_LEN];
    header(PacketType::Data, flow, number, blocks.len()).emit(&mut packet);
    Data::emit_fixed(2, 32_800, &mut packet[HEADER_LEN..]);
    let mut at = HEADER_LEN + Data::FIXED_LEN;
    for block in blocks {
        at += block.emit(&mut packet[at..]);
    }
    for chunk in chunks {
        at += chunk.emit(&mut packet[at..]);
    }
    if !chunks.is_empty() && at < 40 {
        let end = 40.max(at + 4);
        Chunk::emit_pad(&mut packet[at..end]);
        at = end;
    }
    packet.truncate(at);
    packet
}

fn reset(flow: u64, answered: &[u8], reason: Reason) -> Vec<u8> {
    let mut packet = vec![0; RESET_LEN];
    header(PacketType::Reset, flow, 0, 0).emit(&mut packet);
    Reset::emit(reason, answered, &mut packet[HEADER_LEN..]);
    packet
}

fn probe(packet_type: PacketType, flow: u64, probe: &Probe) -> Vec<u8> {
    let mut packet = vec![0; PROBE_LEN];
    header(packet_type, flow, 0, 0).emit(&mut packet);
    probe.emit(&mut packet[HEADER_LEN..]);
    packet
}

/// Packets, a microsecond apart.
struct Capture(Vec<Event>);

impl Capture {
    fn add(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let at = Instant(1000 * (self.0.len() as u64 + 1));
        self.0.push(Event { at, kind: EventKind::Sent, from, to, payload: payload.to_vec() });
    }
}
