//! When the descriptor is readable, what happens without frames, and who waits for whom.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Waker;

use machnet_channel::Doorbell;
use machnet_core::Driver;
use machnet_udp::Udp;

use crate::node::{FAMILIES, Node, bytes, closed_port, pattern};

#[test]
fn an_idle_driver_is_quiet_and_keeps_its_descriptor() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        let fd = a.wait().unwrap().as_raw_fd();
        let idle = |a: &mut Node| {
            for _ in 0..3 {
                assert!(!a.readable());
                assert_eq!(a.rx_burst(&mut Vec::new(), 64), 0);
                assert!(!a.starve());
            }
        };
        idle(&mut a);
        let opened = a.open(0).unwrap();
        idle(&mut a);
        let mut b = Node::new(family);
        for to in [a.home(), opened] {
            b.send(to, b"data");
            a.await_readable();
            assert_eq!(a.receive_one().meta.local, to);
            idle(&mut a);
        }
        a.close(opened.port());
        idle(&mut a);
        assert_eq!(a.wait().unwrap().as_raw_fd(), fd);
    }
}

#[test]
fn the_descriptor_is_readable_for_an_error_and_quiet_once_it_was_taken() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        for open_another in [false, true] {
            if open_another {
                a.open(0).unwrap();
            }
            let nobody = closed_port(a.home());
            a.send(nobody, &pattern(0, 40));
            a.await_readable();
            assert_eq!(a.rx_burst(&mut Vec::new(), 1), 0);
            assert!(a.readable(), "a report waits for the engine");
            assert!(a.unreachable().is_some());
            assert!(!a.readable());
        }
    }
}

#[test]
fn what_a_short_burst_left_keeps_the_descriptor_readable() {
    for family in FAMILIES {
        let (mut a, mut b) = (Node::new(family), Node::new(family));
        let to = b.home();
        let batch = (0..30).map(|i| a.packet(to, &pattern(i, 200))).collect();
        a.send_all(batch);
        for i in 0..30 {
            b.await_readable();
            assert_eq!(bytes(&b.receive_one()), pattern(i, 200));
        }
        assert!(!b.readable());
    }
}

#[test]
fn without_frames_nothing_is_lost_and_the_engine_can_sleep() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        let mut b = Node::with(Udp::builder().frames(8), family);
        let bell = Arc::new(Doorbell::new());
        b.set_bell(Arc::clone(&bell));
        let to = b.home();
        let batch = (0..100).map(|i| a.packet(to, &pattern(i, 300))).collect();
        a.send_all(batch);
        let mut held = b.receive(8, 64);
        let mut seen = 8;
        while seen < 100 {
            assert_eq!(b.rx_burst(&mut Vec::new(), 64), 0);
            assert!(b.frame().is_none());
            bell.arm(Waker::noop());
            let rings = bell.rings();
            assert!(!b.starve());
            assert!(!b.readable(), "nothing can be done without frames");
            // An application drops a message: the bell rings once, and the engine goes on.
            drop(held.remove(0));
            assert_eq!(bell.rings(), rings + 1);
            assert!(b.starve(), "a frame is there");
            let next = b.receive_one();
            assert_eq!(bytes(&next), pattern(seen, 300));
            held.push(next);
            seen += 1;
        }
        assert_eq!(b.drops().total(), 0);
        drop(held);
        assert_eq!(b.rx_burst(&mut Vec::new(), 64), 0);
        assert!(!b.readable());
    }
}

#[test]
fn a_starving_driver_is_deaf_to_data_but_not_to_errors() {
    for family in FAMILIES {
        let mut peer = Node::new(family);
        let mut a = Node::with(Udp::builder().frames(3), family);
        let to = a.home();
        let request = a.packet(closed_port(to), b"0123456789abcdef");
        let others = [a.frame().unwrap(), a.frame().unwrap()];
        let again = request.payload.clone();
        assert!(!a.starve());
        peer.send(to, b"waits in the kernel");
        assert!(!a.readable());
        a.send_all([request].into());
        a.await_readable();
        assert_eq!(a.rx_burst(&mut Vec::new(), 1), 0);
        assert_eq!(a.unreachable().unwrap().quoted, *b"0123456789abcdef");
        assert!(!a.readable());
        drop((others, again));
        assert!(a.starve());
        a.await_readable();
        assert_eq!(bytes(&a.receive_one()), b"waits in the kernel");
    }
}

#[test]
fn a_busy_port_does_not_starve_another() {
    for family in FAMILIES {
        let (mut a, mut b) = (Node::new(family), Node::with(Udp::builder().frames(8192), family));
        let (busy, calm) = (b.home(), b.open(0).unwrap());
        let calm_too = b.open(0).unwrap();
        for _ in 0..40 {
            let batch = (0..64).map(|i| a.packet(busy, &pattern(i, 100))).collect();
            a.send_all(batch);
        }
        a.send(calm, b"me");
        a.send(calm_too, b"me too");
        let (mut bursts, mut found, mut total) = (0, 0, 0);
        while found < 2 {
            let mut got = Vec::new();
            total += b.rx_burst(&mut got, 32);
            bursts += 1;
            assert!(!got.is_empty(), "{found} found");
            found += got.iter().filter(|packet| packet.meta.local != busy).count();
        }
        // One visit of the busy port fills eight slots of 64 datagrams.
        assert!(bursts <= 20, "{bursts} bursts");
        b.receive(40 * 64 + 2 - total, 256);
    }
}
