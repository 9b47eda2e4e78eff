//! Messages of several packets that are built in long frames: the device gathers each packet from its headers and a part of the message,
//! where the application wrote it.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::BufMut;
use machnet_core::Config;
use machnet_sim::{Corruption, Dialog, Link, MachineId, NicConfig, Plan, Verdict, World, WorldConfig};

use crate::built::{build, content, got, stats, worlds};
use crate::common::{Chunk, Pair, Seen, TOMBSTONES, config, micros, millis, nic, read, seconds};

/// The longest that is in front of a part: lower headers, the packet's own, an acknowledgement with all of its bitmap, and REFUSED.
const HEADS: usize = 62 + 16 + 24 + 128 + 12 + 16;

fn gathering() -> NicConfig {
    NicConfig { long_frames: 64, ..nic() }
}

fn with(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = config();
    change(&mut config);
    config
}

fn gathering_pair(seed: u64, link: &Link, nic: NicConfig, config: Config, world: WorldConfig) -> Pair {
    Pair::with(seed, link, [nic; 2], [config; 2], world)
}

/// The stock of long frames is filled once somebody missed one.
fn warm_up(pair: &mut Pair, a: &mut machnet_sim::Flow, b: &mut machnet_sim::Flow) {
    build(&mut a.send, &content(0, 2000));
    pair.world.run_for(millis(1)).unwrap();
    assert_eq!(got(b), Some(content(0, 2000)));
    let stats = stats(&pair.world, pair.a);
    assert_eq!((stats.long_frames_missed, stats.parts_in_place), (1, 0));
    assert!(stats.long_frames_waiting > 0);
}

/// Where the parts lie that the device of `machine` was given, of a message at `lies`.
fn parts(world: &World, machine: MachineId, lies: &Range<usize>) -> Vec<Range<usize>> {
    let place = |bytes: &[u8]| bytes.as_ptr().addr()..bytes.as_ptr().addr() + bytes.len();
    world
        .driver(machine)
        .held_tails()
        .map(place)
        .filter(|part| part.start < lies.end && lies.start < part.end)
        .collect()
}

/// Every byte of a message is read by the device at the address that the application wrote it to, once; the last part is copied if it has
/// fewer than 64 bytes.
#[test]
fn the_device_reads_each_part_where_the_application_wrote_it() {
    for world in worlds() {
        // It holds what it was given to the end of the test.
        let nic = NicConfig { hold: seconds(100), tx_descriptors: 8192, frames: 8192, ..gathering() };
        let mut pair = gathering_pair(21, &Link::with_delay(micros(10)), nic, config(), world);
        let (mut a, mut b) = pair.open();
        warm_up(&mut pair, &mut a, &mut b);
        let (mut places, mut count, mut sent) = (BTreeSet::new(), 0, 0);
        for (n, len) in [1149, 2000, 4096, 16_384, 65_536, 1088 * 3, 1088 * 3 + 63, 1088 * 3 + 64]
            .into_iter()
            .cycle()
            .take(48)
            .enumerate()
        {
            let message = content(n, len);
            let at = build(&mut a.send, &message);
            assert!(places.insert(at), "a frame that the device holds was built in");
            pair.world.run_for(millis(40)).unwrap();
            assert_eq!(got(&mut b), Some(message), "message {n}");
            let lies = at..at + len;
            let mut end = lies.start;
            for part in parts(&pair.world, pair.a, &lies) {
                assert_eq!(part.start, end, "message {n} of {len} bytes: in order, each byte once");
                end = part.end;
                count += 1;
            }
            let rest = lies.end - end;
            sent += len - rest;
            assert!(
                rest < 64 && rest == [len % 1088, 0][usize::from(len % 1088 >= 64)],
                "message {n} of {len} bytes: {rest} copied"
            );
        }
        let driver = pair.world.driver(pair.a);
        assert_eq!(driver.held_tails().map(<[u8]>::len).sum::<usize>(), sent);
        let stats = stats(&pair.world, pair.a);
        assert_eq!((stats.parts_in_place, stats.parts_copied, stats.long_frames_missed), (count, 0, 1));
        assert_eq!(stats.long_frames_away - stats.long_frames_waiting, 48, "acknowledged, and parked");
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// What was lost is sent again from where it lies, too: the device is given nothing but headers and the memory that the application wrote.
#[test]
fn what_is_sent_again_is_not_copied_either() {
    for world in worlds() {
        let nic = NicConfig { hold: seconds(100), tx_descriptors: 8192, frames: 8192, ..gathering() };
        let mut pair = gathering_pair(22, &Link::with_delay(micros(10)), nic, config(), world);
        let (mut a, mut b) = pair.open();
        warm_up(&mut pair, &mut a, &mut b);
        let warm = pair.world.driver(pair.a).held();
        // Every third part is lost when it is sent first, and the order of the others is not kept by it.
        let mut seen = BTreeSet::new();
        pair.world.fabric().filter(pair.there, move |packet| match read(packet.payload) {
            Seen::Data(chunks) => {
                let is_new = chunks.iter().any(|chunk| match chunk {
                    Chunk::Message { id, offset, .. } => (id + offset / 1088) % 3 == 0 && seen.insert((*id, *offset)),
                    _ => false,
                });
                if is_new { Verdict::Drop } else { Verdict::Pass }
            }
            _ => Verdict::Pass,
        });
        for n in 1..20 {
            let message = content(n, 30 * 1088);
            let at = build(&mut a.send, &message);
            pair.world.run_for(millis(400)).unwrap();
            assert_eq!(got(&mut b), Some(message.clone()), "message {n}");
            let lies = at..at + message.len();
            let read = parts(&pair.world, pair.a, &lies);
            let each: BTreeSet<_> = read.iter().map(|part| part.start).collect();
            assert!(
                each.len() == 30 && read.len() >= 40,
                "message {n}: {} parts, given {} times",
                each.len(),
                read.len()
            );
        }
        let longest = pair.world.driver(pair.a).held_bytes().skip(warm).map(<[u8]>::len).max();
        assert!(longest.is_some_and(|len| len <= HEADS), "payload was copied: {longest:?}");
        let stats = stats(&pair.world, pair.a);
        assert!(stats.packets_lost >= 19 * 10 && stats.parts_copied == 0 && stats.long_frames_missed == 1, "{stats:?}");
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// What fits a packet goes with its headers in front, in one piece; sent again, it is gathered.
#[test]
fn one_packet_is_one_piece_until_it_is_sent_again() {
    let nic = NicConfig { hold: seconds(100), tx_descriptors: 1024, ..gathering() };
    let mut pair = gathering_pair(23, &Link::with_delay(micros(10)), nic, config(), WorldConfig::default());
    let (mut a, mut b) = pair.open();
    build(&mut a.send, &content(0, 1024));
    pair.world.run_for(millis(1)).unwrap();
    let mut first = true;
    pair.world.fabric().filter(pair.there, move |packet| match read(packet.payload) {
        Seen::Data(_) if packet.payload.len() > 1000 && std::mem::take(&mut first) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let at = build(&mut a.send, &content(1, 1100));
    pair.world.run_for(millis(100)).unwrap();
    let read = parts(&pair.world, pair.a, &(at..at + 1100));
    assert!(!read.is_empty() && read.iter().all(|part| *part == (at..at + 1100)), "{read:?}");
    let stats = stats(&pair.world, pair.a);
    assert_eq!((stats.sent_in_place, stats.parts_in_place, stats.built_and_copied), (1, read.len() as u64, 0));
    assert_eq!([got(&mut b), got(&mut b)], [Some(content(0, 1024)), Some(content(1, 1100))]);
    drop((a, b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Ports that send packets of one piece, endpoints that want none of it, messages that are longer than long frames, and what shares its
/// packet: copied, as ever.
#[test]
fn what_cannot_be_gathered_is_copied() {
    let none = config();
    let nothing = with(|config| config.long_frames = 0);
    for (nic, config) in [(nic(), none), (gathering(), nothing)] {
        let mut pair = gathering_pair(24, &Link::with_delay(micros(10)), nic, config, WorldConfig::default());
        let (mut a, mut b) = pair.open();
        for n in 0..3 {
            build(&mut a.send, &content(n, 5000));
            pair.world.run_for(millis(2)).unwrap();
            assert_eq!(got(&mut b), Some(content(n, 5000)));
        }
        let stats = stats(&pair.world, pair.a);
        assert_eq!((stats.parts_in_place, stats.parts_copied, stats.long_frames_missed), (0, 0, 0));
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
    let mut pair = gathering_pair(25, &Link::with_delay(micros(10)), gathering(), config(), WorldConfig::default());
    let (mut a, mut b) = pair.open();
    warm_up(&mut pair, &mut a, &mut b);
    build(&mut a.send, &content(1, 65_537));
    pair.world.run_for(millis(40)).unwrap();
    assert_eq!(got(&mut b), Some(content(1, 65_537)));
    let counts = |pair: &Pair| {
        let stats = stats(&pair.world, pair.a);
        (stats.parts_in_place, stats.parts_copied, stats.long_frames_missed)
    };
    assert_eq!(counts(&pair), (0, 0, 1), "it is in no long frame");
    // The last part and the next message share a packet.
    build(&mut a.send, &content(2, 1088 + 500));
    a.send.post(content(3, 100).into()).unwrap();
    pair.world.run_for(millis(2)).unwrap();
    assert_eq!(counts(&pair), (1, 1, 1));
    // Reserved, and not used.
    let mut place = a.send.reserve(10_000);
    place.put_slice(&content(4, 1000));
    place.send();
    pair.world.run_for(millis(2)).unwrap();
    assert_eq!(counts(&pair), (1, 1, 1), "as any short message");
    for (n, len) in [(2, 1588), (3, 100), (4, 1000)] {
        assert_eq!(got(&mut b), Some(content(n, len)));
    }
    drop((a, b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Applications get as many long frames as they may hold, and ordinary memory beyond that.
#[test]
fn long_frames_are_bounded() {
    for limit in [1, 7, 64] {
        let config_a = with(|config| (config.long_frames, config.send_buffer) = (limit, 16 << 20));
        let config_b = with(|config| config.receive_window = 16 << 20);
        let nic = [NicConfig { long_frames: 50, ..nic() }; 2];
        let mut pair = Pair::with(26, &Link::with_delay(micros(10)), nic, [config_a, config_b], WorldConfig::default());
        let (mut a, mut b) = pair.open();
        build(&mut a.send, &content(0, 2000));
        pair.world.run_for(millis(1)).unwrap();
        // Nothing that A sends arrives, so nothing is acknowledged.
        pair.world
            .fabric()
            .filter(pair.there, |packet| if packet.payload.len() > 200 { Verdict::Drop } else { Verdict::Pass });
        for n in 1..=100 {
            build(&mut a.send, &content(n, 3000));
            pair.world.run_for(micros(100)).unwrap();
        }
        let stuck = stats(&pair.world, pair.a);
        assert_eq!(stuck.long_frames_away, u64::from(limit.min(50)), "limit {limit}: the driver's are fewer");
        let built = stuck.long_frames_away - stuck.long_frames_waiting;
        assert_eq!(stuck.long_frames_missed, 101 - built, "limit {limit}: {stuck:?}");
        pair.world.fabric().filter(pair.there, |_| Verdict::Pass);
        pair.world.run_for(seconds(4)).unwrap();
        for n in 0..=100 {
            assert_eq!(got(&mut b), Some(content(n, if n == 0 { 2000 } else { 3000 })), "limit {limit}: message {n}");
        }
        let done = stats(&pair.world, pair.a);
        assert_eq!(
            done.long_frames_away, done.long_frames_waiting,
            "limit {limit}: what was acknowledged is free again"
        );
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// Loss, duplicates, reordering, damage, devices that hold: each byte arrives as it was written, and most without a copy.
#[test]
fn hostile_links_carry_what_is_gathered() {
    for (seed, world) in (27..).zip(worlds()) {
        let link = Link { delay: micros(20), ..Link::hostile(Corruption::Noticed) };
        let nic = NicConfig { hold: micros(50), hold_packets: 100, ..gathering() };
        let mut pair = gathering_pair(seed, &link, nic, config(), world);
        let lens = |step: u32| (0..200).map(|n| 1100 + n * step % 64_000).collect();
        let dialog = Dialog::new(Plan::new(1, lens(331)), Plan::new(2, lens(977)));
        pair.run(&dialog, seconds(120));
        for machine in [pair.a, pair.b] {
            let stats = stats(&pair.world, machine);
            assert!(stats.packets_lost > 0 && stats.parts_in_place > 1000, "{stats:?}");
        }
    }
}

/// An application that is gone, a flow that is aborted, an engine that ends, with parts on their way: no long frame stays away.
#[test]
fn long_frames_come_home_however_it_ends() {
    for how in 0..3 {
        let mut pair = gathering_pair(31, &Link::with_delay(micros(10)), gathering(), config(), WorldConfig::default());
        let (mut a, mut b) = pair.open();
        warm_up(&mut pair, &mut a, &mut b);
        pair.world.fabric().filter(pair.there, |_| Verdict::Drop);
        for n in 0..10 {
            build(&mut a.send, &content(n, 40_000));
        }
        drop(a.send.reserve(50_000));
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
