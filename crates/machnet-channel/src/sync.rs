//! The one door to atomics, cells and wakers: std's in the product, loom's under `--cfg machnet_loom`.
//!
//! `--cfg loom` itself is not used: it would switch off tokio's net in every dependent crate.
#![allow(unreachable_pub)] // a façade: what it offers is decided by who uses it

#[cfg(not(machnet_loom))]
mod imp {
    pub use std::sync::Arc;
    pub mod atomic {
        pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
    }
    pub use atomic_waker::AtomicWaker;

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
    pub use loom::future::AtomicWaker;
    pub use loom::sync::Arc;
    pub mod atomic {
        pub use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
    }
}

pub use imp::*;
