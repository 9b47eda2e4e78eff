//! What a flow has to send: messages, cut into parts, until each byte was acknowledged (`docs/spec/flow.md#sending`).

use std::collections::VecDeque;

use machnet_channel::{BUILD_FROM, FrameRef, Message, UNIT, cost_in_units};

use super::Store;
use super::units::UnitSet;
use crate::wire::{AckBlock, CHUNK_HEADER_LEN, Chunk, Data, HEADER_LEN, MAX_BLOCKS, TAILROOM};

/// Shorter parts are copied: what asks for an acknowledgement has 40 bytes at least ([`MIN_ELICITING_LEN`](crate::wire::MIN_ELICITING_LEN)),
/// and padding cannot stand behind a part that lies elsewhere.
const PART_FROM: u32 = 64;
/// Bytes of a message that makes longer packets worth looking for.
const NOT_SMALL: usize = 512;

/// A piece of a message: what one MESSAGE chunk carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// How messages are cut for packets of a given length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    packet: u16,
    whole: u16,
    part: u16,
}

impl Cut {
    /// For UDP payloads of at most `max_payload` bytes, tailroom included: the longest packets of a path.
    pub(crate) const fn new(max_payload: usize) -> Self {
        let packet = max_payload - TAILROOM;
        let room = packet - HEADER_LEN - Data::FIXED_LEN - MAX_BLOCKS * AckBlock::len_with(0);
        let part = (room - Chunk::PART_OVERHEAD) / UNIT as usize * UNIT as usize;
        // No datagram is longer than 65 507 bytes.
        Self { packet: packet as u16, whole: (room - Chunk::WHOLE_OVERHEAD) as u16, part: part as u16 }
    }

    /// The longest packet.
    pub(crate) const fn packet(self) -> usize {
        self.packet as usize
    }

    /// The longest message that goes whole.
    pub(crate) const fn whole(self) -> usize {
        self.whole as usize
    }

    /// The length of a part that is not the last; a multiple of 64.
    const fn part(self) -> usize {
        self.part as usize
    }

    /// The shortest payload for which cutting works: one unit per part.
    pub(crate) const MIN_PAYLOAD: usize = TAILROOM
        + HEADER_LEN
        + Data::FIXED_LEN
        + MAX_BLOCKS * AckBlock::len_with(0)
        + Chunk::PART_OVERHEAD
        + UNIT as usize;
}

#[derive(Debug)]
struct Outgoing {
    message: Message,
    /// Cumulative cost of all earlier messages.
    before: u64,
    acked: Acked,
}

#[derive(Debug)]
enum Acked {
    Nothing,
    Some(Box<UnitSet>),
    All,
}

/// Parts to send again: mostly there are none, and a flow spends one word on them.
#[derive(Debug)]
struct Again(Option<Box<Parts>>);

#[derive(Debug, Default)]
struct Parts(VecDeque<Part>);

impl Again {
    const NONE: Self = Self(None);

    fn front(&self) -> Option<&Part> {
        self.0.as_ref()?.0.front()
    }

    fn front_mut(&mut self) -> Option<&mut Part> {
        self.0.as_mut()?.0.front_mut()
    }

    fn pop_front(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.0.pop_front();
        }
    }

    fn parts(&mut self) -> &mut VecDeque<Part> {
        &mut self.0.get_or_insert_default().0
    }
}

#[derive(Debug)]
pub(crate) struct SendQueue {
    cut: Cut,
    messages: VecDeque<Outgoing>,
    /// Id of `messages[0]`.
    base: u32,
    /// The first byte that was never sent: index into `messages`, offset.
    unsent: (u32, u32),
    /// Parts declared lost, or to be probed with: each once, in the order of the stream. The receiver delivers in order,
    /// and may have memory for the oldest only.
    again: Again,
    /// Cumulative cost of everything taken, and of what was acknowledged in order.
    taken: u64,
    acknowledged: u64,
    /// First transmissions of complete messages, and their bytes.
    pub(crate) messages_sent: u64,
    pub(crate) bytes_sent: u64,
}

impl SendQueue {
    pub(crate) const fn new(cut: Cut) -> Self {
        Self {
            cut,
            messages: VecDeque::new(),
            base: 0,
            unsent: (0, 0),
            again: Again::NONE,
            taken: 0,
            acknowledged: 0,
            messages_sent: 0,
            bytes_sent: 0,
        }
    }

    pub(crate) const fn cut(&self) -> Cut {
        self.cut
    }

    /// Packets have another length from now on. What was cut longer and is to be sent again is cut anew.
    pub(crate) const fn set_cut(&mut self, cut: Cut) {
        self.cut = cut;
    }

    /// True if longer packets would be fewer: what is to be sent next does not fit one, or is not small and what waits fills two.
    /// Not for many small ones: over a millisecond, one lost packet of a hundred messages costs more than it saves.
    pub(crate) fn is_large(&self) -> bool {
        self.messages.get(self.unsent.0 as usize).is_some_and(|next| {
            let waits = (self.taken - next.before).saturating_mul(UNIT);
            let len = next.message.len();
            len > self.cut.whole() || (len >= NOT_SMALL && waits > 2 * self.cut.packet() as u64)
        })
    }

    /// Takes a message from the application.
    pub(crate) fn push(&mut self, message: Message) {
        let cost = cost_in_units(message.len());
        self.messages.push_back(Outgoing { message, before: self.taken, acked: Acked::Nothing });
        self.taken += cost;
    }

    /// Cumulative units acknowledged, in whole messages, in order.
    pub(crate) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The id after the last message taken.
    pub(crate) fn next_id(&self) -> u32 {
        self.base.wrapping_add(self.messages.len() as u32)
    }

    /// True if every byte was sent at least once.
    pub(crate) fn all_sent(&self) -> bool {
        self.unsent.0 as usize == self.messages.len()
    }

    /// True if every byte was acknowledged.
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.messages.is_empty()
    }

    /// Gives back memory that nothing is in.
    pub(crate) fn shed(&mut self) {
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
            self.again = Again::NONE;
        }
    }

    /// Drops everything: the peer reads no more, or the flow is over.
    pub(crate) fn discard(&mut self) {
        self.base = self.next_id();
        self.messages = VecDeque::new();
        self.again = Again::NONE;
        self.unsent = (0, 0);
    }

    /// The next part to send again, if there is one and it fits `space` bytes of chunk.
    pub(crate) fn next_again(&mut self, space: usize) -> Option<Part> {
        while let Some(&part) = self.again.front() {
            if self.is_acknowledged(part) {
                self.again.pop_front();
                continue;
            }
            if self.chunk_len(part)? > space {
                return self.cut_again(part, space);
            }
            self.again.pop_front();
            return Some(part);
        }
        None
    }

    /// The beginning of `part`, the next to send again, if it is longer than parts are now and a beginning of the length of parts
    /// fits.
    fn cut_again(&mut self, part: Part, space: usize) -> Option<Part> {
        let total = self.get(part.id)?.message.len();
        let is_long =
            if part.len as usize == total { total > self.cut.whole() } else { part.len as usize > self.cut.part() };
        if !is_long || self.cut.part() + Chunk::PART_OVERHEAD > space {
            return None;
        }
        let len = self.cut.part() as u32;
        let rest = self.again.front_mut()?;
        (rest.offset, rest.len) = (part.offset + len, part.len - len);
        Some(Part { len, ..part })
    }

    /// False if nothing waits to be sent again.
    pub(crate) fn may_have_again(&self) -> bool {
        self.again.front().is_some()
    }

    /// True if something waits to be sent again.
    pub(crate) fn has_again(&mut self) -> bool {
        while let Some(&part) = self.again.front() {
            if !self.is_acknowledged(part) {
                return true;
            }
            self.again.pop_front();
        }
        false
    }

    /// The next part never sent, if `credit` covers it and it fits `space` bytes of chunk.
    pub(crate) fn next_new(&mut self, credit: u64, space: usize) -> Option<Part> {
        let (part, cost, total) = self.peek_new()?;
        if cost > credit || Self::len_of(part, total as usize) > space {
            return None;
        }
        self.unsent.1 += part.len;
        if self.unsent.1 == total {
            self.unsent = (self.unsent.0 + 1, 0);
            self.messages_sent += 1;
            self.bytes_sent += u64::from(total);
        }
        Some(part)
    }

    /// True if `part` is the beginning of a message that lies in a frame to be sent from.
    pub(crate) fn is_built(&mut self, part: Part) -> bool {
        part.len as usize >= BUILD_FROM && part.offset == 0 && self.built(part.id).is_some()
    }

    /// False if `part` surely does not go from where it was built: of short messages, and of such as are in the application's memory.
    pub(crate) fn may_lie(&self, part: Part) -> bool {
        (part.len as usize >= BUILD_FROM || (part.offset > 0 && part.len >= PART_FROM))
            && self.get(part.id).is_some_and(|outgoing| FrameRef::has(&outgoing.message))
    }

    /// `part` where it was built, for a packet of which it is the end, and the length of its message; `None` if its message was not built in
    /// a frame.
    pub(crate) fn lies(&self, part: Part) -> Option<(FrameRef, u32)> {
        let message = &self.get(part.id)?.message;
        let total = message.len();
        // Of a long frame in which little was written: as any.
        if total < BUILD_FROM {
            return None;
        }
        FrameRef::part_of(message, part.offset, part.len).map(|lies| (lies, total as u32))
    }

    /// True if something that comes next would share the packet of `part`, in the `space` that its chunk leaves.
    pub(crate) fn is_followed(&mut self, part: Part, credit: u64, space: usize) -> bool {
        let again = self.next_again_len().is_some_and(|len| len <= space);
        again || self.shares(part, credit, space)
    }

    fn shares(&self, part: Part, credit: u64, space: usize) -> bool {
        self.peek_new().is_some_and(|(next, cost, total)| {
            cost <= credit && next.id != part.id && Self::len_of(next, total as usize) <= space
        })
    }

    /// The length of the chunk of the next part to be sent again.
    fn next_again_len(&mut self) -> Option<usize> {
        if !self.has_again() {
            return None;
        }
        self.again.front().and_then(|&part| self.chunk_len(part))
    }

    fn built(&mut self, id: u32) -> Option<&mut FrameRef> {
        let outgoing = self.messages.get_mut(id.wrapping_sub(self.base) as usize)?;
        FrameRef::built(&mut outgoing.message)
    }

    /// The whole message of `part`, where it was built, for a packet of which it is the end. `None` if it does not go so: it is not whole, or
    /// what comes next would share its packet, in the `space` that the chunk leaves; a copy costs less than a packet.
    pub(crate) fn depart(&mut self, part: Part, credit: u64, space: usize) -> Option<FrameRef> {
        let total = self.get(part.id)?.message.len();
        if part.len as usize != total || self.shares(part, credit, space) {
            return None;
        }
        self.built(part.id)?.depart()
    }

    /// The message of `part` is copied: from now on it is as any.
    pub(crate) fn settle(&mut self, part: Part) {
        if let Some(message) = self.built(part.id) {
            drop(message.depart());
        }
    }

    /// The credit that the next new part needs; `None` if nothing is unsent.
    pub(crate) fn wanted_credit(&self) -> Option<u64> {
        self.peek_new().map(|(_, cost, _)| cost)
    }

    /// The next part never sent, the cumulative cost at its end, and the length of its message.
    fn peek_new(&self) -> Option<(Part, u64, u32)> {
        let (index, offset) = self.unsent;
        let outgoing = self.messages.get(index as usize)?;
        let total = outgoing.message.len();
        let whole = total <= self.cut.whole() && offset == 0;
        let len = if whole { total } else { (total - offset as usize).min(self.cut.part()) };
        let part = Part { id: self.base.wrapping_add(index), offset, len: len as u32 };
        Some((part, outgoing.before + cost_in_units(offset as usize + len), total as u32))
    }

    /// The chunk that carries `part`; `None` if its message is gone (acknowledged or discarded).
    pub(crate) fn chunk(&self, part: Part) -> Option<Chunk<'_>> {
        let payload = self.get(part.id)?.message.as_slice();
        let bytes = payload.get(part.offset as usize..)?.get(..part.len as usize)?;
        Some(if bytes.len() == payload.len() {
            Chunk::Whole { id: part.id, payload: bytes }
        } else {
            Chunk::Part { id: part.id, offset: part.offset, total: payload.len() as u32, payload: bytes }
        })
    }

    fn chunk_len(&self, part: Part) -> Option<usize> {
        self.get(part.id).map(|outgoing| Self::len_of(part, outgoing.message.len()))
    }

    /// The length of the chunk that carries `part` of a message of `total` bytes.
    const fn len_of(part: Part, total: usize) -> usize {
        let overhead = if part.len as usize == total { Chunk::WHOLE_OVERHEAD } else { Chunk::PART_OVERHEAD };
        overhead + part.len as usize
    }

    /// `part` was lost, or is to be sent again as a probe.
    pub(crate) fn lost(&mut self, part: Part) {
        if self.is_acknowledged(part) {
            return;
        }
        let base = self.base;
        let place = |part: &Part| (part.id.wrapping_sub(base), part.offset);
        // Losses are declared in the order of sending: mostly, this is the end.
        let again = self.again.parts();
        let at = match again.back() {
            Some(last) if place(last) < place(&part) => Err(again.len()),
            _ => again.binary_search_by_key(&place(&part), place),
        };
        match at {
            // The same place, cut for another length of packets.
            Ok(at) => again[at].len = again[at].len.max(part.len),
            Err(at) => again.insert(at, part),
        }
    }

    /// Puts to the front what the peer needs next: the oldest parts that were sent and not acknowledged, two packets' worth at
    /// most. A peer without memory refuses everything but these, so a probe that carries others may be refused for ever.
    pub(crate) fn probe(&mut self) {
        let space = 2 * (self.cut.part() + Chunk::PART_OVERHEAD) as u32;
        let mut room = space;
        for index in 0..(self.unsent.0 + 1).min(self.messages.len() as u32) {
            let total = self.messages[index as usize].message.len() as u32;
            let sent = if index < self.unsent.0 { total } else { self.unsent.1 };
            // Only what was sent: packets may have grown since a message was begun, and could hold all of it.
            let is_whole = sent == total && total as usize <= self.cut.whole();
            let step = if is_whole { total.max(1) } else { self.cut.part() as u32 };
            let mut offset = 0;
            // An empty message is one part, if it was sent.
            while offset < sent || (offset == 0 && index < self.unsent.0) {
                let len = (sent - offset).min(step);
                let part = Part { id: self.base.wrapping_add(index), offset, len };
                if !self.is_acknowledged(part) {
                    let cost = len + Chunk::PART_OVERHEAD as u32;
                    if cost > room && room < space {
                        return;
                    }
                    room = room.saturating_sub(cost);
                    // They are the oldest, so this is near the front.
                    self.lost(part);
                }
                offset += step;
            }
        }
    }

    /// `part` was acknowledged. Returns true if messages were completed in order: `acknowledged` grew.
    pub(crate) fn acked(&mut self, part: Part, store: &mut impl Store) -> bool {
        let index = part.id.wrapping_sub(self.base) as usize;
        let Some(outgoing) = self.messages.get_mut(index) else { return false };
        let total = outgoing.message.len() as u32;
        outgoing.acked = match std::mem::replace(&mut outgoing.acked, Acked::All) {
            Acked::Nothing | Acked::Some(_) if part.len == total => Acked::All,
            Acked::All => Acked::All,
            unfinished => {
                let mut units = match unfinished {
                    Acked::Some(units) => units,
                    Acked::Nothing | Acked::All => store.units(total),
                };
                units.insert(part.offset, part.len);
                if units.is_full() {
                    store.recycle(units);
                    Acked::All
                } else {
                    Acked::Some(units)
                }
            }
        };
        let before = self.acknowledged;
        while let Some(Outgoing { message, acked: Acked::All, .. }) = self.messages.front() {
            self.acknowledged += cost_in_units(message.len());
            self.messages.pop_front();
            self.base = self.base.wrapping_add(1);
            self.unsent.0 -= 1;
        }
        self.acknowledged > before
    }

    fn is_acknowledged(&mut self, part: Part) -> bool {
        let index = part.id.wrapping_sub(self.base) as usize;
        match self.messages.get_mut(index).map(|outgoing| &mut outgoing.acked) {
            None | Some(Acked::All) => true,
            Some(Acked::Nothing) => false,
            Some(Acked::Some(units)) => units.contains(part.offset, part.len),
        }
    }

    fn get(&self, id: u32) -> Option<&Outgoing> {
        self.messages.get(id.wrapping_sub(self.base) as usize)
    }
}

const _: () = assert!(Cut::MIN_PAYLOAD < crate::wire::BASE_PAYLOAD);
const _: () = assert!(CHUNK_HEADER_LEN < UNIT as usize);

#[cfg(test)]
mod tests {
    use machnet_channel::{Frame, FrameRef};
    use proptest::prelude::*;

    use super::super::Need;
    use super::*;

    struct Heap;

    impl Store for Heap {
        fn keep(&mut self, _: &FrameRef, _: &[u8], _: Need) -> Option<Message> {
            None
        }
        fn buffer(&mut self, _: u32, _: Need) -> Option<Frame> {
            None
        }
        fn units(&mut self, len: u32) -> Box<UnitSet> {
            Box::new(UnitSet::new(len))
        }
        fn recycle(&mut self, _: Box<UnitSet>) {}
    }

    const CUT: Cut = Cut::new(1232);

    #[test]
    fn parts_of_one_size_fill_a_packet() {
        assert_eq!(CUT, Cut { packet: 1216, whole: 1148, part: 1088 });
    }

    #[test]
    fn small_ones_go_whole_large_ones_in_order() {
        let mut queue = SendQueue::new(CUT);
        queue.push(vec![1; 10].into());
        queue.push(vec![2; 2000].into());
        queue.push(Message::new());
        let mut parts = Vec::new();
        while let Some(part) = queue.next_new(u64::MAX, 1200) {
            parts.push((part.id, part.offset, part.len));
        }
        assert_eq!(parts, [(0, 0, 10), (1, 0, 1088), (1, 1088, 912), (2, 0, 0)]);
        assert!(queue.all_sent() && !queue.all_acknowledged());
        assert_eq!((queue.messages_sent, queue.bytes_sent), (3, 2010));
        // The last first: nothing is complete in order until the first is.
        assert!(!queue.acked(Part { id: 2, offset: 0, len: 0 }, &mut Heap));
        assert!(!queue.acked(Part { id: 1, offset: 1088, len: 912 }, &mut Heap));
        queue.lost(Part { id: 1, offset: 1088, len: 912 });
        queue.lost(Part { id: 1, offset: 0, len: 1088 });
        queue.lost(Part { id: 0, offset: 0, len: 10 });
        queue.lost(Part { id: 1, offset: 0, len: 1088 });
        assert_eq!(queue.next_again(1200), Some(Part { id: 0, offset: 0, len: 10 }), "acknowledged parts are skipped");
        assert_eq!(queue.next_again(1200), Some(Part { id: 1, offset: 0, len: 1088 }), "once, in order");
        assert_eq!(queue.next_again(1200), None);
        assert!(queue.acked(Part { id: 0, offset: 0, len: 10 }, &mut Heap));
        assert_eq!(queue.acknowledged(), cost_in_units(10));
        assert!(queue.acked(Part { id: 1, offset: 0, len: 1088 }, &mut Heap));
        assert!(queue.all_acknowledged());
        assert_eq!(queue.acknowledged(), cost_in_units(10) + cost_in_units(2000) + cost_in_units(0));
    }

    #[test]
    fn probes_carry_what_the_peer_needs_next() {
        let mut queue = SendQueue::new(CUT);
        queue.probe();
        assert!(!queue.has_again());
        for message in [vec![], vec![1; 3000], vec![2; 10]] {
            queue.push(message.into());
        }
        assert_eq!(queue.next_new(u64::MAX, 1200), Some(Part { id: 0, offset: 0, len: 0 }));
        queue.probe();
        assert_eq!(queue.next_again(1200), Some(Part { id: 0, offset: 0, len: 0 }));
        assert!(!queue.has_again(), "what was never sent is no probe");
        while queue.next_new(u64::MAX, 1200).is_some() {}
        queue.acked(Part { id: 0, offset: 0, len: 0 }, &mut Heap);
        queue.acked(Part { id: 1, offset: 0, len: 1088 }, &mut Heap);
        queue.lost(Part { id: 2, offset: 0, len: 10 });
        queue.probe();
        assert_eq!(queue.next_again(1200), Some(Part { id: 1, offset: 1088, len: 1088 }));
        assert_eq!(queue.next_again(1200), Some(Part { id: 1, offset: 2176, len: 824 }));
    }

    #[test]
    fn credit_covers_part_by_part() {
        let mut queue = SendQueue::new(CUT);
        queue.push(vec![0; 3000].into());
        assert_eq!(queue.wanted_credit(), Some(1 + 17));
        assert_eq!(queue.next_new(17, 1200), None);
        assert!(queue.next_new(18, 1200).is_some());
        assert_eq!(queue.wanted_credit(), Some(1 + 34));
    }

    #[test]
    fn a_probe_carries_nothing_that_was_never_sent() {
        let mut queue = SendQueue::new(CUT);
        queue.push(vec![0; 3000].into());
        assert!(queue.next_new(u64::MAX, 1200).is_some());
        // All of it would fit one packet now.
        queue.set_cut(Cut::new(9216));
        queue.probe();
        let probe = queue.next_again(9000).unwrap();
        assert_eq!(probe, Part { id: 0, offset: 0, len: 1088 });
        assert!(!queue.acked(probe, &mut Heap) && !queue.all_sent());
        assert_eq!(queue.next_new(u64::MAX, 9000), Some(Part { id: 0, offset: 1088, len: 1912 }));
    }

    /// What happens to a queue, other than that everything is sent and acknowledged.
    #[derive(Clone, Debug)]
    enum Step {
        /// So much credit more.
        New(u64),
        Again,
        Probe,
        /// The packets' length.
        Cut(usize),
        /// Which of the parts that are on the way.
        Lost(usize),
        Acked(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..200u64).prop_map(Step::New),
            4 => Just(Step::Again),
            1 => Just(Step::Probe),
            1 => (Cut::MIN_PAYLOAD..20_000usize).prop_map(Step::Cut),
            2 => any::<usize>().prop_map(Step::Lost),
            4 => any::<usize>().prop_map(Step::Acked),
        ]
    }

    proptest! {
        /// Whatever the packets' length becomes under way: within the credit, and everything in the end.
        #[test]
        fn any_course_of_events_sends_what_it_may_and_ends(
            sizes in prop::collection::vec(0..20_000usize, 1..12), steps in prop::collection::vec(step(), 1..300),
        ) {
            let mut queue = SendQueue::new(CUT);
            for &size in &sizes {
                queue.push(vec![0; size].into());
            }
            let before: Vec<u64> = sizes.iter().scan(0, |sum, &n| Some(std::mem::replace(sum, *sum + cost_in_units(n)))).collect();
            let (mut credit, mut flying) = (0, Vec::new());
            let end = [Step::Cut(1232), Step::New(u64::MAX / 2)].into_iter().chain((0..10_000).flat_map(|_| [Step::Probe, Step::Again, Step::New(0), Step::Acked(0)]));
            for step in steps.into_iter().chain(end) {
                let room = queue.cut.packet();
                let sent = match step {
                    Step::New(more) => {
                        credit += more;
                        queue.next_new(credit, room)
                    }
                    Step::Again => queue.next_again(room),
                    Step::Probe => { queue.probe(); None }
                    Step::Cut(payload) => { queue.set_cut(Cut::new(payload)); None }
                    Step::Lost(at) if !flying.is_empty() => {
                        queue.lost(flying.swap_remove(at % flying.len()));
                        None
                    }
                    Step::Acked(at) if !flying.is_empty() => {
                        queue.acked(flying.swap_remove(at % flying.len()), &mut Heap);
                        None
                    }
                    Step::Lost(_) | Step::Acked(_) => None,
                };
                if let Some(part) = sent {
                    let cost = before[part.id as usize] + cost_in_units((part.offset + part.len) as usize);
                    prop_assert!(cost <= credit, "{:?} without credit", part);
                    flying.push(part);
                }
            }
            prop_assert!(queue.all_acknowledged() && queue.all_sent());
        }

        #[test]
        fn every_byte_once_and_room_returns(sizes in prop::collection::vec(0..20_000usize, 1..20), seed: u64) {
            let mut queue = SendQueue::new(CUT);
            for &size in &sizes {
                queue.push(vec![0; size].into());
            }
            let mut parts = Vec::new();
            while let Some(part) = queue.next_new(u64::MAX, 1200) {
                prop_assert!(queue.chunk(part).unwrap().len() <= 1152 + Chunk::PART_OVERHEAD);
                parts.push(part);
            }
            prop_assert_eq!(parts.iter().map(|p| p.len as usize).sum::<usize>(), sizes.iter().sum::<usize>());
            // Acknowledge in a scrambled order, some twice.
            let mut random = seed | 1;
            while !parts.is_empty() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (random >> 33) as usize % parts.len();
                let part = parts[at];
                queue.acked(part, &mut Heap);
                queue.acked(part, &mut Heap);
                parts.swap_remove(at);
            }
            prop_assert!(queue.all_acknowledged());
            prop_assert_eq!(queue.acknowledged(), sizes.iter().map(|&n| cost_in_units(n)).sum::<u64>());
        }
    }
}
