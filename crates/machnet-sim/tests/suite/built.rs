//! Messages that are built in frames of the engine's driver: sent from where they lie, and from nowhere else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::BufMut;
use machnet_channel::SendEnd;
use machnet_core::{Config, EngineStats};
use machnet_sim::{
    Corruption, Dialog, Ethernet, Flow, Link, MachineId, NicConfig, Plan, Verdict, World, WorldConfig, receive,
    send_built,
};

use crate::common::{Chunk, Pair, Seen, TOMBSTONES, config, micros, millis, nic, pair, read, seconds, world_config};

/// Bytes of the longest message that goes whole in the packets of these tests.
const WHOLE: usize = 1232 - 16 - 24 - 36 - 8;

/// Engines that move datagrams, and engines on core's network layer.
pub(crate) fn worlds() -> [WorldConfig; 3] {
    [None, Some(Ethernet::default()), Some(Ethernet { tx_checksum: true, rx_checksum: true })]
        .map(|ethernet| WorldConfig { ethernet, ..world_config() })
}

pub(crate) fn content(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (n * 31 + at * 7) as u8).collect()
}

/// Builds a message and returns where it lies.
pub(crate) fn build(end: &mut SendEnd, message: &[u8]) -> usize {
    let mut place = end.reserve(message.len());
    place.put_slice(message);
    let at = place.as_ptr().addr();
    place.send();
    at
}

pub(crate) fn got(flow: &mut Flow) -> Option<Vec<u8>> {
    flow.recv.take().map(|message| message.to_vec())
}

pub(crate) fn stats(world: &World, machine: MachineId) -> EngineStats {
    world.stats(machine)
}

/// Where the payloads lie that the device of `machine` holds.
fn held(world: &World, machine: MachineId) -> Vec<std::ops::Range<usize>> {
    world
        .driver(machine)
        .held_bytes()
        .map(|bytes| bytes.as_ptr_range())
        .map(|at| at.start.addr()..at.end.addr())
        .collect()
}

/// The stock is filled once somebody missed a frame: the first message is copied, and no other.
fn warm_up(pair: &mut Pair, end: &mut SendEnd) {
    build(end, &content(0, 1024));
    pair.world.run_for(millis(1)).unwrap();
    let stats = stats(&pair.world, pair.a);
    assert_eq!((stats.build_frames_missed, stats.sent_in_place), (1, 0));
    assert!(stats.build_frames_waiting > 0);
}

/// From `reserve` to the device and to nobody else: the address that the application wrote to is the one that the device reads.
#[test]
fn the_device_reads_what_the_application_wrote_where_it_wrote_it() {
    for world in worlds() {
        // It holds what it was given to the end of the test.
        let nic = NicConfig { hold: seconds(100), tx_descriptors: 1024, ..nic() };
        let mut pair = Pair::with(1, &Link::with_delay(micros(10)), [nic; 2], [config(); 2], world);
        let (mut a, mut b) = pair.open();
        warm_up(&mut pair, &mut a.send);
        assert_eq!(got(&mut b), Some(content(0, 1024)));
        let mut places = BTreeSet::new();
        for n in 0..150 {
            let message = content(n, [1024, 1025, 1100, WHOLE][n % 4]);
            let at = build(&mut a.send, &message);
            assert!(places.insert(at), "a frame that the device holds was built in");
            pair.world.run_for(millis(1)).unwrap();
            let lies = at..at + message.len();
            let reads = held(&pair.world, pair.a);
            let reads = reads.iter().filter(|packet| packet.start < lies.start && packet.end == lies.end).count();
            assert_eq!(reads, 1, "message {n} of {} bytes", message.len());
            assert_eq!(got(&mut b), Some(message.clone()));
        }
        let stats = stats(&pair.world, pair.a);
        assert_eq!((stats.sent_in_place, stats.built_and_copied, stats.build_frames_missed), (150, 0, 1));
        assert_eq!(stats.build_frames_away - stats.build_frames_waiting, 150, "acknowledged, and parked");
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// Applications get as many frames as they may hold, and ordinary memory beyond that; receiving goes on meanwhile.
#[test]
fn frames_to_build_in_are_bounded_and_the_rest_is_copied() {
    for limit in [0, 1, 7, 64, 100] {
        let mut config_a = config();
        config_a.build_frames = limit;
        let mut pair = Pair::with(2, &Link::with_delay(micros(10)), [nic(); 2], [config_a, config()], world_config());
        let (mut a, mut b) = pair.open();
        build(&mut a.send, &content(0, 1024));
        pair.world.run_for(millis(1)).unwrap();
        // Nothing that A sends arrives, so nothing is acknowledged.
        let cut = Arc::new(Mutex::new(true));
        let is_cut = Arc::clone(&cut);
        pair.world.fabric().filter(pair.there, move |packet| match read(packet.payload) {
            Seen::Data(chunks)
                if *is_cut.lock().unwrap() && chunks.iter().any(|c| matches!(c, Chunk::Message { .. })) =>
            {
                Verdict::Drop
            }
            _ => Verdict::Pass,
        });
        for n in 1..=150 {
            build(&mut a.send, &content(n, 1024));
            pair.world.run_for(micros(100)).unwrap();
        }
        let stuck = stats(&pair.world, pair.a);
        assert_eq!(stuck.build_frames_away, u64::from(limit), "limit {limit}");
        // Every message had a frame, or missed one: those of the warm-up and of the stock apart.
        let built = stuck.build_frames_away - stuck.build_frames_waiting;
        let missed = if limit == 0 { 0 } else { 151 - built };
        assert_eq!(stuck.build_frames_missed, missed, "limit {limit}: {stuck:?}");
        // A receives as ever: more than its NIC has frames.
        for n in 0..1500 {
            b.send.post(content(n, 1000).into()).unwrap();
            pair.world.run_for(micros(50)).unwrap();
            assert_eq!(got(&mut a), Some(content(n, 1000)), "limit {limit}: message {n}");
        }
        *cut.lock().unwrap() = false;
        let reading = pair.world.spawn("reader", async move {
            for n in 0..=150 {
                assert_eq!(receive(&mut b.recv).await.unwrap(), content(n, 1024), "message {n}");
            }
            b
        });
        let b = pair.world.wait(&reading, seconds(10)).unwrap();
        let done = stats(&pair.world, pair.a);
        assert_eq!(
            done.build_frames_away, done.build_frames_waiting,
            "limit {limit}: what was acknowledged is free again"
        );
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// The device holds what it was given, the packet is lost: what is sent again is a copy elsewhere with the same bytes, and what the
/// device holds does not change.
#[test]
fn what_is_sent_again_is_a_copy_in_another_frame() {
    for world in worlds() {
        let nic = NicConfig { hold: seconds(100), tx_descriptors: 1024, ..nic() };
        let mut pair = Pair::with(3, &Link::with_delay(micros(10)), [nic; 2], [config(); 2], world);
        let (mut a, mut b) = pair.open();
        warm_up(&mut pair, &mut a.send);
        assert!(got(&mut b).is_some());
        let mut seen = BTreeSet::new();
        pair.world.fabric().filter(pair.there, move |packet| match read(packet.payload) {
            Seen::Data(chunks) => {
                let first = chunks.iter().any(|chunk| matches!(chunk, Chunk::Message { id, .. } if seen.insert(*id)));
                if first { Verdict::Drop } else { Verdict::Pass }
            }
            _ => Verdict::Pass,
        });
        for n in 1..40 {
            let at = build(&mut a.send, &content(n, 1100));
            pair.world.run_for(millis(40)).unwrap();
            assert_eq!(got(&mut b), Some(content(n, 1100)), "message {n}");
            let lies = at..at + 1100;
            let overlapping =
                held(&pair.world, pair.a).into_iter().filter(|p| p.start < lies.end && lies.start < p.end).count();
            assert_eq!(overlapping, 1, "message {n}: its frame was given to the device once");
            let copies =
                pair.world.driver(pair.a).held_bytes().filter(|bytes| bytes.ends_with(&content(n, 1100))).count();
            assert!(copies >= 2, "message {n}: what the device holds changed, or nothing was sent again");
        }
        let stats = stats(&pair.world, pair.a);
        assert_eq!((stats.sent_in_place, stats.built_and_copied), (39, 0));
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// What the path does not carry whole, what shares its packet and what is smaller than expected is copied, and counted.
#[test]
fn what_cannot_go_from_where_it_lies_is_copied() {
    let jumbo = NicConfig { max_payload: 8000, frame_size: 8256, ..nic() };
    let mut config = config();
    config.max_payload = 8000;
    let mut pair = Pair::with(4, &Link::with_delay(micros(10)), [jumbo; 2], [config; 2], world_config());
    let (mut a, mut b) = pair.open();
    warm_up(&mut pair, &mut a.send);
    let counts = |pair: &Pair| {
        let stats = stats(&pair.world, pair.a);
        (stats.sent_in_place, stats.built_and_copied)
    };
    // There is room for it in a frame, and at first not in a packet.
    build(&mut a.send, &content(1, 3000));
    pair.world.run_for(millis(1)).unwrap();
    assert_eq!(counts(&pair), (0, 1));
    pair.world.run_for(seconds(1)).unwrap();
    // The path's packets are known to be longer by now.
    build(&mut a.send, &content(2, 3000));
    pair.world.run_for(millis(1)).unwrap();
    assert_eq!(counts(&pair), (1, 1));
    // Two that share a packet are cheaper to copy than to send apart.
    build(&mut a.send, &content(3, 1024));
    build(&mut a.send, &content(4, 1024));
    pair.world.run_for(millis(1)).unwrap();
    assert_eq!(counts(&pair), (1, 3));
    // Reserved, and not used.
    let mut place = a.send.reserve(1024);
    place.put_slice(b"short");
    place.send();
    pair.world.run_for(millis(1)).unwrap();
    assert_eq!(counts(&pair), (1, 3), "as any short message");
    let expected = [content(0, 1024), content(1, 3000), content(2, 3000), content(3, 1024), content(4, 1024)];
    for message in expected {
        assert_eq!(got(&mut b), Some(message.clone()));
    }
    assert_eq!(got(&mut b), Some(b"short".to_vec()));
    drop((a, b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// The last message and the end of the flow go in one packet, as they do when the message is copied.
#[test]
fn the_end_goes_with_the_last_message() {
    let mut packets = Vec::new();
    for in_place in [false, true] {
        let mut pair = pair(5, &Link::with_delay(micros(10)));
        let (mut a, mut b) = pair.open();
        warm_up(&mut pair, &mut a.send);
        let before = stats(&pair.world, pair.a).packets_sent;
        if in_place {
            build(&mut a.send, &content(1, 1024));
        } else {
            a.send.post(content(1, 1024).into()).unwrap();
        }
        a.send.finish();
        pair.world.run_for(millis(1)).unwrap();
        let after = stats(&pair.world, pair.a);
        packets.push(after.packets_sent - before);
        assert_eq!(after.sent_in_place, u64::from(in_place));
        for n in 0..2 {
            assert_eq!(got(&mut b), Some(content(n, 1024)));
        }
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
    assert_eq!(packets[0], packets[1]);
}

/// Loss, duplicates, reordering, damage, devices that hold: each byte arrives as it was written, and most without a copy.
#[test]
fn hostile_links_carry_what_was_built_in_place() {
    for (seed, world) in (6..).zip(worlds()) {
        let link = Link { delay: micros(20), ..Link::hostile(Corruption::Noticed) };
        let nic = NicConfig { hold: micros(50), hold_packets: 100, ..nic() };
        // So that no more is posted between two rounds than frames wait.
        let mut config = config();
        config.send_buffer = 32 << 10;
        let mut pair = Pair::with(seed, &link, [nic; 2], [config; 2], world);
        let dialog = Dialog::new(Plan::fixed(1, 600, 1100), Plan::new(2, (0..600).map(|n| 1024 + n % 200).collect()));
        pair.run(&dialog, seconds(60));
        for machine in [pair.a, pair.b] {
            let stats = stats(&pair.world, machine);
            assert!(stats.packets_lost > 0 && stats.sent_in_place > 100, "{stats:?}");
        }
    }
}

/// An application that is gone, a flow that is aborted, an engine that ends: nothing that was built stays away.
#[test]
fn frames_come_home_however_it_ends() {
    for how in 0..3 {
        let mut pair = pair(9, &Link::with_delay(micros(10)));
        let (mut a, b) = pair.open();
        warm_up(&mut pair, &mut a.send);
        pair.world.fabric().filter(pair.there, |_| Verdict::Drop);
        for n in 0..20 {
            build(&mut a.send, &content(n, 1024));
        }
        drop(a.send.reserve(1024));
        match how {
            0 => a.send.abort(),
            1 => pair.world.shut_down(pair.a),
            _ => pair.world.run_for(millis(1)).unwrap(),
        }
        drop((a, b));
        pair.world.run_for(seconds(20)).unwrap();
        pair.world.settle(seconds(30)).unwrap();
    }
}

/// With the defaults of a service, too: the stock asks for no more than a quarter of the driver's frames.
#[test]
fn a_driver_with_few_frames_gives_a_quarter() {
    let nic = NicConfig { frames: 600, ..nic() };
    let mut pair = Pair::with(10, &Link::with_delay(micros(10)), [nic; 2], [Config::default(); 2], world_config());
    let (mut a, b) = pair.open();
    pair.world
        .fabric()
        .filter(pair.there, |packet| if packet.payload.len() > 1000 { Verdict::Drop } else { Verdict::Pass });
    let posting = pair.world.spawn("posts", async move {
        for n in 0..400 {
            send_built(&mut a.send, &content(n, 1024)).await.unwrap();
        }
        a
    });
    let a = pair.world.wait(&posting, seconds(5)).unwrap();
    pair.world.run_for(millis(100)).unwrap();
    let driver = pair.world.driver(pair.a);
    assert!(
        stats(&pair.world, pair.a).build_frames_away <= 150 && driver.free_frames() >= 300,
        "{}",
        driver.free_frames()
    );
    drop((a, b));
    pair.world.cancel();
    pair.world.settle(seconds(60)).unwrap();
}
