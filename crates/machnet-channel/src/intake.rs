//! What one engine takes in from its applications: flows and listeners to look at, and the bell that wakes it.

use std::sync::OnceLock;

use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::{Backlog, Doorbell, Frame, HintQueue, Mailbox, Stock};

/// What serves mailboxes and listeners where no engine of this process does: an engine in another process, reached through
/// shared memory, for which whoever is here runs the pump. No call waits for anybody.
pub trait Pump: Send + Sync + std::fmt::Debug {
    /// Does what can be done by now: takes hints, sends, receives, wakes. If somebody else is at it, they do it once more.
    fn pump(&self);

    /// True if the engine may have done something since. Cheap, for who looks again and again.
    fn has_news(&self) -> bool;

    /// A task of this thread waits for what the engine will do: somebody has to hear of it.
    fn waits(&self);

    /// From now on, or no more, somebody looks again and again: nobody else has to hear.
    fn looks(&self, on: bool);

    /// Rings sent to the engine, and times that its rings were heard.
    fn rings(&self) -> (u64, u64);

    /// The engine's counters, if it tells any: a while ago.
    fn counters(&self) -> Option<Vec<u64>> {
        None
    }

    /// The endpoint was asked to end.
    fn shut_down(&self);
}

/// One per engine, held by every mailbox and listener it serves. What waits in its queues holds it in turn, so the
/// engine's owner must call [`Intake::close`] in the end, also when the engine panics (from a `Drop`).
#[derive(Debug)]
pub struct Intake {
    flows: HintQueue<Mailbox>,
    listeners: HintQueue<Backlog>,
    bell: Arc<Doorbell>,
    closing: AtomicBool,
    inline: AtomicBool,
    woken: AtomicU64,
    handed_over: AtomicU64,
    /// In the engine's place. It holds the intake in turn, until it is over.
    pump: OnceLock<std::sync::Arc<dyn Pump>>,
    /// Where messages may be built, if the engine has frames for that.
    stock: OnceLock<Arc<Stock>>,
    /// Of long frames.
    long_stock: OnceLock<Arc<Stock>>,
}

impl Intake {
    /// An intake nobody uses yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            flows: HintQueue::new(),
            listeners: HintQueue::new(),
            bell: Arc::new(Doorbell::new()),
            closing: AtomicBool::new(false),
            inline: AtomicBool::new(false),
            woken: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            pump: OnceLock::new(),
            stock: OnceLock::new(),
            long_stock: OnceLock::new(),
        })
    }

    /// Application: asks the engine to look at `mailbox`.
    pub fn hint_flow(&self, mailbox: &Arc<Mailbox>) {
        self.flows.push(mailbox);
        self.ring();
    }

    /// Application: asks the engine to look at `backlog`.
    pub fn hint_listener(&self, backlog: &Arc<Backlog>) {
        self.listeners.push(backlog);
        self.ring();
    }

    /// Application: asks the engine to end every flow and stop.
    pub fn shut_down(&self) {
        self.closing.store(true, Ordering::Release);
        match self.pump.get() {
            Some(pump) => pump.shut_down(),
            None => self.bell.ring(),
        }
    }

    /// Puts `pump` into the engine's place, before anybody uses the intake.
    pub fn set_pump(&self, pump: std::sync::Arc<dyn Pump>) {
        let _ = self.pump.set(pump);
    }

    /// Engine: gives its applications a stock, once. False if they have one.
    pub(crate) fn set_stock(&self, stock: Arc<Stock>) -> bool {
        self.stock.set(stock).is_ok()
    }

    /// Engine: likewise, of long frames.
    pub(crate) fn set_long_stock(&self, stock: Arc<Stock>) -> bool {
        self.long_stock.set(stock).is_ok()
    }

    /// A frame to build a message of up to `len` bytes in, and where in it, if there is one for so many.
    pub(crate) fn frame(&self, len: usize) -> Option<(Frame, u32)> {
        let frame = self.stock.get().and_then(|stock| stock.take(len));
        frame.or_else(|| self.long_stock.get().and_then(|stock| stock.take(len)))
    }

    /// The frames that applications build messages in.
    #[cfg(test)]
    pub(crate) fn stock(&self) -> Option<&Stock> {
        self.stock.get().map(|stock| &**stock)
    }

    /// What is in the engine's place, if anything.
    #[must_use]
    pub fn pump(&self) -> Option<&std::sync::Arc<dyn Pump>> {
        self.pump.get()
    }

    fn ring(&self) {
        match self.pump.get() {
            Some(pump) => pump.pump(),
            None => self.bell.ring(),
        }
    }

    /// Application: runs the pump, if there is one. True if so: look again.
    pub(crate) fn look(&self) -> bool {
        let pump = self.pump.get();
        if let Some(pump) = pump {
            pump.pump();
        }
        pump.is_some()
    }

    /// True once [`Intake::shut_down`] was called.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Engine: the flows to look at.
    #[must_use]
    pub const fn flows(&self) -> &HintQueue<Mailbox> {
        &self.flows
    }

    /// Engine: the listeners to look at.
    #[must_use]
    pub const fn listeners(&self) -> &HintQueue<Backlog> {
        &self.listeners
    }

    /// The bell that wakes the engine; also rung by frames that come home to a starving region.
    #[must_use]
    pub const fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Engine: it called `wakers` wakers. Several threads count where a pump is in its place.
    pub(crate) fn count_woken(&self, wakers: u64) {
        if wakers > 0 {
            self.woken.fetch_add(wakers, Ordering::Relaxed);
        }
    }

    /// How many wakers the engine has called: the foreign wakes, each of which costs a system call if its task belongs to
    /// another thread's runtime.
    #[must_use]
    pub fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// Engine: it left a flow's wakers to the runtime, which spins.
    pub(crate) fn count_handed_over(&self) {
        self.handed_over.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the engine left the wakers of a flow to the runtime that waits for it, because that runtime spins.
    #[must_use]
    pub fn handed_over(&self) -> u64 {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Says that the engine is polled by the application's own runtime: nobody need spin for it.
    pub fn set_inline(&self) {
        self.inline.store(true, Ordering::Relaxed);
    }

    /// True after [`Intake::set_inline`].
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.inline.load(Ordering::Relaxed)
    }

    /// True if a hint waits for the engine.
    #[must_use]
    pub fn has_hints(&self) -> bool {
        !self.flows.is_empty() || !self.listeners.is_empty()
    }

    /// Engine: it is gone. Drops what waits and refuses further hints. Flows and listeners that the engine never met are
    /// closed, so that nobody waits for them; those it met are closed when it drops their ends.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.flows.close();
        self.listeners.close();
        self.bell.close();
    }
}
