//! One flow: a reliable, ordered, message-preserving connection (`docs/spec/flow.md`).
//!
//! The flow only routes between its sub-machines, each of which can be tested alone:
//!
//! | module | knows |
//! |---|---|
//! | [`send`] | what is to be sent: messages, parts, what was acknowledged of them |
//! | [`loss`] | packets in flight: numbers, losses, probes |
//! | [`acks`] | numbers received, and when to say so |
//! | [`receive`] | messages received, reassembly, the credit of the peer |
//! | [`rtt`] | round-trip time |
//! | [`crate::cc`] | the congestion window |
//!
//! The engine calls `on_*` with what happened and `now`, then [`Flow::transmit`], then [`Flow::publish`]. A flow reads no
//! clock, and holds no reference to the engine.

mod acks;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod loss;
mod receive;
mod rtt;
mod send;
mod transmit;
mod units;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use machnet_channel::{CloseReason, FlowState, FlowStats, Frame, FrameRef, Intent, UNIT, cost_in_units};

pub(crate) use receive::Store;
pub(crate) use send::Cut;
pub(crate) use transmit::Tx;
pub(crate) use units::UnitSet;

use crate::cc::{Aimd, Controller};
use crate::engine::Membership;
use crate::seq::expand;
use crate::wire::{Chunk, Data, Handshake, Header, Reason, Reset};
use crate::{AppChannel, Config, DropReason, Instant, Slot};
use acks::{Acks, Arrival};
use loss::Outstanding;
use receive::{ReceiveQueue, Stored};
use rtt::Rtt;
use send::{Part, SendQueue};

/// First interval of repeated INITs, doubled each time.
const INIT_INTERVAL: Duration = Duration::from_millis(10);
/// The least life of a tombstone: the peer's retransmissions must meet it.
const TOMBSTONE: Duration = Duration::from_millis(100);
/// A flow that was idle for so long gives back the memory of its queues.
const IDLE: Duration = Duration::from_millis(100);
/// Messages taken from the application in one round.
const TAKE_PER_ROUND: usize = 256;

/// What a packet carried that must arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Message(Part),
    Fin,
    Stop,
    Abort,
    /// With the number of the request: what an older one said is not what this one says.
    Blocked(u32),
    /// Likewise: it may stand for the credit that the packet named.
    Ping(u32),
}

/// Where a flow stands (`docs/spec/flow.md#states`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting {
        give_up: Instant,
        next_init: Instant,
        interval: Duration,
    },
    HalfOpen {
        give_up: Instant,
    },
    Open,
    Aborting {
        until: Instant,
    },
    Tombstone {
        until: Instant,
        /// However long the peer asks.
        limit: Instant,
    },
    /// To be forgotten.
    Closed,
}

/// Where one reliable control chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Control {
    Idle,
    Wanted,
    Sent,
    Acked,
}

impl Control {
    /// It was lost, or is sent again as a probe.
    fn lost(&mut self) {
        if *self == Self::Sent {
            *self = Self::Wanted;
        }
    }
}

/// What of the configuration each flow needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_message: u32,
    /// Units.
    pub(crate) receive_window: u64,
    /// Units.
    pub(crate) send_buffer: u64,
    pub(crate) connect_timeout: Duration,
    pub(crate) dead_peer_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) max_ack_delay: Duration,
    pub(crate) cut: Cut,
}

impl Limits {
    pub(crate) fn new(config: &Config, max_payload: usize) -> Self {
        Self {
            max_message: config.max_message,
            receive_window: u64::from(config.receive_window) / UNIT,
            send_buffer: u64::from(config.send_buffer) / UNIT,
            connect_timeout: config.connect_timeout,
            dead_peer_timeout: config.dead_peer_timeout,
            linger: config.linger,
            max_ack_delay: config.max_ack_delay,
            cut: Cut::new(max_payload),
        }
    }
}

/// What the application was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Published {
    room: u64,
    acknowledged: u64,
    state: FlowState,
}

#[derive(Debug)]
pub(crate) struct Flow {
    /// What the peer writes into its packets.
    pub(crate) id: u64,
    /// What we write into ours; 0 until known.
    pub(crate) remote_id: u64,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: State,
    /// The application's name for it, while it has one.
    pub(crate) slot: Option<Slot>,
    /// The engine's lists that hold it.
    pub(crate) is_unfinished: bool,
    pub(crate) is_ready: bool,
    pub(crate) is_touched: bool,
    /// It counts as half-open.
    pub(crate) was_half_open: bool,
    /// It waits for a reassembly buffer.
    pub(crate) is_waiting: bool,
    /// Its place among the flows of its peer, once that is validated.
    pub(crate) peer: Option<Membership>,
    /// The peer's start, as it says.
    pub(crate) peer_instance: u64,

    limits: Arc<Limits>,
    sent: Outstanding,
    acks: Acks,
    rtt: Rtt,
    cc: Box<dyn Controller>,
    send: SendQueue,
    recv: ReceiveQueue,

    /// Cumulative units the peer lets us send.
    peer_credit: u64,
    /// The smaller of both sides' limits.
    max_message: u32,
    /// Cumulative units the application consumed, as last seen.
    consumed: u64,
    /// The end of the furthest message that has or had a buffer, cumulative units.
    reserved: u64,
    /// The last credit that a packet named.
    credit_sent: u64,
    /// The peer waits for credit.
    peer_blocked: bool,
    /// Credit is to be announced in this round.
    announce: bool,
    /// The application's share in [`Flow::check_credit`] is to be asked for anew.
    retell: bool,

    fin: Control,
    stop: Control,
    abort: Control,
    ping: Control,
    blocked: Control,
    /// How often PING and BLOCKED were asked for.
    ping_round: u32,
    blocked_round: u32,
    /// The credit at which BLOCKED was last said.
    blocked_at: Option<u64>,
    /// Probes that may go out whatever the window.
    probes: u8,
    stop_reason: Reason,
    abort_reason: Reason,
    peer_stopped: bool,
    /// What was to be sent was dropped before it was acknowledged.
    cut_off: bool,
    linger: Option<Instant>,
    /// When the last INIT or ACCEPT went out, if there was but one: then its answer is a sample of the round trip.
    handshake_sent: Option<Instant>,
    closed: Option<CloseReason>,
    published: Published,
    packets_sent: u64,
    packets_received: u64,
    /// When the last packet was received or sent.
    active_at: Instant,
    /// When to look whether the flow is idle: its memory of past traffic is then given back.
    shed_at: Option<Instant>,
    /// The channel's is to be given back, too.
    shed_channel: bool,
    /// Lost packets that the engine has counted.
    lost_counted: u64,
    /// A token that a RETRY gave.
    token: Vec<u8>,
}

impl Flow {
    fn new(id: u64, local: SocketAddr, remote: SocketAddr, state: State, limits: &Arc<Limits>) -> Self {
        Self {
            id,
            remote_id: 0,
            local,
            remote,
            state,
            slot: None,
            is_unfinished: false,
            is_ready: false,
            is_touched: false,
            was_half_open: false,
            is_waiting: false,
            peer: None,
            peer_instance: 0,
            limits: Arc::clone(limits),
            sent: Outstanding::new(),
            acks: Acks::new(),
            rtt: Rtt::new(),
            cc: Box::new(Aimd::new(limits.cut.packet as u64)),
            send: SendQueue::new(limits.cut),
            recv: ReceiveQueue::new(limits.receive_window, limits.max_message),
            peer_credit: 0,
            max_message: limits.max_message,
            consumed: 0,
            reserved: 0,
            credit_sent: limits.receive_window,
            peer_blocked: false,
            announce: false,
            retell: true,
            fin: Control::Idle,
            stop: Control::Idle,
            abort: Control::Idle,
            ping: Control::Idle,
            blocked: Control::Idle,
            ping_round: 0,
            blocked_round: 0,
            blocked_at: None,
            probes: 0,
            stop_reason: Reason::None,
            abort_reason: Reason::None,
            peer_stopped: false,
            cut_off: false,
            linger: None,
            handshake_sent: None,
            closed: None,
            published: Published::default(),
            packets_sent: 0,
            packets_received: 0,
            active_at: Instant::ZERO,
            shed_at: None,
            shed_channel: false,
            lost_counted: 0,
            token: Vec::new(),
        }
    }

    /// A flow that begins to connect.
    pub(crate) fn connect(now: Instant, id: u64, local: SocketAddr, remote: SocketAddr, limits: &Arc<Limits>) -> Self {
        let state =
            State::Connecting { give_up: now + limits.connect_timeout, next_init: now, interval: INIT_INTERVAL };
        Self::new(id, local, remote, state, limits)
    }

    /// A flow that a valid INIT opened.
    pub(crate) fn accept(
        now: Instant,
        id: u64,
        local: SocketAddr,
        remote: SocketAddr,
        init: &Handshake<'_>,
        limits: &Arc<Limits>,
    ) -> Self {
        let mut flow = Self::new(id, local, remote, State::HalfOpen { give_up: now + limits.connect_timeout }, limits);
        flow.learn(init);
        flow
    }

    fn learn(&mut self, handshake: &Handshake<'_>) {
        self.remote_id = handshake.source;
        self.peer_instance = handshake.instance;
        self.peer_credit = handshake.credit.into();
        self.max_message = self.max_message.min(handshake.max_message);
        // A promise beyond a second helps nobody, and would keep probes away.
        self.rtt.peer_max_ack_delay = Duration::from_micros(handshake.max_ack_delay_us.min(1_000_000).into());
    }

    /// Sent packets that are remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.sent.remembered()
    }

    /// Packets declared lost since this was last asked.
    pub(crate) const fn newly_lost(&mut self) -> u64 {
        let new = self.sent.packets_lost - self.lost_counted;
        self.lost_counted = self.sent.packets_lost;
        new
    }

    // ---- what arrives ------------------------------------------------------------------------------------------

    /// ACCEPT arrived for a connecting flow.
    pub(crate) fn on_accept(&mut self, now: Instant, local: SocketAddr, accept: &Handshake<'_>) {
        self.learn(accept);
        self.sample_handshake(now);
        self.local = local;
        self.token = Vec::new();
        self.state = State::Open;
        // Tells the acceptor that its answer arrived, and validates our address.
        self.want_ping();
    }

    /// The first DATA arrived for a half-open flow: its address is validated.
    pub(crate) fn on_validated(&mut self, now: Instant, slot: Slot) {
        self.slot = Some(slot);
        self.state = State::Open;
        self.sample_handshake(now);
    }

    fn sample_handshake(&mut self, now: Instant) {
        if let Some(at) = self.handshake_sent.take() {
            self.rtt.sample(now.since(at), Duration::ZERO);
        }
    }

    /// RETRY arrived for a connecting flow.
    pub(crate) fn on_retry(&mut self, now: Instant, token: &[u8]) {
        if let State::Connecting { next_init, .. } = &mut self.state {
            // Once: a peer that repeats RETRY does not make us repeat INIT faster than the timer.
            if self.token.is_empty() {
                *next_init = now;
            }
            self.token = token.to_vec();
        }
    }

    /// RESET arrived. Returns false if it does not answer something outstanding.
    pub(crate) fn on_reset(&mut self, reset: &Reset) -> bool {
        let genuine = match self.state {
            State::Connecting { .. } | State::HalfOpen { .. } => u64::from(reset.number) < self.sent.next(),
            State::Open | State::Aborting { .. } => self.sent.is_outstanding(reset.number),
            State::Tombstone { .. } | State::Closed => false,
        };
        if genuine {
            self.close(match (self.state, reset.reason) {
                (State::Connecting { .. }, Reason::Version) => CloseReason::Version,
                (State::Connecting { .. }, _) => CloseReason::Refused,
                _ => CloseReason::Reset,
            });
        }
        genuine
    }

    /// The network says that the peer's port is not open. Only a hint, except before anything was heard of the peer.
    pub(crate) fn on_unreachable(&mut self) {
        if matches!(self.state, State::Connecting { .. }) {
            self.close(CloseReason::Refused);
        }
    }

    /// Checks what can be wrong with a DATA packet as such, before anything of it counts. Returns its number.
    pub(crate) fn check(&self, header: &Header, data: &Data<'_>) -> Result<u64, DropReason> {
        let number = self.acks.expand(header.number);
        match self.acks.classify(number) {
            Arrival::New => {}
            Arrival::Duplicate => return Err(DropReason::Duplicate),
            Arrival::OutOfWindow => return Err(DropReason::OutOfWindow),
        }
        let mut blocks = data.blocks();
        if !blocks.by_ref().take(1).all(|block| self.sent.is_plausible(block)) {
            return Err(DropReason::AckOfUnsent);
        }
        // One per path, and there is one path.
        if blocks.next().is_some() {
            return Err(DropReason::Malformed);
        }
        Ok(number)
    }

    /// The peer's address is validated, but nobody accepts it yet: it goes on knocking, and so we go on waiting.
    pub(crate) fn on_backlog_full(&mut self, now: Instant) {
        self.state = State::HalfOpen { give_up: now + self.limits.connect_timeout };
    }

    /// DATA arrived. `packet` is all of it, `data` its checked contents.
    pub(crate) fn on_data(
        &mut self,
        now: Instant,
        header: &Header,
        data: &Data<'_>,
        packet: &FrameRef,
        store: &mut impl Store,
    ) -> Result<(), DropReason> {
        let number = self.check(header, data)?;
        self.packets_received += 1;
        self.on_traffic(now);
        if let State::Tombstone { until, limit } = &mut self.state
            && data.chunks().elicits()
        {
            // The peer still asks, so our last answers were lost. It backs off, and silence when it asks again would look
            // to it like our death: stay for as long as it may go on asking.
            *until = (now + self.limits.dead_peer_timeout).min(*limit);
        }
        for block in data.blocks() {
            self.on_ack(now, block, store);
        }
        self.peer_credit = self.peer_credit.max(expand(data.credit, self.peer_credit));
        if matches!(self.state, State::Aborting { .. }) && !data.chunks().any(|chunk| matches!(chunk, Chunk::Abort(_)))
        {
            // Not recorded: nobody takes what is in it, and the peer must not believe that somebody did.
            self.settle(now);
            return Ok(());
        }

        let mut at_once = header.ack_now;
        for chunk in data.chunks() {
            at_once |= matches!(chunk, Chunk::Fin { .. } | Chunk::Stop(_) | Chunk::Abort(_));
            match self.on_chunk(now, chunk, packet, store) {
                Stored::Yes => {}
                Stored::NoMemory => return Err(DropReason::NoBuffers),
                Stored::TooLarge => {
                    self.abort(now, Reason::TooLarge, CloseReason::TooLarge);
                    return Err(DropReason::Protocol);
                }
                Stored::Violation(what) => {
                    tracing::debug!(flow = self.id, peer = %self.remote, what, "the peer broke the protocol");
                    self.abort(now, Reason::Protocol, CloseReason::Protocol);
                    return Err(DropReason::Protocol);
                }
            }
        }
        if self.recv.reserved() > self.credit_sent {
            self.check_credit();
        }
        let floor = number.saturating_sub(data.floor.into());
        let in_order = self.acks.record(now, number, floor);
        if data.chunks().elicits() {
            self.acks.elicited(now, at_once || !in_order, self.limits.max_ack_delay);
        }
        self.settle(now);
        Ok(())
    }

    fn on_ack(&mut self, now: Instant, block: &crate::wire::AckBlock, store: &mut impl Store) {
        let Self { sent, send, cc, fin, stop, abort, ping, ping_round, blocked, blocked_round, rtt, .. } = self;
        let result = sent.on_ack(
            now,
            block,
            |content| match content {
                Sent::Message(part) => {
                    send.acked(part, store);
                }
                Sent::Fin => *fin = Control::Acked,
                Sent::Stop => *stop = Control::Acked,
                Sent::Abort => *abort = Control::Acked,
                Sent::Ping(round) if round == *ping_round => *ping = Control::Idle,
                Sent::Blocked(round) if round == *blocked_round => *blocked = Control::Idle,
                Sent::Ping(_) | Sent::Blocked(_) => {}
            },
            |at, bytes, limited| cc.on_ack(now, at, bytes, limited),
        );
        if let Some(at) = result.sample {
            rtt.sample(now.since(at), Duration::from_micros(block.delay_us.into()));
        }
        if result.new {
            self.probes = 0;
        }
        self.detect_losses(now);
    }

    fn detect_losses(&mut self, now: Instant) {
        let Self { sent, send, cc, fin, stop, abort, ping, ping_round, blocked, blocked_round, rtt, .. } = self;
        sent.detect(
            now,
            rtt.loss_delay(),
            |content| match content {
                Sent::Message(part) => send.lost(part),
                Sent::Fin => fin.lost(),
                Sent::Stop => stop.lost(),
                Sent::Abort => abort.lost(),
                Sent::Ping(round) if round == *ping_round => ping.lost(),
                Sent::Blocked(round) if round == *blocked_round => blocked.lost(),
                Sent::Ping(_) | Sent::Blocked(_) => {}
            },
            |at| cc.on_loss(now, at),
        );
    }

    fn on_chunk(&mut self, now: Instant, chunk: Chunk<'_>, packet: &FrameRef, store: &mut impl Store) -> Stored {
        match chunk {
            Chunk::Whole { id, payload } => self.recv.whole(id, payload, packet, store),
            Chunk::Part { id, offset, total, payload } => self.recv.part(id, offset, total, payload, store),
            Chunk::Fin { next } => self.recv.fin(next),
            Chunk::Stop(_) => {
                if !std::mem::replace(&mut self.peer_stopped, true) {
                    self.send.discard();
                    self.blocked = Control::Idle;
                    if self.fin == Control::Idle {
                        self.fin = Control::Wanted;
                    }
                }
                Stored::Yes
            }
            Chunk::Abort(reason) => {
                if matches!(self.state, State::Open) {
                    self.entomb(
                        now,
                        if reason == Reason::TooLarge { CloseReason::TooLarge } else { CloseReason::Reset },
                    );
                }
                Stored::Yes
            }
            Chunk::Blocked { .. } => {
                self.peer_blocked = true;
                self.retell = true;
                self.check_credit();
                Stored::Yes
            }
            Chunk::Ping => {
                // The peer lives, and may have memory again for what it refused: no reason to wait for a long back-off.
                // Not within a PTO of the last one: the PING may be a probe too, of a peer that refuses ours likewise.
                if self.sent.backoff() > 0 && self.sent.last_sent() + self.rtt.pto(0) <= now {
                    self.probe_now();
                }
                Stored::Yes
            }
        }
    }

    // ---- what the application does -----------------------------------------------------------------------------

    /// Looks at the application's side. Returns true if there is more to take in the next round.
    pub(crate) fn on_app(&mut self, now: Instant, channel: &mut impl AppChannel) -> bool {
        let Some(slot) = self.slot else { return false };
        let intent = channel.intent(slot);
        self.consumed = channel.consumed(slot);
        self.check_credit();
        if intent.has(Intent::ABORT) {
            self.abort(now, Reason::None, CloseReason::Aborted);
            return false;
        }
        let mut taken = 0;
        let mut drained = false;
        while taken < TAKE_PER_ROUND {
            let Some(message) = channel.take(slot) else {
                drained = true;
                break;
            };
            taken += 1;
            // After FIN only an endpoint that shuts down under its application posts.
            if self.peer_stopped || self.fin != Control::Idle {
                continue;
            }
            if message.len() > self.max_message as usize && !matches!(self.state, State::Connecting { .. }) {
                self.abort(now, Reason::TooLarge, CloseReason::TooLarge);
                return false;
            }
            self.send.push(message);
        }
        self.on_intent(now, intent, drained);
        if drained {
            self.tell_at(slot, channel);
        }
        !drained
    }

    /// Acts on what the application wants; `drained`: every message posted before was taken.
    fn on_intent(&mut self, now: Instant, intent: Intent, drained: bool) {
        // An aborted flow has nothing more to say than ABORT; a FIN beside it would look like an end in order.
        if matches!(self.state, State::Aborting { .. } | State::Tombstone { .. } | State::Closed) {
            return;
        }
        if intent.has(Intent::STOP) && self.stop == Control::Idle && !self.recv.is_ended() {
            self.stop = Control::Wanted;
            self.recv.stop();
        }
        if intent.has(Intent::FIN) && drained {
            if self.fin == Control::Idle {
                self.fin = Control::Wanted;
            }
            if intent.has(Intent::STOP) && self.linger.is_none() {
                self.linger = Some(now + self.limits.linger);
                // Nobody waits for the answer any more.
                if matches!(self.state, State::Connecting { .. }) && self.send.all_sent() {
                    self.close(CloseReason::Aborted);
                }
            }
        }
        self.settle(now);
    }

    /// The endpoint closes: as if the application had dropped its handles.
    pub(crate) fn on_shutdown(&mut self, now: Instant) {
        if matches!(self.state, State::Connecting { .. } | State::HalfOpen { .. }) {
            self.close(CloseReason::Shutdown);
        }
        self.on_intent(now, Intent::FIN.with(Intent::STOP), true);
    }

    /// Announces credit if enough has gathered, or the peer waits for it.
    fn check_credit(&mut self) {
        self.reserved = self.reserved.max(self.recv.reserved());
        let credit = self.credit();
        self.recv.raise_limit(credit);
        let step = if self.peer_blocked { 1 } else { self.credit_step() };
        // A reservation is announced at once: the peer cannot finish its message without.
        if credit >= self.credit_sent + step || self.reserved > self.credit_sent {
            self.announce = true;
            if std::mem::take(&mut self.peer_blocked) {
                // Reliable: if this one is lost, the peer has nothing to send that would bring another.
                self.want_ping();
            }
        }
    }

    /// What the peer may have sent in all: the window beyond what was consumed, or to the end of the oldest message.
    fn credit(&self) -> u64 {
        (self.consumed + self.limits.receive_window).max(self.reserved)
    }

    /// Asks for a PING that is repeated until acknowledged. The acknowledgement of an earlier one says nothing of this.
    fn want_ping(&mut self) {
        self.ping = Control::Wanted;
        self.ping_round = self.ping_round.wrapping_add(1);
    }

    /// max(¼ of the window, 2 packets), in units.
    fn credit_step(&self) -> u64 {
        (self.limits.receive_window / 4).max(2 * self.limits.cut.packet as u64 / UNIT)
    }

    /// Asks to be told when the application has consumed enough for [`Flow::check_credit`].
    fn tell_at(&mut self, slot: Slot, channel: &mut impl AppChannel) {
        loop {
            let step = if self.peer_blocked { 1 } else { self.credit_step() };
            // What the next packet announces counts as announced.
            let announced = if self.announce { self.credit() } else { self.credit_sent };
            let base = announced - self.limits.receive_window;
            let consumed = channel.set_tell_at(slot, base + step);
            if consumed == self.consumed {
                return;
            }
            self.consumed = consumed;
            self.check_credit();
            if consumed < base + step {
                return;
            }
        }
    }

    // ---- time --------------------------------------------------------------------------------------------------

    /// When [`Flow::on_timer`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let own = match self.state {
            State::Connecting { give_up, next_init, .. } => return Some(next_init.min(give_up)),
            State::HalfOpen { give_up } => return Some(give_up),
            State::Tombstone { until, .. } => Some(until),
            State::Aborting { until } => [Some(until), self.sent.deadline(self.pto())].into_iter().flatten().min(),
            State::Open => [self.sent.deadline(self.pto()), self.linger, self.shed_at].into_iter().flatten().min(),
            State::Closed => return None,
        };
        [own, self.acks.deadline()].into_iter().flatten().min()
    }

    fn pto(&self) -> Duration {
        self.rtt.pto(self.sent.backoff())
    }

    /// A deadline passed. Sending, if due, is left to [`Flow::transmit`].
    pub(crate) fn on_timer(&mut self, now: Instant) {
        match self.state {
            State::Connecting { give_up, .. } => {
                if give_up <= now {
                    self.close(CloseReason::ConnectTimeout);
                }
            }
            State::HalfOpen { give_up: until } | State::Tombstone { until, .. } => {
                if until <= now {
                    self.close(CloseReason::ConnectTimeout);
                }
            }
            State::Aborting { until } => {
                if until <= now {
                    self.close(CloseReason::Aborted);
                } else {
                    self.on_sent_timer(now);
                }
            }
            State::Open => {
                if self.shed_at.is_some_and(|at| at <= now) {
                    self.shed(now);
                }
                if self.linger.is_some_and(|at| at <= now) {
                    self.abort(now, Reason::Linger, CloseReason::Aborted);
                } else {
                    self.on_sent_timer(now);
                }
            }
            State::Closed => {}
        }
    }

    /// Sends what the peer needs next once more. Not what is oldest in flight: that may be what the peer refuses, or
    /// nothing that matters any more. Every control chunk, for they are small, and the parts that are next in order.
    fn probe_now(&mut self) {
        for control in [&mut self.fin, &mut self.stop, &mut self.abort, &mut self.ping, &mut self.blocked] {
            control.lost();
        }
        self.send.probe();
        self.probes = transmit::PROBES;
    }

    fn on_traffic(&mut self, now: Instant) {
        self.active_at = now;
        if self.shed_at.is_none() {
            self.shed_at = Some(now + IDLE);
        }
    }

    /// Gives back the memory of past traffic, unless there was some lately.
    fn shed(&mut self, now: Instant) {
        if self.sent.in_flight() > 0 || self.active_at + IDLE > now {
            self.shed_at = Some(self.active_at.max(now) + IDLE);
            return;
        }
        self.shed_at = None;
        self.shed_channel = true;
        self.sent.shed();
        self.acks.shed();
        self.send.shed();
        self.recv.shed();
    }

    fn on_sent_timer(&mut self, now: Instant) {
        if self.sent.on_timeout(now, self.pto()) {
            self.probe_now();
        } else {
            self.detect_losses(now);
        }
    }

    // ---- ends --------------------------------------------------------------------------------------------------

    /// The endpoint at the peer's address was restarted, and does not know this flow.
    pub(crate) fn on_displaced(&mut self) {
        self.close(CloseReason::Reset);
    }

    /// The peer was silent for too long.
    pub(crate) fn on_peer_dead(&mut self) {
        if !matches!(self.state, State::Tombstone { .. }) {
            self.close(CloseReason::PeerDead);
        }
    }

    /// Asks the peer whether it lives.
    pub(crate) fn keepalive(&mut self) {
        if self.ping == Control::Idle {
            self.want_ping();
        }
    }

    /// The length of the message that waits for a reassembly buffer.
    pub(crate) fn wanted_buffer(&self) -> Option<u32> {
        if matches!(self.state, State::Open) { self.recv.wanted() } else { None }
    }

    /// Gives the message that [waits](Flow::wanted_buffer) its buffer, and the peer the credit to fill it.
    pub(crate) fn reserve(&mut self, frame: Frame, store: &mut impl Store) {
        self.recv.reserve(frame, store);
        self.check_credit();
        // Its sender may have backed off.
        self.want_ping();
    }

    /// Ends the flow here and at the peer.
    pub(crate) fn abort(&mut self, now: Instant, reason: Reason, closed: CloseReason) {
        match self.state {
            State::Open => {
                self.state = State::Aborting { until: now + 3 * self.rtt.pto(0) };
                self.abort = Control::Wanted;
                self.abort_reason = reason;
                self.closed = Some(closed);
                self.quiet();
            }
            State::Connecting { .. } | State::HalfOpen { .. } => self.close(closed),
            State::Aborting { .. } | State::Tombstone { .. } | State::Closed => {}
        }
    }

    /// Drops what was to be sent and what was received.
    fn quiet(&mut self) {
        self.cut_off |= !self.send.all_acknowledged();
        self.send.discard();
        self.recv.stop();
        self.announce = false;
        self.probes = 0;
        for control in [&mut self.fin, &mut self.stop, &mut self.ping, &mut self.blocked] {
            if *control == Control::Wanted {
                *control = Control::Idle;
            }
        }
    }

    /// The flow is over for the application; only the memory of it is kept for the peer.
    fn entomb(&mut self, now: Instant, reason: CloseReason) {
        self.closed = Some(reason);
        self.quiet();
        let until = now + (3 * self.rtt.pto(0)).max(TOMBSTONE);
        self.state = State::Tombstone { until, limit: until + 2 * self.limits.dead_peer_timeout };
    }

    fn close(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
        self.quiet();
        self.state = State::Closed;
    }

    /// Ends the flow if both directions are over (`docs/spec/flow.md#directions-of-an-open-flow`).
    fn settle(&mut self, now: Instant) {
        match self.state {
            State::Open => {
                // Everything that arrived in order was or will be delivered in this round: see `publish`.
                let sending =
                    self.is_finished() || (self.recv.has_fin() && self.peer_stopped && self.fin == Control::Sent);
                let receiving = self.recv.is_ended() || self.stop == Control::Acked;
                if sending && receiving {
                    self.entomb(now, CloseReason::Finished);
                }
            }
            State::Aborting { .. } if self.abort == Control::Acked => self.close(CloseReason::Aborted),
            _ => {}
        }
    }

    /// FIN and everything before it was acknowledged, or discarded because the peer reads no more.
    fn is_finished(&self) -> bool {
        self.fin == Control::Acked && self.send.all_acknowledged() && !self.cut_off
    }

    // ---- what the application sees -----------------------------------------------------------------------------

    /// Delivers what arrived. Call it before [`Flow::publish`], and after each packet: the end of the stream shows
    /// only then.
    pub(crate) fn deliver(&mut self, now: Instant, channel: &mut impl AppChannel) {
        let Some(slot) = self.slot else { return };
        let mut any = false;
        while let Some(message) = self.recv.pop() {
            channel.deliver(slot, message);
            any = true;
        }
        if any && self.recv.has_fin() {
            self.settle(now);
        }
        if std::mem::take(&mut self.retell) {
            self.tell_at(slot, channel);
        }
    }

    /// Tells the application where the flow stands, if that changed. Returns true if it is over for the application.
    pub(crate) fn publish(&mut self, channel: &mut impl AppChannel) -> bool {
        let Some(slot) = self.slot else { return false };
        let acknowledged = self.send.acknowledged();
        let mut state = FlowState::CONNECTING;
        // A connecting flow that is closed was never open, and knows no id of the peer.
        if self.remote_id != 0 && !matches!(self.state, State::Connecting { .. } | State::HalfOpen { .. }) {
            state = state.with(FlowState::OPEN);
        }
        // Not `is_ended`, and not after our STOP: the peer then ends its stream anywhere (a flow that is reset stops,
        // one that the endpoint shuts down says STOP), and what the application misses must not look like the end.
        if self.recv.is_complete() && self.stop == Control::Idle {
            state = state.with(FlowState::READ_ENDED);
        }
        if self.peer_stopped {
            state = state.with(FlowState::WRITE_ENDED);
        }
        if self.is_finished() {
            state = state.with(FlowState::FIN_ACKED);
        }
        // Bits are only ever added: an abort forgets what a FIN said.
        state = state.with(self.published.state);
        if let Some(reason) = self.closed {
            state = state.closed(reason);
        }
        // Before the handshake nothing can be sent: room would only be memory.
        let room = if state.has(FlowState::OPEN) { acknowledged + self.limits.send_buffer } else { 0 };
        let now = Published { room, acknowledged, state };
        // Before there is room to send: who sends looks at the maximum.
        if state.has(FlowState::OPEN) && !self.published.state.has(FlowState::OPEN) {
            channel.set_local(slot, self.local);
            channel.set_max_message(slot, self.max_message);
        }
        if (now.room, now.acknowledged) != (self.published.room, self.published.acknowledged) {
            channel.set_progress(slot, room, acknowledged);
        }
        channel.set_stats(slot, &self.stats());
        if std::mem::take(&mut self.shed_channel) {
            channel.shed(slot);
        }
        if now.state != self.published.state {
            channel.set_state(slot, state);
        }
        self.published = now;
        self.closed.is_some()
    }

    fn stats(&self) -> FlowStats {
        let mut stats = FlowStats::default();
        stats.packets_sent = self.packets_sent;
        stats.packets_received = self.packets_received;
        stats.messages_sent = self.send.messages_sent;
        stats.bytes_sent = self.send.bytes_sent;
        stats.messages_received = self.recv.messages_received;
        stats.bytes_received = self.recv.bytes_received;
        stats.packets_lost = self.sent.packets_lost;
        stats.smoothed_rtt_ns = u64::try_from(self.rtt.smoothed().as_nanos()).unwrap_or(u64::MAX);
        stats.congestion_window = self.cc.window();
        stats
    }
}

const _: () = assert!(cost_in_units(0) == 1);
