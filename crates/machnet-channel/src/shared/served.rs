//! What is behind the lock of an [`Attachment`](super::Attachment): a turn of the pump.

use std::collections::VecDeque;
use std::io;
use std::task::Context;

use smallvec::SmallVec;

use super::app::{AppSide, Incoming, ListenerView, Note};
use super::attachment::{ANSWERED, ASKS, ASKS_NOT, Afterwards, Line, Over, Told, UNANSWERED, UNASKED};
use super::ends::{Flow, Port, gone};
use super::malformed::Malformed;
use super::status::STATUS_COUNTERS;
use super::tag::Piece;
use crate::cost_in_units;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sync::mutant;
use crate::{
    Accepted, Asks, Backlog, BacklogProducer, CloseReason, EngineEnd, FlowState, Intake, Intent, Mailbox, Message,
    Wakes, Waking, Words, Work,
};

/// What is behind the lock.
#[derive(Debug)]
pub(super) struct Served<W, L> {
    /// `None` once the endpoint has ended: it holds us.
    intake: Option<Arc<Intake>>,
    told: Arc<Told>,
    /// `None` without a daemon.
    side: Option<AppSide<W>>,
    /// The last one.
    line: L,
    afterwards: Afterwards,
    flows: Vec<Option<Flow>>,
    ports: Vec<Option<Port>>,
    /// Listeners that wait for a daemon.
    waiting: Vec<BacklogProducer>,
    /// A message of which the pipe took a part, or nothing: its flow, and how many bytes went.
    underway: Option<(u32, Message, usize)>,
    /// Flows with messages that wait for room.
    blocked: VecDeque<u32>,
    /// The beginning of a message that comes in pieces, and how long the last such was.
    gathered: Vec<u8>,
    longest: usize,
    /// Flows with somebody to wake, and listeners with flows to hand over, at the end of the turn.
    touched: Vec<u32>,
    touched_ports: Vec<u32>,
    closing: bool,
    rest: Rest<L>,
}

/// What is done without the lock.
#[derive(Debug)]
pub(super) struct Rest<L> {
    wakes: SmallVec<[Waking; 4]>,
    backlogs: SmallVec<[Arc<Backlog>; 2]>,
    /// Ends of flows and listeners, whose drop wakes.
    ended: SmallVec<[EngineEnd; 2]>,
    unlistened: Vec<BacklogProducer>,
    over: Option<(L, Over)>,
    closed: Option<Arc<Intake>>,
}

impl<L> Default for Rest<L> {
    fn default() -> Self {
        Self {
            wakes: SmallVec::new(),
            backlogs: SmallVec::new(),
            ended: SmallVec::new(),
            unlistened: Vec::new(),
            over: None,
            closed: None,
        }
    }
}

impl<W: Words + Clone + Send + 'static, L: Line> Work for Served<W, L> {
    type Rest = Rest<L>;

    fn work(&mut self, cx: &Context<'_>) -> Rest<L> {
        if self.intake.is_some() {
            if let Err(why) = self.turn(cx) {
                self.lose(Over::Broken(why));
            }
            self.finish_turn();
        }
        std::mem::take(&mut self.rest)
    }

    fn finish(rest: Rest<L>) {
        let Rest { wakes, backlogs, ended, unlistened, over, closed } = rest;
        wakes.into_iter().for_each(Waking::wake);
        backlogs.iter().for_each(|backlog| backlog.call());
        drop((ended, unlistened));
        if let Some(intake) = closed {
            // Whatever was hinted too late is closed here, too.
            intake.close();
        }
        if let Some((line, over)) = over {
            line.over(&over);
        }
    }
}

impl<W: Words + Clone + Send + 'static, L: Line> Served<W, L> {
    pub(super) fn new(intake: Arc<Intake>, told: Arc<Told>, side: AppSide<W>, line: L, afterwards: Afterwards) -> Self {
        let mut served = Self {
            intake: Some(intake),
            told,
            side: None,
            line: line.clone(),
            afterwards,
            flows: Vec::new(),
            ports: Vec::new(),
            waiting: Vec::new(),
            underway: None,
            blocked: VecDeque::new(),
            gathered: Vec::new(),
            longest: 0,
            touched: Vec::new(),
            touched_ports: Vec::new(),
            closing: false,
            rest: Rest::default(),
        };
        served.attach(side, line);
        served
    }

    pub(super) fn attach(&mut self, side: AppSide<W>, line: L) {
        if self.intake.is_none() {
            // Ended meanwhile. The daemon finds the connection closed.
            return;
        }
        if self.side.is_some() {
            // Nobody has looked since the last daemon went. Who attaches knows that it did.
            self.lose(Over::Gone);
            self.rest.over = None;
        }
        self.flows = (0..side.slots()).map(|_| None).collect();
        self.ports = (0..side.listeners()).map(|_| None).collect();
        (self.side, self.line) = (Some(side), line);
        self.told.silent.store(false, Ordering::Release);
        self.told.answers.store(UNASKED, Ordering::Release);
        for end in std::mem::take(&mut self.waiting) {
            self.listen(end);
        }
    }

    pub(super) fn give_up(&mut self) -> Vec<BacklogProducer> {
        self.afterwards = Afterwards::Ends;
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn has_news(&self) -> bool {
        self.side.as_ref().is_some_and(|side| side.has_work(self.wants_room()))
    }

    pub(super) fn counters(&self) -> Option<[u64; STATUS_COUNTERS]> {
        self.side.as_ref().and_then(AppSide::counters)
    }

    /// Asks the daemon once more whether it is there, and tells whether it answered the last time.
    fn ask(&mut self, always: bool) {
        let used = always || self.is_used();
        let answered = self.side.as_ref().and_then(AppSide::is_answered).filter(|_| used);
        let before = match answered {
            None => UNASKED,
            Some(true) => ANSWERED,
            Some(false) => UNANSWERED,
        };
        self.told.answers.store(before, Ordering::Release);
        if let Some(side) = self.side.as_mut().filter(|_| answered == Some(true)) {
            side.ask();
        }
    }

    pub(super) fn stop_asking(&mut self) {
        if let Some(side) = &mut self.side {
            side.disarm();
        }
    }

    const fn wants_room(&self) -> bool {
        self.underway.is_some()
    }

    /// All that can be done by now, once.
    fn turn(&mut self, cx: &Context<'_>) -> Result<(), Malformed> {
        let mut closed = false;
        if self.told.rung.swap(false, Ordering::AcqRel)
            && let Some(side) = &mut self.side
        {
            self.told.heard.fetch_add(1, Ordering::Relaxed);
            closed = self.line.hear();
            // It will not ring again unless it is asked.
            side.disarm();
        }
        match self.told.asks.swap(ASKS_NOT, Ordering::AcqRel) {
            ASKS_NOT => {}
            asks => self.ask(asks == ASKS),
        }
        self.take_hints()?;
        if self.told.silent.swap(false, Ordering::AcqRel) {
            self.lose(Over::Silent);
        }
        if self.side.is_none() {
            return Ok(());
        }
        self.hear_of_flows()?;
        self.receive()?;
        self.go_on_sending()?;
        if closed {
            // What it had put into the pipe by then was received.
            self.lose(Over::Gone);
            return Ok(());
        }
        let wants_room = self.wants_room();
        let Some(side) = &mut self.side else { return Ok(()) };
        if side.publish() {
            self.told.rings.fetch_add(1, Ordering::Relaxed);
            self.line.ring();
        }
        if self.told.looking.load(Ordering::Acquire) > 0 {
            side.disarm();
        } else {
            // If this is new, what was done before is looked for in another turn.
            let _ = side.arm(wants_room);
        }
        if !mutant!("attached_look") && side.has_work(wants_room) {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Hands over what was accepted, and gathers whom to wake.
    fn finish_turn(&mut self) {
        for slot in self.touched.drain(..) {
            // Over meanwhile, or another's slot by now.
            if let Some(flow) = self.flows[slot as usize].as_mut().filter(|flow| !flow.wakes.is_empty()) {
                self.rest.wakes.push(flow.end.waking(std::mem::take(&mut flow.wakes)));
            }
        }
        for slot in self.touched_ports.drain(..) {
            let Some(port) = &mut self.ports[slot as usize] else { continue };
            port.handed += port.accepted.len() as u64;
            let accepted = std::mem::take(&mut port.accepted);
            let Some(end) = &mut port.end else { continue };
            if accepted.is_empty() {
                continue;
            }
            for flow in accepted {
                end.push(flow);
            }
            self.rest.backlogs.push(Arc::clone(end.backlog()));
        }
        if self.closing && self.rest.over.is_none() {
            self.end_if_idle();
        }
    }

    // Hints of the application.

    fn take_hints(&mut self) -> Result<(), Malformed> {
        let Some(intake) = &self.intake else { return Ok(()) };
        let (listeners, flows, closing) = (intake.listeners().take(), intake.flows().take(), intake.is_closing());
        for backlog in listeners {
            self.look_at_listener(&backlog);
        }
        for mailbox in flows {
            self.look_at_mailbox(&mailbox)?;
        }
        if closing && !self.closing {
            self.close()?;
        }
        Ok(())
    }

    fn look_at_mailbox(&mut self, mailbox: &Arc<Mailbox>) -> Result<(), Malformed> {
        if let Some(slot) = mailbox.slot() {
            // A stale hint: the flow is over, and its slot may be another's by now.
            let known = self.flows.get(slot as usize).and_then(Option::as_ref);
            return if known.is_some_and(|flow| Arc::ptr_eq(flow.end.mailbox(), mailbox)) {
                self.serve(slot)
            } else {
                Ok(())
            };
        }
        let Some(mut end) = Mailbox::claim_end(mailbox) else { return Ok(()) };
        let slot = match &mut self.side {
            _ if self.closing => Err(CloseReason::Shutdown),
            None => Err(CloseReason::DaemonGone),
            Some(side) => side.connect(mailbox.peer(), mailbox.options()).ok_or(CloseReason::NoRoom),
        };
        match slot {
            Ok(slot) => {
                end.set_slot(slot);
                self.flows[slot as usize] = Some(Flow::new(end));
                self.serve(slot)
            }
            Err(why) => {
                end.set_state(FlowState::CONNECTING.closed(why));
                self.rest.ended.push(end);
                Ok(())
            }
        }
    }

    /// Does what the application wants of a flow.
    fn serve(&mut self, slot: u32) -> Result<(), Malformed> {
        let Some(side) = &mut self.side else { return Ok(()) };
        let Some(flow) = &mut self.flows[slot as usize] else { return Ok(()) };
        let asks = flow.end.asks();
        if asks.has(Asks::PROGRESS) {
            let progress = side.progress(slot, asks.has(Asks::WAIT));
            flow.advance(slot, progress, &mut self.touched);
        }
        if asks.has(Asks::STATS) {
            flow.end.set_stats(&side.stats(slot));
        }
        let consumed = flow.end.consumed();
        if consumed >= flow.tell_at {
            flow.tell(side, slot, consumed);
        }
        // The intent before the outbox: a FIN seen here covers what is found there.
        let mut intent = flow.end.intent();
        if self.closing {
            intent = intent.with(Intent::FIN).with(Intent::STOP);
        }
        if intent.has(Intent::ABORT) {
            flow.held = None;
            while flow.end.take().is_some() {}
            self.underway.take_if(|(of, ..)| *of == slot);
        }
        // Messages into the pipe, until it is full, or the daemon takes no more of this flow.
        let mut left = flow.held.take().or_else(|| flow.end.take());
        while self.underway.is_none()
            && let Some(message) = left.take()
        {
            if !flow.has_room(side, slot, intent, &mut self.touched) {
                flow.held = Some(message);
                break;
            }
            flow.posted += cost_in_units(message.len());
            let mut from = 0;
            if side.put(slot, message.as_slice(), &mut from)? {
                left = flow.end.take();
            } else {
                self.underway = Some((slot, message, from));
            }
        }
        if let Some(message) = left {
            flow.held = Some(message);
        }
        let blocked = self.underway.is_some();
        if blocked || flow.held.is_some() {
            // FIN comes after the last message.
            intent = intent.without(Intent::FIN);
        }
        if blocked && !std::mem::replace(&mut flow.blocked, true) {
            self.blocked.push_back(slot);
        }
        flow.show_intent(side, slot, intent);
        Ok(())
    }

    /// There may be room in the pipe again. Flows take turns.
    fn go_on_sending(&mut self) -> Result<(), Malformed> {
        for _ in 0..=self.blocked.len() {
            if let (Some((slot, message, from)), Some(side)) = (&mut self.underway, &mut self.side) {
                if self.flows[*slot as usize].is_some() && !side.put(*slot, message.as_slice(), from)? {
                    return Ok(());
                }
                self.underway = None;
            }
            let Some(slot) = self.blocked.pop_front() else { return Ok(()) };
            if let Some(flow) = &mut self.flows[slot as usize] {
                flow.blocked = false;
                self.serve(slot)?;
            }
        }
        Ok(())
    }

    fn look_at_listener(&mut self, backlog: &Arc<Backlog>) {
        if let Some(slot) = backlog.slot() {
            let port = self.ports.get_mut(slot as usize).and_then(Option::as_mut);
            let port = port.filter(|port| port.end.as_ref().is_some_and(|end| Arc::ptr_eq(end.backlog(), backlog)));
            if let (Some(port), Some(side)) = (port, &mut self.side) {
                port.look(side, slot, &mut self.rest.unlistened);
            }
            self.waiting.retain(|end| !end.is_gone());
            return;
        }
        let Some(mut end) = Backlog::claim_end(backlog) else { return };
        if end.is_gone() {
            self.rest.unlistened.push(end);
        } else if self.closing {
            // Without a word it is the end of the endpoint.
            self.rest.unlistened.push(end);
        } else if self.side.is_none() {
            end.set_opened_quietly(Err(&gone()));
            self.rest.unlistened.push(end);
        } else {
            self.listen(end);
        }
    }

    fn listen(&mut self, mut end: BacklogProducer) {
        let Some(side) = &mut self.side else { return };
        let backlog = Arc::clone(end.backlog());
        // The port it had, if it had one before.
        let port = end.opened_at().map_or(backlog.port(), |address| address.port());
        if let Some((slot, generation)) = side.listen(port, backlog.limit(), backlog.options()) {
            end.set_slot(slot);
            self.ports[slot as usize] = Some(Port::new(end, generation));
        } else {
            let text = format!("the daemon opens at most {} listeners for an application", side.listeners());
            end.set_opened_quietly(Err(&io::Error::new(io::ErrorKind::ResourceBusy, text)));
            self.rest.unlistened.push(end);
        }
    }

    // What the daemon did.

    fn hear_of_flows(&mut self) -> Result<(), Malformed> {
        loop {
            let Some(side) = &mut self.side else { return Ok(()) };
            match side.next_note()? {
                Some(Note::Flow(slot)) => self.look_at_flow(slot)?,
                Some(Note::Accepted(slot)) => self.adopt(slot)?,
                Some(Note::Listener(slot)) => self.hear_of_listener(slot)?,
                None => return Ok(()),
            }
        }
    }

    fn look_at_flow(&mut self, slot: u32) -> Result<(), Malformed> {
        let (Some(side), Some(flow)) = (&mut self.side, &mut self.flows[slot as usize]) else { return Ok(()) };
        let view = side.flow(slot)?;
        flow.end.set_stats(&side.stats(slot));
        flow.apply(side, slot, &view, &mut self.touched);
        if flow.held.is_some() {
            self.serve(slot)?;
        }
        self.settle(slot);
        Ok(())
    }

    fn adopt(&mut self, slot: u32) -> Result<(), Malformed> {
        let (Some(side), Some(intake)) = (&mut self.side, &self.intake) else { return Ok(()) };
        let view = side.adopt(slot)?;
        let (mut end, send, recv) = Mailbox::accepted(intake, view.local, view.peer);
        end.set_slot(slot);
        self.flows[slot as usize] = Some(Flow::new(end));
        let (listener, generation) = view.listener;
        let port = self.ports[listener as usize].as_mut().filter(|port| port.generation == generation);
        match port.filter(|port| port.end.is_some()) {
            Some(port) => {
                port.accepted.push(Accepted { send, recv });
                self.touched_ports.push(listener);
            }
            // Nobody listens any more: dropped, the ends say so.
            None => drop((send, recv)),
        }
        self.look_at_flow(slot)
    }

    fn hear_of_listener(&mut self, slot: u32) -> Result<(), Malformed> {
        let (Some(side), Some(port)) = (&mut self.side, &mut self.ports[slot as usize]) else { return Ok(()) };
        match side.listener(slot)? {
            ListenerView::Opening => {}
            ListenerView::Listening(address) => port.open(address, &mut self.rest.backlogs),
            ListenerView::Refused(error) => {
                if let Some(mut end) = port.end.take() {
                    end.set_opened_quietly(Err(&error));
                    self.rest.unlistened.push(end);
                }
                if side.unlisten(slot) {
                    self.ports[slot as usize] = None;
                }
            }
            ListenerView::Released => self.ports[slot as usize] = None,
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Malformed> {
        loop {
            let Some(side) = &mut self.side else { return Ok(()) };
            match side.peek()? {
                Some(Incoming::Piece(piece)) => self.take(&piece),
                Some(Incoming::Accepted(slot)) => self.adopt(slot)?,
                None => return Ok(()),
            }
        }
    }

    fn take(&mut self, piece: &Piece) {
        let Some(side) = &mut self.side else { return };
        let Piece { slot, len, more, begins } = *piece;
        if begins {
            // Without what was given up in the middle. A message in pieces is taken for one as long as the last such, up to 1 MiB.
            self.gathered = Vec::with_capacity(if more { self.longest.max(2 * len) } else { len });
        }
        let from = self.gathered.len();
        self.gathered.resize(from + len, 0);
        side.take(piece, &mut self.gathered[from..]);
        if more {
            return;
        }
        if !begins {
            self.longest = self.gathered.len().min(1 << 20);
        }
        let message = Message::from(std::mem::take(&mut self.gathered));
        if let Some(flow) = &mut self.flows[slot as usize] {
            flow.end.deliver(message);
            flow.taken += 1;
            flow.touch(slot, Wakes::RX, &mut self.touched);
            self.settle(slot);
        }
    }

    /// Heeds the state, once all that it covers is in the inbox.
    fn settle(&mut self, slot: u32) {
        let (Some(side), Some(entry)) = (&mut self.side, self.flows.get_mut(slot as usize)) else { return };
        let Some(flow) = entry.as_mut().filter(|flow| flow.taken >= flow.delivered) else { return };
        if flow.end.mailbox().state() != flow.state {
            flow.end.set_state(flow.state);
            flow.touch(slot, Wakes::ALL, &mut self.touched);
        }
        if flow.released {
            side.done(slot);
            self.rest.ended.extend(entry.take().map(|flow| flow.end));
            self.underway.take_if(|(of, ..)| *of == slot);
        }
    }

    // The end.

    /// The endpoint ends: as if the application had dropped its flows and listeners.
    fn close(&mut self) -> Result<(), Malformed> {
        self.closing = true;
        for slot in 0..self.flows.len() as u32 {
            if self.flows[slot as usize].is_some() {
                self.serve(slot)?;
            }
        }
        for slot in 0..self.ports.len() as u32 {
            if let (Some(port), Some(side)) = (&mut self.ports[slot as usize], &mut self.side) {
                port.unlisten(side, slot, &mut self.rest.unlistened);
            }
        }
        self.rest.unlistened.append(&mut self.waiting);
        Ok(())
    }

    /// True if there are flows or listeners.
    fn is_used(&self) -> bool {
        self.flows.iter().any(Option::is_some) || self.ports.iter().any(Option::is_some)
    }

    fn end_if_idle(&mut self) {
        if self.side.is_none() || !self.is_used() {
            self.side = None;
            self.rest.over = Some((self.line.clone(), Over::Finished));
            self.rest.closed = self.intake.take();
        }
    }

    /// The daemon is gone. Everybody who waits is told.
    fn lose(&mut self, why: Over) {
        let reason = if why == Over::Silent { CloseReason::DaemonSilent } else { CloseReason::DaemonGone };
        if self.side.take().is_none() {
            return;
        }
        self.touched.clear();
        self.touched_ports.clear();
        self.underway = None;
        self.blocked.clear();
        self.gathered = Vec::new();
        for flow in &mut self.flows {
            if let Some(Flow { mut end, .. }) = flow.take() {
                // What was heeded: of the rest something is missing.
                let state = end.mailbox().state();
                if !state.has(FlowState::CLOSED) {
                    end.set_state(state.closed(reason));
                }
                self.rest.ended.push(end);
            }
        }
        for port in &mut self.ports {
            let Some(Port { end: Some(mut end), opened, .. }) = port.take() else { continue };
            if self.afterwards == Afterwards::Reattaches && !self.closing {
                self.waiting.push(end);
            } else {
                if !opened {
                    end.set_opened_quietly(Err(&gone()));
                }
                self.rest.unlistened.push(end);
            }
        }
        self.rest.over = Some((self.line.clone(), why));
        if self.closing {
            self.rest.closed = self.intake.take();
        }
    }
}
