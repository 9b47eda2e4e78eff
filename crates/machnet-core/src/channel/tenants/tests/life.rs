//! Coming, talking, going.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use machnet_channel::{CloseReason, FlowState, Intent};

use super::rig::{App, GEOMETRY, Rig, quota};
use crate::channel::tenants::{Account, Claims, Ended, Ports, Quota};
use crate::{AppChannel as _, Config, EngineStats};

/// Two applications of one daemon, the first listening at 9000 and the second connected to it.
fn connected(rig: &mut Rig) -> (App, App, u32, u32) {
    let (mut server, mut client) = (rig.attach(quota()), rig.attach(quota()));
    let listener = server.listen(9000);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let flow = client.connect(9000);
    rig.run(&mut [&mut server, &mut client], |apps| apps[1].is_open(flow) && !apps[0].flows.is_empty());
    let accepted = server.accepted();
    (server, client, accepted, flow)
}

/// Whether the engine is awake, sleeps, or is about to.
#[test]
fn who_asks_whether_the_engine_is_there_is_answered() {
    let mut rig = Rig::new();
    let (mut server, mut client, ..) = connected(&mut rig);
    assert_eq!(client.side.is_answered(), Some(true), "nothing was asked");
    client.side.ask();
    let _ = client.side.publish();
    assert_eq!(client.side.is_answered(), Some(false));
    (0..64).for_each(|_| rig.round(20));
    assert_eq!(client.side.is_answered(), Some(true));
    let stats = EngineStats::from_words(&client.side.counters().unwrap());
    assert_eq!((stats.flows, stats.packets_lost), (2, 0));
    assert!(stats.rounds > 64 && stats.packets_sent > 0, "{stats:?}");
    let sleeps = |rig: &mut Rig, server: &mut App, client: &mut App| {
        while !rig.engine.may_sleep() {
            rig.round(1000);
            server.look();
            client.look();
        }
    };
    sleeps(&mut rig, &mut server, &mut client);
    client.side.ask();
    assert!(client.side.publish(), "it is rung");
    rig.round(20);
    assert_eq!(client.side.is_answered(), Some(true));
    // Asked behind its last look.
    sleeps(&mut rig, &mut server, &mut client);
    client.side.ask();
    assert!(!rig.engine.may_sleep());
    rig.round(20);
    assert_eq!(client.side.is_answered(), Some(true));
    assert!(rig.engine.may_sleep());
}

#[test]
fn two_applications_of_one_daemon_talk_without_the_nic() {
    let mut rig = Rig::new();
    let (mut server, mut client, accepted, flow) = connected(&mut rig);
    let messages: Vec<Vec<u8>> =
        [0, 1, 64, 300, 2000, 8192, 8193, 40_000].iter().map(|&len| vec![len as u8 ^ 0x5a; len]).collect();
    for message in &messages {
        client.send_all(&mut rig, flow, message);
        server.send_all(&mut rig, accepted, message);
    }
    let count = messages.len();
    rig.run(&mut [&mut server, &mut client], |apps| {
        apps[0].flows[&accepted].received.len() == count && apps[1].flows[&flow].received.len() == count
    });
    assert_eq!(server.flows[&accepted].received, messages);
    assert_eq!(client.flows[&flow].received, messages);
    assert_eq!(client.flows[&flow].view.unwrap().max_message, super::rig::MAX_MESSAGE);
    // An end in order, of both directions.
    client.intend(flow, Intent::FIN);
    server.intend(accepted, Intent::FIN);
    rig.run(&mut [&mut server, &mut client], |apps| {
        apps[0].flows[&accepted].ended.is_some() && apps[1].flows[&flow].ended.is_some()
    });
    for state in [server.state(accepted), client.state(flow)] {
        assert_eq!(state.reason(), Some(CloseReason::Finished), "{state:?}");
    }
    let report = rig.tenants().report();
    assert!(report.tenants.iter().all(|tenant| tenant.flows == 0 && tenant.held == 0 && tenant.waiting == 0));
}

#[test]
fn the_end_of_a_stream_comes_after_what_was_sent_before_it() {
    let mut rig = Rig::new();
    let (mut server, mut client, accepted, flow) = connected(&mut rig);
    server.reads = false;
    let mut sent = 0;
    for _ in 0..40 {
        sent += u64::from(client.send(flow, &[1; 8000]));
        rig.round(20);
    }
    client.intend(flow, Intent::FIN);
    // More than the pipe holds: the rest waits in the daemon, and so does what the end says.
    for _ in 0..2000 {
        rig.round(20);
        server.look();
    }
    assert!(sent > u64::from(GEOMETRY.data) / 8000, "{sent}");
    assert!(rig.tenants().report().tenants[0].waiting > 0);
    let view = server.flows[&accepted].view.unwrap();
    assert!(view.state.has(FlowState::READ_ENDED) && view.delivered == sent);
    server.reads = true;
    rig.run(&mut [&mut server, &mut client], |apps| apps[0].flows[&accepted].messages == sent);
}

#[test]
fn who_goes_takes_along_what_was_his_and_nothing_else() {
    let mut rig = Rig::new();
    let (mut server, mut client, accepted, flow) = connected(&mut rig);
    let mut other = rig.attach(quota());
    let quiet = other.connect(9000);
    rig.run(&mut [&mut server, &mut client, &mut other], |apps| apps[2].is_open(quiet));
    assert!(client.send(flow, &[1; 5000]));
    rig.gone(&client);
    rig.run(&mut [&mut server, &mut other], |apps| apps[0].flows[&accepted].ended.is_some());
    assert_eq!(server.state(accepted).reason(), Some(CloseReason::Reset));
    assert!(other.is_open(quiet));
    // The server goes: its port is another's at once.
    let open = rig.engine.driver().driver().open.clone();
    assert!(open.contains_key(&9000));
    rig.gone(&server);
    rig.round(1);
    let listener = other.listen(9000);
    rig.run(&mut [&mut other], |apps| apps[0].listeners.contains_key(&listener));
    assert_eq!(other.listeners[&listener].as_ref().unwrap().port(), 9000);
    rig.run(&mut [&mut other], |apps| apps[0].flows[&quiet].ended.is_some());
    rig.gone(&other);
    for _ in 0..5000 {
        rig.round(1000);
    }
    assert!(rig.tenants().report().tenants.is_empty());
    assert!(rig.engine.driver().driver().open.is_empty(), "every port was closed");
    assert_eq!(rig.engine.stats().flows, 0);
    let ended = &rig.tenants().gate().dismissed;
    assert!(ended.len() == 3 && ended.iter().all(|(_, why)| *why == Ended::Gone));
}

#[test]
fn ten_thousand_applications_come_and_are_killed() {
    let mut rig = Rig::new();
    let mut server = rig.attach(quota());
    let listener = server.listen(9000);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    for round in 0..10_000_u64 {
        let mut app = rig.attach(quota());
        if round % 3 > 0 {
            let flow = app.connect(9000);
            let rounds = round % 7;
            for _ in 0..rounds {
                rig.round(20);
                app.look();
                server.look();
            }
            if app.is_open(flow) {
                app.send(flow, &[3; 100]);
            }
        }
        if round % 5 == 0 {
            app.listen(1000 + (round % 1000) as u16);
        }
        rig.gone(&app);
        rig.round(20);
        server.look();
    }
    for _ in 0..5000 {
        rig.round(1000);
        server.look();
    }
    let report = rig.tenants().report();
    assert_eq!((report.tenants.len(), report.tenants[0].flows), (1, 0));
    assert_eq!(rig.engine.stats().flows, 0);
    assert_eq!(rig.engine.driver().driver().open.keys().copied().collect::<Vec<_>>(), [9000]);
}

#[test]
fn quotas_and_permissions_hold_at_their_edge() {
    let mut rig = Rig::new();
    let mut server = rig.attach(quota());
    let listener = server.listen(9000);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let mut app = rig.attach(Quota { flows: 3, listeners: 2, ports: Ports::new(vec![7000..=7002]), ..quota() });
    let flows: Vec<u32> = (0..4).map(|_| app.connect(9000)).collect();
    rig.run(&mut [&mut server, &mut app], |apps| {
        flows.iter().all(|&flow| apps[1].is_open(flow) || apps[1].flows[&flow].ended.is_some())
    });
    let refused: Vec<_> = flows.iter().map(|&flow| app.state(flow).reason()).collect();
    assert_eq!(refused, [None, None, None, Some(CloseReason::NoRoom)]);
    let listeners: Vec<u32> = [7000, 80, 7001, 7002].map(|port| app.listen(port)).to_vec();
    rig.run(&mut [&mut server, &mut app], |apps| apps[1].listeners.len() == 4);
    let text = |slot: u32| app.listeners[&slot].as_ref().map_err(ToString::to_string).copied();
    assert!(text(listeners[0]).is_ok() && text(listeners[2]).is_ok());
    let error = text(listeners[1]).unwrap_err();
    assert!(error.contains("does not let this application listen on port 80, only on: 7000-7002"), "{error}");
    assert!(text(listeners[3]).unwrap_err().contains("2 listeners"));
    // What was refused is dropped, and so is a listener: there is room for another, and its slots are free.
    for slot in [listeners[0], listeners[1], listeners[3]] {
        assert!(!app.side.unlisten(slot));
    }
    let _ = app.side.publish();
    rig.run(&mut [&mut server, &mut app], |apps| apps[1].listeners.len() == 1);
    let again = app.listen(7002);
    rig.run(&mut [&mut server, &mut app], |apps| apps[1].listeners.contains_key(&again));
    assert!(app.listeners[&again].is_ok());
    // A flow that ends makes room for another, accepted ones included.
    let mut peer = rig.attach(quota());
    let knocking = peer.connect(7001);
    for _ in 0..100 {
        rig.round(1000);
        peer.look();
        app.look();
    }
    assert!(!peer.is_open(knocking), "the quota of flows is used up");
    app.intend(flows[0], Intent::ABORT);
    rig.run(&mut [&mut server, &mut app, &mut peer], |apps| apps[2].is_open(knocking));
    let refused = rig.tenants().report().tenants[1].counters.refused;
    assert_eq!(refused, 3);
}

#[test]
fn a_port_of_another_application_is_in_use() {
    let mut rig = Rig::new();
    let (mut server, mut other) = (rig.attach(quota()), rig.attach(quota()));
    let listener = server.listen(9000);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let taken = other.listen(9000);
    rig.run(&mut [&mut server, &mut other], |apps| apps[1].listeners.contains_key(&taken));
    let error = other.listeners[&taken].as_ref().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("another application of the daemon listens on port 9000"), "{error}");
    assert!(!server.side.unlisten(listener));
    let _ = server.side.publish();
    assert!(!other.side.unlisten(taken));
    let _ = other.side.publish();
    rig.run(&mut [&mut server, &mut other], |apps| apps[0].listeners.is_empty() && apps[1].listeners.is_empty());
    let again = other.listen(9000);
    rig.run(&mut [&mut server, &mut other], |apps| apps[1].listeners.contains_key(&again));
    assert!(other.listeners[&again].is_ok());
}

/// At another engine, in the moment in which this one chose it. One of its own is one port, and counts once.
#[test]
fn a_free_port_that_was_taken_meanwhile_is_refused_and_closed() {
    const OTHER: u64 = 77;
    let (claims, account) = (Arc::new(Claims::default()), Account::new(Vec::new()));
    let mut rig = Rig::one_of(Config::default(), 256, Arc::clone(&claims));
    let mut app = rig.attach_as(Quota { ports: Ports::new(vec![0..=u16::MAX]), ..quota() }, Arc::clone(&account), 0);
    let listen = |app: &mut App, rig: &mut Rig| {
        let listener = app.listen(0);
        rig.run(&mut [app], |apps| apps[0].listeners.contains_key(&listener));
        let opened = app.listeners[&listener].as_ref().map(SocketAddr::port).map_err(io::Error::kind);
        (listener, opened)
    };
    // The rig's driver gives the first that is free there.
    let next = listen(&mut app, &mut rig).1.unwrap() + 1;
    assert_eq!(claims.claim(next, OTHER), Some(true));
    let (refused, opened) = listen(&mut app, &mut rig);
    assert_eq!(opened, Err(io::ErrorKind::AddrInUse));
    assert!(!app.side.unlisten(refused));
    let _ = app.side.publish();
    rig.run(&mut [&mut app], |apps| !apps[0].listeners.contains_key(&refused));
    assert_eq!(account.listeners.get(), 1);
    assert!(claims.give_up(next, OTHER), "it is still the other's");
    // Now it is the application's own, as if by another engine, which is not in the account here.
    assert_eq!(claims.claim(next, app.id), Some(true));
    assert_eq!(listen(&mut app, &mut rig).1, Ok(next));
    assert_eq!(account.listeners.get(), 1);
}

/// Also what it had not looked at yet. (Whether the peer reads it is the peer's business: here it ends at the same time.)
#[test]
fn a_daemon_that_ends_takes_what_was_sent_before() {
    let mut rig = Rig::new();
    let (mut server, mut client, _, flow) = connected(&mut rig);
    let mut sent = 0;
    while client.send(flow, &[9; 3000]) {
        sent += 1;
    }
    rig.tenants().gate_mut().closing = true;
    rig.round(20);
    assert!(sent > 10 && rig.tenants().report().tenants[1].counters.messages_taken == sent, "{sent}");
    for _ in 0..200_000 {
        if rig.engine.is_finished() {
            break;
        }
        // It keeps nobody from ending that an application goes on.
        client.send(flow, &[9; 3000]);
        client.connect(9000);
        rig.round(100);
        server.look();
        client.look();
    }
    assert!(rig.engine.is_finished());
}

#[test]
fn who_sleeps_is_rung_once_and_who_is_awake_never() {
    let mut rig = Rig::new();
    let (mut server, mut client, accepted, flow) = connected(&mut rig);
    let rings = |rig: &mut Rig| rig.tenants().gate().rings.values().sum::<u64>();
    for _ in 0..100 {
        assert!(client.send(flow, b"ping"));
        rig.run(&mut [&mut server, &mut client], |apps| {
            apps[0].flows[&accepted].messages == apps[1].flows[&flow].messages + 1
        });
        assert!(server.send(accepted, b"pong"));
        rig.run(&mut [&mut server, &mut client], |apps| {
            apps[0].flows[&accepted].messages == apps[1].flows[&flow].messages
        });
    }
    assert_eq!(rings(&mut rig), 0, "both sides were awake");
    // The daemon sleeps: whoever sends is to ring it.
    for _ in 0..100 {
        rig.round(1000);
        server.look();
        client.look();
    }
    assert!(rig.engine.may_sleep() && !rig.engine.channel().has_work());
    let mut from = 0;
    assert!(client.side.put(flow, b"wake up", &mut from).unwrap());
    assert!(client.side.publish(), "the daemon wants to be rung");
    assert!(rig.engine.channel().has_work() && !rig.engine.may_sleep());
    // The server sleeps: one ring, however much comes.
    assert!(server.side.arm(false) && !server.side.has_work(false));
    for _ in 0..200 {
        rig.round(20);
        client.look();
        client.send(flow, b"more");
    }
    assert_eq!(rings(&mut rig), 1);
}

/// Nothing carries shorter packets than the driver between two applications of one engine: their flows need not look for it.
#[test]
fn flows_within_the_host_begin_with_the_longest_packets() {
    let mut rig = Rig::new();
    let (mut server, mut client, _, flow) = connected(&mut rig);
    let idle = |rig: &mut Rig, apps: &mut [&mut App; 2]| {
        for _ in 0..200 {
            rig.round(20);
            apps.iter_mut().for_each(|app| app.look());
        }
        rig.engine.stats().packets_sent
    };
    let mut apps = [&mut server, &mut client];
    let before = idle(&mut rig, &mut apps);
    // Longer than what every path carries: in one packet, and one acknowledgement.
    assert!(apps[1].send(flow, &[7; 1350]));
    assert_eq!(idle(&mut rig, &mut apps) - before, 2);
}
