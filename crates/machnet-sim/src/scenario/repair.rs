//! What is lost comes again, soon, and only what is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machnet_core::Instant;

use super::{Run, Scenario, kept};
use crate::fault::{drop_some, outage};
use crate::setup::{PORT, config, micros, millis, nic, seconds};
use crate::{Bulk, Chunk, Link, LinkId, NicConfig, Pair, Plan, Seen, Verdict, fault, goodput};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept("single_loss", "one lost packet of many reaches the receiver within 2 RTT of its first sending", single_loss),
    kept("tail_loss", "a lost last packet reaches the receiver within 3 RTT + max_ack_delay", tail_loss),
    kept("burst_loss", "64 lost packets in a row are repaired within 4 RTT, without a probe timeout", burst_loss),
    kept("tail_burst_loss", "a lost last window is repaired after one probe timeout", tail_burst_loss),
    kept(
        "reordering",
        "packets that overtake each other by up to RTT/8 cost < 1 % spurious retransmissions",
        reordering,
    ),
    kept("duplicates", "every packet twice: nothing is sent again for it", duplicates),
    kept("acks_shrink", "acknowledgements are as short after a hole was repaired as before", acks_shrink),
];

/// When each part of a message was first sent on a link, and when it last arrived at its end.
#[derive(Clone, Debug, Default)]
struct Parts(Arc<Mutex<Seens>>);

#[derive(Debug, Default)]
struct Seens {
    first: BTreeMap<(u32, u32), Instant>,
    last: BTreeMap<(u32, u32), Instant>,
    probes: u64,
    parts: u64,
}

impl Parts {
    /// Notes what comes to `link`, whatever happens to it there.
    fn watch(pair: &Pair, link: LinkId) -> Self {
        let parts = Self::default();
        let notes = parts.clone();
        pair.world.fabric().also_filter(
            link,
            Box::new(move |seen| {
                if let Seen::Data(chunks) = Seen::read(seen.payload) {
                    let mut notes = notes.0.lock().unwrap();
                    for chunk in chunks {
                        match chunk {
                            Chunk::Message { id, offset, .. } => {
                                notes.first.entry((id, offset)).or_insert(seen.at);
                                notes.last.insert((id, offset), seen.at);
                                notes.parts += 1;
                            }
                            Chunk::Ping => notes.probes += 1,
                            _ => {}
                        }
                    }
                }
                Verdict::Pass
            }),
        );
        parts
    }

    /// The longest time from a part's first sending to its last.
    fn slowest_repair(&self) -> Duration {
        let notes = self.0.lock().unwrap();
        notes.last.iter().map(|(part, &last)| last.since(notes.first[part])).max().unwrap_or_default()
    }

    /// Parts that were sent more than once, counted as often as they were sent again.
    fn again(&self) -> u64 {
        let notes = self.0.lock().unwrap();
        notes.parts - notes.first.len() as u64
    }

    fn total(&self) -> u64 {
        self.0.lock().unwrap().parts
    }

    fn probes(&self) -> u64 {
        self.0.lock().unwrap().probes
    }
}

/// A NIC with room for every window.
fn roomy() -> NicConfig {
    NicConfig { rx_descriptors: 8192, tx_descriptors: 4096, frames: 32_768, ..nic() }
}

/// A pair of machines and a flow that fills the path; the world after it has run for a while.
fn busy(run: &Run, link: &Link, size: usize) -> (Pair, Bulk) {
    // Room for what waits behind a hole for a round trip.
    let mut config = config();
    config.reassembly_bytes = 64 << 20;
    let mut pair = run.pair_of(link, roomy(), config);
    let bulk = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT, run.seed(), size);
    pair.world.run_for(link.delay * 60).unwrap();
    (pair, bulk)
}

fn finish(pair: &mut Pair, bulk: &Bulk) {
    bulk.stop();
    pair.world.run(seconds(30)).unwrap();
    pair.world.settle(seconds(15)).unwrap();
}

fn single_loss(run: &Run) {
    for rtt in [micros(100), millis(1), millis(20)] {
        let link = Link::with_rate(10_000_000_000, rtt / 2, 8 << 20);
        let (mut pair, bulk) = busy(run, &link, 16_000);
        let place = run.rng().below(20);
        let parts = Parts::watch(&pair, pair.there);
        let lost = drop_some(place..place + 1, |seen| Seen::read(seen.payload).has_message());
        pair.world.fabric().also_filter(pair.there, lost);
        pair.world.run_for(rtt * 20).unwrap();
        // From one arrival at the link to the other; both then take the same time to the receiver.
        let repair = parts.slowest_repair() + rtt / 2;
        run.figure(format!("repair at {rtt:?} RTT"), format!("{:.2} RTT", repair.as_secs_f64() / rtt.as_secs_f64()));
        assert_eq!(parts.again(), 1, "at {rtt:?}: parts sent again, of {}", parts.total());
        assert!(repair <= rtt * 2, "at {rtt:?}: {repair:?}");
        finish(&mut pair, &bulk);
    }
}

fn tail_loss(run: &Run) {
    for rtt in [micros(100), millis(1), millis(20)] {
        let mut pair = run.pair(&Link::with_delay(rtt / 2));
        let (mut a, mut b) = pair.open();
        // Ten exchanges teach the estimator, one after the other; then one message alone, whose packet is lost.
        let warm = pair.world.spawn("warm", async move {
            for _ in 0..10 {
                a.send(vec![1; 500]).await.unwrap();
                b.receive().await.unwrap();
                b.send(vec![2; 500]).await.unwrap();
                a.receive().await.unwrap();
            }
            (a, b)
        });
        let (mut a, mut b) = pair.world.wait(&warm, seconds(2)).unwrap();
        pair.world.run_for(millis(20)).unwrap();
        pair.world.fabric().filter(pair.there, |_| Verdict::Pass);
        pair.world.fabric().also_filter(pair.there, drop_some(0..1, |seen| Seen::read(seen.payload).has_message()));
        let start = pair.world.now();
        let sent = pair.world.spawn("sender", async move {
            a.send(vec![3; 500]).await.unwrap();
            a
        });
        let handle = pair.world.handle().clone();
        let got = pair.world.spawn("reader", async move {
            b.receive().await.unwrap();
            (handle.now(), b)
        });
        let (at, b) = pair.world.wait(&got, seconds(2)).unwrap();
        let took = at.since(start);
        let limit = rtt * 3 + config().max_ack_delay;
        run.figure(format!("tail at {rtt:?} RTT"), format!("{took:?} of {limit:?}"));
        assert!(took <= limit, "at {rtt:?}: {took:?}, not {limit:?}");
        drop((pair.world.wait(&sent, seconds(1)).unwrap(), b));
        pair.world.settle(seconds(15)).unwrap();
    }
}

fn burst_loss(run: &Run) {
    let rtt = millis(1);
    let link = Link::with_rate(10_000_000_000, rtt / 2, 8 << 20);
    let (mut pair, bulk) = busy(run, &link, 16_000);
    let parts = Parts::watch(&pair, pair.there);
    let place = run.rng().below(100);
    let lost = drop_some(place..place + 64, |seen| Seen::read(seen.payload).has_message());
    pair.world.fabric().also_filter(pair.there, lost);
    pair.world.run_for(rtt * 20).unwrap();
    let repair = parts.slowest_repair() + rtt / 2;
    run.figure("repair", format!("{:.2} RTT", repair.as_secs_f64() / rtt.as_secs_f64()));
    run.figure("sent again", parts.again());
    assert_eq!(parts.probes(), 0, "probes");
    assert_eq!(parts.again(), 64, "parts sent again, of {}", parts.total());
    assert!(repair <= rtt * 4, "{repair:?}");
    finish(&mut pair, &bulk);
}

/// Everything in flight is lost, and nothing follows it.
fn tail_burst_loss(run: &Run) {
    let rtt = micros(200);
    let link = Link::with_rate(10_000_000_000, rtt / 2, 8 << 20);
    let mut pair = run.pair_of(&link, roomy(), config());
    let plan = Plan::fixed(run.seed(), 200, 1000);
    let (mut a, mut b) = pair.open();
    let handle = pair.world.handle().clone();
    let reading = {
        let plan = plan.clone();
        pair.world.spawn("reader", async move {
            for index in 0..plan.len() {
                plan.verify(index, b.receive().await.unwrap().as_slice());
            }
            (handle.now(), b)
        })
    };
    let writing = pair.world.spawn("writer", async move {
        for index in 0..100 {
            a.send(plan.message(index)).await.unwrap();
        }
        (a, plan)
    });
    let (mut a, plan) = pair.world.wait(&writing, seconds(1)).unwrap();
    pair.world.run_for(millis(20)).unwrap();
    let parts = Parts::watch(&pair, pair.there);
    let start = pair.world.now();
    // The last 20 messages.
    pair.world.fabric().also_filter(pair.there, outage(start..start + micros(60)));
    let writing = pair.world.spawn("writer", async move {
        for index in 100..200 {
            a.send(plan.message(index)).await.unwrap();
        }
        a
    });
    let (at, b) = pair.world.wait(&reading, seconds(2)).unwrap();
    let took = at.since(start);
    // A probe timeout, the probe's round trip, and the slow start of what was lost.
    let limit = rtt * 8 + config().max_ack_delay * 2;
    run.figure("last window repaired", format!("{took:?} of {limit:?}, {} probes", parts.probes()));
    assert!(took <= limit, "{took:?}, not {limit:?}");
    drop((pair.world.wait(&writing, seconds(1)).unwrap(), b));
    pair.world.settle(seconds(15)).unwrap();
}

fn reordering(run: &Run) {
    let rtt = micros(400);
    let link = Link { reorder: 0.1, reorder_by: rtt / 8, ..Link::with_rate(10_000_000_000, rtt / 2, 8 << 20) };
    let (mut pair, bulk) = busy(run, &link, 16_000);
    let parts = Parts::watch(&pair, pair.there);
    let rate = goodput(&mut pair.world, std::slice::from_ref(&bulk), rtt * 200)[0];
    let share = parts.again() as f64 / parts.total() as f64;
    run.figure("goodput", format!("{:.2} Gbit/s", rate / 1e9));
    run.figure("sent again", format!("{:.2} %", 100.0 * share));
    assert!(share < 0.01, "{} of {} parts were sent again", parts.again(), parts.total());
    assert!(rate > 5e9, "{rate:.3e} bit/s");
    finish(&mut pair, &bulk);
}

fn duplicates(run: &Run) {
    let link = Link { duplicate: 1.0, ..Link::with_rate(10_000_000_000, micros(50), 8 << 20) };
    let (mut pair, bulk) = busy(run, &link, 16_000);
    let parts = Parts::watch(&pair, pair.there);
    pair.world.run_for(millis(10)).unwrap();
    assert_eq!(parts.again(), 0, "parts sent again, of {}", parts.total());
    finish(&mut pair, &bulk);
}

/// Bytes of the packets that carry nothing but acknowledgements, on average.
fn acks_shrink(run: &Run) {
    let rtt = micros(200);
    let link = Link::with_rate(10_000_000_000, rtt / 2, 8 << 20);
    let (mut pair, bulk) = busy(run, &link, 16_000);
    let sizes = Arc::new(Mutex::new((0_u64, 0_u64)));
    let notes = Arc::clone(&sizes);
    pair.world.fabric().filter(pair.back, move |seen| {
        if fault::is_acknowledgement(seen.payload) {
            let mut notes = notes.lock().unwrap();
            *notes = (notes.0 + 1, notes.1 + seen.payload.len() as u64);
        }
        Verdict::Pass
    });
    let mean = || {
        let (count, bytes) = std::mem::take(&mut *sizes.lock().unwrap());
        bytes as f64 / count.max(1) as f64
    };
    pair.world.run_for(rtt * 50).unwrap();
    let before = mean();
    pair.world.fabric().filter(pair.there, |_| Verdict::Pass);
    pair.world.fabric().also_filter(pair.there, drop_some(0..1, |seen| Seen::read(seen.payload).has_message()));
    pair.world.run_for(rtt * 10).unwrap();
    let meanwhile = mean();
    pair.world.run_for(rtt * 50).unwrap();
    let after = mean();
    run.figure("bytes per acknowledgement", format!("{before:.1}, with a hole {meanwhile:.1}, after {after:.1}"));
    assert!(meanwhile > before, "the hole was not reported");
    assert!(after <= before + 0.5, "{before:.1} before, {after:.1} after");
    finish(&mut pair, &bulk);
}
