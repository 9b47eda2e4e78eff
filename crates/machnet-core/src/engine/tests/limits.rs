//! Each limit at its edge, and what lies beyond (`docs/spec/flow.md#limits`).

use super::*;
use crate::flow::{Need, Store as _};

/// An INIT of the flow that the peer calls `source`.
fn init(bench: &mut Bench, source: u64, token: &[u8], extensions: &[u8]) -> Vec<u8> {
    let mut packet = bench.packet(PacketType::Init);
    Handshake { source, token, ..handshake() }.emit(&mut packet[HEADER_LEN..]);
    packet[58..60].copy_from_slice(&(extensions.len() as u16).to_be_bytes());
    packet[64 + token.len()..][..extensions.len()].copy_from_slice(extensions);
    packet
}

/// DATA with `chunks` for our flow `id`.
fn data(bench: &mut Bench, id: u64, chunks: &[Chunk<'_>]) -> Vec<u8> {
    let mut packet = vec![0; 1232];
    bench.header(PacketType::Data, id).emit(&mut packet);
    Data::emit_fixed(0, 1000, &mut packet[HEADER_LEN..]);
    let mut at = HEADER_LEN + Data::FIXED_LEN;
    for chunk in chunks {
        at += chunk.emit(&mut packet[at..]);
    }
    Chunk::emit_pad(&mut packet[at..]);
    packet
}

/// An open flow that the peer calls `source`; returns our id of it.
fn open(bench: &mut Bench, source: u64) -> u64 {
    let packet = init(bench, source, &[], &[]);
    bench.receive(PORT, &packet);
    let key = bench.engine.flows.find_remote(peer().ip(), source).expect("a flow");
    let id = bench.engine.flows.get(key).unwrap().id;
    let packet = data(bench, id, &[Chunk::Ping]);
    bench.receive(PORT, &packet);
    id
}

fn drops(bench: &Bench, reason: DropReason) -> u64 {
    bench.engine.stats().drops.get(reason)
}

fn with(change: impl FnOnce(&mut Config)) -> Bench {
    let mut config = Config::default();
    change(&mut config);
    Bench::with_config(config)
}

#[test]
fn max_flows() {
    let mut bench = with(|config| config.max_flows = 3);
    for source in 1..=3 {
        let packet = init(&mut bench, source, &[], &[]);
        bench.receive(PORT, &packet);
    }
    assert_eq!((bench.engine.flows.len(), drops(&bench, DropReason::TooManyFlows)), (3, 0));
    let packet = init(&mut bench, 4, &[], &[]);
    bench.receive(PORT, &packet);
    assert_eq!((bench.engine.flows.len(), drops(&bench, DropReason::TooManyFlows)), (3, 1));
    let (_send, recv) = Mailbox::connect(&bench.intake, peer());
    bench.poll();
    assert_eq!(recv.mailbox().state().reason(), Some(machnet_channel::CloseReason::NoRoom));
}

#[test]
fn backlog() {
    let mut bench = with(|_| {});
    // The listener takes 8 that nobody accepts.
    for source in 1..=8 {
        open(&mut bench, source);
    }
    assert_eq!((bench.engine.flows.len(), drops(&bench, DropReason::BacklogFull)), (8, 0));
    let packet = init(&mut bench, 9, &[], &[]);
    bench.receive(PORT, &packet);
    assert_eq!((bench.engine.flows.len(), drops(&bench, DropReason::BacklogFull)), (8, 1));
}

/// The oldest is forgotten; its application knew of the end, and its peer is told that the flow is unknown.
#[test]
fn max_tombstones() {
    let mut bench = with(|config| config.max_tombstones = 2);
    let ids = [1, 2, 3].map(|source| open(&mut bench, source));
    for (ended, id) in ids.into_iter().enumerate() {
        let packet = data(&mut bench, id, &[Chunk::Abort(Reason::None)]);
        bench.receive(PORT, &packet);
        assert_eq!(bench.engine.flows.len(), if ended < 2 { 3 } else { 2 });
    }
    assert_eq!(bench.engine.by_slot, [None, None, None], "the applications were told");
    let sent = bench.engine.tx.driver.sent.len();
    for (flow, unknown) in [(ids[1], 0), (ids[2], 0), (ids[0], 1)] {
        let packet = data(&mut bench, flow, &[Chunk::Ping]);
        bench.receive(PORT, &packet);
        assert_eq!(drops(&bench, DropReason::UnknownFlow), unknown);
    }
    let reset = bench.engine.tx.driver.sent.last().unwrap();
    assert_eq!(Header::parse(reset).unwrap().0.packet_type, PacketType::Reset);
    assert!(bench.engine.tx.driver.sent.len() > sent);
}

#[test]
fn token_length() {
    let mut bench = with(|_| {});
    let packet = init(&mut bench, 1, &[7; Handshake::MAX_TOKEN], &[]);
    bench.receive(PORT, &packet);
    assert_eq!((bench.engine.flows.len(), bench.engine.half_open), (1, [1, 0]), "as without a token: it is not ours");
    let mut packet = init(&mut bench, 2, &[7; Handshake::MAX_TOKEN], &[]);
    packet[56..58].copy_from_slice(&(Handshake::MAX_TOKEN as u16 + 1).to_be_bytes());
    bench.receive(PORT, &packet);
    assert_eq!((bench.engine.flows.len(), drops(&bench, DropReason::Malformed)), (1, 1));
    // And of a RETRY.
    for (len, malformed) in [(0, 1), (1, 0), (Handshake::MAX_TOKEN, 0), (Handshake::MAX_TOKEN + 1, 1)] {
        let (mut bench, port) = Bench::with_flow("connecting");
        let mut packet = bench.packet(PacketType::Retry);
        packet[16..18].copy_from_slice(&(len as u16).to_be_bytes());
        bench.receive(port, &packet);
        assert_eq!(drops(&bench, DropReason::Malformed), malformed, "{len} bytes");
    }
}

/// Unknown extensions are skipped, to the last byte of the packet and no further.
#[test]
fn extensions() {
    let room = Handshake::PACKET_LEN - 64;
    let mut longest = vec![0; room];
    longest[2..4].copy_from_slice(&(room as u16 - 4).to_be_bytes());
    let empty = vec![0; room / 4 * 4];
    let mut bench = with(|_| {});
    for (source, extensions) in [(1, &longest), (2, &empty)] {
        let packet = init(&mut bench, source, &[], extensions);
        bench.receive(PORT, &packet);
    }
    assert_eq!((bench.engine.flows.len(), bench.engine.stats().drops.total()), (2, 0));
    longest[3] += 1;
    for extensions in [&longest[..], &longest[..3]] {
        let packet = init(&mut bench, 3, &[], extensions);
        bench.receive(PORT, &packet);
    }
    let mut packet = init(&mut bench, 3, &[], &empty);
    packet[58..60].copy_from_slice(&(room as u16 + 1).to_be_bytes());
    bench.receive(PORT, &packet);
    assert_eq!((bench.engine.flows.len(), drops(&bench, DropReason::Truncated)), (2, 3));
}

/// How far a packet number may be ahead: a peer can neither make us remember more nor lose count.
#[test]
fn packet_numbers() {
    let mut bench = with(|_| {});
    let id = open(&mut bench, 1);
    bench.number += 1 << 17;
    let (last, first_beyond) = (bench.number, bench.number + 1);
    bench.number = first_beyond - 1;
    let packet = data(&mut bench, id, &[Chunk::Ping]);
    bench.receive(PORT, &packet);
    assert_eq!(drops(&bench, DropReason::OutOfWindow), 1);
    bench.number = last - 1;
    let packet = data(&mut bench, id, &[Chunk::Ping]);
    bench.receive(PORT, &packet);
    assert_eq!(bench.engine.stats().drops.total(), 1);
    bench.receive(PORT, &packet);
    assert_eq!(drops(&bench, DropReason::Duplicate), 1);
}

/// A part of a message for which there is no buffer.
fn part() -> Chunk<'static> {
    Chunk::Part { id: 0, offset: 0, total: 5000, payload: &[0; 64] }
}

/// Flows that wait for a buffer wait once each, and leave nothing behind when they end first.
#[test]
fn waiting_for_buffers() {
    let mut bench = with(|config| {
        config.reassembly_bytes = 0;
        config.max_tombstones = 1;
    });
    bench.engine.buffers.set_peer_room([u64::MAX; 2]);
    let mut taken = Vec::new();
    loop {
        bench.engine.buffers.set_peer_room([u64::MAX; 2]);
        let Some(frame) = bench.engine.buffers.buffer(5000, Need::Next) else { break };
        taken.push(frame);
    }
    let front = open(&mut bench, 1);
    for _ in 0..3 {
        let packet = data(&mut bench, front, &[part()]);
        bench.receive(PORT, &packet);
    }
    assert_eq!((bench.engine.waiting.len(), drops(&bench, DropReason::NoBuffers)), (1, 3));
    for source in 2..1000 {
        let id = open(&mut bench, source);
        for chunk in [part(), Chunk::Abort(Reason::None)] {
            let packet = data(&mut bench, id, &[chunk]);
            bench.receive(PORT, &packet);
        }
        // What nobody accepts fills the backlog.
        let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
        assert!(bench._listener.poll_accept(cx).is_ready());
        assert!(bench.engine.waiting.len() <= 2 * bench.engine.flows.len() + 1, "{} wait", bench.engine.waiting.len());
        assert!(bench.engine.flows.len() <= 3);
    }
    drop(taken);
    bench.poll();
    assert!(bench.engine.waiting.is_empty());
    let packet = data(&mut bench, front, &[part()]);
    bench.receive(PORT, &packet);
    assert_eq!(drops(&bench, DropReason::NoBuffers), 3 + 998, "served");
}

/// What one peer's unfinished messages may hold; more are refused for now, and come when others are finished.
#[test]
fn peer_reassembly_bytes() {
    let mut bench = with(|config| {
        config.reassembly_bytes = 1 << 30;
        config.peer_reassembly_bytes = 64 << 10;
    });
    let ids: Vec<u64> = (1..=6).map(|source| open(&mut bench, source)).collect();
    for (n, &id) in ids.iter().enumerate() {
        // Frames of 16 KiB: four fit.
        let packet = data(&mut bench, id, &[part()]);
        bench.receive(PORT, &packet);
        assert_eq!(drops(&bench, DropReason::NoBuffers), n.saturating_sub(3) as u64);
    }
    assert_eq!((bench.engine.buffers.in_use(), bench.engine.waiting.len()), (4, 2));
    // One that is not the next of its flow has half the share of its own.
    let second = |id| Chunk::Part { id, offset: 0, total: 9000, payload: &[0; 64] };
    for (n, message) in [1, 2, 3].into_iter().enumerate() {
        let packet = data(&mut bench, ids[0], &[second(message)]);
        bench.receive(PORT, &packet);
        assert_eq!(bench.engine.buffers.in_use(), 4 + (n as u64 + 1).min(2), "message {message}");
    }
    // A flow ends: what it held is another's.
    let packet = data(&mut bench, ids[0], &[Chunk::Abort(Reason::None)]);
    bench.receive(PORT, &packet);
    bench.poll();
    assert_eq!((bench.engine.buffers.in_use(), bench.engine.waiting.len()), (4, 1));
    for id in &ids[1..] {
        let packet = data(&mut bench, *id, &[Chunk::Abort(Reason::None)]);
        bench.receive(PORT, &packet);
    }
    bench.poll();
    assert_eq!((bench.engine.buffers.in_use(), bench.engine.waiting.len()), (0, 0));
}
