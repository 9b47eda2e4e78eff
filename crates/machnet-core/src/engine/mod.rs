//! The engine: one owner of one driver queue, its flows, timers and applications.
//!
//! A round, [`Engine::poll`], is bounded by counts and never blocks:
//!
//! ```text
//!   reap, rx_burst ─▶ demultiplex by flow id ─▶ flow ─▶ inbox          receive.rs
//!   hints of applications ─▶ connect, listen, outbox ─▶ flow            apps.rs
//!   packets for those who did much lately, while others did little      aside.rs
//!   timers ─▶ flow                                                     timers.rs
//!   ready flows, in turn ─▶ packets ─▶ tx_burst
//!   publish what changed, wake who waits (last: wakers run foreign code)
//! ```
//!
//! Who runs it (a thread, a daemon, a runtime) decides when to poll again from [`Progress`] and sleeps by the protocol
//! of [`machnet_channel::Doorbell`]: arm, ask [`Engine::may_sleep`], sleep.

mod apps;
mod aside;
mod buffers;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handover;
mod memory;
mod order;
mod paths;
mod peers;
mod receive;
mod reserve;
mod resets;
mod stats;
mod steering;
mod table;
mod timers;
mod tokens;
mod tombstones;
mod turns;
mod tx;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::driver::RxPacket;
use crate::flow::{Cut, Limits, Round, State};
use crate::group::Member;
use crate::time::{Span, earlier};
use crate::wire::BASE_PAYLOAD;
use crate::{AppChannel, Config, ConfigError, Driver, Drops, Instant, LONG_FRAME, ListenSlot, Slot};
use aside::Aside;
use buffers::Buffers;
pub(crate) use handover::engine_of;
use memory::charge;
use order::Order;
use paths::Paths;
pub(crate) use peers::Membership;
use peers::{Peers, Verdict};
use resets::ResetLimit;
pub use stats::EngineStats;
use steering::Steering;
pub(crate) use steering::{PeerQueues, PortMaps};
use table::FlowTable;
pub(crate) use table::Keyed;
use timers::Timers;
use tokens::Tokens;
use tombstones::Tombstones;
use turns::Ended;
pub(crate) use tx::{Built, End, FRONT, Tx};

/// Of each kind of work, what one round does at most: the LCD's ring.
const BURST: usize = 256;
/// How soon the timer of a flow that cannot send is looked at again.
const BLOCKED_TIMER: Duration = Duration::from_millis(1);

/// What a round did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Progress {
    /// True if the round moved anything: poll again at once.
    pub busy: bool,
    /// When to poll again at the latest, if nothing happens before.
    pub next_deadline: Option<Instant>,
    /// True if a bound ended the round, not a lack of work ([`Engine::set_burst`]).
    pub full: bool,
}

/// A listening port.
#[derive(Clone, Copy, Debug)]
struct Listening {
    port: u16,
    slot: ListenSlot,
}

/// The datapath. See the module.
#[derive(Debug)]
pub struct Engine<D, C> {
    channel: C,
    config: Config,
    limits: Arc<Limits>,
    /// The same, of flows that never leave the host.
    near: Arc<Limits>,
    rng: ChaCha12Rng,
    now: Instant,
    /// How long before that arrivals may have waited to be seen.
    gap: Span,
    /// The runner may have slept since the last round: then it was woken, and nothing waited.
    slept: bool,

    flows: FlowTable,
    tx: Tx<D>,
    /// Application's slot → flow. Dense: the channel gives out the smallest free slot.
    by_slot: Vec<Option<u32>>,
    listening: Vec<Listening>,
    /// Flows whose handshake began here and is not finished: of initiators without a token, and with one.
    half_open: [u32; 2],
    tokens: Tokens,
    retries_sent: u64,
    timers: Timers,
    peers: Peers,
    /// When the last round asked to be called again at the latest.
    promised: Option<Instant>,
    /// Flows that wait for a reassembly buffer, first come, first served: key and id.
    waiting: VecDeque<(u32, u64)>,
    tombstones: Tombstones,
    buffers: Buffers,
    resets: ResetLimit,
    shutting_down: bool,

    /// Flows with something to send.
    turns: Order,
    /// Flows with more to take from their application.
    unfinished: VecDeque<u32>,
    /// Flows to publish, and whose timer to set, at the end of the round.
    touched: Vec<u32>,
    due: Vec<u32>,
    /// Flows whose timers expired, and that a full round left to the next; the next one last.
    expired: Vec<u32>,
    /// See [`Engine::set_burst`].
    burst: usize,
    rx: Vec<RxPacket>,
    /// Packets that wait until others were dealt with.
    aside: Aside,

    rounds: u64,
    busy: Duration,
    /// The last round moved something.
    was_busy: bool,
    packets_received: u64,
    packets_lost: u64,
    handed_over: u64,
    taken_over: u64,
    drops: Drops,
    /// The engine's number among those of the endpoint: that of its queue.
    index: u16,
    /// The other engines of the endpoint, if there are any.
    group: Option<Box<Member>>,
    /// Flows with a choice of ports, if there are any.
    steering: Option<Box<Steering>>,
    /// Flows that wait for ACCEPT.
    connecting: BTreeSet<u32>,
}

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// An engine on `driver`, serving `channel`. `seed` feeds the generator of flow ids and must be unpredictable
    /// outside of simulations.
    ///
    /// # Errors
    /// A limit that contradicts another or the driver's capabilities.
    pub fn new(driver: D, channel: C, config: Config, seed: [u8; 32]) -> Result<Self, ConfigError> {
        Self::build(driver, channel, config, seed, None)
    }

    /// [`Engine::new`] for one of several engines of an endpoint. The drivers are queues of one NIC: the same home and
    /// [ports](Driver::ports). The application shuts all their channels down together.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn join(driver: D, channel: C, config: Config, seed: [u8; 32], member: Member) -> Result<Self, ConfigError> {
        Self::build(driver, channel, config, seed, Some(Box::new(member)))
    }

    fn build(
        mut driver: D,
        mut channel: C,
        config: Config,
        seed: [u8; 32],
        group: Option<Box<Member>>,
    ) -> Result<Self, ConfigError> {
        let capabilities = *driver.capabilities();
        let max_payload = config.max_payload.min(capabilities.max_payload);
        config.check(max_payload)?;
        let build_frames = config.build_frames.min(capabilities.build_frames);
        if build_frames > 0 {
            let room = Cut::new(max_payload as usize).whole() as u32;
            channel.set_building(capabilities.headroom + FRONT, room, build_frames);
            let long_frames = config.long_frames.min(capabilities.long_frames);
            if long_frames > 0 {
                channel.set_building_long(room, LONG_FRAME, long_frames);
            }
        }
        driver.set_bell(channel.bell());
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut secret = [0; 16];
        rng.fill_bytes(&mut secret);
        let buffers =
            Buffers::new(config.reassembly_bytes, config.max_message, capabilities.chain_frames).map_err(|_| {
                ConfigError {
                    field: "reassembly_bytes",
                    value: config.reassembly_bytes,
                    min: 0,
                    max: isize::MAX as u64,
                }
            })?;
        let mut instance = rng.next_u64();
        let (index, engines) = group.as_ref().map_or((0, 1), |group| (group.index(), group.len()));
        if let Some(group) = &group {
            // Of one start of one endpoint, whichever of its engines speaks.
            (instance, secret) = (group.shared().instance, group.shared().secret);
        }
        let paths = Paths::new(Keyed::new(&mut rng));
        let mut tx = Tx::new(driver, instance, paths, config.device_queue.into());
        tx.engines = engines;
        let limits = Limits::new(&config, max_payload as usize, tx.driver.capabilities());
        Ok(Self {
            limits: Arc::new(limits),
            near: Arc::new(Limits { is_local: true, ..limits }),
            tx,
            flows: FlowTable::new(&mut rng, index),
            peers: Peers::new(&mut rng, config.dead_peer_timeout, config.peer_reassembly_bytes),
            resets: ResetLimit::new(Keyed::new(&mut rng)),
            channel,
            config,
            rng,
            now: Instant::ZERO,
            gap: Span::ZERO,
            slept: true,
            by_slot: Vec::new(),
            listening: Vec::new(),
            half_open: [0; 2],
            tokens: Tokens::new(&secret),
            retries_sent: 0,
            timers: Timers::new(),
            promised: None,
            waiting: VecDeque::new(),
            tombstones: Tombstones::new(config.max_tombstones),
            buffers,
            shutting_down: false,
            turns: Order::new(),
            unfinished: VecDeque::new(),
            touched: Vec::new(),
            due: Vec::new(),
            expired: Vec::new(),
            burst: BURST,
            rx: Vec::with_capacity(BURST),
            aside: Aside::default(),
            rounds: 0,
            busy: Duration::ZERO,
            was_busy: false,
            packets_received: 0,
            packets_lost: 0,
            handed_over: 0,
            taken_over: 0,
            drops: Drops::default(),
            index: index.into(),
            group,
            steering: None,
            connecting: BTreeSet::new(),
        })
    }

    /// One bounded round: receive, look at applications, timers, send, wake. `now` never goes back.
    pub fn poll(&mut self, now: Instant) -> Progress {
        let before = self.now;
        self.now = before.max(now);
        self.rounds += 1;
        if self.was_busy {
            self.busy += self.now.since(before);
        }
        // Who slept was woken by what arrived, unless he is late for his own deadline.
        let since =
            if std::mem::take(&mut self.slept) { self.promised.unwrap_or(self.now).max(before) } else { before };
        self.gap = self.now.after(since);
        self.notice_freeze();
        self.tx.begin(self.now);
        self.serve_waiting();
        let mut received = self.receive_burst();
        if self.group.is_some() {
            received += self.exchange();
        }
        let looked = self.look_at_applications();
        if !self.aside.is_empty() {
            received += self.receive_aside();
        }
        let expired = self.expire_timers() | self.expire_peers() | (self.steering.is_some() && self.expire_searches());
        let (sent, filled) = self.send();
        let full = received.max(looked) >= self.burst || filled || !self.expired.is_empty();
        self.end_round();
        if self.shutting_down {
            self.finish_group();
        }
        let busy = received > 0 || looked > 0 || expired || sent || !self.aside.is_empty() || self.channel.is_express();
        self.was_busy = busy;
        if !busy {
            // It may sleep next, and is not to be woken in vain.
            self.settle_timers();
        }
        let own = earlier(self.timers.next_deadline(), self.peers.next_deadline());
        self.promised = earlier(own, self.tx.driver.next_deadline());
        if let Some(steering) = &mut self.steering {
            self.promised = earlier(self.promised, steering.next_deadline());
        }
        Progress { busy, next_deadline: self.promised, full }
    }

    /// From now on a round receives at most `most` packets, builds about as many, and looks at as many hints of
    /// applications, flows with more to take, and expired timers: from 1 to 256, which is the default. For who has a clock
    /// and wants rounds of bounded time.
    pub fn set_burst(&mut self, most: usize) {
        self.burst = most.clamp(1, BURST);
        self.tx.set_burst(self.burst);
    }

    /// A process that was stopped, or a machine that was frozen, heard nobody: that is not the peers' silence. They are
    /// asked before anyone is declared dead.
    fn notice_freeze(&mut self) {
        if self.promised.is_some_and(|promised| promised + self.peers.interval() <= self.now) {
            tracing::debug!("not polled for a while: no peer is declared dead for that");
            self.peers.forgive(self.now);
        }
    }

    /// Asks silent peers, and ends the flows of dead ones.
    fn expire_peers(&mut self) -> bool {
        let mut due = std::mem::take(&mut self.due);
        self.peers.expire(self.now, &mut due);
        let any = !due.is_empty();
        for peer in due.drain(..) {
            let (verdict, flows) = self.peers.judge(self.now, peer);
            let concerned: Vec<u32> = match verdict {
                Verdict::Alive => continue,
                Verdict::Probe => {
                    let mut open = flows.iter().copied();
                    open.find(|&key| self.flows.get(key).is_some_and(|flow| flow.state == State::Open))
                        .into_iter()
                        .collect()
                }
                Verdict::Dead => flows.to_vec(),
            };
            for key in concerned {
                let Some(flow) = self.flows.get(key) else { continue };
                if verdict == Verdict::Dead {
                    flow.on_peer_dead();
                } else {
                    flow.keepalive();
                }
                self.touch(key);
            }
        }
        self.due = due;
        any
    }

    /// The peer of a flow was validated: it shares its liveness with the peer's other flows, and ends those of an
    /// earlier start of the same endpoint.
    fn enlist(&mut self, key: u32, instance: u64) {
        let Some(flow) = self.flows.get(key) else { return };
        let name = (flow.remote.ip(), flow.remote.port());
        let mut displaced = Vec::new();
        let order = || self.group.as_ref().map_or(0, |group| group.next_start());
        let (membership, started) = self.peers.join(self.now, name, instance, key, order, &mut displaced);
        flow.peer = Some(membership);
        self.displace(&displaced);
        if let Some(since) = started {
            self.tell_start(name, instance, since);
        }
    }

    /// Ends flows whose peer was started again.
    fn displace(&mut self, flows: &[u32]) {
        for &key in flows {
            if let Some(flow) = self.flows.get(key) {
                flow.on_displaced();
            }
            self.touch(key);
        }
    }

    fn expire_timers(&mut self) -> bool {
        if self.expired.is_empty() {
            self.timers.expire(self.now, &mut self.expired);
            self.expired.reverse();
        }
        let mut any = false;
        for _ in 0..self.burst {
            let Some(key) = self.expired.pop() else { break };
            let Some(flow) = self.flows.get(key) else { continue };
            match flow.deadline() {
                Some(at) if at <= self.now => {
                    any = true;
                    flow.on_timer(self.now);
                    if flow.is_unanswered() {
                        self.tx.driver.doubt(flow.remote.ip());
                    }
                    self.touch(key);
                }
                // It was postponed meanwhile.
                later => self.timers.set(key, later),
            }
        }
        any
    }

    /// Sets the timers that would fire too early.
    fn settle_timers(&mut self) {
        for _ in 0..self.burst {
            let Some(key) = self.timers.next_early() else { break };
            let deadline = self.flows.get(key).and_then(|flow| flow.deadline());
            self.timers.set(key, deadline.map(|at| self.not_overdue(key, at)));
        }
    }

    /// The deadline `at` of a flow as its timer is to have it.
    fn not_overdue(&self, key: u32, at: Instant) -> Instant {
        if at > self.now || !(self.tx.is_starved() || self.tx.is_blocked()) || !self.turns.contains(key) {
            return at;
        }
        // What is overdue waits for a frame or the device, and both wake us. Looking again and again would only burn the
        // core; now and then finds a dead peer.
        // On a fixed grid: what else is due must not be put off again in every round.
        let grid = BLOCKED_TIMER.as_nanos() as u64;
        Instant((self.now.0 / grid + 1) * grid)
    }

    /// Gives flows their turns, and the driver what they built.
    fn send(&mut self) -> (bool, bool) {
        let (whole, sorts) = (self.channel.grain().unwrap_or(0), self.channel.grain().is_some());
        // What groups that did much may still send in this round.
        let mut grain = if self.channel.is_express() { 0 } else { whole };
        // Twice, since a fresh flow may have a second turn as an ongoing one.
        for _ in 0..2 * self.turns.len() {
            if self.tx.is_full() {
                break;
            }
            let Some((key, mut allowed, is_heavy)) = self.turns.next(sorts) else { break };
            if sorts && is_heavy {
                if grain == 0 || (grain < whole && self.channel.is_pressed()) {
                    break;
                }
                allowed = allowed.min(grain);
            }
            let Some(flow) = self.flows.get(key) else {
                self.turns.remove(key);
                continue;
            };
            if sorts && !is_heavy {
                let group = flow.slot.map_or(0, |slot| self.channel.group(slot));
                if self.channel.is_heavy(group) {
                    self.turns.put_last(key, group);
                    continue;
                }
            }
            self.tx.begin_turn(allowed);
            if let Some(steering) = &self.steering {
                self.tx.steer = steering.pair(key);
            }
            let more = flow.transmit(self.now, &mut self.tx);
            let bytes = self.tx.turn_bytes();
            if sorts && is_heavy {
                grain = grain.saturating_sub(bytes);
            }
            let how = match more {
                false if flow.keeps_data_back() => Ended::Held,
                false => Ended::Done,
                true if self.tx.is_full() || self.tx.is_starved() || (sorts && is_heavy) => Ended::Blocked,
                true => Ended::Spent,
            };
            if let Some(slot) = flow.slot.filter(|_| bytes > 0) {
                self.channel.charge(slot, bytes as usize);
            }
            self.turns.end(key, bytes, how);
            if !flow.is_touched {
                flow.is_touched = true;
                self.touched.push(key);
            }
            if self.tx.is_starved() {
                break;
            }
        }
        if self.steering.is_some() {
            self.tx.steer = None;
        }
        let filled = self.tx.is_full();
        (self.tx.flush(), filled)
    }

    /// Publishes what changed, forgets what is over, sets timers, and wakes who waits.
    fn end_round(&mut self) {
        // Nothing is touched here.
        for at in 0..self.touched.len() {
            let key = self.touched[at];
            self.publish(key);
            let Some(flow) = self.flows.get(key) else { continue };
            flow.is_touched = false;
            if matches!(flow.state, State::Tombstone { .. }) && !flow.is_entombed {
                flow.is_entombed = true;
                let id = flow.id;
                self.entomb(key, id);
            }
            let Some(flow) = self.flows.get(key) else { continue };
            charge(flow, &mut self.peers);
            if flow.state == State::Closed {
                self.forget(key);
            } else {
                let deadline = flow.deadline();
                let deadline = deadline.map(|at| self.not_overdue(key, at));
                self.timers.postpone(key, deadline);
            }
        }
        self.touched.clear();
        if self.channel.wants_frames() {
            self.restock();
        }
        if self.channel.wants_stats() {
            let stats = self.stats();
            self.channel.set_engine_stats(&stats);
        }
        self.channel.end_round();
    }

    /// Gives applications frames to build in, as long as there are enough for everything else.
    #[inline(never)]
    fn restock(&mut self) {
        let [wanted, long] = self.channel.wanted_frames();
        for _ in 0..wanted {
            if self.tx.driver.is_short_of_frames() {
                break;
            }
            let Some(frame) = self.tx.driver.frame() else { break };
            self.channel.give_frame(frame);
        }
        for _ in 0..long {
            let Some(frame) = self.tx.driver.long_frame() else { break };
            self.channel.give_long_frame(frame);
        }
    }

    /// A flow is a tombstone from now on. There may be one too many.
    fn entomb(&mut self, key: u32, id: u64) {
        let lives = |key, id| self.flows.get(key).is_some_and(|flow| flow.id == id);
        if let Some((oldest, _)) = self.tombstones.push(key, id, lives) {
            // It may have ended in this very round, and its application knows nothing yet.
            self.publish(oldest);
            self.forget(oldest);
        }
    }

    /// Tells the application of a flow where that stands, and lets go of it if it is over.
    fn publish(&mut self, key: u32) {
        let Some(flow) = self.flows.get(key) else { return };
        self.packets_lost += flow.newly_lost();
        if flow.publish(&mut self.channel)
            && let Some(slot) = flow.slot.take()
        {
            self.by_slot[slot.0 as usize] = None;
            self.channel.release(slot);
        }
    }

    /// Removes a flow and what hangs on it.
    fn forget(&mut self, key: u32) {
        self.timers.set(key, None);
        self.turns.remove(key);
        let Some(flow) = self.flows.remove(key) else { return };
        self.count_flows();
        if let Some(opening) = flow.half_open {
            self.half_open[opening as usize] -= 1;
        }
        if let Some(membership) = flow.peer {
            self.peers.charge(membership, flow.charged, [0; 2]);
            if let Some((moved, place)) = self.peers.leave(membership)
                && let Some(moved) = self.flows.get(moved)
            {
                moved.peer = Some(place);
            }
        }
        self.connecting.remove(&key);
        if let Some(steering) = &mut self.steering {
            steering.forget(key);
        }
        self.tx.driver.close(flow.local.port());
        tracing::debug!(flow = flow.id, peer = %flow.remote, "forgotten");
    }

    /// Notes which flow is behind an application's slot.
    fn bind_slot(&mut self, slot: Slot, key: u32) {
        let index = slot.0 as usize;
        if index >= self.by_slot.len() {
            self.by_slot.resize(index + 1, None);
        }
        self.by_slot[index] = Some(key);
    }

    /// Marks a flow for the end of the round, and for sending if it has something to send.
    fn touch(&mut self, key: u32) {
        let Some(flow) = self.flows.get(key) else { return };
        if !flow.is_touched {
            flow.is_touched = true;
            self.touched.push(key);
        }
        if flow.wants_turn(self.now) {
            let group = flow.slot.map_or(0, |slot| self.channel.group(slot));
            let is_heavy = self.channel.grain().is_some() && self.channel.is_heavy(group);
            self.turns.push(key, group, is_heavy);
        }
    }

    /// Called after the doorbell was armed: true if nothing waits and the engine may sleep until the next deadline,
    /// the doorbell or the driver's file descriptor.
    pub fn may_sleep(&mut self) -> bool {
        self.channel.doze();
        let idle = self.unfinished.is_empty()
            && self.aside.is_empty()
            && self.expired.is_empty()
            && !self.channel.has_work()
            && self.channel.is_closing() == self.shutting_down
            && (self.turns.is_empty() || self.tx.is_starved() || !self.tx.is_empty());
        // Without frames nothing can be sent, and on some drivers nothing received: the next one to come home rings.
        let idle = idle && self.group.as_ref().is_none_or(|group| group.may_sleep());
        self.slept = idle && !self.tx.driver.starve();
        self.slept
    }

    /// Called after [`Engine::may_sleep`] by a runner whose sleep nothing that arrives can end: what arrives meanwhile waits, and that
    /// is no time of the network's.
    pub const fn naps(&mut self) {
        self.slept = false;
    }

    const fn round(&self) -> Round {
        Round { now: self.now, gap: self.gap }
    }

    /// True once the application asked to close and every flow has ended: the engine may be dropped.
    /// One of several goes on handing over until all of them have.
    pub fn is_finished(&self) -> bool {
        self.has_ended() && self.group.as_ref().is_none_or(|group| group.are_all_finished())
    }

    fn has_ended(&self) -> bool {
        self.shutting_down
            && self.flows.len() == 0
            && self.aside.is_empty()
            && !self.channel.has_work()
            && self.tx.is_empty()
    }

    /// The applications.
    pub const fn channel(&self) -> &C {
        &self.channel
    }

    /// The applications, for tests that play them.
    #[cfg(any(test, fuzzing))]
    pub(crate) const fn channel_mut(&mut self) -> &mut C {
        &mut self.channel
    }

    /// The last engine of a group to end its flows ends them all.
    fn finish_group(&mut self) {
        if self.has_ended()
            && let Some(group) = &mut self.group
        {
            group.finish();
        }
    }

    /// The driver.
    pub const fn driver(&self) -> &D {
        &self.tx.driver
    }

    /// The driver, for simulations that steer it.
    pub const fn driver_mut(&mut self) -> &mut D {
        &mut self.tx.driver
    }

    /// The engine's counters.
    pub fn stats(&self) -> EngineStats {
        let mut drops = self.drops;
        drops.add(&self.tx.driver.drops());
        let [building, long] = self.channel.building();
        let [parts_in_place, parts_copied] = self.tx.built_in_parts();
        let [chained, unchained] = self.buffers.chains();
        let [sent_in_place, built_and_copied] = self.tx.built_in_frames();
        EngineStats {
            rounds: self.rounds,
            busy_ns: self.busy.as_nanos() as u64,
            packets_received: self.packets_received,
            handed_over: self.handed_over,
            taken_over: self.taken_over,
            probes_sent: self.steering.as_ref().map_or(0, |steering| steering.probes_sent()),
            packets_sent: self.tx.built(),
            packets_lost: self.packets_lost,
            retries_sent: self.retries_sent,
            flows: self.flows.len() as u64,
            buffers_in_use: self.buffers.in_use(),
            chained,
            unchained,
            sent_in_place,
            built_and_copied,
            build_frames_missed: building.missed,
            build_frames_away: building.away.into(),
            build_frames_waiting: building.waiting.into(),
            parts_in_place,
            parts_copied,
            long_frames_missed: long.missed,
            long_frames_away: long.away.into(),
            long_frames_waiting: long.waiting.into(),
            drops,
        }
    }
}

impl Config {
    fn check(&self, max_payload: u32) -> Result<(), ConfigError> {
        let within = |field, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError { field, value, min, max }) }
        };
        let message = u64::from(self.max_message);
        within("max_message", message, 0, crate::MAX_MESSAGE.into())?;
        // The first part of a message must fit, or its room is never reserved: peers keep to half of the window, but may
        // always send 1 232 bytes.
        within("receive_window", self.receive_window.into(), 2048, 1 << 30)?;
        within("send_buffer", self.send_buffer.into(), 2048, 1 << 30)?;
        within("max_flows", self.max_flows.into(), 1, 1 << 24)?;
        within("max_half_open", self.max_half_open.into(), 1, 1 << 24)?;
        within("max_tombstones", self.max_tombstones.into(), 1, 1 << 24)?;
        within("max_payload", max_payload.into(), BASE_PAYLOAD as u64, 65_507)?;
        within("dead_peer_timeout (ms)", self.dead_peer_timeout.as_millis() as u64, 10, 86_400_000)?;
        within("max_ack_delay (µs)", self.max_ack_delay.as_micros() as u64, 0, 1_000_000)?;
        Ok(())
    }
}

const _: () = assert!(Cut::MIN_PAYLOAD <= BASE_PAYLOAD);

#[cfg(test)]
mod tests;
