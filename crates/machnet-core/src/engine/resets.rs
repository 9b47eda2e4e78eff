//! How many RESETs a source may cause: a token bucket per hash of its address (`docs/spec/flow.md#limits`).

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use super::table::Keyed;
use crate::Instant;

const BUCKETS: usize = 256;
const BURST: u64 = 16;
const INTERVAL: Duration = Duration::from_millis(10);

/// Sources that share a bucket share its tokens: the memory is constant, whoever floods.
#[derive(Debug)]
pub(crate) struct ResetLimit {
    keyed: Keyed,
    /// When each bucket will be full again.
    full_at: [Instant; BUCKETS],
}

impl ResetLimit {
    pub(crate) const fn new(keyed: Keyed) -> Self {
        Self { keyed, full_at: [Instant::ZERO; BUCKETS] }
    }

    /// Takes a token of `source`'s bucket, if it has one.
    pub(crate) fn allow(&mut self, now: Instant, source: IpAddr) -> bool {
        let full_at = &mut self.full_at[(self.keyed.hash_one(source) % BUCKETS as u64) as usize];
        let next = (*full_at).max(now) + INTERVAL;
        let allowed = next.since(now).as_nanos() <= u128::from(BURST) * INTERVAL.as_nanos();
        if allowed {
            *full_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn a_burst_then_one_per_interval() {
        let mut limit = ResetLimit::new(Keyed::new(&mut ChaCha12Rng::from_seed([0; 32])));
        let source = IpAddr::from([127, 0, 0, 1]);
        let now = Instant(1_000_000_000);
        assert_eq!((0..100).filter(|_| limit.allow(now, source)).count(), BURST as usize);
        assert!(!limit.allow(now + INTERVAL / 2, source));
        assert!(limit.allow(now + INTERVAL, source));
        assert!(!limit.allow(now + INTERVAL, source));
    }

    /// However many sources there are, what is sent for them is bounded: no more than all buckets' tokens.
    #[test]
    fn a_million_sources_share_the_buckets() {
        let mut limit = ResetLimit::new(Keyed::new(&mut ChaCha12Rng::from_seed([0; 32])));
        let now = Instant(1_000_000_000);
        let allowed = (0..1_000_000_u32).filter(|&n| limit.allow(now, IpAddr::from(n.to_be_bytes()))).count();
        assert_eq!(allowed, BUCKETS * BURST as usize);
    }
}
