//! The round-trip estimator of RFC 9002 §5, in nanoseconds (`docs/spec/flow.md#loss-and-time`).

use std::time::Duration;

/// A datacentre's guess before the first sample, where RFC 9002's 333 ms is the Internet's.
const INITIAL: Duration = Duration::from_millis(1);
/// What a yielding engine thread on a shared core needs not to fire spuriously.
const GRANULARITY: Duration = Duration::from_micros(100);
/// The longest a back-off gets: a dead peer is found in time, and a path that heals is tried soon.
const MAX_PTO: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Rtt {
    latest: Duration,
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
    /// The peer's promise (`docs/spec/wire.md#handshake`).
    pub(crate) peer_max_ack_delay: Duration,
}

impl Rtt {
    pub(crate) const fn new() -> Self {
        Self {
            latest: Duration::ZERO,
            smoothed: None,
            variation: Duration::ZERO,
            min: Duration::MAX,
            peer_max_ack_delay: Duration::ZERO,
        }
    }

    /// Takes a sample: a packet was acknowledged `latest` after it was sent; the peer says it waited `delay` of that.
    pub(crate) fn sample(&mut self, latest: Duration, delay: Duration) {
        self.latest = latest;
        self.min = self.min.min(latest);
        let delay = delay.min(self.peer_max_ack_delay);
        let adjusted = if latest >= self.min + delay { latest - delay } else { latest };
        match self.smoothed {
            None => {
                self.smoothed = Some(latest);
                self.variation = latest / 2;
            }
            Some(smoothed) => {
                self.variation = (3 * self.variation + smoothed.abs_diff(adjusted)) / 4;
                self.smoothed = Some((7 * smoothed + adjusted) / 8);
            }
        }
    }

    /// The smoothed value; zero before the first sample.
    pub(crate) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(Duration::ZERO)
    }

    /// How long after its sending a packet is given up, once later ones were acknowledged.
    pub(crate) fn loss_delay(&self) -> Duration {
        let rtt = self.smoothed.unwrap_or(INITIAL).max(self.latest);
        (rtt * 9 / 8).max(GRANULARITY)
    }

    /// How long to wait for an acknowledgement before probing, after `backoff` probes in a row.
    pub(crate) fn pto(&self, backoff: u32) -> Duration {
        let (smoothed, variation) = match self.smoothed {
            Some(smoothed) => (smoothed, self.variation),
            None => (INITIAL, INITIAL / 2),
        };
        let once = smoothed + (4 * variation).max(GRANULARITY) + self.peer_max_ack_delay;
        once.saturating_mul(1 << backoff.min(16)).min(MAX_PTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn follows_rfc_9002() {
        let mut rtt = Rtt::new();
        rtt.peer_max_ack_delay = us(250);
        assert_eq!(rtt.pto(0), us(1000 + 2000 + 250));
        rtt.sample(us(100), us(40));
        assert_eq!((rtt.smoothed(), rtt.variation), (us(100), us(50)));
        rtt.sample(us(300), us(200));
        // Adjusted to 100 µs: not below the minimum.
        assert_eq!((rtt.smoothed(), rtt.variation), (us(100), us(37) + Duration::from_nanos(500)));
        rtt.sample(us(110), us(60));
        // 50 µs would be below the minimum, so the delay is not believed.
        assert_eq!(rtt.smoothed(), (7 * us(100) + us(110)) / 8);
        assert_eq!(rtt.pto(1), 2 * rtt.pto(0));
        assert_eq!(rtt.pto(40), MAX_PTO);
    }

    #[test]
    fn an_absurd_delay_is_cut_to_the_promise() {
        let mut rtt = Rtt::new();
        rtt.peer_max_ack_delay = us(250);
        rtt.sample(us(100), us(0));
        rtt.sample(us(1000), us(60_000));
        assert_eq!(rtt.smoothed(), (7 * us(100) + us(750)) / 8);
    }
}
