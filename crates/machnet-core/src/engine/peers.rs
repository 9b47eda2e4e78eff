//! Peers: the endpoints that flows lead to, whether they live, and whether they are still the same.
//!
//! A peer is named by its address and home port, and is one start of an endpoint: its `instance`. Liveness is kept here,
//! shared by all flows to the peer: 100 000 idle flows to one peer cost one keepalive (`docs/spec/flow.md#liveness`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use slab::Slab;

use super::table::Keyed;
use super::timers::Timers;
use crate::Instant;

/// How many keepalives fit into `dead_peer_timeout`: three may be lost.
const KEEPALIVES: u32 = 4;

/// A flow's place in its peer's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    peer: u32,
    index: u32,
}

#[derive(Debug)]
struct Peer {
    name: (IpAddr, u16),
    instance: u64,
    /// Its place in the order in which starts of peers were found, by all engines of the endpoint.
    since: u64,
    /// When something of it last arrived.
    heard: Instant,
    /// Keys of its flows.
    flows: Vec<u32>,
    /// KiB that it makes us reassemble: messages that are next in their flows, and others.
    reassembling: [u32; 2],
}

/// What is to be done about a peer whose timer expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was heard of, or has just been asked.
    Alive,
    /// Send something that it must answer.
    Probe,
    /// It has been silent for too long.
    Dead,
}

#[derive(Debug)]
pub(crate) struct Peers {
    by_name: HashMap<(IpAddr, u16), u32, Keyed>,
    peers: Slab<Peer>,
    timers: Timers,
    timeout: Duration,
    /// What a peer may make us reassemble, bytes.
    reassembly: u64,
}

impl Peers {
    pub(crate) fn new(rng: &mut ChaCha12Rng, timeout: Duration, reassembly: u64) -> Self {
        Self {
            by_name: HashMap::with_hasher(Keyed::new(rng)),
            peers: Slab::new(),
            timers: Timers::new(),
            timeout,
            reassembly,
        }
    }

    /// Silence after which a peer is asked.
    pub(crate) fn interval(&self) -> Duration {
        self.timeout / KEEPALIVES
    }

    /// Adds a flow to a peer that was just validated. If this start of the peer was not known, also returns its place in the
    /// order of starts, `order()`; and if another was, `displaced` gets that one's flows.
    pub(crate) fn join(
        &mut self,
        now: Instant,
        name: (IpAddr, u16),
        instance: u64,
        flow: u32,
        order: impl FnOnce() -> u64,
        displaced: &mut Vec<u32>,
    ) -> (Membership, Option<u64>) {
        if let Some(&peer) = self.by_name.get(&name) {
            let entry = &mut self.peers[peer as usize];
            if entry.instance == instance {
                entry.heard = now;
                entry.flows.push(flow);
                return (Membership { peer, index: entry.flows.len() as u32 - 1 }, None);
            }
            // The old one keeps its entry, nameless, until its last flow is gone.
            displaced.extend(&entry.flows);
        }
        let since = order();
        let entry = Peer { name, instance, since, heard: now, flows: vec![flow], reassembling: [0; 2] };
        let peer = self.peers.insert(entry) as u32;
        self.by_name.insert(name, peer);
        self.timers.set(peer, Some(now + self.interval()));
        (Membership { peer, index: 0 }, Some(since))
    }

    /// The flows of an earlier start of a peer than the one that another engine found.
    pub(crate) fn displaced(&self, name: (IpAddr, u16), instance: u64, since: u64) -> &[u32] {
        let entry = self.by_name.get(&name).map(|&peer| &self.peers[peer as usize]);
        entry.filter(|entry| entry.instance != instance && entry.since < since).map_or(&[], |entry| &entry.flows)
    }

    /// Takes a flow out. If that moves another one of the peer's flows, returns its key and new place.
    pub(crate) fn leave(&mut self, membership: Membership) -> Option<(u32, Membership)> {
        let Membership { peer, index } = membership;
        let entry = &mut self.peers[peer as usize];
        entry.flows.swap_remove(index as usize);
        if entry.flows.is_empty() {
            let name = entry.name;
            self.timers.set(peer, None);
            self.peers.remove(peer as usize);
            if self.by_name.get(&name) == Some(&peer) {
                self.by_name.remove(&name);
            }
            return None;
        }
        entry.flows.get(index as usize).map(|&moved| (moved, membership))
    }

    /// Something of the peer arrived.
    pub(crate) fn heard(&mut self, membership: Membership, now: Instant) {
        self.peers[membership.peer as usize].heard = now;
    }

    /// A flow of the peer reassembles `now` KiB, and did `before`.
    pub(crate) fn charge(&mut self, membership: Membership, before: [u32; 2], now: [u32; 2]) {
        let charged = &mut self.peers[membership.peer as usize].reassembling;
        for kind in [0, 1] {
            charged[kind] = charged[kind] + now[kind] - before[kind];
        }
    }

    /// What the peer may yet make us reassemble, bytes: messages that are next in their flows, of which one is always allowed
    /// ([`u64::MAX`]) because it is sure to finish; and, half as much, others, which may wait for those.
    pub(crate) fn room(&self, membership: Membership) -> [u64; 2] {
        let [oldest, others] = self.peers[membership.peer as usize].reassembling.map(|kib| u64::from(kib) * 1024);
        let room = if oldest == 0 { u64::MAX } else { self.reassembly.saturating_sub(oldest) };
        [room, (self.reassembly / 2).saturating_sub(others)]
    }

    /// This side did not run for a while: nobody's silence in that time counts.
    pub(crate) fn forgive(&mut self, now: Instant) {
        let interval = self.interval();
        let Self { peers, timers, .. } = self;
        for (key, peer) in peers.iter_mut() {
            peer.heard = peer.heard.max(now - interval);
            timers.set(key as u32, Some(now));
        }
    }

    /// Gives the peers whose timer is due.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<u32>) {
        self.timers.expire(now, due);
    }

    /// Judges a peer whose timer is due, sets the next one, and returns its flows.
    pub(crate) fn judge(&mut self, now: Instant, peer: u32) -> (Verdict, &[u32]) {
        let interval = self.interval();
        let Some(entry) = self.peers.get(peer as usize) else { return (Verdict::Alive, &[]) };
        let (verdict, next) = if entry.heard + self.timeout <= now {
            (Verdict::Dead, now + interval)
        } else if entry.heard + interval <= now {
            (Verdict::Probe, (now + interval).min(entry.heard + self.timeout))
        } else {
            (Verdict::Alive, entry.heard + interval)
        };
        self.timers.set(peer, Some(next));
        (verdict, &entry.flows)
    }

    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        self.timers.next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(400);
    const NAME: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 7);

    fn peers() -> Peers {
        Peers::new(&mut ChaCha12Rng::from_seed([0; 32]), TIMEOUT, 1000 * 1024)
    }

    const fn ms(n: u64) -> Instant {
        Instant(n * 1_000_000)
    }

    fn join(peers: &mut Peers, at: Instant, instance: u64, flow: u32) -> (Membership, Vec<u32>) {
        let mut displaced = Vec::new();
        let (membership, _) = peers.join(at, NAME, instance, flow, || at.0, &mut displaced);
        (membership, displaced)
    }

    #[test]
    fn one_timer_for_all_flows_of_a_peer() {
        let mut peers = peers();
        let (first, _) = join(&mut peers, ms(0), 1, 10);
        let (second, _) = join(&mut peers, ms(0), 1, 11);
        let mut due = Vec::new();
        peers.expire(ms(99), &mut due);
        assert!(due.is_empty());
        peers.heard(second, ms(50));
        peers.expire(ms(100), &mut due);
        assert_eq!(due, [0]);
        assert_eq!(peers.judge(ms(100), 0), (Verdict::Alive, &[10, 11][..]));
        assert_eq!(peers.judge(ms(150), 0).0, Verdict::Probe);
        assert_eq!(peers.judge(ms(449), 0).0, Verdict::Probe);
        assert_eq!(peers.judge(ms(450), 0).0, Verdict::Dead);
        assert_eq!(peers.leave(first), Some((11, first)));
        assert_eq!(peers.leave(first), None);
        assert!(peers.next_deadline().is_none() && peers.by_name.is_empty());
    }

    #[test]
    fn a_peer_reassembles_one_message_or_what_fits_its_share() {
        let mut peers = peers();
        let (first, _) = join(&mut peers, ms(0), 1, 10);
        let (second, _) = join(&mut peers, ms(0), 1, 11);
        let room =
            |peers: &Peers, flow| peers.room(flow).map(|bytes| if bytes == u64::MAX { bytes } else { bytes / 1024 });
        assert_eq!(room(&peers, first), [u64::MAX, 500]);
        peers.charge(first, [0, 0], [600, 200]);
        assert_eq!(room(&peers, second), [400, 300], "flows share it");
        peers.charge(second, [0, 0], [0, 400]);
        assert_eq!(room(&peers, first), [400, 0]);
        peers.charge(first, [600, 200], [2000, 0]);
        assert_eq!(room(&peers, first), [0, 100]);
        peers.charge(first, [2000, 0], [0, 0]);
        peers.charge(second, [0, 400], [0, 0]);
        assert_eq!(room(&peers, second), [u64::MAX, 500]);
    }

    #[test]
    fn a_new_instance_displaces_the_flows_of_the_old() {
        let mut peers = peers();
        let (old, displaced) = join(&mut peers, ms(0), 1, 10);
        assert!(displaced.is_empty());
        let (new, displaced) = join(&mut peers, ms(1), 2, 11);
        assert_eq!(displaced, [10]);
        assert_ne!(old.peer, new.peer);
        assert_eq!(peers.leave(old), None);
        assert_eq!(join(&mut peers, ms(2), 2, 12).0, Membership { peer: new.peer, index: 1 });
    }

    #[test]
    fn another_engine_displaces_only_what_is_older() {
        let mut peers = peers();
        let _ = join(&mut peers, ms(5), 2, 11);
        assert_eq!(peers.displaced(NAME, 2, ms(6).0), [] as [u32; 0], "the same start");
        assert_eq!(peers.displaced(NAME, 1, ms(4).0), [] as [u32; 0], "an older one");
        assert_eq!(peers.displaced((NAME.0, 8), 3, ms(6).0), [] as [u32; 0], "another peer");
        assert_eq!(peers.displaced(NAME, 3, ms(6).0), [11]);
    }

    #[test]
    fn what_was_not_heard_while_frozen_does_not_count() {
        let mut peers = peers();
        let _ = join(&mut peers, ms(0), 1, 10);
        peers.forgive(ms(10_000));
        assert_eq!(peers.judge(ms(10_000), 0).0, Verdict::Probe);
        assert_eq!(peers.judge(ms(10_299), 0).0, Verdict::Probe);
        assert_eq!(peers.judge(ms(10_300), 0).0, Verdict::Dead);
    }
}
