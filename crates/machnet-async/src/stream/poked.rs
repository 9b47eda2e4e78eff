//! State that tasks lock, and that an engine works on without ever waiting for them.
//!
//! ```text
//! task:    lock, use, unlock; fence; poked? then try to lock, work, unlock, and look again
//! engine:  poked = true; fence; try to lock: work. Locked? Then the holder looks when it has unlocked
//! ```
//!
//! The fences are a pair: either the engine finds the lock free, or the holder finds `poked` set. A [`Poked`] is the waker
//! that its owner registers with the flow, and to be woken is to be poked.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Wake, Waker};

use super::waits::Waits;

/// What is done when poked.
pub(super) trait Work {
    /// The tasks that wait.
    fn waits(&mut self) -> &mut Waits;

    /// Does what can be done by now. All that wait are woken after it, and look for themselves.
    fn work(&mut self, cx: &Context<'_>);
}

#[derive(Debug)]
pub(super) struct Poked<T> {
    state: Mutex<T>,
    poked: AtomicBool,
}

impl<T: Work + Send + 'static> Poked<T> {
    pub(super) fn new(state: T) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), poked: AtomicBool::new(false) })
    }

    /// Uses the state. Not to be called by an engine, nor from inside `f`.
    pub(super) fn with<R>(self: &Arc<Self>, f: impl FnOnce(&mut T) -> R) -> R {
        let result = f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.look();
        result
    }

    /// The state itself, as a waker.
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    fn look(self: &Arc<Self>) {
        loop {
            fence(Ordering::SeqCst);
            if !self.poked.load(Ordering::Relaxed) {
                return;
            }
            let Some(mut state) = self.try_lock() else { return };
            self.poked.store(false, Ordering::Relaxed);
            state.work(&Context::from_waker(&self.waker()));
            let woken = state.waits().take();
            drop(state);
            woken.wake();
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: Work + Send + 'static> Wake for Poked<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.poked.store(true, Ordering::Relaxed);
        self.look();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Counts up to what it is told to be the goal.
    #[derive(Default)]
    struct Counter {
        waits: Waits,
        goal: Arc<AtomicU64>,
        reached: u64,
    }

    impl Work for Counter {
        fn waits(&mut self) -> &mut Waits {
            &mut self.waits
        }
        fn work(&mut self, _cx: &Context<'_>) {
            self.reached = self.goal.load(Ordering::Acquire);
        }
    }

    #[test]
    fn no_poke_is_lost_between_holder_and_poker() {
        const POKES: u64 = 200_000;
        let goal = Arc::new(AtomicU64::new(0));
        let cell = Poked::new(Counter { goal: Arc::clone(&goal), ..Counter::default() });
        let done = Arc::new(AtomicBool::new(false));
        let holder = std::thread::spawn({
            let (cell, done) = (Arc::clone(&cell), Arc::clone(&done));
            move || {
                while !done.load(Ordering::Relaxed) {
                    cell.with(|counter| counter.waits.is_empty());
                }
            }
        });
        for poke in 1..=POKES {
            goal.store(poke, Ordering::Release);
            cell.waker().wake();
            if poke % 1000 == 0 {
                // Whoever held the lock has seen to it by the time it is free again, and looked once more.
                while cell.with(|counter| counter.reached) < poke {
                    std::thread::yield_now();
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        holder.join().unwrap();
        assert_eq!(cell.state.lock().unwrap().reached, POKES);
        assert!(!cell.poked.load(Ordering::Relaxed));
    }
}
