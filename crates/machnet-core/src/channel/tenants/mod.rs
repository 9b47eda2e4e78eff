//! Applications in other processes, which trust neither the engine's nor each other.
//!
//! ```text
//!   gate ─ came, gone ─▶ tenants ─ events ─▶ hints ─▶ engine
//!   pipe ═ copied, as far as the quota goes, in turn ═▶ queue of its flow ─ take ─▶ engine
//!   engine ─ deliver ═ copied ═▶ pipe, or behind what waits for room in it
//! ```
//!
//! What lies in shared memory, and that every word of it is read once and checked, is
//! [`DaemonSide`](machnet_channel::shared::DaemonSide)'s business. This decides what follows from it:
//!
//! - **Who is served next.** First whoever did little lately ([`shares`]), then the others in deficit round robin by bytes, over a
//!   bounded amount per round: nobody waits for more than a quantum of each other one, however much those send.
//! - **How much.** Flows, listeners and ports by quota. Messages are copied out of a pipe only as far as the quota of memory goes:
//!   what does not fit stays in the application's own pipe, and holds up nobody else. Room is promised to flows accordingly, so
//!   that this is the exception.
//! - **Who is no longer served.** On the first word that cannot be, and when the connection is closed: all that the
//!   application had ends as if it had aborted it, and is free for others at once.
//!
//! A flow's slot is the engine's from [`Hint::Connect`] or [`AppChannel::accept`] to [`AppChannel::release`], whether its
//! application still lives or not.

mod account;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gate;
mod intake;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, clippy::unwrap_used, reason = "made for tests"))]
mod rig;
mod shares;
mod store;
mod tenant;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::shared::{DaemonSide, Malformed};
use machnet_channel::{Chunks, Doorbell, FlowOptions, FlowState, FlowStats, Intent, Message};
use slab::Slab;

use super::{AppChannel, Hint, ListenSlot, Slot};
use crate::EngineStats;
pub use account::{Account, Claims};
use gate::REPORTED_FLOWS;
pub use gate::{Arrival, Counters, Ended, FlowReport, Gate, News, Ports, Quota, Report, TenantReport};
use shares::{PIECE, Shares};
use store::Store;
use tenant::{NONE, Tenant};

/// A flow of a tenant.
#[derive(Debug)]
struct Flow {
    tenant: usize,
    /// Its slot in the region; [`NONE`] if it never had one.
    slot: u32,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    options: FlowOptions,
    /// Taken from the pipe, not by the engine.
    queue: VecDeque<Message>,
    /// Units taken from the pipe, acknowledged, and given room for.
    taken: u64,
    acknowledged: u64,
    room: u64,
    consumed: u64,
    state: FlowState,
    stats: FlowStats,
    /// A hint waits in the queue.
    is_hinted: bool,
    /// The engine knows of it.
    is_known: bool,
    /// Its application is no longer served.
    is_orphan: bool,
}

/// A listener of a tenant.
#[derive(Debug)]
struct Listening {
    tenant: usize,
    slot: u32,
    /// Once it is open.
    port: Option<u16>,
    /// The port that nobody else may have.
    claimed: Option<u16>,
    is_given_up: bool,
    options: FlowOptions,
    is_known: bool,
    /// The application has dropped it.
    is_dropped: bool,
    is_orphan: bool,
}

/// The applications of a daemon, as its engine sees them. See the module.
#[derive(Debug)]
pub struct Tenants<G: Gate> {
    gate: G,
    bell: Arc<Doorbell>,
    tenants: Slab<Tenant<G::Words>>,
    /// Those that are served, and whose turn is next.
    served: Vec<usize>,
    turn: usize,
    flows: Slab<Flow>,
    listeners: Slab<Listening>,
    claims: Arc<Claims>,
    hints: VecDeque<Hint>,
    store: Store,
    shares: Shares,
    /// The events and pieces of this round were looked at.
    is_gathered: bool,
    /// Everybody was told to ring.
    is_dozing: bool,
    /// Less waits for somebody than when this round began.
    is_relieved: bool,
    /// What was sent before the daemon was asked to end was taken, and how many rounds that took so far.
    is_drained: bool,
    last_rounds: usize,
    /// Rounds until applications are looked at that ask whether the engine is there, and whether one does.
    until_asked: u32,
    is_asked: bool,
    /// Those who are to be shown something.
    dirty: Vec<usize>,
    ended: BTreeMap<&'static str, u64>,
}

impl<G: Gate> Tenants<G> {
    /// Nobody yet; `gate` lets them in.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(gate: G) -> io::Result<Self> {
        Self::one_of(gate, Arc::default())
    }

    /// [`Tenants::new`] for one of several engines, which have the same `claims`.
    ///
    /// # Errors
    /// As [`Tenants::new`].
    pub fn one_of(gate: G, claims: Arc<Claims>) -> io::Result<Self> {
        Ok(Self {
            bell: gate.bell(),
            gate,
            tenants: Slab::new(),
            served: Vec::new(),
            turn: 0,
            flows: Slab::new(),
            listeners: Slab::new(),
            claims,
            hints: VecDeque::new(),
            store: Store::new()?,
            shares: Shares::new(),
            is_gathered: false,
            is_dozing: false,
            is_relieved: false,
            is_drained: false,
            last_rounds: 0,
            until_asked: 0,
            is_asked: false,
            dirty: Vec::new(),
            ended: BTreeMap::new(),
        })
    }

    /// The gate.
    pub const fn gate(&self) -> &G {
        &self.gate
    }

    /// The gate.
    pub const fn gate_mut(&mut self) -> &mut G {
        &mut self.gate
    }

    /// How they do.
    #[must_use]
    pub fn report(&self) -> Report {
        // By each one's own slots: to look at all flows for each would take as long as much of the engine's work.
        let tenants = self.tenants.iter().map(|(_, tenant)| {
            let mine = tenant.flows.iter().filter_map(|&flow| self.flows.get(flow as usize));
            let flow =
                |flow: &Flow| FlowReport { local: flow.local, peer: flow.peer, state: flow.state, stats: flow.stats };
            let ports = tenant.listeners.iter().filter_map(|&listener| self.listeners.get(listener as usize));
            TenantReport {
                id: tenant.id,
                is_over: tenant.side.is_none(),
                counters: tenant.counters,
                held: tenant.held_bytes(),
                waiting: tenant.waiting_bytes(),
                ports: ports.filter_map(|listening| listening.port).collect(),
                flows: tenant.open_flows(),
                some_flows: mine.take(REPORTED_FLOWS).map(flow).collect(),
            }
        });
        Report { tenants: tenants.collect(), ended: self.ended.iter().map(|(label, n)| (*label, *n)).collect() }
    }

    fn hint(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        if !std::mem::replace(&mut flow.is_hinted, true) {
            self.hints.push_back(Hint::Flow(Slot(slot)));
        }
    }

    /// Something was done that the tenant is to be shown at the end of the round.
    fn touch(&mut self, key: usize) {
        let tenant = &mut self.tenants[key];
        if !std::mem::replace(&mut tenant.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    /// Does something for a flow, if its tenant is served, and ends that if it cannot be.
    fn with_side<R>(
        &mut self,
        slot: Slot,
        act: impl FnOnce(&mut Flow, &mut DaemonSide<G::Words>) -> Result<R, Malformed>,
    ) -> Option<R> {
        let flow = &mut self.flows[slot.0 as usize];
        if flow.is_orphan {
            return None;
        }
        let key = flow.tenant;
        let side = self.tenants[key].side.as_mut()?;
        match act(flow, side) {
            Ok(result) => Some(result),
            Err(malformed) => {
                self.end(key, &Ended::Malformed(malformed));
                None
            }
        }
    }

    /// [`Tenants::with_side`], of what the application is to be shown.
    fn show(&mut self, slot: Slot, act: impl FnOnce(&mut Flow, &mut DaemonSide<G::Words>) -> Result<(), Malformed>) {
        if self.with_side(slot, act).is_some() {
            self.touch(self.flows[slot.0 as usize].tenant);
        }
    }

    /// The tenant is no longer served.
    fn end(&mut self, key: usize, why: &Ended) {
        let tenant = &mut self.tenants[key];
        let Some(side) = tenant.end() else { return };
        self.served.retain(|served| *served != key);
        *self.ended.entry(why.label()).or_default() += 1;
        self.gate.dismiss(tenant.id, why, side);
        let listeners = std::mem::take(&mut tenant.listeners);
        let flows = std::mem::take(&mut tenant.flows);
        for slot in listeners.into_iter().filter(|slot| *slot != NONE) {
            self.listeners[slot as usize].is_orphan = true;
            self.give_up_claim(slot);
            self.hints.push_back(Hint::Unlisten(ListenSlot(slot)));
        }
        for slot in flows.into_iter().filter(|slot| *slot != NONE) {
            let flow = &mut self.flows[slot as usize];
            flow.is_orphan = true;
            flow.queue = VecDeque::new();
            self.hint(slot);
        }
        self.forget_if_over(key);
    }

    fn forget_if_over(&mut self, key: usize) {
        if self.tenants[key].is_over() {
            self.tenants.remove(key);
            self.dirty.retain(|dirty| *dirty != key);
        }
    }

    fn remove_flow(&mut self, slot: u32) {
        let flow = self.flows.remove(slot as usize);
        let tenant = &mut self.tenants[flow.tenant];
        tenant.set_open_flows(tenant.open_flows() - 1);
        tenant.let_go(flow.taken.saturating_sub(flow.acknowledged));
        tenant.take_back(flow.room.saturating_sub(flow.acknowledged));
        if let Some(known) = tenant.flows.get_mut(flow.slot as usize) {
            *known = NONE;
        }
        self.forget_if_over(flow.tenant);
    }

    /// Others may have the port of a listener.
    fn give_up_claim(&mut self, slot: u32) {
        let Some(listening) = self.listeners.get_mut(slot as usize) else { return };
        if std::mem::replace(&mut listening.is_given_up, true) {
            return;
        }
        let Tenant { id, account, .. } = &self.tenants[listening.tenant];
        // One that never got a port had counted, too.
        let last = listening.claimed.is_none_or(|port| self.claims.give_up(port, *id));
        account.listeners.change(last.into(), 0);
    }

    fn remove_listener(&mut self, slot: u32) {
        self.give_up_claim(slot);
        let Some(listening) = self.listeners.try_remove(slot as usize) else { return };
        let tenant = &mut self.tenants[listening.tenant];
        tenant.open_listeners -= 1;
        if let Some(known) = tenant.listeners.get_mut(listening.slot as usize) {
            *known = NONE;
        }
        if let Some(side) = &mut tenant.side
            && listening.is_dropped
        {
            side.unlisten(listening.slot);
            self.touch(listening.tenant);
        }
        self.forget_if_over(listening.tenant);
    }

    fn insert_flow(&mut self, tenant: usize, slot: u32, peer: SocketAddr, options: FlowOptions) -> u32 {
        let flow = Flow {
            tenant,
            slot,
            peer,
            local: None,
            options,
            queue: VecDeque::new(),
            taken: 0,
            acknowledged: 0,
            room: 0,
            consumed: 0,
            state: FlowState::CONNECTING,
            stats: FlowStats::default(),
            is_hinted: false,
            is_known: false,
            is_orphan: false,
        };
        let key = self.flows.insert(flow) as u32;
        let tenant = &mut self.tenants[tenant];
        tenant.set_open_flows(tenant.open_flows() + 1);
        tenant.counters.flows_opened += 1;
        if let Some(known) = tenant.flows.get_mut(slot as usize) {
            *known = key;
        }
        key
    }
}

impl<G: Gate> AppChannel for Tenants<G> {
    fn next_hint(&mut self) -> Option<Hint> {
        loop {
            if self.hints.is_empty() && !std::mem::replace(&mut self.is_gathered, true) {
                self.gather();
            }
            let hint = self.hints.pop_front()?;
            match hint {
                Hint::Connect(slot, _) => {
                    let Some(flow) = self.flows.get_mut(slot.0 as usize) else { continue };
                    if flow.is_orphan {
                        // The engine need not begin what is over. Its other hint will find nothing.
                        self.remove_flow(slot.0);
                        continue;
                    }
                    flow.is_known = true;
                }
                Hint::Flow(slot) => {
                    let Some(flow) = self.flows.get_mut(slot.0 as usize) else { continue };
                    flow.is_hinted = false;
                    if !flow.is_known {
                        continue;
                    }
                }
                Hint::Listen(slot, _) => {
                    let Some(listening) = self.listeners.get_mut(slot.0 as usize) else { continue };
                    if listening.is_orphan {
                        self.remove_listener(slot.0);
                        continue;
                    }
                    listening.is_known = true;
                }
                Hint::Unlisten(slot) => {
                    if self.listeners.get(slot.0 as usize).is_none_or(|listening| !listening.is_known) {
                        continue;
                    }
                }
            }
            return Some(hint);
        }
    }

    fn doze(&mut self) {
        self.is_dozing = true;
        let mut ignores = false;
        for &key in &self.served {
            self.tenants[key].arm();
            ignores |= self.tenants[key].side.as_ref().is_some_and(|side| side.ignores_marks());
        }
        if ignores {
            self.gate.look_again();
        }
    }

    fn has_work(&self) -> bool {
        if self.is_drained {
            return !self.hints.is_empty();
        }
        self.gate.is_closing()
            || !self.hints.is_empty()
            || self.gate.has_news()
            // Buffers are given at the beginning of a round.
            || self.is_relieved
            || self.served.iter().any(|&key| self.tenants[key].has_work())
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        self.gate.wait()
    }

    fn is_closing(&self) -> bool {
        // Not before what was sent until then was taken.
        self.is_drained
    }

    fn bell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.bell)
    }

    fn group(&self, slot: Slot) -> u32 {
        self.flows[slot.0 as usize].tenant as u32
    }

    fn grain(&self) -> Option<u32> {
        self.shares.grain()
    }

    fn is_heavy(&self, group: u32) -> bool {
        self.tenants.get(group as usize).is_some_and(|tenant| !tenant.share.is_light)
    }

    fn is_express(&self) -> bool {
        self.shares.is_express()
    }

    fn is_pressed(&self) -> bool {
        self.served.iter().map(|&key| &self.tenants[key]).any(|tenant| tenant.share.is_light && tenant.has_work())
    }

    #[inline]
    fn charge(&mut self, slot: Slot, bytes: usize) {
        if let Some(flow) = self.flows.get(slot.0 as usize) {
            self.shares.charge(&mut self.tenants[flow.tenant].share, bytes as u64 + PIECE);
        }
    }

    fn options(&self, slot: Slot) -> FlowOptions {
        self.flows[slot.0 as usize].options
    }

    fn listen_options(&self, listener: ListenSlot) -> FlowOptions {
        self.listeners[listener.0 as usize].options
    }

    fn intent(&mut self, slot: Slot) -> Intent {
        self.with_side(slot, |flow, side| side.intent(flow.slot)).unwrap_or(Intent::ABORT)
    }

    fn take(&mut self, slot: Slot) -> Option<Message> {
        self.flows[slot.0 as usize].queue.pop_front()
    }

    fn consumed(&mut self, slot: Slot) -> u64 {
        self.with_side(slot, |flow, side| {
            flow.consumed = side.consumed(flow.slot)?;
            Ok(())
        });
        self.flows[slot.0 as usize].consumed
    }

    fn set_tell_at(&mut self, slot: Slot, units: u64) -> u64 {
        self.show(slot, |flow, side| {
            flow.consumed = side.set_tell_at(flow.slot, units)?;
            Ok(())
        });
        self.flows[slot.0 as usize].consumed
    }

    fn deliver(&mut self, slot: Slot, message: Chunks) {
        let flow = &self.flows[slot.0 as usize];
        let (key, of) = (flow.tenant, flow.slot);
        if flow.is_orphan {
            return;
        }
        self.shares.charge(&mut self.tenants[key].share, message.len() as u64 + PIECE);
        match self.tenants[key].deliver(of, message.into_message()) {
            Ok(()) => self.touch(key),
            Err(why) => self.end(key, &why),
        }
    }

    fn waiting(&self, slot: Slot) -> u64 {
        self.tenants[self.flows[slot.0 as usize].tenant].waiting_bytes()
    }

    fn set_progress(&mut self, slot: Slot, room: u64, acknowledged: u64) {
        let flow = &mut self.flows[slot.0 as usize];
        let tenant = &mut self.tenants[flow.tenant];
        tenant.let_go(acknowledged.saturating_sub(flow.acknowledged));
        flow.room = tenant.room(flow.room, flow.acknowledged, acknowledged, room);
        flow.acknowledged = acknowledged;
        self.show(slot, |flow, side| {
            side.set_progress(flow.slot, flow.room, acknowledged);
            Ok(())
        });
    }

    fn set_state(&mut self, slot: Slot, state: FlowState) {
        self.show(slot, |flow, side| {
            flow.state = state;
            side.set_state(flow.slot, state);
            Ok(())
        });
    }

    fn set_local(&mut self, slot: Slot, local: SocketAddr) {
        self.with_side(slot, |flow, side| {
            flow.local = Some(local);
            side.set_local(flow.slot, local);
            Ok(())
        });
    }

    fn set_max_message(&mut self, slot: Slot, bytes: u32) {
        let bytes = bytes.min(self.tenants[self.flows[slot.0 as usize].tenant].max_message);
        self.show(slot, |flow, side| {
            side.set_max_message(flow.slot, bytes);
            Ok(())
        });
    }

    fn set_stats(&mut self, slot: Slot, stats: &FlowStats) {
        self.with_side(slot, |flow, side| {
            flow.stats = *stats;
            side.set_stats(flow.slot, stats);
            Ok(())
        });
    }

    fn shed(&mut self, slot: Slot) {
        let flow = &mut self.flows[slot.0 as usize];
        if flow.queue.is_empty() {
            flow.queue = VecDeque::new();
        }
    }

    fn release(&mut self, slot: Slot) {
        self.show(slot, |flow, side| {
            side.release(flow.slot);
            Ok(())
        });
        self.remove_flow(slot.0);
    }

    fn set_listening(&mut self, listener: ListenSlot, opened: Result<SocketAddr, &io::Error>) {
        let mut opened = opened;
        let listening = &mut self.listeners[listener.0 as usize];
        let (key, slot) = (listening.tenant, listening.slot);
        let taken;
        if let (Ok(address), None) = (opened, listening.claimed) {
            // Any free one: nobody had it, unless somebody asked for it by its number, at another engine, in this moment.
            let tenant = &self.tenants[key];
            match self.claims.claim(address.port(), tenant.id) {
                Some(first) => {
                    listening.claimed = Some(address.port());
                    // It counted for itself, and is the same port once more.
                    tenant.account.listeners.change((!first).into(), 0);
                }
                None => {
                    self.hints.push_back(Hint::Unlisten(listener));
                    taken = intake::in_use(address.port());
                    opened = Err(&taken);
                }
            }
        }
        listening.port = opened.ok().map(|address| address.port());
        if let Some(side) = &mut self.tenants[key].side {
            side.set_listening(slot, opened);
            self.touch(key);
        }
    }

    fn can_accept(&mut self, listener: ListenSlot) -> bool {
        let listening = &self.listeners[listener.0 as usize];
        if listening.port.is_none() {
            // Another application has the port.
            return false;
        }
        let (key, slot) = (listening.tenant, listening.slot);
        let tenant = &mut self.tenants[key];
        let takes = tenant.takes_flows();
        let Some(side) = &mut tenant.side else { return false };
        match side.can_accept(slot) {
            Ok(can) => can && takes,
            Err(malformed) => {
                self.end(key, &Ended::Malformed(malformed));
                false
            }
        }
    }

    fn accept(&mut self, listener: ListenSlot, local: SocketAddr, peer: SocketAddr) -> Slot {
        let listening = &self.listeners[listener.0 as usize];
        let (key, options) = (listening.tenant, listening.options);
        let side = self.tenants[key].side.as_mut();
        let slot = side.and_then(|side| side.accept(listening.slot, local, peer));
        let flow = self.insert_flow(key, slot.unwrap_or(NONE), peer, options);
        let known = &mut self.flows[flow as usize];
        (known.local, known.is_known, known.is_orphan) = (Some(local), true, slot.is_none());
        if slot.is_none() {
            // `can_accept` said otherwise; whoever it is for is no longer served.
            self.hint(flow);
        } else {
            self.touch(key);
        }
        Slot(flow)
    }

    fn unlisten(&mut self, listener: ListenSlot) {
        self.remove_listener(listener.0);
    }

    fn wants_stats(&self) -> bool {
        self.is_asked
    }

    fn set_engine_stats(&mut self, stats: &EngineStats) {
        self.is_asked = false;
        let words = stats.to_words();
        let sides = self.tenants.iter_mut().filter_map(|(_, tenant)| tenant.side.as_mut());
        sides.for_each(|side| side.answer(&words));
    }

    fn end_round(&mut self) {
        self.is_gathered = false;
        for key in std::mem::take(&mut self.dirty) {
            let Some(tenant) = self.tenants.get_mut(key) else { continue };
            tenant.is_dirty = false;
            if let Some(side) = &mut tenant.side
                && side.publish()
            {
                tenant.counters.rings += 1;
                self.gate.ring(tenant.id);
            }
        }
    }
}
