//! How much is written into the log of what callers do: a log that grows as fast as somebody calls fills the disk.

use std::time::{Duration, Instant};

/// Lines at once, and how long until there may be another.
const BURST: u32 = 200;
const EACH: Duration = Duration::from_millis(500);

/// Of one kind of lines.
#[derive(Debug)]
pub(super) struct Ration {
    what: &'static str,
    /// When all that was written is paid for.
    paid: Option<Instant>,
    withheld: u64,
}

impl Ration {
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, paid: None, withheld: 0 }
    }

    /// True if a line may be written. The first one after others may not says how many those were.
    pub(super) fn may(&mut self, now: Instant) -> bool {
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + EACH;
        if paid > now + BURST * EACH {
            self.withheld += 1;
            return false;
        }
        self.paid = Some(paid);
        let lines = std::mem::take(&mut self.withheld);
        if lines > 0 {
            tracing::warn!(lines, "of {} were not written: `machnet stat` counts them all", self.what);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_written_and_then_one_now_and_then() {
        let (mut ration, begin) = (Ration::new("refusals"), Instant::now());
        let written = (0..1_000_000_u32).filter(|n| ration.may(begin + *n * Duration::from_micros(100))).count();
        // In 100 s.
        assert_eq!(written, 200 + 199);
        assert!(ration.withheld > 0);
    }
}
