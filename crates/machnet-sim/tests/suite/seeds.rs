//! Many seeds, each a world of its own: links, rates, paces and workloads are drawn from the seed.

use std::time::Duration;

use machnet_channel::{CloseReason, FlowState};
use machnet_sim::{Corruption, Flow, Link, NicConfig, Pace, Plan, SimRng, Trouble, WorldConfig};

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

/// How a direction of the flow is left, drawn from the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Everything is sent, or read, and the direction ends in order.
    Complete,
    /// The end is dropped in the middle.
    Leave,
    /// The whole flow is aborted in the middle.
    Abort,
}

fn draw_exit(rng: &mut SimRng) -> Exit {
    [Exit::Complete, Exit::Complete, Exit::Leave, Exit::Abort][rng.below(4) as usize]
}

/// Applications that leave when they like, on a hostile link: what was read is the beginning of what was sent; a stream
/// that ended in order is complete; and nothing is left behind.
#[test]
fn every_way_to_leave() {
    seeds("every_way_to_leave", 400, |seed| {
        let rng = &mut SimRng::new(seed, 1 << 40);
        let loss = [0.0, 0.01, 0.1][rng.below(3) as usize];
        let link = Link { loss, reorder: loss, duplicate: loss, ..Link::with_delay(micros(1 + rng.below(100))) };
        let mut pair = pair(seed, &link);
        let (a, b) = pair.open();
        let mut sides = Vec::new();
        let plans = [(); 2].map(|()| Plan::log_uniform(rng.word(), rng.below(20) as usize, 1 << 16, rng));
        for (side, flow) in [a, b].into_iter().enumerate() {
            let Flow { mut send, mut recv } = flow;
            let (outgoing, incoming, handle) =
                (plans[side].clone(), plans[1 - side].clone(), pair.world.handle().clone());
            let (exit, stop_at) = (draw_exit(rng), rng.below(1 + outgoing.len() as u64) as usize);
            let pause = rng.duration(micros(500));
            let writing = pair.world.spawn(format!("writer {side}"), async move {
                let mut posted = 0;
                while posted < outgoing.len() && (exit == Exit::Complete || posted < stop_at) {
                    if machnet_sim::send(&mut send, outgoing.message(posted)).await.is_err() {
                        return (posted, exit);
                    }
                    posted += 1;
                    handle.sleep(pause).await;
                }
                if exit == Exit::Abort {
                    send.abort();
                }
                (posted, exit)
            });
            let (exit, stop_at) = (draw_exit(rng), rng.below(1 + incoming.len() as u64) as usize);
            let pause = rng.duration(micros(500));
            let handle = pair.world.handle().clone();
            let reading = pair.world.spawn(format!("reader {side}"), async move {
                let mut count = 0;
                while exit == Exit::Complete || count < stop_at {
                    let Some(message) = machnet_sim::receive(&mut recv).await else {
                        return (count, Some(recv.mailbox().state()));
                    };
                    incoming.verify(count, message.as_slice());
                    count += 1;
                    handle.sleep(pause).await;
                }
                (count, None)
            });
            sides.push((writing, reading));
        }
        pair.world.run(seconds(30)).unwrap();
        let writers: Vec<_> = sides.iter().map(|(writing, _)| writing.take().unwrap()).collect();
        for (side, (_, reading)) in sides.iter().enumerate() {
            let (received, end) = reading.take().unwrap();
            let (posted, _) = writers[1 - side];
            assert!(received <= posted, "side {side} received {received} of {posted}");
            let Some(end) = end else { continue };
            if end.has(FlowState::READ_ENDED) {
                assert_eq!(received, posted, "side {side}: {end:?}");
            } else {
                let reason = end.reason().expect("why no more messages come");
                assert!(writers.iter().any(|&(_, exit)| exit == Exit::Abort), "side {side}: {end:?}");
                assert!(matches!(reason, CloseReason::Aborted | CloseReason::Reset), "side {side}: {end:?}");
            }
        }
        pair.world.settle(seconds(30)).unwrap();
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
