//! Applications that do as they should.

use std::time::Duration;

use machnet_channel::{CloseReason, Intent};
use machnet_daemon::Settings;

use crate::client::{Client, echo, pair};
use crate::stage::{Stage, until};

#[test]
fn two_applications_of_one_daemon_and_of_two() {
    let (here, there) = (Stage::new(), Stage::new());
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

#[test]
fn a_daemon_that_is_stopped_sends_what_it_was_given_and_leaves_nothing() {
    let (here, there) = (Stage::new(), Stage::new());
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
    daemon.join().unwrap();
    assert!(!socket.exists());
    until(|| {
        server.look();
        server.accepted().first().is_some_and(|accepted| server.flows[accepted].messages == sent)
    });
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
    drop(applications);
}
