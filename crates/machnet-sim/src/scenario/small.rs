//! Requests, replies and small messages: what they cost, and that nothing makes them wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use machnet_core::Config;

use super::{Run, Scenario, costs, kept};
use crate::setup::{PORT, config, ip, micros, millis, nic, seconds};
use crate::{Bulk, Calls, Chunk, Latencies, Link, NicConfig, Seen, Verdict};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept(
        "two_packets_per_rpc",
        "steady request/reply takes exactly 2 packets each, whatever the server's time",
        two_packets,
    ),
    kept("rpc_latency", "a request and its reply take one RTT and four rounds", rpc_latency),
    kept("many_per_packet", "64 B messages under backlog: at least 15 in each packet of 1 500 B", many_per_packet),
    kept("nothing_waits", "a small message without backlog leaves in the round that sees it", nothing_waits),
    kept(
        "rpc_beside_bulk",
        "100 bulk flows on its engine leave an RPC's p99 within 3 times the unloaded one",
        rpc_beside_bulk,
    ),
    kept(
        "rpc_beside_large",
        "a flow of 1 MiB messages leaves an RPC's p99 within 3 times the unloaded one",
        rpc_beside_large,
    ),
];

fn two_packets(run: &Run) {
    for (work, think) in [(0, 0), (20, 0), (100, 0), (200, 0), (0, 100), (50, 50)] {
        let mut pair = run.pair(&Link::with_delay(micros(20)));
        let calls = Calls { work: micros(work), think: micros(think), ..Calls::of(64, 1100) };
        let packets = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let steady = Arc::new(AtomicBool::new(false));
        for (link, side) in [(pair.there, 0), (pair.back, 1)] {
            let (packets, steady) = (Arc::clone(&packets), Arc::clone(&steady));
            pair.world.fabric().filter(link, move |seen| {
                let id = match Seen::read(seen.payload) {
                    Seen::Data(chunks) => chunks.iter().find_map(|chunk| match chunk {
                        Chunk::Message { id, .. } => Some(*id),
                        _ => None,
                    }),
                    _ => None,
                };
                // From the 51st request on, to the 1 050th reply.
                if side == 0 && id == Some(50) {
                    steady.store(true, Ordering::Relaxed);
                }
                packets[side].fetch_add(u64::from(steady.load(Ordering::Relaxed)), Ordering::Relaxed);
                if side == 1 && id == Some(1049) {
                    steady.store(false, Ordering::Relaxed);
                }
                Verdict::Pass
            });
        }
        let task = calls.start(&mut pair.world, [pair.a, pair.b], PORT, run.seed());
        let latencies = pair.world.wait(&task, seconds(5)).unwrap();
        let [there, back] = [0, 1].map(|side| packets[side].load(Ordering::Relaxed));
        run.figure(format!("work {work} µs, think {think} µs"), format!("{there} + {back} packets for 1000 calls"));
        assert_eq!(latencies.len(), 1100);
        assert_eq!([there, back], [1000, 1000], "packets for 1000 calls with {work} µs of work, {think} µs of thought");
        pair.world.settle(seconds(15)).unwrap();
    }
}

fn rpc_latency(run: &Run) {
    let rtt = micros(40);
    let mut pair = run.pair(&Link::with_delay(rtt / 2));
    let task = Calls::of(64, 2000).start(&mut pair.world, [pair.a, pair.b], PORT, run.seed());
    let latencies = pair.world.wait(&task, seconds(5)).unwrap();
    run.figure("p50", format!("{:?}", latencies.quantile(0.5)));
    run.figure("worst", format!("{:?}", latencies.quantile(1.0)));
    // Out, in, out, in: each may find its engine in a round, and takes one.
    let cost = costs();
    assert!(latencies.quantile(1.0) <= rtt + (cost.poll_cost + cost.packet_cost * 2) * 8);
    pair.world.settle(seconds(15)).unwrap();
}

fn many_per_packet(run: &Run) {
    let mut wide: Config = config();
    wide.max_payload = 1472;
    let link = Link::with_rate(1_000_000_000, micros(50), 1 << 20);
    let mut pair = run.pair_of(&link, nic(), wide);
    let bulk = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT, run.seed(), 64);
    pair.world.run_for(millis(20)).unwrap();
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let notes = Arc::clone(&counts);
    pair.world.fabric().filter(pair.there, move |seen| {
        if let Seen::Data(chunks) = Seen::read(seen.payload) {
            let messages = chunks.iter().filter(|chunk| matches!(chunk, Chunk::Message { .. })).count() as u64;
            notes[0].fetch_add(u64::from(messages > 0), Ordering::Relaxed);
            notes[1].fetch_add(messages, Ordering::Relaxed);
        }
        Verdict::Pass
    });
    pair.world.run_for(millis(20)).unwrap();
    let [packets, messages] = [0, 1].map(|i| counts[i].load(Ordering::Relaxed));
    let mean = messages as f64 / packets as f64;
    run.figure("messages per packet", format!("{mean:.2}"));
    assert!(packets > 100 && mean >= 15.0, "{mean:.2} messages per packet, of {packets}");
    bulk.stop();
    pair.world.run(seconds(10)).unwrap();
    pair.world.settle(seconds(15)).unwrap();
}

fn nothing_waits(run: &Run) {
    let delay = micros(20);
    let mut pair = run.pair(&Link::with_delay(delay));
    let (mut a, mut b) = pair.open();
    let handle = pair.world.handle().clone();
    let mut rng = run.rng();
    let sender = pair.world.spawn("sender", async move {
        for _ in 0..500 {
            handle.sleep(rng.duration(micros(400))).await;
            // The time of its sending is its content.
            a.send(handle.now().0.to_be_bytes().to_vec()).await.unwrap();
        }
        a
    });
    let handle = pair.world.handle().clone();
    let reader = pair.world.spawn("reader", async move {
        let mut latencies = Vec::new();
        for _ in 0..500 {
            let sent = b.receive().await.unwrap();
            let sent = u64::from_be_bytes(sent.as_slice().try_into().unwrap());
            latencies.push(Duration::from_nanos(handle.now().0 - sent));
        }
        (latencies.into_iter().collect::<Latencies>(), b)
    });
    let (latencies, b) = pair.world.wait(&reader, seconds(2)).unwrap();
    run.figure("one way", format!("p50 {:?}, worst {:?}", latencies.quantile(0.5), latencies.quantile(1.0)));
    let cost = costs();
    assert!(latencies.quantile(1.0) <= delay + (cost.poll_cost + cost.packet_cost * 2) * 4);
    drop((pair.world.wait(&sender, seconds(1)).unwrap(), b));
    pair.world.settle(seconds(15)).unwrap();
}

/// An engine with 100 bulk flows to ten hosts is the bottleneck: links are infinitely fast, only packets cost time.
fn rpc_beside_bulk(run: &Run) {
    let latencies = |bulk: usize| {
        let mut world = run.world(costs());
        let server = world.machine(ip(1), NicConfig { frames: 8192, ..nic() }, config());
        let client = world.machine(ip(2), nic(), config());
        let sinks: Vec<_> = (10..20).map(|n| world.machine(ip(n), nic(), config())).collect();
        let mut hosts = vec![server, client];
        hosts.extend(&sinks);
        let half = Link::with_delay(micros(25));
        world.switch(&hosts, &half, &half);
        let flow = |i: usize, world: &mut crate::World| {
            Bulk::start(world, [server, sinks[i % 10]], PORT + 1 + i as u16, i as u64, 64_000)
        };
        let flows: Vec<Bulk> = (0..bulk).map(|i| flow(i, &mut world)).collect();
        world.run_for(millis(5)).unwrap();
        let calls = Calls { think: micros(37), ..Calls::of(64, 300) };
        let task = calls.start(&mut world, [server, client], PORT, 1000);
        let latencies = world.wait(&task, seconds(5)).unwrap();
        flows.iter().for_each(Bulk::stop);
        world.run(seconds(60)).unwrap();
        world.settle(seconds(15)).unwrap();
        latencies
    };
    compare(run, &latencies(0), &latencies(100));
}

/// The two flows share engines and a link of 25 Gbit/s.
fn rpc_beside_large(run: &Run) {
    let latencies = |bulk: usize| {
        let link = Link::with_rate(25_000_000_000, micros(50), 1 << 20);
        let mut pair = run.pair_of(&link, NicConfig { frames: 8192, ..nic() }, config());
        let start = |i: usize| Bulk::start(&mut pair.world, [pair.a, pair.b], PORT + 1 + i as u16, i as u64, 1 << 20);
        let flows: Vec<Bulk> = (0..bulk).map(start).collect();
        pair.world.run_for(millis(5)).unwrap();
        let calls = Calls { think: micros(37), ..Calls::of(64, 300) };
        let task = calls.start(&mut pair.world, [pair.a, pair.b], PORT, 1000);
        let latencies = pair.world.wait(&task, seconds(5)).unwrap();
        flows.iter().for_each(Bulk::stop);
        pair.world.run(seconds(60)).unwrap();
        pair.world.settle(seconds(15)).unwrap();
        latencies
    };
    compare(run, &latencies(0), &latencies(1));
}

fn compare(run: &Run, unloaded: &Latencies, loaded: &Latencies) {
    let [before, p99] = [unloaded, loaded].map(|latencies| latencies.quantile(0.99));
    run.figure("unloaded", format!("p50 {:?}, p99 {before:?}", unloaded.quantile(0.5)));
    run.figure("loaded", format!("p50 {:?}, p99 {p99:?}", loaded.quantile(0.5)));
    assert!(p99 <= before * 3, "p99 {p99:?}, unloaded {before:?}");
}
