//! What a host answers, and what it does not listen to.

use super::*;
use crate::net::messages::IcmpMessage;

/// A ping to `b`, made of a datagram frame from `a`.
fn ping(a: &mut Bench, to: &str, len: usize) -> Vec<u8> {
    let frame = a.send(to, &vec![0x42; len]).pop().unwrap();
    let is_v4 = !to.starts_with('[');
    let start = if is_v4 { 34 } else { 54 };
    let end = start + 8 + len;
    altered(&frame, |frame| {
        frame[if is_v4 { 23 } else { 20 }] = if is_v4 { 1 } else { 58 };
        frame[start..start + 8].copy_from_slice(&[if is_v4 { 8 } else { 128 }, 0, 0, 0, 0x12, 0x34, 0, 1]);
        let sum = checksum::Sum::default();
        let from = |at: usize| -> IpAddr { <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into() };
        let sum = if is_v4 { sum } else { sum.pseudo(from(22), from(38), 58, 8 + len) };
        let sum = sum.add(&frame[start..end]).checksum();
        frame[start + 2..start + 4].copy_from_slice(&sum);
    })
}

#[test]
fn pings_are_answered_and_limited() {
    for (x, y, to) in
        [("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000"), ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000")]
    {
        let mut limited = config(y);
        limited.answers_per_second = 20;
        let (mut a, mut b) = (Bench::new(1, &config(x)), Bench::new(2, &limited));
        meet(&mut a, &mut b);
        for len in [0, 56, 1400] {
            let request = ping(&mut a, to, len);
            b.begin(Duration::from_secs(1));
            b.receive([request.clone()]);
            let reply = b.sent().pop().expect("a reply");
            let (asked, said) = (ip(&request), ip(&reply));
            assert_eq!((said.from, said.to, read(&reply).to), (asked.to, asked.from, mac(1)));
            assert!(matches!(said.payload[0], 0 | 129) && said.payload[4..] == asked.payload[4..]);
            assert!(parse_icmp(&said).is_ok(), "the checksum is right");
        }
        let request = ping(&mut a, to, 56);
        b.begin(Duration::from_secs(1));
        b.receive(vec![request.clone(); 10]);
        assert_eq!((b.sent().len(), b.dropped(DropReason::AnswerLimited)), (2, 8), "a tenth of a second's at once");
        let wrong = altered(&request, |frame| frame[70] ^= 1);
        b.begin(Duration::from_secs(1));
        b.receive([wrong]);
        assert_eq!((b.sent().len(), b.dropped(DropReason::Checksum), b.held()), (0, 1, 0));
    }
}

#[test]
fn who_has_no_gateway_reaches_its_own_networks_only() {
    let reaches = |config: &NetConfig, to: &str| Bench::new(1, config).net.reaches(to.parse().unwrap());
    let mut host = config("10.0.0.1/24");
    for (to, is_there) in
        [("10.0.0.1", true), ("10.0.0.2", true), ("10.0.1.2", false), ("10.0.0.255", false), ("2001:db8::2", false)]
    {
        assert_eq!(reaches(&host, to), is_there, "{to}");
    }
    host.gateway_v4 = Some([10, 0, 0, 254].into());
    assert!(reaches(&host, "10.0.1.2") && !reaches(&host, "224.0.0.1") && !reaches(&host, "2001:db8::2"));
    host.gateway_v6 = Some("fe80::1".parse().unwrap());
    assert!(!reaches(&host, "2001:db8::2"), "it has no address to speak from");
}

#[test]
fn a_closed_port_is_said_and_heard() {
    for (x, y, to) in
        [("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:1"), ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:1")]
    {
        let (mut a, mut b) = pair(x, y);
        let payload: Vec<u8> = (0..1232).map(|n| n as u8).collect();
        let frames = a.send(to, &payload);
        b.receive(frames);
        assert_eq!(b.dropped(DropReason::ClosedPort), 1);
        let said = b.sent();
        assert!(said[0].len() <= 14 + 576);
        assert_eq!(a.receive(said.clone()), []);
        let refused = a.net.unreachable().expect("refused");
        assert_eq!((refused.remote, &refused.quoted[..]), (to.parse().unwrap(), &payload[..16]));
        assert_eq!(a.net.unreachable(), None);
        // Of a port that we do not have open: forged.
        a.net.close(9000);
        a.receive(said.clone());
        assert_eq!((a.net.unreachable(), a.dropped(DropReason::ClosedPort)), (None, 1));
        // Too short to say anything.
        a.net.open(9000).unwrap();
        let frames = a.send(to, b"short");
        b.receive(frames);
        let said = b.sent();
        a.receive(said);
        assert_eq!(a.net.unreachable(), None);
        for _ in 0..2 * MAX_UNREACHABLE {
            let frames = a.send(to, &payload);
            b.receive(frames);
            let said = b.sent();
            b.begin(Duration::from_millis(1));
            a.receive(said);
        }
        assert_eq!(a.net.unreachable.len(), MAX_UNREACHABLE);
    }
}

#[test]
fn closed_ports_are_silent_where_the_kernel_answers() {
    let mut silent = config("10.0.0.2/24");
    silent.answer_closed_ports = false;
    let (mut a, mut b) = (Bench::new(1, &config("10.0.0.1/24")), Bench::new(2, &silent));
    meet(&mut a, &mut b);
    let frames = a.send("10.0.0.2:1", &[0; 100]);
    b.receive(frames);
    assert_eq!((b.sent().len(), b.dropped(DropReason::ClosedPort)), (0, 1));
}

#[test]
fn what_is_not_for_us_is_dropped_and_counted() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let good = a.send("10.0.0.2:9000", &[1; 100]).pop().unwrap();
    let vlan = [&good[..12], &[0x81, 0, 0, 7], &good[12..]].concat();
    let cases: &[(DropReason, Vec<u8>)] = &[
        (DropReason::WrongMac, altered(&good, |frame| frame[5] = 9)),
        (DropReason::WrongMac, altered(&good, |frame| frame[..6].fill(0xff))),
        (DropReason::BadSource, altered(&good, |frame| frame[6] |= 1)),
        (DropReason::BadSource, altered(&good, |frame| frame[11] = 2)),
        (DropReason::Vlan, vlan),
        (DropReason::UnknownProtocol, altered(&good, |frame| frame[12..14].copy_from_slice(&[0x88, 0xcc]))),
        (DropReason::UnknownProtocol, altered(&good, |frame| frame[23] = 6)),
        (DropReason::UnknownProtocol, altered(&good, |frame| frame[23] = 58)),
        (DropReason::WrongAddress, altered(&good, |frame| frame[33] = 3)),
        (DropReason::WrongAddress, altered(&good, |frame| frame[33] = 255)),
        (DropReason::BadSource, altered(&good, |frame| frame[26..30].copy_from_slice(&[10, 0, 0, 255]))),
        (DropReason::BadSource, altered(&good, |frame| frame[26..30].copy_from_slice(&[127, 0, 0, 1]))),
        (DropReason::BadSource, altered(&good, |frame| frame[26..30].copy_from_slice(&[10, 0, 0, 2]))),
        (DropReason::Fragment, altered(&good, |frame| frame[20] = 0x20)),
        (DropReason::Fragment, altered(&good, |frame| frame[21] = 1)),
        (DropReason::Malformed, altered(&good, |frame| frame[14] = 0x65)),
        (DropReason::Malformed, altered(&good, |frame| frame[14] = 0x44)),
        (DropReason::Malformed, altered(&good, |frame| frame[16..18].copy_from_slice(&[0, 19]))),
        (DropReason::Truncated, altered(&good, |frame| frame[16..18].copy_from_slice(&[0, 129]))),
        (DropReason::Malformed, altered(&good, |frame| frame[38..40].copy_from_slice(&[0, 7]))),
        (DropReason::Truncated, altered(&good, |frame| frame[38..40].copy_from_slice(&[0, 109]))),
        (DropReason::Truncated, good[..13].to_vec()),
        (DropReason::Truncated, good[..33].to_vec()),
        (DropReason::Truncated, Vec::new()),
    ];
    for (i, (reason, frame)) in cases.iter().enumerate() {
        let before = b.dropped(*reason);
        assert_eq!(b.receive([frame.clone()]), [], "case {i}");
        assert_eq!(b.dropped(*reason), before + 1, "case {i}: {:?}", b.net.drops());
    }
    assert_eq!((b.net.drops().total(), b.held(), b.sent().len()), (cases.len() as u64, 0, 0));
    assert_eq!(b.receive([good]).len(), 1);
}

#[test]
fn of_ipv6_too() {
    let (mut a, mut b) = pair("2001:db8::1/64", "2001:db8::2/64");
    let good = a.send("[2001:db8::2]:9000", &[1; 100]).pop().unwrap();
    let cases: &[(DropReason, Vec<u8>)] = &[
        (DropReason::Fragment, altered(&good, |frame| frame[20] = 44)),
        (DropReason::UnknownProtocol, altered(&good, |frame| frame[20] = 0)),
        (DropReason::UnknownProtocol, altered(&good, |frame| frame[20] = 1)),
        (DropReason::Malformed, altered(&good, |frame| frame[14] = 0x40)),
        (DropReason::WrongAddress, altered(&good, |frame| frame[53] = 3)),
        (DropReason::BadSource, altered(&good, |frame| frame[22] = 0xff)),
        (DropReason::Truncated, altered(&good, |frame| frame[18] = 1)),
    ];
    for (i, (reason, frame)) in cases.iter().enumerate() {
        let before = b.dropped(*reason);
        assert_eq!(b.receive([frame.clone()]), [], "case {i}");
        assert_eq!(b.dropped(*reason), before + 1, "case {i}: {:?}", b.net.drops());
    }
    assert_eq!(b.held(), 0);
}

/// IPv4 options are nothing to us, and are skipped.
#[test]
fn options_are_skipped() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let good = a.send("10.0.0.2:9000", &[1; 100]).pop().unwrap();
    let longer = [&good[..34], &[1, 1, 1, 0], &good[34..]].concat();
    let longer = altered(&longer, |frame| {
        frame[14] = 0x46;
        frame[16..18].copy_from_slice(&132u16.to_be_bytes());
    });
    assert_eq!(b.receive([longer]).pop().unwrap().1, [1; 100]);
}

/// Much noise does not keep the engine, nor what is behind it from coming.
#[test]
fn noise_is_bounded_in_each_burst() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let good = a.send("10.0.0.2:9000", &[1; 100]).pop().unwrap();
    let noise = altered(&good, |frame| frame[5] = 9);
    b.net.device.arrived.extend(std::iter::repeat_n(noise, 100));
    b.net.device.arrived.push_back(good);
    let mut out = Vec::new();
    assert_eq!(b.net.rx_burst(&mut out, 8), 0);
    assert_eq!(b.net.device.arrived.len(), 101 - 32);
    for _ in 0..3 {
        b.net.rx_burst(&mut out, 8);
    }
    assert_eq!(out.len(), 1);
}

#[test]
fn icmp_that_is_a_hint_changes_nothing() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let frames = a.send("10.0.0.2:1", &[0; 100]);
    b.receive(frames);
    let said = b.sent().pop().unwrap();
    for (kind, code) in [(3, 4), (3, 1), (11, 0), (5, 0)] {
        let other = altered(&said, |frame| {
            frame[34..38].copy_from_slice(&[kind, code, 0, 0]);
            let sum = checksum::Sum::default().add(&frame[34..]).checksum();
            frame[36..38].copy_from_slice(&sum);
        });
        assert!(matches!(parse_icmp(&ip(&other)), Ok(IcmpMessage::Other)));
        a.receive([other]);
    }
    assert_eq!((a.net.unreachable(), a.net.drops().total()), (None, 0));
}
