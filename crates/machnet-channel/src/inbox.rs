//! What engines of one endpoint hand each other: a bounded ring with many producers and one consumer.
//!
//! ```text
//!   producer n:  slot free for turn t? claim t (compare-and-swap), write, turn = t + 1 ─┐ then, once for many, ring
//!   consumer:    slot written for turn t? read, turn = t + capacity ◀──────────────────┘
//! ```
//!
//! Each slot's `turn` says who may touch it: `t` the producer that claims turn `t`, `t + 1` the consumer, `t + capacity` the
//! producer of the next lap (D. Vyukov's bounded queue). A push never waits: a full ring gives the value back. A producer that is
//! pre-empted between its claim and its turn hides what others pushed after it, for so long; the consumer does not wait for it, it
//! finds nothing and may go to sleep, for that producer has yet to ring.

use crate::Doorbell;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{self, Arc, UnsafeCell};

struct Slot<T> {
    turn: AtomicU64,
    value: UnsafeCell<Option<T>>,
}

/// On a cache line of its own, and of those that are fetched with it: producers write it all the time.
#[repr(align(128))]
struct Line<T>(T);

/// The side of an engine's inbox that the other engines have.
pub struct Inbox<T> {
    slots: Box<[Slot<T>]>,
    /// The next turn to claim.
    tail: Line<AtomicU64>,
    /// The consumer is gone.
    closed: AtomicBool,
    bell: Arc<Doorbell>,
}

// SAFETY: a value is moved in by one thread and out by another, which `T: Send` allows; a slot is touched only by whom its
// turn names.
unsafe impl<T: Send> Send for Inbox<T> {}
// SAFETY: as above; `push` takes `&self` and synchronises by the turns.
unsafe impl<T: Send> Sync for Inbox<T> {}

impl<T> Inbox<T> {
    /// A ring of `capacity` slots, and its consumer, which `bell` wakes.
    ///
    /// # Panics
    /// If `capacity` is not a power of two, or less than 2.
    #[must_use]
    pub fn new(capacity: usize, bell: Arc<Doorbell>) -> (Arc<Self>, InboxReceiver<T>) {
        assert!(
            capacity.is_power_of_two() && capacity >= 2,
            "a capacity of {capacity}: it must be a power of two, ≥ 2"
        );
        let slot = |turn| Slot { turn: AtomicU64::new(turn), value: UnsafeCell::new(None) };
        let inbox = Arc::new(Self {
            slots: (0..capacity as u64).map(slot).collect(),
            tail: Line(AtomicU64::new(0)),
            closed: AtomicBool::new(false),
            bell,
        });
        (Arc::clone(&inbox), InboxReceiver { inbox, next: 0 })
    }

    fn slot(&self, turn: u64) -> &Slot<T> {
        &self.slots[turn as usize & (self.slots.len() - 1)]
    }

    /// Hands `value` over. The consumer may sleep: call [`Inbox::ring`] after the last of several.
    ///
    /// # Errors
    /// The value, if the ring is full or its consumer gone.
    pub fn push(&self, value: T) -> Result<(), T> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(value);
        }
        let mut turn = self.tail.0.load(Ordering::Relaxed);
        loop {
            let slot = self.slot(turn);
            // Acquire: pairs with `pop`'s Release; the last lap's value was read before this one is written.
            let found = slot.turn.load(Ordering::Acquire);
            if found == turn {
                let claimed = if sync::mutant!("inbox_claim_store") {
                    self.tail.0.store(turn + 1, Ordering::Relaxed);
                    Ok(turn)
                } else {
                    // Relaxed: what a turn guards is published by the slot's own word.
                    self.tail.0.compare_exchange_weak(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed)
                };
                match claimed {
                    Ok(_) => {
                        // SAFETY: the slot is free for this turn, and the swap gave the turn to us alone.
                        slot.value.with_mut(|at| unsafe { *at = Some(value) });
                        let order =
                            if sync::mutant!("inbox_push_relaxed") { Ordering::Relaxed } else { Ordering::Release };
                        slot.turn.store(turn + 1, order);
                        return Ok(());
                    }
                    Err(now) => turn = now,
                }
            } else if found < turn {
                // Of the last lap still: nobody has read it.
                return Err(value);
            } else {
                turn = self.tail.0.load(Ordering::Relaxed);
            }
        }
    }

    /// Wakes the consumer if it sleeps or is about to.
    pub fn ring(&self) {
        self.bell.ring();
    }
}

impl<T> std::fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("capacity", &self.slots.len()).finish_non_exhaustive()
    }
}

/// The side of the engine that the inbox belongs to. Dropped, it drops what waits and refuses the rest; what was underway is
/// dropped with the ring.
#[derive(Debug)]
pub struct InboxReceiver<T> {
    inbox: Arc<Inbox<T>>,
    /// The next turn to read.
    next: u64,
}

impl<T> InboxReceiver<T> {
    /// The next value, each producer's in its order.
    pub fn pop(&mut self) -> Option<T> {
        let slot = self.inbox.slot(self.next);
        // Acquire: pairs with `push`'s Release.
        if slot.turn.load(Ordering::Acquire) != self.next + 1 {
            return None;
        }
        // SAFETY: written for this turn, which is ours alone to read.
        let value = slot.value.with_mut(|at| unsafe { (*at).take() });
        let order = if sync::mutant!("inbox_pop_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        slot.turn.store(self.next + self.inbox.slots.len() as u64, order);
        self.next += 1;
        value
    }

    /// True if [`InboxReceiver::pop`] would find nothing. Before sleeping: ask after the doorbell was armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.slot(self.next).turn.load(Ordering::Acquire) != self.next + 1
    }
}

impl<T> Drop for InboxReceiver<T> {
    fn drop(&mut self) {
        self.inbox.closed.store(true, Ordering::Relaxed);
        while self.pop().is_some() {}
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_the_order() {
        let (inbox, mut receiver) = Inbox::new(4, Arc::default());
        for lap in 0..10 {
            (0..4).for_each(|n| inbox.push(4 * lap + n).unwrap());
            assert_eq!(inbox.push(99), Err(99), "full");
            assert!(!receiver.is_empty());
            (0..4).for_each(|n| assert_eq!(receiver.pop(), Some(4 * lap + n)));
            assert!(receiver.is_empty() && receiver.pop().is_none());
        }
        drop(receiver);
        assert_eq!(inbox.push(1), Err(1), "nobody is there");
    }

    #[test]
    fn what_waits_is_dropped_once_whoever_leaves_first() {
        let value = Rc::new(());
        for laps in 0..3 {
            for first in [true, false] {
                let (inbox, mut receiver) = Inbox::new(4, Arc::default());
                for _ in 0..3 * laps {
                    inbox.push(Rc::clone(&value)).unwrap();
                    drop(receiver.pop());
                }
                (0..3).for_each(|_| inbox.push(Rc::clone(&value)).unwrap());
                drop(receiver.pop());
                assert_eq!(Rc::strong_count(&value), 3);
                if first {
                    drop(receiver);
                    drop(inbox);
                } else {
                    drop(inbox);
                    drop(receiver);
                }
                assert_eq!(Rc::strong_count(&value), 1);
            }
        }
    }

    #[test]
    fn a_late_push_is_dropped_with_the_ring() {
        let value = Rc::new(());
        let (inbox, receiver) = Inbox::new(4, Arc::default());
        // As if the producer had looked before the consumer left.
        drop(receiver);
        inbox.closed.store(false, Ordering::Relaxed);
        (0..4).for_each(|_| inbox.push(Rc::clone(&value)).unwrap());
        drop(inbox);
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn threads_lose_and_double_nothing() {
        const EACH: u64 = 20_000;
        let (inbox, mut receiver) = Inbox::new(64, Arc::default());
        let mut next = [0; 3];
        std::thread::scope(|scope| {
            for producer in 0..3_u64 {
                let inbox = &inbox;
                scope.spawn(move || {
                    for n in 0..EACH {
                        while inbox.push((producer, n)).is_err() {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            while next.iter().sum::<u64>() < 3 * EACH {
                match receiver.pop() {
                    Some((producer, n)) => {
                        assert_eq!(n, next[producer as usize]);
                        next[producer as usize] += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
        assert!(receiver.is_empty());
    }
}
