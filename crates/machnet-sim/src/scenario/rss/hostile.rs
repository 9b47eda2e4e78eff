//! Peers that lie, and strangers that forge: nobody is harmed but, at most, the liar.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use machnet_core::DropReason;
use machnet_core::wire::{HEADER_LEN, Header, PROBE_LEN, PacketType, Probe, SeenAt};

use super::super::{Run, Scenario, kept};
use super::cluster::{Cluster, Host};
use crate::setup::{PORT, micros, millis, seconds};
use crate::{Link, Rss, SimRng, Verdict};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept(
        "rss-forged",
        "a flood of forged probes and answers costs at most an answer each, and changes no flow's path",
        forged,
    ),
    kept("rss-liar", "a peer that says anything about its queues, engines and ports harms nobody", liar),
];

/// Datagrams that somebody noted on their way.
type Noted = Arc<Mutex<VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>>>;

fn link() -> Link {
    Link::with_rate(10_000_000_000, micros(20), 1 << 20)
}

/// Who sees the flows' ids, and can send in both sides' names, but sees no nonce in time.
fn forged(run: &Run) {
    let host = Host::of(4, Rss::Random);
    let mut cluster = Cluster::new(run, &link(), host, host);
    let noted = Noted::default();
    for link in [cluster.there, cluster.back] {
        let noted = Arc::clone(&noted);
        cluster.world.fabric().filter(link, move |seen| {
            let data = Header::parse(seen.payload).is_ok_and(|(header, _)| header.packet_type == PacketType::Data);
            let mut noted = noted.lock().unwrap();
            if data && noted.len() < 64 {
                noted.push_back((seen.from, seen.to, seen.payload.to_vec()));
            }
            Verdict::Pass
        });
    }
    let talk = cluster.talk(&mut run.rng(), 0, 8, 1500, 3000);
    let (handle, fabric) = (cluster.world.handle().clone(), cluster.world.fabric().clone());
    let mut rng = SimRng::new(run.seed(), 77);
    cluster.world.spawn("forger", async move {
        for n in 0..4000 {
            handle.sleep(micros(5)).await;
            let Some((mut from, mut to, packet)) = noted.lock().unwrap().pop_front() else { continue };
            let Ok((header, _)) = Header::parse(&packet) else { continue };
            let packet_type = if n % 2 == 0 { PacketType::Probe } else { PacketType::ProbeReply };
            let ports = if rng.chance(0.5) { (from.port(), to.port()) } else { (rng.word() as u16, rng.word() as u16) };
            let probe = Probe {
                nonce: rng.word().max(1),
                answers: rng.chance(0.5).then(|| (rng.word().max(1), rng.below(4) as u8)),
                seen: rng.chance(0.5).then(|| SeenAt { ports: (ports.1, ports.0), engine: rng.below(4) as u8 }),
                settled: rng.chance(0.5),
                home: rng.chance(0.5),
                last: rng.chance(0.2),
                more: rng.chance(0.2),
            };
            let mut forged = vec![0; PROBE_LEN];
            Header { packet_type, blocks: 0, ack_now: false, ..header }.emit(&mut forged);
            probe.emit(&mut forged[HEADER_LEN..]);
            if rng.chance(0.3) {
                from.set_port(1 + rng.below(65_535) as u16);
            }
            if rng.chance(0.1) {
                to.set_port(PORT);
            }
            fabric.inject(from, to, &forged);
        }
    });
    cluster.finish(&talk, seconds(20));
    cluster.note(run, "under a flood");
    let [a, b] = cluster.stats();
    let drops = a.drops.get(DropReason::ForgedProbe) + b.drops.get(DropReason::ForgedProbe);
    let probes = a.probes_sent + b.probes_sent;
    run.figure("answers dropped", format!("{drops}; {probes} probes sent"));
    assert!(drops > 100, "{drops}");
    // An answer to each of those that asked for one, and searches that they made somebody begin.
    assert!(probes < 4000 + 8 * 2 * 200, "{probes} probes");
    cluster.world.run(seconds(1)).unwrap();
    cluster.end(&talk);
}

/// What the servers say is replaced on its way: where probes arrived, and how many engines and ports they have.
fn liar(run: &Run) {
    for (name, lie) in [("queues", lie_about_queues as fn(&mut SimRng, &mut [u8]) -> bool), ("ports", lie_about_ports)]
    {
        let host = Host::of(4, Rss::Random);
        let mut cluster = Cluster::new(run, &link(), host, host);
        let (noted, said) = (Noted::default(), Noted::default());
        let (hears, allowed) = (Arc::clone(&noted), Arc::clone(&said));
        let mut probe = SimRng::new(0, 0);
        cluster.world.fabric().filter(cluster.back, move |seen| {
            let mut allowed = allowed.lock().unwrap();
            if let Some(at) = allowed.iter().position(|(_, _, packet)| packet == seen.payload) {
                allowed.remove(at);
                return Verdict::Pass;
            }
            if !lie(&mut probe, &mut seen.payload.to_vec()) {
                return Verdict::Pass;
            }
            hears.lock().unwrap().push_back((seen.from, seen.to, seen.payload.to_vec()));
            Verdict::Drop
        });
        let talk = cluster.talk(&mut run.rng(), 0, 8, 1500, 3000);
        let (handle, fabric) = (cluster.world.handle().clone(), cluster.world.fabric().clone());
        let mut rng = SimRng::new(run.seed(), 78);
        cluster.world.spawn("liar", async move {
            for _ in 0..20_000 {
                handle.sleep(micros(2)).await;
                while let Some((from, to, mut packet)) = { noted.lock().unwrap().pop_front() } {
                    lie(&mut rng, &mut packet);
                    said.lock().unwrap().push_back((from, to, packet.clone()));
                    fabric.inject(from, to, &packet);
                }
            }
        });
        cluster.finish(&talk, seconds(20));
        cluster.note(run, &format!("lies about {name}"));
        let [a, _] = cluster.stats();
        // 8 flows, each once a second at most; and by those who are answered nothing but 8 of them go unanswered.
        assert!(a.probes_sent < 8 * 600, "{} probes", a.probes_sent);
        cluster.world.run_for(millis(50)).unwrap();
        cluster.end(&talk);
    }
}

/// Changes a PROBE_REPLY; false if it is none.
fn lie_about_queues(rng: &mut SimRng, packet: &mut [u8]) -> bool {
    let Ok((header, rest)) = Header::parse(packet) else { return false };
    if header.packet_type != PacketType::ProbeReply {
        return false;
    }
    let Ok(probe) = Probe::parse(rest) else { return false };
    let answers = probe.answers.map(|(nonce, _)| (nonce, rng.below(5) as u8));
    Probe { answers, settled: rng.chance(0.5), ..probe }.emit(&mut packet[HEADER_LEN..]);
    true
}

/// Changes an ACCEPT; false if it is none.
fn lie_about_ports(_: &mut SimRng, packet: &mut [u8]) -> bool {
    if !Header::parse(packet).is_ok_and(|(header, _)| header.packet_type == PacketType::Accept) {
        return false;
    }
    // As many as there can be (`docs/spec/wire.md#handshake`).
    packet[46] = 255;
    packet[48..52].copy_from_slice(&[0, 1, 255, 255]);
    true
}
