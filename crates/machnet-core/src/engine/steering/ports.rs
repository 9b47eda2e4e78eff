//! Which engine of a peer a pair of ports hits, as far as anybody said (`docs/spec/flow.md#steering`). One map for all engines of an
//! endpoint: what a pair hits does not depend on who sends.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::Duration;

use super::super::table::Keyed;
use super::search::Ports;
use crate::Instant;

/// A source port of ours and a destination port of the peer's.
pub(crate) type Pair = (u16, u16);

/// One start of an endpoint: its address and instance.
pub(crate) type PeerName = (IpAddr, u64);

/// Peers remembered; two whose hashes meet share a place, and the later one has it.
const PEERS: usize = 256;
/// Pairs of each; the later takes the place of the oldest.
const PAIRS: usize = 256;
/// How long what was learnt counts, as what is known of a path's MTU.
const LIFE: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Peer {
    name: PeerName,
    pairs: Vec<Known>,
    /// The place of the next.
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    pair: Pair,
    engine: u8,
    at: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PortMaps {
    keyed: Keyed,
    /// Empty until the first is learnt.
    places: Vec<Option<Peer>>,
}

impl PortMaps {
    pub(crate) const fn new(keyed: Keyed) -> Self {
        Self { keyed, places: Vec::new() }
    }

    fn place(&self, name: PeerName) -> usize {
        (self.keyed.hash_one(name) % PEERS as u64) as usize
    }

    fn known(&self, now: Instant, name: PeerName) -> impl Iterator<Item = &Known> {
        let peer = self.places.get(self.place(name)).and_then(Option::as_ref).filter(|peer| peer.name == name);
        let pairs = peer.map_or(&[][..], |peer| &peer.pairs);
        pairs.iter().filter(move |known| now < known.at + LIFE)
    }

    /// A pair of `ports` that hits `engine`: the one learnt last. Others were learnt by flows from other ports of ours, which may be
    /// closed, and are not for this one.
    pub(crate) fn find(&self, now: Instant, name: PeerName, ports: &Ports, engine: u8) -> Option<Pair> {
        let hits = self.known(now, name).filter(|known| known.engine == engine && ports.contains(known.pair));
        hits.max_by_key(|known| known.at).map(|known| known.pair)
    }

    /// The engine that `pair` hits.
    pub(crate) fn get(&self, now: Instant, name: PeerName, pair: Pair) -> Option<u8> {
        self.known(now, name).find(|known| known.pair == pair).map(|known| known.engine)
    }

    /// Notes that `pair` hit `engine`. If it used to hit another, the rest is out of date too.
    pub(crate) fn learn(&mut self, now: Instant, name: PeerName, pair: Pair, engine: u8) {
        if self.places.is_empty() {
            self.places.resize_with(PEERS, || None);
        }
        let place = self.place(name);
        let stale = self.get(now, name, pair).is_some_and(|known| known != engine);
        let slot = &mut self.places[place];
        let peer = match slot {
            Some(peer) if peer.name == name => peer,
            _ => slot.insert(Peer { name, pairs: Vec::new(), next: 0 }),
        };
        if stale {
            peer.pairs.clear();
            peer.next = 0;
        }
        let known = Known { pair, engine, at: now };
        if let Some(old) = peer.pairs.iter_mut().find(|known| known.pair == pair) {
            *old = known;
        } else if peer.pairs.len() < PAIRS {
            peer.pairs.push(known);
        } else {
            peer.pairs[peer.next] = known;
            peer.next = (peer.next + 1) % PAIRS;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const NOW: Instant = Instant(1_000_000_000);
    const ANY: Ports = Ports { own: (1, 9), peer: (0, u16::MAX) };

    fn maps() -> PortMaps {
        PortMaps::new(Keyed::new(&mut ChaCha12Rng::from_seed([0; 32])))
    }

    fn peer(n: u32) -> PeerName {
        (IpAddr::from(n.to_be_bytes()), 7)
    }

    #[test]
    fn it_finds_what_it_learnt_until_that_is_old() {
        let mut maps = maps();
        assert_eq!(maps.find(NOW, peer(1), &ANY, 0), None);
        maps.learn(NOW, peer(1), (1, 2), 3);
        maps.learn(NOW, peer(1), (1, 3), 0);
        assert_eq!(maps.find(NOW, peer(1), &ANY, 3), Some((1, 2)));
        assert_eq!(maps.get(NOW, peer(1), (1, 3)), Some(0));
        assert_eq!((maps.find(NOW, peer(1), &ANY, 1), maps.find(NOW, peer(2), &ANY, 3)), (None, None));
        assert_eq!(maps.find(NOW, (peer(1).0, 8), &ANY, 3), None, "another start");
        assert_eq!(maps.find(NOW + LIFE, peer(1), &ANY, 3), None);
        let other = Ports { own: (2, 2), ..ANY };
        assert_eq!(maps.find(NOW, peer(1), &other, 3), None, "from another port");
    }

    #[test]
    fn a_contradiction_empties_the_map_of_that_peer() {
        let mut maps = maps();
        for pair in 0..9 {
            maps.learn(NOW, peer(1), (1, pair), 1);
            maps.learn(NOW, peer(2), (1, pair), 1);
        }
        maps.learn(NOW, peer(1), (1, 4), 2);
        assert_eq!((maps.find(NOW, peer(1), &ANY, 1), maps.find(NOW, peer(1), &ANY, 2)), (None, Some((1, 4))));
        assert!(maps.find(NOW, peer(2), &ANY, 1).is_some());
    }

    #[test]
    fn it_is_bounded() {
        let mut maps = maps();
        for n in 0..10_000 {
            maps.learn(NOW, peer(n), (1, 1), 1);
        }
        for pair in 0..=u16::MAX {
            maps.learn(NOW, peer(1), (1, pair), 1);
        }
        assert_eq!(maps.places.len(), PEERS);
        assert_eq!(maps.known(NOW, peer(1)).count(), PAIRS);
        assert_eq!(maps.get(NOW, peer(1), (1, u16::MAX)), Some(1));
    }
}
