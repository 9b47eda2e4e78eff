//! Time as core sees it: a number that somebody else reads from a clock and passes in.

use std::ops::{Add, AddAssign, Div, Mul, Sub};
use std::time::Duration;

/// A moment, in nanoseconds since the runner's or simulator's epoch. Core never reads a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The epoch.
    pub const ZERO: Self = Self(0);

    /// Time since `earlier`; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.after(earlier).0)
    }

    /// As [`Instant::since`].
    pub(crate) const fn after(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The earlier of two, if there are any. Not the least of a list: an array of options is written word by word and read by two words
/// at once, for which the processor waits until they have left its store buffer.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

/// A length of time in nanoseconds. [`Duration`] counts seconds apart, which takes a division each time one is made, and
/// there are dozens for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub u64);

impl Span {
    /// None.
    pub const ZERO: Self = Self(0);

    /// So many nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// So many microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros * 1_000)
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000_000)
    }

    /// 0 if it is negative or no number.
    #[must_use]
    pub const fn from_secs_f64(secs: f64) -> Self {
        Self((secs * 1e9 + 0.5) as u64)
    }

    /// Nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole microseconds.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Seconds.
    #[must_use]
    pub const fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    #[cfg(test)]
    pub(crate) const fn abs_diff(self, other: Self) -> Self {
        Self(self.0.abs_diff(other.0))
    }

    /// Zero if `other` is longer.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Span {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl Mul<u32> for Span {
    type Output = Self;
    fn mul(self, by: u32) -> Self {
        Self(self.0.saturating_mul(by.into()))
    }
}

impl Mul<Span> for u32 {
    type Output = Span;
    fn mul(self, span: Span) -> Span {
        span * self
    }
}

impl Div<u32> for Span {
    type Output = Self;
    fn div(self, by: u32) -> Self {
        Self(self.0 / u64::from(by))
    }
}

impl Add<Span> for Instant {
    type Output = Self;
    fn add(self, by: Span) -> Self {
        Self(self.0.saturating_add(by.0))
    }
}

impl AddAssign<Span> for Instant {
    fn add_assign(&mut self, by: Span) {
        *self = *self + by;
    }
}

impl Sub<Span> for Instant {
    type Output = Self;
    fn sub(self, by: Span) -> Self {
        Self(self.0.saturating_sub(by.0))
    }
}
