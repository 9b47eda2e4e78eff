//! What paths carried lately: the sizes that path MTU discovery found, by address (`docs/spec/flow.md#path-mtu`).

use std::hash::BuildHasher;
use std::net::IpAddr;

use super::table::Keyed;
use crate::Instant;
use crate::flow::mtu::RAISE;

/// Addresses remembered; two whose hashes meet share a place, and the later one has it.
const PLACES: usize = 1024;

#[derive(Debug)]
pub(crate) struct Paths {
    keyed: Keyed,
    /// Empty until the first is learnt.
    places: Vec<Option<(IpAddr, u32, Instant)>>,
}

impl Paths {
    pub(crate) const fn new(keyed: Keyed) -> Self {
        Self { keyed, places: Vec::new() }
    }

    /// The payload that the path to `to` was found to carry, and when.
    pub(crate) fn get(&self, now: Instant, to: IpAddr) -> Option<(u32, Instant)> {
        let (known, payload, at) = (*self.places.get(self.place(to))?)?;
        (known == to && now < at + RAISE).then_some((payload, at))
    }

    pub(crate) fn learn(&mut self, now: Instant, to: IpAddr, payload: u32) {
        if self.places.is_empty() {
            self.places = vec![None; PLACES];
        }
        let place = self.place(to);
        self.places[place] = Some((to, payload, now));
    }

    fn place(&self, to: IpAddr) -> usize {
        (self.keyed.hash_one(to) % PLACES as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn it_is_bounded_and_ages() {
        let mut paths = Paths::new(Keyed::new(&mut ChaCha12Rng::from_seed([0; 32])));
        let now = Instant(1_000_000_000);
        for n in 0..100_000_u32 {
            paths.learn(now, IpAddr::from(n.to_be_bytes()), n);
        }
        assert_eq!(paths.places.len(), PLACES);
        let known = |now| (0..100_000_u32).filter(|n| paths.get(now, IpAddr::from(n.to_be_bytes())).is_some()).count();
        assert_eq!(known(now), PLACES);
        let last = IpAddr::from(99_999_u32.to_be_bytes());
        assert_eq!(paths.get(now, last), Some((99_999, now)));
        assert_eq!(known(now + RAISE), 0);
    }
}
