//! Many seeds, each a world of its own: links, rates, paces and workloads are drawn from the seed.

use std::time::Duration;

use machnet_sim::{Corruption, Link, NicConfig, Pace, Plan, SimRng, Trouble, WorldConfig};

use crate::common::{Dialog, Pair, config, micros, millis, nic, pair, seconds, seeds, world_config};

/// A world and a dialog drawn from `seed`, on links that lose, double, reorder and damage 1 % each.
fn draw(seed: u64, corruption: Corruption) -> (Pair, Dialog) {
    let rng = &mut SimRng::new(seed, 1 << 40);
    let link = Link {
        delay: micros(1 + rng.log_uniform(300) as u64),
        rate: [None, Some(1_000_000_000), Some(10_000_000_000), Some(25_000_000_000)][rng.below(4) as usize],
        queue_packets: 64 + rng.below(1000) as u32,
        reorder_by: micros(1 + rng.log_uniform(300) as u64),
        ..Link::hostile(corruption)
    };
    let nics = [(); 2].map(|()| NicConfig {
        hold: Duration::from_nanos(rng.below(20_000)),
        hold_packets: rng.below(64) as u16,
        headroom: 64 * rng.below(2) as u32,
        ..nic()
    });
    let world = WorldConfig { poll_cost: Duration::from_nanos(200 + rng.below(5_000)), ..world_config() };
    let pair = Pair::with(seed, &link, nics, [config(); 2], world);
    let mut plan = |flow| {
        let count = rng.below(24) as usize;
        Plan::log_uniform(flow, count, 1 << 20, rng)
    };
    let mut dialog = Dialog::new(plan(2 * seed), plan(2 * seed + 1));
    dialog.verify = corruption == Corruption::Noticed;
    for pace in &mut dialog.paces {
        *pace = match rng.below(4) {
            0 => Pace::Each(micros(rng.below(2000))),
            1 => Pace::Stop { after: 1 + rng.below(5) as usize, pause: millis(rng.below(100)) },
            _ => Pace::Eager,
        };
    }
    (pair, dialog)
}

#[test]
fn two_hundred_seeds() {
    seeds("two_hundred_seeds", 200, |seed| {
        let (mut pair, dialog) = draw(seed, Corruption::Noticed);
        pair.run(&dialog, seconds(60));
    });
}

/// Damage that no checksum notices may change what it likes: contents, credit, acknowledgements, the end of a flow. It
/// may not panic, livelock, leak a frame or a buffer, or leave a flow behind once the applications are gone.
#[test]
fn two_hundred_seeds_of_unnoticed_corruption() {
    seeds("two_hundred_seeds_of_unnoticed_corruption", 200, |seed| {
        let (mut pair, dialog) = draw(seed, Corruption::Unnoticed);
        let tasks = dialog.start_tolerant(&mut pair.world, pair.a, pair.b);
        if let Err(failure) = pair.world.run(seconds(20)) {
            assert!(!matches!(failure.trouble, Trouble::Livelock(_)), "{failure}");
            pair.world.cancel();
        }
        drop(tasks);
        pair.world.settle(seconds(60)).unwrap();
    });
}

#[test]
fn five_percent_loss() {
    seeds("five_percent_loss", 40, |seed| {
        let link = Link { loss: 0.05, ..Link::with_delay(micros(20)) };
        let mut pair = pair(seed, &link);
        let rng = pair.world.rng();
        let dialog = Dialog::new(Plan::log_uniform(1, 20, 1 << 18, rng), Plan::log_uniform(2, 20, 1 << 18, rng));
        pair.run(&dialog, seconds(60));
    });
}

/// Of a flow that just opened, nearly every second exchange fails: timers, probes and tombstones have to do it.
#[test]
fn thirty_percent_loss_of_a_short_dialog() {
    seeds("thirty_percent_loss_of_a_short_dialog", 200, |seed| {
        let mut pair = pair(seed, &Link::with_delay(micros(20)));
        let (a, b) = pair.open();
        for link in [pair.there, pair.back] {
            pair.world.fabric().reconfigure(link, |link| link.loss = 0.3);
        }
        let dialog = Dialog::new(Plan::fixed(1, 3, 100), Plan::fixed(2, 3, 3000));
        let tasks = [(0, pair.a, a), (1, pair.b, b)].map(|(side, machine, flow)| {
            let (node, dialog) = (pair.world.node(machine), dialog.clone());
            pair.world.spawn("side", async move { dialog.side(side, &node, flow).await })
        });
        pair.world.run(seconds(60)).unwrap();
        dialog.check(&tasks.map(|task| task.take().unwrap()));
        pair.world.settle(seconds(10)).unwrap();
    });
}

#[test]
fn one_seed_gives_one_world() {
    let run = |seed| {
        let (mut pair, dialog) = draw(seed, Corruption::Noticed);
        pair.run(&dialog, seconds(60));
        (pair.world.fabric().trace_hash(), pair.world.fabric().trace_len(), pair.world.now())
    };
    let first = run(17);
    assert!(first.1 > 10, "the world was not asleep");
    assert_eq!(first, run(17));
    assert_ne!(first.0, run(18).0);
}
