//! What real interfaces do and loopback does not, on a loopback interface of our own: be slow, have a small MTU.
//!
//! Each test runs itself again inside a fresh network namespace. That takes iproute2, and root or unprivileged user
//! namespaces. `cargo xtask test` provides them and sets `MACHNET_NAMESPACES`; only without that may a test pass unrun.

use std::collections::VecDeque;
use std::process::Command;

use machnet_core::{Driver, DropReason};
use machnet_udp::Udp;

use crate::node::{FAMILIES, Node, bytes, pattern};

/// Runs the ignored test `name` where `setup` has changed the loopback interface.
#[expect(clippy::print_stderr, reason = "a test that did not run says so")]
fn run_with(setup: &str, name: &str) {
    let in_namespace = |script: &str| {
        // As root without a user namespace: there the kernel loads the modules that `tc` asks for.
        let kind = if rustix::process::geteuid().is_root() { "-n" } else { "-rn" };
        Command::new("unshare").args([kind, "sh", "-c", script]).output()
    };
    let set_up = in_namespace(setup);
    if !set_up.as_ref().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("MACHNET_NAMESPACES").is_none(), "`{setup}` failed in a namespace: {set_up:?}");
        eprintln!("not run: it takes iproute2, and root or unprivileged user namespaces");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let output = in_namespace(&format!("{setup} && exec {me:?} --exact --ignored namespace::{name}")).unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
}

#[test]
fn a_full_socket_is_waited_for() {
    let slow = "ip link set lo up && tc qdisc add dev lo root tbf rate 50mbit burst 70k limit 10m";
    run_with(slow, "sending_faster_than_the_interface");
}

#[test]
#[ignore = "run by a_full_socket_is_waited_for"]
fn sending_faster_than_the_interface() {
    for family in FAMILIES {
        let mut a = Node::with(Udp::builder().send_buffer(40_000), family);
        let mut b = Node::new(family);
        let to = b.home();
        let mut batch: VecDeque<_> = (0..600).map(|i| a.packet(to, &pattern(i, 1000))).collect();
        let mut refused = 0;
        while !batch.is_empty() {
            assert!(a.tx_burst(&mut batch) > 0, "woken for nothing");
            if !batch.is_empty() {
                refused += 1;
                a.await_readable();
            }
        }
        assert!(refused > 0, "the interface is not slow");
        assert!(!a.readable());
        for (i, packet) in b.receive(600, 64).iter().enumerate() {
            assert!(bytes(packet) == pattern(i, 1000), "{i}");
        }
        assert_eq!((a.drops().total(), b.drops().total()), (0, 0));
    }
}

#[test]
fn datagrams_over_the_mtu_are_lost_and_no_others() {
    run_with("ip link set lo mtu 1500 up", "sending_over_the_mtu");
}

#[test]
#[ignore = "run by datagrams_over_the_mtu_are_lost_and_no_others"]
fn sending_over_the_mtu() {
    for (family, max) in FAMILIES.into_iter().zip([1472, 1452]) {
        let (mut a, mut b) = (Node::new(family), Node::new(family));
        assert_eq!(a.capabilities().max_payload as usize, max);
        let to = b.home();
        for round in 1..=3 {
            // One run of equal size that does not fit, but for its last datagram; then one that does.
            let sizes = [max + 1, max + 1, max + 1, 1000, max, max, max, 3];
            let batch = sizes.map(|len| a.packet(to, &pattern(len, len)));
            a.send_all(batch.into());
            let got: Vec<_> = b.receive(5, 5).iter().map(|packet| packet.range.end as usize).collect();
            assert_eq!(got, [1000, max, max, max, 3]);
            assert_eq!((a.drops().get(DropReason::Unsendable), a.drops().total()), (3 * round, 3 * round));
            assert!(!a.readable());
        }
    }
}
