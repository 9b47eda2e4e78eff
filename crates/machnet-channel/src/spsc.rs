//! An unbounded queue for one producer and one consumer, made of recycled segments.
//!
//! It is bounded from outside: by permits (outbox) and by credit (inbox). An empty, never used queue owns no segment;
//! in steady state the consumer hands its emptied segment back through `spare`, and nothing is allocated.
//!
//! The queue lives inside a [`Mailbox`](crate::Mailbox) or [`Backlog`](crate::Backlog), whose ends exist once each;
//! that is what makes `push` and `pop` sound, and why they are `unsafe` here and nowhere else.

use std::mem::MaybeUninit;
use std::ptr;

use crate::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use crate::sync::{self, UnsafeCell};

/// Items per segment: 8 keeps an idle flow's two segments below 1 KiB, and is a long enough run under load.
const SLOTS: usize = if cfg!(machnet_loom) { 2 } else { 8 };

struct Segment<T> {
    slots: [UnsafeCell<MaybeUninit<T>>; SLOTS],
    /// How many slots are written; the rest belongs to the producer.
    written: AtomicU32,
    next: AtomicPtr<Segment<T>>,
}

impl<T> Segment<T> {
    fn new() -> Box<Self> {
        Box::new(Self {
            slots: std::array::from_fn(|_| UnsafeCell::new(MaybeUninit::uninit())),
            written: AtomicU32::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
        })
    }
}

/// Where one end stands: a segment (null before the first) and an index into it.
struct Position<T> {
    segment: *mut Segment<T>,
    index: usize,
}

pub(crate) struct Spsc<T> {
    producer: UnsafeCell<Position<T>>,
    consumer: UnsafeCell<Position<T>>,
    /// The producer's first segment; how the consumer finds its first.
    first: AtomicPtr<Segment<T>>,
    /// One emptied segment on its way back to the producer.
    spare: AtomicPtr<Segment<T>>,
}

// SAFETY: the two ends touch disjoint slots, handed over by the Release/Acquire pairs on `written` and `next`; a `T`
// crosses threads by value only. `producer` and `consumer` are touched by their one end each (contract of push, pop).
unsafe impl<T: Send> Send for Spsc<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Spsc<T> {}

impl<T> Spsc<T> {
    pub(crate) fn new() -> Self {
        let nowhere = || UnsafeCell::new(Position { segment: ptr::null_mut(), index: 0 });
        Self {
            producer: nowhere(),
            consumer: nowhere(),
            first: AtomicPtr::new(ptr::null_mut()),
            spare: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Appends `item`.
    ///
    /// # Safety
    /// No other `push` on this queue runs at the same time, and successive ones are ordered (happens-before).
    pub(crate) unsafe fn push(&self, item: T) {
        self.producer.with_mut(|at| {
            // SAFETY: the caller is the only producer.
            let at = unsafe { &mut *at };
            if at.segment.is_null() || at.index == SLOTS {
                self.extend(at);
            }
            // SAFETY: the consumer retires a segment only after it followed its `next`, set when the producer leaves.
            let segment = unsafe { &*at.segment };
            // SAFETY: slots at and beyond `written` belong to the producer.
            segment.slots[at.index].with_mut(|slot| unsafe {
                (*slot).write(item);
            });
            at.index += 1;
            // Release: hands the slot to the consumer.
            let order = if sync::mutant!("written_relaxed") { Ordering::Relaxed } else { Ordering::Release };
            segment.written.store(at.index as u32, order);
        });
    }

    fn extend(&self, at: &mut Position<T>) {
        // Acquire: the consumer reset the segment before it put it here.
        let spare = self.spare.swap(ptr::null_mut(), Ordering::Acquire);
        let segment = if spare.is_null() { Box::into_raw(Segment::new()) } else { spare };
        if at.segment.is_null() {
            self.first.store(segment, Ordering::Release);
        } else {
            // SAFETY: the producer's segment is alive until its `next` is set, which happens here.
            let full = unsafe { &*at.segment };
            full.next.store(segment, Ordering::Release);
        }
        *at = Position { segment, index: 0 };
    }

    /// Takes the oldest item.
    ///
    /// # Safety
    /// No other `pop` on this queue runs at the same time, and successive ones are ordered.
    pub(crate) unsafe fn pop(&self) -> Option<T> {
        self.consumer.with_mut(|at| {
            // SAFETY: the caller is the only consumer.
            let at = unsafe { &mut *at };
            let segment = self.readable(at)?;
            // SAFETY: the slot is below `written`, so it holds a `T` and is ours; `index` moves on, so it is read once.
            let item = segment.slots[at.index].with(|slot| unsafe { slot.cast::<T>().read() });
            at.index += 1;
            Some(item)
        })
    }

    /// Moves `at` to the next written slot, if there is one, and returns its segment.
    fn readable(&self, at: &mut Position<T>) -> Option<&Segment<T>> {
        if at.segment.is_null() {
            at.segment = self.first.load(Ordering::Acquire);
            if at.segment.is_null() {
                return None;
            }
        }
        if at.index == SLOTS {
            // SAFETY: only the consumer retires segments, and `at` is where it stands.
            let next = unsafe { &*at.segment }.next.load(Ordering::Acquire);
            if next.is_null() {
                return None;
            }
            let emptied = std::mem::replace(at, Position { segment: next, index: 0 }).segment;
            self.recycle(emptied);
        }
        // SAFETY: as above.
        let segment = unsafe { &*at.segment };
        // Acquire: pairs with the Release in `push`.
        let written = segment.written.load(Ordering::Acquire) as usize;
        (at.index < written).then_some(segment)
    }

    fn recycle(&self, emptied: *mut Segment<T>) {
        // SAFETY: the producer left the segment when it set `next`; the consumer leaves it now: it is ours alone.
        let segment = unsafe { &*emptied };
        segment.written.store(0, Ordering::Relaxed);
        segment.next.store(ptr::null_mut(), Ordering::Relaxed);
        // Release: the two stores above, before the producer takes the segment. Acquire: a displaced one is freed here.
        let order = if sync::mutant!("spare_relaxed") { Ordering::Relaxed } else { Ordering::AcqRel };
        let displaced = self.spare.swap(emptied, order);
        if !displaced.is_null() {
            // SAFETY: who swaps a segment out of `spare` owns it; it was made by `Box::into_raw`.
            drop(unsafe { Box::from_raw(displaced) });
        }
    }
}

impl<T> Drop for Spsc<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no other end is left.
        while unsafe { self.pop() }.is_some() {}
        let last = self.consumer.with_mut(|at| {
            // SAFETY: `&mut self`.
            let at = unsafe { &*at };
            at.segment
        });
        // If the consumer never looked, its segment may still be the `first` one it did not pick up; `pop` above did.
        for segment in [last, self.spare.load(Ordering::Acquire)] {
            if !segment.is_null() {
                // SAFETY: `last` is the only segment in the chain (pop retired the others), `spare` is in no chain.
                drop(unsafe { Box::from_raw(segment) });
            }
        }
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn keeps_order_across_segments_and_frees_what_is_left() {
        let token = Arc::new(());
        let queue = Spsc::new();
        for round in 0..5 {
            for i in 0..SLOTS * 3 + round {
                // SAFETY: one thread.
                unsafe { queue.push((i, Arc::clone(&token))) };
            }
            for i in 0..SLOTS * 3 + round {
                // SAFETY: one thread.
                let got = unsafe { queue.pop() };
                assert_eq!(got.map(|(n, _)| n), Some(i));
            }
        }
        for i in 0..SLOTS * 2 + 1 {
            // SAFETY: one thread.
            unsafe { queue.push((i, Arc::clone(&token))) };
        }
        drop(queue);
        assert_eq!(Arc::strong_count(&token), 1);
    }
}
