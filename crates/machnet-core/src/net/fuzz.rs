//! The layer against hostile frames: whatever comes, frames are neither lost nor made, what is delivered lies where it
//! says, and what is sent reads.

use std::collections::VecDeque;
use std::time::Duration;

use super::bench::{Bench, FRAMES, mac};
use super::headers::{EtherPayload, EthernetFrame, UDP};
use super::messages::{parse_arp, parse_icmp};
use super::{MAX_CONTROL, NetConfig, checksum};
use crate::Driver;

/// Where datagrams go: neighbours, the gateway's side, this host, and nowhere.
const TARGETS: [&str; 8] = [
    "10.0.0.2:9000",
    "10.0.0.3:9000",
    "8.8.8.8:53",
    "[2001:db8::2]:9000",
    "[2001:db9::2]:9000",
    "10.0.0.1:9000",
    "10.0.0.1:1",
    "[ff02::1]:9000",
];

/// Runs the operations that `bytes` say.
pub(crate) fn net(bytes: &[u8]) {
    let mut config = NetConfig::new("10.0.0.1/24".parse().expect("an address"));
    config.addresses.push("2001:db8::1/64".parse().expect("an address"));
    config.gateway_v4 = Some([10, 0, 0, 9].into());
    (config.port, config.max_neighbours, config.max_pending) = (9000, 4, 3);
    let mut bench = Bench::new(1, &config);
    let mut rest = bytes;
    while let Some((&[operation, argument], after)) = rest.split_first_chunk::<2>() {
        rest = after;
        match operation % 8 {
            0..=3 => {
                let (frame, after) = rest.split_at((usize::from(argument) * 6).min(rest.len()));
                rest = after;
                let frame = if operation % 2 == 0 { mended(frame) } else { frame.to_vec() };
                bench.receive([frame]);
            }
            4 | 5 => {
                if bench.net.device.pool.free() > 0 {
                    let to = TARGETS[usize::from(argument % 8)];
                    let packet = bench.packet(to, &[argument; 40]);
                    bench.net.tx_burst(&mut VecDeque::from([packet]));
                }
            }
            6 => bench.begin(Duration::from_millis(u64::from(argument) * 40)),
            _ => bench.net.device.room = if argument < 128 { usize::MAX } else { 0 },
        }
        bench.drain();
        check(&mut bench);
    }
    bench.net.device.room = usize::MAX;
    for _ in 0..20 {
        bench.begin(Duration::from_secs(10));
        check(&mut bench);
    }
    assert_eq!(bench.held(), 0, "nothing waits for ever");
}

fn check(bench: &mut Bench) {
    // Control frames, those that wait for four neighbours, and those of a batch of one.
    assert!(bench.held() <= FRAMES && bench.net.control.len() <= MAX_CONTROL + 12);
    assert!(bench.net.next_deadline().is_none_or(|at| at > bench.now));
    while bench.net.unreachable().is_some() {}
    for frame in bench.sent() {
        let read = EthernetFrame::parse(&frame).expect("a frame that reads");
        assert!(read.from == mac(1) && read.to != mac(1));
        match read.payload {
            EtherPayload::Arp(message) => assert!(parse_arp(message).is_ok()),
            EtherPayload::Ip(packet) if packet.protocol == UDP => assert!(packet.udp(false).is_ok()),
            EtherPayload::Ip(packet) => assert!(parse_icmp(&packet).is_ok()),
        }
    }
}

/// The frame with a destination and checksums that are right, so that what is behind them is read too.
fn mended(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.len() >= 14 {
        frame[..6].copy_from_slice(&mac(1).0);
    }
    let sum = |frame: &[u8]| checksum::Sum::default().add(frame).checksum();
    if frame.get(12..14) == Some(&[8, 0]) && frame.len() >= 34 {
        let header = 14 + usize::from(frame[14] & 0xf) * 4;
        if header <= frame.len() {
            frame[24..26].fill(0);
            let right = sum(&frame[14..header]);
            frame[24..26].copy_from_slice(&right);
        }
    }
    let Ok(EthernetFrame { payload: EtherPayload::Ip(packet), .. }) = EthernetFrame::parse(&frame) else {
        return frame;
    };
    let (start, len) = (super::headers::place(&frame, packet.payload).start, packet.payload.len());
    let place = match packet.protocol {
        UDP => 6,
        1 | 58 => 2,
        _ => return frame,
    };
    if len < 8 {
        return frame;
    }
    let pseudo = match packet.protocol {
        1 => checksum::Sum::default(),
        protocol => checksum::Sum::default().pseudo(packet.from, packet.to, protocol, len),
    };
    frame[start + place..start + place + 2].fill(0);
    let right = pseudo.add(&frame[start..start + len]).checksum();
    frame[start + place..start + place + 2].copy_from_slice(&right);
    frame
}
