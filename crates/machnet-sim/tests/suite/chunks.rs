//! Messages of several packets for who takes them in pieces: they stay where the device wrote them, as long as it has frames enough.

use std::cell::Cell;

use bytes::Buf as _;
use machnet_channel::Chunks;
use machnet_core::{DropReason, EngineStats};
use machnet_sim::{Flow, Link, NicConfig, Pace, Plan};

use crate::common::{Dialog, PORT, Pair, TOMBSTONES, config, micros, millis, nic, pair, seconds, seeds, world_config};

/// Bytes of a part of a long message in packets of 1 232 bytes.
const PART: usize = 1088;

fn content(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (n * 31 + at * 7 + at / 251) as u8).collect()
}

fn got(flow: &mut Flow) -> Option<Chunks> {
    flow.recv.take_chunks()
}

/// Messages that stayed in their packets, and that were copied although they might have stayed.
fn chains(stats: &EngineStats) -> [u64; 2] {
    [stats.chained, stats.unchained]
}

/// From the device to the application: each byte of a long message is read at the address that the device wrote it to, whatever was
/// lost, doubled and overtaken meanwhile; and when the message is dropped every frame is home.
#[test]
fn a_long_message_is_read_where_the_device_wrote_it() {
    seeds("a_long_message_is_read_where_the_device_wrote_it", 100, |seed| {
        let bad = if seed % 4 == 0 { 0.0 } else { 0.02 };
        let link = Link {
            loss: bad,
            duplicate: bad,
            reorder: 5.0 * bad,
            reorder_by: micros(100),
            ..Link::with_delay(micros(10))
        };
        let mut pair = pair(seed, &link);
        pair.world.watch(pair.b);
        let (mut a, mut b) = pair.open();
        b.recv.want_chunks();
        pair.world.run_for(millis(1)).unwrap();
        for n in 0..8 {
            let len = [64 << 10, 1300, 2 * PART, (64 << 10) + 1][n % 4];
            let message = content(n + seed as usize, len);
            a.send.post(message.clone().into()).unwrap();
            let mut chunks = None;
            for _ in 0..1000 {
                pair.world.run_for(millis(1)).unwrap();
                chunks = got(&mut b);
                if chunks.is_some() {
                    break;
                }
            }
            let chunks = chunks.expect("a message within a second");
            assert_eq!((chunks.len(), chunks.count()), (len, len.div_ceil(PART)));
            let written = pair.world.driver(pair.b).written();
            for piece in chunks.slices() {
                let at = piece.as_ptr_range();
                let (start, end) = (at.start.addr(), at.end.addr());
                let packets = written.iter().filter(|packet| packet.start < start && end <= packet.end).count();
                assert!(packets >= 1, "{} bytes lie in no packet that arrived", piece.len());
            }
            assert_eq!(chunks.slices().collect::<Vec<_>>().concat(), message);
            // Taken, each piece is the same memory.
            let places: Vec<_> = chunks.slices().map(<[u8]>::as_ptr).collect();
            assert!(chunks.into_iter().map(|piece| piece.as_ptr()).eq(places));
        }
        assert_eq!(chains(&pair.world.stats(pair.b)), [8, 0]);
        assert_eq!(pair.world.stats(pair.b).buffers_in_use, 0);
        drop((a, b));
        pair.world.settle(TOMBSTONES).unwrap();
    });
}

/// Who did not ask gets every message in one piece, and who asked may still take one so.
#[test]
fn who_does_not_ask_gets_one_piece() {
    let mut pair = pair(1, &Link::with_delay(micros(10)));
    let (mut a, mut b) = pair.open();
    for n in 0..4 {
        let message = content(n, 10_000);
        a.send.post(message.clone().into()).unwrap();
        pair.world.run_for(millis(1)).unwrap();
        if n < 2 {
            let chunks = got(&mut b).unwrap();
            assert_eq!((chunks.count(), chunks.chunk()), (1, &message[..]));
            // The next that begins is left in its packets.
            (0..n).for_each(|_| b.recv.want_chunks());
            pair.world.run_for(millis(1)).unwrap();
        } else {
            assert_eq!(b.recv.take().unwrap(), message);
        }
    }
    assert_eq!(chains(&pair.world.stats(pair.b)), [2, 0]);
    drop((a, b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// A message longer than an eighth of the driver's frames is put together in a buffer, as ever.
#[test]
fn a_message_stays_in_an_eighth_of_the_frames_at_most() {
    let mut pair = pair(1, &Link::with_delay(micros(10)));
    let (mut a, mut b) = pair.open();
    b.recv.want_chunks();
    pair.world.run_for(millis(1)).unwrap();
    let most = nic().frames as usize / 8;
    for (len, count, counted) in [(PART * most, most, [1, 0]), (PART * most + 1, 1, [1, 1])] {
        let message = content(1, len);
        a.send.post(message.clone().into()).unwrap();
        pair.world.run_for(millis(10)).unwrap();
        let chunks = got(&mut b).unwrap();
        assert_eq!((chunks.count(), chains(&pair.world.stats(pair.b))), (count, counted));
        assert_eq!(chunks.into_message(), message);
    }
    drop((a, b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Of a driver with few frames half stay free, whatever applications keep: what comes then is copied, what was under way is copied out
/// of its packets, and others go on.
#[test]
fn kept_pieces_do_not_starve_others() {
    let nic = NicConfig { frames: 256, ..nic() };
    let mut pair = Pair::with(1, &Link::with_delay(micros(10)), [nic; 2], [config(); 2], world_config());
    let (mut a, mut b) = pair.open();
    b.recv.want_chunks();
    pair.world.run_for(millis(1)).unwrap();
    let mut kept = Vec::new();
    for n in 0..20 {
        let message = content(n, 30 * PART);
        a.send.post(message.clone().into()).unwrap();
        pair.world.run_for(millis(20)).unwrap();
        kept.push((message, got(&mut b).unwrap()));
        assert!(pair.world.driver(pair.b).free_frames() >= 100);
    }
    let [stayed, copied] = chains(&pair.world.stats(pair.b));
    assert_eq!(stayed + copied, 20);
    assert!((3..=4).contains(&stayed), "{stayed} messages of 30 packets in half of 256 frames");
    // Somebody else, meanwhile.
    let other = Dialog {
        port: PORT + 1,
        chunked: [true; 2],
        ..Dialog::new(Plan::fixed(3, 50, 50_000), Plan::fixed(4, 50, 50_000))
    };
    let tasks = pair.start(&other);
    pair.world.run(seconds(10)).unwrap();
    other.check(&tasks.map(|task| task.take().unwrap()));
    assert!(kept.into_iter().all(|(message, chunks)| chunks.into_message() == message), "and it is not changed");
    drop((a, b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// Both ways under everything that networks do, with few frames, little memory, slow readers, and paths whose MTU changes under way: every
/// message once, in order, and no frame lost.
#[test]
fn pieces_and_buffers_carry_the_same_messages() {
    // Runs, and messages that stayed or were copied in all.
    let sums = Cell::new([0; 3]);
    seeds("pieces_and_buffers_carry_the_same_messages", 100, |seed| {
        let bad = [0.0, 0.01, 0.05][seed as usize % 3];
        let link = Link {
            loss: bad,
            duplicate: bad,
            reorder: 2.0 * bad,
            reorder_by: micros(200),
            ..Link::with_delay(micros(30))
        };
        let nic = NicConfig { frames: [200, 400, 1024][seed as usize / 3 % 3], ..nic() };
        let mut configs = [config(); 2];
        configs[0].reassembly_bytes = [1 << 20, 7 << 22][seed as usize % 2];
        // Up to what the interface takes: looked for while messages are under way, which are cut anew for it.
        configs.iter_mut().for_each(|config| config.max_payload = [1232, 65_507][seed as usize / 2 % 2]);
        configs[1].max_message = 1 << 18;
        let mut pair = Pair::with(seed, &link, [nic; 2], configs, world_config());
        let rng = pair.world.rng();
        let mut dialog = Dialog::new(Plan::log_uniform(1, 60, 1 << 18, rng), Plan::log_uniform(2, 60, 1 << 18, rng));
        dialog.chunked = [true, seed % 5 > 0];
        dialog.paces = [Pace::Eager, if seed % 7 == 0 { Pace::Each(millis(2)) } else { Pace::Eager }];
        pair.run(&dialog, seconds(60));
        for machine in [pair.a, pair.b] {
            let stats = pair.world.stats(machine);
            let ([runs, all_stayed, all_copied], [stayed, copied]) = (sums.get(), chains(&stats));
            sums.set([runs + 1, all_stayed + stayed, all_copied + copied]);
            assert_eq!(stats.drops.get(DropReason::Protocol), 0);
        }
    });
    let [runs, stayed, copied] = sums.get();
    assert!(
        runs < 100 || (stayed > 500 && copied > 500),
        "{stayed} stayed and {copied} were copied: both are to be tried"
    );
}
