//! A token bucket for what is sent only because somebody else sent something.

use std::time::Duration;

use crate::Instant;

/// So many per second, and a tenth of a second's at once (at least one).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    interval: Duration,
    burst: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl RateLimit {
    /// `per_second` may be 0: nothing is allowed then.
    pub(crate) fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::ZERO);
        Self { interval, burst: interval * (per_second / 10).max(1), full_at: Instant::ZERO }
    }

    /// Takes a token, if there is one.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let next = self.full_at.max(now) + self.interval;
        let allowed = !self.interval.is_zero() && next.since(now) <= self.burst;
        if allowed {
            self.full_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_per_interval() {
        let mut limit = RateLimit::new(100);
        let now = Instant(1_000_000_000);
        assert_eq!((0..50).filter(|_| limit.allow(now)).count(), 10);
        assert!(!limit.allow(now + Duration::from_millis(9)));
        assert!(limit.allow(now + Duration::from_millis(10)));
        assert!(!limit.allow(now + Duration::from_millis(10)));
    }

    #[test]
    fn none_and_one() {
        assert!(!RateLimit::new(0).allow(Instant(1)));
        let mut one = RateLimit::new(1);
        assert!(one.allow(Instant(1)) && !one.allow(Instant(2)) && one.allow(Instant(2_000_000_000)));
    }
}
