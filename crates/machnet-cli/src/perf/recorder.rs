//! What all flows of a measurement found, together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::window::Sent;

/// Collects from all flows; readable at any time, so that an end in the middle loses nothing.
pub(crate) struct Recorder {
    inner: Mutex<Recorded>,
    /// Messages sent that are not operations yet: the other side has to confirm them.
    unconfirmed: AtomicU64,
    stop: AtomicBool,
}

/// What was found so far.
#[derive(Clone)]
pub(crate) struct Recorded {
    /// Operations that succeeded.
    pub(crate) operations: u64,
    /// Operations that did not: unanswered, refused, or answered wrongly.
    pub(crate) errors: u64,
    /// What was wrong first.
    pub(crate) first_error: Option<String>,
    /// From when a request was due to its reply, ns.
    pub(crate) latency: Histogram<u64>,
    /// From when it was sent, ns.
    pub(crate) service: Histogram<u64>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        // Three digits, up to any time: it grows to the longest.
        let histogram = || Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are possible"));
        Self {
            inner: Mutex::new(Recorded {
                operations: 0,
                errors: 0,
                first_error: None,
                latency: histogram(),
                service: histogram(),
            }),
            unconfirmed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation ended well at `now`.
    pub(crate) fn done(&self, sent: Sent, now: Instant) {
        let ns = |from: Instant| u64::try_from(now.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        inner.operations += 1;
        // It grows as needed, and so takes any value.
        let _ = inner.latency.record(ns(sent.due));
        if sent.due != sent.at {
            let _ = inner.service.record(ns(sent.at));
        }
    }

    /// Operations without a time of their own.
    pub(crate) fn count(&self, operations: u64) {
        self.lock().operations += operations;
    }

    /// Messages were sent; whether they arrived is not known yet.
    pub(crate) fn progressed(&self, messages: u64) {
        self.unconfirmed.fetch_add(messages, Ordering::Relaxed);
    }

    /// Operations that failed.
    pub(crate) fn failed(&self, operations: u64, why: impl ToString) {
        let mut inner = self.lock();
        inner.errors += operations;
        inner.first_error.get_or_insert_with(|| why.to_string());
    }

    /// How far it is; only for looking at.
    pub(crate) fn progress(&self) -> u64 {
        self.unconfirmed.load(Ordering::Relaxed).max(self.lock().operations)
    }

    pub(crate) fn recorded(&self) -> Recorded {
        self.lock().clone()
    }

    /// Asks the flows to end after what is underway.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Recorded {
    /// Latency at a quantile, µs; `None` if nothing was timed.
    pub(crate) fn latency_us(&self, quantile: f64) -> Option<f64> {
        quantile_us(&self.latency, quantile)
    }

    /// As `latency_us`, counted from when requests were sent; in a closed loop the same.
    pub(crate) fn service_us(&self, quantile: f64) -> Option<f64> {
        quantile_us(if self.service.is_empty() { &self.latency } else { &self.service }, quantile)
    }
}

fn quantile_us(histogram: &Histogram<u64>, quantile: f64) -> Option<f64> {
    let ns = histogram.value_at_quantile(quantile);
    (!histogram.is_empty()).then(|| Duration::from_nanos(ns).as_secs_f64() * 1e6)
}
