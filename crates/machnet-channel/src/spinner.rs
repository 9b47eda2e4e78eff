//! Wakes for a runtime that is awake: while it spins, engines push flows to its queue instead of calling wakers, which for
//! another thread's runtime is a system call each.
//!
//! ```text
//!   engine                                     runtime, in its park hook
//!   spinning? ──no──▶ call the waker           spinning = true
//!   due |= who is concerned, push              drain: call the wakers, here, on the runtime's own thread
//!   fence(SeqCst)                              spinning = false
//!   spinning? ──no──▶ call the waker, too      fence(SeqCst), drain once more
//! ```
//!
//! One of the two fences comes first: either the engine sees that the runtime has stopped, or the runtime's last look
//! sees the push. A waker called twice finds its slot empty. What an engine pushed for nothing waits until the next spin, or
//! the end of the [`Spinning`].
//!
//! A flow remembers who spun last on the thread that last waited for it. That is a guess, and nothing depends on it being
//! right: whoever drains calls the task's own waker, whatever runtime it belongs to. Therefore a spinner may be given to
//! another runtime when its own is gone, and never needs to be freed while a flow could still name it.

use std::ptr;
use std::sync::{Mutex, PoisonError};

use crate::hint_queue::{HintQueue, Link, Linked};
use crate::mailbox::Mailbox;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
use crate::sync::{self, Arc};

/// The kind of queue that flows with somebody to wake wait in.
#[derive(Debug)]
pub struct Due;

// SAFETY: the link is a field of the item, and not the one that the engine's queue uses.
unsafe impl Linked<Due> for Mailbox {
    fn link(&self) -> &Link<Self> {
        self.due_link()
    }

    fn unseen(item: &Arc<Self>) {
        item.wake_due();
    }
}

/// The wake queue of one runtime.
#[derive(Debug)]
pub struct Spinner {
    spinning: AtomicBool,
    /// An engine called a waker itself since a task last registered: the runtime has something to do.
    called: AtomicBool,
    /// Spinning was not in vain the last time, or an engine had to call a waker since.
    pays: AtomicBool,
    queue: HintQueue<Mailbox, Due>,
    /// Wakers called by drains.
    woken: AtomicU64,
}

impl Spinner {
    pub(crate) fn new() -> Self {
        Self {
            spinning: AtomicBool::new(false),
            called: AtomicBool::new(false),
            pays: AtomicBool::new(true),
            queue: HintQueue::new(),
            woken: AtomicU64::new(0),
        }
    }

    /// Engine: true if the runtime will wake who waits for `mailbox` (whose `due` is set); false if the engine must.
    pub(crate) fn hand_over(&self, mailbox: &Arc<Mailbox>) -> bool {
        self.queue.push(mailbox);
        // Orders the push before the look at `spinning`; pairs with the fence in `end`.
        if !sync::mutant!("hand_over_fence") {
            fence(Ordering::SeqCst);
        }
        sync::mutant!("hand_over_recheck") || self.spinning.load(Ordering::Relaxed)
    }

    /// True while it pays to hand over.
    pub(crate) fn is_spinning(&self) -> bool {
        self.spinning.load(Ordering::Relaxed)
    }

    /// Engine: it called a waker that it could have handed over a moment later. After the call: said earlier, it could be
    /// forgotten before there is anything to do.
    pub(crate) fn tell_called(&self) {
        if !self.pays.load(Ordering::Relaxed) {
            self.pays.store(true, Ordering::Relaxed);
        }
        if !self.called.load(Ordering::Relaxed) {
            self.called.store(true, Ordering::Release);
        }
    }

    /// A task registers its waker: what was called before is in the runtime's own queues, which it looks at before it
    /// spins.
    fn forget_called(&self) {
        if self.called.load(Ordering::Relaxed) {
            self.called.store(false, Ordering::Relaxed);
        }
    }

    fn begin(&self) {
        self.spinning.store(true, Ordering::Relaxed);
    }

    fn drain(&self) -> u64 {
        // The cheap look first: this is what a runtime spins on.
        if self.queue.is_empty() {
            return 0;
        }
        let woken = self.queue.take().map(|mailbox| mailbox.wake_due()).sum();
        self.woken.fetch_add(woken, Ordering::Relaxed);
        woken
    }

    fn end(&self) -> u64 {
        self.spinning.store(false, Ordering::Relaxed);
        // Pairs with the fence in `hand_over`.
        if !sync::mutant!("stop_fence") {
            fence(Ordering::SeqCst);
        }
        if sync::mutant!("stop_recheck") { 0 } else { self.drain() }
    }
}

/// Who spins for the tasks that wait for a flow or listener, as far as known.
#[derive(Debug)]
pub(crate) struct SpinnerSlot(AtomicPtr<Spinner>);

impl SpinnerSlot {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn get(&self) -> Option<&'static Spinner> {
        // SAFETY: null, or what `set` stored: a reference that is valid for ever. Acquire pairs with its Release.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    pub(crate) fn set(&self, spinner: &'static Spinner) {
        let spinner = ptr::from_ref(spinner).cast_mut();
        if self.0.load(Ordering::Relaxed) != spinner {
            // Release: a spinner made just now is visible to the engine that finds it here.
            self.0.store(spinner, Ordering::Release);
        }
    }

    /// Application: a waker is about to be registered on this thread.
    pub(crate) fn note(&self) {
        if let Some(spinner) = current_spinner() {
            spinner.forget_called();
            self.set(spinner);
        }
    }
}

/// Application: a task on this thread waits for an engine in another.
pub(crate) fn note_waiting() {
    #[cfg(not(machnet_loom))]
    if current_spinner().is_some() {
        current::waits();
    }
}

#[cfg(not(machnet_loom))]
fn current_spinner() -> Option<&'static Spinner> {
    current::get()
}

/// The models set what flows remember by hand.
#[cfg(machnet_loom)]
fn current_spinner() -> Option<&'static Spinner> {
    None
}

/// Spinners whose runtimes are gone. There are as many spinners as there were ever runtimes with a hook at one time.
static IDLE: Mutex<Vec<&'static Spinner>> = Mutex::new(Vec::new());

/// A runtime's right to a [`Spinner`]. Dropped, it wakes whoever waits in its queue.
#[derive(Debug)]
pub struct Spinning {
    spinner: &'static Spinner,
}

impl Spinning {
    /// One of its own, for one runtime.
    #[must_use]
    pub fn new() -> Self {
        let idle = if cfg!(machnet_loom) { None } else { idle().pop() };
        let spinner = idle.unwrap_or_else(|| Box::leak(Box::new(Spinner::new())));
        spinner.queue.reopen();
        Self { spinner }
    }

    /// As if the right passed to another runtime while engines look on.
    #[cfg(all(test, machnet_loom))]
    pub(crate) fn close_for_a_moment(&self) {
        self.spinner.queue.close();
        self.spinner.queue.reopen();
    }

    /// What flows are told to remember.
    #[must_use]
    pub const fn spinner(&self) -> &'static Spinner {
        self.spinner
    }

    /// From now on engines hand over.
    pub fn begin(&self) {
        self.spinner.begin();
    }

    /// True if an engine just missed that the runtime spins: it should stop.
    #[must_use]
    pub fn was_called(&self) -> bool {
        self.spinner.called.load(Ordering::Acquire)
    }

    /// False after [`Spinning::was_in_vain`], until an engine had to call a waker: the runtime is busy with other things
    /// than flows, and spinning would only delay them.
    #[must_use]
    pub fn pays(&self) -> bool {
        self.spinner.pays.load(Ordering::Relaxed)
    }

    /// The runtime spun, and no engine had anything for it.
    pub fn was_in_vain(&self) {
        self.spinner.pays.store(false, Ordering::Relaxed);
    }

    /// Calls the wakers of all that was handed over; returns how many.
    pub fn drain(&self) -> u64 {
        self.spinner.drain()
    }

    /// Engines call wakers again; what they handed over before is woken here. Returns how many wakers were called.
    pub fn end(&self) -> u64 {
        self.spinner.end()
    }
}

impl Default for Spinning {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        self.spinner.end();
        // Calls the wakers of what was pushed meanwhile, and of what will be by who saw it spin before.
        self.spinner.queue.close();
        if !cfg!(machnet_loom) {
            idle().push(self.spinner);
        }
    }
}

fn idle() -> std::sync::MutexGuard<'static, Vec<&'static Spinner>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the current thread knows about its runtime.
#[cfg(not(machnet_loom))]
pub mod current {
    use std::cell::Cell;

    use super::Spinner;

    thread_local! {
        static SPINNER: Cell<Option<&'static Spinner>> = const { Cell::new(None) };
        static WAITS: Cell<bool> = const { Cell::new(false) };
    }

    /// This thread drives a runtime that spins on `spinner`. True if it did before, and a task began to wait since the last
    /// call: one that remembers `spinner`.
    pub fn enter(spinner: &'static Spinner) -> bool {
        let before = SPINNER.replace(Some(spinner));
        WAITS.replace(false) && before.is_some_and(|before| std::ptr::eq(before, spinner))
    }

    /// True if this thread drives a runtime that spins.
    #[must_use]
    pub fn has_spinner() -> bool {
        SPINNER.get().is_some()
    }

    /// Who spins for tasks on this thread, as far as known.
    pub(super) fn get() -> Option<&'static Spinner> {
        SPINNER.get()
    }

    /// A task on this thread began to wait for an engine in another thread, which it told who spins here.
    pub(super) fn waits() {
        WAITS.set(true);
    }
}
