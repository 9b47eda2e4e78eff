//! HyStart++ (RFC 9406): slow start ends when a round's smallest round trip has grown, not only by loss.

use super::Acked;
use crate::Instant;
use crate::time::Span;

/// RFC 9406 §4.3, but for the least growth that counts: its 4 ms is the Internet's. What an engine's own scheduling may
/// add is our timers' granularity, 100 µs.
const MIN_THRESHOLD: u32 = 100_000;
const MAX_THRESHOLD: u32 = 16_000_000;
const DIVISOR: u32 = 8;
const SAMPLES: u8 = 8;
/// Growth is divided by this in conservative slow start, which lasts so many rounds.
const CSS_GROWTH_DIVISOR: f64 = 4.0;
const CSS_ROUNDS: u8 = 5;

/// Times in nanoseconds, saturating at 4 s.
#[derive(Debug)]
pub(super) struct HyStart {
    /// The round ends when something sent from here on is acknowledged.
    round: Instant,
    last_min: u32,
    min: u32,
    /// The smallest round trip when conservative slow start began; 0: it has not.
    baseline: u32,
    samples: u8,
    css_rounds: u8,
}

/// What slow start does next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Growth {
    /// The window grows by this part of what was acknowledged.
    By(f64),
    /// It is over.
    Over,
}

impl HyStart {
    pub(super) const fn new() -> Self {
        Self { round: Instant::ZERO, last_min: u32::MAX, min: u32::MAX, baseline: 0, samples: 0, css_rounds: 0 }
    }

    pub(super) fn on_ack(&mut self, acked: &Acked) -> Growth {
        if acked.newest >= self.round {
            self.round = acked.now;
            self.last_min = self.min;
            self.min = u32::MAX;
            self.samples = 0;
            if self.baseline > 0 {
                self.css_rounds += 1;
                if self.css_rounds >= CSS_ROUNDS {
                    return Growth::Over;
                }
            }
        }
        if let Some(rtt) = acked.rtt {
            self.sample(rtt);
        }
        Growth::By(if self.baseline > 0 { 1.0 / CSS_GROWTH_DIVISOR } else { 1.0 })
    }

    fn sample(&mut self, rtt: Span) {
        self.min = self.min.min(u32::try_from(rtt.as_nanos()).unwrap_or(u32::MAX));
        self.samples = self.samples.saturating_add(1);
        if self.samples < SAMPLES {
            return;
        }
        if self.baseline > 0 {
            if self.min < self.baseline {
                // It was jitter.
                self.baseline = 0;
                self.css_rounds = 0;
            }
        } else if self.last_min < u32::MAX {
            let threshold = (self.last_min / DIVISOR).clamp(MIN_THRESHOLD, MAX_THRESHOLD);
            if self.min >= self.last_min.saturating_add(threshold) {
                self.baseline = self.min;
                self.css_rounds = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of `samples` acknowledgements with a round trip of `rtt` µs; returns the last verdict.
    fn round(hystart: &mut HyStart, now: &mut u64, rtt: u64, samples: u32) -> Growth {
        let sent = Instant(*now);
        *now += rtt * 1000;
        let mut last = Growth::Over;
        for _ in 0..samples {
            *now += 1;
            let rtt = Span::from_micros(rtt);
            last = hystart.on_ack(&Acked {
                now: Instant(*now),
                bytes: 1000,
                limited: 1000,
                newest: sent,
                rtt: Some(rtt),
                gap: Span::ZERO,
                smoothed: rtt,
                min: rtt,
            });
        }
        last
    }

    #[test]
    fn growing_delay_ends_it_after_five_careful_rounds() {
        let (mut hystart, mut now) = (HyStart::new(), 1);
        for rtt in [1000, 1001, 1010] {
            assert_eq!(round(&mut hystart, &mut now, rtt, 10), Growth::By(1.0));
        }
        // An eighth more.
        for rtt in [1200, 1250, 1300, 1350, 1400] {
            assert_eq!(round(&mut hystart, &mut now, rtt, 10), Growth::By(0.25), "{rtt}");
        }
        assert_eq!(round(&mut hystart, &mut now, 1400, 1), Growth::Over);
    }

    #[test]
    fn jitter_does_not_end_it() {
        let (mut hystart, mut now) = (HyStart::new(), 1);
        round(&mut hystart, &mut now, 1000, 10);
        assert_eq!(round(&mut hystart, &mut now, 1300, 10), Growth::By(0.25));
        assert_eq!(round(&mut hystart, &mut now, 1000, 10), Growth::By(1.0));
        // Too few samples to tell.
        assert_eq!(round(&mut hystart, &mut now, 9000, 7), Growth::By(1.0));
    }
}
