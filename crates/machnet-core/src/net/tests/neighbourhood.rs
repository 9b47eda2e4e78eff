//! Who is asked, who is answered, and who is believed.

use super::*;
use crate::net::neighbours::{REACHABLE, RETRANS, UNUSED};

const SECOND: Duration = Duration::from_secs(1);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// ARP or neighbour discovery from host `n`.
fn say(n: u8, to_mac: MacAddr, asks: bool, sender: &str, to: &str, target: &str) -> Vec<u8> {
    let mut frame = vec![0; 100];
    let macs = Macs { to: to_mac, from: mac(n) };
    let len = write_neighbour(&mut frame, macs, asks, address(sender), address(to), address(target));
    frame.truncate(len);
    frame
}

fn arp(frame: &[u8]) -> messages::NeighbourMessage {
    match read(frame).payload {
        EtherPayload::Arp(message) => parse_arp(message).unwrap(),
        EtherPayload::Ip(_) => panic!("IP instead of ARP"),
    }
}

#[test]
fn a_first_datagram_waits_for_the_answer() {
    for (x, y, to) in [
        ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000"),
        ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000"),
        ("fe80::1/64", "fe80::2/64", "[fe80::2]:9000"),
    ] {
        let (mut a, mut b) = (Bench::new(1, &config(x)), Bench::new(2, &config(y)));
        let mut batch: VecDeque<_> = (0..3u8).map(|n| a.packet(to, &[n; 10])).collect();
        assert_eq!(a.net.tx_burst(&mut batch), 3);
        let asked = a.sent();
        assert_eq!((asked.len(), a.held()), (1, 3), "one question, and three frames wait");
        assert!(read(&asked[0]).to.is_group() && asked[0].len() >= 60);
        assert_eq!(b.receive(asked), []);
        let answer = b.sent();
        assert_eq!((answer.len(), read(&answer[0]).to), (1, mac(1)));
        assert_eq!(a.receive(answer), []);
        let got = b.receive(a.sent());
        assert_eq!(got.iter().map(|(_, payload)| payload[0]).collect::<Vec<_>>(), [0, 1, 2]);
        // Who asked is known, for he will want an answer: no question back, but a check of what he said.
        let back = b.send(&a.net.home().to_string(), b"back");
        assert_eq!(back.iter().map(|frame| read(frame).to).collect::<Vec<_>>(), [mac(1), mac(1)]);
        assert_eq!(a.receive(back).len(), 1);
        exchange(&mut a, &mut b);
        assert_eq!((a.held(), b.held(), a.net.drops().total(), b.net.drops().total()), (0, 0, 0, 0));
    }
}

#[test]
fn nobody_answers_and_the_datagrams_are_dropped_and_counted() {
    let mut a = Bench::new(1, &config("10.0.0.1/24"));
    for _ in 0..20 {
        a.send("10.0.0.2:9000", b"waits");
    }
    assert_eq!((a.held(), a.dropped(DropReason::NoNeighbour)), (16, 4), "the oldest make room");
    let mut questions = 0;
    while let Some(deadline) = a.net.next_deadline().filter(|_| a.held() > 0) {
        assert!(deadline > a.now);
        a.begin(deadline.since(a.now));
        questions += a.sent().len();
    }
    assert_eq!((questions, a.held(), a.dropped(DropReason::NoNeighbour)), (2, 0, 20));
    assert_eq!(a.send("10.0.0.2:9000", b"at once").len(), 0);
    assert_eq!((a.held(), a.dropped(DropReason::NoNeighbour)), (0, 21));
}

#[test]
fn beyond_the_link_the_gateway_is_asked() {
    let mut far = config("10.128.0.5/32");
    far.gateway_v4 = Some([10, 128, 0, 1].into());
    let mut a = Bench::new(5, &far);
    for to in ["10.128.0.6:9000", "8.8.8.8:9000"] {
        a.send(to, b"through the gateway");
    }
    a.begin(SECOND);
    let asked = a.sent().pop().unwrap();
    assert_eq!(
        (arp(&asked).target, arp(&asked).sender),
        (address("10.128.0.1"), Some((address("10.128.0.5"), mac(5))))
    );
    a.receive([say(1, mac(5), false, "10.128.0.1", "10.128.0.5", "10.128.0.5")]);
    let sent = a.sent();
    let ways: Vec<_> = sent.iter().map(|frame| (read(frame).to, ip(frame).to)).collect();
    assert_eq!(ways, [(mac(1), address("10.128.0.6")), (mac(1), address("8.8.8.8"))]);
}

#[test]
fn questions_for_us_are_answered_and_no_others() {
    let mut b = Bench::new(2, &config("10.0.0.2/24"));
    b.receive([say(1, MacAddr::BROADCAST, true, "10.0.0.1", "10.0.0.2", "10.0.0.2")]);
    let answer = arp(&b.sent()[0]);
    assert_eq!(
        (answer.asks, answer.sender, answer.target),
        (false, Some((address("10.0.0.2"), mac(2))), address("10.0.0.1"))
    );
    b.receive([say(1, MacAddr::BROADCAST, true, "10.0.0.1", "10.0.0.3", "10.0.0.3")]);
    assert_eq!((b.sent().len(), b.dropped(DropReason::WrongAddress)), (0, 1));
    // Who looks whether the address is taken (RFC 5227) hears that it is, and is not remembered.
    b.receive([say(7, MacAddr::BROADCAST, true, "0.0.0.0", "10.0.0.2", "10.0.0.2")]);
    assert_eq!(arp(&b.sent()[0]).sender, Some((address("10.0.0.2"), mac(2))));
    // Who says that he has our address is not believed.
    b.receive([say(7, mac(2), false, "10.0.0.2", "10.0.0.2", "10.0.0.2")]);
    assert_eq!((b.sent().len(), b.dropped(DropReason::BadSource)), (0, 1));
    // Nor who says that he is at our Ethernet address: what we sent him would come back to us.
    let mut ours = say(7, MacAddr::BROADCAST, true, "10.0.0.7", "10.0.0.2", "10.0.0.2");
    ours[22..28].copy_from_slice(&mac(2).0);
    b.receive([ours]);
    assert_eq!((b.sent().len(), b.dropped(DropReason::BadSource)), (0, 2));
}

#[test]
fn duplicate_address_detection_is_answered_to_everybody() {
    let mut b = Bench::new(2, &config("2001:db8::2/64"));
    b.receive([say(
        7,
        MacAddr::of_multicast("ff02::1:ff00:2".parse().unwrap()),
        true,
        "::",
        "ff02::1:ff00:2",
        "2001:db8::2",
    )]);
    let answer = b.sent().pop().unwrap();
    assert_eq!((read(&answer).to.to_string(), ip(&answer).to), ("33:33:00:00:00:01".to_owned(), address("ff02::1")));
}

/// Who asks one host only may leave out where he is (RFC 4861 §4.3): the frame says it.
#[test]
fn a_terse_question_is_answered_to_the_frame_s_source() {
    let mut b = Bench::new(2, &config("2001:db8::2/64"));
    let mut frame = say(1, mac(2), true, "2001:db8::1", "2001:db8::2", "2001:db8::2");
    frame.truncate(14 + 40 + 24);
    frame[18..20].copy_from_slice(&24u16.to_be_bytes());
    frame[56..58].fill(0);
    let (from, to) = (address("2001:db8::1"), address("2001:db8::2"));
    let sum = checksum::Sum::default().pseudo(from, to, 58, 24).add(&frame[54..]).checksum();
    frame[56..58].copy_from_slice(&sum);
    b.receive([frame]);
    let answer = b.sent().pop().unwrap();
    assert_eq!((read(&answer).to, ip(&answer).to), (mac(1), from));
}

#[test]
fn neighbour_discovery_never_comes_through_a_router() {
    let mut b = Bench::new(2, &config("2001:db8::2/64"));
    let mut frame = say(1, mac(2), true, "2001:db8::1", "2001:db8::2", "2001:db8::2");
    frame[21] = 254;
    b.receive([frame]);
    assert_eq!((b.sent().len(), b.dropped(DropReason::Malformed)), (0, 1));
}

#[test]
fn an_unasked_answer_changes_nothing_and_makes_us_ask() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    a.receive([say(66, mac(1), false, "10.0.0.2", "10.0.0.1", "10.0.0.1")]);
    let check = a.sent();
    assert_eq!((check.len(), read(&check[0]).to), (1, mac(2)), "who is known is asked");
    assert_eq!(read(&a.send("10.0.0.2:9000", b"still there")[0]).to, mac(2));
    b.receive(check);
    exchange(&mut a, &mut b);
    a.begin(SECOND * 10);
    assert_eq!((a.sent().len(), read(&a.send("10.0.0.2:9000", b"still there")[0]).to), (0, mac(2)));
}

#[test]
fn a_neighbour_that_moved_is_found() {
    let (mut a, _) = pair("10.0.0.1/24", "10.0.0.2/24");
    let moved = || say(3, MacAddr::BROADCAST, false, "10.0.0.2", "10.0.0.2", "10.0.0.2");
    a.receive([moved()]);
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.extend(a.sent().iter().map(|frame| read(frame).to));
        a.begin(RETRANS);
    }
    asked.extend(a.sent().iter().map(|frame| read(frame).to));
    assert_eq!(asked[..4], [mac(2), mac(2), mac(2), MacAddr::BROADCAST]);
    a.send("10.0.0.2:9000", b"waits");
    a.receive([moved()]);
    assert_eq!(a.sent().iter().map(|frame| read(frame).to).collect::<Vec<_>>(), [mac(3)]);
}

/// Another machine has the address, and waits to be spoken to.
#[test]
fn a_neighbour_that_was_replaced_is_found_when_it_does_not_answer() {
    for (x, y, to) in
        [("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000"), ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000")]
    {
        let (mut a, _) = pair(x, y);
        let mut other = Bench::new(3, &config(y));
        let host = to.parse::<SocketAddr>().unwrap().ip();
        a.begin(RETRANS);
        let mut seconds = 0;
        loop {
            // As an engine does whose packets are not acknowledged.
            a.net.doubt(host);
            let frames = a.send(to, b"is anybody there");
            assert_eq!(a.receive(std::iter::empty()), []);
            let got = other.receive(frames);
            a.receive(other.sent());
            if !got.is_empty() {
                break;
            }
            a.begin(RETRANS);
            seconds += 1;
            assert!(seconds < 10, "{:?}", a.net);
        }
        assert!(seconds <= 4, "{seconds} s");
    }
    // And a gateway, of whoever is behind it.
    let mut far = config("10.128.0.5/32");
    far.gateway_v4 = Some([10, 128, 0, 1].into());
    let mut a = Bench::new(5, &far);
    a.send("8.8.8.8:9000", b"through the gateway");
    a.receive([say(1, mac(5), false, "10.128.0.1", "10.128.0.5", "10.128.0.5")]);
    a.sent();
    a.begin(RETRANS);
    a.net.doubt(address("8.8.8.8"));
    let asked = a.sent();
    assert_eq!((asked.len(), read(&asked[0]).to, arp(&asked[0]).target), (1, mac(1), address("10.128.0.1")));
}

#[test]
fn who_is_in_use_is_refreshed_without_a_pause_and_who_is_not_is_forgotten() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let mut questions = 0;
    for _ in 0..200 {
        a.begin(SECOND);
        b.begin(SECOND);
        let frames = a.send("10.0.0.2:9000", b"on");
        assert!(frames.iter().any(|frame| matches!(read(frame).payload, EtherPayload::Ip(_))), "never waits");
        questions += frames.len() - 1;
        b.net.device.arrived.extend(frames);
        b.drain();
        exchange(&mut a, &mut b);
    }
    assert!((5..=7).contains(&questions), "every 30 s: {questions}");
    a.begin(REACHABLE + SECOND);
    a.begin(UNUSED + SECOND);
    a.begin(SECOND);
    assert_eq!(a.net.next_deadline(), None, "an idle host does nothing");
    a.send("10.0.0.2:9000", b"again");
    assert_eq!(a.held(), 1);
}

/// A full device gets questions and answers later, and nobody waits for ever.
#[test]
fn answers_wait_for_a_full_device_and_are_bounded() {
    let mut b = Bench::new(2, &config("10.0.0.2/24"));
    b.net.device.room = 0;
    let question = || say(1, MacAddr::BROADCAST, true, "10.0.0.1", "10.0.0.2", "10.0.0.2");
    for _ in 0..FRAMES + 10 {
        b.receive([question()]);
    }
    assert!(b.net.control.len() <= MAX_CONTROL && b.net.drops().total() > 0);
    let deadline = b.net.next_deadline().unwrap();
    assert!(deadline <= b.now + CONTROL_RETRY);
    b.net.device.room = usize::MAX;
    b.begin(CONTROL_RETRY);
    assert!(!b.sent().is_empty() && b.held() == 0);
}
