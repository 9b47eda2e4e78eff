//! How an application reaches an engine that may be asleep.
//!
//! ```text
//!   producer: push, fence(SeqCst), armed?  ──yes──▶ armed = false, wake
//!   engine:   register, armed = true, fence(SeqCst), look again at everything, sleep
//! ```
//!
//! One of the two fences comes first: either the producer sees `armed` and rings, or the engine sees the push. Several
//! producers may see `armed`; the one whose swap finds it set rings for all of them. A ring can be superfluous (the
//! engine woke for another reason), never missing.

use std::task::Waker;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{self, AtomicWaker};

/// Wakes one sleeping engine. What "wake" means is the engine's business: an eventfd of its thread, the waker of the
/// task that polls it.
#[derive(Debug)]
pub struct Doorbell {
    armed: AtomicBool,
    waker: AtomicWaker,
    rings: AtomicU64,
}

impl Doorbell {
    /// A bell that nobody listens to yet.
    #[must_use]
    pub fn new() -> Self {
        Self { armed: AtomicBool::new(false), waker: AtomicWaker::new(), rings: AtomicU64::new(0) }
    }

    /// Called by a producer after its push: wakes the engine if it sleeps or is about to.
    pub fn ring(&self) {
        // Orders the caller's push before the look at `armed`; pairs with the fence in `arm`.
        if !sync::mutant!("ring_fence") {
            fence(Ordering::SeqCst);
        }
        // The cheap load first: while the engine is awake nobody writes this line.
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::AcqRel) {
            self.rings.fetch_add(1, Ordering::Relaxed);
            sync::wake(&self.waker);
        }
    }

    /// Called by the engine before it sleeps. It must afterwards look once more at every queue, and must not sleep if
    /// it finds anything.
    pub fn arm(&self, waker: &Waker) {
        self.waker.register(waker);
        // Release: who sees the bell armed finds the waker registered. A swap, although a store would do: loom does not
        // know that a store cannot come between the two halves of a late ringer's swap.
        self.armed.swap(true, Ordering::AcqRel);
        // Pairs with the fence in `ring`.
        if !sync::mutant!("arm_fence") {
            fence(Ordering::SeqCst);
        }
    }

    /// Called by the engine when it is awake again, rung or not.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Called by the engine when it goes away: nobody is woken any more, and the waker (which may hold the engine's own
    /// task) is dropped.
    pub(crate) fn close(&self) {
        self.disarm();
        drop(self.waker.take());
    }

    /// How often a sleeping engine was woken.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Relaxed)
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}
