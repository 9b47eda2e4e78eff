//! Where every random choice of a simulation comes from.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of a simulation's seed. Streams are independent: what one link draws does not move what another draws.
#[derive(Clone, Debug)]
pub struct SimRng(ChaCha8Rng);

impl SimRng {
    /// Stream `stream` of `seed`.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Any 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias of a 64 × 64 bit multiplication is below 2⁻⁴⁰ for every n used here.
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with probability `p`. Draws nothing if `p` is 0, so a fault that is off costs no randomness.
    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.unit() < p
    }

    /// A duration in `(0, max]`.
    pub fn duration(&mut self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(1 + self.below(nanos))
    }

    /// A size in `0..=max`, log-uniform: as many below 1 KiB as between 1 KiB and 1 MiB.
    pub fn log_uniform(&mut self, max: usize) -> usize {
        let size = ((max as f64 + 1.0).ln() * self.unit()).exp() - 1.0;
        (size.round() as usize).min(max)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, stream| {
            let mut rng = SimRng::new(seed, stream);
            [rng.word(), rng.word()]
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn draws_stay_in_their_ranges() {
        let mut rng = SimRng::new(7, 0);
        let mut sizes = [0; 2];
        for _ in 0..10_000 {
            assert!(rng.below(3) < 3);
            assert!((0.0..1.0).contains(&rng.unit()));
            let by = rng.duration(Duration::from_nanos(5));
            assert!(by >= Duration::from_nanos(1) && by <= Duration::from_nanos(5));
            let size = rng.log_uniform(1 << 20);
            assert!(size <= 1 << 20);
            sizes[usize::from(size >= 1 << 10)] += 1;
        }
        assert_eq!(rng.below(0), 0);
        assert!(sizes.iter().all(|&n| (4_500..5_500).contains(&n)), "{sizes:?}");
    }
}
