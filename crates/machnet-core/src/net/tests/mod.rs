//! The layer as a whole: frames in, frames out, by hand.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::bench::{Bench, FRAMES, Port, mac};
use super::headers::{EtherPayload, EthernetFrame, IpPacket, Macs};
use super::messages::{parse_arp, parse_icmp, write_neighbour};
use super::*;
use crate::driver::Meta;

mod datagrams;
mod hosts;
mod neighbourhood;
mod siblings;

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

impl Bench {
    /// Sends one datagram; returns what left the device.
    fn send(&mut self, to: &str, payload: &[u8]) -> Vec<Vec<u8>> {
        let mut batch = VecDeque::from([self.packet(to, payload)]);
        self.net.tx_burst(&mut batch);
        self.net.device.take()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.net.drops().get(reason)
    }
}

/// Reads a frame that a layer sent.
fn read(frame: &[u8]) -> EthernetFrame<'_> {
    EthernetFrame::parse(frame).expect("a frame that reads")
}

/// The IP packet in a frame.
fn ip(frame: &[u8]) -> IpPacket<'_> {
    match read(frame).payload {
        EtherPayload::Ip(packet) => packet,
        EtherPayload::Arp(_) => panic!("ARP instead of IP"),
    }
}

/// Lets two layers talk until both are silent.
fn exchange(a: &mut Bench, b: &mut Bench) -> [Vec<(Meta, Vec<u8>)>; 2] {
    let mut got = [Vec::new(), Vec::new()];
    loop {
        let (from_a, from_b) = (a.sent(), b.sent());
        if from_a.is_empty() && from_b.is_empty() {
            return got;
        }
        got[1].extend(b.receive(from_a));
        got[0].extend(a.receive(from_b));
    }
}
