//! A multi-producer queue of hints: "look at this one". Each item is queued at most once in each kind of queue.
//!
//! ```text
//!   producer                                   consumer
//!   write the data                             pop
//!   queued.swap(true)  ── already? ──▶ done    queued.swap(false, AcqRel)
//!   push                                       *then* look at the data
//!   fence(SeqCst), look at the consumer's bell
//! ```
//!
//! The list is a stack that the consumer takes whole and reverses: a push is one compare-and-swap and has no half-done
//! state, so a producer that is pre-empted in the middle of it never makes the consumer wait. Links are intrusive: a
//! push allocates nothing. Taking all at once also rules out the ABA problem of popping stacks.

use std::marker::PhantomData;
use std::ptr;

use crate::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use crate::sync::{self, Arc};

/// The intrusive link of an item that can wait in one [`HintQueue`].
#[derive(Debug)]
pub struct Link<T> {
    queued: AtomicBool,
    next: AtomicPtr<T>,
}

impl<T> Link<T> {
    /// A link that is in no queue.
    #[must_use]
    #[cfg_attr(not(machnet_loom), allow(clippy::missing_const_for_fn))]
    pub fn new() -> Self {
        Self { queued: AtomicBool::new(false), next: AtomicPtr::new(ptr::null_mut()) }
    }
}

impl<T> Default for Link<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// An item that carries its own link. `Q` names the kind of queue, for items that wait in several at a time.
///
/// # Safety
/// `link` must return the same link whenever it is called on the same item, and that link must belong to no other item
/// and no other kind of queue: the queue finds the items it owns by following links.
pub unsafe trait Linked<Q = ()>: Sized {
    /// The link of this item.
    fn link(&self) -> &Link<Self>;

    /// Called when a queue drops an item that nobody looked at: the queue is closed, or a [`Drain`] was dropped early.
    /// Whoever waits for the consumer to look must be told here.
    fn unseen(_item: &Arc<Self>) {}
}

/// A lock-free queue of `Arc<T>`, in which each item waits at most once.
pub struct HintQueue<T: Linked<Q>, Q = ()> {
    /// Newest first; null when empty, [`closed`] once the consumer is gone.
    head: AtomicPtr<T>,
    owns: PhantomData<(Arc<T>, Q)>,
}

/// The head of a queue whose consumer is gone. Never dereferenced.
fn closed<T>() -> *mut T {
    ptr::without_provenance_mut(usize::MAX)
}

impl<T: Linked<Q>, Q> HintQueue<T, Q> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// Queues `item` unless it waits already or the queue is closed. The caller then fences and looks at the
    /// consumer's doorbell (see the module's protocol), also if the item waited already: a first producer may stand
    /// between its swap and its push, and rings only after.
    pub fn push(&self, item: &Arc<T>) {
        // AcqRel: pairs with the consumer's swap in `Drain::next`, so that whoever finds `true` here is sure that the
        // consumer has yet to look, and will see what was written before.
        if item.link().queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let raw = Arc::into_raw(Arc::clone(item)).cast_mut();
        let mut head = sync::guess_ptr(&self.head);
        loop {
            if head == closed() {
                // SAFETY: `raw` came from `Arc::into_raw` just above and was given to nobody.
                drop(unsafe { Arc::from_raw(raw.cast_const()) });
                // The queue may be opened again. Before `unseen`, which then sees what whoever found `true` wrote.
                item.link().queued.swap(false, Ordering::AcqRel);
                T::unseen(item);
                return;
            }
            item.link().next.store(head, Ordering::Relaxed);
            // Release: publishes `next` and the item's data to `take`.
            match self.head.compare_exchange_weak(head, raw, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// True if nothing waits. Exact only if no producer is at work.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::Acquire);
        head.is_null() || head == closed()
    }

    /// Takes everything that waits, oldest first.
    #[must_use]
    pub fn take(&self) -> Drain<T, Q> {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head.is_null() || head == closed() {
                return Drain::default();
            }
            // Acquire: pairs with the Release of each push in the chain (a release sequence of read-modify-writes).
            match self.head.compare_exchange_weak(head, ptr::null_mut(), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Drain::reversed(head),
                Err(now) => head = now,
            }
        }
    }

    /// Takes items again after [`HintQueue::close`].
    pub(crate) fn reopen(&self) {
        let _ = self.head.compare_exchange(closed(), ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Drops what waits and refuses everything from now on. Called by the consumer when it goes away: items hold
    /// the queue's owner, so items left in the queue would keep each other alive for ever.
    pub fn close(&self) {
        let head = self.head.swap(closed(), Ordering::Acquire);
        if !head.is_null() && head != closed() {
            drop(Drain::reversed(head));
        }
    }
}

impl<T: Linked<Q>, Q> Default for HintQueue<T, Q> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Linked<Q>, Q> Drop for HintQueue<T, Q> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T: Linked<Q>, Q> std::fmt::Debug for HintQueue<T, Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HintQueue").field("is_empty", &self.is_empty()).finish()
    }
}

/// Items taken from a [`HintQueue`]; yields the oldest first. Run it to its end: hints left in it when it is dropped
/// are lost.
pub struct Drain<T: Linked<Q>, Q = ()> {
    /// Oldest first, linked through `next`; null at the end.
    head: *mut T,
    owns: PhantomData<(Arc<T>, Q)>,
}

// SAFETY: a `Drain` is a chain of `Arc<T>`s that nobody else can reach: it may go wherever an `Arc<T>` may.
unsafe impl<T: Linked<Q> + Send + Sync, Q> Send for Drain<T, Q> {}

impl<T: Linked<Q>, Q> Drain<T, Q> {
    fn reversed(newest: *mut T) -> Self {
        let mut oldest = ptr::null_mut();
        let mut at = newest;
        while !at.is_null() {
            // SAFETY: `at` came from `Arc::into_raw` in `push` and its count is ours, so the item is alive.
            let link = unsafe { &*at }.link();
            let next = link.next.load(Ordering::Relaxed);
            link.next.store(oldest, Ordering::Relaxed);
            oldest = at;
            at = next;
        }
        Self { head: oldest, owns: PhantomData }
    }

    /// True if nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head.is_null()
    }
}

impl<T: Linked<Q>, Q> Default for Drain<T, Q> {
    fn default() -> Self {
        Self { head: ptr::null_mut(), owns: PhantomData }
    }
}

impl<T: Linked<Q>, Q> Iterator for Drain<T, Q> {
    type Item = Arc<T>;

    fn next(&mut self) -> Option<Arc<T>> {
        if self.head.is_null() {
            return None;
        }
        // SAFETY: each pointer of the chain came from `Arc::into_raw` in `push`; it leaves the chain here, once.
        let item = unsafe { Arc::from_raw(self.head.cast_const()) };
        if sync::mutant!("queued_early") {
            item.link().queued.swap(false, Ordering::AcqRel);
        }
        self.head = item.link().next.load(Ordering::Relaxed);
        // From here on a producer may queue the item again, so `next` must have been read before (the Release half).
        // Acquire: the caller looks at the data after this, and sees what a producer that found `true` wrote before.
        if sync::mutant!("queued_store") {
            item.link().queued.store(false, Ordering::Relaxed);
        } else if !sync::mutant!("queued_early") {
            item.link().queued.swap(false, Ordering::AcqRel);
        }
        Some(item)
    }
}

impl<T: Linked<Q>, Q> Drop for Drain<T, Q> {
    fn drop(&mut self) {
        for item in self.by_ref() {
            T::unseen(&item);
        }
    }
}

impl<T: Linked<Q>, Q> std::fmt::Debug for Drain<T, Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("is_empty", &self.is_empty()).finish()
    }
}
