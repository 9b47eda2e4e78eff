//! Bad packets of every type in every state, and what a liar can do to flows that are not his: nothing.

use machnet_channel::{CloseReason, FlowState};

use super::*;
use crate::wire::{AckBlock, MAX_BITMAP_WORDS, MIN_ELICITING_LEN};

const STATES: [&str; 5] = ["connecting", "half-open", "open", "aborting", "tombstone"];
const TYPES: [PacketType; 7] = [
    PacketType::Init,
    PacketType::Accept,
    PacketType::Retry,
    PacketType::Data,
    PacketType::Reset,
    PacketType::Probe,
    PacketType::ProbeReply,
];

/// A host that is not the peer, at the peer's port.
fn stranger() -> SocketAddr {
    "10.0.0.66:6000".parse().unwrap()
}

/// The one reason for which `packet` from `remote` was dropped, or `None`; the engine's only flow is what it was.
#[track_caller]
fn dropped(bench: &mut Bench, port: u16, remote: SocketAddr, packet: &[u8], case: &str) -> Option<DropReason> {
    let (flow, flows) = (bench.flow(), bench.engine.flows.len());
    let before = bench.engine.stats().drops;
    let mut frame = bench.engine.tx.driver.frame().unwrap();
    frame.bytes_mut().unwrap()[..packet.len()].copy_from_slice(packet);
    let local = SocketAddr::new(bench.engine.tx.driver.home().ip(), port);
    let meta = Meta { local, remote, queue: 0 };
    bench.engine.tx.driver.rx.push(RxPacket { meta, frame, range: 0..packet.len() as u32 });
    bench.poll();
    let after = bench.engine.stats().drops;
    let mut reasons = after.iter().filter(|&(reason, n)| n > before.get(reason)).map(|(reason, _)| reason);
    let first = reasons.next();
    // An answer that is withheld is counted beside the reason.
    assert!(reasons.all(|reason| reason == DropReason::ResetLimited), "{case}: {after:?}");
    if first.is_some() {
        assert_eq!(bench.flow(), flow, "{case}");
        assert_eq!(bench.engine.flows.len(), flows, "{case}");
    }
    first
}

/// Where what a type needs ends.
fn needed(packet_type: PacketType) -> usize {
    match packet_type {
        PacketType::Init => Handshake::PACKET_LEN,
        PacketType::Accept => HEADER_LEN + 48,
        PacketType::Retry => HEADER_LEN + 4 + b"token".len(),
        PacketType::Data => HEADER_LEN + Data::FIXED_LEN,
        PacketType::Reset => crate::wire::RESET_LEN,
        PacketType::Probe | PacketType::ProbeReply => crate::wire::PROBE_LEN,
    }
}

#[test]
fn truncated_packets_are_dropped_in_every_state() {
    for state in STATES {
        for packet_type in TYPES {
            let (mut bench, port) = Bench::with_flow(state);
            let packet = bench.packet(packet_type);
            for len in (0..needed(packet_type)).filter(|len| *len < 80 || len % 64 == 0) {
                let case = format!("{len} bytes of {packet_type:?} in {state}");
                let reason = dropped(&mut bench, port, peer(), &packet[..len], &case);
                let expected = match packet_type {
                    PacketType::Init if len >= HEADER_LEN => DropReason::ShortInit,
                    _ => DropReason::Truncated,
                };
                assert_eq!(reason, Some(expected), "{case}");
            }
        }
    }
}

/// Every bit of the header that means nothing, and every one that must be what it is.
#[test]
fn mutated_headers_are_dropped_in_every_state() {
    for state in STATES {
        for packet_type in TYPES {
            let (mut bench, port) = Bench::with_flow(state);
            let packet = bench.packet(packet_type);
            let data = packet_type == PacketType::Data;
            for (at, bits, reason) in [
                (0, 0x20, DropReason::Version),
                (0, 0x08, DropReason::PacketType),
                (1, 0x80, DropReason::Malformed),
                (1, if data { 0x08 } else { 0x04 }, DropReason::Malformed),
                (2, 0x01, DropReason::Malformed),
                (3, 0x80, DropReason::Malformed),
            ] {
                let mut packet = packet.clone();
                packet[at] ^= bits;
                let case = format!("byte {at} of {packet_type:?} in {state}");
                assert_eq!(dropped(&mut bench, port, peer(), &packet, &case), Some(reason), "{case}");
            }
        }
    }
}

/// Whoever does not know the flow's id, or has another address, is nobody to the flow: whatever he sends, RESET and
/// acknowledgements included. An INIT names no flow of ours: it may open another one, but changes none.
#[test]
fn forged_packets_change_nothing_in_any_state() {
    for state in STATES {
        for packet_type in TYPES.into_iter().filter(|&packet_type| packet_type != PacketType::Init) {
            let (mut bench, port) = Bench::with_flow(state);
            let packet = bench.packet(packet_type);
            let case = format!("{packet_type:?} of a stranger in {state}");
            let reason = dropped(&mut bench, port, stranger(), &packet, &case);
            assert_eq!(reason, Some(DropReason::WrongPeer), "{case}");
            // In the peer's name: each half of the id wrong.
            for at in [7, 11] {
                let mut packet = packet.clone();
                packet[at] ^= 1;
                let case = format!("{packet_type:?} with byte {at} of the id wrong in {state}");
                let reason = dropped(&mut bench, port, peer(), &packet, &case);
                assert_eq!(reason, Some(DropReason::UnknownFlow), "{case}");
            }
        }
        let (mut bench, _) = Bench::with_flow(state);
        let init = bench.packet(PacketType::Init);
        let flow = bench.flow();
        let _ = dropped(&mut bench, PORT, stranger(), &init, "INIT of a stranger");
        assert_eq!(bench.flow(), flow, "INIT of a stranger in {state}");
    }
}

/// The second copy of a packet has no effect but an answer, if the first had one. INIT is answered each time, by design.
#[test]
fn replayed_packets_are_dropped_in_every_state() {
    for state in STATES {
        for packet_type in TYPES {
            let (mut bench, port) = Bench::with_flow(state);
            let packet = bench.packet(packet_type);
            let case = format!("{packet_type:?} again in {state}");
            let first = dropped(&mut bench, port, peer(), &packet, &case);
            let flows = bench.engine.flows.len();
            let second = dropped(&mut bench, port, peer(), &packet, &case);
            assert_eq!(bench.engine.flows.len(), flows, "{case}");
            match (packet_type, state) {
                // Answered by the flow that is there.
                (PacketType::Init, "half-open" | "open") => {
                    assert_eq!((first, second), (None, None), "{case}")
                }
                // Each is obeyed, for the flow is still connecting.
                (PacketType::Retry, "connecting") => assert_eq!((first, second), (None, None), "{case}"),
                (PacketType::Accept, "connecting") => assert_eq!(second, Some(DropReason::WrongState), "{case}"),
                (PacketType::Data, "half-open" | "open" | "tombstone") => {
                    assert_eq!((first, second), (None, Some(DropReason::Duplicate)), "{case}");
                }
                // Not recorded: nobody takes what is in it.
                (PacketType::Data, "aborting") => assert_eq!((first, second), (None, None), "{case}"),
                // It ended the flow.
                (PacketType::Reset, "connecting" | "half-open" | "aborting") => {
                    assert_eq!((first, second), (None, Some(DropReason::UnknownFlow)), "{case}");
                }
                _ => assert!(first.is_some() && first == second, "{case}: {first:?}, {second:?}"),
            }
        }
    }
}

/// DATA by hand.
struct Packet<'a> {
    flow: u64,
    number: u32,
    credit: u32,
    blocks: &'a [AckBlock],
    chunks: &'a [Chunk<'a>],
}

impl Packet<'_> {
    fn bytes(&self) -> Vec<u8> {
        let Self { flow, number, credit, blocks, chunks } = *self;
        let mut out = vec![0; 1232];
        let blocks_len = blocks.len() as u8;
        Header { packet_type: PacketType::Data, blocks: blocks_len, ack_now: false, flow, number }.emit(&mut out);
        Data::emit_fixed(0, credit, &mut out[HEADER_LEN..]);
        let mut at = HEADER_LEN + Data::FIXED_LEN;
        for block in blocks {
            at += block.emit(&mut out[at..]);
        }
        for chunk in chunks {
            at += chunk.emit(&mut out[at..]);
        }
        if at < MIN_ELICITING_LEN {
            Chunk::emit_pad(&mut out[at..MIN_ELICITING_LEN + 4]);
            at = MIN_ELICITING_LEN + 4;
        }
        out.truncate(at);
        out
    }
}

fn block(largest: u32) -> AckBlock {
    AckBlock { largest, run: 1, delay_us: 0, words: 0, bitmap: [0; MAX_BITMAP_WORDS] }
}

/// Our ids of two open flows, and their accepted ends.
fn two_flows() -> (Bench, [u64; 2], [machnet_channel::Accepted; 2]) {
    let mut bench = Bench::new();
    let ids = [1_u64, 2].map(|source| {
        let mut init = bench.packet(PacketType::Init);
        Handshake { source, ..handshake() }.emit(&mut init[HEADER_LEN..]);
        bench.receive(PORT, &init);
        let key = bench.engine.flows.find_remote(peer().ip(), source).expect("a flow");
        let flow = bench.engine.flows.get(key).unwrap().id;
        bench.receive(PORT, &Packet { flow, number: 0, credit: 0, blocks: &[], chunks: &[Chunk::Ping] }.bytes());
        flow
    });
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut accept = || match bench._listener.poll_accept(&cx) {
        std::task::Poll::Ready(Some(accepted)) => accepted,
        _ => panic!("a flow was accepted"),
    };
    let ends = [accept(), accept()];
    (bench, ids, ends)
}

/// The newest packet of the flow that the peer calls 1.
fn last_number(bench: &Bench) -> u32 {
    let mut headers = bench.engine.tx.driver.sent.iter().rev().filter_map(|packet| Some(Header::parse(packet).ok()?.0));
    headers.find(|header| header.flow == 1).expect("a packet").number
}

/// Nothing of such a packet counts: not its message, not its FIN, not its credit, not even its number.
#[test]
fn an_acknowledgement_of_a_number_never_sent_discards_its_packet() {
    let (mut bench, [flow, _], [mut end, _]) = two_flows();
    bench.poll();
    let last = last_number(&bench);
    let chunks = [Chunk::Whole { id: 0, payload: b"message" }, Chunk::Fin { next: 1 }];
    let packet =
        |largest: u32| Packet { flow, number: 1, credit: 9999, blocks: &[block(largest)], chunks: &chunks }.bytes();
    for unsent in [last + 1, last + 2, last + 1000, last + (1 << 31), u32::MAX] {
        let case = format!("{unsent} acknowledged, {last} sent");
        assert_eq!(dropped(&mut bench, PORT, peer(), &packet(unsent), &case), Some(DropReason::AckOfUnsent), "{case}");
        assert!(end.recv.take().is_none(), "{case}");
    }
    // With what was sent, the same packet counts: its number was not taken.
    assert_eq!(dropped(&mut bench, PORT, peer(), &packet(last), "all of it"), None);
    assert_eq!(end.recv.take().unwrap(), b"message");
    assert!(end.recv.mailbox().state().has(FlowState::READ_ENDED));
}

/// The right acknowledgement from the wrong place says nothing.
#[test]
fn an_off_path_acknowledgement_has_no_effect() {
    let (mut bench, [flow, _], [mut end, _]) = two_flows();
    end.send.post(b"hello".to_vec().into()).unwrap();
    let credit = Packet { flow, number: 1, credit: 1000, blocks: &[], chunks: &[Chunk::Ping] }.bytes();
    bench.receive(PORT, &credit);
    bench.poll();
    let last = last_number(&bench);
    let mut packet = Packet { flow, number: 2, credit: 1000, blocks: &[block(last)], chunks: &[] };
    let stranger = dropped(&mut bench, PORT, stranger(), &packet.bytes(), "a stranger");
    assert_eq!(stranger, Some(DropReason::WrongPeer));
    packet.flow ^= 1;
    let blind = dropped(&mut bench, PORT, peer(), &packet.bytes(), "without the id");
    assert_eq!(blind, Some(DropReason::UnknownFlow));
    assert_eq!(end.send.acknowledged(), 0);
    packet.flow ^= 1;
    assert_eq!(dropped(&mut bench, PORT, peer(), &packet.bytes(), "the peer"), None);
    assert_eq!(end.send.acknowledged(), machnet_channel::cost_in_units(5));
}

/// Each way to break the protocol ends the flow it happens on, with a reason that both sides learn, and no other flow.
#[test]
fn who_breaks_the_protocol_loses_that_flow_and_nothing_else() {
    let window = Config::default().receive_window / 64;
    let (whole, part) = (|id| Chunk::Whole { id, payload: b"x" }, [7; 64]);
    let part = |total| Chunk::Part { id: 0, offset: 0, total, payload: &part };
    let protocol = (Reason::Protocol, CloseReason::Protocol);
    for (case, chunks, (reason, closed)) in [
        ("a message beyond the credit", &[whole(window)][..], protocol),
        ("two totals for one message", &[part(128), part(192)], protocol),
        ("a part and the whole of another message", &[part(128), Chunk::Whole { id: 0, payload: &[0; 192] }], protocol),
        ("a message after FIN", &[Chunk::Fin { next: 0 }, whole(0)], protocol),
        ("two FINs", &[Chunk::Fin { next: 3 }, Chunk::Fin { next: 4 }], protocol),
        ("a FIN before a message that is here", &[whole(5), Chunk::Fin { next: 5 }], protocol),
        ("a message too large", &[part(u32::MAX)], (Reason::TooLarge, CloseReason::TooLarge)),
    ] {
        let (mut bench, [flow, other], [end, mut other_end]) = two_flows();
        let before = bench.engine.tx.driver.sent.len();
        bench.receive(PORT, &Packet { flow, number: 1, credit: 1000, blocks: &[], chunks }.bytes());
        assert_eq!(bench.engine.stats().drops.get(DropReason::Protocol), 1, "{case}");
        assert_eq!(end.recv.mailbox().state().reason(), Some(closed), "{case}");
        // The peer is told.
        let told = bench.engine.tx.driver.sent[before..].iter().any(|packet| {
            let (header, rest) = Header::parse(packet).unwrap();
            header.flow == 1 && Data::parse(&header, rest).unwrap().chunks().any(|c| c == Chunk::Abort(reason))
        });
        assert!(told, "{case}");
        // What memory it had is free, and its neighbour does not notice.
        assert_eq!(bench.engine.stats().buffers_in_use, 0, "{case}");
        let fine = Packet { flow: other, number: 1, credit: 1000, blocks: &[], chunks: &[whole(0)] }.bytes();
        bench.receive(PORT, &fine);
        assert_eq!(other_end.recv.take().unwrap(), b"x", "{case}");
        assert_eq!(other_end.recv.mailbox().state().reason(), None, "{case}");
    }
}

/// The last unit of credit may be used, and the first beyond it not.
#[test]
fn the_credit_ends_where_it_says() {
    let window = Config::default().receive_window / 64;
    for (id, alive) in [(window - 1, true), (window, false)] {
        let (mut bench, [flow, _], [end, _]) = two_flows();
        let chunks = [Chunk::Whole { id, payload: &[] }];
        bench.receive(PORT, &Packet { flow, number: 1, credit: 1000, blocks: &[], chunks: &chunks }.bytes());
        assert_eq!(end.recv.mailbox().state().reason().is_none(), alive, "message {id} of a window of {window} units");
    }
}

/// What comes before the fault counts no more than what comes after it.
#[test]
fn nothing_of_a_malformed_packet_counts() {
    let (mut bench, [flow, _], [mut end, _]) = two_flows();
    let chunks = [Chunk::Whole { id: 0, payload: b"message" }];
    let good = Packet { flow, number: 1, credit: 9999, blocks: &[], chunks: &chunks }.bytes();
    for (case, tail, reason) in [
        ("half a chunk header", &[0x20, 0][..], DropReason::Truncated),
        ("a chunk beyond the packet", &[0x20, 0, 0, 5, 0, 0, 0, 1], DropReason::Truncated),
        ("a FIN without its number", &[0x20, 0, 0, 2, 0, 0], DropReason::Truncated),
        ("a STOP without its reason", &[0x30, 0, 0, 1, 0], DropReason::Truncated),
        ("a message without its id", &[0x10, 1, 0, 3, 0, 0, 0], DropReason::Truncated),
        ("an empty part", &[0x10, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9], DropReason::Malformed),
        ("a part at 1", &[0x10, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9, 5], DropReason::Malformed),
        ("a part beyond its end", &[0x10, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 5, 5], DropReason::Malformed),
    ] {
        let packet = [&good, tail].concat();
        assert_eq!(dropped(&mut bench, PORT, peer(), &packet, case), Some(reason), "{case}");
        assert!(end.recv.take().is_none(), "{case}");
    }
    let last = last_number(&bench);
    let twice = Packet { flow, number: 1, credit: 9999, blocks: &[block(last), block(last)], chunks: &chunks }.bytes();
    let case = "two blocks of one path";
    assert_eq!(dropped(&mut bench, PORT, peer(), &twice, case), Some(DropReason::Malformed), "{case}");
    assert_eq!(dropped(&mut bench, PORT, peer(), &good, "all of it"), None);
    assert_eq!(end.recv.take().unwrap(), b"message");
}
