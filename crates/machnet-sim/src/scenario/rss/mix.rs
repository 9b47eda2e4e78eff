//! Everything at once, drawn from the seed.

use super::super::{Run, Scenario, kept};
use super::cluster::{Cluster, Host};
use crate::setup::{PORT, TOMBSTONES, config, micros, nic, seconds};
use crate::{Ethernet, Link, NicConfig, Rss, SimRng};

pub(super) const SCENARIOS: &[Scenario] = &[kept(
    "rss-mix",
    "engines, ports, hashes, remaps, losses, short rings, few frames and engines that stand still, drawn from the seed: every message arrives",
    mix,
)];

fn mix(run: &Run) {
    let mut rng = run.rng();
    let hosts = [0; 2].map(|_| host(&mut rng));
    let link = link(&mut rng);
    let few = rng.chance(0.3);
    let nic = NicConfig {
        frames: if few { 64 } else { 1024 },
        rx_descriptors: 16 << rng.below(5),
        tx_descriptors: 16 << rng.below(5),
        ethernet: rng.chance(0.3).then(Ethernet::default),
        ..nic()
    };
    let mut config = config();
    if few {
        (config.max_message, config.reassembly_bytes, config.receive_window) = (1 << 15, 1 << 19, 1 << 16);
    }
    run.figure("hosts", format!("{hosts:?}, {} and {} descriptors", nic.rx_descriptors, nic.tx_descriptors));
    let mut cluster = Cluster::with(run, &link, hosts[0], hosts[1], nic, config);
    for round in 1..=2 {
        let (flows, messages) = (1 + rng.below(16) as usize, 1 + rng.below(120) as usize);
        let first = rng.below(8) as usize;
        let talk = cluster.talk(&mut rng, first, flows, messages, 20_000);
        for _ in 0..rng.below(8) {
            cluster.world.run_for(micros(rng.below(3000))).unwrap();
            disturb(&mut cluster, &mut rng);
        }
        cluster.finish(&talk, seconds(120));
        cluster.note(run, &format!("{flows} flows"));
        if round == 2 {
            cluster.end(&talk);
            return;
        }
        // What was learnt meanwhile is old, or of a port that is closed.
        cluster.world.run_for(TOMBSTONES * rng.below(3) as u32).unwrap();
        cluster.move_to(PORT + 1 + rng.below(100) as u16);
    }
}

pub(super) fn host(rng: &mut SimRng) -> Host {
    let engines = 1 + rng.below(6) as usize;
    let kinds = [Rss::Toeplitz, Rss::Toeplitz, Rss::Random, Rss::Random, Rss::Wrong, Rss::Spray, Rss::First];
    let rss = kinds[rng.below(kinds.len() as u64) as usize];
    // With fewer ports than usual, for others were in the way.
    let ports = if rng.chance(0.5) { 4 * engines as u16 } else { 1 + rng.below(4 * engines as u64) as u16 };
    Host { engines, ports, rss: if engines == 1 { Rss::First } else { rss } }
}

fn link(rng: &mut SimRng) -> Link {
    let some = |rng: &mut SimRng, most: f64| if rng.chance(0.5) { rng.below(1000) as f64 / 1000.0 * most } else { 0.0 };
    Link {
        loss: some(rng, 0.1),
        duplicate: some(rng, 0.2),
        reorder: some(rng, 0.2),
        reorder_by: micros(100),
        ..Link::with_rate(10_000_000_000, micros(20), 1 << 20)
    }
}

/// Another hash at one of the hosts, or an engine that stands still.
fn disturb(cluster: &mut Cluster, rng: &mut SimRng) {
    let host = if rng.chance(0.5) { &cluster.clients } else { &cluster.servers };
    let engine = host[rng.below(host.len() as u64) as usize];
    if rng.chance(0.5) {
        cluster.world.fabric().redraw_rss(cluster.world.driver(engine));
    } else {
        cluster.world.pause(engine, micros(rng.below(30_000)));
    }
}
