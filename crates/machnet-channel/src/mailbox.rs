//! What one flow's application ends and its engine share.
//!
//! ```text
//!            written by the application        written by the engine
//!   queues   outbox (messages to send)         inbox (messages received)
//!   words    consumed, intent                  room, acknowledged, tell_at, state
//!   wakers                                     rx, tx, state: registered by tasks, woken at the end of a round
//! ```
//!
//! Three handles exist, once each: [`SendEnd`], [`RecvEnd`] and [`EngineEnd`]. That makes both queues single-producer,
//! single-consumer. Each holds an `Arc` of the mailbox; whoever comes last frees it. When both application ends are
//! gone the engine learns it from `intent`.
//!
//! Units are those of flow control ([`cost_in_units`]): a message may be posted while `posted + cost ≤ room`. Taking
//! the permit and posting is one step without an await, so a `send` that is dropped has posted all or nothing.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use crate::hint_queue::{Link, Linked};
use crate::spinner::{self, SpinnerSlot};
use crate::spsc::{KeepAll, KeepOne, Spsc};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use crate::sync::{self, Arc, AtomicWaker};
use crate::{Chunks, FlowOptions, FlowState, Intake, Intent, Message, cost_in_units};

/// Written by the application, read by the engine.
#[derive(Debug)]
struct AppWords {
    consumed: AtomicU64,
    intent: AtomicU32,
    /// [`Asks`] that a pump has not looked at.
    asks: AtomicU8,
}

/// Written once, before or when the flow opens.
#[derive(Debug)]
struct Names {
    peer: SocketAddr,
    local: OnceLock<SocketAddr>,
    /// What the application chose.
    options: FlowOptions,
    intake: Arc<Intake>,
}

/// Written by the engine, read by the application.
#[derive(Debug)]
struct EngineWords {
    room: AtomicU64,
    acknowledged: AtomicU64,
    tell_at: AtomicU64,
    state: AtomicU32,
    /// The engine's name for this flow, so that a hint finds it; touched by the engine alone.
    slot: AtomicU32,
    /// The largest message the flow carries; 0 until it is open.
    max_message: AtomicU32,
    stats: [AtomicU64; FlowStats::WORDS],
}

/// Shared by the two application ends and the engine end of one flow.
///
/// In this order, so that what the application writes and what the engine writes lie a cache line apart: what is written
/// once is between them. Aligning them to lines instead would cost every flow 200 bytes, most of them in malloc.
#[repr(C)]
pub struct Mailbox {
    link: Link<Mailbox>,
    due_link: Link<Mailbox>,
    /// Who spins for the tasks that wait, or null; see `spinner.rs`.
    pub(crate) spinner: SpinnerSlot,
    /// [`Wakes`] handed over to the spinner.
    due: AtomicU8,
    /// True once the engine's end was handed out.
    claimed: AtomicBool,
    app: AppWords,
    names: Names,
    engine: EngineWords,
    rx: AtomicWaker,
    tx: AtomicWaker,
    changed: AtomicWaker,
    outbox: Spsc<Message, KeepOne>,
    /// Filled by engines, which allocate nothing in their rounds.
    inbox: Spsc<Chunks, KeepAll>,
}

/// Bytes of a cache line.
#[cfg(not(machnet_loom))]
const LINE: usize = 64;

#[cfg(not(machnet_loom))]
const _: () = {
    let app = std::mem::offset_of!(Mailbox, app) + std::mem::size_of::<AppWords>();
    assert!(std::mem::offset_of!(Mailbox, engine) - app >= LINE);
    // With the two counts of its `Arc`: an idle flow costs this much, whatever it did before.
    assert!(std::mem::size_of::<Mailbox>() + 16 <= 472);
};

/// The slot of a flow that the engine has not met.
pub(crate) const NO_SLOT: u32 = u32::MAX;

impl Mailbox {
    fn new(intake: Arc<Intake>, peer: SocketAddr, options: FlowOptions) -> Arc<Self> {
        Arc::new(Self {
            link: Link::new(),
            due_link: Link::new(),
            spinner: SpinnerSlot::new(),
            due: AtomicU8::new(0),
            claimed: AtomicBool::new(false),
            app: AppWords { consumed: AtomicU64::new(0), intent: AtomicU32::new(0), asks: AtomicU8::new(0) },
            names: Names { peer, local: OnceLock::new(), options, intake },
            engine: EngineWords {
                room: AtomicU64::new(0),
                acknowledged: AtomicU64::new(0),
                tell_at: AtomicU64::new(u64::MAX),
                state: AtomicU32::new(FlowState::CONNECTING.0),
                slot: AtomicU32::new(NO_SLOT),
                max_message: AtomicU32::new(0),
                stats: std::array::from_fn(|_| AtomicU64::new(0)),
            },
            rx: AtomicWaker::new(),
            tx: AtomicWaker::new(),
            changed: AtomicWaker::new(),
            outbox: Spsc::new(),
            inbox: Spsc::new(),
        })
    }

    /// Application: a flow to `peer`, which the engine begins to connect when it meets the hint sent here. If the engine
    /// is gone, the flow is closed ([`CloseReason::Shutdown`](crate::CloseReason::Shutdown)) at once.
    #[must_use]
    pub fn connect(intake: &Arc<Intake>, peer: SocketAddr) -> (SendEnd, RecvEnd) {
        Self::connect_with(intake, peer, FlowOptions::new())
    }

    /// [`Mailbox::connect`] with options.
    #[must_use]
    pub fn connect_with(intake: &Arc<Intake>, peer: SocketAddr, options: FlowOptions) -> (SendEnd, RecvEnd) {
        let mailbox = Self::new(Arc::clone(intake), peer, options);
        let ends = Self::app_ends(&mailbox);
        intake.hint_flow(&mailbox);
        ends
    }

    /// Engine: a flow that a peer opened, for a listener's backlog.
    #[must_use]
    pub fn accepted(intake: &Arc<Intake>, local: SocketAddr, peer: SocketAddr) -> (EngineEnd, SendEnd, RecvEnd) {
        let mailbox = Self::new(Arc::clone(intake), peer, FlowOptions::new());
        let _ = mailbox.names.local.set(local);
        let (send, recv) = Self::app_ends(&mailbox);
        mailbox.claimed.store(true, Ordering::Relaxed);
        (EngineEnd { mailbox, state: FlowState::CONNECTING }, send, recv)
    }

    fn app_ends(mailbox: &Arc<Self>) -> (SendEnd, RecvEnd) {
        (
            SendEnd { mailbox: Arc::clone(mailbox), posted: 0, finished: false },
            RecvEnd { mailbox: Arc::clone(mailbox), consumed: 0, stopped: false, chunked: false },
        )
    }

    /// Engine: takes the engine's end of a flow met for the first time; `None` if it was taken before.
    #[must_use]
    #[cfg(not(machnet_loom))] // loom's `Arc` cannot be a receiver; the models call `Mailbox::claim_end`
    pub fn claim(self: &Arc<Self>) -> Option<EngineEnd> {
        Self::claim_end(self)
    }

    pub(crate) fn claim_end(this: &Arc<Self>) -> Option<EngineEnd> {
        (!this.claimed.swap(true, Ordering::AcqRel))
            .then(|| EngineEnd { mailbox: Arc::clone(this), state: FlowState::CONNECTING })
    }

    /// Engine: the slot given by [`EngineEnd::set_slot`], if any.
    #[must_use]
    pub fn slot(&self) -> Option<u32> {
        let slot = self.engine.slot.load(Ordering::Relaxed);
        (slot != NO_SLOT).then_some(slot)
    }

    /// What takes hints of the flow.
    #[must_use]
    pub const fn intake(&self) -> &Arc<Intake> {
        &self.names.intake
    }

    /// Where the flow goes.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.names.peer
    }

    /// What the application chose when it connected the flow.
    #[must_use]
    pub const fn options(&self) -> FlowOptions {
        self.names.options
    }

    /// The address the flow uses on this side; known once it is open.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.names.local.get().copied()
    }

    /// The largest message that both sides take, bytes; known once the flow is open, 0 before.
    #[must_use]
    pub fn max_message(&self) -> u32 {
        self.engine.max_message.load(Ordering::Relaxed)
    }

    /// Where the flow stands.
    #[must_use]
    pub fn state(&self) -> FlowState {
        // Acquire: what the engine wrote before (inbox, local address) is visible to who sees the new state.
        FlowState(self.engine.state.load(Ordering::Acquire))
    }

    /// What the engine last counted for this flow.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        FlowStats::from_words(std::array::from_fn(|i| self.engine.stats[i].load(Ordering::Relaxed)))
    }

    fn stats_now(this: &Arc<Self>) -> FlowStats {
        Self::ask(this, Asks::STATS);
        this.stats()
    }

    /// What the application wants.
    pub(crate) fn app_intent(&self) -> Intent {
        Intent(self.app.intent.load(Ordering::Acquire))
    }

    fn add_intent(this: &Arc<Self>, intent: Intent) {
        // Release: messages posted before are visible to the engine when it sees the FIN.
        this.app.intent.fetch_or(intent.0, Ordering::AcqRel);
        this.names.intake.hint_flow(this);
    }

    pub(crate) const fn due_link(&self) -> &Link<Self> {
        &self.due_link
    }

    /// Spinner: calls the wakers that the engine handed over; returns how many.
    pub(crate) fn wake_due(&self) -> u64 {
        // Acquire: what the engine delivered before is visible to who is woken here, also if it set `due` again and found
        // the flow queued.
        self.call(Wakes(self.due.swap(0, Ordering::AcqRel)))
    }

    /// Takes the wakers of who is concerned and calls them. A waker that panics harms its own task only.
    fn call(&self, wakes: Wakes) -> u64 {
        [(Wakes::RX, &self.rx), (Wakes::TX, &self.tx), (Wakes::STATE, &self.changed)]
            .into_iter()
            .filter(|(bit, _)| wakes.0 & bit.0 != 0)
            .map(|(_, waker)| sync::wake(waker))
            .sum()
    }

    /// Application: notes who spins for the task that is about to wait. Before its waker is registered.
    fn note_spinner(&self) {
        // An inline engine runs on the runtime that would spin, and could not meanwhile.
        if !self.names.intake.is_inline() {
            self.spinner.note();
        }
    }

    /// Application: the task waits.
    fn note_waiting(&self) {
        if !self.names.intake.is_inline() {
            spinner::note_waiting();
        }
        if let Some(pump) = self.names.intake.pump() {
            pump.waits();
        }
    }

    /// Application: asks a pump, if there is one, for what it does not tell otherwise.
    fn ask(this: &Arc<Self>, asks: Asks) -> bool {
        let pumped = this.names.intake.pump().is_some();
        if pumped {
            this.app.asks.fetch_or(asks.0, Ordering::Relaxed);
            this.names.intake.hint_flow(this);
        }
        pumped
    }

    fn wake(this: &Arc<Self>, wakes: Wakes) {
        let spinner = this.spinner.get();
        if let Some(spinner) = spinner.filter(|spinner| spinner.is_spinning()) {
            // Release: see `wake_due`.
            this.due.fetch_or(wakes.0, Ordering::AcqRel);
            if spinner.hand_over(this) {
                this.names.intake.count_handed_over();
                return;
            }
        }
        let called = this.call(wakes);
        this.names.intake.count_woken(called);
        if let Some(spinner) = spinner.filter(|_| called > 0) {
            spinner.tell_called();
        }
    }

    /// Waits, registered in `waker`, until the state is as `until` says.
    fn poll_state(&self, cx: &Context<'_>, waker: &AtomicWaker, until: impl Fn(FlowState) -> bool) -> Poll<FlowState> {
        let mut state = self.state();
        if !until(state) && self.names.intake.look() {
            state = self.state();
        }
        if until(state) {
            return Poll::Ready(state);
        }
        self.note_spinner();
        waker.register(cx.waker());
        let state = self.state();
        if until(state) {
            unregister(waker);
            return Poll::Ready(state);
        }
        self.note_waiting();
        Poll::Pending
    }
}

/// Who was registered has what it waited for. A waker left behind would keep the memory of its task, which may be over
/// soon, for as long as the flow is idle.
pub(crate) fn unregister(waker: &AtomicWaker) {
    drop(waker.take());
}

// SAFETY: the link is a field of the item.
unsafe impl Linked for Mailbox {
    fn link(&self) -> &Link<Self> {
        &self.link
    }

    fn unseen(item: &Arc<Self>) {
        // The engine went away before it met the flow: its end, dropped, says so to whoever waits.
        drop(Self::claim_end(item));
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("peer", &self.peer())
            .field("local", &self.local())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// The application's sending end of a flow.
///
/// Dropped, it finishes what was posted (FIN).
#[derive(Debug)]
pub struct SendEnd {
    mailbox: Arc<Mailbox>,
    /// Cumulative units posted.
    posted: u64,
    finished: bool,
}

impl SendEnd {
    /// The flow's shared part.
    #[must_use]
    pub const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Cumulative units posted so far.
    #[must_use]
    pub const fn posted(&self) -> u64 {
        self.posted
    }

    /// Cumulative units that the peer's transport has acknowledged, counted in whole messages in order.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.mailbox.engine.acknowledged.load(Ordering::Acquire)
    }

    /// True if a message may be posted now: of any length, as long as what was posted before leaves room at all. A
    /// message larger than the whole buffer could otherwise never go, and the excess is bounded by one message.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.room_left() || (Mailbox::ask(&self.mailbox, Asks::PROGRESS) && self.room_left())
    }

    fn room_left(&self) -> bool {
        self.posted < self.mailbox.engine.room.load(Ordering::Acquire)
    }

    /// The flow's counters, as of now.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        Mailbox::stats_now(&self.mailbox)
    }

    /// Waits for [`SendEnd::has_room`]. Resolves early when the flow's state says that waiting is pointless, so the
    /// caller looks at the state first. Registers one waker: the last caller's.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.room_left() || (Mailbox::ask(&self.mailbox, Asks::WAIT) && self.room_left()) {
            return Poll::Ready(());
        }
        self.mailbox.note_spinner();
        self.mailbox.tx.register(cx.waker());
        let room = !sync::mutant!("room_recheck") && self.room_left();
        if room || self.mailbox.state().has(FlowState::WRITE_ENDED) {
            unregister(&self.mailbox.tx);
            return Poll::Ready(());
        }
        self.mailbox.note_waiting();
        Poll::Pending
    }

    /// Waits until everything posted up to `units` was acknowledged. Resolves early when the flow's state says that this
    /// may never be, so the caller compares [`SendEnd::acknowledged`]. Registers one waker, the one of
    /// [`SendEnd::poll_room`].
    pub fn poll_acknowledged(&mut self, cx: &Context<'_>, units: u64) -> Poll<()> {
        if self.acknowledged() >= units || (Mailbox::ask(&self.mailbox, Asks::WAIT) && self.acknowledged() >= units) {
            return Poll::Ready(());
        }
        self.mailbox.note_spinner();
        self.mailbox.tx.register(cx.waker());
        // The state first: the engine publishes what was acknowledged before the end.
        let ended = self.mailbox.state().has(FlowState::WRITE_ENDED);
        if ended || self.acknowledged() >= units {
            unregister(&self.mailbox.tx);
            return Poll::Ready(());
        }
        self.mailbox.note_waiting();
        Poll::Pending
    }

    /// Posts `message` if there is room for it, else gives it back. Whether the flow still sends is the caller's to
    /// check: what is posted to a flow that is over is dropped with it.
    ///
    /// # Errors
    /// The message itself: no room, or [`SendEnd::finish`] was called.
    pub fn post(&mut self, message: Message) -> Result<(), Message> {
        if self.finished || !self.has_room() {
            return Err(message);
        }
        self.push(message);
        Ok(())
    }

    /// Posts `message` whether there is room or not, unless [`SendEnd::finish`] was called. For what was accepted from the
    /// application before it finished; the caller bounds how much that is.
    pub fn post_over(&mut self, message: Message) {
        if !self.finished {
            self.push(message);
        }
    }

    fn push(&mut self, message: Message) {
        self.posted += cost_in_units(message.len());
        // SAFETY: there is one `SendEnd` per mailbox and this is `&mut`.
        unsafe { self.mailbox.outbox.push(message) };
        self.mailbox.names.intake.hint_flow(&self.mailbox);
    }

    /// No more messages: FIN follows the last one. Idempotent.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            Mailbox::add_intent(&self.mailbox, Intent::FIN);
        }
    }

    /// True once [`SendEnd::finish`] was called.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    /// Ends the flow at once in both directions.
    pub fn abort(&mut self) {
        Mailbox::add_intent(&self.mailbox, Intent::ABORT);
    }

    /// Waits until the state is as `until` says, and returns it. Registers one waker: the last caller's.
    pub fn poll_state(&mut self, cx: &Context<'_>, until: impl Fn(FlowState) -> bool) -> Poll<FlowState> {
        self.mailbox.poll_state(cx, &self.mailbox.changed, until)
    }
}

impl Drop for SendEnd {
    fn drop(&mut self) {
        self.finish();
        // The task that waited must not stay alive until the engine forgets the flow.
        drop(self.mailbox.tx.take());
        drop(self.mailbox.changed.take());
    }
}

/// The application's receiving end of a flow.
///
/// Dropped, it asks for STOP, which the engine sends unless everything was read to the end.
#[derive(Debug)]
pub struct RecvEnd {
    mailbox: Arc<Mailbox>,
    /// Cumulative units taken from the inbox.
    consumed: u64,
    stopped: bool,
    chunked: bool,
}

impl RecvEnd {
    /// The flow's shared part.
    #[must_use]
    pub const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// The flow's counters, as of now.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        Mailbox::stats_now(&self.mailbox)
    }

    /// From now on the engine may leave long messages in the packets that they come in: [`RecvEnd::take_chunks`] gives those as they
    /// are, [`RecvEnd::take`] copies. Idempotent.
    pub fn want_chunks(&mut self) {
        if !std::mem::replace(&mut self.chunked, true) {
            Mailbox::add_intent(&self.mailbox, Intent::CHUNKS);
        }
    }

    /// Takes the oldest message, and returns its credit to the peer when enough has gathered.
    pub fn take(&mut self) -> Option<Message> {
        self.take_chunks().map(Chunks::into_message)
    }

    /// [`RecvEnd::take`], in the pieces that the message lies in.
    pub fn take_chunks(&mut self) -> Option<Chunks> {
        let message = self.pop();
        if message.is_none() && self.mailbox.names.intake.look() { self.pop() } else { message }
    }

    /// [`RecvEnd::take_chunks`] of what is in the inbox already, where a pump would be run.
    pub fn take_delivered(&mut self) -> Option<Chunks> {
        self.pop()
    }

    fn pop(&mut self) -> Option<Chunks> {
        // SAFETY: there is one `RecvEnd` per mailbox and this is `&mut`.
        let message = unsafe { self.mailbox.inbox.pop() }?;
        self.consumed += cost_in_units(message.len());
        self.mailbox.app.consumed.store(self.consumed, Ordering::Release);
        // Orders the store above before the load below; pairs with the fence in `EngineEnd::set_tell_at`. Without it
        // both sides may miss each other: the engine waits for consumption, the application has consumed everything.
        if !sync::mutant!("take_fence") {
            fence(Ordering::SeqCst);
        }
        if self.consumed >= self.mailbox.engine.tell_at.load(Ordering::Relaxed) {
            self.mailbox.names.intake.hint_flow(&self.mailbox);
        }
        Some(message)
    }

    /// Waits for a message. `Ready(None)` when none is there and the state says that none will come, or that the
    /// flow is over. Registers one waker: the last caller's.
    pub fn poll_take(&mut self, cx: &Context<'_>) -> Poll<Option<Message>> {
        self.poll_take_chunks(cx).map(|message| message.map(Chunks::into_message))
    }

    /// [`RecvEnd::poll_take`], in the pieces that the message lies in.
    pub fn poll_take_chunks(&mut self, cx: &Context<'_>) -> Poll<Option<Chunks>> {
        if let Some(message) = self.take_chunks() {
            return Poll::Ready(Some(message));
        }
        self.mailbox.note_spinner();
        self.mailbox.rx.register(cx.waker());
        // The state before the inbox: the engine delivers first and publishes the end after.
        let mut state = self.mailbox.state();
        let message = if sync::mutant!("inbox_recheck") { None } else { self.pop() };
        if sync::mutant!("state_after_inbox") {
            state = self.mailbox.state();
        }
        if message.is_none() && !state.has(FlowState::READ_ENDED) && !state.has(FlowState::CLOSED) {
            self.mailbox.note_waiting();
            return Poll::Pending;
        }
        unregister(&self.mailbox.rx);
        Poll::Ready(message)
    }

    /// As [`SendEnd::poll_state`]. The task is also woken by messages. One waiter: the last caller of this or
    /// [`RecvEnd::poll_take`].
    pub fn poll_state(&mut self, cx: &Context<'_>, until: impl Fn(FlowState) -> bool) -> Poll<FlowState> {
        self.mailbox.poll_state(cx, &self.mailbox.rx, until)
    }

    /// Tells the peer that nothing more will be read. Idempotent.
    pub fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopped, true) {
            Mailbox::add_intent(&self.mailbox, Intent::STOP);
        }
    }
}

impl Drop for RecvEnd {
    fn drop(&mut self) {
        self.stop();
        // What is unread goes home now, not when the engine forgets the flow.
        // SAFETY: there is one `RecvEnd` per mailbox and this is `&mut`.
        while unsafe { self.mailbox.inbox.pop() }.is_some() {}
        drop(self.mailbox.rx.take());
    }
}

/// Counters of one flow since it was opened, as its engine last published them (at most one round old).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FlowStats {
    /// Messages handed to the peer's transport for the first time, completely.
    pub messages_sent: u64,
    /// Messages put into the inbox.
    pub messages_received: u64,
    /// Payload bytes of `messages_sent`.
    pub bytes_sent: u64,
    /// Payload bytes of `messages_received`.
    pub bytes_received: u64,
    /// Packets sent, acknowledgements and retransmissions included.
    pub packets_sent: u64,
    /// Packets received and accepted.
    pub packets_received: u64,
    /// Packets declared lost.
    pub packets_lost: u64,
    /// Smoothed round-trip time, ns; 0 before the first sample.
    pub smoothed_rtt_ns: u64,
    /// Congestion window, bytes.
    pub congestion_window: u64,
}

impl FlowStats {
    pub(crate) const WORDS: usize = 9;

    pub(crate) const fn to_words(self) -> [u64; Self::WORDS] {
        [
            self.messages_sent,
            self.messages_received,
            self.bytes_sent,
            self.bytes_received,
            self.packets_sent,
            self.packets_received,
            self.packets_lost,
            self.smoothed_rtt_ns,
            self.congestion_window,
        ]
    }

    pub(crate) const fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [
            messages_sent,
            messages_received,
            bytes_sent,
            bytes_received,
            packets_sent,
            packets_received,
            packets_lost,
            smoothed_rtt_ns,
            congestion_window,
        ] = words;
        Self {
            messages_sent,
            messages_received,
            bytes_sent,
            bytes_received,
            packets_sent,
            packets_received,
            packets_lost,
            smoothed_rtt_ns,
            congestion_window,
        }
    }
}

/// Which waiters a change concerns; gathered over a round, woken at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Wakes(u8);

impl Wakes {
    /// Who waits for a message.
    pub const RX: Self = Self(1);
    /// Who waits for room.
    pub const TX: Self = Self(2);
    /// Who waits for a change of state.
    pub const STATE: Self = Self(4);
    /// Everybody: the flow ended.
    pub const ALL: Self = Self(7);

    /// The waiters of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if nobody is concerned.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What an application asks a pump for; an engine of this process tells all of it unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Asks(u8);

impl Asks {
    /// Room and acknowledged, as they are now.
    pub const PROGRESS: Self = Self(1);
    /// The same, and to be woken when they change.
    pub const WAIT: Self = Self(3);
    /// The counters.
    pub const STATS: Self = Self(4);

    /// True if every bit of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Somebody to wake, later.
#[derive(Debug)]
pub struct Waking {
    mailbox: Arc<Mailbox>,
    wakes: Wakes,
}

impl Waking {
    /// Wakes who is concerned: hands them over to their runtime while it spins, else takes their wakers and calls them.
    pub fn wake(self) {
        Mailbox::wake(&self.mailbox, self.wakes);
    }
}

/// The engine's end of a flow.
#[derive(Debug)]
pub struct EngineEnd {
    mailbox: Arc<Mailbox>,
    /// As published. The engine reads its own words here, not in the line that applications read.
    state: FlowState,
}

impl EngineEnd {
    /// The flow's shared part.
    #[must_use]
    pub const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Names the flow, so that hints find it.
    pub fn set_slot(&mut self, slot: u32) {
        self.mailbox.engine.slot.store(slot, Ordering::Relaxed);
    }

    /// Tells the application its own address. The first value stays.
    pub fn set_local(&mut self, local: SocketAddr) {
        let _ = self.mailbox.names.local.set(local);
    }

    /// Tells the application the largest message. Before [`EngineEnd::set_state`] says that the flow is open.
    pub fn set_max_message(&mut self, bytes: u32) {
        self.mailbox.engine.max_message.store(bytes, Ordering::Relaxed);
    }

    /// Takes the oldest message to send. Read [`EngineEnd::intent`] *before* draining: a FIN seen there covers every
    /// message that a drain after it finds.
    pub fn take(&mut self) -> Option<Message> {
        // SAFETY: there is one `EngineEnd` per mailbox and this is `&mut`.
        unsafe { self.mailbox.outbox.pop() }
    }

    /// What the application wants.
    #[must_use]
    pub fn intent(&self) -> Intent {
        self.mailbox.app_intent()
    }

    /// Cumulative units that the application has taken from the inbox.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.mailbox.app.consumed.load(Ordering::Acquire)
    }

    /// Asks for a hint once `consumed` reaches `units`, and returns `consumed` as it is now: the application may have
    /// been there already, and then sends no hint.
    pub fn set_tell_at(&mut self, units: u64) -> u64 {
        let tell_at = &self.mailbox.engine.tell_at;
        // If it was asked for before, and fenced then, the application sees it.
        if tell_at.load(Ordering::Relaxed) != units {
            tell_at.store(units, Ordering::Relaxed);
            // Pairs with the fence in `RecvEnd::take`.
            if !sync::mutant!("tell_at_fence") {
                fence(Ordering::SeqCst);
            }
        }
        self.consumed()
    }

    /// Puts a message into the inbox. The waker ([`Wakes::RX`]) is called by [`EngineEnd::wake`], later.
    pub fn deliver(&mut self, message: impl Into<Chunks>) {
        // SAFETY: there is one `EngineEnd` per mailbox and this is `&mut`.
        unsafe { self.mailbox.inbox.push(message.into()) };
    }

    /// Gives back the memory of past traffic.
    pub fn shed(&mut self) {
        // SAFETY: there is one `EngineEnd` per mailbox and this is `&mut`; it is the inbox's producer.
        unsafe { self.mailbox.inbox.shed() };
        self.mailbox.outbox.shed_spare();
    }

    /// Cumulative units that may be posted.
    pub fn set_room(&mut self, units: u64) {
        self.mailbox.engine.room.store(units, Ordering::Release);
    }

    /// Cumulative units acknowledged by the peer.
    pub fn set_acknowledged(&mut self, units: u64) {
        self.mailbox.engine.acknowledged.store(units, Ordering::Release);
    }

    /// Publishes where the flow stands.
    pub fn set_state(&mut self, state: FlowState) {
        self.state = state;
        self.mailbox.engine.state.store(state.0, Ordering::Release);
    }

    /// Publishes the flow's counters.
    pub fn set_stats(&mut self, stats: &FlowStats) {
        for (word, value) in self.mailbox.engine.stats.iter().zip(stats.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Wakes who is concerned: hands them over to their runtime while it spins, else takes their wakers and calls them.
    pub fn wake(&self, wakes: Wakes) {
        Mailbox::wake(&self.mailbox, wakes);
    }

    /// [`EngineEnd::wake`] for later, without the end.
    #[must_use]
    pub fn waking(&self, wakes: Wakes) -> Waking {
        Waking { mailbox: Arc::clone(&self.mailbox), wakes }
    }

    /// What the application asked for since the last call.
    #[must_use]
    pub fn asks(&self) -> Asks {
        // The cheap look first.
        if self.mailbox.app.asks.load(Ordering::Relaxed) == 0 {
            return Asks::default();
        }
        Asks(self.mailbox.app.asks.swap(0, Ordering::Relaxed))
    }
}

impl Drop for EngineEnd {
    fn drop(&mut self) {
        // An engine that dies (or forgets a flow without a word) must not leave anybody waiting.
        if !self.state.has(FlowState::CLOSED) {
            self.set_state(self.state.closed(crate::CloseReason::Shutdown));
        }
        self.wake(Wakes::ALL);
        // Late hints (the ends' drops) find neither a slot, which may be another flow's by then, nor an end to claim.
        self.mailbox.engine.slot.store(NO_SLOT, Ordering::Relaxed);
        // What was posted and never taken goes home now.
        while self.take().is_some() {}
    }
}
