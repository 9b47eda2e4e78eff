//! One endpoint, several drivers: ports that they share.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use machnet_core::{Driver, RxPacket};
use machnet_udp::Udp;

/// What all of `drivers` receive, until that is `count` datagrams: with each the number of its driver.
fn receive(drivers: &mut [Udp], count: usize) -> Vec<(usize, RxPacket)> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut found = Vec::new();
    while found.len() < count {
        assert!(Instant::now() < end, "{} of {count} datagrams", found.len());
        for (number, driver) in drivers.iter_mut().enumerate() {
            let mut out = Vec::new();
            driver.rx_burst(&mut out, 64);
            found.extend(out.into_iter().map(|packet| (number, packet)));
        }
    }
    found
}

#[test]
fn the_kernel_spreads_over_all_and_keeps_a_pair_together() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut drivers = Udp::bind(address).unwrap().split(4).unwrap();
        let (home, ports) = (drivers[0].home(), drivers[0].ports());
        assert!(drivers.iter().all(|driver| (driver.home(), driver.ports()) == (home, ports)));
        assert!((ports.0..=ports.1).contains(&home.port()) && ports.1 - ports.0 < 16);
        let mut hits = [0; 4];
        for _ in 0..8 {
            let peer = UdpSocket::bind(address).unwrap();
            for port in ports.0..=ports.1 {
                let mut to = home;
                to.set_port(port);
                for n in 0..3_u8 {
                    peer.send_to(&[n], to).unwrap();
                }
                let found = receive(&mut drivers, 3);
                assert!(found.iter().all(|(number, _)| *number == found[0].0), "one pair, one driver");
                assert!(found.iter().all(|(_, packet)| packet.meta.local.port() == port));
                hits[found[0].0] += 1;
            }
        }
        assert!(hits.iter().all(|&hits| hits > 0), "{hits:?}");
    }
}

#[test]
fn nobody_else_gets_in() {
    let mut drivers = Udp::bind("127.0.0.1:0").unwrap().split(3).unwrap();
    let (first, last) = drivers[0].ports();
    for port in first..=last {
        assert_eq!(Udp::bind(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
    // A port opened later is every driver's that asks for it, and free again when the last has closed it.
    let service = drivers[1].open(0).unwrap();
    assert_eq!(Udp::bind(service).unwrap_err().kind(), ErrorKind::AddrInUse);
    for driver in &mut drivers {
        assert_eq!(driver.open(service.port()).unwrap(), service);
    }
    drivers[1].close(service.port());
    drivers.iter_mut().for_each(|driver| driver.close(service.port()));
    assert_eq!(Udp::bind(service).unwrap().home(), service);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    assert!(drivers.iter_mut().all(|driver| driver.open(port).unwrap_err().kind() == ErrorKind::AddrInUse));
    drop(drivers);
    assert!(Udp::bind(("127.0.0.1", first)).is_ok(), "free again");
}

#[test]
fn a_port_in_the_way_makes_the_range_shorter_and_nothing_else() {
    let home = Udp::bind("127.0.0.1:0").unwrap();
    let port = home.home().port();
    let above = port.checked_add(2).map(|port| UdpSocket::bind(("127.0.0.1", port)));
    let drivers = home.split(2).unwrap();
    let (first, last) = drivers[0].ports();
    assert!((first..=last).contains(&port));
    assert!(above.is_none() || last < port + 2, "{first}..={last} around {port}");
}
