//! Sleeping: one word for each side, in which it says what it wants to be rung for.
//!
//! ```text
//!   doer:    show (produced, consumed, marks), fence(SeqCst), other's wants has that? ─yes─▶ clear it, ring
//!   sleeper: wants = …, fence(SeqCst), look at everything again, sleep
//! ```
//!
//! One of the two fences comes first: either the doer sees the word, or the sleeper sees what was done. One word for all
//! that is shown, so that a round costs one fence and one load of a line that nobody writes while both are awake.

use super::geometry::{Layout, Side};
use crate::Words;
use crate::sync::atomic::{Ordering, fence};
use crate::sync::mutant;

/// What a side that sleeps is rung for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Wants(u64);

impl Wants {
    /// Pieces and marks.
    pub(super) const DATA: Self = Self(1);
    /// Pieces that were taken: there is room for others.
    pub(super) const ROOM: Self = Self(2);

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Before sleeping. Look at everything once more.
pub(super) fn arm<W: Words>(words: &W, sleeper: Side, wants: Wants) {
    words.words()[Layout::wants(sleeper)].store(wants.0, Ordering::Relaxed);
    // Pairs with the fence in `must_ring`.
    if !mutant!("shared_arm_fence") {
        fence(Ordering::SeqCst);
    }
}

/// Awake again.
pub(super) fn disarm<W: Words>(words: &W, sleeper: Side) {
    words.words()[Layout::wants(sleeper)].store(0, Ordering::Relaxed);
}

/// After `did` was shown: true if the other side sleeps and must be rung.
pub(super) fn must_ring<W: Words>(words: &W, sleeper: Side, did: Wants) -> bool {
    if did.is_empty() {
        return false;
    }
    // Orders what was shown before the look at the word; pairs with the fence in `arm`.
    if !mutant!("shared_ring_fence") {
        fence(Ordering::SeqCst);
    }
    let word = &words.words()[Layout::wants(sleeper)];
    let rings = word.load(Ordering::Relaxed) & did.0 != 0;
    if rings {
        // Not swapped: who sees the word set rings in any case, and there is one ringer.
        word.store(0, Ordering::Relaxed);
    }
    rings
}
