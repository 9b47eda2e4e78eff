//! A moment that may be none: an `Option<Instant>` of 8 bytes, for each flow has several.

use crate::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alarm(Instant);

impl Alarm {
    pub(super) const NONE: Self = Self(Instant(u64::MAX));

    pub(super) const fn at(at: Instant) -> Self {
        Self(at)
    }

    pub(super) fn get(self) -> Option<Instant> {
        (self != Self::NONE).then_some(self.0)
    }

    pub(super) fn is_set(self) -> bool {
        self != Self::NONE
    }

    /// True if it is set to `now` or earlier.
    pub(super) fn is_due(self, now: Instant) -> bool {
        self.is_set() && self.0 <= now
    }

    /// Sets it to `at`, unless it is set to an earlier moment.
    pub(super) fn advance(&mut self, at: Instant) {
        self.0 = self.0.min(at);
    }

    pub(super) fn take(&mut self) -> Option<Instant> {
        std::mem::replace(self, Self::NONE).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_option_in_eight_bytes() {
        assert_eq!(size_of::<Alarm>(), 8);
        let mut alarm = Alarm::NONE;
        assert!(!alarm.is_due(Instant(u64::MAX)) && alarm.get().is_none());
        alarm.advance(Instant(7));
        alarm.advance(Instant(9));
        assert!(!alarm.is_due(Instant(6)) && alarm.is_due(Instant(7)));
        assert_eq!((alarm.take(), alarm.take()), (Some(Instant(7)), None));
    }
}
