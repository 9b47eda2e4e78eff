//! Bottlenecks: what flows get of them, and what they lose there.

use std::time::Duration;

use machnet_channel::Congestion;
use machnet_core::Config;

use super::{Run, Scenario, costs, kept, pending};
use crate::setup::{PORT, config, ip, micros, millis, nic, seconds};
use crate::{Bulk, Link, MachineId, NicConfig, Policer, World, goodput};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept(
        "two_flows",
        "two flows from two hosts share a 10 Gbit/s bottleneck within 10 %, and fill 90 % of it",
        two_flows,
    ),
    kept("two_flows_cubic", "as two_flows, with CUBIC", two_flows_cubic),
    kept("late_comer", "a flow that comes second has its share of 1 Gbit/s within 10 % after 1 s", late_comer),
    kept("incast", "32 senders into one 256-descriptor ring fill 90 % of 10 Gbit/s, losing at most 0.1 %", incast),
    pending(
        "incast_fair",
        "of 32 senders into one port, each has a tenth of its share at least",
        incast_fair,
        "Swift: who comes late takes a standing queue for the path, keeps it, and starves who came first",
    ),
    kept(
        "incast_requests",
        "32 servers answer 64 KiB at once, again and again: no reply takes over 20 ms",
        incast_requests,
    ),
    kept("random_loss", "1 % random loss keeps 80 % of the lossless goodput at 100 µs RTT on 1 Gbit/s", random_loss),
    kept("random_loss_cubic", "as random_loss, with CUBIC", random_loss_cubic),
    kept("random_loss_10g", "as random_loss, on 10 Gbit/s", random_loss_10g),
    kept(
        "burst_errors",
        "loss in bursts (1 % of the time, half lost) keeps 50 % of the goodput on 1 Gbit/s",
        burst_errors,
    ),
    kept(
        "policed",
        "a flow policed to 5 Gbit/s keeps 70 % of that, sends at most 10 % twice, and pauses < 10 ms",
        policed,
    ),
    kept("policed_cubic", "as policed, with CUBIC", policed_cubic),
    kept(
        "policed_flows",
        "4 flows, each policed to 5 Gbit/s on 25 Gbit/s, get 70 % of their rates each",
        policed_flows,
    ),
    kept("shallow_queue", "a bottleneck with a queue of 64 KiB is filled to 80 %, losing at most 2 %", shallow_queue),
];

/// Framing and headers leave this share of a link for messages, with packets of 1 232 bytes.
const EFFICIENCY: f64 = 0.9;

fn machines(world: &mut World, first: u8, count: u8, nic: NicConfig) -> Vec<MachineId> {
    (first..first + count).map(|n| world.machine(ip(n), nic, config())).collect()
}

/// An engine whose flows use CUBIC, as on sockets.
fn cubic() -> Config {
    let mut config = config();
    config.congestion = Some(Congestion::Cubic);
    config
}

fn end(world: &mut World, flows: &[Bulk]) {
    flows.iter().for_each(Bulk::stop);
    world.run(seconds(60)).unwrap();
    world.settle(seconds(15)).unwrap();
}

fn giga(rates: &[f64]) -> String {
    let list: Vec<String> = rates.iter().map(|rate| format!("{:.3}", rate / 1e9)).collect();
    format!("{} Gbit/s", list.join(" "))
}

/// How far the worst of `rates` is from their mean, as a share of that.
fn unfairness(rates: &[f64]) -> f64 {
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    rates.iter().map(|rate| (rate - mean).abs() / mean).fold(0.0, f64::max)
}

fn two_flows(run: &Run) {
    share(run, config());
}

fn two_flows_cubic(run: &Run) {
    share(run, cubic());
}

fn share(run: &Run, config: Config) {
    let rate = 10_000_000_000;
    let mut world = run.world(costs());
    let nic = NicConfig { frames: 4096, ..nic() };
    let [left, right] = [1, 11].map(|first| [0, 1].map(|i| world.machine(ip(first + i), nic, config)));
    let [there, _] = world.dumbbell(&left, &right, &Link::with_rate(rate, micros(50), 256 << 10));
    let mut flows = Vec::new();
    for i in 0..2 {
        flows.push(Bulk::start(&mut world, [left[i], right[i]], PORT, i as u64, 64_000));
        world.run_for(millis(5)).unwrap();
    }
    world.run_for(millis(100)).unwrap();
    let before = world.fabric().link_stats(there);
    let rates = goodput(&mut world, &flows, millis(400));
    let after = world.fabric().link_stats(there);
    let lost = (after.queue_full - before.queue_full) as f64 / (after.offered - before.offered) as f64;
    run.figure("goodput", giga(&rates));
    run.figure("lost", format!("{:.3} %", 100.0 * lost));
    assert!(unfairness(&rates) <= 0.1, "{}", giga(&rates));
    assert!(rates.iter().sum::<f64>() >= 0.9 * EFFICIENCY * rate as f64, "{}", giga(&rates));
    end(&mut world, &flows);
}

fn late_comer(run: &Run) {
    let rate = 1_000_000_000;
    let mut world = run.world(costs());
    let (left, right) = (machines(&mut world, 1, 2, nic()), machines(&mut world, 11, 2, nic()));
    world.dumbbell(&left, &right, &Link::with_rate(rate, micros(500), 256 << 10));
    let mut flows = vec![Bulk::start(&mut world, [left[0], right[0]], PORT, 0, 16_000)];
    world.run_for(millis(500)).unwrap();
    flows.push(Bulk::start(&mut world, [left[1], right[1]], PORT, 1, 16_000));
    world.run_for(seconds(1)).unwrap();
    let rates = goodput(&mut world, &flows, seconds(1));
    run.figure("goodput", giga(&rates));
    assert!(unfairness(&rates) <= 0.1, "{}", giga(&rates));
    end(&mut world, &flows);
}

/// A switch, 32 senders and a receiver whose engine takes 200 ns per packet: it keeps up with the link, just.
fn incast_world(run: &Run, rate: u64) -> (World, Vec<MachineId>, MachineId, crate::LinkId) {
    let mut world = run.world(costs());
    let mut hosts = machines(&mut world, 1, 32, nic());
    let receiver = world.machine(ip(100), NicConfig { frames: 8192, ..nic() }, config());
    hosts.push(receiver);
    world.set_costs(receiver, micros(1), std::time::Duration::from_nanos(200));
    let down = Link::with_rate(rate, micros(5), 1 << 20);
    let ports = world.switch(&hosts, &Link::with_rate(rate, micros(5), 1 << 20), &down);
    hosts.pop();
    (world, hosts, receiver, ports[32].down)
}

fn incast(run: &Run) {
    let rate = 10_000_000_000;
    let (mut world, senders, receiver, port) = incast_world(run, rate);
    let flow =
        |i: usize, world: &mut World| Bulk::start(world, [senders[i], receiver], PORT + i as u16, i as u64, 16_000);
    let flows: Vec<Bulk> = (0..senders.len()).map(|i| flow(i, &mut world)).collect();
    world.run_for(millis(50)).unwrap();
    let before = (world.fabric().link_stats(port), world.driver(receiver).nic_stats());
    let rates = goodput(&mut world, &flows, millis(100));
    let after = (world.fabric().link_stats(port), world.driver(receiver).nic_stats());
    let lost = after.0.queue_full - before.0.queue_full + after.1.ring_full - before.1.ring_full;
    let lost = lost as f64 / (after.0.offered - before.0.offered) as f64;
    let total = rates.iter().sum::<f64>();
    run.figure("goodput", giga(&[total]));
    run.figure("of the link", format!("{:.1} %", 100.0 * total / (EFFICIENCY * rate as f64)));
    run.figure("lost", format!("{:.3} %", 100.0 * lost));
    let (least, most) =
        rates.iter().fold((f64::MAX, 0.0_f64), |(least, most), &rate| (least.min(rate), most.max(rate)));
    run.figure("least and most of 32", giga(&[least, most]));
    assert!(total >= 0.9 * EFFICIENCY * rate as f64, "{}", giga(&[total]));
    assert!(lost <= 0.001, "{:.3} % lost", 100.0 * lost);
    end(&mut world, &flows);
}

fn incast_fair(run: &Run) {
    let rate = 10_000_000_000;
    let (mut world, senders, receiver, _) = incast_world(run, rate);
    let flow =
        |i: usize, world: &mut World| Bulk::start(world, [senders[i], receiver], PORT + i as u16, i as u64, 16_000);
    let flows: Vec<Bulk> = (0..senders.len()).map(|i| flow(i, &mut world)).collect();
    world.run_for(millis(100)).unwrap();
    let rates = goodput(&mut world, &flows, millis(100));
    run.figure("goodput", giga(&rates));
    let share = 0.9 * EFFICIENCY * rate as f64 / flows.len() as f64;
    assert!(rates.iter().all(|&rate| rate >= share / 10.0), "{}", giga(&rates));
    end(&mut world, &flows);
}

/// One client asks 32 servers at the same moment; the answers are 2 MiB in all, 1.7 ms of the link.
fn incast_requests(run: &Run) {
    let (mut world, servers, client, _) = incast_world(run, 10_000_000_000);
    let calls = crate::Calls { think: millis(5), request: 100, reply: 64 << 10, ..crate::Calls::of(100, 40) };
    let tasks: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(i, &server)| calls.start(&mut world, [client, server], PORT + i as u16, i as u64))
        .collect();
    world.run(seconds(30)).unwrap();
    let slowest = tasks.iter().filter_map(|task| task.take()).map(|latencies| latencies.quantile(1.0)).max();
    let slowest = slowest.expect("32 clients");
    run.figure("slowest reply", format!("{slowest:?}"));
    assert!(slowest <= millis(20), "{slowest:?}");
    world.settle(seconds(15)).unwrap();
}

/// Goodput of one flow on a link, in bits per second, and the packets declared lost as a share of those sent.
fn alone(run: &Run, link: &Link, config: Config, [warm_up, window]: [Duration; 2]) -> (f64, f64) {
    let mut pair = run.pair_of(link, NicConfig { frames: 4096, ..nic() }, config);
    let bulk = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT, run.seed(), 16_000);
    pair.world.run_for(warm_up).unwrap();
    let sent = pair.world.driver(pair.a).nic_stats().sent;
    let lost = pair.world.stats(pair.a).packets_lost;
    let rate = goodput(&mut pair.world, std::slice::from_ref(&bulk), window)[0];
    let sent = pair.world.driver(pair.a).nic_stats().sent - sent;
    let lost = pair.world.stats(pair.a).packets_lost - lost;
    end(&mut pair.world, std::slice::from_ref(&bulk));
    (rate, lost as f64 / sent.max(1) as f64)
}

fn with_and_without_loss(run: &Run, rate: u64, config: Config, share: f64, faults: impl Fn(&mut Link)) {
    let mut link = Link::with_rate(rate, micros(50), 128 << 10);
    let (lossless, _) = alone(run, &link, config, [millis(20), millis(60)]);
    faults(&mut link);
    let (lossy, _) = alone(run, &link, config, [millis(20), millis(100)]);
    run.figure("goodput without and with loss", giga(&[lossless, lossy]));
    run.figure("kept", format!("{:.1} %", 100.0 * lossy / lossless));
    assert!(lossless >= 0.9 * EFFICIENCY * rate as f64, "{}", giga(&[lossless]));
    assert!(lossy >= share * lossless, "{:.1} % kept", 100.0 * lossy / lossless);
}

fn random_loss(run: &Run) {
    with_and_without_loss(run, 1_000_000_000, config(), 0.8, |link| link.loss = 0.01);
}

fn random_loss_cubic(run: &Run) {
    with_and_without_loss(run, 1_000_000_000, cubic(), 0.8, |link| link.loss = 0.01);
}

fn random_loss_10g(run: &Run) {
    with_and_without_loss(run, 10_000_000_000, config(), 0.8, |link| link.loss = 0.01);
}

fn burst_errors(run: &Run) {
    let bursts = crate::Bursts { begin: 0.001, end: 0.1, loss: 0.5 };
    with_and_without_loss(run, 1_000_000_000, config(), 0.5, |link| link.bursts = Some(bursts));
}

const POLICER: Policer = Policer { rate: 5_000_000_000, burst: 64 << 10 };

fn policed(run: &Run) {
    police(run, config());
}

fn policed_cubic(run: &Run) {
    police(run, cubic());
}

fn police(run: &Run, config: Config) {
    let link = Link { police: Some(POLICER), ..Link::with_rate(25_000_000_000, micros(50), 1 << 20) };
    let mut pair = run.pair_of(&link, NicConfig { frames: 4096, ..nic() }, config);
    let bulk = Bulk::start(&mut pair.world, [pair.a, pair.b], PORT, run.seed(), 16_000);
    pair.world.run_for(millis(50)).unwrap();
    let _ = bulk.take_longest_gap();
    let (sent, lost) = (pair.world.driver(pair.a).nic_stats().sent, pair.world.stats(pair.a).packets_lost);
    let rate = goodput(&mut pair.world, std::slice::from_ref(&bulk), millis(150))[0];
    let sent = pair.world.driver(pair.a).nic_stats().sent - sent;
    let again = (pair.world.stats(pair.a).packets_lost - lost) as f64 / sent as f64;
    let gap = bulk.take_longest_gap();
    run.figure("goodput", giga(&[rate]));
    run.figure("of the rate", format!("{:.1} %", 100.0 * rate / (EFFICIENCY * POLICER.rate as f64)));
    run.figure("lost", format!("{:.2} %", 100.0 * again));
    run.figure("longest pause", format!("{gap:?}"));
    assert!(rate >= 0.7 * EFFICIENCY * POLICER.rate as f64, "{}", giga(&[rate]));
    assert!(again <= 0.1, "{:.2} % lost", 100.0 * again);
    assert!(gap < millis(10), "nothing for {gap:?}");
    end(&mut pair.world, std::slice::from_ref(&bulk));
}

fn policed_flows(run: &Run) {
    let link = Link { police: Some(POLICER), ..Link::with_rate(25_000_000_000, micros(50), 1 << 20) };
    let mut world = run.world(costs());
    let (left, right) = (machines(&mut world, 1, 4, nic()), machines(&mut world, 11, 4, nic()));
    world.dumbbell(&left, &right, &link);
    let flow = |i: usize, world: &mut World| Bulk::start(world, [left[i], right[i]], PORT, i as u64, 16_000);
    let flows: Vec<Bulk> = (0..4).map(|i| flow(i, &mut world)).collect();
    world.run_for(millis(50)).unwrap();
    let rates = goodput(&mut world, &flows, millis(100));
    run.figure("goodput", giga(&rates));
    for rate in &rates {
        assert!(*rate >= 0.7 * EFFICIENCY * POLICER.rate as f64, "{}", giga(&rates));
    }
    end(&mut world, &flows);
}

fn shallow_queue(run: &Run) {
    let rate = 10_000_000_000;
    let (goodput, lost) = alone(run, &Link::with_rate(rate, micros(50), 64 << 10), config(), [millis(50), millis(150)]);
    run.figure("goodput", giga(&[goodput]));
    run.figure("lost", format!("{:.3} %", 100.0 * lost));
    assert!(goodput >= 0.8 * EFFICIENCY * rate as f64, "{}", giga(&[goodput]));
    assert!(lost <= 0.02, "{:.2} % lost", 100.0 * lost);
}
