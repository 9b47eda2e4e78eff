//! The layer as a whole: frames in, frames out, by hand.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::bench::{Bench, FRAMES, Port, exchange, ip, mac, read};
use super::headers::{EtherPayload, Macs};
use super::messages::{parse_arp, parse_icmp, write_neighbour};
use super::*;

mod datagrams;
mod hosts;
mod neighbourhood;

fn config(address: &str) -> NetConfig {
    let mut config = NetConfig::new(address.parse().unwrap());
    config.port = 9000;
    config
}

/// Two hosts on one link that know each other.
fn pair(a: &str, b: &str) -> (Bench, Bench) {
    let (mut a, mut b) = (Bench::new(1, &config(a)), Bench::new(2, &config(b)));
    meet(&mut a, &mut b);
    (a, b)
}

/// Lets two hosts ask for each other.
fn meet(a: &mut Bench, b: &mut Bench) {
    for _ in 0..2 {
        let (to_a, to_b) = (a.net.home().to_string(), b.net.home().to_string());
        let frames = a.send(&to_b, b"who are you");
        b.net.device.arrived.extend(frames);
        b.drain();
        exchange(a, b);
        let frames = b.send(&to_a, b"and you");
        a.net.device.arrived.extend(frames);
        a.drain();
        exchange(a, b);
    }
    assert_eq!((a.held(), b.held()), (0, 0));
}

/// `frame` with byte `at` replaced, and IPv4's header checksum right again.
fn altered(frame: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    if frame[12..14] == [8, 0] {
        let len = usize::from(frame[14] & 0xf) * 4;
        frame[24..26].fill(0);
        let sum = checksum::Sum::default().add(&frame[14..14 + len]).checksum();
        frame[24..26].copy_from_slice(&sum);
    }
    frame
}
