//! Opening a flow: how long it takes, and every way it can fail.

use std::time::Duration;

use machnet_channel::CloseReason;
use machnet_core::Instant;
use machnet_sim::{Ethernet, Flow, Link, Plan, Verdict, WorldConfig};

use crate::common::{
    Dialog, PORT, Pair, Seen, TOMBSTONES, config, ip, listen, micros, millis, nic, pair, read, seconds, world_config,
};

/// Connects A to `port` of B; how long it took and what came of it.
fn connect(pair: &mut Pair, port: u16) -> (Duration, Result<Flow, CloseReason>) {
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(port));
    let task = pair.world.spawn("connect", async move {
        let start = node.now();
        let result = node.connect(to).await;
        (node.now().since(start), result)
    });
    pair.world.wait(&task, seconds(30)).unwrap()
}

/// Drops the first packet on a link that `test` finds.
fn drop_first(
    test: impl Fn(&Seen) -> bool + Send + 'static,
) -> impl FnMut(&machnet_sim::Sighting<'_>) -> Verdict + Send {
    let mut done = false;
    move |seen| {
        if !done && test(&read(seen.payload)) {
            done = true;
            return Verdict::Drop;
        }
        Verdict::Pass
    }
}

#[test]
fn connect_takes_one_round_trip() {
    let mut pair = pair(1, &Link::with_delay(micros(50)));
    let _listener = pair.listen();
    pair.world.run_for(millis(1)).unwrap();
    let (took, flow) = connect(&mut pair, PORT);
    // Three rounds: INIT goes out, ACCEPT goes out, ACCEPT comes in. The first may find its engine in a round.
    let exactly = micros(2 * 50) + 3 * WorldConfig::default().poll_cost;
    assert_eq!(took, exactly);
    drop(flow.unwrap());
    drop(_listener);
    pair.world.settle(seconds(15)).unwrap();
}

#[test]
fn both_sides_know_the_addresses() {
    let mut pair = pair(2, &Link::default());
    let (a, b) = pair.open();
    let (home, service) = (pair.world.node(pair.a).home(), pair.world.node(pair.b).at(PORT));
    assert_eq!((a.send.mailbox().local(), a.send.mailbox().peer()), (Some(home), service));
    assert_eq!((b.send.mailbox().local(), b.send.mailbox().peer()), (Some(service), home));
    drop((a, b));
    pair.world.settle(seconds(15)).unwrap();
}

#[test]
fn an_open_port_without_listener_refuses_by_reset() {
    let mut pair = pair(3, &Link::with_delay(micros(50)));
    let home = pair.world.node(pair.b).home().port();
    let (took, result) = connect(&mut pair, home);
    assert_eq!(result.unwrap_err(), CloseReason::Refused);
    assert!(took < micros(110), "{took:?}");
    pair.world.settle(TOMBSTONES).unwrap();
}

#[test]
fn a_closed_port_refuses_by_icmp() {
    let mut pair = pair(4, &Link::with_delay(micros(50)));
    pair.world.fabric().answer_unreachable(pair.world.host(pair.b), true);
    let (took, result) = connect(&mut pair, 9);
    assert_eq!(result.unwrap_err(), CloseReason::Refused);
    assert!(took < micros(110), "{took:?}");
    pair.world.settle(TOMBSTONES).unwrap();
}

#[test]
fn a_silent_port_times_out_at_the_limit() {
    for limit in [config().connect_timeout, millis(200)] {
        let nic = nic();
        let mut config = config();
        config.connect_timeout = limit;
        let mut pair = Pair::with(5, &Link::default(), [nic, nic], [config; 2], WorldConfig::default());
        let (took, result) = connect(&mut pair, 9);
        assert_eq!(result.unwrap_err(), CloseReason::ConnectTimeout);
        assert!(took >= limit && took < limit + millis(1), "{took:?}");
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

#[test]
fn a_black_hole_times_out_at_the_limit() {
    let mut pair = pair(6, &Link::black_hole());
    let _listener = pair.listen();
    let (took, result) = connect(&mut pair, PORT);
    assert_eq!(result.unwrap_err(), CloseReason::ConnectTimeout);
    let limit = config().connect_timeout;
    assert!(took >= limit && took < limit + millis(1), "{took:?}");
    // 10 ms, doubling, for 3 s: at 0, 10, 30, 70, …, 2 550 ms.
    assert_eq!(pair.world.fabric().link_stats(pair.there).offered, 9);
    pair.world.settle(TOMBSTONES).unwrap();
}

#[test]
fn an_address_of_the_other_family_is_unreachable() {
    let mut pair = pair(7, &Link::default());
    let node = pair.world.node(pair.a);
    let task = pair.world.spawn("connect", async move { node.connect("[::1]:7".parse().unwrap()).await.map(drop) });
    assert_eq!(pair.world.wait(&task, seconds(5)).unwrap().unwrap_err(), CloseReason::Unreachable);
    pair.world.settle(TOMBSTONES).unwrap();
}

/// On Ethernet, without a gateway: said at once, and nothing is sent.
#[test]
fn an_address_without_a_way_is_unreachable() {
    let world = WorldConfig { ethernet: Some(Ethernet::default()), ..world_config() };
    let mut pair = Pair::with(7, &Link::default(), [nic(); 2], [config(); 2], world);
    let node = pair.world.node(pair.a);
    let task =
        pair.world.spawn("connect", async move { node.connect("192.168.1.1:7".parse().unwrap()).await.map(drop) });
    assert_eq!(pair.world.wait(&task, millis(1)).unwrap().unwrap_err(), CloseReason::Unreachable);
    assert_eq!(pair.world.fabric().link_stats(pair.there).offered, 0);
    pair.world.settle(TOMBSTONES).unwrap();
}

#[test]
fn a_lost_init_costs_one_timer() {
    let mut pair = pair(8, &Link::with_delay(micros(50)));
    pair.world.fabric().filter(pair.there, drop_first(|seen| *seen == Seen::Init));
    let _listener = pair.listen();
    let (took, flow) = connect(&mut pair, PORT);
    assert!(flow.is_ok());
    assert!(took >= millis(10) && took < millis(11), "{took:?}");
}

#[test]
fn a_lost_accept_costs_one_timer_and_makes_one_flow() {
    let mut pair = pair(9, &Link::with_delay(micros(50)));
    pair.world.fabric().filter(pair.back, drop_first(|seen| *seen == Seen::Accept));
    let _listener = pair.listen();
    let (took, flow) = connect(&mut pair, PORT);
    assert!(flow.is_ok());
    assert!(took >= millis(10) && took < millis(11), "{took:?}");
    assert_eq!(pair.world.stats(pair.b).flows, 1);
}

#[test]
fn a_lost_first_data_is_repaired() {
    let mut pair = pair(10, &Link::with_delay(micros(50)));
    pair.world.fabric().filter(pair.there, drop_first(|seen| matches!(seen, Seen::Data(_))));
    let start = pair.world.now();
    pair.run(&Dialog::new(Plan::fixed(1, 2, 500), Plan::fixed(2, 2, 500)), seconds(5));
    assert_eq!(pair.world.fabric().link_stats(pair.there).filtered, 1);
    assert!(pair.world.now().since(start) < seconds(3));
}

/// The acceptor does not count a flow before its initiator proved its address; who never does is forgotten.
#[test]
fn a_half_open_flow_is_forgotten() {
    let mut pair = pair(11, &Link::default());
    let _listener = pair.listen();
    pair.world.fabric().filter(pair.back, |_| Verdict::Drop);
    let (_, result) = connect(&mut pair, PORT);
    assert_eq!(result.unwrap_err(), CloseReason::ConnectTimeout);
    pair.world.settle(seconds(10)).unwrap();
}

#[test]
fn a_port_in_use_is_said_so() {
    let mut pair = pair(12, &Link::default());
    let mut other = pair.world.fabric().nic(pair.world.host(pair.b), nic()).unwrap();
    machnet_core::Driver::open(&mut other, PORT).unwrap();
    assert_eq!(listen(&mut pair.world, pair.b, PORT, 1).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(other);
    let first = pair.listen();
    assert_eq!(first.local(), pair.world.node(pair.b).at(PORT));
    assert_eq!(listen(&mut pair.world, pair.b, PORT, 1).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(first);
    pair.world.run_for(millis(1)).unwrap();
    // The port is free again, and any free port is another one.
    let again = pair.listen();
    let any = listen(&mut pair.world, pair.b, 0, 1).unwrap();
    assert_ne!(again.local().port(), any.local().port());
    assert_eq!(any.local().ip(), ip(2));
}

/// More flows than the backlog takes: the rest waits its turn, and everybody is served.
#[test]
fn a_full_backlog_delays_and_loses_nobody() {
    // The slow one takes longer than a handshake may: who knocks on is not forgotten.
    for pace in [millis(3), millis(700)] {
        full_backlog(pace);
    }
}

fn full_backlog(pace: Duration) {
    let mut pair = pair(13, &Link::with_delay(micros(20)));
    let mut listener = listen(&mut pair.world, pair.b, PORT, 2).unwrap();
    let plan = Plan::fixed(1, 3, 2000);
    let dialog = Dialog::new(plan.clone(), plan);
    let node = pair.world.node(pair.b);
    let server = dialog.clone();
    let accepted = pair.world.spawn("server", async move {
        let mut tasks = Vec::new();
        for _ in 0..8 {
            node.sleep(pace).await;
            let flow = listener.accept().await.unwrap();
            let (dialog, node_of) = (server.clone(), node.clone());
            tasks.push(node.spawn("accepted", async move { dialog.side(1, &node_of, flow).await }));
        }
        let mut ended = Vec::new();
        for task in tasks {
            ended.push(task.await);
        }
        ended
    });
    let clients: Vec<_> = (0..8)
        .map(|i| {
            let (node, to, dialog) = (pair.world.node(pair.a), pair.world.node(pair.b).at(PORT), dialog.clone());
            pair.world.spawn(format!("client {i}"), async move {
                let flow = node.connect(to).await.unwrap();
                dialog.side(0, &node, flow).await
            })
        })
        .collect();
    pair.world.run(seconds(30)).unwrap();
    let accepted = accepted.take().unwrap();
    for (client, server) in clients.iter().zip(accepted) {
        dialog.check(&[client.take().unwrap(), server]);
    }
    pair.world.settle(TOMBSTONES).unwrap();
}

#[test]
fn an_idle_world_sleeps() {
    let mut pair = pair(14, &Link::default());
    let (_a, _b) = pair.open();
    pair.world.run_for(seconds(1)).unwrap();
    let rounds = pair.world.rounds(pair.a) + pair.world.rounds(pair.b);
    pair.world.run_for(seconds(10)).unwrap();
    let more = pair.world.rounds(pair.a) + pair.world.rounds(pair.b) - rounds;
    // A keepalive each 1.25 s, 100 ms after it the queues given back, and the turns of the timing wheel for both.
    assert!(more < 300, "{more} rounds in 10 s of silence");
    assert!(pair.world.now() > Instant::ZERO + seconds(11));
}
