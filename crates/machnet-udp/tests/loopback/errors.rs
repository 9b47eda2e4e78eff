//! What cannot be sent, and what ICMP says about it.

use machnet_core::{Driver, DropReason, Meta, TxPacket, Unreachable};
use machnet_udp::Udp;

use crate::node::{FAMILIES, Node, bytes, closed_port, pattern};

#[test]
fn an_unreachable_port_is_reported_with_our_header() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        let nobody = closed_port(a.home());
        a.send(nobody, b"sixteen bytes ofa longer datagram");
        assert_eq!(a.await_unreachable(), Unreachable { remote: nobody, quoted: *b"sixteen bytes of" });
        a.send(nobody, b"exactly sixteen!");
        assert_eq!(a.await_unreachable(), Unreachable { remote: nobody, quoted: *b"exactly sixteen!" });
        // Too short to be ours: no report, and no descriptor that stays readable.
        a.send(nobody, b"only fifteen by");
        a.await_readable();
        assert_eq!(a.rx_burst(&mut Vec::new(), 1), 0);
        assert_eq!(a.unreachable(), None);
        assert!(!a.readable());
    }
}

#[test]
fn a_wildcard_socket_hears_of_unreachable_ports_too() {
    let mut a = Node::new("0.0.0.0:0");
    let nobody = closed_port("127.0.0.1:0".parse().unwrap());
    a.send(nobody, &pattern(1, 100));
    let report = a.await_unreachable();
    assert_eq!((report.remote, &report.quoted[..]), (nobody, &pattern(1, 100)[..16]));
}

#[test]
fn refused_datagrams_never_cost_a_good_one() {
    for family in FAMILIES {
        let (mut a, mut b) = (Node::new(family), Node::new(family));
        let (nobody, good) = (closed_port(a.home()), b.home());
        let mut reports = 0;
        for round in 0..20 {
            // Each send to nobody leaves an error that the next call would get.
            let batch = (0..40).map(|i| {
                let (to, len) = if i % 2 == 0 { (nobody, 50) } else { (good, 60) };
                a.packet(to, &pattern(round * 40 + i, len))
            });
            let batch = batch.collect();
            a.send_all(batch);
            let back = a.home();
            b.send(back, b"and back");
            for (i, packet) in b.receive(20, 20).iter().enumerate() {
                assert!(bytes(packet) == pattern(round * 40 + 2 * i + 1, 60), "{family}, round {round}, {i}");
            }
            assert_eq!(bytes(&a.receive_one()), b"and back");
            reports += std::iter::from_fn(|| a.unreachable()).inspect(|it| assert_eq!(it.remote, nobody)).count();
        }
        assert!(reports > 20, "{reports}");
        assert_eq!(a.drops().total(), 0);
        while a.readable() {
            assert_eq!(a.rx_burst(&mut Vec::new(), 1), 0);
            while a.unreachable().is_some() {}
        }
    }
}

#[test]
fn errors_nobody_asks_for_are_bounded() {
    let mut a = Node::new("127.0.0.1:0");
    let nobody = closed_port(a.home());
    for i in 0..1000 {
        a.send(nobody, &pattern(i, 32));
    }
    assert_eq!(a.rx_burst(&mut Vec::new(), 1), 0);
    assert!(a.readable());
    let reports = std::iter::from_fn(|| a.unreachable()).count();
    assert!((1..=64).contains(&reports), "{reports}");
    assert!(!a.readable());
}

/// Nothing of this leaves the host: the kernel refuses a loopback source, a broadcast without permission, an IPv4
/// address on an IPv6 socket, port 0.
#[test]
fn what_cannot_be_sent_is_taken_and_counted() {
    let nowhere = [
        (FAMILIES[0], ["203.0.113.1:9", "255.255.255.255:9", "[::1]:9"]),
        (FAMILIES[1], ["[::1]:0", "[::ffff:127.0.0.1]:9", "127.0.0.1:9"]),
    ];
    for (family, remotes) in nowhere {
        let (mut a, mut b) = (Node::new(family), Node::new(family));
        let good = b.home();
        for (lost, remote) in remotes.iter().enumerate() {
            let batch = [*remote, &good.to_string(), *remote, *remote, &good.to_string()];
            let batch = batch.map(|to| a.packet(to.parse().unwrap(), b"0123456789abcdef"));
            a.send_all(batch.into());
            b.receive(2, 2);
            assert_eq!(a.drops().get(DropReason::Unsendable), 3 * (lost as u64 + 1), "{remote}");
            assert_eq!(a.unreachable(), None);
        }
        assert_eq!(a.drops().total(), 9);
        assert!(!a.readable());
    }
}

#[test]
fn a_datagram_over_the_mtu_is_taken_and_counted() {
    for family in FAMILIES {
        let builder = Udp::builder().frame_size(65_536).frames(16);
        let (mut a, mut b) = (Node::with(builder.clone(), family), Node::with(builder, family));
        let (good, max) = (b.home(), a.capabilities().max_payload as usize);
        let batch = [max + 1, max + 1, 100, 65_536, max].map(|len| a.packet(good, &pattern(len, len)));
        a.send_all(batch.into());
        let got: Vec<_> = b.receive(2, 2).iter().map(|packet| packet.range.end as usize).collect();
        assert_eq!(got, [100, max]);
        assert_eq!((a.drops().get(DropReason::Unsendable), a.drops().total()), (3, 3));
        assert!(!a.readable(), "the error queue is empty");
    }
}

#[test]
fn a_port_that_is_not_open_cannot_send() {
    let (mut a, mut b) = (Node::new("127.0.0.1:0"), Node::new("127.0.0.1:0"));
    let (mut local, remote) = (a.home(), b.home());
    local.set_port(closed_port(local).port());
    let stray = TxPacket { meta: Meta { local, remote, queue: 0 }, payload: a.payload(b"x"), tail: None };
    let good = a.packet(remote, b"y");
    a.send_all([stray, good].into());
    assert_eq!(bytes(&b.receive_one()), b"y");
    assert_eq!(a.drops().get(DropReason::Unsendable), 1);
}
