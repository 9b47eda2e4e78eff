//! A host with several queues: what comes to one and concerns another's engine.

use super::*;
use crate::{MAX_ENGINES, Unreachable};
use machnet_channel::Doorbell;

fn several(n: u8, address: &str, engines: usize) -> Vec<Bench> {
    Bench::several(Port::new(mac(n), 1500), &config(address), engines)
}

#[test]
fn an_answer_that_comes_to_another_queue_lets_go_what_waits() {
    for (x, y, to) in
        [("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000"), ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000")]
    {
        let (mut a, mut b) = (several(1, x, 3), Bench::new(2, &config(y)));
        let bell = Arc::new(Doorbell::default());
        a[1].net.set_bell(Arc::clone(&bell));
        let asked = a[1].send(to, b"waits");
        assert_eq!((asked.len(), a[1].held()), (1, 1));
        b.receive(asked);
        let answer = b.sent();
        assert_eq!(answer.len(), 1);
        assert!(!a[1].net.starve(), "it may sleep");
        assert_eq!(a[0].receive(answer), []);
        assert!(a[1].net.starve() && a[2].net.starve(), "they have something to hear");
        a.iter_mut().for_each(|part| part.begin(Duration::ZERO));
        let sent: Vec<_> = a.iter_mut().map(|part| part.sent().len()).collect();
        assert_eq!((sent, a[1].held()), (vec![0, 1, 0], 0));
        assert!(!a[1].net.starve() && !a[2].net.starve());
        // Who did not ask learnt nothing: an answer is believed by who asked.
        assert!(read(&a[2].send(to, b"asks, too")[0]).to.is_group());
    }
}

#[test]
fn who_asks_is_known_to_all() {
    let (mut a, mut b) = (several(1, "10.0.0.1/24", 2), Bench::new(2, &config("10.0.0.2/24")));
    let asked = b.send("10.0.0.1:9000", b"who are you");
    a[1].receive(asked);
    assert_eq!(a[1].sent().len(), 1, "the answer");
    for part in &mut a {
        part.begin(Duration::ZERO);
        let sent = part.send("10.0.0.2:9000", b"you asked");
        assert!(sent.iter().all(|frame| read(frame).to == mac(2)), "nobody else is asked");
    }
}

#[test]
fn what_was_unreachable_is_told_to_who_sent_it() {
    let (mut a, mut b) = (several(1, "10.0.0.1/24", 2), Bench::new(2, &config("10.0.0.2/24")));
    let asked = b.send("10.0.0.1:9000", b"who are you");
    a[0].receive(asked);
    b.receive(a[0].sent());
    a[1].begin(Duration::ZERO);
    b.sent();
    let frames = a[1].send("10.0.0.2:1", &[7; 100]);
    let datagram = frames.into_iter().find(|frame| frame[12..14] == [8, 0] && frame[23] == 17).unwrap();
    b.receive([datagram]);
    let refusal = b.sent();
    a[0].receive(refusal);
    a[1].begin(Duration::ZERO);
    let remote = "10.0.0.2:1".parse().unwrap();
    for part in &mut a {
        assert_eq!(part.net.unreachable(), Some(Unreachable { remote, quoted: [7; 16] }));
    }
}

#[test]
fn ports_are_of_the_host_and_more_where_they_choose_the_queue() {
    let mut a = several(1, "10.0.0.1/24", 2);
    assert!(a.iter().all(|part| part.net.ports() == (9000, 9000) && part.net.home().port() == 9000));
    let (mut b, port) = (Bench::new(2, &config("10.0.0.2/24")), 5000);
    a[0].net.open(port).unwrap();
    let asked = b.send("10.0.0.1:5000", b"who are you");
    a[1].receive(asked);
    b.receive(a[1].sent());
    let datagram = b.sent();
    assert_eq!(a[1].receive(datagram.clone()).len(), 1, "open at the other, so it is taken here, and handed over");
    a[0].net.close(port);
    a[1].receive(datagram);
    assert_eq!(a[1].dropped(DropReason::ClosedPort), 1);

    let mut port = Port::new(mac(1), 1500);
    port.capabilities.spreads = true;
    for (home, engines, range) in [(9000, 2, (9000, 9007)), (65_535, 3, (65_524, 65_535)), (1, MAX_ENGINES, (1, 256))] {
        let mut config = config("10.0.0.1/24");
        config.port = home;
        for part in
            Bench::several(Port { capabilities: port.capabilities, ..Port::new(mac(1), 1500) }, &config, engines)
        {
            assert_eq!((part.net.ports(), part.net.home().port()), (range, home));
        }
    }
}

#[test]
fn notices_without_room_are_lost_and_counted() {
    let (mut a, mut b) = (several(1, "10.0.0.1/24", 2), Bench::new(2, &config("10.0.0.2/24")));
    let asked = b.send("10.0.0.1:9000", b"who are you");
    for _ in 0..100 {
        a[0].receive(asked.clone());
        a[0].sent();
    }
    assert_eq!(a[0].dropped(DropReason::HandoverFull), 36);
    a[1].begin(Duration::ZERO);
    a[0].receive(asked);
    assert_eq!(a[0].dropped(DropReason::HandoverFull), 36, "there is room again");
}
