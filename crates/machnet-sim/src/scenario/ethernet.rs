//! Engines that speak Ethernet: core's network layer on a wire of frames.

use std::net::{IpAddr, Ipv6Addr};

use machnet_channel::CloseReason;
use machnet_core::{DropReason, Instant};

use super::{Run, Scenario, costs, kept};
use crate::fault::outage;
use crate::setup::{PORT, config, ip, micros, millis, nic, seconds};
use crate::{Calls, Corruption, Dialog, Ethernet, Link, MachineId, Pair, Plan, World, WorldConfig};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept(
        "ethernet",
        "IPv4 and IPv6, checksums by either side, 1 % of frames damaged: checksums notice all of it",
        damaged,
    ),
    kept("ethernet_latency", "a request and its reply over frames take as long as without, but for the first", latency),
    kept("ethernet_refused", "a closed port refuses connect after one RTT, by ICMP", refused),
    kept("ethernet_idle", "a flow that sleeps for 5 min goes on in one RTT, though its neighbour was forgotten", idle),
    kept("ethernet_absent", "a neighbour that comes 1.5 s late is found, one that never comes ends connect", absent),
];

const OFFLOADS: [Ethernet; 4] = [
    Ethernet { tx_checksum: false, rx_checksum: false },
    Ethernet { tx_checksum: true, rx_checksum: false },
    Ethernet { tx_checksum: false, rx_checksum: true },
    Ethernet { tx_checksum: true, rx_checksum: true },
];

/// Addresses of machines 1 and 2 in either family.
fn addresses(v6: bool) -> [IpAddr; 2] {
    [1, 2].map(|n| if v6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into() } else { ip(n as u8) })
}

/// A world of frames with two machines.
fn world(run: &Run, ethernet: Ethernet, v6: bool, link: &Link) -> (World, [MachineId; 2]) {
    let mut world = run.world(WorldConfig { ethernet: Some(ethernet), ..costs() });
    let machines = addresses(v6).map(|address| world.machine(address, nic(), config()));
    world.join(machines[0], machines[1], link);
    (world, machines)
}

/// Two machines that speak IPv4 over frames.
fn pair(run: &Run, link: &Link) -> Pair {
    let config_of = WorldConfig { ethernet: Some(Ethernet::default()), ..costs() };
    Pair::in_world(run.world(config_of), link, [nic(); 2], [config(); 2])
}

fn damaged(run: &Run) {
    let mut noticed = 0;
    for ethernet in OFFLOADS {
        for v6 in [false, true] {
            let link = Link { delay: micros(20), ..Link::hostile(Corruption::Noticed) };
            let (mut world, [a, b]) = world(run, ethernet, v6, &link);
            let mut rng = run.rng();
            let plans = [0, 1].map(|flow| Plan::log_uniform(flow, 200, 100_000, &mut rng));
            let dialog = Dialog::new(plans[0].clone(), plans[1].clone());
            let tasks = dialog.start(&mut world, a, b);
            world.run(seconds(60)).unwrap();
            dialog.check(&tasks.map(|task| task.take().expect("the task is done")));
            let count = |machine, reason| world.stats(machine).drops.get(reason);
            let dropped: u64 = [a, b].iter().map(|&machine| count(machine, DropReason::Checksum)).sum();
            assert!(dropped > 0, "{ethernet:?}: nothing was damaged");
            noticed += dropped;
            world.settle(seconds(15)).unwrap();
        }
    }
    run.figure("frames that a checksum caught", noticed);
}

fn latency(run: &Run) {
    let calls = |world: &mut World, machines: [MachineId; 2]| {
        let task = Calls::of(64, 2000).start(world, machines, PORT, run.seed());
        let latencies = world.wait(&task, seconds(5)).unwrap();
        world.settle(seconds(15)).unwrap();
        latencies.quantile(1.0)
    };
    let link = Link::with_delay(micros(20));
    let mut bare = run.pair(&link);
    let machines = [bare.a, bare.b];
    let without = calls(&mut bare.world, machines);
    let mut framed = pair(run, &link);
    let machines = [framed.a, framed.b];
    let with = calls(&mut framed.world, machines);
    run.figure("slowest call", format!("{with:?} over frames, {without:?} without"));
    assert!(with <= without + costs().poll_cost * 2, "{with:?} against {without:?}");
}

fn refused(run: &Run) {
    for v6 in [false, true] {
        let (mut world, [a, b]) = world(run, Ethernet::default(), v6, &Link::with_delay(micros(100)));
        let (node, to) = (world.node(a), world.node(b).at(PORT));
        let start = world.now();
        let connecting = world.spawn("connect", async move { node.connect(to).await.map(drop) });
        let outcome = world.wait(&connecting, seconds(5)).unwrap();
        let took = world.now().since(start);
        run.figure(format!("refused over IPv{}", if v6 { 6 } else { 4 }), format!("{outcome:?} after {took:?}"));
        assert_eq!(outcome, Err(CloseReason::Refused));
        // One round trip for the neighbour, and one for the answer.
        assert!(took < micros(420), "{took:?}");
        world.settle(seconds(15)).unwrap();
    }
}

fn idle(run: &Run) {
    let mut pair = pair(run, &Link::with_delay(micros(100)));
    let (mut a, mut b) = pair.open();
    let handle = pair.world.handle().clone();
    let asks = pair.world.spawn("a", async move {
        let mut slowest = std::time::Duration::ZERO;
        for pause in [1, 29, 35, 300] {
            handle.sleep(seconds(pause)).await;
            let start = handle.now();
            a.send(vec![1; 100]).await.unwrap();
            a.receive().await.expect("an answer");
            slowest = slowest.max(handle.now().since(start));
        }
        slowest
    });
    let answers = pair.world.spawn("b", async move {
        while let Some(message) = b.receive().await {
            b.send(message).await.unwrap();
        }
    });
    let slowest = pair.world.wait(&asks, seconds(400)).unwrap();
    run.figure("slowest answer", format!("{slowest:?}"));
    // At worst both have to ask for each other first.
    assert!(slowest < micros(650), "{slowest:?}");
    pair.world.wait(&answers, seconds(15)).unwrap();
    pair.world.settle(seconds(30)).unwrap();
}

fn absent(run: &Run) {
    for (away, is_found) in [(millis(1500), true), (seconds(60), false)] {
        let mut pair = pair(run, &Link::with_delay(micros(100)));
        let mut listener = pair.listen();
        for link in [pair.there, pair.back] {
            pair.world.fabric().also_filter(link, outage(Instant::ZERO..Instant::ZERO + away));
        }
        let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(PORT));
        let connecting = pair.world.spawn("connect", async move { node.connect(to).await.map(drop) });
        let accepting = pair.world.spawn("accept", async move { listener.accept().await.map(drop) });
        let outcome = pair.world.wait(&connecting, seconds(30)).unwrap();
        run.figure(format!("a neighbour away for {away:?}"), format!("{outcome:?}"));
        assert_eq!(outcome, if is_found { Ok(()) } else { Err(CloseReason::ConnectTimeout) });
        if is_found {
            pair.world.wait(&accepting, seconds(1)).unwrap();
        }
        pair.world.cancel();
        pair.world.settle(seconds(30)).unwrap();
    }
}
