//! The one door to atomics, cells and wakers: std's in the product, loom's under `--cfg machnet_loom`.
//!
//! `--cfg loom` itself is not used: it would switch off tokio's net in every dependent crate.
#![allow(unreachable_pub)] // a façade: what it offers is decided by who uses it

#[cfg(not(machnet_loom))]
mod imp {
    pub use std::sync::{Arc, Mutex, MutexGuard};
    pub mod atomic {
        pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
    }
    pub use atomic_waker::AtomicWaker;

    /// A first guess for a compare-and-swap loop on `at`, for which any value is correct.
    #[inline]
    pub fn guess_ptr<T>(at: &atomic::AtomicPtr<T>) -> *mut T {
        at.load(atomic::Ordering::Relaxed)
    }

    /// As [`guess_ptr`].
    #[inline]
    pub fn guess_u32(at: &atomic::AtomicU32) -> u32 {
        at.load(atomic::Ordering::Relaxed)
    }

    #[inline]
    pub const fn is_mutant(_name: &str) -> bool {
        false
    }

    /// Runs `f`; a panic in it ends here.
    pub fn contain(f: impl FnOnce()) {
        if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
            // The payload is a stranger's too: if its destructor panics, it is leaked.
            if let Err(again) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
        }
    }

    /// `std::cell::UnsafeCell` with loom's closure interface.
    #[derive(Debug)]
    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        #[inline]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        #[inline]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(machnet_loom)]
mod imp {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::{Arc, Mutex, MutexGuard};
    pub mod atomic {
        pub use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
    }

    /// loom's model with the interface of the `atomic-waker` crate.
    #[derive(Debug)]
    pub struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }
        pub fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }
        pub fn take(&self) -> Option<std::task::Waker> {
            self.0.take_waker()
        }
    }

    /// A first guess for a compare-and-swap loop on `at`, for which any value is correct. Not a load: loom remembers one
    /// last access per atomic, so that a load just before the swap would hide the race between the swap and another
    /// thread's load, and orders that matter would never be tried.
    pub fn guess_ptr<T>(_at: &atomic::AtomicPtr<T>) -> *mut T {
        std::ptr::null_mut()
    }

    /// As [`guess_ptr`].
    pub fn guess_u32(_at: &atomic::AtomicU32) -> u32 {
        u32::MAX
    }

    pub fn is_mutant(name: &str) -> bool {
        static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        CHOSEN.get_or_init(|| std::env::var("MACHNET_MUTANT").ok()).as_deref() == Some(name)
    }

    /// Runs `f`. Panics pass: they are how loom reports what it finds.
    pub fn contain(f: impl FnOnce()) {
        f();
    }
}

pub use imp::*;
pub use std::sync::{PoisonError, TryLockError};

/// True if the seeded defect `name` (see `mutants.txt`) is switched on: by `--cfg machnet_mutant="name"`, or, in a loom
/// build, by the environment variable `MACHNET_MUTANT`. A constant `false` in the product.
macro_rules! mutant {
    ($name:literal) => {
        cfg!(machnet_mutant = $name) || $crate::sync::is_mutant($name)
    };
}
pub(crate) use mutant;

/// Takes who is registered and wakes it.
///
/// A waker is a stranger's code (any executor's). If it panics, its task is lost, and nothing else: the panic ends
/// here, and neither an engine that wakes many nor a destructor that rings is unwound. Nothing is paid for that unless
/// something panics; the panic hook has reported it by then. Under `panic = "abort"` the process ends, as it asked to.
///
/// Returns how many wakers were called: one or none.
pub fn wake(slot: &AtomicWaker) -> u64 {
    let Some(waker) = slot.take() else { return 0 };
    contain(|| waker.wake());
    1
}
