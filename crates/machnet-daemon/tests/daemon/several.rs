//! Daemons with several engines, and applications that have a channel to each, or know of one only.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use machnet_channel::shared::Attach;
use machnet_channel::{CloseReason, Words as _};
use rustix::net::{SendFlags, send};
use serde_json::Value;

use crate::client::{Client, attach_all, connected, echo, hear, pair};
use crate::stage::{Stage, until};

fn everywhere(stage: &Stage) -> Vec<Client> {
    attach_all(&stage.socket(), Attach::new("everywhere".to_owned(), 0)).unwrap()
}

/// Listens by all channels of an application.
pub(crate) fn listen_everywhere(servers: &mut [Client], port: u16) -> SocketAddr {
    servers
        .iter_mut()
        .fold(None, |at: Option<SocketAddr>, server| Some(server.listen(at.map_or(port, |at| at.port())).unwrap()))
        .expect("a channel")
}

/// Connects to an application that listens by all channels: by which it accepts, and the slots of the flow.
pub(crate) fn meet(servers: &mut [Client], client: &mut Client, to: SocketAddr) -> (usize, u32, u32) {
    let known: Vec<Vec<u32>> = servers.iter().map(Client::accepted).collect();
    let flow = client.connect(to);
    let mut found = None;
    until(|| {
        client.look();
        servers.iter_mut().for_each(Client::look);
        let fresh = |(at, server): (usize, &Client)| {
            server.accepted().into_iter().find(|slot| !known[at].contains(slot)).map(|slot| (at, slot))
        };
        found = servers.iter().enumerate().find_map(fresh);
        client.is_open(flow) && found.is_some()
    });
    let (at, accepted) = found.expect("an accepted flow");
    (at, accepted, flow)
}

fn flows_at(stat: &Value) -> Vec<u64> {
    stat["engines"].as_array().unwrap().iter().map(|engine| engine["flows"].as_u64().unwrap()).collect()
}

/// One that knows of no features has one channel, to the engine that fewest have; one that asks for two has two.
#[test]
fn as_many_channels_as_are_asked_for() {
    let stage = Stage::of(3);
    assert_eq!(everywhere(&stage).len(), 3);
    for (asked, given) in [(0, 3), (1, 1), (2, 2), (3, 3), (64, 3), (u32::MAX, 3)] {
        let attach = Attach { channels: asked, ..Attach::new("asks".to_owned(), 0) };
        assert_eq!(attach_all(&stage.socket(), attach).unwrap().len(), given, "{asked}");
    }
    let plain: Vec<_> = (0..3).map(|_| Client::attached(&stage.socket())).collect();
    assert!(plain.iter().all(|client| (client.welcome.features, client.welcome.channels) == (0, 1)));
    let single = Stage::new();
    assert_eq!(everywhere(&single).len(), 1);
}

/// Applications of any kind with any other, near, where they are at different engines, and far.
#[test]
fn flows_between_engines_near_and_far() {
    let (here, there) = (Stage::on("udp://127.0.0.1", 2), Stage::of(2));
    let mut servers = everywhere(&here);
    let address = listen_everywhere(&mut servers, 0);
    // Two that have one channel: to one engine each.
    let mut clients = vec![Client::attached(&here.socket()), Client::attached(&here.socket())];
    clients.extend(everywhere(&here));
    clients.extend(everywhere(&there));
    for client in &mut clients {
        for _ in 0..2 {
            let (at, accepted, flow) = meet(&mut servers, client, address);
            echo(&mut servers[at], client, accepted, flow, 30);
        }
    }
    // Near flows are where they began, with both of their ends; of those from afar each engine has the same.
    // The counters are as old as each engine's last quiet moment, and what was sent last may still be acknowledged.
    let stat =
        here.until(|stat| flows_at(stat) == [10, 10] && stat["engine"]["handed_over"] == stat["engine"]["taken_over"]);
    let near = stat["applications"].as_array().unwrap().iter().filter(|app| app["name"] == "everywhere");
    assert_eq!(near.map(|app| app["flows"].as_u64().unwrap()).collect::<Vec<_>>(), [12, 4]);

    // One that listens at the first engine only is reached from all of them.
    let mut lone = vec![Client::attached(&here.socket())];
    let address = listen_everywhere(&mut lone, 0);
    for client in &mut clients {
        let (_, accepted, flow) = meet(&mut lone, client, address);
        echo(&mut lone[0], client, accepted, flow, 30);
    }
    assert!(here.stat()["engine"]["handed_over"].as_u64() > Some(30));
}

#[test]
fn quotas_count_at_all_engines_together() {
    let stage = Stage::with(|settings| {
        settings.engines = 2;
        settings.allow[0].quota.flows = 3;
        settings.allow[0].quota.listeners = 2;
    });
    let (mut servers, mut other) = (everywhere(&stage), everywhere(&stage));
    let address = listen_everywhere(&mut servers, 0);
    // A port counts once, wherever it is listened on.
    listen_everywhere(&mut servers, 0);
    for server in &mut servers {
        assert_eq!(server.listen(0).unwrap_err().kind(), ErrorKind::QuotaExceeded);
    }
    let mut opened = Vec::new();
    for n in 0..3 {
        opened.push(meet(&mut servers, &mut other[n % 2], address));
    }
    for client in &mut other {
        let flow = client.connect(address);
        until(|| {
            client.look();
            client.flows[&flow].ended.is_some()
        });
        assert_eq!(client.state(flow).reason(), Some(CloseReason::NoRoom));
    }
    assert_eq!(stage.stat()["applications"][1]["refused"], 2);
    // A port is one application's at all engines, and free as soon as that is gone.
    for client in &mut other {
        assert_eq!(client.listen(address.port()).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
    drop(servers);
    stage.until(|stat| stat["applications"].as_array().unwrap().len() == 1);
    assert_eq!(listen_everywhere(&mut other, address.port()), address);
}

/// What an application has sent and nobody has acknowledged counts at both engines; and all of it arrives.
#[test]
fn what_is_held_for_an_application_counts_over_all_engines() {
    let (here, there) = (Stage::with(|settings| settings.engines = 2), Stage::of(1));
    let mut servers = everywhere(&there);
    let address = listen_everywhere(&mut servers, 0);
    let mut clients = everywhere(&here);
    let flows: Vec<_> = clients.iter_mut().map(|client| meet(&mut servers, client, address)).collect();
    let message = [5; 8000];
    // As much as the receiver, who does not look, takes, and then as much as the daemon holds for the application.
    let mut sent = [0; 2];
    for _ in 0..200_000 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.look();
            sent[n] += u64::from(client.send(flows[n].2, &message));
        }
    }
    let held = here.stat()["applications"][0]["held_bytes"].as_u64().unwrap();
    assert!(held <= (8 << 20) + (16 << 10), "{held} B are more than the quota");
    // All of it arrives.
    until(|| {
        clients.iter_mut().for_each(Client::look);
        servers[0].look();
        (0..2).all(|n| servers[0].flows[&flows[n].1].messages == sent[n])
    });
}

/// One channel with a word that cannot be: none of the application's is served any more, and its neighbours are.
#[test]
fn a_bad_word_in_one_channel_ends_all() {
    let stage = Stage::of(2);
    let (mut server, mut client, accepted, flow) = pair(&stage.socket());
    for bad in 0..2 {
        let mut liars = everywhere(&stage);
        listen_everywhere(&mut liars, 7000 + bad as u16);
        let words = liars[bad].memory.words();
        // Claims of every flow, of a generation that nobody opened; and marks.
        let flows = 64 + 2 * 16;
        words[32..flows].iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        words[flows..4096].iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        let _ = send(&liars[bad].line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        for liar in &liars {
            // Rings, and then the end.
            while !hear(&liar.line).0.is_empty() {}
        }
        let stat = stage.until(|stat| stat["applications"].as_array().unwrap().len() == 2);
        let ended: u64 = stat["ended"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(ended, bad as u64 + 1, "{stat}");
        // Its ports are free.
        drop(liars);
        server.listen(7000 + bad as u16).unwrap();
    }
    echo(&mut server, &mut client, accepted, flow, 20);
}

/// Who leaves and comes back finds its port free, at all engines, as soon as it is let in.
#[test]
fn a_port_is_free_for_who_comes_after_its_owner_left() {
    let stage = Stage::of(2);
    let mut servers = everywhere(&stage);
    let address = listen_everywhere(&mut servers, 0);
    for _ in 0..300 {
        drop(servers);
        servers = everywhere(&stage);
        assert_eq!(listen_everywhere(&mut servers, address.port()), address);
    }
}

/// A channel that the application gives up by itself ends alone.
#[test]
fn a_channel_that_is_given_up_ends_alone() {
    let stage = Stage::of(2);
    let mut servers = everywhere(&stage);
    let address = listen_everywhere(&mut servers, 0);
    let mut clients = everywhere(&stage);
    let taken = stage.stat()["memory"]["taken"].as_u64();
    drop(clients.remove(0));
    let (at, accepted, flow) = meet(&mut servers, &mut clients[0], address);
    echo(&mut servers[at], &mut clients[0], accepted, flow, 10);
    let stat = stage.stat();
    assert_eq!(stat["applications"].as_array().unwrap().len(), 2);
    assert_eq!(stat["memory"]["taken"].as_u64(), taken, "it is given back with the last");
    drop(clients);
    stage.until(|stat| stat["applications"].as_array().unwrap().len() == 1 && stat["ended"]["gone"] == 1);
    drop(connected(&stage.socket()));
}

#[test]
fn a_driver_of_one_queue_is_not_divided() {
    let url = format!("shm://daemon-several-{}", std::process::id());
    let settings = |engines| {
        let mut settings = machnet_daemon::Settings::new("/tmp/never.sock", vec![crate::stage::small()]);
        settings.engine.receive_window = 128 << 10;
        settings.engines = engines;
        settings.socket = std::env::temp_dir().join(format!("never-{}.sock", std::process::id()));
        settings
    };
    let open = |engines| {
        machnet_daemon::Daemon::open(machnet_daemon::Config::new(url.parse().unwrap(), settings(engines))).unwrap_err()
    };
    assert_eq!(open(2).kind(), ErrorKind::Unsupported);
    for engines in [0, 65] {
        let error = open(engines);
        assert!(error.to_string().contains(&format!("{engines} engines: there may be 1 to 64")), "{error}");
    }
}
