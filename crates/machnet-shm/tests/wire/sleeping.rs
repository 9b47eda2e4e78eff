use machnet_core::Driver;
use machnet_shm::Shm;

use crate::node::{Node, content, name, pair, until};

#[test]
fn a_sleeper_is_rung_once() {
    let (mut hub, mut client) = pair();
    for round in 1..=20 {
        assert!(!hub.shm.starve(), "nothing to do");
        assert!(!hub.is_readable());
        for n in 0..10 {
            client.send(hub.address(), &content(n, 10));
        }
        assert_eq!(client.shm.stats().rings, round);
        assert!(hub.is_readable());
        hub.received.clear();
        hub.wait_for(10);
        assert!(!hub.is_readable(), "the bell was heard");
    }
    assert!(!hub.shm.starve());
    hub.round();
    client.send(hub.address(), &content(0, 10));
    assert_eq!(client.shm.stats().rings, 20, "it is awake again");
}

#[test]
fn what_came_before_going_to_sleep_is_seen() {
    let (mut hub, mut client) = pair();
    client.send(hub.address(), &content(0, 10));
    assert!(hub.shm.starve());
    assert_eq!(hub.round(), 1);
    assert!(!hub.shm.starve());
}

/// Blocked for room, it is not kept awake, and is rung when the other side has made some.
#[test]
fn a_sender_sleeps_until_there_is_room() {
    let (mut hub, mut client) = pair();
    while client.batch.is_empty() {
        client.send(hub.address(), &content(0, 5000));
    }
    assert!(!client.shm.starve() && !client.is_readable());
    assert!(hub.round() > 0);
    assert_eq!(hub.shm.stats().rings, 1);
    assert!(client.is_readable());
    client.round();
    assert!(client.batch.is_empty() && !client.is_readable());

    // As above, but the room was made before it went to sleep.
    while client.batch.is_empty() {
        client.send(hub.address(), &content(0, 5000));
    }
    hub.received.clear();
    hub.round();
    assert!(client.shm.starve());
}

/// So does one of a hub's several wires.
#[test]
fn a_backlog_sleeps_until_there_is_room() {
    let name = name();
    let mut hub = Node::new(Shm::bind(&name).unwrap());
    let mut slow = Node::new(Shm::connect(&name).unwrap());
    let _other = Node::new(Shm::connect(&name).unwrap());
    hub.wait_for_wires(2);
    for n in 0..1100 {
        hub.send(slow.address(), &content(n, 10));
    }
    assert!(!hub.shm.starve() && !hub.is_readable());
    assert_eq!(slow.round(), 256);
    assert!(hub.is_readable());
    hub.round();
    slow.wait_for(1100);
}

/// Datagrams that no frame is free for do not keep the engine awake; the frame that comes home does.
#[test]
fn without_frames_it_sleeps() {
    let name = name();
    let mut hub = Node::new(Shm::builder().frames(4).bind(&name).unwrap());
    let mut client = Node::new(Shm::connect(&name).unwrap());
    hub.wait_for_wires(1);
    for n in 0..10 {
        client.send(hub.address(), &content(n, 10));
    }
    until(|| hub.round() == 0);
    assert_eq!(hub.received.len(), 4);
    assert!(!hub.shm.starve() && !hub.is_readable());
    hub.received.clear();
    assert!(hub.shm.starve());
    assert_eq!(hub.round(), 4);
}

#[test]
fn a_client_that_comes_or_goes_wakes_the_hub() {
    let name = name();
    let mut hub = Node::new(Shm::bind(&name).unwrap());
    assert!(!hub.shm.starve() && !hub.is_readable());
    let client = Shm::connect(&name).unwrap();
    until(|| hub.is_readable() && hub.shm.starve());
    hub.wait_for_wires(1);
    assert!(!hub.shm.starve() && !hub.is_readable());
    drop(client);
    assert!(hub.is_readable());
    hub.round();
    hub.wait_for_wires(0);
    assert!(!hub.shm.starve() && !hub.is_readable(), "an end is noticed once");
}

/// Also while what it left behind waits for frames.
#[test]
fn an_end_that_waits_for_frames_lets_the_hub_sleep() {
    let name = name();
    let mut hub = Node::new(Shm::builder().frames(4).bind(&name).unwrap());
    let mut client = Node::new(Shm::connect(&name).unwrap());
    hub.wait_for_wires(1);
    for n in 0..10 {
        client.send(hub.address(), &content(n, 10));
    }
    drop(client);
    until(|| {
        hub.round();
        hub.received.len() == 4 && !hub.is_readable()
    });
    assert!(!hub.shm.starve() && !hub.is_readable());
}
