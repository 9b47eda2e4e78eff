//! RETRY and RESET at their edges, packet by packet.

use std::task::{Context, Poll, Waker};

use machnet_channel::Accepted;

use super::*;

/// A RESET that answers a packet with this header.
fn reset(flow: u64, answered: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; crate::wire::RESET_LEN];
    Header { packet_type: PacketType::Reset, blocks: 0, ack_now: false, flow, number: 0 }.emit(&mut packet);
    Reset::emit(Reason::UnknownFlow, answered, &mut packet[HEADER_LEN..]);
    packet
}

fn accepted(bench: &mut Bench) -> Accepted {
    match bench._listener.poll_accept(&Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(flow)) => flow,
        _ => panic!("a flow was accepted"),
    }
}

/// Only a packet that is outstanding can be answered by RESET: not one acknowledged, not one that elicits nothing, not
/// one never sent, not another flow's.
#[test]
fn reset_is_believed_of_an_outstanding_packet_only() {
    let (mut bench, port) = Bench::with_flow("open");
    let mut flow = accepted(&mut bench);
    flow.send.post(b"message".to_vec().into()).unwrap();
    bench.poll();
    bench.poll();
    let sent = bench.engine.tx.driver.sent.last().unwrap().clone();
    let (header, _) = Header::parse(&sent).unwrap();
    assert_eq!((header.packet_type, header.flow), (PacketType::Data, PEER_ID));
    let with_number = |number: u32| {
        let mut packet = sent.clone();
        packet[12..16].copy_from_slice(&number.to_be_bytes());
        packet
    };
    let forged = |bench: &Bench| bench.engine.stats().drops.get(DropReason::ForgedReset);
    for number in (0..header.number).chain([header.number + 1, header.number + 2, header.number.wrapping_sub(1 << 31)])
    {
        let before = forged(&bench);
        bench.receive(port, &reset(0, &with_number(number)));
        assert_eq!(forged(&bench), before + 1, "number {number} of {}", header.number);
    }
    let mut other = sent.clone();
    other[4] ^= 1;
    bench.receive(port, &reset(0, &other));
    assert_eq!(bench.engine.stats().drops.get(DropReason::UnknownFlow), 1);
    assert_eq!(bench.engine.flows.len(), 1);
    bench.receive(port, &reset(0, &sent));
    assert_eq!(bench.engine.flows.len(), 0, "believed");
}

/// RESET is never answered, and each source has its burst of RESETs and no more.
#[test]
fn reset_is_sent_in_answer_and_within_its_limit() {
    let mut bench = Bench::new();
    let mut data = bench.packet(PacketType::Data);
    data[4..12].copy_from_slice(&77_u64.to_be_bytes());
    for n in 1..=20_u64 {
        bench.receive(PORT, &data);
        let sent = bench.engine.tx.driver.sent.len() as u64;
        assert_eq!(sent, n.min(16), "16 at once");
        assert_eq!(bench.engine.stats().drops.get(DropReason::ResetLimited), n - sent);
    }
    let sent = bench.engine.tx.driver.sent.len();
    let answered = bench.engine.tx.driver.sent[0].clone();
    bench.now.0 += 1_000_000_000;
    bench.receive(PORT, &answered);
    bench.receive(PORT, &reset(77, &data));
    // Shorter than a RESET may be the answer to.
    bench.receive(PORT, &data[..crate::wire::MIN_ELICITING_LEN - 1]);
    assert_eq!(bench.engine.tx.driver.sent.len(), sent);
}

/// The answer to an INIT above the limit: its source id, no state, and a token that fits.
#[test]
fn retry_echoes_the_source_id() {
    let mut bench = Bench::new();
    bench.engine.config.max_half_open = 1;
    let first = bench.packet(PacketType::Init);
    bench.receive(PORT, &first);
    let mut second = bench.packet(PacketType::Init);
    second[16..24].copy_from_slice(&99_u64.to_be_bytes());
    bench.receive(PORT, &second);
    let sent = bench.engine.tx.driver.sent.last().unwrap().clone();
    let (header, rest) = Header::parse(&sent).unwrap();
    assert_eq!((header.packet_type, header.flow, header.number), (PacketType::Retry, 99, 0));
    let token = Retry::parse(rest).unwrap().token.to_vec();
    assert_eq!(bench.engine.flows.len(), 1);
    assert_eq!(bench.engine.stats().retries_sent, 1);
    Handshake { source: 99, token: &token, ..handshake() }.emit(&mut second[HEADER_LEN..]);
    bench.receive(PORT, &second);
    assert_eq!(bench.engine.flows.len(), 2);
    assert_eq!(bench.engine.half_open, [1, 1]);
    // Both kinds leave their count when they are gone.
    bench.now.0 += 4_000_000_000;
    bench.poll();
    assert_eq!((bench.engine.flows.len(), bench.engine.half_open), (0, [0, 0]));
}

/// Anybody can send ICMP: once a flow is open nothing that it says is believed.
#[test]
fn icmp_has_no_effect_on_an_open_flow() {
    let (mut bench, _) = Bench::with_flow("open");
    let mut flow = accepted(&mut bench);
    flow.send.post(vec![0; 100_000].into()).unwrap();
    bench.poll();
    let flow_before = bench.flow();
    let sent = bench.engine.tx.driver.sent.clone();
    for packet in sent {
        let quoted: [u8; 16] = packet[..16].try_into().unwrap();
        bench.engine.on_unreachable(peer(), &quoted);
    }
    assert_eq!(bench.flow(), flow_before);
}

/// For devices of which an engine has several queues, each of which leads to another engine of the peer's.
#[test]
fn what_is_sent_says_which_engine_of_the_peer_it_is_for() {
    let mut bench = Bench::new();
    for (port, packet_type) in [(PORT, PacketType::Accept), (PORT + 1, PacketType::Reset)] {
        let mut init = bench.packet(PacketType::Init);
        Handshake { source: 5 << 56 | u64::from(port), engines: 8, ..handshake() }.emit(&mut init[HEADER_LEN..]);
        bench.receive(port, &init);
        let wire = &bench.engine.tx.driver;
        let (header, _) = Header::parse(wire.sent.last().unwrap()).unwrap();
        assert_eq!((header.packet_type, wire.queues.last()), (packet_type, Some(&5)));
    }
}

/// Who connects leaves it to chance, so that all engines of the peer get flows; but each copy of an INIT goes the same way.
#[test]
fn inits_take_different_queues_and_their_copies_the_same() {
    let mut bench = Bench::new();
    let flows: Vec<_> = (0..16).map(|_| Mailbox::connect(&bench.intake, peer())).collect();
    for _ in 0..3 {
        bench.poll();
        bench.now += Duration::from_millis(300);
    }
    let wire = &bench.engine.tx.driver;
    let mut ways = BTreeMap::new();
    for (packet, queue) in wire.sent.iter().zip(&wire.queues) {
        let (_, rest) = Header::parse(packet).unwrap();
        ways.entry(Handshake::parse(rest).unwrap().source).or_insert_with(Vec::new).push(*queue);
    }
    assert!(ways.len() == 16 && ways.values().all(|queues| queues.len() > 1 && queues.iter().all(|q| *q == queues[0])));
    // As many of each of four queues, for example, as chance allows.
    let of = |n| ways.values().filter(|queues| queues[0] % 4 == n).count();
    assert!((0..4).all(|n| of(n) > 0), "{ways:?}");
    drop(flows);
}
