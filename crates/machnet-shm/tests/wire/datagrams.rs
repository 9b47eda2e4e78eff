use machnet_core::{Driver, DropReason};
use machnet_shm::Shm;

use crate::node::{Node, content, name, pair, pair_of, payload, until};

#[test]
fn datagrams_of_every_length_both_ways() {
    let (mut hub, mut client) = pair();
    let longest = hub.shm.capabilities().max_payload as usize;
    assert_eq!(client.shm.capabilities(), hub.shm.capabilities());
    let lengths = [0, 1, 7, 8, 63, 64, 65, 1000, 4096, longest - 1, longest];
    for round in 0..100 {
        for (n, len) in lengths.into_iter().enumerate() {
            assert_eq!(hub.send(client.address(), &content(n + round, len)), 1);
            assert_eq!(client.send(hub.address(), &content(n + round, len)), 1);
        }
        for (node, from) in [(&mut client, hub.address()), (&mut hub, "127.0.0.2:49152".parse().unwrap())] {
            node.wait_for(lengths.len());
            assert_eq!(node.received.len(), lengths.len());
            for (n, (packet, len)) in node.received.drain(..).zip(lengths).enumerate() {
                assert_eq!(payload(&packet), content(n + round, len));
                assert_eq!((packet.meta.remote, packet.meta.local), (from, node.shm.home()));
            }
        }
    }
    assert_eq!(hub.shm.free_frames(), 4096);
    assert_eq!((hub.shm.drops().total(), client.shm.drops().total()), (0, 0));
    assert_eq!((hub.shm.stats().rings, client.shm.stats().rings), (0, 0), "nobody slept");
}

/// A wire that is full refuses; a receiver without frames leaves what came where it is; nothing is lost.
#[test]
fn nothing_is_lost_for_lack_of_room_or_frames() {
    let name = name();
    let mut hub = Node::new(Shm::bind(&name).unwrap());
    let mut client = Node::new(Shm::builder().frames(16).connect(&name).unwrap());
    hub.wait_for_wires(1);
    let mut sent = 0;
    while hub.batch.is_empty() {
        hub.send(client.address(), &content(sent, 2000));
        sent += 1;
    }
    assert!(sent > 500, "a mebibyte, and one more, not {sent} datagrams");
    let mut seen = 0;
    while seen < sent {
        until(|| {
            hub.round();
            client.round() > 0 || seen + client.received.len() == sent
        });
        assert!(client.received.len() <= 16);
        for packet in client.received.drain(..) {
            assert_eq!(payload(&packet), content(seen, 2000));
            seen += 1;
        }
    }
    assert_eq!(hub.shm.drops().total() + client.shm.drops().total(), 0);
    assert_eq!((hub.shm.free_frames(), client.shm.free_frames()), (4096, 16));
}

/// Among several, one that does not read has a backlog, and then losses, of its own.
#[test]
fn one_client_that_stands_still_does_not_stop_the_others() {
    let name = name();
    let mut hub = Node::new(Shm::bind(&name).unwrap());
    let still = Node::new(Shm::connect(&name).unwrap());
    let mut other = Node::new(Shm::connect(&name).unwrap());
    hub.wait_for_wires(2);
    for n in 0..3000 {
        assert_eq!(hub.send(still.address(), &content(n, 100)), 1);
    }
    assert_eq!(hub.shm.drops().get(DropReason::Congested), 3000 - 1024 - 256);
    assert_eq!(hub.shm.free_frames(), 4096 - 256);
    for n in 0..100 {
        hub.send(other.address(), &content(n, 100));
    }
    other.wait_for(100);
    let mut still = still;
    until(|| {
        hub.round();
        still.round();
        still.received.len() == 1024 + 256
    });
    for (n, packet) in still.received.drain(..).enumerate() {
        assert_eq!(payload(&packet), content(n, 100));
    }
    assert_eq!(hub.shm.free_frames(), 4096);
}

#[test]
fn what_was_sent_before_the_end_arrives() {
    let (mut hub, mut client) = pair_of(&Shm::builder().frames(64));
    for n in 0..50 {
        client.send(hub.address(), &content(n, 500));
    }
    drop(client);
    // Frames are short, too: it takes several rounds.
    let mut held = Vec::new();
    while hub.shm.free_frames() > 20 {
        held.push(hub.shm.frame().unwrap());
    }
    until(|| {
        hub.round();
        hub.received.len() == 20
    });
    assert_eq!(hub.shm.stats().wires, 1);
    drop(held);
    hub.wait_for(50);
    hub.wait_for_wires(0);
    for (n, packet) in hub.received.drain(..).enumerate() {
        assert_eq!(payload(&packet), content(n, 500));
    }
    assert_eq!((hub.shm.stats().hung_up, hub.shm.stats().broken, hub.shm.free_frames()), (1, 0, 64));
}

#[test]
fn nobody_there_is_reported() {
    let (mut hub, client) = pair();
    let gone = client.address();
    drop(client);
    hub.wait_for_wires(0);
    for to in [gone, "127.0.0.3:9".parse().unwrap(), "10.0.0.1:9".parse().unwrap(), "[::1]:9".parse().unwrap()] {
        let packet = content(1, 100);
        assert_eq!(hub.send(to, &packet), 1);
        let report = hub.shm.unreachable().unwrap();
        assert_eq!((report.remote, &report.quoted[..]), (to, &packet[..16]));
    }
    assert_eq!(hub.shm.drops().get(DropReason::Unsendable), 4);
    assert!(hub.shm.unreachable().is_none());
}

#[test]
fn an_address_is_not_given_again_soon() {
    let name = name();
    let mut hub = Node::new(Shm::builder().clients(2).bind(&name).unwrap());
    let mut seen = Vec::new();
    for _ in 0..50 {
        let client = Shm::connect(&name).unwrap();
        hub.wait_for_wires(1);
        assert!(!seen.contains(&client.home()), "{}", client.home());
        seen.push(client.home());
        drop(client);
        hub.wait_for_wires(0);
    }
}
