//! A client that attached in order and then writes what it likes, while the hub serves an honest one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use machnet_channel::Words;
use machnet_core::{Driver, DropReason};
use machnet_shm::Shm;
use rustix::fs::{FallocateFlags, fallocate};

use crate::node::{Node, content, name, payload, until};
use crate::raw::{RawClient, say};

const LAYOUT: crate::raw::Layout = RawClient::LAYOUT;

/// A hub with an honest client, and the name to attack.
fn hub_with_client() -> (Node, Node, String) {
    let name = name();
    let mut hub = Node::new(Shm::bind(&name).unwrap());
    let client = Node::new(Shm::connect(&name).unwrap());
    hub.wait_for_wires(1);
    (hub, client, name)
}

/// The honest client is served as ever.
fn serve(hub: &mut Node, client: &mut Node) {
    hub.received.clear();
    client.received.clear();
    for n in 0..10 {
        client.send(hub.address(), &content(n, 3000));
        hub.send(client.address(), &content(n, 3000));
    }
    let honest = client.address();
    until(|| {
        hub.round();
        client.round();
        hub.received.retain(|packet| packet.meta.remote == honest);
        hub.received.len() == 10 && client.received.len() == 10
    });
    for node in [hub, client] {
        for (n, packet) in node.received.drain(..).enumerate() {
            assert_eq!(payload(&packet), content(n, 3000));
        }
    }
}

#[test]
fn impossible_indices_and_descriptors_end_the_wire() {
    let (mut hub, mut client, name) = hub_with_client();
    let attacks: [&[(usize, u64)]; 7] = [
        // More produced than there is room for; less than before.
        &[(LAYOUT.up, 1025)],
        &[(LAYOUT.up, u64::MAX)],
        // Too long; not inside the data area.
        &[(LAYOUT.up + LAYOUT.descriptors, 0xffff), (LAYOUT.up, 1)],
        &[(LAYOUT.up + LAYOUT.descriptors, 16_641), (LAYOUT.up, 1)],
        &[(LAYOUT.up + LAYOUT.descriptors, 65 | 0x3fff << 16), (LAYOUT.up, 1)],
        &[(LAYOUT.up + LAYOUT.descriptors, 1 | 0x4000 << 16), (LAYOUT.up, 1)],
        // A good one before a bad one.
        &[(LAYOUT.up + LAYOUT.descriptors, 100), (LAYOUT.up + LAYOUT.descriptors + 1, u64::MAX), (LAYOUT.up, 2)],
    ];
    for (n, attack) in attacks.into_iter().enumerate() {
        let attacker = RawClient::attach(&name);
        hub.wait_for_wires(2);
        for &(word, value) in attack {
            attacker.write(word, value);
        }
        hub.wait_for_wires(1);
        assert_eq!(hub.shm.stats().broken, n as u64 + 1);
        assert_eq!(hub.shm.drops().get(DropReason::Malformed), n as u64 + 1);
        assert!(crate::raw::hear(&attacker.socket).is_empty(), "closed");
        serve(&mut hub, &mut client);
    }
    assert_eq!(hub.shm.free_frames(), 4096);
}

#[test]
fn an_impossible_consumer_ends_the_wire() {
    let (mut hub, mut client, name) = hub_with_client();
    let attacker = RawClient::attach(&name);
    hub.wait_for_wires(2);
    let to = "127.0.0.3:9".parse().unwrap();
    attacker.write(LAYOUT.down + LAYOUT.consumed, 5000);
    // Only a sender that needs room looks.
    until(|| {
        hub.send(to, &content(0, 16_000));
        hub.shm.drops().get(DropReason::Unsendable) > 0
    });
    hub.wait_for_wires(1);
    assert_eq!(hub.shm.stats().broken, 1);
    serve(&mut hub, &mut client);
    assert_eq!(hub.shm.free_frames(), 4096);
}

/// Replays descriptors, writes into datagrams that are being read, and never consumes: its own affair.
#[test]
fn what_is_possible_is_delivered_whatever_it_is() {
    let (mut hub, mut client, name) = hub_with_client();
    let attacker = RawClient::attach(&name);
    hub.wait_for_wires(2);
    for produced in 1..5000 {
        attacker.write(LAYOUT.up + LAYOUT.descriptors + (produced as usize - 1) % 1024, 1000 | 5 << 16);
        attacker.write(LAYOUT.up, produced);
        attacker.write(LAYOUT.down + 32, 1); // it sleeps, always
        hub.round();
        hub.received.clear();
    }
    serve(&mut hub, &mut client);
    assert_eq!((hub.shm.stats().broken, hub.shm.stats().wires), (0, 2));
}

/// Every word of the region, over and over, with anything, while the hub sends and receives.
#[test]
fn a_scribbler_harms_itself_alone() {
    let (mut hub, mut client, name) = hub_with_client();
    let done = Arc::new(AtomicBool::new(false));
    for seed in 1..=40_u64 {
        let attacker = RawClient::attach(&name);
        hub.wait_for_wires(2);
        let before = hub.shm.stats();
        done.store(false, Relaxed);
        let scribbler = {
            let (region, done) = (Arc::clone(&attacker.region), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut state = seed;
                let mut random = || {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    state >> 17
                };
                while !done.load(Relaxed) {
                    // Indices and flags most of the time: the rest is data.
                    let span = if random() % 4 == 0 { LAYOUT.words } else { LAYOUT.up + 64 };
                    let value = match random() % 3 {
                        0 => random() % 8,
                        1 => random() % 2048,
                        _ => random().wrapping_mul(random()),
                    };
                    region.words()[random() as usize % span].store(value, Relaxed);
                }
            })
        };
        let target = attacker_address(seed);
        let mut rounds = 0;
        while hub.shm.stats().broken == before.broken && rounds < 20_000 {
            if hub.shm.free_frames() > 1000 {
                hub.send(target, &content(rounds, 5000));
            }
            if rounds % 16 == 0 {
                hub.shm.starve();
            }
            hub.round();
            hub.received.clear();
            rounds += 1;
        }
        serve(&mut hub, &mut client);
        done.store(true, Relaxed);
        scribbler.join().unwrap();
        drop(attacker);
        hub.wait_for_wires(1);
    }
    let stats = hub.shm.stats();
    assert_eq!(stats.broken + stats.hung_up, 40);
    assert!(stats.broken > 0, "no scribbling was noticed: {stats:?}");
    hub.received.clear();
    assert_eq!(hub.shm.free_frames(), 4096, "every frame came home");
}

/// The address of the `n`-th attacker: slots are given in turn, and the honest client has the first.
fn attacker_address(n: u64) -> std::net::SocketAddr {
    let (slot, generation) = (2 + (n - 1) % 63, (n - 1) / 63);
    format!("127.{generation}.0.{}:9", slot + 1).parse().unwrap()
}

#[test]
fn holes_in_the_memory_read_as_zeros() {
    let (mut hub, mut client, name) = hub_with_client();
    let attacker = RawClient::attach(&name);
    hub.wait_for_wires(2);
    assert!(rustix::fs::ftruncate(&attacker.fd, 0).is_err(), "sealed");
    for _ in 0..100 {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&attacker.fd, hole, 0, 8 * LAYOUT.words as u64).unwrap();
        hub.send("127.0.0.3:9".parse().unwrap(), &content(0, 5000));
        hub.round();
        serve(&mut hub, &mut client);
    }
}

/// More bells than the hub hears at once, for ever: it goes on, and does not block.
#[test]
fn bells_without_end() {
    let (mut hub, mut client, name) = hub_with_client();
    let attacker = RawClient::attach(&name);
    hub.wait_for_wires(2);
    let done = Arc::new(AtomicBool::new(false));
    let ringer = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            while !done.load(Relaxed) {
                say(&attacker.socket, &[1; 100], &[]);
            }
        })
    };
    for _ in 0..200 {
        hub.shm.starve();
        serve(&mut hub, &mut client);
    }
    done.store(true, Relaxed);
    until(|| {
        hub.shm.starve();
        hub.round();
        hub.shm.stats().wires == 1
    });
    ringer.join().unwrap();
    assert_eq!(hub.shm.stats().hung_up, 1);
}
