//! What a listener and its engine share: flows that completed their handshake and wait to be accepted.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use crate::hint_queue::{Link, Linked};
use crate::mailbox::unregister;
use crate::spinner::SpinnerSlot;
use crate::spsc::{KeepOne, Spsc};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use crate::sync::{self, Arc, AtomicWaker};
use crate::{FlowOptions, Intake, RecvEnd, SendEnd};
use std::sync::OnceLock;

/// An accepted flow on its way to the application.
#[derive(Debug)]
pub struct Accepted {
    /// The sending end.
    pub send: SendEnd,
    /// The receiving end.
    pub recv: RecvEnd,
}

/// Shared by a listener and its engine.
pub struct Backlog {
    port: u16,
    limit: u32,
    options: FlowOptions,
    ready: Spsc<Accepted, KeepOne>,
    waiting: AtomicU32,
    status: AtomicU8,
    /// The address the port was opened at, or why it was not.
    opened: OnceLock<Result<SocketAddr, (std::io::ErrorKind, String)>>,
    gone: AtomicBool,
    claimed: AtomicBool,
    waker: AtomicWaker,
    /// Who must stop spinning when the waker is called.
    spinner: SpinnerSlot,
    link: Link<Backlog>,
    slot: AtomicU32,
    intake: Arc<Intake>,
}

const OPENING: u8 = 0;
const OPENED: u8 = 1;
const CLOSED: u8 = 2;

impl Backlog {
    /// Application: asks the engine to listen on UDP port `port` (0: any), with room for `limit` flows that wait to be
    /// accepted. If the engine is gone, the listener is closed at once.
    #[must_use]
    pub fn listen(intake: &Arc<Intake>, port: u16, limit: u32) -> BacklogConsumer {
        Self::listen_with(intake, port, limit, FlowOptions::new())
    }

    /// [`Backlog::listen`] with options for the flows it accepts.
    #[must_use]
    pub fn listen_with(intake: &Arc<Intake>, port: u16, limit: u32, options: FlowOptions) -> BacklogConsumer {
        let backlog = Arc::new(Self {
            port,
            limit,
            options,
            ready: Spsc::new(),
            waiting: AtomicU32::new(0),
            status: AtomicU8::new(OPENING),
            opened: OnceLock::new(),
            gone: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            spinner: SpinnerSlot::new(),
            link: Link::new(),
            slot: AtomicU32::new(crate::mailbox::NO_SLOT),
            intake: Arc::clone(intake),
        });
        intake.hint_listener(&backlog);
        BacklogConsumer { backlog }
    }

    /// What the application chose for the flows it accepts.
    #[must_use]
    pub const fn options(&self) -> FlowOptions {
        self.options
    }

    /// How many flows may wait to be accepted.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// The port asked for.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Engine: takes the producing end of a listener met for the first time.
    #[must_use]
    #[cfg(not(machnet_loom))] // loom's `Arc` cannot be a receiver; the models call `Backlog::claim_end`
    pub fn claim(self: &Arc<Self>) -> Option<BacklogProducer> {
        Self::claim_end(self)
    }

    pub(crate) fn claim_end(this: &Arc<Self>) -> Option<BacklogProducer> {
        (!this.claimed.swap(true, Ordering::AcqRel)).then(|| BacklogProducer { backlog: Arc::clone(this) })
    }

    /// Engine: the slot given by [`BacklogProducer::set_slot`], if any.
    #[must_use]
    pub fn slot(&self) -> Option<u32> {
        let slot = self.slot.load(Ordering::Relaxed);
        (slot != crate::mailbox::NO_SLOT).then_some(slot)
    }
}

impl Backlog {
    /// Application: the task waits.
    fn waits(&self) {
        if let Some(pump) = self.intake.pump() {
            pump.waits();
        }
    }

    /// Engine: wakes who waits.
    pub(crate) fn call(&self) {
        let called = sync::wake(&self.waker);
        self.intake.count_woken(called);
        if let Some(spinner) = self.spinner.get().filter(|_| called > 0) {
            spinner.tell_called();
        }
    }
}

// SAFETY: the link is a field of the item.
unsafe impl Linked for Backlog {
    fn link(&self) -> &Link<Self> {
        &self.link
    }

    fn unseen(item: &Arc<Self>) {
        // The engine went away before it met the listener: its end, dropped, says so.
        drop(Self::claim_end(item));
    }
}

impl std::fmt::Debug for Backlog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backlog")
            .field("port", &self.port)
            .field("limit", &self.limit)
            .field("waiting", &self.waiting.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// The listener's end. Dropped, the engine stops listening; flows that wait unaccepted are dropped with it.
#[derive(Debug)]
pub struct BacklogConsumer {
    backlog: Arc<Backlog>,
}

impl BacklogConsumer {
    /// Waits for the engine to have opened the port.
    ///
    /// # Errors
    /// What the driver said, for example that the port is in use.
    pub fn poll_opened(&mut self, cx: &Context<'_>) -> Poll<std::io::Result<SocketAddr>> {
        if self.backlog.status.load(Ordering::Acquire) == OPENING {
            self.backlog.intake.look();
        }
        self.backlog.spinner.note();
        self.backlog.waker.register(cx.waker());
        if self.backlog.status.load(Ordering::Acquire) == OPENING {
            self.backlog.waits();
            return Poll::Pending;
        }
        unregister(&self.backlog.waker);
        Poll::Ready(match self.backlog.opened.get() {
            Some(Ok(addr)) => Ok(*addr),
            Some(Err((kind, text))) => Err(std::io::Error::new(*kind, text.clone())),
            None => Err(std::io::Error::new(std::io::ErrorKind::NotConnected, "the endpoint was shut down")),
        })
    }

    /// Waits for the next accepted flow; `Ready(None)` when the engine is gone.
    pub fn poll_accept(&mut self, cx: &Context<'_>) -> Poll<Option<Accepted>> {
        let ready = self.pop();
        let ready = if ready.is_none() && self.backlog.intake.look() { self.pop() } else { ready };
        if ready.is_some() {
            return Poll::Ready(ready);
        }
        self.backlog.spinner.note();
        self.backlog.waker.register(cx.waker());
        // The status before the queue: the producer pushes first and closes after.
        let mut closed = self.backlog.status.load(Ordering::Acquire) == CLOSED;
        let accepted = if sync::mutant!("accept_recheck") { None } else { self.pop() };
        if sync::mutant!("closed_after_queue") {
            closed = self.backlog.status.load(Ordering::Acquire) == CLOSED;
        }
        if accepted.is_none() && !closed {
            self.backlog.waits();
            return Poll::Pending;
        }
        unregister(&self.backlog.waker);
        Poll::Ready(accepted)
    }

    fn pop(&mut self) -> Option<Accepted> {
        // SAFETY: there is one `BacklogConsumer` per backlog and this is `&mut`.
        let accepted = unsafe { self.backlog.ready.pop() }?;
        self.backlog.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.backlog.intake.pump().is_some() {
            // An engine elsewhere does not see the count.
            self.backlog.intake.hint_listener(&self.backlog);
        }
        Some(accepted)
    }
}

impl Drop for BacklogConsumer {
    fn drop(&mut self) {
        self.backlog.gone.store(true, Ordering::Release);
        while self.pop().is_some() {}
        // The task that waited must not stay alive until the engine forgets the listener.
        drop(self.backlog.waker.take());
        self.backlog.intake.hint_listener(&self.backlog);
    }
}

/// The engine's end.
#[derive(Debug)]
pub struct BacklogProducer {
    backlog: Arc<Backlog>,
}

impl BacklogProducer {
    /// The listener's shared part.
    #[must_use]
    pub const fn backlog(&self) -> &Arc<Backlog> {
        &self.backlog
    }

    /// Names the listener, so that hints find it.
    pub fn set_slot(&mut self, slot: u32) {
        self.backlog.slot.store(slot, Ordering::Relaxed);
    }

    /// Says where the port was opened, or why not.
    pub fn set_opened(&mut self, opened: Result<SocketAddr, &std::io::Error>) {
        self.set_opened_quietly(opened);
        self.backlog.call();
    }

    /// [`BacklogProducer::set_opened`], and nobody is woken yet.
    pub(crate) fn set_opened_quietly(&mut self, opened: Result<SocketAddr, &std::io::Error>) {
        let status = if opened.is_ok() { OPENED } else { CLOSED };
        let _ = self.backlog.opened.set(opened.map_err(|e| (e.kind(), e.to_string())));
        self.backlog.status.store(status, Ordering::Release);
    }

    /// Flows that wait to be accepted.
    pub(crate) fn waiting(&self) -> u32 {
        self.backlog.waiting.load(Ordering::Relaxed)
    }

    /// The address the port was opened at.
    pub(crate) fn opened_at(&self) -> Option<SocketAddr> {
        self.backlog.opened.get().and_then(|opened| opened.as_ref().ok()).copied()
    }

    /// True once the listener is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.backlog.gone.load(Ordering::Acquire)
    }

    /// How many more flows may wait.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.backlog.limit.saturating_sub(self.backlog.waiting.load(Ordering::Relaxed))
    }

    /// Queues an accepted flow; the listener is woken by [`BacklogProducer::wake`], at the end of the round.
    pub fn push(&mut self, accepted: Accepted) {
        self.backlog.waiting.fetch_add(1, Ordering::Relaxed);
        // SAFETY: there is one `BacklogProducer` per backlog and this is `&mut`.
        unsafe { self.backlog.ready.push(accepted) };
    }

    /// Wakes who waits in `accept`.
    pub fn wake(&self) {
        self.backlog.call();
    }
}

impl Drop for BacklogProducer {
    fn drop(&mut self) {
        self.backlog.status.store(CLOSED, Ordering::Release);
        self.backlog.call();
    }
}
