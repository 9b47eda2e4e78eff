//! The order in which a search tries pairs, and when it gives up (`docs/spec/flow.md#steering`). Knows no packets.

use super::ports::Pair;

/// Unanswered probes in a row that end a search.
const LOST: u8 = 8;
/// Probes of a search, for each engine of the side that has more; and in any case.
const TRIES: u32 = 16;
const MOST: u32 = 512;

/// Ports, the first and the last: ours, and the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) own: (u16, u16),
    pub(crate) peer: (u16, u16),
}

impl Ports {
    /// How many pairs there are.
    pub(crate) const fn pairs(&self) -> u64 {
        count(self.own) * count(self.peer)
    }

    const fn pair(&self, n: u64) -> Pair {
        let peer = count(self.peer);
        (self.own.0 + (n / peer) as u16, self.peer.0 + (n % peer) as u16)
    }

    pub(crate) const fn contains(&self, pair: Pair) -> bool {
        self.own.0 <= pair.0 && pair.0 <= self.own.1 && self.peer.0 <= pair.1 && pair.1 <= self.peer.1
    }
}

const fn count((first, last): (u16, u16)) -> u64 {
    (last as u64).saturating_sub(first as u64) + 1
}

/// What is underway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    ports: Ports,
    at: u64,
    step: u64,
    untried: u64,
    /// Probes that may yet be sent.
    left: u32,
    lost: u8,
    /// The outstanding probe: its nonce and pair, and whether it is the second one on that pair.
    pub(crate) nonce: u64,
    pub(crate) pair: Pair,
    pub(crate) again: bool,
    /// A probe before that one, which is answered only if it hit: likewise.
    pub(crate) first: Option<(u64, Pair)>,
}

impl Search {
    /// A search in an order that `random` chooses.
    pub(crate) fn new(ports: Ports, engines: u8, random: u64) -> Self {
        let pairs = ports.pairs();
        // Every pair once: a step that has no divisor in common with their number. Neighbours must not follow each other,
        // for a hash may be a simple one.
        let mut step = ((random >> 32) % pairs) | 1;
        while gcd(step, pairs) != 1 {
            step += 2;
        }
        let left = (TRIES * u32::from(engines)).min(MOST);
        let (at, pair) = (random % pairs, (0, 0));
        Self { ports, at, step, untried: pairs, left, lost: 0, nonce: 0, pair, again: false, first: None }
    }

    /// The next pair that `skip` does not exclude; `None`: there is no other, or there were enough.
    pub(crate) fn advance(&mut self, skip: impl Fn(Pair) -> bool) -> Option<Pair> {
        while self.untried > 0 && self.left > 0 {
            let pair = self.ports.pair(self.at);
            self.at = (self.at + self.step) % self.ports.pairs();
            self.untried -= 1;
            if !skip(pair) {
                (self.pair, self.again) = (pair, false);
                return Some(pair);
            }
        }
        None
    }

    /// A probe is sent.
    pub(crate) const fn sent(&mut self, nonce: u64) {
        self.nonce = nonce;
        self.left = self.left.saturating_sub(1);
    }

    /// Another one follows it at once.
    pub(crate) const fn followed(&mut self) {
        self.first = Some((self.nonce, self.pair));
    }

    /// The pair on which the probe was sent that an answer names.
    pub(crate) fn pair_of(&self, nonce: u64) -> Option<Pair> {
        let first = self.first.filter(|&(known, _)| known == nonce).map(|(_, pair)| pair);
        if nonce == self.nonce { Some(self.pair) } else { first }
    }

    /// It was answered.
    pub(crate) const fn answered(&mut self) {
        self.lost = 0;
    }

    /// It was not. False if it is time to give up.
    pub(crate) const fn unanswered(&mut self) -> bool {
        self.lost += 1;
        self.first = None;
        self.lost < LOST
    }
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pair_is_tried_once(own in 0..9_u16, peer in 0..40_u16, random: u64) {
            let ports = Ports { own: (u16::MAX - own, u16::MAX), peer: (7000, 7000 + peer) };
            let mut search = Search::new(ports, 64, random);
            let mut tried = BTreeSet::new();
            while let Some(pair) = search.advance(|_| false) {
                prop_assert!(ports.contains(pair) && tried.insert(pair));
            }
            prop_assert_eq!(tried.len() as u64, ports.pairs());
        }
    }

    #[test]
    fn it_ends_however_many_pairs_a_peer_announces() {
        let ports = Ports { own: (1, 1000), peer: (1, u16::MAX) };
        let mut search = Search::new(ports, u8::MAX, 99);
        let mut sent = 0;
        while search.advance(|_| false).is_some() {
            search.sent(1);
            sent += 1;
        }
        assert_eq!(sent, MOST);
        let mut silent = Search::new(ports, 2, 99);
        assert_eq!((0..100).take_while(|_| silent.unanswered()).count(), LOST as usize - 1);
    }
}
