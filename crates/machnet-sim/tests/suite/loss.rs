//! What a lost packet costs: how soon it is repaired, and what is undone if it was not lost at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machnet_core::{Config, Congestion, Instant};
use machnet_sim::{Link, NicConfig, Pace, Plan, Sighting, Verdict};

use crate::common::{Chunk, Pair, Seen, config, micros, nic, pair, read, seconds, seeds, world_config};

/// Bytes of the messages: one to a packet.
const SIZE: u32 = 1000;

/// What passed a link, by message: when it was first seen, and when it was first let through.
#[derive(Debug, Default)]
struct Log {
    first: BTreeMap<u32, Instant>,
    passed: BTreeMap<u32, Instant>,
    /// Probes: packets with a PING alone.
    pings: u32,
}

impl Log {
    /// How long after message `id` was first sent a copy of it reached the other side.
    fn repaired(&self, id: u32, delay: Duration) -> Duration {
        (self.passed[&id] + delay).since(self.first[&id])
    }
}

/// Logs what passes, and drops the first copy of the messages that `lose` picks.
fn log(pair: &Pair, lose: impl Fn(u32) -> bool + Send + 'static) -> Arc<Mutex<Log>> {
    let log = Arc::<Mutex<Log>>::default();
    let shared = Arc::clone(&log);
    pair.world.fabric().filter(pair.there, move |packet: &Sighting<'_>| {
        let Seen::Data(chunks) = read(packet.payload) else { return Verdict::Pass };
        let mut log = shared.lock().unwrap();
        if !log.first.is_empty() && packet.payload[1] & 4 != 0 && chunks.first() == Some(&Chunk::Ping) {
            log.pings += 1;
        }
        let mut verdict = Verdict::Pass;
        for chunk in chunks {
            let Chunk::Message { id, .. } = chunk else { continue };
            let new = !log.first.contains_key(&id);
            log.first.entry(id).or_insert(packet.at);
            if new && lose(id) {
                verdict = Verdict::Drop;
            } else {
                log.passed.entry(id).or_insert(packet.at);
            }
        }
        verdict
    });
    log
}

/// `count` messages, one every `every`, of which `lose` picks those whose first copy is lost.
fn stream(
    seed: u64,
    delay: Duration,
    count: usize,
    every: Duration,
    lose: impl Fn(u32) -> bool + Send + 'static,
) -> (Pair, Arc<Mutex<Log>>) {
    let mut pair = pair(seed, &Link::with_delay(delay));
    let (a, b) = pair.open();
    // Round trips are known before anything is lost.
    let (mut send, mut recv) = (a.send, b.recv);
    let handle = pair.world.handle().clone();
    let plan = Plan::fixed(1, 20 + count, SIZE);
    let log = log(&pair, move |id| id >= 20 && lose(id - 20));
    let sender = plan.clone();
    pair.world.spawn("writer", async move {
        for index in 0..sender.len() {
            let pause = if index < 20 { 3 * delay } else { every };
            handle.sleep(pause).await;
            machnet_sim::send(&mut send, sender.message(index)).await.unwrap();
        }
        // The tail is to be found by time, not by a FIN.
        handle.sleep(seconds(1)).await;
        send.finish();
    });
    let handle = pair.world.handle().clone();
    let reading = pair.world.spawn("reader", async move { plan.receive(&mut recv, &handle, Pace::Eager, true).await });
    assert_eq!(pair.world.wait(&reading, seconds(3)).unwrap(), 20 + count);
    drop((a.recv, b.send));
    (pair, log)
}

#[test]
fn a_single_loss_is_repaired_in_two_round_trips() {
    seeds("a_single_loss_is_repaired_in_two_round_trips", 8, |seed| {
        for delay in [micros(50), micros(500)] {
            let lost = 5 + seed as u32 % 40;
            let (_pair, log) = stream(seed, delay, 100, delay / 20, move |id| id == lost);
            let log = log.lock().unwrap();
            let took = log.repaired(20 + lost, delay);
            assert!(took <= 4 * delay, "{took:?} at a round trip of {:?}", 2 * delay);
            assert_eq!(log.pings, 0, "no probe was needed");
        }
    });
}

#[test]
fn a_lost_tail_is_repaired_in_three_round_trips_and_the_acknowledgement_delay() {
    let limit = Config::default().max_ack_delay;
    seeds("a_lost_tail_is_repaired_in_three_round_trips_and_the_acknowledgement_delay", 8, |seed| {
        for delay in [micros(50), micros(500)] {
            // As one of a burst, and alone.
            for every in [micros(1), 3 * delay] {
                let (_pair, log) = stream(seed, delay, 30, every, move |id| id == 29);
                let took = log.lock().unwrap().repaired(49, delay);
                assert!(took <= 6 * delay + limit, "{took:?} at a round trip of {:?}", 2 * delay);
            }
        }
    });
}

#[test]
fn a_burst_of_64_losses_is_repaired_without_a_second_timeout() {
    seeds("a_burst_of_64_losses_is_repaired_without_a_second_timeout", 8, |seed| {
        for delay in [micros(50), micros(500)] {
            // Followed by others, and at the end.
            for (count, probes) in [(300, 0), (164, 1)] {
                let (pair, log) = stream(seed, delay, count, micros(1), |id| (100..164).contains(&id));
                let log = log.lock().unwrap();
                assert!(log.pings <= probes, "{} probes for {count} messages", log.pings);
                assert_eq!(pair.world.stats(pair.a).packets_lost, 64);
            }
        }
    });
}

#[test]
fn reordering_is_learned_and_what_it_cost_is_undone() {
    let run = |seed, reorder| {
        let link = Link { reorder, reorder_by: micros(50), ..Link::with_delay(micros(50)) };
        // Nothing is lost: whatever is declared lost is not.
        let nic = NicConfig { rx_descriptors: 8192, frames: 32_768, ..nic() };
        let mut config = config();
        config.congestion = Some(Congestion::Cubic);
        let mut pair = Pair::with(seed, &link, [nic; 2], [config; 2], world_config());
        let (a, b) = pair.open();
        let (mut send, mut recv) = (a.send, b.recv);
        let plan = Plan::fixed(1, 20_000, SIZE);
        let sender = plan.clone();
        pair.world.spawn("writer", async move {
            sender.send(&mut send).await;
            send
        });
        let handle = pair.world.handle().clone();
        let reading =
            pair.world.spawn("reader", async move { plan.receive(&mut recv, &handle, Pace::Eager, true).await });
        assert_eq!(pair.world.wait(&reading, seconds(10)).unwrap(), 20_000);
        let stats = pair.world.stats(pair.a);
        drop((a.recv, b.send));
        (pair.world.now(), stats.packets_lost, pair.world.fabric().link_stats(pair.there).reordered)
    };
    seeds("reordering_is_learned_and_what_it_cost_is_undone", 8, |seed| {
        let (smooth, none, _) = run(seed, 0.0);
        assert_eq!(none, 0);
        // Within the window that is learned; half of them are late by more than a quarter of the round trip.
        let (took, spurious, reordered) = run(seed, 0.02);
        assert!(reordered > 200, "{reordered}");
        assert!(spurious < reordered / 10, "{spurious} of {reordered} were taken for lost");
        assert!(took.0 < smooth.0 * 2, "{took:?} instead of {smooth:?}");
    });
}
