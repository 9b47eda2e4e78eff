//! The round-trip estimator of RFC 9002 §5, in nanoseconds (`docs/spec/flow.md#loss-and-time`).

use crate::Instant;
use crate::time::Span;

/// A datacentre's guess before the first sample, where RFC 9002's 333 ms is the Internet's.
const INITIAL: Span = Span::from_millis(1);
/// What a yielding engine thread on a shared core needs not to fire spuriously.
const GRANULARITY: Span = Span::from_micros(100);
/// The longest a back-off gets: a dead peer is found in time, and a path that heals is tried soon.
pub(super) const MAX_PTO: Span = Span::from_secs(1);
/// Half of the time for which a smallest round trip counts. In all as long as BBR's MinRTTFilterLen and Linux'
/// `tcp_min_rtt_wlen`: a path that changes is noticed, a queue that stands for seconds is not taken for the path.
const MIN_WINDOW: Span = Span::from_secs(5);
/// Persistent congestion, in PTOs (RFC 9002 §7.6.1).
const PERSISTENT: u64 = 3;

/// Times in nanoseconds: there is one per flow.
#[derive(Debug)]
pub(crate) struct Rtt {
    /// 0 before the first sample.
    smoothed: u64,
    variation: u64,
    /// The smallest of the current half window and of the one before, and when the current one began.
    min: [u64; 2],
    min_since: Instant,
    /// The peer's promise (`docs/spec/wire.md#handshake`).
    peer_max_ack_delay: u64,
}

impl Rtt {
    pub(crate) const fn new() -> Self {
        Self {
            smoothed: 0,
            variation: INITIAL.0 / 2,
            min: [u64::MAX; 2],
            min_since: Instant::ZERO,
            peer_max_ack_delay: 0,
        }
    }

    /// What the peer promises. More than a second helps nobody, and would keep probes away.
    pub(crate) fn set_peer_max_ack_delay(&mut self, micros: u32) {
        self.peer_max_ack_delay = u64::from(micros.min(1_000_000)) * 1000;
    }

    /// Takes a sample: a packet was acknowledged `latest` after it was sent; the peer says it waited `delay` of that, and
    /// we may not have looked for `gap`.
    pub(crate) fn sample(&mut self, now: Instant, latest: Span, delay: Span, gap: Span) {
        let latest = latest.0.max(1);
        if self.min_since + MIN_WINDOW <= now {
            self.min = [u64::MAX, self.min[0]];
            self.min_since = now;
        }
        self.min[0] = self.min[0].min(latest);
        let delay = delay.0.min(self.peer_max_ack_delay);
        // Never below the minimum. RFC 9002 §5.3 would not subtract at all then; our peers say rather too much, since they
        // count from their previous poll.
        let adjusted = latest.saturating_sub(delay).saturating_sub(gap.0).max(self.min[0].min(self.min[1]));
        if self.smoothed == 0 {
            self.smoothed = latest;
            self.variation = latest / 2;
        } else {
            self.variation = (3 * self.variation + self.smoothed.abs_diff(adjusted)) / 4;
            self.smoothed = (7 * self.smoothed + adjusted) / 8;
        }
    }

    /// The smoothed value; zero before the first sample.
    pub(crate) const fn smoothed(&self) -> Span {
        Span::from_nanos(self.smoothed)
    }

    /// The smoothed value, or the guess.
    pub(crate) const fn smoothed_or_initial(&self) -> Span {
        if self.smoothed == 0 { INITIAL } else { self.smoothed() }
    }

    /// The smallest of the last 5 to 10 s in which there were samples, or the guess.
    pub(crate) fn min(&self) -> Span {
        let min = self.min[0].min(self.min[1]);
        if min == u64::MAX { INITIAL } else { Span::from_nanos(min) }
    }

    /// How long to wait for an acknowledgement before probing, after `backoff` probes in a row: RFC 9002 §6.2.1, and
    /// no later than RFC 8985 §7.2 has it (2·srtt), so that a variation measured once does not delay every tail.
    pub(crate) fn pto(&self, backoff: u32) -> Span {
        let smoothed = self.smoothed_or_initial().0;
        let once = smoothed + (4 * self.variation).min(smoothed).max(GRANULARITY.0) + self.peer_max_ack_delay;
        Span::from_nanos(once.saturating_mul(1 << backoff.min(16))).min(MAX_PTO)
    }

    /// How long news of the peer keep a probe away.
    pub(crate) fn hold(&self) -> Span {
        self.smoothed_or_initial().max(GRANULARITY)
    }

    /// Everything sent within such a time was lost: the path carries nothing (RFC 9002 §7.6). None before a sample.
    pub(crate) fn persistent(&self) -> Option<Span> {
        let once = self.smoothed + (4 * self.variation).max(GRANULARITY.0) + self.peer_max_ack_delay;
        (self.smoothed > 0).then(|| Span::from_nanos(PERSISTENT * once))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Span {
        Span::from_micros(n)
    }

    #[test]
    fn follows_rfc_9002() {
        let mut rtt = Rtt::new();
        rtt.set_peer_max_ack_delay(250);
        assert_eq!(rtt.pto(0), us(1000 + 1000 + 250));
        assert_eq!(rtt.persistent(), None);
        rtt.sample(Instant(0), us(100), us(40), us(0));
        assert_eq!((rtt.smoothed(), rtt.variation), (us(100), 50_000));
        assert_eq!(rtt.pto(0), us(100 + 100 + 250));
        assert_eq!(rtt.persistent(), Some(us(3 * (100 + 200 + 250))));
        rtt.sample(Instant(1), us(300), us(200), us(0));
        // Adjusted to 100 µs: not below the minimum.
        assert_eq!((rtt.smoothed(), rtt.variation), (us(100), 37_500));
        rtt.sample(Instant(2), us(110), us(60), us(0));
        // 50 µs would be below the minimum.
        assert_eq!(rtt.smoothed(), us(100));
        assert_eq!(rtt.pto(1), 2 * rtt.pto(0));
        assert_eq!(rtt.pto(40), MAX_PTO);
    }

    #[test]
    fn an_absurd_delay_is_cut_to_the_promise() {
        let mut rtt = Rtt::new();
        rtt.set_peer_max_ack_delay(250);
        rtt.sample(Instant(0), us(100), us(0), us(0));
        rtt.sample(Instant(1), us(1000), us(60_000), us(0));
        assert_eq!(rtt.smoothed(), (7 * us(100) + us(750)) / 8);
    }

    #[test]
    fn a_smallest_round_trip_is_forgotten() {
        let mut rtt = Rtt::new();
        let second = |n: u64| Instant(n * 1_000_000_000);
        rtt.sample(second(6), us(100), us(0), us(0));
        for n in 7..11 {
            rtt.sample(second(n), us(300), us(0), us(0));
            assert_eq!(rtt.min(), us(100));
        }
        rtt.sample(second(11), us(300), us(0), us(0));
        assert_eq!(rtt.min(), us(100), "it was of the half window before");
        rtt.sample(second(16), us(200), us(0), us(0));
        assert_eq!(rtt.min(), us(200));
    }
}
