//! What an engine does when nothing is to be done: spin, yield, park.
//!
//! | step | costs the machine | costs whoever brings work |
//! |---|---|---|
//! | spin | a core | nothing: 0.25 µs between two cores |
//! | yield | a core, if nobody else wants it; 0.65 µs per look | as spinning, if nobody took the core |
//! | park | nothing | a system call (0.4 µs), on a virtual machine 10–20 µs to wake the other core, 25–40 µs until it runs |
//!
//! Yielding for a while before parking is the compromise that also works when there are more threads than cores: a
//! yielding engine lets the application's thread run, a spinning one fights it for whole time slices. Applications have
//! the same ladder in the [park hook](crate::ParkHook).

use std::time::Duration;

use machnet_core::Instant;

/// What an engine does when nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdlePolicy {
    /// Never sleep. Only for a core that the engine has for itself: with more busy threads than cores it delays
    /// everybody by whole scheduler time slices.
    Spin,
    /// Give the core away but stay runnable for `yield_for` after the last work, then sleep. The default, with 100 µs.
    /// While somebody else keeps the core busy, so that a yield costs a time slice, it sleeps at once.
    /// An inline engine whose driver has no descriptor to sleep on spins for 5 µs first.
    YieldThenPark {
        /// How long to stay runnable. An engine that can only nap, because its driver has no descriptor to sleep on, does so for
        /// two naps (500 µs) at least: an answer comes when the peer's nap is over, and two that slept through each other's
        /// answers would nap for ever.
        yield_for: Duration,
    },
    /// The whole ladder: spin for `spin_for` after the last work, then yield for `yield_for`, then sleep. Spinning first
    /// saves the price of a yield (0.65 µs) where answers come within microseconds.
    Ladder {
        /// How long to look without giving the core away.
        spin_for: Duration,
        /// How long to look after that, giving the core away in between.
        yield_for: Duration,
    },
    /// Sleep at once.
    Park,
}

impl IdlePolicy {
    /// How long a default engine stays runnable. Measured on two virtual cores: below 50 µs an engine parks between
    /// any two round trips and gains nothing; above 100 µs nothing improves further.
    pub const DEFAULT_YIELD: Duration = Duration::from_micros(100);
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self::YieldThenPark { yield_for: Self::DEFAULT_YIELD }
    }
}

/// What to do after a round that moved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Step {
    Spin,
    Yield,
    Park,
}

/// Where an engine stands on the ladder.
///
/// Yielding assumes that whoever gets the core gives it back soon. On a core that somebody else keeps busy a yield costs a
/// whole time slice, 3 ms and more, and a message that arrives meanwhile waits for it; a sleeper that is woken gets the
/// core almost at once. So a yield that took long says that the core is crowded, and for a while the engine sleeps instead.
#[derive(Debug)]
pub(crate) struct Idle {
    policy: IdlePolicy,
    /// Yield for so long at least, if at all.
    least: Duration,
    /// Spin for so long before the first yield, at least.
    looks: Duration,
    quiet_since: Option<Instant>,
    /// When the last round began, if it ended in a yield.
    yielded: Option<Instant>,
    crowded_until: Instant,
    /// How long to believe that the core is crowded; grows while it turns out to be so again.
    patience: Duration,
}

/// A yield that takes longer lost the core to somebody with work of his own: application tasks between two messages take
/// less, time slices more.
const SLICE: Duration = Duration::from_millis(1);
/// How long the core counts as crowded after one such yield, at first and at most: a slice of 3 ms lost in 100 ms is a price
/// worth paying to notice soon that the core is free again.
const CROWDED: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(100);

/// How long who has no descriptor to sleep on looks before it yields, where nobody of its own process waits for the core: with 32 requests
/// underway the next is there within microseconds, and a yield takes 0.65 µs, or, on a core that somebody else wants, his time slice.
const LOOKS: Duration = Duration::from_micros(5);

/// A deadline nearer than this is waited for without parking: going to sleep and coming back takes as long.
const NEAR: Duration = Duration::from_micros(50);

impl Idle {
    pub(crate) const fn new(policy: IdlePolicy) -> Self {
        let (least, looks, crowded_until, patience) = (Duration::ZERO, Duration::ZERO, Instant::ZERO, *CROWDED.start());
        Self { policy, least, looks, quiet_since: None, yielded: None, crowded_until, patience }
    }

    /// Nothing will wake it but the end of a nap of that length, and its peers may be like it.
    pub(crate) fn napping(self, nap: Duration) -> Self {
        Self { least: 2 * nap, ..self }
    }

    /// Applications run between its rounds, on its thread, and do not wait while it looks.
    pub(crate) const fn looking(&mut self) {
        self.looks = LOOKS;
    }

    /// A round that began at `now` moved something.
    pub(crate) fn busy(&mut self, now: Instant) {
        self.notice_crowd(now);
        self.quiet_since = None;
    }

    fn notice_crowd(&mut self, now: Instant) {
        let Some(at) = self.yielded.take() else { return };
        if now.since(at) < SLICE {
            return;
        }
        let again = self.crowded_until > Instant::ZERO && now.since(self.crowded_until) < *CROWDED.end();
        self.patience = if again { (2 * self.patience).min(*CROWDED.end()) } else { *CROWDED.start() };
        self.crowded_until = now + self.patience;
    }

    /// A round that began at `now` moved nothing; the next thing to do is due at `deadline`.
    pub(crate) fn quiet(&mut self, now: Instant, deadline: Option<Instant>) -> Step {
        self.notice_crowd(now);
        let quiet = now.since(*self.quiet_since.get_or_insert(now));
        let (spin_for, yield_for) = match self.policy {
            IdlePolicy::Spin => return Step::Spin,
            IdlePolicy::YieldThenPark { yield_for } => (self.looks.min(yield_for), yield_for),
            IdlePolicy::Ladder { spin_for, yield_for } => (spin_for, yield_for),
            IdlePolicy::Park => (Duration::ZERO, Duration::ZERO),
        };
        let yield_for = if yield_for.is_zero() { yield_for } else { yield_for.max(self.least) };
        let crowded = now < self.crowded_until;
        let step = if quiet < spin_for {
            Step::Spin
        } else if (quiet < spin_for.saturating_add(yield_for) && !crowded)
            || deadline.is_some_and(|at| at.since(now) < NEAR)
        {
            Step::Yield
        } else {
            Step::Park
        };
        self.yielded = (step == Step::Yield).then_some(now);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Instant {
        Instant(n * 1000)
    }

    #[test]
    fn who_naps_stays_awake_for_a_peer_that_naps() {
        let mut idle = Idle::new(IdlePolicy::default()).napping(Duration::from_micros(250));
        assert_eq!((idle.quiet(us(0), None), idle.quiet(us(499), None)), (Step::Yield, Step::Yield));
        assert_eq!(idle.quiet(us(500), None), Step::Park);
        let mut idle = Idle::new(IdlePolicy::Park).napping(Duration::from_micros(250));
        assert_eq!(idle.quiet(us(0), None), Step::Park);
    }

    #[test]
    fn who_shares_its_thread_looks_before_it_gives_the_core_away() {
        let mut idle = Idle::new(IdlePolicy::default()).napping(Duration::from_micros(250));
        idle.looking();
        let steps = [0, 4, 5, 504, 505].map(|at| idle.quiet(us(at), None));
        assert_eq!(steps, [Step::Spin, Step::Spin, Step::Yield, Step::Yield, Step::Park]);
        idle.busy(us(600));
        assert_eq!(idle.quiet(us(600), None), Step::Spin, "anew after each thing done");
        for (policy, step) in [
            (IdlePolicy::Park, Step::Park),
            (IdlePolicy::YieldThenPark { yield_for: Duration::ZERO }, Step::Park),
            (IdlePolicy::Ladder { spin_for: Duration::ZERO, yield_for: Duration::from_micros(9) }, Step::Yield),
        ] {
            let mut idle = Idle::new(policy);
            idle.looking();
            assert_eq!(idle.quiet(us(0), None), step, "{policy:?} says otherwise");
        }
    }

    #[test]
    fn yields_for_the_configured_time_then_parks_until_busy_again() {
        let mut idle = Idle::new(IdlePolicy::YieldThenPark { yield_for: Duration::from_micros(100) });
        assert_eq!(idle.quiet(us(5), None), Step::Yield);
        assert_eq!(idle.quiet(us(104), None), Step::Yield);
        assert_eq!(idle.quiet(us(105), None), Step::Park);
        assert_eq!(idle.quiet(us(9000), None), Step::Park);
        idle.busy(us(9001));
        assert_eq!(idle.quiet(us(9001), None), Step::Yield);
    }

    #[test]
    fn does_not_yield_on_a_crowded_core() {
        let mut idle = Idle::new(IdlePolicy::default());
        assert_eq!(idle.quiet(us(0), None), Step::Yield);
        idle.busy(us(3_000));
        assert_eq!(idle.quiet(us(3_001), None), Step::Park, "the yield took 3 ms");
        idle.busy(us(12_000));
        assert_eq!(idle.quiet(us(12_001), None), Step::Park);
        idle.busy(us(24_000));
        assert_eq!(idle.quiet(us(24_001), None), Step::Yield, "10 ms later it is tried again");
        idle.busy(us(28_000));
        assert_eq!(idle.quiet(us(47_000), None), Step::Park, "in vain: 20 ms this time");
        idle.busy(us(50_000));
        assert_eq!(idle.quiet(us(50_001), None), Step::Yield);
        idle.busy(us(50_010));
        assert_eq!(idle.quiet(us(50_020), None), Step::Yield, "the core is free");
    }

    /// A message every 200 µs, on a core that somebody else takes for 4 ms whenever it is given away: few of his slices are
    /// waited for. When he is gone, that is noticed after at most 100 ms.
    #[test]
    fn a_crowded_core_costs_few_slices_and_a_free_one_is_noticed_soon() {
        let mut idle = Idle::new(IdlePolicy::default());
        let (mut now, gone) = (us(0), us(10_000_000));
        let (mut lost, mut slept, mut yields) = (0, 0, 0);
        while now < us(11_000_000) {
            idle.busy(now);
            now += Duration::from_micros(1);
            match idle.quiet(now, None) {
                Step::Yield if now < gone => {
                    lost += 1;
                    now += Duration::from_millis(4);
                }
                step => {
                    yields += u32::from(step == Step::Yield);
                    slept += u32::from(step == Step::Park && now >= gone);
                    now += Duration::from_micros(199);
                }
            }
        }
        // Four while it learns, then one in 100 ms: 4 % of the time, where yielding always would lose 95 %.
        assert!((90..=105).contains(&lost), "{lost} slices lost in 10 s");
        assert!(slept <= 500, "slept {slept} times on a free core");
        assert_eq!(slept + yields, 5_000, "one step for each message");
    }

    #[test]
    fn climbs_down_the_whole_ladder() {
        let (spin_for, yield_for) = (Duration::from_micros(20), Duration::from_micros(100));
        let mut idle = Idle::new(IdlePolicy::Ladder { spin_for, yield_for });
        let steps = [5, 24, 25, 124, 125].map(|at| idle.quiet(us(at), None));
        assert_eq!(steps, [Step::Spin, Step::Spin, Step::Yield, Step::Yield, Step::Park]);
        let mut idle = Idle::new(IdlePolicy::Ladder { spin_for: Duration::MAX, yield_for });
        assert_eq!([us(1), us(9000)].map(|at| idle.quiet(at, None)), [Step::Spin, Step::Spin]);
    }

    #[test]
    fn does_not_park_for_a_deadline_around_the_corner() {
        let mut idle = Idle::new(IdlePolicy::Park);
        assert_eq!(idle.quiet(us(0), Some(us(20))), Step::Yield);
        assert_eq!(idle.quiet(us(30), Some(us(20))), Step::Yield);
        assert_eq!(idle.quiet(us(30), Some(us(500))), Step::Park);
        assert_eq!(Idle::new(IdlePolicy::Spin).quiet(us(30), None), Step::Spin);
    }
}
