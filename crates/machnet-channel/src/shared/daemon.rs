//! The daemon's end of a region.
//!
//! Everything that an application wrote is read once, into a local, and checked; what cannot be is a [`Malformed`], after
//! which the channel is of no more use. No call blocks, none loops longer than the region is large, and nothing here
//! allocates after [`DaemonSide::new`].
//!
//! ```text
//!   round:   next_event …      what the application did (connect, listen, consumed, intent): by marks
//!            peek, take …      what it sent: as far as there is memory for it
//!            set_…, put        what flows did
//!            publish           shows all of it; true: ring
//!   sleep:   arm, has_work? , sleep until rung, disarm
//! ```
//!
//! The life of a flow in a slot, each line a word of the one who writes it (`docs/spec/sidecar.md#flows`):
//!
//! ```text
//!   connect: claim g (app) ──▶ grant g ──▶ … ──▶ grant g RELEASED ──▶ claim g DONE (app) ──▶ free
//!   accept:  grant g ──▶ claim g (app) ──▶ … the same
//! ```

use std::net::SocketAddr;

use super::geometry::{Geometry, Layout, Side};
use super::malformed::{Malformed, Word};
use super::marks::{self, Looker};
use super::status::Status;
use super::table::{
    DONE, INTENTS, LISTENING, MAX_TEXT, OPENING, REFUSED, RELEASED, app, app_listener, daemon, daemon_listener,
    kind_to_bits, load3, store3,
};
use super::tag::{self, Piece};
use super::values::{address_from_words, address_to_words, options_from_word};
use super::wants::{self, Wants};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::mutant;
use crate::{FlowOptions, FlowState, FlowStats, Intent, PipeReceiver, PipeSender, Words, cost_in_units};

/// Marks that mean nothing, of which one call of [`DaemonSide::next_event`] looks at so many in a row.
const IN_VAIN: u32 = 32;
/// Superfluous marks are rare: of those who mean well each names a flow that there is, or was a moment ago. Questions count as such: who means
/// well asks now and then, and rings.
const MARKS_IN_VAIN: u32 = 1024;

/// What an application did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It connects a flow to `peer`. The slot is the flow's until [`DaemonSide::release`].
    Connect {
        /// The flow.
        slot: u32,
        /// Where to.
        peer: SocketAddr,
        /// What it chose.
        options: FlowOptions,
    },
    /// Look at [`DaemonSide::intent`] and [`DaemonSide::consumed`] of a flow: one that was connected or accepted, and not
    /// released.
    Flow {
        /// The flow.
        slot: u32,
    },
    /// It listens. The slot is the listener's until [`DaemonSide::unlisten`].
    Listen {
        /// The listener.
        listener: u32,
        /// The UDP port; 0: any.
        port: u16,
        /// How many flows may wait to be accepted.
        backlog: u32,
        /// Of the flows to be accepted.
        options: FlowOptions,
    },
    /// It listens no more.
    Unlisten {
        /// The listener.
        listener: u32,
    },
}

/// Where a slot of a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    Open,
    /// Until the application is done with it.
    Released,
}

#[derive(Debug)]
struct Flow {
    phase: Phase,
    generation: u32,
    /// The application has said that it knows the flow.
    claimed: bool,
    /// True while it is in `progressed`.
    progressed: bool,
    intent: u32,
    max_message: u32,
    state: u32,
    /// Messages taken from the pipe, and units that the application says it has consumed.
    taken: u64,
    consumed: u64,
    /// Messages and units handed over to the application.
    delivered: u64,
    delivered_units: u64,
    tell_at: u64,
}

impl Flow {
    const FREE: Self = Self {
        phase: Phase::Free,
        generation: 0,
        claimed: false,
        progressed: false,
        intent: 0,
        max_message: 0,
        state: 0,
        taken: 0,
        consumed: 0,
        delivered: 0,
        delivered_units: 0,
        tell_at: u64::MAX,
    };
}

#[derive(Debug)]
struct Listening {
    phase: Phase,
    generation: u32,
    backlog: u32,
    accepted: u64,
    taken: u64,
}

impl Listening {
    const FREE: Self = Self { phase: Phase::Free, generation: 0, backlog: 0, accepted: 0, taken: 0 };
}

/// The daemon's end.
#[derive(Debug)]
pub struct DaemonSide<W> {
    words: W,
    layout: Layout,
    looker: Looker,
    /// Marked listeners that were not given out.
    listeners_marked: u64,
    /// A pass of `next_event` is underway.
    pass: bool,
    /// Marks, and sets of them, looked at; and how many of the last meant nothing.
    looks: u64,
    in_vain: u32,
    flows: Box<[Flow]>,
    listeners: Box<[Listening]>,
    /// Slots for flows to be accepted.
    free: Vec<u32>,
    receiver: PipeReceiver<W>,
    sender: PipeSender<W>,
    /// The message of which a piece with MORE was taken last: slot, generation, bytes.
    underway: Option<(u32, u16, u64)>,
    /// The longest message, bytes.
    max_message: u32,
    /// Flows whose progress the application may wait for.
    progressed: Vec<u32>,
    /// What was done since the last `publish`, and whether pieces were put and taken.
    did: Wants,
    put: bool,
    took: bool,
    armed: bool,
    status: Status,
    answered: u64,
}

impl<W: Words + Clone> DaemonSide<W> {
    /// The daemon's end of the fresh (zeroed) region `words`, with messages of up to `max_message` bytes.
    ///
    /// # Panics
    /// If the region is smaller than the geometry says.
    #[must_use]
    pub fn new(words: W, geometry: &Geometry, max_message: u32) -> Self {
        let layout = Layout::new(geometry);
        Self {
            receiver: PipeReceiver::new(words.clone(), &layout.pipe(Side::App)),
            sender: PipeSender::new(words.clone(), &layout.pipe(Side::Daemon)),
            words,
            layout,
            looker: Looker::default(),
            listeners_marked: 0,
            pass: false,
            looks: 0,
            in_vain: 0,
            flows: (0..layout.slots()).map(|_| Flow::FREE).collect(),
            listeners: (0..geometry.listeners).map(|_| Listening::FREE).collect(),
            free: (geometry.flows..layout.slots()).rev().collect(),
            underway: None,
            max_message,
            progressed: Vec::with_capacity(layout.slots() as usize),
            did: Wants::default(),
            put: false,
            took: false,
            armed: false,
            status: Status::default(),
            answered: 0,
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

    /// True if the application asks whether the daemon is there: [`DaemonSide::answer`] it.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.status.question(&self.words, self.answered).is_some()
    }

    /// Answers, with the counters of the engine.
    pub fn answer(&mut self, counters: &[u64]) {
        if let Some(asked) = self.status.question(&self.words, self.answered) {
            self.answered = asked;
            self.in_vain = self.in_vain.saturating_add(1);
            self.status.answer(&self.words, asked, counters);
        }
    }

    // What the application did.

    /// The next thing that the application did. `None`: what was marked when the pass began has been given out, or
    /// many marks in a row meant nothing; there may be more the next time. So a round may run to `None`, however fast the
    /// application marks, and whatever.
    ///
    /// # Errors
    /// It wrote what cannot be.
    pub fn next_event(&mut self) -> Result<Option<Event>, Malformed> {
        let mut patience = IN_VAIN;
        loop {
            if patience == 0 {
                return Ok(None);
            }
            let event = if self.listeners_marked != 0 {
                let listener = self.listeners_marked.trailing_zeros();
                self.listeners_marked &= self.listeners_marked - 1;
                Some(self.look_at_listener(listener)?)
            } else if let Some(slot) = self.looker.next(&self.words, &self.layout, Side::App) {
                Some(self.look_at_flow(slot)?)
            } else {
                None
            };
            if let Some(event) = event {
                self.looks += 1;
                if event.is_some() {
                    self.in_vain = 0;
                    return Ok(event);
                }
                patience -= 1;
                self.in_vain = self.in_vain.saturating_add(1);
                continue;
            }
            if self.pass {
                self.pass = false;
                return Ok(None);
            }
            self.listeners_marked = marks::take_listeners(&self.words, &self.layout, Side::App);
            let flows = self.looker.begin(&self.words, &self.layout, Side::App);
            if self.listeners_marked == 0 && !flows {
                return Ok(None);
            }
            self.pass = true;
            self.looks += 1;
            // Until one of it means something: there may be none in it.
            self.in_vain = self.in_vain.saturating_add(1);
        }
    }

    /// Marks, and sets of them, looked at since this was last asked.
    pub const fn take_looks(&mut self) -> u64 {
        std::mem::replace(&mut self.looks, 0)
    }

    fn look_at_flow(&mut self, slot: u32) -> Result<Option<Event>, Malformed> {
        let at = self.layout.flow(Side::App, slot);
        let owned_by_app = slot < self.layout.geometry().flows;
        // Acquire: pairs with the application's Release; what it wrote before is seen.
        let claim = self.load(at + app::CLAIM, Ordering::Acquire);
        let (generation, done) = (claim as u32, claim & DONE != 0);
        if claim & !(DONE | u64::from(u32::MAX)) != 0 {
            return Err(Malformed::Word { slot, word: Word::Opening, found: claim });
        }
        let flow = &mut self.flows[slot as usize];
        let last = flow.generation;
        match (flow.phase, generation.wrapping_sub(last)) {
            (Phase::Free, 0) => Ok(None),
            (Phase::Free | Phase::Released, 1) if owned_by_app && !done => self.connect(slot, generation).map(Some),
            // Accepted, and the application has yet to hear of it.
            (Phase::Open | Phase::Released, u32::MAX) if !owned_by_app && !flow.claimed => Ok(None),
            (Phase::Open, 0) if !done => {
                flow.claimed = true;
                Ok(Some(Event::Flow { slot }))
            }
            (Phase::Released, 0) => {
                flow.claimed = true;
                if done {
                    flow.phase = Phase::Free;
                    if !owned_by_app {
                        self.free.push(slot);
                    }
                }
                Ok(None)
            }
            _ => Err(Malformed::Generation { slot, found: generation, last }),
        }
    }

    fn connect(&mut self, slot: u32, generation: u32) -> Result<Event, Malformed> {
        let at = self.layout.flow(Side::App, slot);
        let bad = |word, found| Malformed::Word { slot, word, found };
        let peer = address_from_words(load3(&self.words, at + app::PEER)).map_err(|found| bad(Word::Address, found))?;
        let peer = peer.ok_or_else(|| bad(Word::Address, 0))?;
        let options = self.load(at + app::OPTIONS, Ordering::Relaxed);
        let options = options_from_word(options).ok_or_else(|| bad(Word::Options, options))?;
        self.open(slot, generation, true);
        Ok(Event::Connect { slot, peer, options })
    }

    /// Answers, or tells of, a generation.
    fn open(&mut self, slot: u32, generation: u32, claimed: bool) {
        let at = self.layout.flow(Side::Daemon, slot);
        for (word, value) in [
            (daemon::DELIVERED, 0),
            (daemon::ROOM, 0),
            (daemon::ACKNOWLEDGED, 0),
            (daemon::TELL_AT, u64::MAX),
            (daemon::STATE, 0),
        ] {
            self.store(at + word, value, Ordering::Relaxed);
        }
        for word in 0..FlowStats::WORDS {
            self.store(at + daemon::STATS + word, 0, Ordering::Relaxed);
        }
        let progressed = self.flows[slot as usize].progressed;
        self.flows[slot as usize] = Flow { phase: Phase::Open, generation, claimed, progressed, ..Flow::FREE };
        self.store(at + daemon::GRANT, generation.into(), Ordering::Release);
        self.mark(slot);
    }

    fn look_at_listener(&mut self, slot: u32) -> Result<Option<Event>, Malformed> {
        let at = self.layout.listener(Side::App, slot);
        let claim = self.load(at + app_listener::CLAIM, Ordering::Acquire);
        let (generation, done) = (claim as u32, claim & DONE != 0);
        let bad = |word, found| Malformed::Word { slot, word, found };
        if claim & !(DONE | u64::from(u32::MAX)) != 0 {
            return Err(bad(Word::ListenerOpening, claim));
        }
        let listening = &mut self.listeners[slot as usize];
        match (listening.phase, generation.wrapping_sub(listening.generation), done) {
            (Phase::Free, 0, _) | (Phase::Open, 0, false) | (Phase::Released, 0, true) => Ok(None),
            (Phase::Open, 0, true) => {
                listening.phase = Phase::Released;
                Ok(Some(Event::Unlisten { listener: slot }))
            }
            // Opened and given up before this side looked: there is nothing to open.
            (Phase::Free, 1, done) => {
                let port = self.load(at + app_listener::PORT, Ordering::Relaxed);
                let options = self.load(at + app_listener::OPTIONS, Ordering::Relaxed);
                let options = options_from_word(options).ok_or_else(|| bad(Word::Options, options))?;
                if port >> 16 & 0xffff != 0 {
                    return Err(bad(Word::Port, port));
                }
                let (port, backlog) = (port as u16, (port >> 32) as u32);
                let phase = if done { Phase::Free } else { Phase::Open };
                self.listeners[slot as usize] = Listening { phase, generation, backlog, accepted: 0, taken: 0 };
                let at = self.layout.listener(Side::Daemon, slot);
                self.store(at + daemon_listener::STATUS, OPENING.into(), Ordering::Relaxed);
                let released = if done { RELEASED } else { 0 };
                self.store(at + daemon_listener::GRANT, u64::from(generation) | released, Ordering::Release);
                self.mark_listener(slot);
                Ok((!done).then_some(Event::Listen { listener: slot, port, backlog, options }))
            }
            _ => Err(bad(Word::ListenerOpening, claim)),
        }
    }

    /// True if [`DaemonSide::next_event`] or [`DaemonSide::peek`] would find something. After [`DaemonSide::arm`]: do not
    /// sleep then. Pieces that were peeked at and left count: `pieces` says whether to look for any. Marks and questions of who made very many
    /// that meant nothing do not: see [`DaemonSide::ignores_marks`].
    #[must_use]
    pub fn has_work(&self, pieces: bool) -> bool {
        self.pass || (pieces && self.receiver.has_data()) || (self.in_vain < MARKS_IN_VAIN && self.is_wanted())
    }

    /// True if there are marks or a question that [`DaemonSide::has_work`] did not count, for the last of them meant nothing. Among them may be one
    /// that does: look again before long.
    #[must_use]
    pub fn ignores_marks(&self) -> bool {
        self.in_vain >= MARKS_IN_VAIN && self.is_wanted()
    }

    fn is_wanted(&self) -> bool {
        self.has_marks() || (!mutant!("status_look") && self.is_asked())
    }

    fn has_marks(&self) -> bool {
        self.listeners_marked != 0 || self.looker.has_marks(&self.words, &self.layout, Side::App)
    }

    /// True if the application may have taken pieces since [`DaemonSide::put`] last found no room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.sender.has_reclaimable()
    }

    /// What the application wants of a flow. FIN only when all that was posted before it was taken from the pipe.
    ///
    /// # Errors
    /// It wrote what cannot be.
    pub fn intent(&mut self, slot: u32) -> Result<Intent, Malformed> {
        let at = self.layout.flow(Side::App, slot);
        if !self.flows[slot as usize].claimed {
            return Ok(Intent::default());
        }
        // Acquire: pairs with the application's Release; posted is seen.
        let found = self.load(at + app::INTENT, Ordering::Acquire);
        let posted = self.load(at + app::POSTED, Ordering::Relaxed);
        let flow = &mut self.flows[slot as usize];
        if found & !u64::from(INTENTS) != 0 || u64::from(flow.intent) & !found != 0 {
            return Err(Malformed::Word { slot, word: Word::Intent, found });
        }
        flow.intent = found as u32;
        let mut intent = Intent(flow.intent);
        if intent.has(Intent::FIN) {
            if posted < flow.taken {
                return Err(Malformed::Word { slot, word: Word::Posted, found: posted });
            }
            if posted > flow.taken {
                intent = Intent(flow.intent & !Intent::FIN.0);
            }
        }
        Ok(intent)
    }

    /// Units that the application has consumed.
    ///
    /// # Errors
    /// Less than before, or more than was delivered.
    pub fn consumed(&mut self, slot: u32) -> Result<u64, Malformed> {
        let flow = &self.flows[slot as usize];
        if !flow.claimed {
            return Ok(0);
        }
        let found = self.load(self.layout.flow(Side::App, slot) + app::CONSUMED, Ordering::Acquire);
        let flow = &mut self.flows[slot as usize];
        if found < flow.consumed || found > flow.delivered_units {
            return Err(Malformed::Word { slot, word: Word::Consumed, found });
        }
        flow.consumed = found;
        Ok(found)
    }

    /// The next piece that the application sent, of a flow that is not over. It stays until it is taken. Pieces of flows
    /// that are over are dropped here.
    ///
    /// # Errors
    /// It is none that can be.
    pub fn peek(&mut self) -> Result<Option<Piece>, Malformed> {
        for _ in 0..self.layout.geometry().descriptors {
            if self.receiver.ready()? == 0 {
                break;
            }
            let Some(descriptor) = self.receiver.peek()? else { break };
            let (slot, more, generation) = tag::unpack(descriptor.tag);
            let Some(flow) = self.flows.get(slot as usize) else {
                return Err(Malformed::Slot { found: slot, slots: self.layout.slots() });
            };
            let (phase, behind) = (flow.phase, (flow.generation as u16).wrapping_sub(generation));
            if behind > u16::MAX / 2 || (flow.generation == 0 && phase == Phase::Free) {
                return Err(Malformed::Generation { slot, found: generation.into(), last: flow.generation });
            }
            if behind != 0 || phase != Phase::Open {
                self.receiver.take(&mut []);
                self.took = true;
                continue;
            }
            let before = self.underway.filter(|&(of, g, _)| (of, g) == (slot, generation)).map(|(.., before)| before);
            let len = before.unwrap_or(0) + descriptor.len as u64;
            if len > self.max_message.into() || (more && descriptor.len == 0) {
                return Err(Malformed::Message { slot, len });
            }
            return Ok(Some(Piece { slot, len: descriptor.len, more, begins: before.is_none() }));
        }
        Ok(None)
    }

    /// Takes the piece that [`DaemonSide::peek`] showed, copying it into `buffer`, which is as long as the piece.
    ///
    /// # Errors
    /// As [`DaemonSide::peek`], if that was not called before.
    pub fn take(&mut self, buffer: &mut [u8]) -> Result<(), Malformed> {
        let Some(Piece { slot, len, more, begins }) = self.peek()? else { return Ok(()) };
        self.receiver.take(buffer);
        self.took = true;
        let flow = &mut self.flows[slot as usize];
        let before = if begins { 0 } else { self.underway.map_or(0, |(.., before)| before) };
        self.underway = more.then_some((slot, flow.generation as u16, before + len as u64));
        flow.taken += u64::from(!more);
        Ok(())
    }

    // What flows did.

    /// Units that may be posted, and that were acknowledged.
    pub fn set_progress(&mut self, slot: u32, room: u64, acknowledged: u64) {
        let at = self.layout.flow(Side::Daemon, slot);
        self.store(at + daemon::ACKNOWLEDGED, acknowledged, Ordering::Release);
        self.store(at + daemon::ROOM, room, Ordering::Release);
        let flow = &mut self.flows[slot as usize];
        if !std::mem::replace(&mut flow.progressed, true) {
            self.progressed.push(slot);
        }
    }

    /// Asks for [`Event::Flow`] when [`DaemonSide::consumed`] reaches `units`, and returns it as it is now. If it is there
    /// already, or will be before the application hears of this, the event comes.
    ///
    /// # Errors
    /// As [`DaemonSide::consumed`].
    pub fn set_tell_at(&mut self, slot: u32, units: u64) -> Result<u64, Malformed> {
        let flow = &mut self.flows[slot as usize];
        if std::mem::replace(&mut flow.tell_at, units) != units {
            let at = self.layout.flow(Side::Daemon, slot);
            self.store(at + daemon::TELL_AT, units, Ordering::Release);
            self.mark(slot);
        }
        self.consumed(slot)
    }

    /// Where the flow stands. What this says of the end covers what was counted by [`DaemonSide::count_delivered`] before,
    /// whether it is in the pipe yet or not.
    pub fn set_state(&mut self, slot: u32, state: FlowState) {
        self.flows[slot as usize].state = state.0;
        self.show_state(slot);
    }

    /// The largest message the flow carries, bytes: before it is open.
    pub fn set_max_message(&mut self, slot: u32, bytes: u32) {
        self.flows[slot as usize].max_message = bytes;
        self.show_state(slot);
    }

    fn show_state(&mut self, slot: u32) {
        let at = self.layout.flow(Side::Daemon, slot);
        let Flow { delivered, state, max_message, .. } = self.flows[slot as usize];
        self.store(at + daemon::DELIVERED, delivered, Ordering::Relaxed);
        // Release: who sees the state sees what was delivered before.
        self.store(at + daemon::STATE, u64::from(state) | u64::from(max_message) << 32, Ordering::Release);
        self.mark(slot);
    }

    /// The address the flow uses on this side: before it is open.
    pub fn set_local(&mut self, slot: u32, local: SocketAddr) {
        let at = self.layout.flow(Side::Daemon, slot);
        store3(&self.words, at + daemon::LOCAL, address_to_words(Some(local)));
    }

    /// The flow's counters. Nobody is told.
    pub fn set_stats(&mut self, slot: u32, stats: &FlowStats) {
        let at = self.layout.flow(Side::Daemon, slot) + daemon::STATS;
        for (word, value) in stats.to_words().into_iter().enumerate() {
            self.store(at + word, value, Ordering::Relaxed);
        }
    }

    /// A message of `len` bytes is on its way to the application: once for each, in order, before it is
    /// [put](DaemonSide::put). The application may consume it from now on, and [`DaemonSide::set_state`] and
    /// [`DaemonSide::release`] come after it.
    pub fn count_delivered(&mut self, slot: u32, len: usize) {
        let flow = &mut self.flows[slot as usize];
        flow.delivered += 1;
        flow.delivered_units += cost_in_units(len);
    }

    /// Puts a message into the pipe, from byte `*from` on, which it advances, in as many pieces as it takes. False if there
    /// is no more room: go on later, with this message before any other; or give it up by beginning another.
    ///
    /// Also of a flow that was released: messages that were counted before that.
    ///
    /// # Errors
    /// The application's index is impossible.
    pub fn put(&mut self, slot: u32, message: &[u8], from: &mut usize) -> Result<bool, Malformed> {
        let generation = self.flows[slot as usize].generation;
        self.put = true;
        let max_piece = self.layout.geometry().max_piece;
        tag::put(&mut self.sender, max_piece, slot, generation, message, from)
    }

    /// The engine has forgotten the flow: the last word about it. The slot's next flow is announced by
    /// [`Event::Connect`], or by [`DaemonSide::accept`]; until everything that was counted for this one was put, it is not.
    pub fn release(&mut self, slot: u32) {
        self.show_state(slot);
        let flow = &mut self.flows[slot as usize];
        flow.phase = Phase::Released;
        let grant = u64::from(flow.generation) | RELEASED;
        self.store(self.layout.flow(Side::Daemon, slot) + daemon::GRANT, grant, Ordering::Release);
        self.mark(slot);
    }

    // What listeners did.

    /// The port is open at an address, or why not.
    pub fn set_listening(&mut self, listener: u32, opened: Result<SocketAddr, &std::io::Error>) {
        let at = self.layout.listener(Side::Daemon, listener);
        let status = match opened {
            Ok(address) => {
                store3(&self.words, at + daemon_listener::ADDRESS, address_to_words(Some(address)));
                u64::from(LISTENING)
            }
            Err(error) => {
                let text = error.to_string();
                let text = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)];
                self.words.copy_in(at + daemon_listener::TEXT, text);
                u64::from(REFUSED) | u64::from(kind_to_bits(error.kind())) << 8 | (text.len() as u64) << 16
            }
        };
        self.store(at + daemon_listener::STATUS, status, Ordering::Release);
        self.mark_listener(listener);
    }

    /// True if the listener's application takes another flow now, and there is a slot for it.
    ///
    /// # Errors
    /// The application says that it took more than there was.
    pub fn can_accept(&mut self, listener: u32) -> Result<bool, Malformed> {
        let found = self.load(self.layout.listener(Side::App, listener) + app_listener::TAKEN, Ordering::Acquire);
        let listening = &mut self.listeners[listener as usize];
        if found < listening.taken || found > listening.accepted {
            return Err(Malformed::Word { slot: listener, word: Word::Taken, found });
        }
        listening.taken = found;
        let waiting = listening.accepted - listening.taken;
        Ok(listening.phase == Phase::Open && waiting < listening.backlog.into() && !self.free.is_empty())
    }

    /// Hands a flow to the application, for its listener's backlog. `None` if there is no slot.
    pub fn accept(&mut self, listener: u32, local: SocketAddr, peer: SocketAddr) -> Option<u32> {
        let slot = self.free.pop()?;
        let at = self.layout.flow(Side::Daemon, slot);
        store3(&self.words, at + daemon::LOCAL, address_to_words(Some(local)));
        store3(&self.words, at + daemon::PEER, address_to_words(Some(peer)));
        let listening = &mut self.listeners[listener as usize];
        listening.accepted += 1;
        let of = u64::from(listener) | u64::from(listening.generation) << 32;
        self.store(at + daemon::LISTENER, of, Ordering::Relaxed);
        self.open(slot, self.flows[slot as usize].generation.wrapping_add(1), false);
        Some(slot)
    }

    /// The engine has forgotten the listener: the last word about it.
    pub fn unlisten(&mut self, listener: u32) {
        let listening = &mut self.listeners[listener as usize];
        listening.phase = Phase::Free;
        let grant = u64::from(listening.generation) | RELEASED;
        self.store(self.layout.listener(Side::Daemon, listener) + daemon_listener::GRANT, grant, Ordering::Release);
        self.mark_listener(listener);
    }

    // Showing, and sleeping.

    /// Shows the application all that was done, and gives the room of what was taken back. Once per round. True if it
    /// sleeps: ring it.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        if !self.progressed.is_empty() {
            // Orders room and acknowledged before the look at who waits for them; pairs with the fence in
            // `AppSide::progress`.
            if !mutant!("shared_progress_fence") {
                fence(Ordering::SeqCst);
            }
            while let Some(slot) = self.progressed.pop() {
                self.flows[slot as usize].progressed = false;
                if self.load(self.layout.flow(Side::App, slot) + app::WAITS, Ordering::Relaxed) != 0 {
                    self.mark(slot);
                }
            }
        }
        let mut did = std::mem::take(&mut self.did);
        if std::mem::take(&mut self.put) {
            self.sender.show();
            did = did.with(Wants::DATA);
        }
        if std::mem::take(&mut self.took) {
            self.receiver.give_back();
            did = did.with(Wants::ROOM);
        }
        wants::must_ring(&self.words, Side::App, did)
    }

    /// Before sleeping: asks to be rung, for what the application does, and with `room` for room in the pipe to it. Ask
    /// [`DaemonSide::has_work`], and [`DaemonSide::has_room`], once more before sleeping.
    pub fn arm(&mut self, room: bool) {
        self.armed = true;
        let wants = if room { Wants::DATA.with(Wants::ROOM) } else { Wants::DATA };
        wants::arm(&self.words, Side::Daemon, wants);
    }

    /// Awake again.
    pub fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            wants::disarm(&self.words, Side::Daemon);
        }
    }

    fn mark(&mut self, slot: u32) {
        marks::mark_flow(&self.words, &self.layout, Side::Daemon, slot);
        self.did = self.did.with(Wants::DATA);
    }

    fn mark_listener(&mut self, listener: u32) {
        marks::mark_listener(&self.words, &self.layout, Side::Daemon, listener);
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
