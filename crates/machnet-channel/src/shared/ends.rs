//! What the pump keeps of a flow, and of a listener: the engine's end of its mailbox, and what both sides were told.

use std::io;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::TAIL;
use super::app::{AppSide, FlowView};
use crate::sync::Arc;
use crate::{Accepted, Backlog, BacklogProducer, EngineEnd, FlowState, Intent, Message, Wakes, Words};

/// A flow that has a slot.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) end: EngineEnd,
    /// Who is concerned by what was done in this turn.
    pub(super) wakes: Wakes,
    /// Messages put into the inbox, and how many come before the state is heeded.
    pub(super) taken: u64,
    pub(super) delivered: u64,
    pub(super) state: FlowState,
    pub(super) released: bool,
    /// Units posted, and a message beyond that for which the daemon has no room: one that was finished with.
    pub(super) posted: u64,
    pub(super) held: Option<Message>,
    /// Room and acknowledged, as the mailbox knows them.
    pub(super) progress: (u64, u64),
    /// What the daemon was told.
    pub(super) intent: Intent,
    /// When it wants to be told of consumption, and what of that the mailbox knows.
    pub(super) asked: u64,
    pub(super) tell_at: u64,
    /// True while it waits for room in the pipe.
    pub(super) blocked: bool,
}

/// A listener that has a slot.
#[derive(Debug)]
pub(super) struct Port {
    /// `None` once it was dropped.
    pub(super) end: Option<BacklogProducer>,
    pub(super) generation: u32,
    pub(super) opened: bool,
    /// Flows accepted in this turn: handed over at its end, when what the application may ask of them is known.
    pub(super) accepted: Vec<Accepted>,
    /// Flows handed over since the daemon opened it.
    pub(super) handed: u64,
}

impl Flow {
    pub(super) fn new(end: EngineEnd) -> Self {
        Self {
            end,
            wakes: Wakes::default(),
            taken: 0,
            delivered: 0,
            state: FlowState::CONNECTING,
            released: false,
            posted: 0,
            held: None,
            progress: (0, 0),
            intent: Intent::default(),
            asked: u64::MAX,
            tell_at: u64::MAX,
            blocked: false,
        }
    }

    pub(super) fn touch(&mut self, slot: u32, wakes: Wakes, touched: &mut Vec<u32>) {
        if self.wakes.is_empty() {
            touched.push(slot);
        }
        self.wakes = self.wakes.with(wakes);
    }

    /// True if the daemon takes another message of this flow; else it tells when it does.
    pub(super) fn has_room<W: Words + Clone>(
        &mut self,
        side: &mut AppSide<W>,
        slot: u32,
        intent: Intent,
        touched: &mut Vec<u32>,
    ) -> bool {
        if self.posted >= self.progress.0 {
            let progress = side.progress(slot, true);
            self.advance(slot, progress, touched);
        }
        let room = self.progress.0;
        // FIN must not wait for a peer that does not read: the engine's linger begins with it.
        self.posted < if room > 0 && intent.has(Intent::FIN) { room + TAIL } else { room }
    }

    /// Room and acknowledged. True if they are others than before: who waits is woken, and only then, for being woken they
    /// ask again.
    pub(super) fn advance(&mut self, slot: u32, progress: (u64, u64), touched: &mut Vec<u32>) -> bool {
        let changed = progress != self.progress;
        if changed {
            self.progress = progress;
            let (room, acknowledged) = progress;
            self.end.set_room(room);
            self.end.set_acknowledged(acknowledged);
            self.touch(slot, Wakes::TX, touched);
        }
        changed
    }

    /// Tells the daemon what was consumed. Again only when it asks again.
    pub(super) fn tell<W: Words + Clone>(&mut self, side: &mut AppSide<W>, slot: u32, consumed: u64) {
        side.set_consumed(slot, consumed);
        self.tell_at = u64::MAX;
        self.end.set_tell_at(u64::MAX);
    }

    pub(super) fn show_intent<W: Words + Clone>(&mut self, side: &mut AppSide<W>, slot: u32, intent: Intent) {
        let intent = intent.without(Intent::CHUNKS).with(self.intent);
        if intent != self.intent {
            self.intent = intent;
            side.set_intent(slot, intent);
        }
    }

    /// Takes over what the daemon says, all but the state.
    pub(super) fn apply<W: Words + Clone>(
        &mut self,
        side: &mut AppSide<W>,
        slot: u32,
        view: &FlowView,
        touched: &mut Vec<u32>,
    ) {
        let FlowView { delivered, room, acknowledged, tell_at, state, max_message, local, released } = *view;
        if state.has(FlowState::OPEN) && !self.state.has(FlowState::OPEN) {
            if let Some(local) = local {
                self.end.set_local(local);
            }
            self.end.set_max_message(max_message);
        }
        // Before the state, which may be the end: what was acknowledged is known by then.
        if self.advance(slot, (room, acknowledged), touched) {
            side.wait_no_more(slot);
        }
        if tell_at != self.asked {
            (self.asked, self.tell_at) = (tell_at, tell_at);
            let consumed = self.end.set_tell_at(tell_at);
            if consumed >= tell_at {
                self.tell(side, slot, consumed);
            }
        }
        (self.delivered, self.state, self.released) = (delivered, state, released);
    }
}

impl Port {
    pub(super) const fn new(end: BacklogProducer, generation: u32) -> Self {
        Self { end: Some(end), generation, opened: false, accepted: Vec::new(), handed: 0 }
    }

    pub(super) fn open(&mut self, address: SocketAddr, backlogs: &mut SmallVec<[Arc<Backlog>; 2]>) {
        if let Some(end) = self.end.as_mut().filter(|_| !self.opened) {
            self.opened = true;
            end.set_opened_quietly(Ok(address));
            backlogs.push(Arc::clone(end.backlog()));
        }
    }

    /// The application took flows, or dropped the listener.
    pub(super) fn look<W: Words + Clone>(
        &mut self,
        side: &mut AppSide<W>,
        slot: u32,
        unlistened: &mut Vec<BacklogProducer>,
    ) {
        match &self.end {
            Some(end) if end.is_gone() => self.unlisten(side, slot, unlistened),
            // Flows of before the daemon came back may be among those that wait.
            Some(end) => side.set_taken(slot, self.handed.saturating_sub(end.waiting().into())),
            None => {}
        }
    }

    pub(super) fn unlisten<W: Words + Clone>(
        &mut self,
        side: &mut AppSide<W>,
        slot: u32,
        unlistened: &mut Vec<BacklogProducer>,
    ) {
        if let Some(end) = self.end.take() {
            unlistened.push(end);
            // The slot is free when the daemon has said so.
            let _ = side.unlisten(slot);
        }
    }
}

/// What waits for a daemon that is gone.
pub(super) fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkDown, "the daemon is gone")
}
