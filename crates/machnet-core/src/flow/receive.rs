//! What a flow has received and not yet delivered (`docs/spec/flow.md#receiving`).

use std::collections::VecDeque;

use machnet_channel::{Chunks, Frame, FrameRef, Message, UNIT, cost_in_units};

use super::partial::{Partial, Put};
use super::units::UnitSet;

/// How sure a message is to give its memory back, and so how much of what is left it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// It waits behind a hole, and gives nothing back until that is filled.
    Later,
    /// It is the next to deliver, but the application has not read what it has: perhaps it never will.
    Unread,
    /// It is the next, and everything before it was read.
    Next,
}

/// Where received bytes may stay: given by the engine.
pub(crate) trait Store {
    /// Keeps the `payload` of a whole message, which lies in `packet`: lends it or copies it. `None`: no memory.
    fn keep(&mut self, packet: &FrameRef, payload: &[u8], need: Need) -> Option<Message>;

    /// A frame for the list of the parts of a message of `total` bytes that comes in such of `len`, if it may stay in its packets.
    fn chain(&mut self, total: u32, len: u32) -> Option<Frame> {
        let _ = (total, len);
        None
    }

    /// Whether a part of `len` bytes, with which its message may `end`, may stay in its packet, beside `parts` others.
    fn keeps(&self, len: u32, parts: u32, ends: bool) -> bool {
        let _ = (len, parts, ends);
        false
    }

    /// A long message of somebody who takes it in pieces stayed in its packets, or did not.
    fn note_chain(&mut self, stayed: bool) {
        let _ = stayed;
    }

    /// A frame of at least `len` bytes, to reassemble a message in. `None`: no memory.
    fn buffer(&mut self, len: u32, need: Need) -> Option<Frame>;

    /// The empty set over a message of `len` bytes, of recycled memory.
    fn units(&mut self, len: u32) -> Box<UnitSet>;

    /// Takes back what [`Store::units`] gave. Only to recycle it: it may as well be dropped.
    fn recycle(&mut self, units: Box<UnitSet>);
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Stored {
    /// Stored, or had been before: the packet may be acknowledged.
    Yes,
    /// There was no memory: the packet must not be acknowledged, it will come again.
    NoMemory,
    /// The peer broke the protocol: beyond its credit, beyond its FIN, or contradicting itself.
    Violation(&'static str),
    /// The message is larger than we take.
    TooLarge,
}

/// A message that is not delivered yet.
#[derive(Debug)]
enum Slot {
    Complete(Chunks),
    Partial(Partial),
}

#[derive(Debug)]
pub(crate) struct ReceiveQueue {
    /// Id of the next message to deliver.
    next: u32,
    /// From `next` on, to the last of which something is there. However far ahead a peer may begin: each costs it a unit of
    /// credit, and us less than that.
    slots: VecDeque<Option<Slot>>,
    /// How many are not missing, and how many are complete before the first that is not.
    present: u32,
    ready: u32,
    /// Cost of what the slots hold: see [`ReceiveQueue::cost`].
    held: u64,
    /// Bytes of the frames that partial messages are reassembled in.
    partials: u64,
    /// Cumulative cost of everything delivered.
    delivered: u64,
    /// Of that, what the application has read, as far as is known.
    read: u64,
    /// Cumulative cost that the peer may send.
    limit: u64,
    /// Where the stream ends, if that is known.
    fin: u32,
    has_fin: bool,
    /// The oldest message found no buffer: its id and length.
    wanted: Option<(u32, u32)>,
    max_message: u32,
    /// The application reads no more: everything is acknowledged and dropped.
    stopped: bool,
    /// The application takes messages in pieces.
    chunked: bool,
    pub(crate) messages_received: u64,
    pub(crate) bytes_received: u64,
}

impl ReceiveQueue {
    pub(crate) const fn new(limit: u64, max_message: u32) -> Self {
        Self {
            next: 0,
            slots: VecDeque::new(),
            present: 0,
            ready: 0,
            held: 0,
            partials: 0,
            delivered: 0,
            read: 0,
            limit,
            fin: 0,
            has_fin: false,
            wanted: None,
            max_message,
            stopped: false,
            chunked: false,
            messages_received: 0,
            bytes_received: 0,
        }
    }

    const fn need(&self, id: u32) -> Need {
        match id.wrapping_sub(self.next) {
            0 if self.is_read() => Need::Next,
            // Nothing is missing before it: it is delivered with those, once they are read the next to be read.
            place if place <= self.ready => Need::Unread,
            _ => Need::Later,
        }
    }

    /// Cumulative cost of what the application has read, as far as is known.
    pub(crate) const fn read(&self) -> u64 {
        self.read
    }

    /// The application has read so much.
    pub(crate) const fn set_read(&mut self, read: u64) {
        self.read = read;
    }

    /// True if the application has read all that was delivered.
    pub(crate) const fn is_read(&self) -> bool {
        self.delivered <= self.read
    }

    /// Raises the credit; it never falls.
    pub(crate) fn raise_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// Stores a whole message.
    pub(crate) fn whole(&mut self, id: u32, payload: &[u8], packet: &FrameRef, store: &mut impl Store) -> Stored {
        match self.admit(id, payload.len(), payload.len()) {
            Admit::Known => return Stored::Yes,
            Admit::Refused(stored) => return stored,
            Admit::New => {}
        }
        let place = self.place(id);
        if self.at(place).is_some() {
            return self.whole_again(place, payload, packet, store);
        }
        let need = self.need(id);
        let Some(message) = store.keep(packet, payload, need) else {
            if need != Need::Later {
                self.wanted = Some((id, payload.len() as u32));
            }
            return Stored::NoMemory;
        };
        self.insert(place, Slot::Complete(message.into()));
        Stored::Yes
    }

    /// A whole message whose slot is there: a duplicate, or one whose buffer was reserved when it came before.
    fn whole_again(&mut self, place: usize, payload: &[u8], packet: &FrameRef, store: &mut impl Store) -> Stored {
        match &self.slots[place] {
            None | Some(Slot::Complete(_)) => Stored::Yes,
            Some(Slot::Partial(partial)) if partial.total as usize != payload.len() => {
                Stored::Violation("two totals for one message")
            }
            Some(Slot::Partial(_)) if payload.is_empty() => {
                self.complete(place, store);
                Stored::Yes
            }
            // It came in parts, for it was cut anew for shorter packets; or not at all yet.
            Some(Slot::Partial(_)) => self.put(place, (0, payload.len() as u32), payload, packet, store),
        }
    }

    /// Stores a part of a message, checked by [`crate::wire`] in itself.
    pub(crate) fn part(
        &mut self,
        id: u32,
        (offset, total): (u32, u32),
        payload: &[u8],
        packet: &FrameRef,
        store: &mut impl Store,
    ) -> Stored {
        let end = offset as usize + payload.len();
        match self.admit(id, end, total as usize) {
            Admit::Known => return Stored::Yes,
            Admit::Refused(stored) => return stored,
            Admit::New => {}
        }
        let place = self.place(id);
        if self.at(place).is_none() {
            if self.chunked
                && let Some(partial) = Partial::kept((offset, total), payload, packet, store)
            {
                return self.begin_kept(place, partial, store);
            }
            let Some(frame) = self.buffer(place, total, store) else { return Stored::NoMemory };
            self.begin_in(place, total, frame, store);
        }
        self.put(place, (offset, total), payload, packet, store)
    }

    fn begin_kept(&mut self, place: usize, partial: Partial, store: &mut impl Store) -> Stored {
        let is_full = partial.is_full();
        self.insert(place, Slot::Partial(partial));
        if is_full {
            self.complete(place, store);
        }
        Stored::Yes
    }

    fn begin_in(&mut self, place: usize, total: u32, frame: Frame, store: &mut impl Store) {
        if self.chunked {
            store.note_chain(false);
        }
        let partial = Partial::copied(total, frame, store);
        self.partials += partial.buffer_len();
        self.insert(place, Slot::Partial(partial));
    }

    /// A buffer for the message at `place`. `None`: no memory.
    fn buffer(&mut self, place: usize, total: u32, store: &mut impl Store) -> Option<Frame> {
        let id = self.next.wrapping_add(place as u32);
        let need = self.need(id);
        let frame = store.buffer(total, need);
        if frame.is_none() && need != Need::Later {
            self.wanted = Some((id, total));
        }
        frame
    }

    /// Stores a part of the message at `place`, which has begun.
    fn put(
        &mut self,
        place: usize,
        (offset, total): (u32, u32),
        payload: &[u8],
        packet: &FrameRef,
        store: &mut impl Store,
    ) -> Stored {
        let is_last = place + 1 == self.slots.len();
        let partial = match &mut self.slots[place] {
            Some(Slot::Partial(partial)) if partial.total == total => partial,
            Some(Slot::Complete(message)) if message.len() == total as usize => return Stored::Yes,
            _ => return Stored::Violation("two totals for one message"),
        };
        let before = partial.end;
        if partial.put(offset, payload, packet, store) == Put::NeedsBuffer {
            if !partial.is_kept() {
                return Stored::NoMemory;
            }
            let Some(frame) = self.buffer(place, total, store) else { return Stored::NoMemory };
            self.copy_into(place, frame, store);
            return self.put(place, (offset, total), payload, packet, store);
        }
        let (end, is_full) = (partial.end, partial.is_full());
        if partial.is_kept() && place == 0 {
            // It goes on without the buffer that it found none of.
            self.wanted = None;
        }
        if is_last {
            // What is not the last was charged in full: see `cost`.
            self.held += cost_in_units(end as usize) - cost_in_units(before as usize);
        }
        if is_full {
            self.complete(place, store);
        }
        Stored::Yes
    }

    /// The message at `place` leaves its packets.
    fn copy_into(&mut self, place: usize, frame: Frame, store: &mut impl Store) {
        if let Some(Some(Slot::Partial(partial))) = self.slots.get_mut(place) {
            partial.copy_into(frame, store);
            self.partials += partial.buffer_len();
            store.note_chain(false);
        }
    }

    fn insert(&mut self, place: usize, slot: Slot) {
        self.present += 1;
        if place == self.slots.len() && !matches!(self.slots.back(), Some(Some(Slot::Partial(_)))) {
            // In order, and nothing before it counts otherwise for that: mostly.
            self.ready += u32::from(place == self.ready as usize && matches!(slot, Slot::Complete(_)));
            self.slots.push_back(Some(slot));
            self.held += self.cost(place);
            return;
        }
        // What was the last is no longer, and counts in full.
        let last = self.slots.len().checked_sub(1).filter(|&last| last < place);
        let before = last.map_or(0, |last| self.cost(last));
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, || None);
        }
        self.slots[place] = Some(slot);
        self.held += self.cost(place) + last.map_or(0, |last| self.cost(last)) - before;
        self.note_ready(place);
    }

    /// The slot at `place` may be complete now.
    fn note_ready(&mut self, place: usize) {
        if place == self.ready as usize {
            let complete = self.slots.range(place..).take_while(|slot| matches!(slot, Some(Slot::Complete(_))));
            self.ready += complete.count() as u32;
        }
    }

    /// Every byte of the message at `place` is there.
    fn complete(&mut self, place: usize, store: &mut impl Store) {
        let before = self.cost(place);
        let slot = &mut self.slots[place];
        match slot.take() {
            Some(Slot::Partial(partial)) => {
                self.partials -= partial.buffer_len();
                if partial.is_kept() {
                    store.note_chain(true);
                }
                *slot = Some(Slot::Complete(partial.finish(store)));
            }
            other => *slot = other,
        }
        self.held += self.cost(place) - before;
        self.note_ready(place);
    }

    /// What the sender was charged for a message at least. It sends one message after the other, so whatever is not the
    /// last was charged in full, and the last up to what was seen of it.
    fn cost(&self, place: usize) -> u64 {
        cost_in_units(match self.at(place) {
            None => return 0,
            Some(Slot::Complete(message)) => message.len(),
            Some(Slot::Partial(partial)) if place + 1 == self.slots.len() => partial.end as usize,
            Some(Slot::Partial(partial)) => partial.total as usize,
        })
    }

    /// Bytes of frames that messages are reassembled in: the flow's next message, and others.
    pub(crate) fn reassembling(&self) -> [u64; 2] {
        if self.partials == 0 {
            return [0; 2];
        }
        let oldest = match self.at(0) {
            Some(Slot::Partial(partial)) => partial.buffer_len(),
            _ => 0,
        };
        [oldest, self.partials - oldest]
    }

    /// The length of the oldest message, if that came and found no buffer.
    pub(crate) fn wanted(&self) -> Option<u32> {
        let (id, total) = self.wanted?;
        let has_none = match self.at(0) {
            None => true,
            Some(Slot::Partial(partial)) => partial.is_kept(),
            Some(Slot::Complete(_)) => false,
        };
        (id == self.next && has_none && !self.stopped).then_some(total)
    }

    /// True if something arrived that cannot be delivered, because something else did not.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.slots.is_empty() || self.wanted().is_some()
    }

    /// Gives the oldest message the buffer it [`wanted`](ReceiveQueue::wanted).
    pub(crate) fn reserve(&mut self, frame: Frame, store: &mut impl Store) {
        if let Some(total) = self.wanted() {
            if self.at(0).is_none() {
                self.begin_in(0, total, frame, store);
            } else {
                self.copy_into(0, frame, store);
            }
        }
        self.wanted = None;
    }

    /// The cumulative cost at the end of the oldest message, if it has its buffer, or needs none: so much the peer may send, whatever
    /// the window, or the message could never finish.
    pub(crate) fn reserved(&self) -> u64 {
        match self.at(0) {
            Some(Slot::Partial(partial)) => self.delivered + cost_in_units(partial.total as usize),
            _ => 0,
        }
    }

    /// The peer says that no message from `next` on will come.
    pub(crate) fn fin(&mut self, next: u32) -> Stored {
        if self.has_fin && self.fin != next {
            return Stored::Violation("two different FINs");
        }
        let distance = next.wrapping_sub(self.next);
        // Behind what was delivered, or before something that is here, or absurdly far.
        if distance > u32::MAX / 2 || self.slots.len() > distance as usize {
            return Stored::Violation("a FIN before the last message");
        }
        (self.fin, self.has_fin) = (next, true);
        Stored::Yes
    }

    /// True once FIN arrived and everything before it was delivered, or nobody reads any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.has_fin && (self.fin == self.next || self.stopped)
    }

    /// True once FIN arrived and everything before it was delivered.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_fin && self.fin == self.next
    }

    /// True once FIN arrived.
    pub(crate) const fn has_fin(&self) -> bool {
        self.has_fin
    }

    /// The next message, if it is complete.
    pub(crate) fn pop(&mut self) -> Option<Chunks> {
        if !matches!(self.slots.front(), Some(Some(Slot::Complete(_)))) {
            return None;
        }
        let Some(Some(Slot::Complete(message))) = self.slots.pop_front() else { return None };
        self.present -= 1;
        self.ready -= 1;
        let cost = cost_in_units(message.len());
        self.next = self.next.wrapping_add(1);
        self.held -= cost;
        self.delivered += cost;
        self.messages_received += 1;
        self.bytes_received += message.len() as u64;
        Some(message)
    }

    /// Gives back memory that nothing is in.
    pub(crate) fn shed(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }

    /// The application takes messages in pieces from now on.
    pub(crate) const fn take_chunks(&mut self) {
        self.chunked = true;
    }

    /// The application reads no more.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.slots = VecDeque::new();
        (self.present, self.ready) = (0, 0);
        self.held = 0;
        self.partials = 0;
    }

    /// Checks a chunk against what is known, its credit and the limits. `end` is where its payload ends.
    fn admit(&mut self, id: u32, end: usize, total: usize) -> Admit {
        let distance = id.wrapping_sub(self.next);
        if distance > u32::MAX / 2 || self.stopped {
            return Admit::Known;
        }
        if total > self.max_message as usize {
            return Admit::Refused(Stored::TooLarge);
        }
        if self.has_fin && distance >= self.fin.wrapping_sub(self.next) {
            return Admit::Refused(Stored::Violation("a message after FIN"));
        }
        // The least that the stream up to here can cost: what was delivered, what is held, and 1 for each message that
        // is missing.
        let (place, len) = (distance as usize, self.slots.len());
        let (held, present) = match self.at(place) {
            Some(_) => (self.held + cost_in_units(end).saturating_sub(self.cost(place)), u64::from(self.present)),
            // In front of another: charged in full.
            None if place < len => (self.held + cost_in_units(total), u64::from(self.present) + 1),
            None => {
                let completed = match self.slots.back() {
                    Some(Some(Slot::Partial(partial))) => cost_in_units(partial.total as usize) - self.cost(len - 1),
                    _ => 0,
                };
                (self.held + completed + cost_in_units(end), u64::from(self.present) + 1)
            }
        };
        let missing = len.max(place + 1) as u64 - present;
        if self.delivered + held + missing > self.limit {
            return Admit::Refused(Stored::Violation("a message beyond the credit"));
        }
        Admit::New
    }

    /// Where the slot of `id`, which is not delivered, belongs.
    const fn place(&self, id: u32) -> usize {
        id.wrapping_sub(self.next) as usize
    }

    fn at(&self, place: usize) -> Option<&Slot> {
        self.slots.get(place)?.as_ref()
    }
}

const _: () = assert!(size_of::<Option<Slot>>() <= UNIT as usize);

enum Admit {
    New,
    /// Delivered long ago, or nobody wants it.
    Known,
    Refused(Stored),
}

#[cfg(test)]
mod tests {
    use machnet_channel::Region;
    use proptest::prelude::*;

    use super::*;

    struct Heap {
        pool: machnet_channel::FramePool,
        /// Frames of packets, and of lists of those; and whether parts may stay in them.
        packets: machnet_channel::FramePool,
        lists: machnet_channel::FramePool,
        lends: bool,
        refuse: bool,
        needs: Vec<Need>,
        chains: [u32; 2],
    }

    impl Heap {
        fn new() -> Self {
            let pool = |size, count| Region::anonymous(size, count).unwrap().1;
            Self {
                pool: pool(32 << 10, 64),
                packets: pool(2048, 256),
                lists: pool(1024, 64),
                lends: false,
                refuse: false,
                needs: Vec::new(),
                chains: [0; 2],
            }
        }

        fn is_home(&self) -> bool {
            (self.pool.free(), self.packets.free(), self.lists.free()) == (64, 256, 64)
        }
    }

    impl Store for Heap {
        fn keep(&mut self, _: &FrameRef, payload: &[u8], need: Need) -> Option<Message> {
            self.needs.push(need);
            (!self.refuse).then(|| payload.to_vec().into())
        }
        fn chain(&mut self, total: u32, len: u32) -> Option<Frame> {
            if self.lends { self.lists.take() } else { None }.filter(|_| total.div_ceil(len) < 60)
        }
        fn keeps(&self, _: u32, _: u32, _: bool) -> bool {
            self.lends
        }
        fn note_chain(&mut self, stayed: bool) {
            self.chains[usize::from(!stayed)] += 1;
        }
        fn buffer(&mut self, _: u32, _: Need) -> Option<Frame> {
            if self.refuse { None } else { self.pool.take() }
        }
        fn units(&mut self, len: u32) -> Box<UnitSet> {
            Box::new(UnitSet::new(len))
        }
        fn recycle(&mut self, _: Box<UnitSet>) {}
    }

    fn packet() -> FrameRef {
        Region::anonymous(64, 1).unwrap().1.take().unwrap().share(0..0)
    }

    fn whole(queue: &mut ReceiveQueue, id: u32, payload: &[u8], heap: &mut Heap) -> Stored {
        queue.whole(id, payload, &packet(), heap)
    }

    fn part(queue: &mut ReceiveQueue, id: u32, offset: u32, total: u32, payload: &[u8], heap: &mut Heap) -> Stored {
        let mut frame = heap.packets.take().unwrap();
        frame.bytes_mut().unwrap()[10..10 + payload.len()].copy_from_slice(payload);
        let packet = frame.share(0..20 + payload.len() as u32);
        queue.part(id, (offset, total), &packet.as_ref()[10..10 + payload.len()], &packet, heap)
    }

    fn pop(queue: &mut ReceiveQueue) -> Option<Message> {
        queue.pop().map(Chunks::into_message)
    }

    #[test]
    fn delivers_in_order_whatever_the_order_of_arrival() {
        let mut heap = Heap::new();
        let mut queue = ReceiveQueue::new(1000, 1 << 20);
        let large: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
        assert_eq!(whole(&mut queue, 2, b"c", &mut heap), Stored::Yes);
        assert_eq!(part(&mut queue, 1, 128, 300, &large[128..], &mut heap), Stored::Yes);
        assert_eq!(queue.fin(3), Stored::Yes);
        assert!(queue.pop().is_none() && !queue.is_ended());
        assert_eq!(whole(&mut queue, 0, b"a", &mut heap), Stored::Yes);
        assert_eq!(pop(&mut queue).unwrap(), b"a");
        assert!(queue.pop().is_none());
        assert_eq!(part(&mut queue, 1, 128, 300, &large[128..], &mut heap), Stored::Yes, "a duplicate");
        assert_eq!(part(&mut queue, 1, 0, 300, &large[..128], &mut heap), Stored::Yes);
        assert_eq!(pop(&mut queue).unwrap(), large);
        assert_eq!(pop(&mut queue).unwrap(), b"c");
        assert!(queue.is_ended());
        assert_eq!(whole(&mut queue, 1, b"late", &mut heap), Stored::Yes, "delivered long ago");
        assert_eq!((queue.messages_received, queue.bytes_received), (3, 302));
        assert_eq!(heap.pool.free(), 64);
    }

    #[test]
    fn without_memory_nothing_is_stored_and_nothing_counts() {
        let mut heap = Heap::new();
        let mut queue = ReceiveQueue::new(10, 1 << 20);
        heap.refuse = true;
        assert_eq!(part(&mut queue, 0, 0, 128, &[0; 64], &mut heap), Stored::NoMemory);
        assert_eq!(whole(&mut queue, 1, b"x", &mut heap), Stored::NoMemory);
        assert_eq!((queue.held, queue.slots.len()), (0, 0));
        assert_eq!(queue.wanted(), Some(128));
        let frame = heap.pool.take().unwrap();
        queue.reserve(frame, &mut heap);
        assert_eq!((queue.wanted(), queue.reserved()), (None, 3));
        assert_eq!(part(&mut queue, 0, 0, 128, &[0; 64], &mut heap), Stored::Yes, "its buffer was reserved");
        assert_eq!(part(&mut queue, 0, 64, 128, &[0; 64], &mut heap), Stored::Yes);
        assert_eq!((queue.pop().unwrap().len(), queue.reserved()), (128, 0));
        // The same for a message that comes whole.
        assert_eq!(whole(&mut queue, 1, b"x", &mut heap), Stored::NoMemory);
        assert_eq!(queue.wanted(), Some(1));
        let frame = heap.pool.take().unwrap();
        queue.reserve(frame, &mut heap);
        assert_eq!(whole(&mut queue, 1, b"x", &mut heap), Stored::Yes);
        assert_eq!(pop(&mut queue).unwrap(), b"x");
        assert_eq!((queue.held, queue.slots.len()), (0, 0));
    }

    /// Many small messages in a packet, and none missing before them: they wait for no hole, and none is refused as if it did.
    #[test]
    fn messages_in_a_row_are_not_behind_a_hole() {
        let mut heap = Heap::new();
        let mut queue = ReceiveQueue::new(1000, 1 << 20);
        for id in [0, 1, 2, 4, 5, 3, 6] {
            assert_eq!(whole(&mut queue, id, b"x", &mut heap), Stored::Yes);
        }
        use Need::{Later, Next, Unread};
        assert_eq!(heap.needs, [Next, Unread, Unread, Later, Later, Unread, Unread]);
        assert_eq!((std::iter::from_fn(|| queue.pop()).count(), queue.ready), (7, 0));
        // Nobody has read them.
        heap.refuse = true;
        assert_eq!(whole(&mut queue, 8, b"x", &mut heap), Stored::NoMemory);
        assert_eq!(queue.wanted(), None, "behind a hole");
        assert_eq!(whole(&mut queue, 7, b"x", &mut heap), Stored::NoMemory);
        assert_eq!((queue.wanted(), heap.needs[7..].to_vec()), (Some(1), vec![Later, Unread]));
    }

    /// A peer that sends its messages backwards costs no more than one that does not.
    #[test]
    fn what_arrives_out_of_order_moves_nothing() {
        let mut heap = Heap::new();
        let count = 1 << 15;
        let mut queue = ReceiveQueue::new(u64::from(count), 1 << 20);
        assert_eq!(whole(&mut queue, count - 1, b"", &mut heap), Stored::Yes);
        let home = queue.slots.as_slices().0.as_ptr();
        for id in (0..count - 1).rev() {
            assert_eq!(whole(&mut queue, id, b"", &mut heap), Stored::Yes);
        }
        assert_eq!((queue.slots.as_slices().0.as_ptr(), queue.slots.len(), queue.held), (home, 1 << 15, 1 << 15));
        assert!(std::iter::from_fn(|| queue.pop()).count() == 1 << 15 && queue.present == 0);
    }

    #[test]
    fn each_violation_is_named() {
        let mut heap = Heap::new();
        let mut queue = ReceiveQueue::new(5, 1 << 10);
        assert_eq!(part(&mut queue, 0, 0, 1025, &[0; 64], &mut heap), Stored::TooLarge);
        assert!(matches!(whole(&mut queue, 0, &[0; 257], &mut heap), Stored::Violation(_)), "6 units");
        assert!(matches!(whole(&mut queue, 5, b"", &mut heap), Stored::Violation(_)), "5 missing and 1");
        assert_eq!(whole(&mut queue, 4, b"", &mut heap), Stored::Yes);
        assert!(matches!(whole(&mut queue, 0, b"x", &mut heap), Stored::Violation(_)), "6 with those between");
        assert!(matches!(queue.fin(4), Stored::Violation(_)));
        assert_eq!(queue.fin(5), Stored::Yes);
        assert!(matches!(queue.fin(6), Stored::Violation(_)));
        assert!(matches!(whole(&mut queue, 5, b"", &mut heap), Stored::Violation(_)));
        let mut queue = ReceiveQueue::new(50, 1 << 10);
        assert_eq!(part(&mut queue, 0, 0, 200, &[0; 64], &mut heap), Stored::Yes);
        assert!(matches!(part(&mut queue, 0, 64, 201, &[0; 64], &mut heap), Stored::Violation(_)));
        assert!(matches!(whole(&mut queue, 0, &[0; 201], &mut heap), Stored::Violation(_)));
    }

    /// A whole message was late, not lost, and its sender cut it anew for shorter packets meanwhile.
    #[test]
    fn whole_and_in_parts_is_the_same_message() {
        let mut heap = Heap::new();
        let message: Vec<u8> = (0..200).collect();
        let mut queue = ReceiveQueue::new(50, 1 << 10);
        assert_eq!(part(&mut queue, 0, 64, 200, &[9; 64], &mut heap), Stored::Yes);
        assert_eq!(whole(&mut queue, 0, &message, &mut heap), Stored::Yes);
        assert_eq!(part(&mut queue, 0, 0, 200, &message[..64], &mut heap), Stored::Yes);
        let mut expected = message;
        expected[64..128].fill(9);
        assert_eq!(pop(&mut queue).unwrap(), expected, "the first copy of a byte");
        assert_eq!((queue.held, queue.reassembling()), (0, [0, 0]));
    }

    /// A message that another one follows was charged in full: a peer cannot make us hold more than its credit, and one
    /// message, by beginning many.
    #[test]
    fn whoever_begins_a_message_has_paid_for_those_before() {
        let mut heap = Heap::new();
        let mut queue = ReceiveQueue::new(100, 1 << 15);
        assert_eq!(part(&mut queue, 0, 0, 64 * 90, &[0; 64], &mut heap), Stored::Yes);
        assert_eq!((queue.held, queue.reassembling()), (2, [32 << 10, 0]));
        assert!(matches!(part(&mut queue, 1, 0, 6400, &[0; 64 * 9], &mut heap), Stored::Violation(_)), "91 and 10");
        assert_eq!(part(&mut queue, 1, 0, 6400, &[0; 64 * 8], &mut heap), Stored::Yes);
        assert_eq!((queue.held, queue.reassembling()), (100, [32 << 10, 32 << 10]));
        assert!(matches!(whole(&mut queue, 2, b"", &mut heap), Stored::Violation(_)));
        assert!(matches!(part(&mut queue, 1, 512, 6400, &[0; 64], &mut heap), Stored::Violation(_)));
        // The one in the middle comes late, and in full.
        let mut queue = ReceiveQueue::new(100, 1 << 15);
        assert_eq!(whole(&mut queue, 2, b"", &mut heap), Stored::Yes);
        assert!(matches!(part(&mut queue, 1, 0, 64 * 98, &[0; 64], &mut heap), Stored::Violation(_)));
        assert_eq!(part(&mut queue, 1, 0, 64 * 97, &[0; 64], &mut heap), Stored::Yes);
        assert_eq!((queue.held, queue.reassembling()), (99, [0, 32 << 10]));
        assert_eq!(whole(&mut queue, 0, b"", &mut heap), Stored::Yes);
        assert!(queue.pop().is_some());
        assert_eq!(queue.reassembling(), [32 << 10, 0], "it is the next now");
        queue.stop();
        assert_eq!((queue.held, queue.reassembling()), (0, [0, 0]));
    }

    #[test]
    fn after_stop_everything_is_taken_and_dropped() {
        let mut heap = Heap::new();
        let mut queue = ReceiveQueue::new(50, 1 << 10);
        assert_eq!(part(&mut queue, 1, 0, 200, &[0; 64], &mut heap), Stored::Yes);
        queue.stop();
        assert_eq!(heap.pool.free(), 64);
        assert_eq!(whole(&mut queue, 7, b"x", &mut heap), Stored::Yes);
        assert!(queue.pop().is_none() && !queue.is_ended());
        assert_eq!(queue.fin(9), Stored::Yes);
        assert!(queue.is_ended());
    }

    /// Three parts of 256 bytes and one of 100, of a message that begins with 0.
    fn four_parts() -> (Vec<u8>, [(u32, std::ops::Range<usize>); 4]) {
        let message = (0..868_u32).map(|i| (i / 3) as u8).collect();
        (message, [(0, 0..256), (256, 256..512), (512, 512..768), (768, 768..868)])
    }

    #[test]
    fn a_long_message_stays_in_its_packets_for_who_takes_pieces() {
        let (message, parts) = four_parts();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let mut heap = Heap::new();
            heap.lends = true;
            let mut queue = ReceiveQueue::new(1000, 1 << 20);
            queue.take_chunks();
            for (n, at) in order.into_iter().enumerate() {
                assert!(queue.pop().is_none());
                let (offset, range) = parts[at].clone();
                for _ in 0..2 {
                    let stored = part(&mut queue, 0, offset, 868, &message[range.clone()], &mut heap);
                    assert_eq!(
                        (stored, heap.packets.free()),
                        (Stored::Yes, 255 - n as u32),
                        "once, however often it comes"
                    );
                }
            }
            assert_eq!((heap.pool.free(), heap.chains, queue.reassembling()), (64, [1, 0], [0; 2]));
            let chunks = queue.pop().unwrap();
            assert!(chunks.slices().map(<[u8]>::len).eq([256, 256, 256, 100]));
            assert_eq!(chunks.into_message(), message);
            assert!(heap.is_home() && queue.held == 0);
        }
    }

    #[test]
    fn what_cannot_stay_in_its_packets_is_copied_out_of_them() {
        let (message, parts) = four_parts();
        // Short of frames from the beginning, or later; parts that overlap; all of it again in one packet; the reserve.
        for case in 0..6 {
            let mut heap = Heap::new();
            heap.lends = case > 0;
            let mut queue = ReceiveQueue::new(1000, 1 << 20);
            queue.take_chunks();
            let mut put = |at: usize, heap: &mut Heap| {
                let (offset, range) = parts[at].clone();
                part(&mut queue, 0, offset, 868, &message[range], heap)
            };
            assert_eq!((put(1, &mut heap), put(3, &mut heap)), (Stored::Yes, Stored::Yes));
            assert_eq!(heap.packets.free(), if case == 0 { 256 } else { 254 });
            match case {
                0 => {}
                1 => heap.lends = false,
                2 => assert_eq!(part(&mut queue, 0, 192, 868, &message[192..320], &mut heap), Stored::Yes),
                3 => assert_eq!(whole(&mut queue, 0, &message, &mut heap), Stored::Yes),
                _ => {
                    (heap.refuse, heap.lends) = (true, false);
                    assert_eq!(put(0, &mut heap), Stored::NoMemory);
                    assert_eq!((queue.wanted(), queue.reserved(), queue.held), (Some(868), 15, 15));
                    if case == 4 {
                        let frame = heap.pool.take().unwrap();
                        queue.reserve(frame, &mut heap);
                        assert_eq!((queue.wanted(), heap.packets.free()), (None, 256));
                    } else {
                        heap.lends = true;
                    }
                }
            }
            for (offset, range) in parts.clone() {
                assert_eq!(part(&mut queue, 0, offset, 868, &message[range], &mut heap), Stored::Yes);
            }
            assert_eq!(queue.wanted(), None);
            assert_eq!(heap.chains, if case == 5 { [1, 0] } else { [0, 1] }, "case {case}");
            let chunks = queue.pop().unwrap();
            assert_eq!(chunks.count(), if case == 5 { 4 } else { 1 }, "case {case}");
            assert_eq!(chunks.into_message(), message);
            assert!(heap.is_home() && queue.held == 0 && queue.reassembling() == [0; 2]);
        }
    }

    proptest! {
        /// A sender that keeps to its credit is never refused, and every message arrives once, in order.
        #[test]
        fn any_interleaving_of_a_legal_stream(
            sizes in prop::collection::vec(0..1500usize, 1..30), seed: u64, copies in 1..4usize,
            chunked: bool, refuses_each in 1..40usize,
        ) {
            let mut heap = Heap::new();
            let total: u64 = sizes.iter().map(|&n| cost_in_units(n)).sum();
            let mut queue = ReceiveQueue::new(total, 1 << 20);
            if chunked {
                queue.take_chunks();
            }
            let messages: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, &n)| vec![i as u8; n]).collect();
            let mut parts = Vec::new();
            for copy in 0..copies {
                for (id, message) in messages.iter().enumerate() {
                    // Cut anew for longer packets, or shorter ones.
                    let step = [256, 256, 384, 128][(copy + id) % 4];
                    if message.len() <= step {
                        parts.push((id, 0, message.len()));
                    } else {
                        parts.extend((0..message.len()).step_by(step).map(|at| (id, at, step.min(message.len() - at))));
                    }
                }
            }
            let mut random = seed | 1;
            let mut got = Vec::new();
            while !parts.is_empty() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (id, at, len) = parts.swap_remove((random >> 33) as usize % parts.len());
                let message = &messages[id];
                // The driver is short of frames now and then.
                heap.lends = !parts.len().is_multiple_of(refuses_each);
                let stored = if len == message.len() {
                    whole(&mut queue, id as u32, message, &mut heap)
                } else {
                    part(&mut queue, id as u32, at as u32, message.len() as u32, &message[at..at + len], &mut heap)
                };
                prop_assert_eq!(stored, Stored::Yes);
                while let Some(message) = pop(&mut queue) {
                    got.push(message.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!((queue.held, queue.slots.len(), queue.delivered), (0, 0, total));
            prop_assert_eq!((heap.is_home(), queue.reassembling()), (true, [0; 2]));
            prop_assert!(chunked || heap.chains == [0; 2]);
        }
    }
}
