//! A page behind the region: whether the daemon still answers, and its engine's counters (`docs/spec/sidecar.md#status`).
//!
//! ```text
//!   application: asked = n + 1; rings, if the daemon sleeps
//!   daemon:      sees asked ≠ answered: counters, then answered = asked      when it wakes, before it sleeps, and now and then
//! ```
//!
//! Nothing waits for an answer: who asks looks again when he asks the next time.

use crate::Words;
use crate::sync::atomic::Ordering;
use crate::sync::mutant;

/// Bytes of the page.
pub const STATUS_BYTES: usize = if cfg!(machnet_loom) { 8 * (COUNTERS + STATUS_COUNTERS) } else { 4096 };
/// Counters that fit.
pub const STATUS_COUNTERS: usize = if cfg!(machnet_loom) { 1 } else { 128 };

/// Words of the page: a line of the application's, then the daemon's.
const ASKED: usize = 0;
const ANSWERED: usize = 16;
const COUNTERS: usize = 17;

/// Where the page is, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Status(Option<usize>);

impl Status {
    /// Behind a region of so many bytes.
    pub(super) const fn behind(bytes: usize) -> Self {
        Self(Some(bytes / 8))
    }

    // The application.

    /// Asks.
    pub(super) fn ask<W: Words>(self, words: &W, number: u64) {
        if let Some(page) = self.0 {
            words.words()[page + ASKED].store(number, Ordering::Release);
        }
    }

    /// The number that was answered last; `None` if this daemon never answers.
    pub(super) fn answered<W: Words>(self, words: &W) -> Option<u64> {
        self.0.map(|page| words.words()[page + ANSWERED].load(Ordering::Acquire))
    }

    /// The counters, each as it was at about the last answer.
    pub(super) fn counters<W: Words>(self, words: &W) -> Option<[u64; STATUS_COUNTERS]> {
        let page = self.0?;
        Some(std::array::from_fn(|n| words.words()[page + COUNTERS + n].load(Ordering::Relaxed)))
    }

    // The daemon.

    /// The number that the application asked with, if it was not answered. Any will do.
    pub(super) fn question<W: Words>(self, words: &W, answered: u64) -> Option<u64> {
        let asked = words.words()[self.0? + ASKED].load(Ordering::Acquire);
        (asked != answered).then_some(asked)
    }

    /// Answers.
    pub(super) fn answer<W: Words>(self, words: &W, number: u64, counters: &[u64]) {
        let Some(page) = self.0 else { return };
        for (word, value) in words.words()[page + COUNTERS..].iter().take(STATUS_COUNTERS).zip(counters) {
            word.store(*value, Ordering::Relaxed);
        }
        let order = if mutant!("status_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        words.words()[page + ANSWERED].store(number, order);
    }
}
