//! One application: what is known of it, what it sent, and what waits for it.

use std::collections::VecDeque;

use machnet_channel::shared::{DaemonSide, Piece};
use machnet_channel::{Message, UNIT, Words, cost_in_units};

use std::sync::Arc;

use super::account::Account;
use super::gate::{Arrival, Counters, Ended, Quota};
use super::shares::Share;
use super::store::Store;

/// No flow.
pub(super) const NONE: u32 = u32::MAX;

/// Messages up to so many bytes that wait are moved to the heap, whose use windows bound. Longer ones keep the buffer they came in,
/// of which whoever does not read gets no more.
const MOVED: usize = 64 << 10;
/// What is believed of a message in several pieces at most, before more of it came.
const LONGEST: usize = 1 << 20;
/// What any flow may have underway, however much others of its application have: units.
const LEAST_ROOM: u64 = 4096 / UNIT;

/// An application.
#[derive(Debug)]
pub(super) struct Tenant<W> {
    pub(super) id: u64,
    /// `None` once it is no longer served.
    pub(super) side: Option<Box<DaemonSide<W>>>,
    pub(super) quota: Quota,
    /// What it uses at all engines; what follows is its share here.
    pub(super) account: Arc<Account>,
    engine: u8,
    /// The engine's name for the flow in each slot, and for each listener.
    pub(super) flows: Box<[u32]>,
    pub(super) listeners: Box<[u32]>,
    open_flows: u32,
    pub(super) open_listeners: u32,
    pub(super) max_message: u32,
    /// Units taken and not acknowledged, in whole messages.
    held: u64,
    /// Units that its flows were given room for, and that are not acknowledged.
    promised: u64,
    /// The beginning of a message in several pieces.
    partial: Vec<u8>,
    /// How long the last such message was.
    longest: usize,
    /// Received messages that wait for room in its pipe, each with the slot of its flow, and how far the first is in.
    waiting: VecDeque<(u32, Message)>,
    from: usize,
    waiting_bytes: u64,
    /// What waits has room, and was left for the next round.
    pub(super) more_to_put: bool,
    /// What it sent is left in its pipe: there is no memory for so many bytes.
    lacks: Option<u64>,
    /// Something was done that it is to be shown at the end of the round: it is in the list of those.
    pub(super) is_dirty: bool,
    /// Something was done that it must be shown.
    shows: bool,
    /// Bytes that it may still have taken in this rotation.
    pub(super) deficit: i64,
    /// What was done for it lately.
    pub(super) share: Share,
    /// It did something since the engine slept.
    pub(super) did: bool,
    pub(super) counters: Counters,
}

/// What was taken from a pipe.
pub(super) enum Taken {
    /// A message, whole.
    Message(Message),
    /// A part of one.
    Part,
}

impl<W: Words + Clone> Tenant<W> {
    pub(super) fn new(arrival: Arrival<W>) -> Self {
        let Arrival { id, side, slots: (flows, listeners), max_message, quota, account, engine } = arrival;
        Self {
            id,
            side: Some(Box::new(side)),
            quota,
            account,
            engine,
            flows: vec![NONE; 2 * flows as usize].into(),
            listeners: vec![NONE; listeners as usize].into(),
            open_flows: 0,
            open_listeners: 0,
            max_message,
            held: 0,
            promised: 0,
            partial: Vec::new(),
            longest: 0,
            waiting: VecDeque::new(),
            from: 0,
            waiting_bytes: 0,
            more_to_put: false,
            lacks: None,
            is_dirty: false,
            shows: false,
            deficit: 0,
            share: Share::NEW,
            did: false,
            counters: Counters::default(),
        }
    }

    /// True if the engine may forget it.
    pub(super) const fn is_over(&self) -> bool {
        self.side.is_none() && self.open_flows == 0 && self.open_listeners == 0
    }

    /// It is no longer served: forgets what it sent and what waits for it.
    pub(super) fn end(&mut self) -> Option<Box<DaemonSide<W>>> {
        self.partial = Vec::new();
        self.waiting = VecDeque::new();
        self.set_waiting(0);
        (self.more_to_put, self.lacks) = (false, None);
        self.side.take()
    }

    /// True if it may open another flow, or accept one: not while more waits for it to read than its quota of memory.
    pub(super) fn takes_flows(&self) -> bool {
        let (flows, waiting) = (self.account.flows.get(), self.account.waiting.get());
        flows < self.quota.flows as u64 && waiting <= self.quota.memory
    }

    /// True if it may have another listener.
    pub(super) fn takes_listeners(&self) -> bool {
        self.account.listeners.get() < u64::from(self.quota.listeners)
    }

    pub(super) const fn open_flows(&self) -> u32 {
        self.open_flows
    }

    pub(super) const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    pub(super) fn set_open_flows(&mut self, flows: u32) {
        self.account.flows.change(self.open_flows.into(), flows.into());
        self.open_flows = flows;
    }

    fn set_waiting(&mut self, bytes: u64) {
        self.account.waiting.change(self.waiting_bytes, bytes);
        self.waiting_bytes = bytes;
    }

    fn set_held(&mut self, held: u64) {
        self.account.held.change(self.held, held);
        let less = held < self.held;
        self.held = held;
        if less {
            self.account.feed();
        }
    }

    /// Units that it had sent were acknowledged, or given up.
    pub(super) fn let_go(&mut self, units: u64) {
        self.set_held(self.held.saturating_sub(units));
    }

    /// A flow is over that had room for so many units which were not acknowledged.
    pub(super) fn take_back(&mut self, room: u64) {
        self.set_promised(self.promised.saturating_sub(room));
    }

    fn set_promised(&mut self, promised: u64) {
        self.account.promised.change(self.promised, promised);
        self.promised = promised;
    }

    /// True if there is memory for `len` bytes more. One message always fits: none is longer than the quota.
    fn has_memory(&self, len: u64) -> bool {
        let held = self.account.held.get();
        held == 0 || held * UNIT + self.partial.len() as u64 + len <= self.quota.memory
    }

    /// Bytes that it has sent and that were not acknowledged.
    pub(super) const fn held_bytes(&self) -> u64 {
        self.held * UNIT + self.partial.len() as u64
    }

    /// The next piece that it sent, if there is memory for it.
    pub(super) fn peek(&mut self) -> Result<Option<Piece>, Ended> {
        self.lacks = None;
        let Some(side) = &mut self.side else { return Ok(None) };
        let piece = side.peek().map_err(Ended::Malformed)?;
        // Pieces of flows that are over were dropped on the way, which leaves room.
        self.shows = true;
        let Some(piece) = piece else { return Ok(None) };
        if piece.begins {
            // What was begun before was given up.
            self.partial.clear();
        }
        if !self.has_memory(piece.len as u64) {
            self.lacks = Some(piece.len as u64);
            return Ok(None);
        }
        Ok(Some(piece))
    }

    /// Takes the piece that [`Tenant::peek`] showed.
    pub(super) fn take(&mut self, piece: Piece, store: &mut Store) -> Result<Taken, Ended> {
        let Piece { len, more, begins, .. } = piece;
        let Some(side) = &mut self.side else { return Ok(Taken::Part) };
        let message = if begins && !more {
            store.message(len, |bytes| side.take(bytes)).map_err(Ended::Malformed)?
        } else {
            if begins {
                // Without moving it piece by piece: taken for one as long as the last such.
                self.partial.reserve(self.longest.max(2 * len));
            }
            let at = self.partial.len();
            self.partial.resize(at + len, 0);
            side.take(&mut self.partial[at..]).map_err(Ended::Malformed)?;
            if more {
                return Ok(Taken::Part);
            }
            self.longest = self.partial.len().min(LONGEST);
            std::mem::take(&mut self.partial).into()
        };
        self.set_held(self.held + cost_in_units(message.len()));
        self.counters.messages_taken += 1;
        self.counters.bytes_taken += message.len() as u64;
        Ok(Taken::Message(message))
    }

    /// True if something was done since the last call that it must be shown.
    pub(super) const fn shows_something(&mut self) -> bool {
        std::mem::replace(&mut self.shows, false)
    }

    /// How far a flow may post that has `acknowledged` and was given `room` before, if its engine takes up to `most`.
    ///
    /// A quarter of what no flow of the application was promised, so that there is always some left for the next one, and
    /// never nothing. Room is not taken back.
    pub(super) fn room(&mut self, room: u64, was_acknowledged: u64, acknowledged: u64, most: u64) -> u64 {
        let promised = self.promised.saturating_sub(room.saturating_sub(was_acknowledged));
        let others = self.account.promised.get().saturating_sub(self.promised);
        let free = (self.quota.memory / UNIT).saturating_sub(promised + others);
        let room = room.max(acknowledged + most.saturating_sub(acknowledged).min((free / 4).max(LEAST_ROOM)));
        self.set_promised(promised + (room - acknowledged));
        room
    }

    /// Hands over a message: into the pipe, or behind those that wait for room in it.
    pub(super) fn deliver(&mut self, slot: u32, message: Message) -> Result<(), Ended> {
        let Some(side) = &mut self.side else { return Ok(()) };
        side.count_delivered(slot, message.len());
        self.shows = true;
        self.counters.messages_put += 1;
        self.counters.bytes_put += message.len() as u64;
        if self.waiting.is_empty() {
            let mut from = 0;
            if side.put(slot, message.as_slice(), &mut from).map_err(Ended::Malformed)? {
                return Ok(());
            }
            self.from = from;
        }
        self.set_waiting(self.waiting_bytes + message.len() as u64);
        // Frames are the vNIC's or shared with others who receive: what waits for long must not hold them.
        let message = if message.len() <= MOVED { message.as_slice().to_vec().into() } else { message };
        self.waiting.push_back((slot, message));
        Ok(())
    }

    /// Puts what waits into the pipe, as far as there is room, and no more once it was `most` bytes. Returns how much, and
    /// whether less waits than before.
    pub(super) fn put_waiting(&mut self, most: usize) -> Result<(usize, bool), Ended> {
        self.more_to_put = false;
        let Some(side) = &mut self.side else { return Ok((0, false)) };
        let (mut put, mut less) = (0, 0);
        while let Some((slot, message)) = self.waiting.front() {
            if put >= most {
                self.more_to_put = true;
                break;
            }
            let before = self.from;
            let done = side.put(*slot, message.as_slice(), &mut self.from).map_err(Ended::Malformed)?;
            put += self.from - before + usize::from(done);
            if !done {
                break;
            }
            less += message.len() as u64;
            self.from = 0;
            self.waiting.pop_front();
        }
        self.set_waiting(self.waiting_bytes - less);
        self.shows |= put > 0;
        Ok((put, less > 0))
    }

    /// The engine wants to sleep: asks to be rung.
    pub(super) fn arm(&mut self) {
        let room = !self.waiting.is_empty();
        if self.lacks.is_some() {
            self.account.hunger(self.engine);
        }
        if let Some(side) = &mut self.side {
            side.arm(room);
        }
    }

    /// True if there is something to do for it.
    pub(super) fn has_work(&self) -> bool {
        let Some(side) = &self.side else { return false };
        let takes = self.lacks.is_none_or(|len| self.has_memory(len));
        self.more_to_put || side.has_work(takes) || (!self.waiting.is_empty() && side.has_room())
    }
}
