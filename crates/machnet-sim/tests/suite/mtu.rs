//! Path MTU discovery: what is found, what it costs, and what happens when a path changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use machnet_core::{Config, DropReason};
use machnet_sim::{Calls, Link, LinkId, NicConfig, Plan, SimRng, Verdict};

use crate::common::{Dialog, PORT, Pair, TOMBSTONES, config, micros, millis, nic, seconds, seeds, world_config};

/// Packets keep so much free for an AEAD tag.
const TAILROOM: usize = 16;

fn jumbo() -> (NicConfig, Config) {
    let nic = NicConfig { max_payload: 8972, frame_size: 9216, ..nic() };
    let mut config = config();
    config.max_payload = 65_507;
    (nic, config)
}

/// Interfaces of 9 000 and a path that carries `path` bytes of UDP payload.
fn pair(seed: u64, path: u32) -> Pair {
    let (nic, config) = jumbo();
    let link = Link { max_payload: path, ..Link::with_delay(micros(20)) };
    Pair::with(seed, &link, [nic; 2], [config; 2], world_config())
}

/// The longest packet on a link since this was last set to 0, and how many were longer than every path carries.
#[derive(Clone, Default)]
struct Lengths {
    longest: Arc<AtomicUsize>,
    long: Arc<AtomicUsize>,
}

impl Lengths {
    fn watch(pair: &Pair, link: LinkId) -> Self {
        let lengths = Self::default();
        let seen = lengths.clone();
        pair.world.fabric().filter(link, move |packet| {
            seen.longest.fetch_max(packet.payload.len(), Ordering::Relaxed);
            seen.long.fetch_add(usize::from(packet.payload.len() > 1232), Ordering::Relaxed);
            Verdict::Pass
        });
        lengths
    }

    fn take(&self) -> (usize, usize) {
        (self.longest.swap(0, Ordering::Relaxed), self.long.swap(0, Ordering::Relaxed))
    }
}

/// Every size worth a try is found, and what does not pass costs its probes alone.
#[test]
fn each_size_is_found() {
    for (path, found, probes) in [(8956, 8972, 1), (8955, 8472, 4), (1456, 1472, 7), (1455, 1432, 10), (1300, 1232, 12)]
    {
        let mut pair = pair(1, path);
        // As long as a search for the least takes.
        let dialog = Dialog::new(Plan::fixed(1, 600, 100_000), Plan::fixed(2, 1, 10));
        let [a, _] = pair.run(&dialog, seconds(5));
        let stats = pair.world.fabric().link_stats(pair.there);
        assert_eq!(stats.oversized, probes - u64::from(found > 1232), "{path}");
        // What was lost was no data, and counted as no loss.
        assert_eq!(a.stats.packets_lost, 0, "{path}");
        // 60 MB in packets of what was found, but for the time that it took to find it.
        let least = 60_000_000 / (found - TAILROOM as u64);
        assert!(a.stats.packets_sent < least * 11 / 10 + 5000, "{path}: {} packets", a.stats.packets_sent);
        let lengths = Lengths::watch(&pair, pair.there);
        let again = Dialog { port: PORT + 1, ..Dialog::new(Plan::fixed(3, 10, 100_000), Plan::fixed(4, 1, 10)) };
        pair.run(&again, seconds(5));
        // The second flow knows what the first one found.
        let (longest, _) = lengths.take();
        let most = (found as usize - TAILROOM).max(1232);
        // Parts are multiples of 64 bytes, and leave room for acknowledgements.
        assert!((most - 128..=most).contains(&longest), "{path}: {longest}");
        assert_eq!(
            pair.world.fabric().link_stats(pair.there).oversized,
            stats.oversized,
            "{path}: no probe was repeated"
        );
    }
}

/// Lost probes do not slow a sender: its window grows as that of one that does not probe.
#[test]
fn a_lost_probe_is_no_congestion() {
    let window = |max_payload| {
        let (nic, mut config) = jumbo();
        config.max_payload = max_payload;
        let link = Link { max_payload: 1300, ..Link::with_delay(micros(20)) };
        let mut pair = Pair::with(2, &link, [nic; 2], [config; 2], world_config());
        let dialog = Dialog::new(Plan::fixed(1, 200, 100_000), Plan::fixed(2, 1, 10));
        let [a, _] = pair.run(&dialog, seconds(5));
        (a.stats.congestion_window, pair.world.fabric().link_stats(pair.there).oversized)
    };
    let ((probing, probes), (quiet, none)) = (window(65_507), window(1232));
    assert_eq!((probes, none), (12, 0));
    assert!(probing * 10 >= quiet * 9, "a window of {probing} with probes, {quiet} without");
}

/// Who sends one message at a time, which fits a packet, sends no probes.
#[test]
fn single_small_messages_need_no_probes() {
    let mut pair = pair(3, 8972);
    let lengths = [pair.there, pair.back].map(|link| Lengths::watch(&pair, link));
    let calls = Calls::of(1000, 1000).start(&mut pair.world, [pair.a, pair.b], PORT, 1);
    assert_eq!(pair.world.wait(&calls, seconds(5)).unwrap().len(), 1000);
    for lengths in lengths {
        assert_eq!(lengths.take().1, 0);
    }
}

/// Small messages that wait for each other share packets as long as the path carries.
#[test]
fn small_messages_that_wait_share_long_packets() {
    let mut pair = pair(3, 8972);
    let lengths = [pair.there, pair.back].map(|link| Lengths::watch(&pair, link));
    let sides = pair.run(&Dialog::new(Plan::fixed(1, 1000, 1000), Plan::fixed(2, 1000, 1000)), seconds(5));
    for side in sides {
        assert!(side.stats.packets_sent < 500, "{} packets", side.stats.packets_sent);
    }
    for lengths in lengths {
        assert!(lengths.take().0 > 8000);
    }
}

/// The path becomes narrower while a transfer goes on: it goes on, nothing is lost, and the new size is found.
#[test]
fn a_path_that_shrinks_is_noticed() {
    for path in [8500, 1456, 1300] {
        let mut pair = pair(4, 8972);
        for link in [pair.there, pair.back] {
            pair.world.fabric().reconfigure(link, |link| link.rate = Some(10_000_000_000));
        }
        let dialog =
            Dialog::new(Plan::fixed(1, 1000, 100_000), Plan::log_uniform(2, 400, 50_000, &mut SimRng::new(4, 7)));
        let tasks = pair.start(&dialog);
        pair.world.run_for(millis(3)).unwrap();
        assert!(tasks.iter().all(|task| !task.is_done()));
        for link in [pair.there, pair.back] {
            pair.world.fabric().reconfigure(link, |link| link.max_payload = path);
        }
        // Time for three PTOs in a row, and for a dozen probes.
        pair.world.run_for(millis(25)).unwrap();
        assert!(tasks.iter().all(|task| !task.is_done()));
        let lengths = Lengths::watch(&pair, pair.there);
        pair.world.run(seconds(2)).unwrap();
        dialog.check(&tasks.map(|task| task.take().unwrap()));
        let (longest, _) = lengths.take();
        let expected = if path == 1300 { 1232 } else { path as usize };
        assert!(longest <= expected, "{longest} on a path of {path}");
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// Small requests beside a transfer whose packets vanish: their acknowledgements are what shows the black hole.
#[test]
fn a_black_hole_for_long_packets_only() {
    let mut pair = pair(5, 8972);
    let (mut a, mut b) = pair.open();
    let reader = pair.world.spawn("reader", async move {
        let mut received = 0;
        while let Some(message) = b.receive().await {
            received += message.len();
        }
        drop(b);
        received
    });
    let handle = pair.world.handle().clone();
    let writer = pair.world.spawn("writer", async move {
        let mut sent = 0;
        for round in 0..400 {
            let len = if round % 2 == 0 { 20_000 } else { 100 };
            a.send(vec![0; len]).await.unwrap();
            sent += len;
            handle.sleep(micros(50)).await;
        }
        drop(a);
        sent
    });
    pair.world.run_for(millis(5)).unwrap();
    let there = pair.there;
    pair.world.fabric().filter(there, |packet| if packet.payload.len() > 1232 { Verdict::Drop } else { Verdict::Pass });
    let sent = pair.world.wait(&writer, seconds(2)).unwrap();
    assert_eq!(pair.world.wait(&reader, seconds(2)).unwrap(), sent);
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Paths that change their size at any time, in either direction, and lose packets: every message arrives.
#[test]
fn paths_that_change_lose_nothing() {
    seeds("paths_that_change_lose_nothing", 40, |seed| {
        let rng = &mut SimRng::new(seed, 1 << 40);
        let loss = [0.0, 0.001, 0.02][rng.below(3) as usize];
        let (nic, mut config) = jumbo();
        config.receive_window = [4096, 65_536, 2 << 20][rng.below(3) as usize];
        let link = Link { loss, reorder: loss, duplicate: loss, max_payload: 8972, ..Link::with_delay(micros(20)) };
        let mut pair = Pair::with(seed, &link, [nic; 2], [config; 2], world_config());
        let dialog = Dialog::new(Plan::log_uniform(1, 100, 1 << 19, rng), Plan::log_uniform(2, 100, 1 << 19, rng));
        let tasks = pair.start(&dialog);
        for _ in 0..6 {
            pair.world.run_for(micros(500 + rng.below(10_000))).unwrap();
            for link in [pair.there, pair.back] {
                let size = [8972, 8971, 8472, 4000, 1472, 1432, 1300, 1232][rng.below(8) as usize];
                pair.world.fabric().reconfigure(link, |link| link.max_payload = size);
            }
        }
        pair.world.run(seconds(120)).unwrap();
        dialog.check(&tasks.map(|task| task.take().unwrap()));
        for machine in [pair.a, pair.b] {
            assert_eq!(pair.world.stats(machine).drops.get(DropReason::Protocol), 0);
        }
        pair.world.settle(TOMBSTONES).unwrap();
    });
}
