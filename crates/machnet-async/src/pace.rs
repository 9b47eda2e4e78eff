//! How much an inline engine does in one round, so that a round takes a bounded time.
//!
//! A round is bounded by counts, which is all that an engine without a clock can do. What they cost in time depends on
//! machine, driver and messages, so they are tuned by the rounds themselves.

use std::time::Duration;

/// A round that takes longer is too long for whoever shares the runtime.
pub(crate) const LONGEST: Duration = Duration::from_micros(50);
/// A full round that takes less may do more: batches are what makes packets cheap.
const SHORTEST: Duration = Duration::from_micros(20);
/// A round that took this long may have lost the core to somebody else. Two in a row hardly did.
const LOST: Duration = Duration::from_millis(1);
/// Packets, hints, timers: see [`machnet_core::Engine::set_burst`].
const BURST: std::ops::RangeInclusive<usize> = 8..=256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    burst: usize,
    /// The last round took [`LOST`] and more.
    doubtful: bool,
}

impl Pace {
    /// An engine begins with a quarter of what it could do.
    pub(crate) const fn new() -> Self {
        Self { burst: 64, doubtful: false }
    }

    pub(crate) const fn burst(&self) -> usize {
        self.burst
    }

    /// A round took `time`; `full`: a bound ended it. Returns true if the burst is another now.
    pub(crate) fn took(&mut self, time: Duration, full: bool) -> bool {
        let before = self.burst;
        let doubted = std::mem::replace(&mut self.doubtful, time >= LOST);
        if time > LONGEST && (!self.doubtful || doubted) {
            // In proportion, and a little below: half is too much for a round that was slightly too long.
            let fitting = (before as f64 * 0.8 * LONGEST.as_secs_f64() / time.as_secs_f64()) as usize;
            self.burst = fitting.max(*BURST.start());
        } else if time < SHORTEST && full {
            self.burst = (before + before / 4).min(*BURST.end());
        }
        self.burst != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds with more to do than they may, at `fixed` and `each` ns per thing; what each of them took.
    fn rounds(pace: &mut Pace, count: usize, fixed: u64, each: u64) -> Vec<Duration> {
        let mut round = || {
            let time = Duration::from_nanos(fixed + each * pace.burst() as u64);
            pace.took(time, true);
            time
        };
        std::iter::repeat_with(&mut round).take(count).collect()
    }

    #[test]
    fn full_rounds_come_to_take_what_they_may_whatever_things_cost() {
        for (fixed, each) in [(500, 100), (1000, 400), (2000, 1000), (5000, 3000), (500, 5000)] {
            let mut pace = Pace::new();
            let times = rounds(&mut pace, 100, fixed, each);
            assert!(times[10..].iter().all(|&time| time <= LONGEST), "{fixed} + n · {each} ns: {times:?}");
            let enough = times[10] >= SHORTEST || pace.burst() == *BURST.end();
            assert!(enough, "{fixed} + n · {each} ns: {times:?}");
        }
    }

    #[test]
    fn follows_when_things_become_dear_and_cheap_again() {
        let mut pace = Pace::new();
        for _ in 0..3 {
            rounds(&mut pace, 50, 500, 50);
            assert_eq!(pace.burst(), 256);
            let times = rounds(&mut pace, 50, 500, 2000);
            assert!(times[2..].iter().all(|&time| time <= LONGEST), "two long rounds at most: {times:?}");
        }
    }

    #[test]
    fn never_less_than_a_few_and_never_for_a_core_that_was_lost() {
        let mut pace = Pace::new();
        rounds(&mut pace, 10, 500, 20_000);
        assert_eq!(pace.burst(), 8);
        let mut pace = Pace::new();
        for _ in 0..100 {
            assert!(!pace.took(Duration::from_millis(4), true), "somebody else had the core");
            assert!(!pace.took(Duration::from_micros(3), false), "a round that had little to do says nothing");
        }
    }
}
