//! Content, order and addresses.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};

use machnet_core::{Driver, DropReason, Meta, TxPacket};
use machnet_udp::Udp;

use crate::node::{FAMILIES, Node, bytes, pattern};

#[test]
fn every_size_arrives_as_sent() {
    for family in FAMILIES {
        let (mut a, mut b) = (Node::new(family), Node::new(family));
        let max = a.capabilities().max_payload as usize;
        let (from, to) = (a.home(), b.home());
        // So few that a socket's buffer holds them.
        for start in (0..=max).step_by(11) {
            let sizes: Vec<_> = (start..=max).take(11).collect();
            let batch = sizes.iter().map(|&len| a.packet(to, &pattern(len, len))).collect();
            a.send_all(batch);
            for (packet, &len) in b.receive(sizes.len(), 64).iter().zip(&sizes) {
                assert_eq!(packet.meta, Meta { local: to, remote: from, queue: 0 });
                assert!(bytes(packet) == pattern(len, len), "{family}, {len} bytes");
            }
        }
        assert_eq!((a.drops().total(), b.drops().total()), (0, 0));
    }
}

#[test]
fn the_largest_datagrams_arrive_too() {
    for family in FAMILIES {
        let builder = Udp::builder().frame_size(65_536).frames(16);
        let (mut a, mut b) = (Node::with(builder.clone(), family), Node::with(builder, family));
        let max = a.capabilities().max_payload as usize;
        assert!(max > 65_000, "loopback is expected to carry 64 KiB, but says {max}");
        let to = b.home();
        for len in [9000, 32_000, 32_753, 32_754, 65_000, max - 1, max] {
            let batch = (0..3).map(|i| a.packet(to, &pattern(i, len))).collect();
            a.send_all(batch);
            for (i, packet) in b.receive(3, 3).iter().enumerate() {
                assert!(bytes(packet) == pattern(i, len), "{family}, {len} bytes");
            }
        }
    }
}

#[test]
fn bursts_of_equal_and_unequal_sizes_keep_content_and_order() {
    stay_on_one_cpu();
    // (size, how many): long runs of equal size, shorter ends, empty datagrams, alternation.
    let shapes: &[&[(usize, usize)]] = &[
        &[(1200, 200)],
        &[(1, 300)],
        &[(2048, 70), (7, 1), (2048, 3)],
        &[(100, 10), (0, 3), (100, 10), (0, 1)],
        &[(64, 1), (65, 1), (64, 1), (65, 1), (64, 5)],
        &[(1000, 64), (1000, 64), (999, 1), (1001, 1)],
    ];
    for family in FAMILIES {
        let mut a = Node::new(family);
        let mut receivers = [Node::new(family), Node::new(family), Node::new(family)];
        for (shape_index, shape) in shapes.iter().enumerate() {
            // To each receiver in turn a piece of the sequence, of a length that is no multiple of anything.
            let sizes: Vec<_> = shape.iter().flat_map(|&(size, n)| std::iter::repeat_n(size, n)).collect();
            let mut batch = VecDeque::new();
            for (piece_index, piece) in sizes.chunks(37).enumerate() {
                for receiver in &receivers {
                    for (i, &size) in piece.iter().enumerate() {
                        batch.push_back(a.packet(receiver.home(), &pattern(shape_index + piece_index * 37 + i, size)));
                    }
                }
            }
            a.send_all(batch);
            for receiver in &mut receivers {
                let got = receiver.receive(sizes.len(), 50);
                for (i, (packet, &size)) in got.iter().zip(&sizes).enumerate() {
                    assert!(bytes(packet) == pattern(shape_index + i, size), "{family}, shape {shape_index}, {i}");
                }
            }
        }
    }
}

#[test]
fn any_batch_size_will_do() {
    stay_on_one_cpu();
    for family in FAMILIES {
        let mut a = Node::new(family);
        for slots in [1, 2, 5, 32] {
            let mut b = Node::with(Udp::builder().batch(slots), family);
            let to = b.home();
            let size = |i: usize| if i < 100 { 77 } else { i };
            let batch = (0..150).map(|i| a.packet(to, &pattern(i, size(i)))).collect();
            a.send_all(batch);
            for (i, packet) in b.receive(150, 1000).iter().enumerate() {
                assert!(bytes(packet) == pattern(i, size(i)), "{family}, {slots} slots, {i}");
            }
        }
    }
}

#[test]
fn a_plain_socket_sees_single_datagrams() {
    for family in FAMILIES {
        let plain = UdpSocket::bind(family).unwrap();
        let mut a = Node::new(family);
        let to = plain.local_addr().unwrap();
        let batch = (0..20).map(|i| a.packet(to, &pattern(i, if i < 19 { 500 } else { 123 }))).collect();
        a.send_all(batch);
        let mut buffer = [0; 2048];
        for i in 0..20 {
            let (len, from) = plain.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&pattern(i, if i < 19 { 500 } else { 123 })[..], a.home()));
        }
        plain.send_to(b"back", a.home()).unwrap();
        assert_eq!(bytes(&a.receive_one()), b"back");
    }
}

#[test]
fn a_wildcard_socket_answers_from_the_address_it_was_called_at() {
    let mut server = Node::new("0.0.0.0:0");
    assert!(server.home().ip().is_unspecified());
    let mut client = Node::new("127.0.0.1:0");
    for host in ["127.0.0.2", "127.0.0.1", "127.1.2.3"] {
        let called = SocketAddr::new(host.parse().unwrap(), server.home().port());
        client.send(called, b"hello");
        let request = server.receive_one();
        assert_eq!(request.meta, Meta { local: called, remote: client.home(), queue: 0 });
        let payload = server.payload(b"answer");
        server.send_all([TxPacket { meta: request.meta, payload, tail: None }].into());
        let reply = client.receive_one();
        assert_eq!((reply.meta.remote, reply.meta.local), (called, client.home()));
    }
    let mut server = Node::new("[::]:0");
    let mut client = Node::new("[::1]:0");
    let called = SocketAddr::new("::1".parse().unwrap(), server.home().port());
    client.send(called, b"hello");
    assert_eq!(server.receive_one().meta, Meta { local: called, remote: client.home(), queue: 0 });
}

#[test]
fn an_unspecified_local_address_leaves_the_choice_to_the_kernel() {
    let mut wild = Node::new("0.0.0.0:0");
    let mut peer = Node::new("127.0.0.1:0");
    let to = peer.home();
    wild.send(to, b"x");
    assert_eq!(peer.receive_one().meta.remote, SocketAddr::new(to.ip(), wild.home().port()));
}

#[test]
fn a_datagram_longer_than_a_frame_is_counted_and_nothing_else() {
    for family in FAMILIES {
        let mut small = Node::with(Udp::builder().frame_size(1252), family);
        let mut big = Node::with(Udp::builder().frame_size(9000), family);
        assert_eq!(small.capabilities().max_payload, 1252);
        let to = small.home();
        let batch = [1252, 1253, 1253, 1253, 2000, 9000, 10].map(|len| big.packet(to, &pattern(len, len)));
        big.send_all(batch.into());
        let got: Vec<_> = small.receive(2, 8).iter().map(|packet| packet.range.end).collect();
        assert_eq!(got, [1252, 10]);
        assert_eq!((small.drops().get(DropReason::Oversized), small.drops().total()), (5, 5));
    }
}

/// Two CPUs may deliver what one thread sent in another order, if it moves between them.
fn stay_on_one_cpu() {
    let here = rustix::thread::sched_getcpu();
    let mut set = rustix::thread::CpuSet::new();
    set.set(here);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}
