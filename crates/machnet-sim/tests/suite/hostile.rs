//! Packets that no engine made.

use std::net::SocketAddr;

use machnet_channel::FlowState;
use machnet_core::{Driver as _, DropReason};
use machnet_sim::{Fabric, Link, NicConfig, Plan, SimRng, World};

use crate::common::{
    Dialog, PORT, Pair, TOMBSTONES, config, ip, listen, micros, millis, nic, pair, seconds, world_config,
};

/// A host without an engine, joined to the pair's B.
pub(crate) fn stranger(pair: &Pair) -> SocketAddr {
    let fabric = pair.world.fabric();
    let host = fabric.host(ip(66));
    fabric.join(host, pair.world.host(pair.b), Link::default(), Link::default());
    SocketAddr::new(ip(66), 6666)
}

/// Throws `count` datagrams made by `make` at `to`, a few per microsecond.
fn throw(world: &mut World, from: SocketAddr, to: SocketAddr, count: usize, mut make: impl FnMut() -> Vec<u8>) {
    for _ in 0..count {
        world.fabric().inject(from, to, &make());
        world.run_for(micros(1)).unwrap();
    }
    world.run_for(millis(1)).unwrap();
}

#[test]
fn random_bytes_are_counted_and_nothing_else() {
    let mut pair = pair(1, &Link::default());
    let from = stranger(&pair);
    let _listener = pair.listen();
    let before = (pair.world.driver(pair.b).nic_stats().sent, pair.world.stats(pair.b).packets_received);
    let rng = &mut SimRng::new(1, 1 << 41);
    let mut make = || {
        let mut bytes = vec![0; rng.below(1473) as usize];
        rng.fill(&mut bytes);
        bytes
    };
    let node = pair.world.node(pair.b);
    for to in [node.home(), node.at(PORT)] {
        throw(&mut pair.world, from, to, 5000, &mut make);
    }
    let stats = pair.world.stats(pair.b);
    assert_eq!(stats.packets_received - before.1, 10_000);
    // An INIT of a version we do not speak is answered, within the limit on RESETs: some random bytes look like one.
    let unanswered = stats.drops.get(DropReason::ResetLimited);
    assert_eq!(stats.drops.total() - unanswered, 10_000, "{:?}", stats.drops.iter().collect::<Vec<_>>());
    assert_eq!((stats.flows, stats.buffers_in_use), (0, 0));
    let answers = pair.world.driver(pair.b).nic_stats().sent - before.0;
    assert!(unanswered > 100 && answers <= 20, "{answers} answers, {unanswered} withheld");
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Right headers, random rest, from a stranger and in the name of the peer, while a dialog goes on.
#[test]
fn plausible_garbage_disturbs_nobody() {
    let mut pair = pair(2, &Link::with_delay(micros(20)));
    let from = stranger(&pair);
    let rng = pair.world.rng();
    let dialog = Dialog::new(Plan::log_uniform(1, 200, 1 << 17, rng), Plan::log_uniform(2, 200, 1 << 17, rng));
    let tasks = pair.start(&dialog);
    let peer = pair.world.node(pair.a).home();
    let node = pair.world.node(pair.b);
    let rng = &mut SimRng::new(2, 1 << 41);
    let mut make = || {
        let mut bytes = vec![0; 16 + rng.below(1300) as usize];
        rng.fill(&mut bytes);
        bytes[0] = 1 << 4 | rng.below(8) as u8;
        bytes[1] &= 7;
        bytes[2..4].fill(0);
        if rng.below(2) == 0 {
            bytes[4..12].fill(0);
        }
        bytes
    };
    for from in [from, peer] {
        for to in [node.home(), node.at(PORT)] {
            throw(&mut pair.world, from, to, 2000, &mut make);
        }
    }
    pair.world.run(seconds(10)).unwrap();
    dialog.check(&tasks.map(|task| task.take().unwrap()));
    pair.world.settle(seconds(10)).unwrap();
}

/// INITs that nobody stands behind: answered by at most what they cost, bounded in number, and forgotten.
#[test]
fn a_flood_of_inits_is_bounded_and_forgotten() {
    let mut config = config();
    config.max_half_open = 32;
    let nic = nic();
    let mut pair = Pair::with(3, &Link::default(), [nic, nic], [config; 2], world_config());
    let from = stranger(&pair);
    let mut listener = pair.listen();
    let to = pair.world.node(pair.b).at(PORT);
    // A real INIT, with another source id each time.
    let init = real_init();
    let mut id = 1_u64;
    throw(&mut pair.world, from, to, 1000, || {
        let mut bytes = init.clone();
        id += 1;
        bytes[16..24].copy_from_slice(&id.to_be_bytes());
        bytes
    });
    assert_eq!(pair.world.stats(pair.b).flows, 32, "half-open flows");
    // ACCEPT to those, RETRY to the others.
    assert_eq!(pair.world.stats(pair.b).retries_sent, 1000 - 32);
    assert_eq!(pair.world.driver(pair.b).nic_stats().sent, 1000);
    let accepted = pair.world.spawn("accept", async move { listener.accept().await.map(drop) });
    pair.world.settle(seconds(10)).unwrap();
    assert!(accepted.take().is_none(), "a flow nobody stands behind was accepted");
    pair.world.cancel();
    // And a real one is served as ever.
    pair.world.run_for(millis(1)).unwrap();
    pair.run(&Dialog::new(Plan::fixed(1, 3, 3000), Plan::fixed(2, 3, 3000)), seconds(5));
}

/// The first datagram that an engine sends when it connects.
pub(crate) fn real_init() -> Vec<u8> {
    let mut pair = pair(4, &Link::default());
    let (sent, init) = std::sync::mpsc::channel();
    pair.world.fabric().filter(pair.there, move |seen| {
        let _ = sent.send(seen.payload.to_vec());
        machnet_sim::Verdict::Pass
    });
    let _listener = pair.listen();
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(PORT));
    let task = pair.world.spawn("connect", async move { node.connect(to).await.unwrap() });
    drop(pair.world.wait(&task, seconds(1)).unwrap());
    init.recv().expect("an INIT was sent")
}

/// Every packet of a dialog comes again, and again much later, from the peer's address and from a stranger's.
#[test]
fn replayed_packets_change_nothing() {
    let mut pair = pair(5, &Link::with_delay(micros(20)));
    let stranger = stranger(&pair);
    let (record, packets) = std::sync::mpsc::channel();
    pair.world.fabric().filter(pair.there, move |seen| {
        let _ = record.send((seen.from, seen.to, seen.payload.to_vec()));
        machnet_sim::Verdict::Pass
    });
    let dialog = Dialog::new(Plan::log_uniform(1, 20, 1 << 16, pair.world.rng()), Plan::fixed(2, 5, 100_000));
    let tasks = pair.start(&dialog);
    let mut seen = Vec::new();
    while tasks.iter().any(|task| !task.is_done()) {
        pair.world.run_for(micros(100)).unwrap();
        for (from, to, payload) in packets.try_iter().take(200) {
            seen.push((from, to, payload));
        }
        for (from, to, payload) in seen.iter().rev().take(3) {
            pair.world.fabric().inject(*from, *to, payload);
            pair.world.fabric().inject(stranger, *to, payload);
        }
        assert!(pair.world.now().0 < 60_000_000_000, "the dialog does not end");
    }
    dialog.check(&tasks.map(|task| task.take().unwrap()));
    pair.world.settle(TOMBSTONES).unwrap();
    // Long after the end: unknown flows, and an INIT that begins one that nobody will confirm.
    for (from, to, payload) in seen {
        pair.world.fabric().inject(from, to, &payload);
        pair.world.run_for(micros(2)).unwrap();
    }
    pair.world.settle(seconds(10)).unwrap();
}

/// An engine whose applications all left, with packets still coming, ends and can be restarted on the same address.
#[test]
fn a_restarted_peer_knows_nothing_and_says_so() {
    let mut pair = pair(6, &Link::with_delay(micros(20)));
    let (mut a, b) = pair.open();
    let nic = NicConfig { port: pair.world.driver(pair.b).home().port(), ..nic() };
    drop(b);
    pair.world.restart(pair.b, nic, config());
    // Somebody listens there again, but on a new flow.
    let _listener = listen(&mut pair.world, pair.b, PORT, 8).unwrap();
    let task = pair.world.spawn("a", async move {
        let sent = a.send(&b"still there?"[..]).await;
        (sent, a.reaches(FlowState::CLOSED).await)
    });
    let (_, state) = pair.world.wait(&task, seconds(10)).unwrap();
    assert_eq!(state.reason(), Some(machnet_channel::CloseReason::Reset));
    pair.world.settle(seconds(15)).unwrap();
}

/// Nothing of the fabric reaches into the engine of a host without routes.
#[test]
fn an_unplugged_host_is_quiet() {
    let fabric = Fabric::new(7);
    let host = fabric.host(ip(1));
    let mut driver = fabric.nic(host, nic()).unwrap();
    assert_eq!(driver.rx_burst(&mut Vec::new(), 10), 0);
    assert_eq!(fabric.next_event(), None);
}
