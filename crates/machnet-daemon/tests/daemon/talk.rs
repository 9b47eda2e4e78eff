//! Applications that do as they should.

use std::time::Duration;

use machnet_channel::{CloseReason, Intent};
use machnet_daemon::Settings;

use crate::client::{Client, echo, pair};
use crate::stage::{PATIENCE, Stage, until};

#[test]
fn two_applications_of_one_daemon_and_of_two() {
    let (here, there) = (Stage::of(2), Stage::new());
    let (mut server, mut client, accepted, flow) = pair(&here.socket());
    echo(&mut server, &mut client, accepted, flow, 300);
    let mut far = Client::attached(&there.socket());
    let address = *server.listeners.values().next().unwrap().as_ref().unwrap();
    let over = far.connect(address);
    until(|| {
        server.look();
        far.look();
        far.is_open(over) && server.accepted().len() == 2
    });
    let accepted_far = server.accepted().into_iter().find(|slot| *slot != accepted).unwrap();
    echo(&mut server, &mut far, accepted_far, over, 300);
    let stat = here.stat();
    let applications = stat["applications"].as_array().unwrap();
    assert_eq!(applications.len(), 2);
    assert_eq!(applications[0]["messages_received"], 600);
    assert_eq!(applications[0]["some_flows"].as_array().unwrap().len(), 2);
    assert_eq!(applications[0]["pid"], std::process::id());
    assert!(applications[0]["some_flows"][0]["rtt_ns"].as_u64().unwrap() > 0);
    // An end in order, through both daemons.
    far.intend(over, Intent::FIN);
    server.intend(accepted_far, Intent::FIN);
    until(|| {
        server.look();
        far.look();
        far.flows[&over].ended.is_some() && server.flows[&accepted_far].ended.is_some()
    });
    assert_eq!(far.state(over).reason(), Some(CloseReason::Finished));
}

/// Drivers as `machnet daemon` opens them: applications of one daemon talk without the vNIC, those of two over it.
#[test]
fn over_shared_memory_and_over_all_addresses() {
    let name = format!("shm://daemon-{}", std::process::id());
    for ([first, second], engines) in [
        ([&*name, &*name], 1),
        (["udp://0.0.0.0", "udp://127.0.0.1"], 1),
        (["udp://[::]", "udp://[::1]"], 1),
        (["udp://0.0.0.0", "udp://127.0.0.1"], 4),
    ] {
        let (here, there) = (Stage::on(first, engines), Stage::on(second, engines));
        let (mut server, mut near, mut far) =
            (Client::attached(&here.socket()), Client::attached(&here.socket()), Client::attached(&there.socket()));
        let mut address = server.listen(0).unwrap();
        if address.ip().is_unspecified() {
            address.set_ip(there.daemon.home().ip());
        }
        for (client, through_the_nic) in [(&mut near, false), (&mut far, true)] {
            let known = server.accepted();
            let flow = client.connect(address);
            until(|| {
                server.look();
                client.look();
                client.is_open(flow) && server.accepted().len() > known.len()
            });
            let accepted = server.accepted().into_iter().find(|slot| !known.contains(slot)).unwrap();
            echo(&mut server, client, accepted, flow, 50);
            let over_there = there.stat()["engine"]["packets_received"].as_u64().unwrap();
            assert_eq!(over_there > 0, through_the_nic, "{first}");
        }
        // A port that nobody listens on is refused, near and far.
        address.set_port(1);
        for client in [&mut near, &mut far] {
            let flow = client.connect(address);
            until(|| {
                client.look();
                client.flows[&flow].ended.is_some()
            });
            assert_eq!(client.state(flow).reason(), Some(CloseReason::Refused), "{first}");
        }
    }
}

#[test]
fn a_daemon_that_is_stopped_sends_what_it_was_given_and_leaves_nothing() {
    // As long as the other one may stand still.
    let here = Stage::with(|settings| settings.engine.linger = PATIENCE);
    let there = Stage::new();
    let mut server = Client::attached(&there.socket());
    let address = server.listen(0).unwrap();
    let mut client = Client::attached(&here.socket());
    let flow = client.connect(address);
    until(|| {
        server.look();
        client.look();
        client.is_open(flow)
    });
    let mut sent = 0;
    while sent < 500 && client.send(flow, &[7; 1000]) {
        sent += 1;
    }
    let socket = here.socket();
    let Stage { daemon, .. } = here;
    daemon.stop();
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| daemon.join());
        // Read meanwhile: it may have been more than is taken of who does not read.
        until(|| {
            server.look();
            server.accepted().first().is_some_and(|accepted| server.flows[accepted].messages == sent)
        });
        ended.join().unwrap().unwrap();
    });
    assert!(!socket.exists());
    assert!(crate::client::hear(&client.line).0.len() <= 1, "a ring, or the end");
}

#[test]
fn an_idle_daemon_sleeps_whoever_is_attached() {
    let stage = Stage::with(|settings: &mut Settings| settings.applications = 40);
    let applications: Vec<Client> = (0..32).map(|_| Client::attached(&stage.socket())).collect();
    stage.until(|stat| stat["applications"].as_array().unwrap().len() == 32);
    // Rounds are few if it sleeps: it counts a sleep for each time that it woke.
    std::thread::sleep(Duration::from_millis(300));
    let before = stage.daemon.sleeps();
    std::thread::sleep(Duration::from_millis(500));
    let sleeps = stage.daemon.sleeps() - before;
    assert!(sleeps < 50, "it woke {sleeps} times for nothing");
    // And it did sleep, not spin: woken, it goes to sleep once more.
    let asleep = stage.daemon.sleeps();
    rustix::net::send(&applications[0].line, &[1], rustix::net::SendFlags::NOSIGNAL).unwrap();
    until(|| stage.daemon.sleeps() > asleep);
    drop(applications);
}
