//! Limits, each at its edge: windows that hold one message, pools of a few frames, counts of flows.

use machnet_channel::{CloseReason, FlowState};
use machnet_core::DropReason;
use machnet_sim::{Corruption, Link, NicConfig, NoFrame, Pace, Plan, SimRng};

use crate::common::{
    Dialog, PORT, Pair, TOMBSTONES, config, listen, micros, millis, nic, seconds, seeds, world_config,
};

/// Windows of hardly more than a message: each one waits for credit, BLOCKED and its answer are lost like the rest.
#[test]
fn tight_windows_never_stick() {
    seeds("tight_windows_never_stick", 200, |seed| {
        let rng = &mut SimRng::new(seed, 1 << 40);
        let configs = [(); 2].map(|()| {
            let mut config = config();
            config.max_message = 64 << rng.below(15);
            // Often smaller than a message: room for those is reserved when they begin to arrive.
            config.receive_window = 4096 + rng.below(10_000) as u32;
            config.send_buffer = 4096 + rng.below(10_000) as u32;
            config.reassembly_bytes = 1 << 20;
            config
        });
        let max = configs[0].max_message.min(configs[1].max_message);
        let loss = [0.0, 0.01, 0.1][rng.below(3) as usize];
        let link = Link { loss, reorder: loss, duplicate: loss, ..Link::with_delay(micros(1 + rng.below(100))) };
        let nic = NicConfig { frames: 512, ..nic() };
        let mut pair = Pair::with(seed, &link, [nic; 2], configs, world_config());
        let mut dialog = Dialog::new(Plan::log_uniform(1, 60, max, rng), Plan::log_uniform(2, 60, max, rng));
        for pace in &mut dialog.paces {
            *pace = match rng.below(3) {
                0 => Pace::Each(micros(rng.below(1000))),
                1 => Pace::Stop { after: rng.below(60) as usize, pause: millis(rng.below(200)) },
                _ => Pace::Eager,
            };
        }
        pair.run(&dialog, seconds(120));
    });
}

/// One side has hardly any frames: it is slow, and recovers every time.
#[test]
fn tiny_pools_recover() {
    seeds("tiny_pools_recover", 40, |seed| {
        let rng = &mut SimRng::new(seed, 1 << 40);
        for no_frame in [NoFrame::Wait, NoFrame::Drop] {
            for tiny in [0, 1] {
                let mut nics = [NicConfig { frames: 512, ..nic() }; 2];
                let frames = 2 + rng.below(24) as u32;
                nics[tiny] = NicConfig { frames, rx_descriptors: 16, hold: micros(20), no_frame, ..nics[tiny] };
                let link = Link { loss: 0.005, ..Link::with_delay(micros(20)) };
                let mut config = config();
                config.reassembly_bytes = 7 << 22;
                let mut pair = Pair::with(seed, &link, nics, [config; 2], world_config());
                let (there, back) = (Plan::log_uniform(1, 10, 1 << 17, rng), Plan::log_uniform(2, 10, 1 << 17, rng));
                let mut dialog = Dialog::new(there, back);
                dialog.paces[tiny] = Pace::Each(micros(500));
                pair.run(&dialog, seconds(60));
            }
        }
    });
}

/// An application that keeps every message cannot take the frames that everybody's traffic needs.
#[test]
fn kept_messages_do_not_starve_others() {
    let mut nics = [nic(); 2];
    nics[1].frames = 64;
    let mut pair = Pair::with(1, &Link::with_delay(micros(10)), nics, [config(); 2], world_config());
    let (mut a, mut b) = pair.open();
    let plan = Plan::fixed(1, 1000, 1000);
    let sender = plan.clone();
    pair.world.spawn("writer", async move {
        sender.send(&mut a.send).await;
        drop(a);
    });
    let reading = pair.world.spawn("reader", async move {
        let mut kept = Vec::new();
        while let Some(message) = b.receive().await {
            kept.push(message);
        }
        drop(b);
        kept
    });
    pair.world.run_for(millis(100)).unwrap();
    let other = Dialog { port: PORT + 1, ..Dialog::new(Plan::fixed(3, 50, 5000), Plan::fixed(4, 50, 5000)) };
    let tasks = pair.start(&other);
    pair.world.run(seconds(20)).unwrap();
    other.check(&tasks.map(|task| task.take().unwrap()));
    let kept = reading.take().unwrap();
    assert_eq!(kept.len(), plan.len());
    kept.iter().enumerate().for_each(|(index, message)| plan.verify(index, message.as_slice()));
    drop(kept);
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Applications that never read what they were sent stop their own flows and nobody else's, whatever the sizes: what is left unread
/// fills the buffers of its size, and the messages of others must come through all the same.
#[test]
fn stopped_readers_stop_nobody() {
    for (memory, max, stopped, size) in [
        (256 << 20, 64 << 20, 4, 30_000),
        (256 << 20, 64 << 20, 4, 64),
        (7 << 22, 1 << 20, 4, 30_000),
        (7 << 22, 1 << 20, 12, 64),
        (7 << 22, 1 << 20, 6, 1 << 20),
        (7 << 22, 1 << 20, 40, 3_000),
    ] {
        let mut config = config();
        config.reassembly_bytes = memory;
        config.max_message = max;
        let mut pair = Pair::with(5, &Link::with_delay(micros(10)), [nic(); 2], [config; 2], world_config());
        let mut held = Vec::new();
        for _ in 0..stopped {
            let (mut a, b) = pair.open();
            held.push(b);
            pair.world.spawn("stuffed", async move { while a.send(vec![7; size]).await.is_ok() {} });
            pair.world.run_for(millis(20)).unwrap();
        }
        for (i, other) in [10, 200, 1000, 5000, 30_000, 200_000, 1 << 20].into_iter().enumerate() {
            let i = i as u64;
            let plans = (Plan::fixed(2 * i, 10, other), Plan::fixed(2 * i + 1, 10, other));
            let dialog = Dialog { port: PORT + 1 + i as u16, ..Dialog::new(plans.0, plans.1) };
            let tasks = pair.start(&dialog);
            pair.world.run_for(seconds(1)).unwrap();
            let ended = tasks.map(|task| task.take());
            let [Some(a), Some(b)] = ended else {
                panic!("{stopped} readers stopped with messages of {size} B: one of {other} B does not come through")
            };
            dialog.check(&[a, b]);
        }
        let drops = pair.world.stats(pair.b).drops.get(DropReason::NoBuffers);
        println!("{stopped} stopped with {size} B: {drops} refused");
        // Who reads again gets what waited, beyond what its window holds.
        let count = (8 << 20) / size.max(200) + 10;
        let readers = held.into_iter().map(|mut flow| {
            pair.world.spawn("reader", async move {
                for _ in 0..count {
                    assert_eq!(flow.receive().await.expect("an open flow").len(), size);
                }
                flow.send.abort();
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            pair.world.wait(&reader, seconds(10)).unwrap();
        }
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// A peer that has no memory says so: nothing counts as lost, little is sent in vain, and when there is memory the flow goes on as before.
#[test]
fn what_is_refused_is_not_lost() {
    let mut config = config();
    config.reassembly_bytes = 2 << 20;
    let mut pair = Pair::with(6, &Link::with_delay(micros(50)), [nic(); 2], [config; 2], world_config());
    let (mut a, mut b) = pair.open();
    let sender = pair.world.spawn("sender", async move {
        for _ in 0..1000 {
            a.send(vec![7; 30_000]).await.unwrap();
        }
        a
    });
    pair.world.run_for(seconds(5)).unwrap();
    let [stats_a, stats_b] = [pair.a, pair.b].map(|machine| pair.world.stats(machine));
    let refused = stats_b.drops.get(DropReason::NoBuffers);
    println!("{refused} refused, {} lost", stats_a.packets_lost);
    assert_eq!(stats_a.packets_lost, 0);
    // What was underway when memory ran out, which is less than credit allows; then two for each probe.
    assert!((1..2000).contains(&refused), "{refused}");
    let begin = pair.world.handle().now();
    let reader = pair.world.spawn("reader", async move {
        for _ in 0..1000 {
            assert_eq!(b.receive().await.expect("an open flow").len(), 30_000);
        }
        b
    });
    let b = pair.world.wait(&reader, seconds(5)).unwrap();
    println!("the rest in {:?}", pair.world.handle().now().since(begin));
    drop((pair.world.wait(&sender, seconds(1)).unwrap(), b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Reassembly buffers run out: parts are dropped unacknowledged, come again, and everything arrives. What is behind a
/// hole may never take the buffer that fills it.
#[test]
fn few_buffers_delay_and_lose_nothing() {
    for (bytes, flows, size, loss) in [
        (0, 12, 200_000, 0.0),
        (0, 12, 200_000, 0.02),
        (0, 12, 2_000, 0.02),
        (16 << 20, 24, 1 << 20, 0.0),
        (16 << 20, 24, 1 << 20, 0.02),
    ] {
        let mut config = config();
        config.reassembly_bytes = bytes;
        let nic = nic();
        let link = Link { loss, ..Link::with_delay(micros(10)) };
        let mut pair = Pair::with(2, &link, [nic; 2], [config; 2], world_config());
        let dialogs: Vec<_> = (0..flows)
            .map(|i| Dialog {
                port: PORT + i as u16,
                ..Dialog::new(Plan::fixed(2 * i, 12, size), Plan::fixed(2 * i + 1, 12, size / 10))
            })
            .collect();
        let tasks: Vec<_> = dialogs.iter().map(|dialog| pair.start(dialog)).collect();
        pair.world.run(seconds(60)).unwrap_or_else(|failure| panic!("{flows} flows of {size} B: {failure}"));
        for (dialog, tasks) in dialogs.iter().zip(tasks) {
            dialog.check(&tasks.map(|task| task.take().unwrap()));
        }
        assert!(pair.world.stats(pair.b).drops.get(DropReason::NoBuffers) > 0, "{flows} flows of {size} B: enough");
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// Many flows compete for few frames and few buffers, on a hostile link: all of them finish.
#[test]
fn a_crowd_shares_what_little_there_is() {
    seeds("a_crowd_shares_what_little_there_is", 20, |seed| {
        let rng = &mut SimRng::new(seed, 1 << 40);
        let mut config = config();
        config.max_message = 1 << (10 + rng.below(7));
        config.receive_window = (config.max_message * (1 + rng.below(4) as u32)).max(4096) + 128;
        config.send_buffer = config.receive_window;
        config.reassembly_bytes = (1 + rng.below(2)) << 21;
        let nic = NicConfig { frames: 64 + rng.below(512) as u32, hold: micros(rng.below(30)), ..nic() };
        let link = Link {
            rate: [None, Some(1_000_000_000)][rng.below(2) as usize],
            queue_packets: 16 + rng.below(500) as u32,
            ..Link::hostile(Corruption::Noticed)
        };
        let mut pair = Pair::with(seed, &link, [nic; 2], [config; 2], world_config());
        let dialogs: Vec<_> = (0..1 + rng.below(40))
            .map(|i| {
                let mut plan = |flow| Plan::log_uniform(flow, rng.below(20) as usize, config.max_message, rng);
                let mut dialog = Dialog { port: PORT + i as u16, ..Dialog::new(plan(2 * i), plan(2 * i + 1)) };
                dialog.paces =
                    [(); 2].map(|()| [Pace::Eager, Pace::Each(micros(rng.below(2000)))][rng.below(2) as usize]);
                dialog
            })
            .collect();
        let tasks: Vec<_> = dialogs.iter().map(|dialog| pair.start(dialog)).collect();
        pair.world.run(seconds(120)).unwrap();
        for (dialog, tasks) in dialogs.iter().zip(tasks) {
            dialog.check(&tasks.map(|task| task.take().unwrap()));
        }
        pair.world.settle(TOMBSTONES).unwrap();
    });
}

#[test]
fn a_message_over_the_peers_limit_ends_the_flow_with_a_reason() {
    let mut small = config();
    small.max_message = 1000;
    let nic = nic();
    let mut pair = Pair::with(3, &Link::default(), [nic; 2], [config(), small], world_config());
    let (mut a, mut b) = pair.open();
    assert_eq!((a.send.mailbox().max_message(), b.send.mailbox().max_message()), (1000, 1000));
    let reading = pair.world.spawn("b", async move {
        let first = b.receive().await.map(|message| message.len());
        (first, b.receive().await.is_some(), b.reaches(FlowState::CLOSED).await)
    });
    let handle = pair.world.handle().clone();
    let writing = pair.world.spawn("a", async move {
        a.send(vec![0; 1000]).await.unwrap();
        // An abort discards what was not sent; this one is to arrive.
        handle.sleep(millis(1)).await;
        a.send(vec![0; 1001]).await.unwrap();
        a.reaches(FlowState::CLOSED).await
    });
    pair.world.run(seconds(5)).unwrap();
    assert_eq!(writing.take().unwrap().reason(), Some(CloseReason::TooLarge));
    let (first, second, state) = reading.take().unwrap();
    assert_eq!((first, second), (Some(1000), false));
    assert!(matches!(state.reason(), Some(CloseReason::TooLarge | CloseReason::Reset)), "{state:?}");
    assert!(!state.has(FlowState::READ_ENDED));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Both limits of flows: one's own says so at once, the peer's by silence; and both give room again.
#[test]
fn too_many_flows_are_refused_and_room_returns() {
    let mut configs = [config(); 2];
    configs[0].max_flows = 3;
    configs[1].max_flows = 2;
    configs[0].connect_timeout = millis(100);
    let nic = nic();
    let mut pair = Pair::with(4, &Link::default(), [nic; 2], configs, world_config());
    let mut listener = listen(&mut pair.world, pair.b, PORT, 16).unwrap();
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(PORT));
    let connect = || {
        let node = node.clone();
        node.clone().spawn("connect", async move { node.connect(to).await })
    };
    let tasks: Vec<_> = (0..4).map(|_| connect()).collect();
    pair.world.run(seconds(1)).unwrap();
    let mut results: Vec<_> = tasks.iter().map(|task| task.take().unwrap()).collect();
    let reasons: Vec<_> = results.iter().map(|result| result.as_ref().err().copied()).collect();
    assert_eq!(reasons, [None, None, Some(CloseReason::ConnectTimeout), Some(CloseReason::NoRoom)]);
    assert!(pair.world.stats(pair.b).drops.get(DropReason::TooManyFlows) > 0);
    results.clear();
    let accepted = pair.world.spawn("accept", async move {
        drop((listener.accept().await, listener.accept().await));
        listener
    });
    let listener = pair.world.wait(&accepted, seconds(1)).unwrap();
    pair.world.settle(TOMBSTONES).unwrap();
    let again = connect();
    assert!(pair.world.wait(&again, seconds(1)).unwrap().is_ok());
    drop(listener);
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Damage to every tenth packet that nothing notices, windows and pools small: the bounds hold all the same.
#[test]
fn bounds_hold_under_damage() {
    seeds("bounds_hold_under_damage", 60, |seed| {
        let link = Link { corrupt: 0.1, corruption: Corruption::Unnoticed, ..Link::with_delay(micros(20)) };
        let nic = NicConfig { frames: 64, ..nic() };
        let mut config = config();
        config.reassembly_bytes = 7 << 22;
        config.max_half_open = 4;
        config.max_flows = 16;
        let mut pair = Pair::with(seed, &link, [nic; 2], [config; 2], world_config());
        let rng = pair.world.rng();
        let mut dialog = Dialog::new(Plan::log_uniform(1, 30, 1 << 16, rng), Plan::log_uniform(2, 30, 1 << 16, rng));
        dialog.verify = false;
        let _tasks = dialog.start_tolerant(&mut pair.world, pair.a, pair.b);
        for _ in 0..100 {
            pair.world.run_for(millis(1)).unwrap();
            for machine in [pair.a, pair.b] {
                assert!(pair.world.stats(machine).flows <= 16);
            }
        }
        pair.world.cancel();
        pair.world.settle(seconds(60)).unwrap();
    });
}
