//! Times in which something does not answer, and that everything goes on after them.

use std::time::Duration;

use machnet_channel::{CloseReason, FlowState};
use machnet_core::Instant;

use super::{Run, Scenario, kept};
use crate::fault::{outage, outage_of_acknowledgements, outage_of_long};
use crate::setup::{PORT, config, micros, millis, nic, seconds};
use crate::{Bulk, Calls, Link, NicConfig, Pair, goodput};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept(
        "black_hole",
        "both directions gone for 1 s: flows live, and have their goodput back within 1.1 s",
        black_hole,
    ),
    kept(
        "black_hole_one_way",
        "either direction gone for 1 s: flows live, and have their goodput back",
        black_hole_one_way,
    ),
    kept(
        "black_hole_for_good",
        "a path that stays gone ends every flow within 1.5 dead_peer_timeout",
        black_hole_for_good,
    ),
    kept("mtu_black_hole", "packets over 1 232 B vanish for 3 s: flows go on with smaller ones", mtu_black_hole),
    kept("ack_outage", "no bare acknowledgement for 20 ms: goodput is back within 20 ms more", ack_outage),
    kept(
        "asymmetric_delay",
        "10 µs there and 5 ms back: the window's goodput, and nothing sent twice",
        asymmetric_delay,
    ),
    kept(
        "descheduled_sender",
        "a sender that stands still for 4 ms: nothing lost, goodput back within 3 ms",
        descheduled_sender,
    ),
    kept(
        "descheduled_receiver",
        "a receiver that stands still for 4 ms: nothing sent twice, goodput back in 3 ms",
        descheduled_receiver,
    ),
    kept(
        "descheduled_calls",
        "either side of calls stands still for 4 ms at a time: no call takes over 5 ms",
        descheduled_calls,
    ),
    kept(
        "stopped_reader",
        "a reader that stops for 30 s holds its sender, not others, and nobody is declared dead",
        stopped_reader,
    ),
    kept("credit_resume", "a flow without credit goes on within one RTT of its reader", credit_resume),
];

const RATE: u64 = 10_000_000_000;

/// A pair of machines and a flow between them that has run for a while; and its goodput.
fn busy(run: &Run, link: &Link, nic: NicConfig) -> (Pair, Bulk, f64) {
    let mut pair = run.pair_of(link, nic, config());
    let bulk = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT, run.seed(), 16_000);
    pair.world.run_for(millis(40)).unwrap();
    let before = goodput(&mut pair.world, std::slice::from_ref(&bulk), millis(20))[0];
    (pair, bulk, before)
}

/// That the flow has 80 % of its goodput back within `limit`, and ends in order.
fn recovers(run: &Run, mut pair: Pair, bulk: &Bulk, before: f64, limit: Duration) {
    let start = pair.world.now();
    let window = (limit / 2).clamp(millis(1), millis(10));
    let mut after = 0.0;
    while after < 0.8 * before && pair.world.now() < start + limit {
        after = goodput(&mut pair.world, std::slice::from_ref(bulk), window)[0];
    }
    let took = pair.world.now().since(start);
    run.figure(
        "goodput before and after",
        format!("{:.2} and, after {took:?}, {:.2} Gbit/s", before / 1e9, after / 1e9),
    );
    assert!(after >= 0.8 * before, "{before:.3e} bit/s before, {after:.3e} after {took:?}");
    bulk.stop();
    pair.world.run(seconds(30)).unwrap();
    pair.world.settle(seconds(15)).unwrap();
}

fn path() -> Link {
    Link::with_rate(RATE, micros(50), 256 << 10)
}

fn window(pair: &Pair, duration: Duration) -> std::ops::Range<Instant> {
    pair.world.now()..pair.world.now() + duration
}

fn black_hole(run: &Run) {
    let (mut pair, bulk, before) = busy(run, &path(), nic());
    for link in [pair.there, pair.back] {
        pair.world.fabric().also_filter(link, outage(window(&pair, seconds(1))));
    }
    pair.world.run_for(seconds(1)).unwrap();
    recovers(run, pair, &bulk, before, millis(1100));
}

fn black_hole_one_way(run: &Run) {
    for side in 0..2 {
        let (mut pair, bulk, before) = busy(run, &path(), nic());
        let link = [pair.there, pair.back][side];
        pair.world.fabric().also_filter(link, outage(window(&pair, seconds(1))));
        pair.world.run_for(seconds(1)).unwrap();
        recovers(run, pair, &bulk, before, millis(1100));
    }
}

fn black_hole_for_good(run: &Run) {
    let mut pair = run.pair(&path());
    let (mut a, mut b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    for link in [pair.there, pair.back] {
        pair.world.fabric().also_filter(link, outage(pair.world.now()..Instant(u64::MAX)));
    }
    let start = pair.world.now();
    let handle = pair.world.handle().clone();
    // One side waits for an answer, the other is idle.
    let asks = pair.world.spawn("a", async move {
        a.send(vec![0; 5000]).await.unwrap();
        let state = a.reaches(FlowState::CLOSED).await;
        (state.reason(), handle.now())
    });
    let handle = pair.world.handle().clone();
    let idles = pair.world.spawn("b", async move {
        let state = b.reaches(FlowState::CLOSED).await;
        (state.reason(), handle.now())
    });
    for (name, task) in [("busy", asks), ("idle", idles)] {
        let (reason, at) = pair.world.wait(&task, seconds(20)).unwrap();
        run.figure(format!("the {name} side"), format!("{reason:?} after {:?}", at.since(start)));
        assert_eq!(reason, Some(CloseReason::PeerDead), "{name}");
        assert!(at.since(start) <= config().dead_peer_timeout * 3 / 2, "{name}: {:?}", at.since(start));
    }
    pair.world.settle(seconds(15)).unwrap();
}

fn mtu_black_hole(run: &Run) {
    let mut wide = config();
    wide.max_payload = 1472;
    let mut pair = run.pair_of(&Link::with_rate(RATE / 10, micros(50), 256 << 10), nic(), wide);
    let bulk = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT, run.seed(), 16_000);
    pair.world.run_for(millis(50)).unwrap();
    for link in [pair.there, pair.back] {
        pair.world.fabric().also_filter(link, outage_of_long(window(&pair, seconds(3)), 1232));
    }
    pair.world.run_for(seconds(1)).unwrap();
    let rate = goodput(&mut pair.world, std::slice::from_ref(&bulk), millis(500))[0];
    run.figure("goodput from the 2nd second of the black hole on", format!("{:.3} Gbit/s", rate / 1e9));
    assert!(rate > 0.8e9, "{rate:.3e} bit/s");
    pair.world.run_for(seconds(2)).unwrap();
    bulk.stop();
    pair.world.run(seconds(30)).unwrap();
    pair.world.settle(seconds(15)).unwrap();
}

fn ack_outage(run: &Run) {
    let (mut pair, bulk, before) = busy(run, &path(), nic());
    pair.world.fabric().also_filter(pair.back, outage_of_acknowledgements(window(&pair, millis(20))));
    pair.world.run_for(millis(20)).unwrap();
    recovers(run, pair, &bulk, before, millis(20));
}

fn asymmetric_delay(run: &Run) {
    let mut pair = run.pair_of(&path(), NicConfig { rx_descriptors: 4096, frames: 8192, ..nic() }, config());
    let slow = pair.back;
    let delays = [(pair.there, micros(10)), (slow, millis(5))];
    for (link, delay) in delays {
        pair.world.fabric().reconfigure(link, |link| {
            link.delay = delay;
            link.queue_bytes = 8 << 20;
        });
    }
    let bulk = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT, run.seed(), 16_000);
    pair.world.run_for(millis(200)).unwrap();
    let lost = pair.world.stats(pair.a).packets_lost;
    let rate = goodput(&mut pair.world, std::slice::from_ref(&bulk), millis(200))[0];
    let lost = pair.world.stats(pair.a).packets_lost - lost;
    // What the receive window allows in one round trip.
    let limit = f64::from(config().receive_window) * 8.0 / 5.02e-3;
    run.figure("goodput", format!("{:.2} of {:.2} Gbit/s", rate / 1e9, limit / 1e9));
    assert_eq!(lost, 0, "packets were declared lost");
    assert!(rate >= 0.7 * limit, "{rate:.3e} of {limit:.3e} bit/s");
    bulk.stop();
    pair.world.run(seconds(30)).unwrap();
    pair.world.settle(seconds(15)).unwrap();
}

fn descheduled_sender(run: &Run) {
    let nic = NicConfig { rx_descriptors: 1024, frames: 4096, ..nic() };
    let (mut pair, bulk, before) = busy(run, &path(), nic);
    let lost = pair.world.stats(pair.a).packets_lost;
    let id = pair.a;
    pair.world.pause(id, millis(4));
    pair.world.run_for(millis(5)).unwrap();
    let spurious = pair.world.stats(pair.a).packets_lost - lost;
    run.figure("declared lost", spurious);
    assert!(spurious <= 2, "{spurious} packets were declared lost");
    recovers(run, pair, &bulk, before, millis(2));
}

fn descheduled_receiver(run: &Run) {
    // The ring holds what is under way: nothing is lost but time.
    let nic = NicConfig { rx_descriptors: 4096, frames: 8192, ..nic() };
    let (mut pair, bulk, before) = busy(run, &path(), nic);
    let lost = pair.world.stats(pair.a).packets_lost;
    let id = pair.b;
    pair.world.pause(id, millis(4));
    pair.world.run_for(millis(5)).unwrap();
    let spurious = pair.world.stats(pair.a).packets_lost - lost;
    run.figure("declared lost", spurious);
    assert!(spurious <= 4, "{spurious} packets were declared lost");
    recovers(run, pair, &bulk, before, millis(2));
}

fn descheduled_calls(run: &Run) {
    let mut pair = run.pair(&Link::with_delay(micros(50)));
    let calls = Calls::of(500, 2000).start(&mut pair.world, [pair.a, pair.b], PORT, run.seed());
    let mut rng = run.rng();
    for i in 0..20 {
        let id = if i % 2 == 0 { pair.a } else { pair.b };
        pair.world.pause(id, millis(4));
        pair.world.run_for(millis(4) + rng.duration(millis(4))).unwrap();
    }
    let latencies = pair.world.wait(&calls, seconds(10)).unwrap();
    let (p50, worst) = (latencies.quantile(0.5), latencies.quantile(1.0));
    run.figure("calls", format!("p50 {p50:?}, worst {worst:?}"));
    assert!(worst <= millis(5), "{worst:?}");
    pair.world.settle(seconds(15)).unwrap();
}

fn stopped_reader(run: &Run) {
    // As by default: what the reader leaves is far from all buffers of its size.
    let mut roomy = config();
    roomy.reassembly_bytes = 256 << 20;
    let mut pair = run.pair_of(&path(), NicConfig { frames: 8192, ..nic() }, roomy);
    let (mut a, mut b) = pair.open();
    let other = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT + 1, run.seed(), 16_000);
    let stuffed = pair.world.spawn("sender", async move {
        for _ in 0..1000 {
            a.send(vec![7; 10_000]).await.unwrap();
        }
        a
    });
    pair.world.run_for(millis(50)).unwrap();
    let before = goodput(&mut pair.world, std::slice::from_ref(&other), millis(50))[0];
    assert!(stuffed.take().is_none(), "10 MB went nowhere");
    other.stop();
    pair.world.run_for(millis(500)).unwrap();
    assert!(other.is_over(), "the other flow does not end: {} messages", other.messages());
    let buffers = pair.world.stats(pair.b).buffers_in_use;
    pair.world.run_for(seconds(30)).unwrap();
    assert!(pair.world.stats(pair.b).buffers_in_use <= buffers, "memory grows while nobody reads");
    let reader = pair.world.spawn("reader", async move {
        for _ in 0..1000 {
            assert_eq!(b.receive().await.expect("an open flow").as_slice(), &[7; 10_000]);
        }
        b
    });
    let b = pair.world.wait(&reader, seconds(10)).unwrap();
    let a = pair.world.wait(&stuffed, seconds(1)).unwrap();
    run.figure("the other flow meanwhile", format!("{:.2} Gbit/s", before / 1e9));
    assert!(before >= 0.7 * RATE as f64, "{before:.3e} bit/s");
    drop((a, b));
    pair.world.settle(seconds(15)).unwrap();
}

fn credit_resume(run: &Run) {
    let rtt = micros(100);
    let mut small = config();
    small.receive_window = 64 << 10;
    small.max_message = 16 << 10;
    let mut pair = run.pair_of(&Link::with_delay(rtt / 2), nic(), small);
    // What a round trip takes here, engines included.
    let calls = Calls::of(100, 50).start(&mut pair.world, [pair.a, pair.b], PORT + 1, 1);
    let unloaded = pair.world.wait(&calls, seconds(1)).unwrap().quantile(1.0);
    let (mut a, mut b) = pair.open();
    let sender = pair.world.spawn("sender", async move { while a.send(vec![9; 1000]).await.is_ok() {} });
    let handle = pair.world.handle().clone();
    let reader = pair.world.spawn("reader", async move {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            // Long enough for the sender to run out of credit and of patience.
            handle.sleep(millis(30)).await;
            while b.recv.take().is_some() {}
            let start = handle.now();
            b.receive().await.expect("an open flow");
            slowest = slowest.max(handle.now().since(start));
        }
        b.send.abort();
        slowest
    });
    let slowest = pair.world.wait(&reader, seconds(5)).unwrap();
    run.figure("data after reading", format!("{slowest:?}, a round trip is {unloaded:?}"));
    assert!(slowest <= unloaded, "{slowest:?}, a round trip is {unloaded:?}");
    pair.world.wait(&sender, seconds(1)).unwrap();
    pair.world.settle(seconds(30)).unwrap();
}
