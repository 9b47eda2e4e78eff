//! State that tasks lock, and that an engine works on without ever waiting for them.
//!
//! ```text
//! task:    lock, use, unlock; fence; poked? then try to lock, reset it, work, unlock, and look again
//! engine:  set it; fence; try to lock: reset it, work. Locked? Then the holder looks when it has unlocked
//! ```
//!
//! The fences are a pair: either the engine finds the lock free, or the holder finds it poked. A [`Poked`] is the waker
//! that its owner registers with the flow, and to be woken is to be poked.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::{self, Mutex, MutexGuard, PoisonError, TryLockError};

/// What is done when poked.
pub trait Work: Send + 'static {
    /// What is left to do without the lock: to call the wakers of tasks, which may be anything.
    type Rest;

    /// Does what can be done by now. What happened before the poke is visible here.
    fn work(&mut self, cx: &Context<'_>) -> Self::Rest;

    /// Does the rest.
    fn finish(rest: Self::Rest);
}

/// State with a lock, and a waker that works on it: at once, or when whoever holds the lock has let it go.
#[derive(Debug)]
pub struct Poked<T> {
    state: Mutex<T>,
    poked: AtomicBool,
}

impl<T: Work> Poked<T> {
    /// State that nobody has poked.
    pub fn new(state: T) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), poked: AtomicBool::new(false) })
    }

    /// Uses the state. Not to be called by an engine, nor from inside `f`.
    pub fn with<R>(self: &Arc<Self>, f: impl FnOnce(&mut T) -> R) -> R {
        let result = f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.look();
        result
    }

    /// [`Poked::with`] if nobody else uses the state; also for engines.
    pub fn try_with<R>(self: &Arc<Self>, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let result = f(&mut *self.try_lock()?);
        self.look();
        Some(result)
    }

    /// Has the state worked on: at once, or by whoever uses it now.
    pub fn poke(self: &Arc<Self>) {
        self.wake_by_ref();
    }

    /// Uses the state, and looks for no poke.
    #[cfg(all(test, machnet_loom))]
    pub(crate) fn quietly<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The state itself, as a waker.
    #[must_use]
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    fn look(self: &Arc<Self>) {
        loop {
            // Between the lock's release and the look, or the poke and the look at the lock.
            if !sync::mutant!("poke_fence") {
                fence(Ordering::SeqCst);
            }
            if !self.poked.load(Ordering::Relaxed) {
                return;
            }
            let Some(mut state) = self.try_lock() else { return };
            // Before the work, and a swap: it sees the last poke, and all that happened before any of them. A store could
            // hide a poke whose cause the work has not seen.
            if sync::mutant!("poke_reset_store") {
                self.poked.store(false, Ordering::Relaxed);
            } else if !sync::mutant!("poke_reset_late") {
                self.poked.swap(false, Ordering::AcqRel);
            }
            let rest = state.work(&Context::from_waker(&self.waker()));
            if sync::mutant!("poke_reset_late") {
                self.poked.swap(false, Ordering::AcqRel);
            }
            drop(state);
            T::finish(rest);
            if sync::mutant!("poke_look_once") {
                return;
            }
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

impl<T: Work> Wake for Poked<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A swap: of several pokes, what the first one tells must not be lost in the last one's store.
        if sync::mutant!("poke_store") {
            self.poked.store(true, Ordering::Release);
        } else {
            self.poked.swap(true, Ordering::AcqRel);
        }
        self.look();
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;

    /// Remembers what it did.
    #[derive(Default)]
    struct Log {
        works: u32,
        finished: Arc<AtomicBool>,
    }

    impl Work for Log {
        type Rest = Arc<AtomicBool>;

        fn work(&mut self, _cx: &Context<'_>) -> Self::Rest {
            self.works += 1;
            Arc::clone(&self.finished)
        }

        fn finish(finished: Self::Rest) {
            finished.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_poke_works_at_once_or_after_the_holder() {
        let cell = Poked::new(Log::default());
        cell.waker().wake();
        assert_eq!(cell.with(|log| log.works), 1);
        let waker = cell.waker();
        let finished = cell.with(|log| {
            log.finished.store(false, Ordering::Relaxed);
            // Whoever pokes does not wait for us, and does not work meanwhile.
            waker.wake_by_ref();
            waker.wake_by_ref();
            assert_eq!(log.works, 1);
            assert!(!log.finished.load(Ordering::Relaxed));
            Arc::clone(&log.finished)
        });
        assert!(finished.load(Ordering::Relaxed));
        assert_eq!(cell.with(|log| log.works), 2);
        assert_eq!((Arc::strong_count(&cell), cell.poked.load(Ordering::Relaxed)), (2, false));
    }

    #[test]
    fn a_panic_of_the_holder_does_not_stop_the_work() {
        let cell = Poked::new(Log::default());
        let holder = Arc::clone(&cell);
        std::thread::spawn(move || holder.with(|_| panic!("the holder's own"))).join().unwrap_err();
        cell.waker().wake();
        assert_eq!(cell.with(|log| log.works), 1);
    }
}
