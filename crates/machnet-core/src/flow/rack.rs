//! How long a packet may be overtaken before it counts as lost: RACK's reordering window (RFC 8985 §6.2), on packet
//! numbers (`docs/spec/flow.md#loss`).
//!
//! Two things differ from TCP. A number is sent once, so that its acknowledgement always says *when* it was sent. And
//! the acknowledgement of a number that was declared lost, not a DSACK, says that the retransmission was spurious.

use super::rtt::Rtt;
use crate::Instant;
use crate::time::Span;

/// Numbers by which a packet must lie behind the newest one acknowledged to be lost at once, while nothing was ever
/// reordered: RFC 8985's DupThresh, RFC 9002 §6.1.1.
const THRESHOLD: u64 = 3;
/// Recoveries for which a widened window stays (RFC 8985 §6.2: `RACK.reo_wnd_persist`).
const PERSIST: u8 = 16;

#[derive(Debug)]
pub(super) struct Rack {
    /// One past the newest number known to have arrived; 0: none.
    newest: u64,
    /// Its round trip, nanoseconds, saturating at 4 s.
    rtt: u32,
    /// A packet arrived that an earlier acknowledgement had reported missing.
    reordering: bool,
    /// The window in quarters of the smallest round trip.
    quarters: u8,
    /// Recoveries until it is one quarter again.
    persist: u8,
    /// The window is not widened again before a number from here on is acknowledged: once per round trip.
    widened_at: u64,
    /// Losses are being repaired until this number or a later one is acknowledged; 0: none are.
    recovery: u64,
    /// When the newest recovery began, and how many packets were declared lost since that nobody acknowledged.
    began: Instant,
    unrefuted: u32,
}

impl Rack {
    pub(super) const fn new() -> Self {
        Self {
            newest: 0,
            rtt: 0,
            reordering: false,
            quarters: 1,
            persist: 0,
            widened_at: 0,
            recovery: 0,
            began: Instant::ZERO,
            unrefuted: 0,
        }
    }

    /// `number`, sent at `sent`, was acknowledged for the first time; `missing`: an earlier block said it was not there.
    pub(super) fn acknowledged(&mut self, now: Instant, number: u64, sent: Instant, missing: bool) {
        self.reordering |= missing;
        if number >= self.newest {
            self.newest = number + 1;
            self.rtt = u32::try_from(now.0.saturating_sub(sent.0)).unwrap_or(u32::MAX);
        }
        if self.recovery > 0 && number >= self.recovery {
            self.recovery = 0;
            self.persist = self.persist.saturating_sub(1);
            if self.persist == 0 {
                self.quarters = 1;
            }
        }
    }

    /// A packet that was declared lost `at` was acknowledged: `next` is the number to be sent next. Returns true if that
    /// refutes the last loss of the newest recovery: what was done about it is to be undone.
    pub(super) fn refuted(&mut self, at: Instant, next: u64) -> bool {
        if self.newest > self.widened_at {
            self.quarters = self.quarters.saturating_add(1);
            self.widened_at = next;
        }
        self.persist = PERSIST;
        if at < self.began || self.unrefuted == 0 {
            return false;
        }
        self.unrefuted -= 1;
        if self.unrefuted == 0 {
            self.recovery = 0;
        }
        self.unrefuted == 0
    }

    /// A packet was declared lost; `next` is the number to be sent next.
    pub(super) fn lost(&mut self, now: Instant, next: u64) {
        if self.recovery == 0 {
            self.recovery = next;
            self.began = now;
            self.unrefuted = 0;
        }
        self.unrefuted += 1;
    }

    /// How long after its sending a packet is lost, if a later one arrived; the oldest such is `behind` numbers behind.
    pub(super) fn delay(&self, behind: u64, rtt: &Rtt) -> Span {
        let base = if self.newest > 0 { Span::from_nanos(self.rtt.into()) } else { rtt.smoothed_or_initial() };
        if !self.reordering && (behind >= THRESHOLD || self.recovery > 0) {
            return base;
        }
        base + (rtt.min() / 4 * self.quarters.into()).min(rtt.smoothed_or_initial())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Span {
        Span::from_micros(n)
    }

    fn measured(micros: u64) -> Rtt {
        let mut rtt = Rtt::new();
        rtt.sample(Instant::ZERO, us(micros), Span::ZERO, Span::ZERO);
        rtt
    }

    #[test]
    fn the_window_is_a_quarter_widens_and_comes_back() {
        let rtt = measured(100);
        let mut rack = Rack::new();
        rack.acknowledged(Instant(100_000), 5, Instant(0), false);
        assert_eq!(rack.delay(1, &rtt), us(125));
        assert_eq!(rack.delay(3, &rtt), us(100), "nothing was ever reordered");
        rack.lost(Instant(200_000), 10);
        assert_eq!(rack.delay(1, &rtt), us(100), "in recovery");
        rack.acknowledged(Instant(300_000), 3, Instant(0), true);
        assert_eq!(rack.delay(3, &rtt), us(125), "reordering was seen");
        // Spurious: wider, once per round trip, never beyond one.
        assert!(rack.refuted(Instant(200_000), 10));
        assert!(!rack.refuted(Instant(200_000), 10));
        assert_eq!(rack.delay(3, &rtt), us(150));
        for next in 11..30 {
            rack.acknowledged(Instant(400_000), next, Instant(300_000), false);
            let _ = rack.refuted(Instant::ZERO, next + 1);
        }
        assert_eq!(rack.delay(3, &rtt), us(200));
        // 16 recoveries later it is a quarter again.
        for round in 0..16 {
            assert_eq!(rack.delay(3, &rtt), us(200), "{round}");
            rack.lost(Instant(500_000), 100 + round);
            rack.acknowledged(Instant(500_000), 100 + round, Instant(400_000), false);
        }
        assert_eq!(rack.delay(3, &rtt), us(125));
    }

    #[test]
    fn only_when_every_loss_was_refuted_is_it_undone() {
        let mut rack = Rack::new();
        rack.acknowledged(Instant(1), 9, Instant(0), false);
        rack.lost(Instant(10), 12);
        rack.lost(Instant(11), 12);
        assert!(!rack.refuted(Instant(10), 13));
        assert!(rack.refuted(Instant(11), 13));
        // A loss of an earlier recovery says nothing of this one.
        rack.lost(Instant(20), 14);
        assert!(!rack.refuted(Instant(11), 15));
        assert!(rack.refuted(Instant(20), 15));
    }
}
