//! `machnet ping`, whose exit codes are ping(8)'s.

use std::net::UdpSocket;

use rustix::process::Signal;

use crate::process::{Closed, Running, machnet, server};

#[test]
fn handshakes_are_timed_and_summed_up() {
    let (_server, url) = server("udp://127.0.0.1:0");
    let to = url.strip_prefix("udp://").unwrap();
    let ended = machnet(&format!("ping {to} -c 3 -i 1ms --timeout 30s"));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let times = ended.out.lines().filter(|line| line.contains(" time=")).count();
    assert_eq!(times, 3, "{ended:?}");
    for part in ["handshake=3 time=", "3 handshakes, 3 answered, 0% failed", "time min/avg/max/mdev = "] {
        assert!(ended.out.contains(part), "{part:?} is not in {ended:?}");
    }
    let quiet = machnet(&format!("ping {to} -q -c 1 --timeout 30s"));
    assert!(!quiet.out.contains("handshake=1") && quiet.out.contains("1 answered"), "{quiet:?}");
}

#[test]
fn nobody_listens() {
    let closed = Closed::new();
    let ended = machnet(&format!("ping {} -c 2 -i 1ms", closed.udp));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.out.contains("refused") && ended.out.contains("0 answered, 100% failed"), "{ended:?}");
}

#[test]
fn nobody_answers() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ended = machnet(&format!("ping {} -c 1 --timeout 100ms", socket.local_addr().unwrap()));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.out.contains("no answer from 127.0.0.1") && ended.out.contains("100.000 ms"), "{ended:?}");
}

#[test]
fn an_interruption_ends_with_the_summary() {
    let (_server, url) = server("udp://127.0.0.1:0");
    let mut ping = Running::start(&format!("ping {} -i 1ms --timeout 30s", url.strip_prefix("udp://").unwrap()));
    assert!(ping.line().contains("machnet ping"));
    assert!(ping.line().contains("handshake=1"));
    ping.signal(Signal::INT);
    let ended = ping.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.out.contains("answered, 0% failed"), "{ended:?}");
}

#[test]
fn what_cannot_be_pinged() {
    machnet("ping no-such-host.invalid:1 -c 1").refused(2, &["unknown host \"no-such-host.invalid\""]);
    machnet("ping 127.0.0.1 -c 1").refused(2, &["no port in \"127.0.0.1\"", "host:port"]);
    machnet("ping 127.0.0.1:0 -c 0").refused(2, &["0 is not in 1.."]);
    machnet("ping 127.0.0.1:1 -i soon").refused(2, &["a time with its unit"]);
}
