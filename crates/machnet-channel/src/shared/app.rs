//! The application's end of a region: the counterpart of [`DaemonSide`](super::DaemonSide), in the same way.
//!
//! A daemon can do its applications much harm, for it owns their flows. Yet what it writes is checked, too: a daemon that
//! is broken ends the channel, and harms nothing else of the process.

use std::io;
use std::net::SocketAddr;

use super::geometry::{Geometry, Layout, Side};
use super::malformed::{Malformed, Word};
use super::marks::{self, Looker};
use super::status::{STATUS_COUNTERS, Status};
use super::table::{
    DONE, LISTENING, MAX_TEXT, OPENING, REFUSED, RELEASED, STATES, app, app_listener, daemon, daemon_listener,
    kind_from_bits, load3, store3,
};
use super::tag::{self, Piece};
use super::values::{address_from_words, address_to_words, options_to_word};
use super::wants::{self, Wants};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::mutant;
use crate::{FlowOptions, FlowState, FlowStats, Intent, PipeReceiver, PipeSender, Words};

/// Something the daemon did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// To a flow that is known: look at it.
    Flow(u32),
    /// It opened a flow in this slot: [`AppSide::adopt`] it.
    Accepted(u32),
    /// To a listener: look at it.
    Listener(u32),
}

/// What waits in the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A piece of a message of a known flow.
    Piece(Piece),
    /// A piece of a flow that the daemon opened: [`AppSide::adopt`] it, and peek again.
    Accepted(u32),
}

/// What the daemon says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Messages that come before the state is heeded.
    pub delivered: u64,
    /// Units that may be posted.
    pub room: u64,
    /// Units that were acknowledged.
    pub acknowledged: u64,
    /// When to tell of consumption.
    pub tell_at: u64,
    /// Where the flow stands.
    pub state: FlowState,
    /// The largest message, bytes; 0 if it is not known yet.
    pub max_message: u32,
    /// The address on this side: of a flow that is open.
    pub local: Option<SocketAddr>,
    /// The daemon has said its last word.
    pub released: bool,
}

/// A flow that the daemon opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedView {
    /// The address on this side.
    pub local: SocketAddr,
    /// Who opened it.
    pub peer: SocketAddr,
    /// Slot and generation of the listener.
    pub listener: (u32, u32),
}

/// What the daemon says of a listener.
#[derive(Debug)]
pub enum ListenerView {
    /// Nothing yet.
    Opening,
    /// It is open.
    Listening(SocketAddr),
    /// It will not be.
    Refused(io::Error),
    /// The daemon has forgotten it: the slot is free.
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    /// Claimed, and not answered.
    Claimed,
    Open,
}

#[derive(Debug)]
struct Flow {
    phase: Phase,
    generation: u32,
    state: u32,
    posted: u64,
    waits: bool,
}

#[derive(Debug)]
struct Listening {
    phase: Phase,
    generation: u32,
    done: bool,
    released: bool,
}

/// The application's end.
#[derive(Debug)]
pub struct AppSide<W> {
    words: W,
    layout: Layout,
    looker: Looker,
    listeners_marked: u64,
    pass: bool,
    flows: Box<[Flow]>,
    listeners: Box<[Listening]>,
    /// Slots for flows to be connected.
    free: Vec<u32>,
    receiver: PipeReceiver<W>,
    sender: PipeSender<W>,
    /// The message of which a piece with MORE was taken last: slot, generation, bytes.
    underway: Option<(u32, u16, u64)>,
    max_message: u32,
    did: Wants,
    put: bool,
    took: bool,
    /// What the word said that was written last; the daemon clears it when it rings.
    armed: Wants,
    status: Status,
    /// Questions asked.
    asked: u64,
}

impl<W: Words + Clone> AppSide<W> {
    /// The application's end of the fresh region `words`, with messages of up to `max_message` bytes.
    ///
    /// # Panics
    /// If the region is smaller than the geometry says.
    #[must_use]
    pub fn new(words: W, geometry: &Geometry, max_message: u32) -> Self {
        let layout = Layout::new(geometry);
        let flow = |_| Flow { phase: Phase::Free, generation: 0, state: 0, posted: 0, waits: false };
        let listening = |_| Listening { phase: Phase::Free, generation: 0, done: false, released: false };
        Self {
            receiver: PipeReceiver::new(words.clone(), &layout.pipe(Side::Daemon)),
            sender: PipeSender::new(words.clone(), &layout.pipe(Side::App)),
            words,
            layout,
            looker: Looker::default(),
            listeners_marked: 0,
            pass: false,
            flows: (0..layout.slots()).map(flow).collect(),
            listeners: (0..geometry.listeners).map(listening).collect(),
            free: (0..geometry.flows).rev().collect(),
            underway: None,
            max_message,
            did: Wants::default(),
            put: false,
            took: false,
            armed: Wants::default(),
            status: Status::default(),
            asked: 0,
        }
    }

    /// The same with a page of status behind the region, if `has`.
    #[must_use]
    pub fn with_status(mut self, has: bool) -> Self {
        if has {
            self.status = Status::behind(self.layout.geometry().bytes());
        }
        self
    }

    /// Asks whether the daemon is there: it answers in a round of its own. [`AppSide::publish`] shows it.
    pub fn ask(&mut self) {
        self.asked += 1;
        self.status.ask(&self.words, self.asked);
        self.did = self.did.with(Wants::DATA);
    }

    /// True if the last question was answered, or there was none; `None` if this daemon answers none.
    #[must_use]
    pub fn is_answered(&self) -> Option<bool> {
        self.status.answered(&self.words).map(|answered| answered == self.asked)
    }

    /// The counters of the daemon's engine as of its last answer.
    #[must_use]
    pub fn counters(&self) -> Option<[u64; STATUS_COUNTERS]> {
        self.status.counters(&self.words)
    }

    /// Slots of flows, all told.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.layout.slots()
    }

    /// Listeners there may be.
    #[must_use]
    pub const fn listeners(&self) -> u32 {
        self.layout.geometry().listeners
    }

    // What the daemon did.

    /// The next thing that the daemon did. `None` ends a pass, as [`DaemonSide::next_event`](super::DaemonSide::next_event)
    /// does.
    ///
    /// # Errors
    /// It wrote what cannot be.
    pub fn next_note(&mut self) -> Result<Option<Note>, Malformed> {
        loop {
            if self.listeners_marked != 0 {
                let listener = self.listeners_marked.trailing_zeros();
                self.listeners_marked &= self.listeners_marked - 1;
                if self.listeners[listener as usize].phase != Phase::Free {
                    return Ok(Some(Note::Listener(listener)));
                }
                continue;
            }
            if let Some(slot) = self.looker.next(&self.words, &self.layout, Side::Daemon) {
                match self.look_at_grant(slot)? {
                    Granted::Nothing => continue,
                    Granted::Known => return Ok(Some(Note::Flow(slot))),
                    Granted::Accepted => return Ok(Some(Note::Accepted(slot))),
                }
            }
            if std::mem::take(&mut self.pass) {
                return Ok(None);
            }
            self.listeners_marked = marks::take_listeners(&self.words, &self.layout, Side::Daemon);
            let flows = self.looker.begin(&self.words, &self.layout, Side::Daemon);
            if self.listeners_marked == 0 && !flows {
                return Ok(None);
            }
            self.pass = true;
        }
    }

    /// Looks whether the daemon answered, or opened, a generation.
    fn look_at_grant(&mut self, slot: u32) -> Result<Granted, Malformed> {
        let owned = slot < self.layout.geometry().flows;
        // Acquire: what was written before is seen.
        let grant = self.load(self.layout.flow(Side::Daemon, slot) + daemon::GRANT, Ordering::Acquire);
        let flow = &mut self.flows[slot as usize];
        let ahead = (grant as u32).wrapping_sub(flow.generation);
        match (flow.phase, ahead) {
            (Phase::Free, 0) | (Phase::Claimed, u32::MAX) => Ok(Granted::Nothing),
            (Phase::Claimed | Phase::Open, 0) => {
                flow.phase = Phase::Open;
                Ok(Granted::Known)
            }
            (Phase::Free, 1) if !owned => Ok(Granted::Accepted),
            _ => Err(Malformed::Generation { slot, found: grant as u32, last: flow.generation }),
        }
    }

    /// What the daemon says of a flow that a [`Note::Flow`] named, or that was adopted.
    ///
    /// # Errors
    /// It wrote what cannot be.
    pub fn flow(&mut self, slot: u32) -> Result<FlowView, Malformed> {
        let at = self.layout.flow(Side::Daemon, slot);
        // RELEASED before the state, the state before what it covers: each Acquire pairs with the daemon's Release.
        let grant = self.load(at + daemon::GRANT, Ordering::Acquire);
        let found = self.load(at + daemon::STATE, Ordering::Acquire);
        let state = found as u32;
        let flow = &mut self.flows[slot as usize];
        // Bits are only ever added, and a reason comes with the end.
        let gone = flow.state & STATES & !state;
        if state & !(STATES | 0xff_0000) != 0 || gone != 0 {
            return Err(Malformed::Word { slot, word: Word::State, found });
        }
        flow.state = state;
        let mut local = None;
        // Before OPEN the daemon may be at it: of its words some would be there.
        if FlowState(state).has(FlowState::OPEN) || mutant!("shared_early_local") {
            let words = address_from_words(load3(&self.words, at + daemon::LOCAL));
            local = words.map_err(|found| Malformed::Word { slot, word: Word::Address, found })?;
        }
        Ok(FlowView {
            delivered: self.load(at + daemon::DELIVERED, Ordering::Relaxed),
            room: self.load(at + daemon::ROOM, Ordering::Acquire),
            acknowledged: self.load(at + daemon::ACKNOWLEDGED, Ordering::Acquire),
            tell_at: self.load(at + daemon::TELL_AT, Ordering::Acquire),
            state: FlowState(state),
            max_message: (found >> 32) as u32,
            local,
            released: grant & RELEASED != 0,
        })
    }

    /// Room and acknowledged, as they are now. With `wait`, a [`Note::Flow`] comes when they change, once.
    pub fn progress(&mut self, slot: u32, wait: bool) -> (u64, u64) {
        if wait && !std::mem::replace(&mut self.flows[slot as usize].waits, true) {
            self.store(self.layout.flow(Side::App, slot) + app::WAITS, 1, Ordering::Relaxed);
            // Orders the word before the look; pairs with the fence in `DaemonSide::publish`.
            if !mutant!("shared_wait_fence") {
                fence(Ordering::SeqCst);
            }
        }
        if self.flows[slot as usize].phase == Phase::Claimed {
            // What is there is the last generation's.
            return (0, 0);
        }
        let at = self.layout.flow(Side::Daemon, slot);
        (self.load(at + daemon::ROOM, Ordering::Acquire), self.load(at + daemon::ACKNOWLEDGED, Ordering::Acquire))
    }

    /// Nobody waits for progress any more.
    pub fn wait_no_more(&mut self, slot: u32) {
        if std::mem::take(&mut self.flows[slot as usize].waits) {
            self.store(self.layout.flow(Side::App, slot) + app::WAITS, 0, Ordering::Relaxed);
        }
    }

    /// The flow's counters.
    #[must_use]
    pub fn stats(&self, slot: u32) -> FlowStats {
        if self.flows[slot as usize].phase == Phase::Claimed {
            return FlowStats::default();
        }
        let at = self.layout.flow(Side::Daemon, slot) + daemon::STATS;
        FlowStats::from_words(std::array::from_fn(|i| self.load(at + i, Ordering::Relaxed)))
    }

    /// Takes over a flow that the daemon opened in `slot`.
    ///
    /// # Errors
    /// It wrote what cannot be.
    pub fn adopt(&mut self, slot: u32) -> Result<AcceptedView, Malformed> {
        let at = self.layout.flow(Side::Daemon, slot);
        let grant = self.load(at + daemon::GRANT, Ordering::Acquire);
        let generation = self.flows[slot as usize].generation.wrapping_add(1);
        if self.flows[slot as usize].phase != Phase::Free || grant as u32 != generation {
            return Err(Malformed::Generation { slot, found: grant as u32, last: generation.wrapping_sub(1) });
        }
        let address = |word| {
            let words = load3(&self.words, at + word);
            let bad = |found| Malformed::Word { slot, word: Word::Address, found };
            address_from_words(words).map_err(bad)?.ok_or_else(|| bad(0))
        };
        let (local, peer) = (address(daemon::LOCAL)?, address(daemon::PEER)?);
        let found = self.load(at + daemon::LISTENER, Ordering::Relaxed);
        let listener = (found as u32, (found >> 32) as u32);
        if listener.0 >= self.listeners() {
            return Err(Malformed::Word { slot, word: Word::Listener, found });
        }
        self.begin(slot, Phase::Open);
        Ok(AcceptedView { local, peer, listener })
    }

    /// Claims the next generation of a slot. Its other words are written by now.
    fn begin(&mut self, slot: u32, phase: Phase) {
        let at = self.layout.flow(Side::App, slot);
        for word in [app::POSTED, app::CONSUMED, app::INTENT, app::WAITS] {
            self.store(at + word, 0, Ordering::Relaxed);
        }
        let generation = self.flows[slot as usize].generation.wrapping_add(1);
        self.flows[slot as usize] = Flow { phase, generation, state: 0, posted: 0, waits: false };
        self.store(at + app::CLAIM, generation.into(), Ordering::Release);
        self.mark(slot);
    }

    /// The next piece that the daemon sent; it stays until it is taken. Pieces of flows that are over are dropped here.
    ///
    /// # Errors
    /// It is none that can be.
    pub fn peek(&mut self) -> Result<Option<Incoming>, Malformed> {
        for _ in 0..self.layout.geometry().descriptors {
            if self.receiver.ready()? == 0 {
                break;
            }
            let Some(descriptor) = self.receiver.peek()? else { break };
            let (slot, more, generation) = tag::unpack(descriptor.tag);
            if slot >= self.slots() {
                return Err(Malformed::Slot { found: slot, slots: self.slots() });
            }
            let mut flow = &self.flows[slot as usize];
            if flow.phase != Phase::Open {
                // Its opening was shown before the piece; it may be marked, and not looked at yet.
                if self.look_at_grant(slot)? == Granted::Accepted {
                    return Ok(Some(Incoming::Accepted(slot)));
                }
                flow = &self.flows[slot as usize];
            }
            let behind = (flow.generation as u16).wrapping_sub(generation);
            if behind > u16::MAX / 2 || (behind == 0 && (flow.phase == Phase::Claimed || flow.generation == 0)) {
                return Err(Malformed::Generation { slot, found: generation.into(), last: flow.generation });
            }
            if behind != 0 || flow.phase == Phase::Free {
                self.receiver.take(&mut []);
                self.took = true;
                continue;
            }
            let before = self.underway.filter(|&(of, g, _)| (of, g) == (slot, generation)).map(|(.., before)| before);
            let len = before.unwrap_or(0) + descriptor.len as u64;
            if len > self.max_message.into() || (more && descriptor.len == 0) {
                return Err(Malformed::Message { slot, len });
            }
            let piece = Piece { slot, len: descriptor.len, more, begins: before.is_none() };
            return Ok(Some(Incoming::Piece(piece)));
        }
        Ok(None)
    }

    /// Takes the piece that [`AppSide::peek`] showed, copying it into `buffer`, which is as long as the piece.
    pub fn take(&mut self, piece: &Piece, buffer: &mut [u8]) {
        let Piece { slot, len, more, begins } = *piece;
        self.receiver.take(buffer);
        self.took = true;
        let before = if begins { 0 } else { self.underway.map_or(0, |(.., before)| before) };
        let generation = self.flows[slot as usize].generation as u16;
        self.underway = more.then_some((slot, generation, before + len as u64));
    }

    /// True if the daemon did something that was not looked at, or took pieces and `room` is wanted: do not sleep.
    #[must_use]
    pub fn has_work(&self, room: bool) -> bool {
        self.pass
            || self.listeners_marked != 0
            || self.looker.has_marks(&self.words, &self.layout, Side::Daemon)
            || self.receiver.has_data()
            || (room && self.sender.has_reclaimable())
    }

    // What the application does.

    /// Opens a flow to `peer`. `None` if every slot is in use.
    pub fn connect(&mut self, peer: SocketAddr, options: FlowOptions) -> Option<u32> {
        let slot = self.free.pop()?;
        let at = self.layout.flow(Side::App, slot);
        store3(&self.words, at + app::PEER, address_to_words(Some(peer)));
        self.store(at + app::OPTIONS, options_to_word(options), Ordering::Relaxed);
        self.begin(slot, Phase::Claimed);
        Some(slot)
    }

    /// Puts a message into the pipe, from byte `*from` on, which it advances, in as many pieces as it takes. False if there
    /// is no more room: go on later, with this message before any other; or give it up by beginning another.
    ///
    /// # Errors
    /// The daemon's index is impossible.
    #[inline]
    pub fn put(&mut self, slot: u32, message: &[u8], from: &mut usize) -> Result<bool, Malformed> {
        let flow = &mut self.flows[slot as usize];
        self.put = true;
        let max_piece = self.layout.geometry().max_piece;
        let all = tag::put(&mut self.sender, max_piece, slot, flow.generation, message, from)?;
        flow.posted += u64::from(all);
        Ok(all)
    }

    /// Units consumed, and a mark: the daemon asked for it.
    pub fn set_consumed(&mut self, slot: u32, units: u64) {
        self.store(self.layout.flow(Side::App, slot) + app::CONSUMED, units, Ordering::Release);
        self.mark(slot);
    }

    /// What the application wants; FIN covers what was put before.
    pub fn set_intent(&mut self, slot: u32, intent: Intent) {
        let at = self.layout.flow(Side::App, slot);
        self.store(at + app::POSTED, self.flows[slot as usize].posted, Ordering::Relaxed);
        // Release: who sees FIN sees what was posted.
        self.store(at + app::INTENT, intent.0.into(), Ordering::Release);
        self.mark(slot);
    }

    /// Done with a flow that the daemon released, and of which everything was taken. The slot is free.
    pub fn done(&mut self, slot: u32) {
        self.wait_no_more(slot);
        let flow = &mut self.flows[slot as usize];
        flow.phase = Phase::Free;
        let claim = u64::from(flow.generation) | DONE;
        self.store(self.layout.flow(Side::App, slot) + app::CLAIM, claim, Ordering::Release);
        self.mark(slot);
        if slot < self.layout.geometry().flows {
            self.free.push(slot);
        }
    }

    /// Opens a listener; its slot and generation. `None` if every slot is in use.
    pub fn listen(&mut self, port: u16, backlog: u32, options: FlowOptions) -> Option<(u32, u32)> {
        let slot = self.listeners.iter().position(|listening| listening.phase == Phase::Free)? as u32;
        let at = self.layout.listener(Side::App, slot);
        self.store(at + app_listener::PORT, u64::from(port) | u64::from(backlog) << 32, Ordering::Relaxed);
        self.store(at + app_listener::OPTIONS, options_to_word(options), Ordering::Relaxed);
        self.store(at + app_listener::TAKEN, 0, Ordering::Relaxed);
        let generation = self.listeners[slot as usize].generation.wrapping_add(1);
        self.listeners[slot as usize] = Listening { phase: Phase::Claimed, generation, done: false, released: false };
        self.store(at + app_listener::CLAIM, generation.into(), Ordering::Release);
        self.mark_listener(slot);
        Some((slot, generation))
    }

    /// What the daemon says of a listener that a [`Note::Listener`] named.
    ///
    /// # Errors
    /// It wrote what cannot be.
    pub fn listener(&mut self, slot: u32) -> Result<ListenerView, Malformed> {
        let at = self.layout.listener(Side::Daemon, slot);
        let bad = |word, found| Malformed::Word { slot, word, found };
        let grant = self.load(at + daemon_listener::GRANT, Ordering::Acquire);
        let listening = &mut self.listeners[slot as usize];
        match (grant as u32).wrapping_sub(listening.generation) {
            u32::MAX if listening.phase == Phase::Claimed => return Ok(ListenerView::Opening),
            0 => listening.phase = Phase::Open,
            _ => return Err(bad(Word::ListenerOpening, grant)),
        }
        listening.released = grant & RELEASED != 0;
        if listening.released && listening.done {
            listening.phase = Phase::Free;
            return Ok(ListenerView::Released);
        }
        let released = listening.released;
        let status = self.load(at + daemon_listener::STATUS, Ordering::Acquire);
        match status as u8 {
            // Only one that was refused is forgotten unasked.
            OPENING | LISTENING if released => Err(bad(Word::ListenerOpening, grant)),
            OPENING => Ok(ListenerView::Opening),
            LISTENING => {
                let address = address_from_words(load3(&self.words, at + daemon_listener::ADDRESS));
                let address = address.map_err(|found| bad(Word::Address, found))?;
                Ok(ListenerView::Listening(address.ok_or_else(|| bad(Word::Address, 0))?))
            }
            REFUSED => {
                let mut text = vec![0; usize::from((status >> 16) as u16).min(MAX_TEXT)];
                self.words.copy_out(at + daemon_listener::TEXT, &mut text);
                let kind = kind_from_bits((status >> 8) as u8);
                Ok(ListenerView::Refused(io::Error::new(kind, String::from_utf8_lossy(&text).into_owned())))
            }
            _ => Err(bad(Word::Status, status)),
        }
    }

    /// Flows taken from a listener's backlog so far.
    pub fn set_taken(&mut self, listener: u32, flows: u64) {
        let at = self.layout.listener(Side::App, listener);
        self.store(at + app_listener::TAKEN, flows, Ordering::Release);
    }

    /// Drops a listener. True if its slot is free; else it is when [`ListenerView::Released`] was seen.
    #[must_use]
    pub fn unlisten(&mut self, listener: u32) -> bool {
        let listening = &mut self.listeners[listener as usize];
        listening.done = true;
        let free = listening.released;
        if free {
            listening.phase = Phase::Free;
        }
        let claim = u64::from(listening.generation) | DONE;
        self.store(self.layout.listener(Side::App, listener) + app_listener::CLAIM, claim, Ordering::Release);
        self.mark_listener(listener);
        free
    }

    // Showing, and sleeping.

    /// Shows the daemon all that was done, and gives the room of what was taken back. True if it sleeps: ring it.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let mut did = std::mem::take(&mut self.did);
        if std::mem::take(&mut self.put) {
            self.sender.show();
            did = did.with(Wants::DATA);
        }
        if std::mem::take(&mut self.took) {
            self.receiver.give_back();
            did = did.with(Wants::ROOM);
        }
        wants::must_ring(&self.words, Side::Daemon, did)
    }

    /// Before sleeping: asks to be rung, for what the daemon does, and with `room` for room in the pipe to it. True if
    /// that is new: then [`AppSide::has_work`] must be asked once more. False if the daemon knows already, or has rung
    /// since and the ring was not [heard](AppSide::disarm).
    #[must_use]
    pub fn arm(&mut self, room: bool) -> bool {
        let wants = if room { Wants::DATA.with(Wants::ROOM) } else { Wants::DATA };
        if self.armed == wants {
            return false;
        }
        self.armed = wants;
        wants::arm(&self.words, Side::App, wants);
        true
    }

    /// Awake: needs no ring, or heard one.
    pub fn disarm(&mut self) {
        if !std::mem::take(&mut self.armed).is_empty() {
            wants::disarm(&self.words, Side::App);
        }
    }

    fn mark(&mut self, slot: u32) {
        marks::mark_flow(&self.words, &self.layout, Side::App, slot);
        self.did = self.did.with(Wants::DATA);
    }

    fn mark_listener(&mut self, listener: u32) {
        marks::mark_listener(&self.words, &self.layout, Side::App, listener);
        self.did = self.did.with(Wants::DATA);
    }

    #[inline]
    fn load(&self, at: usize, order: Ordering) -> u64 {
        self.words.words()[at].load(order)
    }

    #[inline]
    fn store(&self, at: usize, value: u64, order: Ordering) {
        self.words.words()[at].store(value, order);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Granted {
    Nothing,
    Known,
    Accepted,
}
