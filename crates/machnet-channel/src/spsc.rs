//! An unbounded queue for one producer and one consumer, made of recycled segments.
//!
//! It is bounded from outside: by permits (outbox) and by credit (inbox). An empty, never used queue owns no segment;
//! in steady state the consumer hands its emptied segments back through `spare`, and nothing is allocated.
//!
//! The queue lives inside a [`Mailbox`](crate::Mailbox) or [`Backlog`](crate::Backlog), whose ends exist once each;
//! that is what makes `push` and `pop` sound, and why they are `unsafe` here and nowhere else.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::{self, UnsafeCell};

/// Items per segment: few, because an idle flow keeps two segments.
const SLOTS: usize = if cfg!(machnet_loom) { 2 } else { 3 };

struct Segment<T> {
    slots: [UnsafeCell<MaybeUninit<T>>; SLOTS],
    /// How many slots are written, the rest belonging to the producer; or, when all are, the segment that comes after. In one
    /// word, for each idle flow has two segments. Of spare segments: the next one, or null.
    progress: AtomicPtr<Segment<T>>,
}

/// What [`Segment::progress`] says.
enum Progress<T> {
    Written(usize),
    Next(*mut Segment<T>),
}

/// No segment lies at so small an address.
fn written<T>(slots: usize) -> *mut Segment<T> {
    ptr::without_provenance_mut(slots)
}

impl<T> Segment<T> {
    fn new() -> Box<Self> {
        Box::new(Self {
            slots: std::array::from_fn(|_| UnsafeCell::new(MaybeUninit::uninit())),
            progress: AtomicPtr::new(written(0)),
        })
    }

    fn progress(&self) -> Progress<T> {
        // Acquire: pairs with the Release in `push` and `extend`.
        let progress = self.progress.load(Ordering::Acquire);
        if progress.addr() <= SLOTS { Progress::Written(progress.addr()) } else { Progress::Next(progress) }
    }
}

/// Where one end stands: a segment (null before the first) and an index into it.
struct Position<T> {
    segment: *mut Segment<T>,
    index: usize,
}

pub(crate) struct Spsc<T, K: Keep> {
    producer: UnsafeCell<Position<T>>,
    consumer: UnsafeCell<Position<T>>,
    /// The producer's first segment; how the consumer finds its first.
    first: AtomicPtr<Segment<T>>,
    /// Emptied segments on their way back to the producer, linked through `progress`: pushed one by one by the consumer,
    /// taken all at once, so that no push meets a segment that left and came back.
    spare: AtomicPtr<Segment<T>>,
    /// The producer's own spare segments, linked likewise. Touched by the producer alone.
    reserve: UnsafeCell<*mut Segment<T>>,
    keep: PhantomData<K>,
}

/// How many emptied segments wait for the producer.
pub(crate) trait Keep {
    const ALL: bool;
}

/// One; the rest is freed.
#[derive(Debug)]
pub(crate) enum KeepOne {}

impl Keep for KeepOne {
    const ALL: bool = false;
}

/// All: the producer never allocates what it allocated before. [`Spsc::shed`] frees them.
#[derive(Debug)]
pub(crate) enum KeepAll {}

impl Keep for KeepAll {
    const ALL: bool = true;
}

// SAFETY: the two ends touch disjoint slots, handed over by the Release/Acquire pairs on `progress`; a `T`
// crosses threads by value only. `producer` and `consumer` are touched by their one end each (contract of push, pop).
unsafe impl<T: Send, K: Keep> Send for Spsc<T, K> {}
// SAFETY: as above.
unsafe impl<T: Send, K: Keep> Sync for Spsc<T, K> {}

impl<T, K: Keep> Spsc<T, K> {
    pub(crate) fn new() -> Self {
        let nowhere = || UnsafeCell::new(Position { segment: ptr::null_mut(), index: 0 });
        Self {
            producer: nowhere(),
            consumer: nowhere(),
            first: AtomicPtr::new(ptr::null_mut()),
            spare: AtomicPtr::new(ptr::null_mut()),
            reserve: UnsafeCell::new(ptr::null_mut()),
            keep: PhantomData,
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
            // SAFETY: the consumer retires a segment only after it went on to the next, named when the producer leaves.
            let segment = unsafe { &*at.segment };
            // SAFETY: slots that are not said to be written belong to the producer.
            segment.slots[at.index].with_mut(|slot| unsafe {
                (*slot).write(item);
            });
            at.index += 1;
            // Release: hands the slot to the consumer.
            let order = if sync::mutant!("written_relaxed") { Ordering::Relaxed } else { Ordering::Release };
            segment.progress.store(written(at.index), order);
        });
    }

    fn extend(&self, at: &mut Position<T>) {
        let segment = self.reserve.with_mut(|reserve| {
            // SAFETY: the caller is the only producer.
            let reserve = unsafe { &mut *reserve };
            if reserve.is_null() {
                // Acquire: the consumer reset the segments before it put them here.
                *reserve = self.spare.swap(ptr::null_mut(), Ordering::Acquire);
            }
            if reserve.is_null() {
                return Box::into_raw(Segment::new());
            }
            let segment = *reserve;
            // SAFETY: the segments of the reserve are the producer's alone.
            let progress = &unsafe { &*segment }.progress;
            *reserve = progress.load(Ordering::Relaxed);
            progress.store(written(0), Ordering::Relaxed);
            segment
        });
        if at.segment.is_null() {
            self.first.store(segment, Ordering::Release);
        } else {
            // SAFETY: the producer's segment is alive until it names the next, which happens here.
            let full = unsafe { &*at.segment };
            full.progress.store(segment, Ordering::Release);
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
            // SAFETY: the slot is written, so it holds a `T` and is ours; `index` moves on, so it is read once.
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
            let Progress::Next(next) = unsafe { &*at.segment }.progress() else { return None };
            let emptied = std::mem::replace(at, Position { segment: next, index: 0 }).segment;
            self.recycle(emptied);
        }
        // SAFETY: as above.
        let segment = unsafe { &*at.segment };
        match segment.progress() {
            Progress::Written(count) if count <= at.index => None,
            _ => Some(segment),
        }
    }

    fn recycle(&self, emptied: *mut Segment<T>) {
        // SAFETY: the producer left the segment when it named the next; the consumer leaves it now: it is ours alone.
        let segment = unsafe { &*emptied };
        // Release: the stores to the segment, before the producer takes it.
        let order = if sync::mutant!("spare_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        let mut head = if K::ALL {
            sync::guess_ptr(&self.spare)
        } else {
            // Who swaps segments out of `spare` owns them. Acquire: they are freed here.
            free(self.spare.swap(ptr::null_mut(), Ordering::Acquire));
            ptr::null_mut()
        };
        loop {
            segment.progress.store(head, Ordering::Relaxed);
            match self.spare.compare_exchange_weak(head, emptied, order, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Producer: frees the segments that are not in use.
    ///
    /// # Safety
    /// As [`Spsc::push`].
    pub(crate) unsafe fn shed(&self) {
        self.reserve.with_mut(|reserve| {
            // SAFETY: the caller is the only producer.
            let reserve = unsafe { &mut *reserve };
            free(std::mem::replace(reserve, ptr::null_mut()));
        });
        self.shed_spare();
    }

    /// Either end: frees the segments on their way back to the producer.
    pub(crate) fn shed_spare(&self) {
        // Who swaps segments out of `spare` owns them. Acquire: they are freed here.
        free(self.spare.swap(ptr::null_mut(), Ordering::Acquire));
    }
}

/// Frees a chain of segments that holds no items and is the caller's alone.
fn free<T>(mut segment: *mut Segment<T>) {
    while !segment.is_null() {
        // SAFETY: made by `Box::into_raw`, and the caller's (this function is private, and that is its contract).
        let owned = unsafe { Box::from_raw(segment) };
        segment = owned.progress.load(Ordering::Relaxed);
    }
}

impl<T, K: Keep> Drop for Spsc<T, K> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no other end is left.
        while unsafe { self.pop() }.is_some() {}
        let last = self.consumer.with_mut(|at| {
            // SAFETY: `&mut self`.
            let at = unsafe { &*at };
            at.segment
        });
        // If the consumer never looked, its segment may still be the `first` one it did not pick up; `pop` above did. It is
        // the only segment in the chain: pop retired the others.
        if !last.is_null() {
            // SAFETY: `&mut self`, and made by `Box::into_raw`.
            drop(unsafe { Box::from_raw(last) });
        }
        // SAFETY: `&mut self`.
        unsafe { self.shed() };
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn keeps_as_many_segments_as_were_needed_or_one() {
        keeps::<KeepAll>(9..=10);
        keeps::<KeepOne>(1..=1);
    }

    fn keeps<K: Keep>(expected: std::ops::RangeInclusive<i32>) {
        let queue = Spsc::<u32, K>::new();
        let spares = || {
            let mut count = 0;
            // SAFETY: one thread.
            let reserve = queue.reserve.with(|reserve| unsafe { *reserve });
            for mut at in [queue.spare.load(Ordering::Relaxed), reserve] {
                while !at.is_null() {
                    count += 1;
                    // SAFETY: one thread.
                    at = unsafe { &*at }.progress.load(Ordering::Relaxed);
                }
            }
            count
        };
        for _ in 0..3 {
            // SAFETY: one thread.
            (0..10 * SLOTS as u32).for_each(|i| unsafe { queue.push(i) });
            // SAFETY: one thread.
            (0..10 * SLOTS as u32).for_each(|i| assert_eq!(unsafe { queue.pop() }, Some(i)));
        }
        assert!(expected.contains(&spares()), "{}", spares());
        // SAFETY: one thread.
        unsafe { queue.shed() };
        assert_eq!(spares(), 0);
        // SAFETY: one thread.
        unsafe { queue.push(1) };
        // SAFETY: one thread.
        assert_eq!(unsafe { queue.pop() }, Some(1));
    }

    #[test]
    fn keeps_order_across_segments_and_frees_what_is_left() {
        let token = Arc::new(());
        let queue = Spsc::<_, KeepAll>::new();
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
