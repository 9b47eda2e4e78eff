//! The fabric by itself: raw drivers, no engines.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use machnet_channel::Doorbell;
use machnet_core::{Driver, DropReason, Instant, Meta, RxPacket, TxPacket};
use machnet_sim::{
    Corruption, EventKind, Fabric, HostId, Link, LinkId, NicConfig, NoFrame, OVERHEAD, SimDriver, SimRng, Verdict,
};

const PORT: u16 = 4000;

fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

const fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// Two NICs, both at port 4000, and the links between them.
struct Pair {
    fabric: Fabric,
    hosts: [HostId; 2],
    a: SimDriver,
    b: SimDriver,
    there: LinkId,
}

impl Pair {
    fn new(seed: u64, there: Link) -> Self {
        Self::with_nics(seed, there, NicConfig::default(), NicConfig::default())
    }

    fn with_nics(seed: u64, there: Link, a: NicConfig, b: NicConfig) -> Self {
        let fabric = Fabric::new(seed);
        let hosts = [fabric.host(ip(1)), fabric.host(ip(2))];
        let (there, _) = fabric.join(hosts[0], hosts[1], there, Link::default());
        let a = fabric.nic(hosts[0], NicConfig { port: PORT, ..a }).unwrap();
        let b = fabric.nic(hosts[1], NicConfig { port: PORT, ..b }).unwrap();
        Self { fabric, hosts, a, b, there }
    }

    fn send(&mut self, payload: &[u8]) {
        let to = self.b.home();
        assert!(send(&mut self.a, to, payload));
    }

    /// Everything B receives until nothing happens any more: when, and what.
    fn drain(&mut self) -> Vec<(Instant, Vec<u8>)> {
        let mut got = Vec::new();
        while let Some(at) = self.fabric.next_event() {
            self.fabric.advance(at);
            got.extend(receive(&mut self.b).into_iter().map(|(_, payload)| (at, payload)));
        }
        got
    }
}

/// Sends one datagram; false if the driver did not take it.
fn send(driver: &mut SimDriver, to: SocketAddr, payload: &[u8]) -> bool {
    driver.reap();
    let mut frame = driver.frame().expect("a free frame");
    frame.bytes_mut().unwrap()[..payload.len()].copy_from_slice(payload);
    let meta = Meta { local: driver.home(), remote: to, queue: 0 };
    let packet = TxPacket { meta, payload: frame.share(0..payload.len() as u32), tail: None };
    driver.tx_burst(&mut VecDeque::from([packet])) == 1
}

fn receive(driver: &mut SimDriver) -> Vec<(Meta, Vec<u8>)> {
    let mut packets: Vec<RxPacket> = Vec::new();
    driver.rx_burst(&mut packets, usize::MAX);
    let bytes = |p: &RxPacket| p.frame.bytes()[p.range.start as usize..p.range.end as usize].to_vec();
    packets.iter().map(|packet| (packet.meta, bytes(packet))).collect()
}

#[test]
fn a_datagram_arrives_after_the_delay_with_its_addresses() {
    let mut pair = Pair::new(1, Link::with_delay(micros(7)));
    pair.send(b"hello");
    assert_eq!(pair.fabric.next_event(), Some(Instant(0)));
    pair.fabric.advance(Instant(6_999));
    assert!(!pair.b.is_ready() && receive(&mut pair.b).is_empty());
    pair.fabric.advance(Instant(7_000));
    assert!(pair.b.is_ready());
    let meta = Meta { local: SocketAddr::new(ip(2), PORT), remote: SocketAddr::new(ip(1), PORT), queue: 0 };
    assert_eq!(receive(&mut pair.b), [(meta, b"hello".to_vec())]);
    assert!(!pair.b.is_ready());
}

#[test]
fn the_rate_spaces_datagrams_and_the_nic_delays_them() {
    let link = Link { rate: Some(1_000_000_000), ..Link::with_delay(micros(10)) };
    let nic = NicConfig { tx_delay: micros(3), ..NicConfig::default() };
    let mut pair = Pair::with_nics(1, link, nic, NicConfig::default());
    let payload = [0; 1000];
    (0..3).for_each(|_| pair.send(&payload));
    let each = (1000 + OVERHEAD) * 8; // ns at 1 bit per ns
    let at: Vec<u64> = pair.drain().iter().map(|(at, _)| at.0).collect();
    assert_eq!(at, [13_000 + each, 13_000 + 2 * each, 13_000 + 3 * each]);
}

#[test]
fn a_full_queue_drops_the_tail_and_drains() {
    let limits = [
        Link { rate: Some(1_000_000), queue_packets: 4, ..Link::default() },
        Link { rate: Some(1_000_000), queue_bytes: 4 * (100 + OVERHEAD), ..Link::default() },
    ];
    for link in limits {
        let mut pair = Pair::new(1, link);
        for i in 0..10 {
            pair.send(&[i; 100]);
        }
        let got: Vec<u8> = pair.drain().iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(got, [0, 1, 2, 3]);
        pair.send(&[10; 100]);
        assert_eq!(pair.drain().len(), 1);
        let stats = pair.fabric.link_stats(pair.there);
        assert_eq!((stats.offered, stats.queue_full, stats.delivered, stats.deepest), (11, 6, 5, 4));
    }
}

#[test]
fn loss_and_duplication_occur_as_often_as_configured() {
    let mut pair = Pair::new(42, Link { loss: 0.05, duplicate: 0.02, ..Link::default() });
    let mut got = 0;
    for _ in 0..400 {
        (0..50).for_each(|_| pair.send(b"x"));
        got += pair.drain().len() as u64;
    }
    let stats = pair.fabric.link_stats(pair.there);
    assert_eq!(stats.offered, 20_000);
    assert_eq!(got, stats.offered - stats.lost + stats.duplicated);
    assert!((900..1100).contains(&stats.lost), "{stats:?}");
    assert!((320..440).contains(&stats.duplicated), "{stats:?}");
}

#[test]
fn reordered_datagrams_are_late_and_only_they() {
    let mut pair = Pair::new(3, Link { reorder: 0.1, reorder_by: micros(100), ..Link::with_delay(micros(10)) });
    (0..200).for_each(|i| pair.send(&[i]));
    let got = pair.drain();
    assert!(got.iter().all(|(at, _)| (10_000..=110_000).contains(&at.0)));
    let late = got.iter().filter(|(at, _)| at.0 > 10_000).count() as u64;
    let stats = pair.fabric.link_stats(pair.there);
    assert!(late >= 5 && stats.reordered == late, "{stats:?}");
    assert!(got.windows(2).any(|w| w[0].1 > w[1].1), "nothing was overtaken");
}

#[test]
fn noticed_corruption_is_dropped_and_counted() {
    let mut pair = Pair::new(4, Link { corrupt: 0.5, ..Link::default() });
    (0..100).for_each(|_| pair.send(&[7; 64]));
    let got = pair.drain();
    assert!(got.iter().all(|(_, payload)| *payload == [7; 64]));
    let damaged = pair.b.nic_stats().checksum;
    assert!((30..70).contains(&damaged));
    assert_eq!(got.len() as u64 + damaged, 100);
    receive(&mut pair.b);
    assert_eq!(pair.b.drops().get(DropReason::Checksum), damaged);
}

#[test]
fn unnoticed_corruption_flips_cuts_and_extends() {
    let mut pair = Pair::new(5, Link { corrupt: 1.0, corruption: Corruption::Unnoticed, ..Link::default() });
    (0..200).for_each(|_| pair.send(&[0; 64]));
    let got = pair.drain();
    assert_eq!(got.len(), 200);
    let lengths = |test: fn(usize) -> bool| got.iter().filter(|(_, payload)| test(payload.len())).count();
    assert!(lengths(|n| n < 64) > 5 && lengths(|n| n > 64) > 5);
    let flipped = got.iter().filter(|(_, p)| p.len() == 64 && p.iter().any(|&b| b != 0)).count();
    assert!(flipped > 100, "{flipped}");
    // Empty datagrams are legal, and damage must cope with them.
    pair.send(b"");
    assert_eq!(pair.drain().len(), 1);
}

#[test]
fn datagrams_over_the_mtu_are_dropped_and_counted() {
    let nic = NicConfig { max_payload: 100, ..NicConfig::default() };
    let mut pair = Pair::with_nics(6, Link { max_payload: 80, ..Link::default() }, nic, NicConfig::default());
    for len in [80, 81, 100, 101] {
        pair.send(&vec![0; len]);
    }
    assert_eq!(pair.drain().len(), 1);
    assert_eq!(pair.a.nic_stats().oversized, 1);
    assert_eq!(pair.a.drops().get(DropReason::Oversized), 1);
    assert_eq!(pair.fabric.link_stats(pair.there).oversized, 2);
}

#[test]
fn a_full_receive_ring_drops_and_counts() {
    let nic = NicConfig { rx_descriptors: 8, ..NicConfig::default() };
    let mut pair = Pair::with_nics(7, Link::default(), NicConfig::default(), nic);
    (0..20).for_each(|_| pair.send(b"x"));
    pair.fabric.advance(Instant(1_000_000));
    assert_eq!(receive(&mut pair.b).len(), 8);
    assert_eq!((pair.b.nic_stats().ring_full, pair.b.nic_stats().received), (12, 8));
}

#[test]
fn one_seed_gives_one_trace() {
    let run = |seed| {
        let link = Link { rate: Some(10_000_000_000), ..Link::hostile(Corruption::Unnoticed) };
        let mut pair = Pair::new(seed, link);
        let mut rng = SimRng::new(seed, u64::MAX);
        for _ in 0..500 {
            let mut payload = vec![0; rng.below(1400) as usize];
            rng.fill(&mut payload);
            pair.send(&payload);
            pair.fabric.advance(pair.fabric.now() + rng.duration(micros(3)));
            receive(&mut pair.b);
        }
        pair.drain();
        (pair.fabric.trace_hash(), pair.fabric.trace_len())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn the_trace_keeps_the_newest_events() {
    let mut pair = Pair::new(8, Link::default());
    pair.fabric.keep_trace(3);
    pair.send(b"first");
    pair.send(b"second");
    pair.drain();
    let trace = pair.fabric.trace();
    let kinds: Vec<_> = trace.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Sent, EventKind::Arrived, EventKind::Arrived]);
    assert_eq!((trace[2].at, &trace[2].payload[..]), (Instant(5_000), &b"second"[..]));
    assert!(trace[2].to_string().contains("Arrived"));
}

#[test]
fn ports_are_exclusive_and_counted() {
    let pair = &mut Pair::new(9, Link::default());
    assert_eq!(pair.a.open(5000).unwrap(), SocketAddr::new(ip(1), 5000));
    pair.a.open(5000).unwrap();
    // A second NIC of the same host.
    let mut other = pair.fabric.nic(pair.hosts[0], NicConfig::default()).unwrap();
    assert_eq!(other.open(5000).unwrap_err().kind(), ErrorKind::AddrInUse);
    let taken = pair.fabric.nic(pair.hosts[0], NicConfig { port: PORT, ..NicConfig::default() });
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AddrInUse);
    pair.a.close(5000);
    assert_eq!(other.open(5000).unwrap_err().kind(), ErrorKind::AddrInUse);
    pair.a.close(5000);
    other.open(5000).unwrap();
    // Somebody else's close changes nothing; the owner's end does.
    pair.a.close(5000);
    assert_eq!(pair.a.open(5000).unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(other);
    pair.a.open(5000).unwrap();
    assert_ne!(pair.a.open(0).unwrap(), pair.a.open(0).unwrap());
}

#[test]
fn closed_ports_answer_only_if_told_to() {
    let mut pair = Pair::new(10, Link::with_delay(micros(10)));
    let nowhere = SocketAddr::new(ip(2), 9);
    assert!(send(&mut pair.a, nowhere, b"0123456789abcdef and more"));
    pair.drain();
    assert_eq!(pair.a.unreachable(), None);
    pair.fabric.answer_unreachable(pair.hosts[1], true);
    assert!(send(&mut pair.a, nowhere, b"0123456789abcdef and more"));
    pair.drain();
    assert!(pair.a.is_ready());
    let unreachable = pair.a.unreachable().unwrap();
    assert_eq!((unreachable.remote, &unreachable.quoted), (nowhere, b"0123456789abcdef"));
    assert_eq!((pair.a.unreachable(), pair.a.nic_stats().unreachable), (None, 1));
}

#[test]
fn nobody_and_nowhere_are_no_routes() {
    let mut pair = Pair::new(11, Link::default());
    let stranger = pair.fabric.host(ip(3));
    for to in [ip(3), ip(4), "::1".parse().unwrap()] {
        assert!(send(&mut pair.a, SocketAddr::new(to, PORT), b"x"));
    }
    pair.drain();
    assert_eq!(pair.a.nic_stats().no_route, 3);
    // Two links in a row, with a route of their own.
    let hops = [pair.fabric.link(Link::with_delay(micros(3))), pair.fabric.link(Link::with_delay(micros(4)))];
    pair.fabric.route(pair.hosts[0], stranger, &hops);
    let mut nic = pair.fabric.nic(stranger, NicConfig { port: PORT, ..NicConfig::default() }).unwrap();
    let start = pair.fabric.now();
    assert!(send(&mut pair.a, nic.home(), b"x"));
    pair.fabric.advance(start + micros(7));
    assert_eq!(receive(&mut nic).len(), 1);
}

#[test]
fn filters_drop_and_delay_by_what_they_see() {
    let mut pair = Pair::new(12, Link::with_delay(micros(1)));
    pair.fabric.filter(pair.there, |seen| match (seen.index, seen.payload) {
        (1, _) => Verdict::Drop,
        (_, b"late") => Verdict::Delay(micros(50)),
        _ => Verdict::Pass,
    });
    for payload in [b"zero", b"one.", b"late", b"last"] {
        pair.send(payload);
    }
    let got = pair.drain();
    let expected =
        [(1, b"zero"), (1, b"last"), (51, b"late")].map(|(at, payload)| (Instant(at * 1000), payload.to_vec()));
    assert_eq!(got, expected);
    assert_eq!(pair.fabric.link_stats(pair.there).filtered, 1);
}

#[test]
fn injected_datagrams_arrive_like_sent_ones() {
    let mut pair = Pair::new(13, Link::default());
    let forged = SocketAddr::new(ip(1), 1);
    pair.fabric.inject(forged, pair.b.home(), b"surprise");
    pair.fabric.advance(Instant(5_000));
    assert_eq!(receive(&mut pair.b)[0].0.remote, forged);
}

#[test]
fn the_device_holds_frames_for_a_time_and_until_more_were_sent() {
    let nic = NicConfig { frames: 4, hold: micros(10), hold_packets: 1, tx_descriptors: 2, ..NicConfig::default() };
    let mut pair = Pair::with_nics(14, Link::default(), nic, NicConfig::default());
    let to = pair.b.home();
    assert!(send(&mut pair.a, to, b"1") && send(&mut pair.a, to, b"2"));
    assert_eq!((pair.a.held(), pair.a.free_frames()), (2, 2));
    assert!(!send(&mut pair.a, to, b"3"), "the ring has two descriptors");
    assert_eq!(pair.a.next_release(), Some(Instant(10_000)));
    assert!(!pair.a.is_ready());
    pair.fabric.advance(Instant(10_000));
    assert!(pair.a.is_ready());
    // The first was followed by another and leaves; the second waits for a third, whatever the time.
    assert!(send(&mut pair.a, to, b"3"));
    assert_eq!(pair.a.held(), 2);
    pair.fabric.advance(Instant(1_000_000));
    pair.a.reap();
    assert_eq!((pair.a.held(), pair.a.free_frames()), (1, 3));
    pair.a.give_back();
    assert_eq!(pair.a.free_frames(), pair.a.frames());
    let never = NicConfig { hold_packets: 2, tx_descriptors: 2, ..NicConfig::default() };
    assert_eq!(pair.fabric.nic(pair.hosts[0], never).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn without_frames_datagrams_wait_or_are_dropped() {
    for (no_frame, later) in [(NoFrame::Wait, 3), (NoFrame::Drop, 0)] {
        let nic = NicConfig { frames: 2, no_frame, ..NicConfig::default() };
        let mut pair = Pair::with_nics(15, Link::default(), NicConfig::default(), nic);
        (0..5).for_each(|_| pair.send(b"x"));
        pair.fabric.advance(Instant(5_000));
        let bell = Arc::new(Doorbell::new());
        pair.b.set_bell(Arc::clone(&bell));
        let mut packets = Vec::new();
        assert_eq!(pair.b.rx_burst(&mut packets, 2), 2);
        let mut more = Vec::new();
        assert_eq!(pair.b.rx_burst(&mut more, 10), 0);
        assert!(!pair.b.is_ready());
        assert_eq!(pair.b.drops().get(DropReason::NoFrames), 3 - later);
        if later > 0 {
            bell.arm(Waker::noop());
            assert!(!pair.b.starve());
            drop(packets);
            assert_eq!(bell.rings(), 1);
            assert!(pair.b.starve(), "frames came home meanwhile");
            assert_eq!(receive(&mut pair.b).len() + receive(&mut pair.b).len(), later as usize);
        }
        assert_eq!(pair.b.free_frames(), if later > 0 { 2 } else { 0 });
    }
}

#[test]
fn headroom_is_in_front_and_long_datagrams_do_not_fit() {
    let nic = NicConfig { headroom: 64, frame_size: 256, max_payload: 100, ..NicConfig::default() };
    let mut pair = Pair::with_nics(16, Link::default(), NicConfig::default(), nic);
    pair.send(&[1; 192]);
    pair.send(&[2; 193]);
    pair.fabric.advance(Instant(5_000));
    let mut packets = Vec::new();
    assert_eq!(pair.b.rx_burst(&mut packets, 10), 1);
    assert_eq!(packets[0].range, 64..256);
    assert_eq!((pair.b.nic_stats().long, pair.b.drops().get(DropReason::Oversized)), (1, 1));
}
