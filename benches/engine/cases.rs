//! What is measured with two engines.

use machnet_channel::Message;

use crate::Case;
use crate::pair::{End, Pair, Side};

/// Messages of a one-way burst.
const BURST: usize = 64;

pub(crate) const CASES: &[Case] = &[
    // At one end: a request and its reply are the work of two.
    Case { name: "request_64", operations: 2, counts: true, make: || requests(64, 1) },
    Case { name: "request_1024", operations: 2, counts: true, make: || requests(1024, 1) },
    // The same, each built where it is sent from.
    Case { name: "request_1024_built", operations: 2, counts: true, make: built },
    Case { name: "request_1024_beside_10000_flows", operations: 2, counts: true, make: || requests(1024, 10_001) },
    // The same at the first of several engines of each host: one more costs it nothing.
    Case { name: "request_1024_of_1_engine", operations: 2, counts: true, make: || requests_of(1) },
    Case { name: "request_1024_of_2_engines", operations: 2, counts: true, make: || requests_of(2) },
    Case { name: "request_1024_of_4_engines", operations: 2, counts: true, make: || requests_of(4) },
    Case { name: "request_1024_of_8_engines", operations: 2, counts: true, make: || requests_of(8) },
    // At both ends together, per message.
    Case { name: "one_way_64", operations: BURST as u64, counts: true, make: || one_way(64, BURST) },
    Case { name: "one_way_1024", operations: BURST as u64, counts: true, make: || one_way(1024, BURST) },
    Case { name: "reassembly_64_kib", operations: 1, counts: true, make: || one_way(64 << 10, 1) },
    Case { name: "reassembly_1_mib", operations: 1, counts: true, make: || one_way(1 << 20, 1) },
    // At the sending end, built where it is sent from, and elsewhere.
    Case { name: "sent_64_kib_built", operations: 1, counts: true, make: || sent(true) },
    Case { name: "sent_64_kib_copied", operations: 1, counts: true, make: || sent(false) },
    // The same for an application that takes messages in pieces.
    Case { name: "pieces_64_kib", operations: 1, counts: true, make: || pieces(64 << 10) },
    // Nothing to do.
    Case { name: "idle_round_1_flow", operations: 1, counts: true, make: || idle(1) },
    Case { name: "idle_round_100_flows", operations: 1, counts: true, make: || idle(100) },
    Case { name: "idle_round_10000_flows", operations: 1, counts: true, make: || idle(10_000) },
];

fn flows(count: usize) -> (Pair, Vec<(End, End)>) {
    let mut pair = Pair::new();
    let ends = (0..count).map(|_| pair.open()).collect();
    (pair, ends)
}

/// One request at a time, on one of `count` flows. Each engine has two rounds: it sends in one, it receives in one.
fn requests(len: usize, count: usize) -> Box<dyn FnMut(bool)> {
    let (pair, mut ends) = flows(count);
    requests_on(pair, ends.remove(count - 1), ends, len)
}

/// Requests at the first of `engines` engines.
fn requests_of(engines: usize) -> Box<dyn FnMut(bool)> {
    let mut pair = Pair::of_several(engines);
    let ends = pair.open();
    requests_on(pair, ends, Vec::new(), 1024)
}

fn requests_on(mut pair: Pair, ends: (End, End), others: Vec<(End, End)>, len: usize) -> Box<dyn FnMut(bool)> {
    let (mut client, mut server) = ends;
    let message = Message::from(vec![1; len]);
    Box::new(move |counted| {
        let _held = &others;
        assert_eq!(client.post(&message, 1), 1);
        pair.round(Side::Client, counted);
        pair.round(Side::Server, counted);
        assert_eq!((server.take(), server.post(&message, 1)), (1, 1));
        pair.round(Side::Server, counted);
        pair.round(Side::Client, counted);
        assert_eq!(client.take(), 1);
    })
}

fn built() -> Box<dyn FnMut(bool)> {
    let (mut pair, mut ends) = flows(1);
    let (mut client, mut server) = ends.remove(0);
    Box::new(move |counted| {
        client.build(1024);
        pair.round(Side::Client, counted);
        pair.round(Side::Server, counted);
        assert_eq!(server.take(), 1);
        server.build(1024);
        pair.round(Side::Server, counted);
        pair.round(Side::Client, counted);
        assert_eq!(client.take(), 1);
    })
}

/// Messages in one direction, `count` at a time, until all have arrived.
fn one_way(len: usize, count: usize) -> Box<dyn FnMut(bool)> {
    let (pair, mut ends) = flows(1);
    one_way_on(pair, ends.remove(0), len, count)
}

/// A message that stays in its packets.
fn pieces(len: usize) -> Box<dyn FnMut(bool)> {
    let (pair, mut ends) = flows(1);
    let (client, mut server) = ends.remove(0);
    server.recv.want_chunks();
    one_way_on(pair, (client, server), len, 1)
}

fn one_way_on(mut pair: Pair, (mut client, mut server): (End, End), len: usize, count: usize) -> Box<dyn FnMut(bool)> {
    let message = Message::from(vec![1; len]);
    Box::new(move |counted| {
        let mut posted = client.post(&message, count);
        let mut received = 0;
        while received < count {
            pair.round(Side::Client, counted);
            pair.round(Side::Server, counted);
            received += server.take();
            posted += client.post(&message, count - posted);
        }
    })
}

/// Messages of 64 KiB in one direction: counted is who sends them.
fn sent(in_place: bool) -> Box<dyn FnMut(bool)> {
    let mut pair = Pair::gathering();
    let (mut client, mut server) = pair.open();
    Box::new(move |counted| {
        if in_place {
            client.build(64 << 10);
        } else {
            client.build_elsewhere(64 << 10);
        }
        let mut received = 0;
        while received == 0 {
            pair.round(Side::Client, counted);
            pair.round(Side::Server, false);
            received = server.take();
        }
    })
}

/// A round of an engine with `count` flows that do nothing.
fn idle(count: usize) -> Box<dyn FnMut(bool)> {
    let (mut pair, ends) = flows(count);
    Box::new(move |counted| {
        let _held = &ends;
        pair.round(Side::Client, counted);
    })
}
