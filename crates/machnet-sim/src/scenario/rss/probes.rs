//! RSS--: what finding good pairs costs, and that it pays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use machnet_core::DropReason;

use super::super::{Run, Scenario, kept};
use super::cluster::{Cluster, Host};
use crate::setup::{TOMBSTONES, micros, millis, seconds};
use crate::{Link, Rss, Seen, Verdict};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept("rss-probe-cost", "a cold start takes at most 26 probes for 4×4 engines and 56 for 8×8, at 95 %", cost),
    kept("rss-warm", "who meets a known peer finds the pair in its map: next to no probes", warm),
    kept("rss-steady", "once pairs are found less than 0.1 % of packets are handed over, whatever the counts", steady),
    kept("rss-remap-found", "after the hash changed, stray packets say so, and pairs are found anew", remapped),
    kept(
        "rss-firewall",
        "a firewall that passes one pair only: the flows work, handed over, and probing stops",
        firewall,
    ),
    kept(
        "rss-closed-port",
        "what was found out from a port that is closed since is of no use to other flows",
        closed_port,
    ),
    kept("rss-one-way-firewall", "answers only pass on the home pair: the way there is found all the same", one_way),
];

fn link() -> Link {
    Link::with_rate(10_000_000_000, micros(20), 1 << 20)
}

/// Cold starts whose costs make the quantile.
const STARTS: usize = 1000;

fn cost(run: &Run) {
    for (engines, most) in [(4, 26), (8, 56)] {
        for rss in [Rss::Random, Rss::Toeplitz] {
            let mut costs: Vec<u64> = (0..STARTS)
                .map(|n| {
                    let run = Run::new(run.seed().wrapping_mul(1_000_003).wrapping_add(n as u64), run.recorder.clone());
                    let host = Host::of(engines, rss);
                    let mut cluster = Cluster::small(&run, &link(), host, host);
                    let talk = cluster.idle(n, millis(20));
                    cluster.finish(&talk, seconds(5));
                    let [a, b] = cluster.stats();
                    a.probes_sent + b.probes_sent
                })
                .collect();
            costs.sort_unstable();
            let at = |q: f64| costs[(q * (STARTS - 1) as f64).ceil() as usize];
            let mean = costs.iter().sum::<u64>() as f64 / STARTS as f64;
            run.figure(
                format!("{engines}×{engines} engines, {rss:?}"),
                format!(
                    "probe packets of both sides: mean {mean:.1}, p50 {}, p95 {}, worst {}",
                    at(0.5),
                    at(0.95),
                    at(1.0)
                ),
            );
            assert!(at(0.95) <= most, "{engines}×{engines} engines, {rss:?}: p95 {}", at(0.95));
        }
    }
}

fn warm(run: &Run) {
    let host = Host::of(4, Rss::Random);
    let mut cluster = Cluster::new(run, &link(), host, host);
    let talk = cluster.talk(&mut run.rng(), 0, 32, 400, 2000);
    cluster.finish(&talk, seconds(10));
    let cold: u64 = cluster.stats().iter().map(|stats| stats.probes_sent).sum();
    let again = cluster.talk(&mut run.rng(), 0, 64, 20, 2000);
    cluster.finish(&again, seconds(10));
    let warm: u64 = cluster.stats().iter().map(|stats| stats.probes_sent).sum::<u64>() - cold;
    run.figure("probes", format!("{cold} of 32 flows cold, {warm} of 64 warm"));
    assert!(warm <= 64 / 4, "{warm} probes of 64 flows");
    cluster.end(&again);
}

fn steady(run: &Run) {
    let mut rng = run.rng();
    for (a, b) in [(4, 4), (2, 7), (1, 4), (4, 1)] {
        let rss = if rng.chance(0.5) { Rss::Toeplitz } else { Rss::Random };
        let mut cluster = Cluster::new(run, &link(), Host::of(a, rss), Host::of(b, rss));
        let talk = cluster.talk(&mut rng, 0, 8, 3000, 3000);
        cluster.world.run_for(millis(5)).unwrap();
        let [before_a, before_b] = cluster.stats();
        cluster.finish(&talk, seconds(20));
        let [after_a, after_b] = cluster.stats();
        let received = |s: &machnet_core::EngineStats| s.packets_received as f64;
        let packets = received(&after_a) + received(&after_b) - received(&before_a) - received(&before_b);
        let handed = after_a.handed_over + after_b.handed_over - before_a.handed_over - before_b.handed_over;
        let ratio = handed as f64 / packets;
        run.figure(format!("{a} and {b} engines, {rss:?}"), format!("{packets} packets, {ratio:.5} handed over"));
        assert!(packets > 1000.0 && ratio < 0.001, "{a} and {b} engines: {ratio:.5} of {packets}");
        cluster.end(&talk);
    }
}

fn remapped(run: &Run) {
    let host = Host::of(4, Rss::Toeplitz);
    let mut cluster = Cluster::new(run, &link(), host, host);
    let talk = cluster.talk(&mut run.rng(), 0, 8, 3000, 60_000);
    cluster.world.run_for(millis(10)).unwrap();
    for queue in [cluster.clients[0], cluster.servers[0]] {
        cluster.world.fabric().redraw_rss(cluster.world.driver(queue));
    }
    cluster.world.run_for(millis(30)).unwrap();
    let before = cluster.stats();
    cluster.world.run_for(millis(10)).unwrap();
    let after = cluster.stats();
    let sum =
        |f: fn(&machnet_core::EngineStats) -> u64| after.iter().map(f).sum::<u64>() - before.iter().map(f).sum::<u64>();
    let (packets, handed) = (sum(|s| s.packets_received), sum(|s| s.handed_over));
    run.figure("30 ms after the change", format!("{handed} of {packets} packets handed over"));
    assert!(packets > 1000 && handed * 1000 <= packets, "{handed} of {packets}");
    cluster.finish(&talk, seconds(20));
    cluster.end(&talk);
}

fn firewall(run: &Run) {
    let host = Host::of(4, Rss::Random);
    let mut cluster = Cluster::new(run, &link(), host, host);
    let [client, server] = [cluster.clients[0], cluster.servers[0]];
    let (home, port) = (cluster.world.node(client).home().port(), crate::setup::PORT);
    let stopped = Arc::new(AtomicU64::new(0));
    for (link, pair) in [(cluster.there, (home, port)), (cluster.back, (port, home))] {
        let stopped = Arc::clone(&stopped);
        cluster.world.fabric().filter(link, move |seen| {
            if (seen.from.port(), seen.to.port()) == pair {
                return Verdict::Pass;
            }
            stopped.fetch_add(1, Ordering::Relaxed);
            Verdict::Drop
        });
    }
    let _ = server;
    let talk = cluster.talk(&mut run.rng(), 0, 8, 400, 3000);
    cluster.finish(&talk, seconds(20));
    let ratio = cluster.note(run, "one pair");
    let [a, b] = cluster.stats();
    run.figure(
        "probes",
        format!("{} sent, {} stopped", a.probes_sent + b.probes_sent, stopped.load(Ordering::Relaxed)),
    );
    assert!(ratio > 0.3, "{ratio}: the home pair hits some flows' engines only");
    // 8 flows, two sides, and a second or two.
    assert!(a.probes_sent + b.probes_sent <= 8 * 2 * 3 * 9);
    assert_eq!(a.drops.get(DropReason::HandoverFull) + b.drops.get(DropReason::HandoverFull), 0);
    cluster.end(&talk);
}

fn one_way(run: &Run) {
    let host = Host::of(4, Rss::Random);
    let mut cluster = Cluster::new(run, &link(), host, host);
    let (home, port) = (cluster.world.node(cluster.clients[0]).home().port(), crate::setup::PORT);
    cluster.world.fabric().filter(cluster.back, move |seen| {
        if (seen.from.port(), seen.to.port()) == (port, home) { Verdict::Pass } else { Verdict::Drop }
    });
    let strays = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&strays);
    cluster.world.fabric().filter(cluster.there, move |seen| {
        let on_home = (seen.from.port(), seen.to.port()) == (home, port);
        counted.fetch_add(u64::from(Seen::read(seen.payload).has_message() && !on_home), Ordering::Relaxed);
        Verdict::Pass
    });
    let talk = cluster.talk(&mut run.rng(), 0, 8, 3000, 20_000);
    cluster.finish(&talk, seconds(20));
    cluster.note(run, "answers on the home pair only");
    let [_, servers] = cluster.stats();
    let ratio = servers.handed_over as f64 / servers.packets_received as f64;
    run.figure("servers hand over", format!("{ratio:.4}; {} packets on found pairs", strays.load(Ordering::Relaxed)));
    assert!(strays.load(Ordering::Relaxed) > 0 && ratio < 0.1, "{ratio}");
    cluster.end(&talk);
}

/// An engine that is alone on one port, and listens at one after another: flows go from where they were called, and what
/// was found from one port leads nobody back to it.
fn closed_port(run: &Run) {
    let single = Host { engines: 1, ports: 1, rss: Rss::First };
    let mut cluster = Cluster::new(run, &link(), Host::of(4, Rss::Random), single);
    for port in 1..4 {
        let talk = cluster.talk(&mut run.rng(), 0, 12, 400, 3000);
        cluster.finish(&talk, seconds(20));
        cluster.note(run, &format!("by listener {port}"));
        // The port closes with the last flow.
        cluster.world.run_for(2 * TOMBSTONES).unwrap();
        let [_, server] = cluster.stats();
        assert_eq!(server.flows, 0);
        cluster.move_to(crate::setup::PORT + port);
    }
    let talk = cluster.talk(&mut run.rng(), 0, 12, 400, 3000);
    cluster.finish(&talk, seconds(20));
    let [_, server] = cluster.stats();
    assert_eq!(server.drops.get(DropReason::Unsendable), 0, "sent from a port that is closed");
    cluster.end(&talk);
}
