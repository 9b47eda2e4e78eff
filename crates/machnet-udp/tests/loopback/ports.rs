//! Opening and closing.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use machnet_core::{Driver, Meta, TxPacket};
use machnet_udp::Udp;

use crate::node::{FAMILIES, Node, bytes};

#[test]
fn ports_are_exclusive() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        let taken = a.home();
        let error = Udp::bind(taken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        assert_eq!(UdpSocket::bind(taken).unwrap_err().kind(), ErrorKind::AddrInUse);

        let other = a.open(0).unwrap();
        let mut b = Node::new(family);
        assert_eq!(b.open(other.port()).unwrap_err().kind(), ErrorKind::AddrInUse);
        // A failed opening leaves nothing behind.
        b.close(other.port());
        a.close(other.port());
        assert_eq!(b.open(other.port()).unwrap(), other);
    }
}

#[test]
fn a_port_is_open_until_it_was_closed_as_often_as_opened() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        let address = a.open(0).unwrap();
        assert_eq!(a.open(address.port()).unwrap(), address);
        assert_eq!(a.open(address.port()).unwrap(), address);
        let mut peer = Node::new(family);
        for _ in 0..2 {
            a.close(address.port());
            peer.send(address, b"still there");
            let packet = a.receive_one();
            assert_eq!((bytes(&packet), packet.meta.local), (&b"still there"[..], address));
        }
        a.close(address.port());
        peer.send(address, b"0123456789abcdef");
        assert_eq!(peer.await_unreachable().remote, address);
        // And again.
        assert_eq!(a.open(address.port()).unwrap(), address);
        peer.send(address, b"back");
        assert_eq!(bytes(&a.receive_one()), b"back");
    }
}

#[test]
fn the_home_port_stays_open_whatever_is_closed() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        let home = a.home();
        assert_eq!(a.open(home.port()).unwrap(), home);
        for _ in 0..3 {
            a.close(home.port());
        }
        a.close(0);
        a.send(home, b"to myself");
        assert_eq!(bytes(&a.receive_one()), b"to myself");
    }
}

#[test]
fn port_zero_opens_another_free_port_each_time() {
    for family in FAMILIES {
        let mut a = Node::new(family);
        let (first, second) = (a.open(0).unwrap(), a.open(0).unwrap());
        assert!(first.port() != 0 && first != second && first != a.home() && second != a.home());
        assert_eq!(first.ip(), a.home().ip());
        // A datagram leaves from the port its `local` names.
        let mut peer = Node::new(family);
        let to = peer.home();
        for local in [second, first, a.home()] {
            let payload = a.payload(b"x");
            a.send_all([TxPacket { meta: Meta { local, remote: to, queue: 0 }, payload, tail: None }].into());
            assert_eq!(peer.receive_one().meta.remote, local);
        }
    }
}

#[test]
fn ipv4_and_ipv6_share_a_port_number() {
    let v6 = Udp::bind("[::]:0").unwrap();
    let v4 = Udp::bind(("0.0.0.0", v6.home().port())).unwrap();
    assert_eq!(v4.home().port(), v6.home().port());
}

#[test]
fn a_privileged_port_needs_permission() {
    let first: u16 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024);
    if first < 2 {
        // No port is privileged here.
        return;
    }
    // Capabilities belong to a thread: this one gives up the one that counts.
    let error = std::thread::spawn(|| {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_BIND_SERVICE);
        set_capabilities(None, sets).unwrap();
        Udp::bind("127.0.0.1:1").unwrap_err()
    })
    .join()
    .unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn an_address_of_another_host_is_refused() {
    let error = Udp::bind("203.0.113.1:0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("203.0.113.1:0"), "{error}");
    let addresses: &[SocketAddr] = &["203.0.113.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
    // As with std's sockets, the first address that works is taken.
    assert!(Udp::bind(addresses).unwrap().home().ip().is_loopback());
}
