//! Applications that write what they like, wherever they like.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use machnet_channel::{Intent, Region, Words as _};
use proptest::prelude::*;

use super::rig::{App, GEOMETRY, MAX_MESSAGE, Rig, quota};
use crate::channel::tenants::{Account, Ended, Quota};
use crate::{AppChannel as _, Config, Slot};

/// An application that does everything a little, so that its words mean something.
fn busy(rig: &mut Rig) -> (App, App) {
    let (mut server, mut client) = (rig.attach(quota()), rig.attach(quota()));
    let listener = server.listen(9000);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let flow = client.connect(9000);
    client.connect(9001);
    client.listen(9002);
    rig.run(&mut [&mut server, &mut client], |apps| apps[1].is_open(flow) && !apps[0].flows.is_empty());
    for _ in 0..20 {
        client.send(flow, &[7; 700]);
        rig.round(20);
        server.look();
    }
    (server, client)
}

/// Words of the region before the data areas.
fn words() -> usize {
    (GEOMETRY.bytes() - 2 * GEOMETRY.data as usize) / 8
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// Whatever an application writes: the engine goes on, an honest pair loses nothing, and what the liar had is given back.
    #[test]
    fn any_word_may_be_anything(
        lies in prop::collection::vec((0..words(), prop_oneof![any::<u64>(), 0..70_000_u64, Just(u64::MAX)], 0..4_u8, 0..64_u32), 1..60),
        leaves in any::<bool>(),
    ) {
        let mut rig = Rig::new();
        let (mut server, liar) = busy(&mut rig);
        let mut honest = rig.attach(quota());
        let flow = honest.connect(9000);
        let before: Vec<u32> = server.flows.keys().copied().collect();
        rig.run(&mut [&mut server, &mut honest], |apps| apps[1].is_open(flow) && apps[0].flows.len() > before.len());
        let accepted = *server.flows.keys().find(|slot| !before.contains(slot)).unwrap();
        let mut sent = 0;
        for (at, value, how, bit) in lies {
            let word = &liar.memory.words()[at];
            match how {
                0 => word.store(value, Relaxed),
                1 => drop(word.fetch_xor(1 << bit, Relaxed)),
                2 => drop(word.fetch_add(1, Relaxed)),
                _ => drop(word.fetch_add(u64::from(bit), Relaxed)),
            }
            // Every mark, so that it looks.
            for mark in 32..64 {
                liar.memory.words()[mark].store(u64::MAX, Relaxed);
            }
            sent += u64::from(honest.send(flow, &[5; 300]));
            for _ in 0..3 {
                rig.round(30);
                server.look();
                honest.look();
            }
        }
        rig.run(&mut [&mut server, &mut honest], |apps| apps[0].flows[&accepted].messages >= sent);
        prop_assert!(sent > 0);
        prop_assert_eq!(server.flows[&accepted].messages, sent);
        prop_assert!(rig.end_of(&server).is_none() && rig.end_of(&honest).is_none());
        if leaves || rig.end_of(&liar).is_some() {
            rig.gone(&liar);
            for _ in 0..3000 {
                rig.round(1000);
                server.look();
                honest.look();
            }
            prop_assert_eq!(rig.tenants().report().tenants.len(), 2);
        }
    }
}

#[test]
fn who_sends_beyond_his_room_is_ended() {
    let mut rig = Rig::new();
    let (mut server, mut client) = busy(&mut rig);
    server.reads = false;
    let flow = *client.flows.keys().find(|slot| client.is_open(**slot)).unwrap();
    for _ in 0..10_000 {
        let mut from = 0;
        let _ = client.side.put(flow, &[1; 8000], &mut from).unwrap();
        let _ = client.side.publish();
        rig.round(20);
        if rig.end_of(&client).is_some() {
            break;
        }
    }
    assert_eq!(rig.end_of(&client), Some(Ended::Overran { slot: flow }));
    assert!(rig.end_of(&server).is_none());
    let report = rig.tenants().report();
    assert_eq!(report.ended, [("room", 1)]);
}

#[test]
fn memory_is_bounded_by_the_quota_and_comes_back() {
    let mut rig = Rig::new();
    let mut server = rig.attach(quota());
    let listener = server.listen(9000);
    let small = 2 << 20;
    let mut client = rig.attach(Quota { memory: small, ..quota() });
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let flows: Vec<u32> = (0..32).map(|_| client.connect(9000)).collect();
    rig.run(&mut [&mut server, &mut client], |apps| flows.iter().all(|&flow| apps[1].is_open(flow)));
    server.reads = false;
    let (mut sent, mut most) = (0_u64, 0);
    let mut turn = 0;
    for _ in 0..20_000 {
        turn = (turn + 1) % flows.len();
        sent += u64::from(client.send(flows[turn], &[1; 8000]));
        rig.round(20);
        client.look();
        most = most.max(rig.tenants().report().tenants[1].held);
    }
    assert!(most <= small, "{most} bytes held of {small}");
    assert!(sent * 8000 > small, "what was acknowledged makes room: {sent}");
    server.reads = true;
    for known in server.flows.values_mut() {
        known.keep = false;
    }
    rig.run(&mut [&mut server, &mut client], |apps| {
        apps[0].flows.values().map(|known| known.messages).sum::<u64>() == sent
    });
    rig.run(&mut [&mut server, &mut client], |_| true);
    for _ in 0..1000 {
        rig.round(1000);
        server.look();
    }
    assert_eq!(rig.tenants().report().tenants[1].held, 0);
}

/// An application that two engines serve: what it has at one counts at the other, which sleeps for want of memory, and is rung
/// when there is some.
#[test]
fn memory_is_bounded_over_all_engines_and_who_frees_some_rings() {
    let mut rigs = [Rig::new(), Rig::new()];
    let account = Account::new(rigs.iter_mut().map(Rig::bell).collect());
    let small = 1 << 20;
    let mut pairs: Vec<(App, App, Vec<u32>)> = rigs
        .iter_mut()
        .enumerate()
        .map(|(n, rig)| {
            let mut server = rig.attach(quota());
            let listener = server.listen(9000);
            let mut client = rig.attach_as(Quota { memory: small, ..quota() }, Arc::clone(&account), n as u8);
            rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
            let flows: Vec<u32> = (0..if n == 0 { 40 } else { 1 }).map(|_| client.connect(9000)).collect();
            rig.run(&mut [&mut server, &mut client], |apps| flows.iter().all(|&flow| apps[1].is_open(flow)));
            (server, client, flows)
        })
        .collect();
    let [held, wants] = &mut rigs;
    // Nobody reads: the first engine takes what it may hold.
    let (server, client, flows) = &mut pairs[0];
    server.reads = false;
    for turn in 0..20_000 {
        client.send(flows[turn % flows.len()], &[1; 8000]);
        held.round(20);
        client.look();
    }
    let full = held.tenants().report().tenants[1].held;
    assert!((small - 50_000..=small).contains(&full), "{full} of {small}");
    // There is too little for the second.
    let (other, client, flows) = &mut pairs[1];
    assert!(client.send(flows[0], &[2; 60_000]));
    while !wants.engine.may_sleep() {
        wants.round(1000);
        other.look();
        client.look();
    }
    let part = wants.tenants().report().tenants[1].held;
    assert!(part < 60_000 && part + full <= small, "{part} and {full} of {small}");
    let bell = wants.bell();
    bell.arm(std::task::Waker::noop());
    assert!(wants.engine.may_sleep() && bell.rings() == 0);
    // Until the first lets go.
    let (server, client, _) = &mut pairs[0];
    server.reads = true;
    // Its flows stood still for long, and look for room at long intervals.
    for _ in 0..20_000 {
        held.round(1000);
        server.look();
        client.look();
    }
    assert_eq!(bell.rings(), 1);
    assert!(!wants.engine.may_sleep());
    let (other, client, _) = &mut pairs[1];
    wants.run(&mut [other, client], |apps| apps[0].flows.values().any(|known| known.messages == 1));
}

#[test]
fn a_message_as_large_as_may_be_goes_through_the_smallest_pipe_and_quota() {
    let mut rig = Rig::new();
    let mut server = rig.attach(quota());
    let listener = server.listen(9000);
    let mut client = rig.attach(Quota { memory: u64::from(MAX_MESSAGE), ..quota() });
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let flow = client.connect(9000);
    rig.run(&mut [&mut server, &mut client], |apps| apps[1].is_open(flow) && !apps[0].flows.is_empty());
    let message: Vec<u8> = (0..MAX_MESSAGE).map(|i| (i / 7) as u8).collect();
    for round in 1..=3 {
        client.send_all(&mut rig, flow, &message);
        let accepted = server.accepted();
        rig.run(&mut [&mut server, &mut client], |apps| apps[0].flows[&accepted].received.len() == round);
        assert!(server.flows[&accepted].received[round - 1] == message);
    }
    // One byte more cannot be.
    let mut from = 0;
    let mut long = message;
    long.push(0);
    for _ in 0..1000 {
        if client.side.put(flow, &long, &mut from).unwrap() || rig.end_of(&client).is_some() {
            break;
        }
        let _ = client.side.publish();
        rig.round(20);
    }
    let _ = client.side.publish();
    // Who sends much is served in small amounts.
    (0..100).for_each(|_| rig.round(20));
    assert!(matches!(rig.end_of(&client), Some(Ended::Malformed(_))), "{:?}", rig.end_of(&client));
}

#[test]
fn what_was_begun_and_given_up_is_forgotten() {
    let mut rig = Rig::new();
    let (mut server, mut client) = busy(&mut rig);
    let flow = *client.flows.keys().find(|slot| client.is_open(**slot)).unwrap();
    let accepted = server.accepted();
    let other = client.connect(9000);
    rig.run(&mut [&mut server, &mut client], |apps| apps[1].is_open(other));
    // As far as the pipe goes, and then a message of another flow.
    let mut from = 0;
    assert!(!client.side.put(flow, &vec![1; 500_000], &mut from).unwrap() && from > 0);
    let _ = client.side.publish();
    rig.round(20);
    assert!(client.send(other, b"of another") && client.send(flow, b"instead"));
    let is_instead = |message: &Vec<u8>| message == b"instead";
    rig.run(&mut [&mut server, &mut client], |apps| apps[0].flows[&accepted].received.iter().any(is_instead));
    assert!(server.flows[&accepted].received.iter().all(|message| is_instead(message) || message == &vec![7; 700]));
    for flow in [flow, other] {
        client.intend(flow, Intent::ABORT);
    }
    rig.run(&mut [&mut server, &mut client], |apps| {
        [flow, other].iter().all(|flow| apps[1].flows[flow].ended.is_some())
    });
    assert_eq!(rig.tenants().report().tenants[1].held, 0);
}

/// What waits for an application is bounded by its flows' windows, and it gets no more flows while it reads nothing.
#[test]
fn who_does_not_read_gets_no_more_flows() {
    let mut rig = Rig::new();
    let mut server = rig.attach(Quota { memory: u64::from(MAX_MESSAGE), ..quota() });
    let mut client = rig.attach(quota());
    let listener = server.listen(9000);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let flow = client.connect(9000);
    rig.run(&mut [&mut server, &mut client], |apps| apps[1].is_open(flow) && !apps[0].flows.is_empty());
    server.reads = false;
    let mut sent = 0;
    for _ in 0..5000 {
        sent += u64::from(client.send(flow, &[1; 8000]));
        rig.round(20);
        client.look();
    }
    let waiting = rig.tenants().report().tenants[0].waiting;
    let window = u64::from(crate::Config::default().receive_window);
    assert!((u64::from(MAX_MESSAGE)..=window).contains(&waiting), "{waiting}");
    let knocking = client.connect(9000);
    for _ in 0..200 {
        rig.round(1000);
        client.look();
        server.look();
    }
    assert!(!client.is_open(knocking));
    server.reads = true;
    let accepted = server.accepted();
    rig.run(&mut [&mut server, &mut client], |apps| {
        apps[1].is_open(knocking) && apps[0].flows[&accepted].messages == sent
    });
}

/// Of the memory to reassemble in, an application that reads nothing holds a peer's share and what was begun within it. Others go
/// on; and when it reads, so does it.
#[test]
fn who_does_not_read_gets_no_more_buffers() {
    const SHARE: u32 = 256 << 10;
    for (len, delivered) in [(SHARE, 1), (SHARE - 1, 2)] {
        let config = Config { receive_window: 64 << 10, peer_reassembly_bytes: SHARE.into(), ..Config::default() };
        let mut rig = Rig::with(config);
        let [mut deaf, mut keen, mut client] = std::array::from_fn(|_| rig.attach(quota()));
        let listeners = [deaf.listen(9000), keen.listen(9001)];
        rig.run(&mut [&mut deaf, &mut keen], |apps| {
            apps.iter().zip(listeners).all(|(app, listener)| app.listeners.contains_key(&listener))
        });
        let flows: Vec<u32> = (0..8).map(|n| client.connect(if n < 7 { 9000 } else { 9001 })).collect();
        rig.run(&mut [&mut deaf, &mut keen, &mut client], |apps| {
            flows.iter().all(|&flow| apps[2].is_open(flow)) && !apps[1].flows.is_empty()
        });
        deaf.reads = false;
        for &flow in &flows {
            client.send_all(&mut rig, flow, &vec![flow as u8; len as usize]);
        }
        let accepted = keen.accepted();
        rig.run(&mut [&mut deaf, &mut keen, &mut client], |apps| apps[1].flows[&accepted].messages == 1);
        for _ in 0..5000 {
            rig.round(100);
            client.look();
        }
        assert_eq!(rig.tenants().report().tenants[0].waiting, delivered * u64::from(len));
        deaf.reads = true;
        rig.run(&mut [&mut deaf, &mut client], |apps| {
            apps[0].flows.len() == 7 && apps[0].flows.values().all(|flow| flow.messages == 1)
        });
    }
}

/// What waits holds none of the frames that it came in: they are the vNIC's.
#[test]
fn what_waits_is_moved() {
    let mut rig = Rig::new();
    let (mut server, mut client) = (rig.attach(quota()), rig.attach(quota()));
    let listener = server.listen(9000);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let flow = client.connect(9000);
    rig.run(&mut [&mut server, &mut client], |apps| apps[1].is_open(flow) && !apps[0].flows.is_empty());
    let slot = rig.tenants().flows.iter().find(|(_, flow)| flow.tenant == 0).map(|(key, _)| Slot(key as u32)).unwrap();
    let (_, mut pool) = Region::anonymous(2048, 64).unwrap();
    for n in 0..64 {
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap().fill(n);
        rig.tenants().deliver(slot, frame.share(0..2048).into());
    }
    assert!(rig.tenants().report().tenants[0].waiting > 0);
    pool.gather();
    assert_eq!(pool.free(), 64);
    let accepted = server.accepted();
    rig.run(&mut [&mut server, &mut client], |apps| apps[0].flows[&accepted].messages == 64);
    assert!(server.flows[&accepted].received.iter().zip(0..64).all(|(message, n)| message == &vec![n; 2048]));
}
