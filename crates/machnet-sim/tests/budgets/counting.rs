//! An allocator that counts, per thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTER: Counting = Counting;

fn note(size: usize) {
    LIVE.set(LIVE.get() + size as i64);
    if COUNTING.get() {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // What follows allocates itself.
        COUNTING.set(false);
        if std::env::var_os("MACHNET_SHOW_ALLOCATIONS").is_some() {
            eprintln!("{size} bytes\n{}", std::backtrace::Backtrace::force_capture());
        }
        COUNTING.set(true);
    }
}

// SAFETY: everything is the system allocator's; the counters are cells of the thread, made without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.set(LIVE.get() - layout.size() as i64);
        note(size);
        // SAFETY: the caller's contract.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as i64);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) };
    }
}

/// Runs `work` and returns how often it allocated, growing included.
pub(crate) fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    COUNTING.set(true);
    let result = work();
    COUNTING.set(false);
    (result, ALLOCATIONS.get() - before)
}

/// Bytes that this thread has allocated and not freed.
pub(crate) fn live() -> i64 {
    LIVE.get()
}
