//! The applications of the engine's own process, through mailboxes and hint queues.

use std::net::SocketAddr;
use std::sync::Arc;

use machnet_channel::{
    Accepted, Backlog, BacklogProducer, Chunks, Doorbell, Drain, EngineEnd, FlowOptions, FlowState, FlowStats, Frame,
    Intake, Intent, Mailbox, Message, Stocker, Wakes,
};
use slab::Slab;

use super::{AppChannel, Building, Hint, ListenSlot, Slot};

/// The applications of the engine's own process.
#[derive(Debug)]
pub struct LocalChannel {
    intake: Arc<Intake>,
    /// Fills what applications take frames from.
    stocker: Option<Stocker>,
    /// Likewise, long frames.
    long_stocker: Option<Stocker>,
    flow_hints: Drain<Mailbox>,
    listener_hints: Drain<Backlog>,
    flows: Slab<LocalFlow>,
    listeners: Slab<LocalListener>,
    /// Flows and listeners with somebody to wake at the end of the round.
    touched: Vec<u32>,
    touched_listeners: Vec<u32>,
    /// Ends that were released in this round, woken (by their drop) at its end.
    released: Vec<EngineEnd>,
}

#[derive(Debug)]
struct LocalFlow {
    end: EngineEnd,
    wakes: Wakes,
}

#[derive(Debug)]
struct LocalListener {
    end: BacklogProducer,
    /// Flows accepted in this round: handed over at its end, when what the application may ask of them is published.
    accepted: Vec<Accepted>,
}

impl LocalChannel {
    /// The engine's side of `intake`. One per intake.
    #[must_use]
    pub fn new(intake: Arc<Intake>) -> Self {
        Self {
            intake,
            stocker: None,
            long_stocker: None,
            flow_hints: Drain::default(),
            listener_hints: Drain::default(),
            flows: Slab::new(),
            listeners: Slab::new(),
            touched: Vec::new(),
            touched_listeners: Vec::new(),
            released: Vec::new(),
        }
    }

    fn flow(&self, slot: Slot) -> &EngineEnd {
        &self.flows[slot.0 as usize].end
    }

    fn flow_mut(&mut self, slot: Slot) -> &mut EngineEnd {
        &mut self.flows[slot.0 as usize].end
    }

    fn touch(&mut self, slot: Slot, wakes: Wakes) {
        let flow = &mut self.flows[slot.0 as usize];
        if flow.wakes.is_empty() {
            self.touched.push(slot.0);
        }
        flow.wakes = flow.wakes.with(wakes);
    }

    fn next_flow_hint(&mut self) -> Option<Hint> {
        if self.flow_hints.is_empty() {
            self.flow_hints = self.intake.flows().take();
        }
        for mailbox in self.flow_hints.by_ref() {
            if let Some(slot) = mailbox.slot() {
                // A stale hint: the flow was released, and its slot may be another's by now.
                if self.flows.get(slot as usize).is_some_and(|flow| Arc::ptr_eq(flow.end.mailbox(), &mailbox)) {
                    return Some(Hint::Flow(Slot(slot)));
                }
            } else if let Some(mut end) = mailbox.claim() {
                let entry = self.flows.vacant_entry();
                let slot = Slot(entry.key() as u32);
                end.set_slot(slot.0);
                let peer = mailbox.peer();
                entry.insert(LocalFlow { end, wakes: Wakes::default() });
                return Some(Hint::Connect(slot, peer));
            }
        }
        None
    }

    fn next_listener_hint(&mut self) -> Option<Hint> {
        if self.listener_hints.is_empty() {
            self.listener_hints = self.intake.listeners().take();
        }
        for backlog in self.listener_hints.by_ref() {
            if let Some(slot) = backlog.slot() {
                let known = self.listeners.get(slot as usize);
                if known.is_some_and(|l| Arc::ptr_eq(l.end.backlog(), &backlog) && l.end.is_gone()) {
                    return Some(Hint::Unlisten(ListenSlot(slot)));
                }
            } else if let Some(mut end) = backlog.claim() {
                if end.is_gone() {
                    continue;
                }
                let entry = self.listeners.vacant_entry();
                let slot = entry.key() as u32;
                end.set_slot(slot);
                entry.insert(LocalListener { end, accepted: Vec::new() });
                return Some(Hint::Listen(ListenSlot(slot), backlog.port()));
            }
        }
        None
    }
}

impl AppChannel for LocalChannel {
    fn next_hint(&mut self) -> Option<Hint> {
        self.next_listener_hint().or_else(|| self.next_flow_hint())
    }

    fn has_work(&self) -> bool {
        !self.flow_hints.is_empty()
            || !self.listener_hints.is_empty()
            || !self.intake.flows().is_empty()
            || !self.intake.listeners().is_empty()
    }

    fn is_closing(&self) -> bool {
        self.intake.is_closing()
    }

    fn bell(&self) -> Arc<Doorbell> {
        Arc::clone(self.intake.bell())
    }

    fn set_building(&mut self, start: u32, room: u32, limit: u32) {
        self.stocker = Stocker::new(&self.intake, start, room, limit);
    }

    fn set_building_long(&mut self, above: u32, room: u32, limit: u32) {
        self.long_stocker = Stocker::long(&self.intake, above, room, limit);
    }

    fn wants_frames(&self) -> bool {
        let is_used = |stocker: &Option<Stocker>| stocker.as_ref().is_some_and(|stocker| !stocker.is_quiet());
        is_used(&self.stocker) || is_used(&self.long_stocker)
    }

    fn wanted_frames(&self) -> [u32; 2] {
        [&self.stocker, &self.long_stocker].map(|stocker| stocker.as_ref().map_or(0, Stocker::wanted))
    }

    fn give_frame(&mut self, frame: Frame) {
        if let Some(stocker) = &mut self.stocker {
            // One that finds no place goes home.
            drop(stocker.put(frame));
        }
    }

    fn give_long_frame(&mut self, frame: Frame) {
        if let Some(stocker) = &mut self.long_stocker {
            drop(stocker.put(frame));
        }
    }

    fn building(&self) -> [Building; 2] {
        let building =
            |stocker: &Stocker| Building { away: stocker.away(), waiting: stocker.waiting(), missed: stocker.missed() };
        [&self.stocker, &self.long_stocker].map(|stocker| stocker.as_ref().map(building).unwrap_or_default())
    }

    fn options(&self, slot: Slot) -> FlowOptions {
        self.flow(slot).mailbox().options()
    }

    fn listen_options(&self, listener: ListenSlot) -> FlowOptions {
        self.listeners[listener.0 as usize].end.backlog().options()
    }

    fn intent(&mut self, slot: Slot) -> Intent {
        self.flow(slot).intent()
    }

    fn take(&mut self, slot: Slot) -> Option<Message> {
        self.flow_mut(slot).take()
    }

    fn consumed(&mut self, slot: Slot) -> u64 {
        self.flow(slot).consumed()
    }

    fn set_tell_at(&mut self, slot: Slot, units: u64) -> u64 {
        self.flow_mut(slot).set_tell_at(units)
    }

    fn deliver(&mut self, slot: Slot, message: Chunks) {
        self.flow_mut(slot).deliver(message);
        self.touch(slot, Wakes::RX);
    }

    fn set_progress(&mut self, slot: Slot, room: u64, acknowledged: u64) {
        let end = self.flow_mut(slot);
        end.set_room(room);
        end.set_acknowledged(acknowledged);
        self.touch(slot, Wakes::TX);
    }

    fn set_state(&mut self, slot: Slot, state: FlowState) {
        self.flow_mut(slot).set_state(state);
        self.touch(slot, Wakes::ALL);
    }

    fn set_local(&mut self, slot: Slot, local: SocketAddr) {
        self.flow_mut(slot).set_local(local);
    }

    fn set_max_message(&mut self, slot: Slot, bytes: u32) {
        self.flow_mut(slot).set_max_message(bytes);
    }

    fn set_stats(&mut self, slot: Slot, stats: &FlowStats) {
        self.flow_mut(slot).set_stats(stats);
    }

    fn shed(&mut self, slot: Slot) {
        self.flow_mut(slot).shed();
    }

    fn release(&mut self, slot: Slot) {
        let flow = self.flows.remove(slot.0 as usize);
        self.released.push(flow.end);
    }

    fn set_listening(&mut self, listener: ListenSlot, opened: Result<SocketAddr, &std::io::Error>) {
        self.listeners[listener.0 as usize].end.set_opened(opened);
    }

    fn can_accept(&mut self, listener: ListenSlot) -> bool {
        let listening = &self.listeners[listener.0 as usize];
        listening.end.room() as usize > listening.accepted.len()
    }

    fn accept(&mut self, listener: ListenSlot, local: SocketAddr, peer: SocketAddr) -> Slot {
        let (mut end, send, recv) = Mailbox::accepted(&self.intake, local, peer);
        let entry = self.flows.vacant_entry();
        let slot = Slot(entry.key() as u32);
        end.set_slot(slot.0);
        entry.insert(LocalFlow { end, wakes: Wakes::default() });
        let listening = &mut self.listeners[listener.0 as usize];
        if listening.accepted.is_empty() {
            self.touched_listeners.push(listener.0);
        }
        listening.accepted.push(Accepted { send, recv });
        slot
    }

    fn unlisten(&mut self, listener: ListenSlot) {
        self.listeners.remove(listener.0 as usize);
    }

    fn end_round(&mut self) {
        for slot in self.touched.drain(..) {
            // Released meanwhile, or the slot is another's by now, whom an extra look does not hurt.
            if let Some(flow) = self.flows.get_mut(slot as usize) {
                flow.end.wake(std::mem::take(&mut flow.wakes));
            }
        }
        for slot in self.touched_listeners.drain(..) {
            if let Some(listener) = self.listeners.get_mut(slot as usize) {
                for accepted in listener.accepted.drain(..) {
                    listener.end.push(accepted);
                }
                listener.end.wake();
            }
        }
        self.released.clear();
    }
}

impl Drop for LocalChannel {
    fn drop(&mut self) {
        self.intake.close();
    }
}
