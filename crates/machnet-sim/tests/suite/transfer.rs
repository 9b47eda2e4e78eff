//! Messages on their way: lossless, slow readers, many flows, many hosts, few frames.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use machnet_channel::{UNIT, cost_in_units};
use machnet_core::{Config, DropReason};
use machnet_sim::{Link, NicConfig, Pace, Plan, Verdict, World, WorldConfig};

use crate::common::{
    Chunk, Dialog, PORT, Pair, Seen, TOMBSTONES, config, ip, micros, millis, nic, pair, read, seconds, world_config,
};

/// Every size at and around the edges of packets and of buffers.
#[test]
fn sizes_at_the_edges() {
    let mut sizes = vec![0, 1, 63, 64, 65, 255, 256, 257, 1 << 20, 0, (1 << 20) - 1];
    sizes.extend(1100..1300);
    sizes.extend([4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 262_144, 262_145, 0]);
    let mut pair = pair(1, &Link::with_delay(micros(10)));
    pair.run(&Dialog::new(Plan::new(1, sizes.clone()), Plan::new(2, sizes)), seconds(10));
}

#[test]
fn nothing_is_sent_twice_without_loss() {
    for (rate, delay) in [(None, 5), (Some(10_000_000_000), 20), (None, 1000)] {
        let link = Link { rate, queue_packets: 100_000, ..Link::with_delay(micros(delay)) };
        let nic = NicConfig { rx_descriptors: 8192, frames: 32_768, ..nic() };
        let mut pair = Pair::with(2, &link, [nic, nic], [config(); 2], world_config());
        let twice = Arc::new(Mutex::new(Vec::new()));
        for link in [pair.there, pair.back] {
            let (twice, mut seen) = (Arc::clone(&twice), BTreeSet::new());
            pair.world.fabric().filter(link, move |packet| {
                if let Seen::Data(chunks) = read(packet.payload) {
                    for chunk in chunks {
                        if let Chunk::Message { id, offset, .. } = chunk
                            && !seen.insert((id, offset))
                        {
                            twice.lock().unwrap().push((packet.at, id, offset));
                        }
                    }
                }
                Verdict::Pass
            });
        }
        let rng = pair.world.rng();
        let dialog = Dialog::new(Plan::log_uniform(1, 60, 1 << 20, rng), Plan::log_uniform(2, 60, 1 << 20, rng));
        let ended = pair.run(&dialog, seconds(60));
        let twice = twice.lock().unwrap();
        assert!(twice.is_empty(), "{rate:?} {delay} µs: {} parts sent twice, first {:?}", twice.len(), twice[0]);
        for (side, ended) in ended.iter().enumerate() {
            assert_eq!(ended.stats.packets_lost, 0, "{rate:?} {delay} µs, side {side}");
            assert_eq!(ended.stats.messages_sent, dialog.plans[side].len() as u64);
            assert_eq!(ended.stats.messages_received, dialog.plans[1 - side].len() as u64);
            assert_eq!(ended.stats.bytes_sent, dialog.plans[side].bytes());
            assert_eq!(ended.stats.bytes_received, dialog.plans[1 - side].bytes());
        }
        for machine in [pair.a, pair.b] {
            assert_eq!(pair.world.stats(machine).drops.total(), 0);
        }
    }
}

/// Messages of many buffers' size: each is larger than the window, and room for it is reserved when it begins.
#[test]
fn messages_beyond_the_window() {
    for loss in [0.0, 0.01] {
        let link = Link { rate: Some(25_000_000_000), loss, ..Link::with_delay(micros(20)) };
        let defaults = [Config::default(); 2];
        let mut pair = Pair::with(15, &link, [NicConfig::default(); 2], defaults, world_config());
        let there = Plan::new(1, vec![64 << 20, 100, 5 << 20, 0, (2 << 20) + 1]);
        let back = Plan::new(2, vec![3 << 20, 17 << 20]);
        let mut dialog = Dialog::new(there, back);
        dialog.paces[1] = Pace::Each(millis(5));
        pair.run(&dialog, seconds(60));
    }
}

/// A reader that stops holds back the sender at the sum of both windows, costs bounded memory, and loses nothing.
#[test]
fn a_reader_that_stops_holds_back_the_sender() {
    for size in [0, 100, 1200, 20_000, 1 << 20] {
        let mut pair = pair(3, &Link::with_delay(micros(10)));
        let (a, b) = pair.open();
        let (mut send, mut recv) = (a.send, b.recv);
        let count = (16 << 20) / (size as usize).max(64);
        let plan = Plan::fixed(1, count, size);
        let writing = {
            let plan = plan.clone();
            pair.world.spawn("writer", async move {
                let posted = plan.send(&mut send).await;
                (posted, send)
            })
        };
        pair.world.run_for(millis(500)).unwrap();
        assert!(writing.take().is_none(), "{size}: 16 MiB went nowhere");
        let config = config();
        let bound = u64::from(config.send_buffer + config.receive_window) / UNIT;
        let delivered = b.send.mailbox().stats().messages_received;
        let posted = pair.world.node(pair.a).now();
        assert!(posted.0 > 0);
        // The window, and the message for whose end credit was reserved.
        let window = u64::from(config.receive_window) / UNIT + cost_in_units(size as usize);
        assert!(delivered * cost_in_units(size as usize) <= window, "{size}");
        assert!(bound * UNIT < (16 << 20), "the workload exceeds both windows");
        // Frames: lent ones, and a round's worth.
        let driver = pair.world.driver(pair.b);
        assert!(driver.free_frames() > driver.frames() / 2, "{size}: {} frames free", driver.free_frames());
        // Time passes in which nothing changes: nobody may take the stopped reader for a dead peer.
        pair.world.run_for(seconds(20)).unwrap();
        let handle = pair.world.handle().clone();
        let reading = {
            let plan = plan.clone();
            pair.world.spawn("reader", async move { plan.receive(&mut recv, &handle, Pace::Eager, true).await })
        };
        let (posted, mut send) = pair.world.wait(&writing, seconds(60)).unwrap();
        assert_eq!(posted, (count, None), "{size}");
        send.finish();
        assert_eq!(pair.world.wait(&reading, seconds(60)).unwrap(), count, "{size}");
        drop((send, a.recv, b.send));
        pair.world.settle(seconds(15)).unwrap();
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    let mut pair = pair(4, &Link::with_delay(micros(10)));
    let rng = pair.world.rng();
    let mut dialog = Dialog::new(Plan::log_uniform(1, 200, 1 << 18, rng), Plan::log_uniform(2, 20, 1 << 18, rng));
    dialog.paces = [Pace::Eager, Pace::Each(millis(3))];
    pair.run(&dialog, seconds(10));
}

/// What an application keeps stays valid, and keeps nothing else from moving.
#[test]
fn kept_messages_stay_as_they_were() {
    let mut pair = pair(5, &Link::with_delay(micros(10)));
    let (a, b) = pair.open();
    let (mut send, mut recv) = (a.send, b.recv);
    let plan = Plan::log_uniform(1, 600, 8192, pair.world.rng());
    let sender = plan.clone();
    pair.world.spawn("writer", async move { sender.send(&mut send).await });
    let reading = pair.world.spawn("reader", async move {
        let mut kept = Vec::new();
        while let Some(message) = machnet_sim::receive(&mut recv).await {
            kept.push(message);
        }
        kept
    });
    let kept = pair.world.wait(&reading, seconds(10)).unwrap();
    assert_eq!(kept.len(), plan.len());
    drop((a.recv, b.send));
    pair.world.run_for(seconds(1)).unwrap();
    for (index, message) in kept.iter().enumerate() {
        plan.verify(index, message.as_slice());
    }
    drop(kept);
    pair.world.settle(seconds(15)).unwrap();
}

#[test]
fn a_hundred_flows_between_two_hosts() {
    let link = Link { rate: Some(10_000_000_000), queue_packets: 256, ..Link::with_delay(micros(10)) };
    let mut pair = pair(6, &link);
    let dialogs: Vec<_> = (0..100)
        .map(|i| {
            let rng = pair.world.rng();
            let (there, back) =
                (Plan::log_uniform(2 * i, 6, 1 << 17, rng), Plan::log_uniform(2 * i + 1, 6, 1 << 17, rng));
            Dialog { port: PORT + i as u16, ..Dialog::new(there, back) }
        })
        .collect();
    let tasks: Vec<_> = dialogs.iter().map(|dialog| pair.start(dialog)).collect();
    pair.world.run(seconds(60)).unwrap();
    for (dialog, tasks) in dialogs.iter().zip(tasks) {
        dialog.check(&tasks.map(|task| task.take().unwrap()));
    }
    pair.world.settle(TOMBSTONES).unwrap();
}

#[test]
fn three_hosts_talk_to_each_other() {
    let mut world = World::new(7, world_config());
    let machines = [1, 2, 3].map(|n| world.machine(ip(n), nic(), config()));
    let link = Link { loss: 0.01, ..Link::with_delay(micros(10)) };
    let mut running = Vec::new();
    for (i, j) in [(0, 1), (1, 2), (2, 0)] {
        world.join(machines[i], machines[j], &link);
    }
    for (n, (i, j)) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)].into_iter().enumerate() {
        let rng = world.rng();
        let (there, back) =
            (Plan::log_uniform(n as u64, 20, 1 << 18, rng), Plan::log_uniform(n as u64 + 9, 20, 1 << 18, rng));
        let dialog = Dialog { port: PORT + n as u16, ..Dialog::new(there, back) };
        let tasks = dialog.start(&mut world, machines[i], machines[j]);
        running.push((dialog, tasks));
    }
    world.run(seconds(60)).unwrap();
    for (dialog, tasks) in running {
        dialog.check(&tasks.map(|task| task.take().unwrap()));
    }
    world.settle(TOMBSTONES).unwrap();
}

/// A NIC that keeps the last frames it sent for ever, as virtio does.
#[test]
fn a_device_that_holds_frames() {
    let nic = NicConfig { hold: micros(100), hold_packets: 200, ..nic() };
    let mut pair = Pair::with(8, &Link { loss: 0.01, ..Link::default() }, [nic, nic], [config(); 2], world_config());
    let rng = pair.world.rng();
    let dialog = Dialog::new(Plan::log_uniform(1, 50, 1 << 18, rng), Plan::log_uniform(2, 50, 1 << 18, rng));
    pair.run(&dialog, seconds(60));
}

/// A bottleneck with a short queue: everything arrives, and nothing is declared dead.
#[test]
fn a_short_queue_drops_and_everything_arrives() {
    let link = Link { rate: Some(1_000_000_000), queue_packets: 16, ..Link::with_delay(micros(50)) };
    let mut pair = pair(9, &link);
    let dialog = Dialog::new(Plan::fixed(1, 16, 1 << 20), Plan::fixed(2, 4, 1 << 20));
    pair.run(&dialog, seconds(60));
    let took = pair.world.now();
    assert!(pair.world.fabric().link_stats(pair.there).queue_full > 0, "the queue was never full");
    assert!(took.0 < 60_000_000_000);
}

/// One side's VM is descheduled again and again: nobody is declared dead, and nothing is lost.
#[test]
fn descheduled_engines_go_on() {
    let mut pair = pair(10, &Link::with_delay(micros(10)));
    let dialog = Dialog::new(Plan::fixed(1, 40, 1 << 18), Plan::fixed(2, 40, 1 << 18));
    let tasks = pair.start(&dialog);
    for i in 0..20 {
        pair.world.pause(if i % 2 == 0 { pair.a } else { pair.b }, millis(4));
        pair.world.run_for(millis(5)).unwrap();
    }
    pair.world.run(seconds(30)).unwrap();
    dialog.check(&tasks.map(|task| task.take().unwrap()));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Rounds that take far longer than the path: an overloaded core.
#[test]
fn slow_engines_on_a_fast_path() {
    let nic = nic();
    let world = WorldConfig { poll_cost: micros(300), ..world_config() };
    let mut pair = Pair::with(11, &Link::default(), [nic, nic], [config(); 2], world);
    pair.run(&Dialog::new(Plan::fixed(1, 40, 1 << 16), Plan::fixed(2, 40, 1 << 16)), seconds(30));
    assert_eq!(pair.world.stats(pair.a).drops.get(DropReason::Protocol), 0);
}

/// Requests and replies of one packet take the path and the rounds, and never wait for a timer.
#[test]
fn a_request_and_its_reply_take_one_round_trip() {
    let mut pair = pair(12, &Link::with_delay(micros(20)));
    let (mut a, mut b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    pair.world.spawn("server", async move {
        while let Some(request) = b.receive().await {
            b.send(request).await.unwrap();
        }
    });
    let handle = pair.world.handle().clone();
    let asking = pair.world.spawn("client", async move {
        let mut slowest = std::time::Duration::ZERO;
        for i in 0..1000_u32 {
            let start = handle.now();
            a.send(i.to_be_bytes().to_vec()).await.unwrap();
            assert_eq!(a.receive().await.unwrap(), i.to_be_bytes());
            slowest = slowest.max(handle.now().since(start));
        }
        drop(a);
        slowest
    });
    let slowest = pair.world.wait(&asking, seconds(10)).unwrap();
    // Four rounds: out, in, out, in; each may find its engine in a round.
    assert!(slowest <= micros(2 * 20 + 2 * 4), "{slowest:?}");
    pair.world.settle(seconds(15)).unwrap();
}

/// Every packet arrives twice, half of them late: the copies count for nothing.
#[test]
fn everything_twice_and_out_of_order() {
    let link = Link { duplicate: 1.0, reorder: 0.5, reorder_by: micros(200), ..Link::with_delay(micros(20)) };
    let mut pair = pair(13, &link);
    let rng = pair.world.rng();
    let dialog = Dialog::new(Plan::log_uniform(1, 40, 1 << 18, rng), Plan::log_uniform(2, 40, 1 << 18, rng));
    pair.run(&dialog, seconds(60));
    assert!(pair.world.stats(pair.b).drops.get(DropReason::Duplicate) > 0);
}

/// The path is gone for a while, again and again, for less than it takes to declare a peer dead.
#[test]
fn outages_are_survived() {
    for (outage, times) in [(1, 3), (30, 3), (500, 3), (3000, 1)] {
        let mut pair = pair(14, &Link { rate: Some(1_000_000_000), ..Link::with_delay(micros(20)) });
        let dialog = Dialog::new(Plan::fixed(1, 60, 100_000), Plan::fixed(2, 60, 100_000));
        let tasks = pair.start(&dialog);
        for _ in 0..times {
            pair.world.run_for(millis(10)).unwrap();
            for loss in [1.0, 0.0] {
                for link in [pair.there, pair.back] {
                    pair.world.fabric().reconfigure(link, |link| link.loss = loss);
                }
                if loss > 0.0 {
                    pair.world.run_for(millis(outage)).unwrap();
                }
            }
        }
        pair.world.run(seconds(30)).unwrap();
        dialog.check(&tasks.map(|task| task.take().unwrap()));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}
