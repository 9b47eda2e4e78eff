//! Who sends next: deficit round robin by bytes, and first whoever wants little (`docs/spec/flow.md#sending`).
//!
//! ```text
//!   becomes ready ─▶ fresh ──── its quantum of this rotation used up ───▶ ongoing ◀─┐
//!          │           │ served first                                        │      │ more, a quantum later
//!          │           └─ nothing more: out                                  ├──────┘
//!          └──────────── kept data back when it was served last ────────────▶┘
//! ```
//!
//! In each *rotation* every flow may send [`QUANTUM`] bytes. Whoever wants less is served at once, as often as it becomes
//! ready; whoever wants more takes turns, also if it is a window that makes it wait in between. So a request waits for no bulk transfer, and nobody gets more than his share by
//! asking often. That fresh flows go first is bounded: after a quantum of theirs, an ongoing one has its turn.
//!
//! This is Shreedhar and Varghese's deficit round robin with the new-flows list of fq_codel (RFC 8290 §4), whose priority
//! lasts one packet; ours lasts a quantum per rotation, since our quantum is large: one GSO batch, so that a flow's turn
//! is one system call. A quantum holds any packet, so a flow's rest of less than a packet is not carried on.
//!
//! It knows keys, not flows. Keys come in groups, the applications of a daemon: the same order is kept among the groups, and
//! within each, so that an application gets no more by having more flows. In process there is one group.

const NIL: u32 = u32::MAX;

/// Bytes of a turn: what the kernel takes as one GSO batch, 53 packets of 1 216 bytes or one of the longest.
pub(crate) const QUANTUM: u32 = 65_507;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Fresh,
    Ongoing,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    prev: u32,
    next: u32,
    /// Bytes left in `rotation`.
    left: u32,
    rotation: u16,
    place: Place,
    /// It had more than it could send when its last turn ended.
    bulk: bool,
    /// Whose it is.
    group: u32,
}

impl Node {
    const NEW: Self =
        Self { prev: NIL, next: NIL, left: QUANTUM, rotation: 0, place: Place::Nowhere, bulk: false, group: 0 };
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    const EMPTY: Self = Self { head: NIL, tail: NIL, len: 0 };
}

/// The order of some keys. Lists through an array of nodes, which several share: each key is in one of them at most, and at
/// most once, and leaves in constant time.
#[derive(Debug)]
struct Ring {
    fresh: List,
    ongoing: List,
    rotation: u16,
    /// Ongoing ones that have not had their turn in this rotation.
    to_visit: u32,
    /// Bytes that fresh ones sent since an ongoing one had its turn.
    ahead: u32,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing is left to send.
    Done,
    /// There is more, and a window is full.
    Held,
    /// Its bytes are used up, or the next packet would not fit them.
    Spent,
    /// The driver takes no more: the turn goes on in the next round.
    Blocked,
}

impl Ring {
    const fn new() -> Self {
        Self { fresh: List::EMPTY, ongoing: List::EMPTY, rotation: 0, to_visit: 0, ahead: 0 }
    }

    const fn is_empty(&self) -> bool {
        self.fresh.len == 0 && self.ongoing.len == 0
    }

    const fn len(&self) -> usize {
        self.fresh.len as usize + self.ongoing.len as usize
    }

    /// `key` has something to send.
    fn push(&mut self, nodes: &mut [Node], key: u32) {
        let rotation = self.rotation;
        let node = &mut nodes[key as usize];
        if node.place != Place::Nowhere {
            return;
        }
        if node.rotation != rotation {
            (node.rotation, node.left) = (rotation, QUANTUM);
        }
        let place = if node.left > 0 && !node.bulk { Place::Fresh } else { Place::Ongoing };
        self.link(nodes, key, place);
    }

    /// Whose turn it is, and how many bytes it may send. Say how it ended by [`Turns::end`].
    fn next(&mut self, nodes: &mut [Node]) -> Option<(u32, u32)> {
        if self.fresh.len > 0 && (self.ahead < QUANTUM || self.ongoing.len == 0) {
            let key = self.fresh.head;
            return Some((key, nodes[key as usize].left));
        }
        if self.ongoing.len == 0 {
            return None;
        }
        let key = self.ongoing.head;
        let node = &mut nodes[key as usize];
        if node.left == 0 {
            (node.left, node.rotation) = (QUANTUM, self.rotation);
        }
        Some((key, node.left))
    }

    /// The turn of `key` ended after `bytes`.
    fn end(&mut self, nodes: &mut [Node], key: u32, bytes: u32, how: Ended) {
        let node = &mut nodes[key as usize];
        let place = node.place;
        node.left = node.left.saturating_sub(bytes);
        match place {
            Place::Fresh => self.ahead = self.ahead.saturating_add(bytes),
            Place::Ongoing => self.ahead = 0,
            Place::Nowhere => return,
        }
        if how == Ended::Blocked && node.left > 0 {
            return;
        }
        node.bulk = how != Ended::Done;
        let more = matches!(how, Ended::Spent | Ended::Blocked);
        if more {
            node.left = 0;
        }
        self.unlink(nodes, key);
        if more {
            self.link(nodes, key, Place::Ongoing);
        }
        if place == Place::Ongoing {
            self.to_visit = self.to_visit.saturating_sub(1);
        }
        self.rotate();
    }

    /// `key` has nothing to send any more, whoever says so.
    fn leave(&mut self, nodes: &mut [Node], key: u32) {
        self.unlink(nodes, key);
        self.to_visit = self.to_visit.min(self.ongoing.len);
        self.rotate();
    }

    /// Begins a rotation if every ongoing one had its turn.
    fn rotate(&mut self) {
        if self.to_visit == 0 {
            self.rotation = self.rotation.wrapping_add(1);
            self.to_visit = self.ongoing.len;
        }
    }

    fn list(&mut self, place: Place) -> &mut List {
        if place == Place::Fresh { &mut self.fresh } else { &mut self.ongoing }
    }

    fn link(&mut self, nodes: &mut [Node], key: u32, place: Place) {
        let list = self.list(place);
        let last = std::mem::replace(&mut list.tail, key);
        list.len += 1;
        if last == NIL {
            list.head = key;
        } else {
            nodes[last as usize].next = key;
        }
        let node = &mut nodes[key as usize];
        (node.prev, node.next, node.place) = (last, NIL, place);
    }

    fn unlink(&mut self, nodes: &mut [Node], key: u32) {
        let Node { prev, next, place, .. } = nodes[key as usize];
        if prev != NIL {
            nodes[prev as usize].next = next;
        }
        if next != NIL {
            nodes[next as usize].prev = prev;
        }
        let list = self.list(place);
        list.len -= 1;
        if prev == NIL {
            list.head = next;
        }
        if next == NIL {
            list.tail = prev;
        }
        nodes[key as usize].place = Place::Nowhere;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Turns {
    nodes: Vec<Node>,
    /// The order within each group.
    rings: Vec<Ring>,
    /// The order of groups that have a key to serve, if there is more than one group.
    groups: Ring,
    group_nodes: Vec<Node>,
    len: usize,
}

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { nodes: Vec::new(), rings: Vec::new(), groups: Ring::new(), group_nodes: Vec::new(), len: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// `key`, of `group`, has something to send.
    pub(crate) fn push(&mut self, key: u32, group: u32) {
        if key as usize >= self.nodes.len() {
            self.nodes.resize(key as usize + 1, Node::NEW);
        }
        if group as usize >= self.rings.len() {
            self.add_groups(group);
        }
        let node = &mut self.nodes[key as usize];
        if node.place != Place::Nowhere {
            return;
        }
        if node.group != group {
            *node = Node { group, ..Node::NEW };
        }
        self.rings[group as usize].push(&mut self.nodes, key);
        if !self.is_one_group() {
            self.groups.push(&mut self.group_nodes, group);
        }
        self.len += 1;
    }

    /// From now on there are groups up to `last`.
    #[cold]
    fn add_groups(&mut self, last: u32) {
        let was_one = self.is_one_group();
        // One group has no order among groups: it begins with the second.
        let count = (last as usize + 1).max(if self.rings.is_empty() { 1 } else { 2 });
        self.rings.resize_with(count, Ring::new);
        self.group_nodes.resize(count, Node::NEW);
        if was_one && !self.rings[0].is_empty() {
            self.groups.push(&mut self.group_nodes, 0);
        }
    }

    /// True if `key` is to have a turn.
    pub(crate) fn contains(&self, key: u32) -> bool {
        self.nodes.get(key as usize).is_some_and(|node| node.place != Place::Nowhere)
    }

    /// Whose turn it is, and how many bytes it may send. Say how it ended by [`Turns::end`].
    pub(crate) fn next(&mut self) -> Option<(u32, u32)> {
        let (group, of_group) =
            if self.is_one_group() { (0, QUANTUM) } else { self.groups.next(&mut self.group_nodes)? };
        let (key, allowed) = self.rings.get_mut(group as usize)?.next(&mut self.nodes)?;
        Some((key, allowed.min(of_group)))
    }

    /// The turn of `key` ended after `bytes`.
    pub(crate) fn end(&mut self, key: u32, bytes: u32, how: Ended) {
        let group = self.nodes[key as usize].group;
        let is_one = self.is_one_group();
        let ring = &mut self.rings[group as usize];
        let before = ring.len();
        // What its group is not allowed, it may send when the group has its next turn.
        let of_group = self.group_nodes[group as usize].left;
        let cut_short = !is_one && how == Ended::Spent && of_group < self.nodes[key as usize].left;
        ring.end(&mut self.nodes, key, bytes, if cut_short { Ended::Blocked } else { how });
        self.len -= before - ring.len();
        if !is_one {
            // Others of the group go on, as far as it is allowed.
            let how = if ring.is_empty() || cut_short { how } else { Ended::Blocked };
            self.groups.end(&mut self.group_nodes, group, bytes, how);
        }
    }

    /// `key` is gone.
    pub(crate) fn remove(&mut self, key: u32) {
        if self.contains(key) {
            let group = self.nodes[key as usize].group;
            let ring = &mut self.rings[group as usize];
            ring.leave(&mut self.nodes, key);
            self.len -= 1;
            if ring.is_empty() && self.rings.len() > 1 {
                self.groups.leave(&mut self.group_nodes, group);
            }
        }
        if let Some(node) = self.nodes.get_mut(key as usize) {
            let rotation = self.rings.get(node.group as usize).map_or(0, |ring| ring.rotation);
            *node = Node { rotation, group: node.group, ..Node::NEW };
        }
    }

    const fn is_one_group(&self) -> bool {
        self.rings.len() == 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One turn of whoever is next, who wants `wants` bytes in packets of 1 000.
    fn turn(turns: &mut Turns, wants: &mut [u64]) -> Option<(u32, u32)> {
        let (key, allowed) = turns.next()?;
        let want = &mut wants[key as usize];
        let bytes = (*want).min(u64::from(allowed / 1000 * 1000).max(1000)) as u32;
        *want -= u64::from(bytes);
        turns.end(key, bytes, if *want == 0 { Ended::Done } else { Ended::Spent });
        Some((key, bytes))
    }

    #[test]
    fn bulk_takes_turns_and_a_request_waits_for_one() {
        let mut turns = Turns::new();
        let mut wants = [1 << 40, 1 << 40, 1 << 40, 0];
        (0..3).for_each(|key| turns.push(key, 0));
        // Each begins fresh.
        while turns.rings[0].fresh.len > 0 {
            turn(&mut turns, &mut wants);
        }
        let order: Vec<u32> = (0..3).map(|_| turn(&mut turns, &mut wants).unwrap().0).collect();
        assert_eq!(order.iter().sum::<u32>(), 3, "{order:?}");
        // A small one goes first, each time it comes, however often within one rotation.
        for expected in [order.clone(), order.clone(), order].concat() {
            wants[3] = 1000;
            turns.push(3, 0);
            assert_eq!(turn(&mut turns, &mut wants), Some((3, 1000)));
            assert_eq!(turn(&mut turns, &mut wants), Some((expected, 65_000)));
        }
    }

    #[test]
    fn who_asks_often_gets_a_quantum_per_rotation() {
        let mut turns = Turns::new();
        let mut wants = [1 << 40, 1 << 40, 0];
        turns.push(0, 0);
        turns.push(1, 0);
        let mut sent = [0; 3];
        for _ in 0..10_000 {
            wants[2] = 5000;
            turns.push(2, 0);
            let (key, bytes) = turn(&mut turns, &mut wants).unwrap();
            sent[key as usize] += u64::from(bytes);
        }
        assert!(sent[2] <= sent[0] * 11 / 10 && sent[0].abs_diff(sent[1]) <= 65_000, "{sent:?}");
    }

    #[test]
    fn many_small_ones_do_not_starve_a_large_one() {
        let mut turns = Turns::new();
        let mut wants = [5000; 1001];
        wants[1000] = 1 << 40;
        turns.push(1000, 0);
        assert_eq!(turn(&mut turns, &mut wants).unwrap().0, 1000);
        let mut sent = 0;
        for _ in 0..10_000 {
            for key in 0..1000 {
                wants[key as usize] = 5000;
                turns.push(key, 0);
            }
            let (key, bytes) = turn(&mut turns, &mut wants).unwrap();
            sent += if key == 1000 { u64::from(bytes) } else { 0 };
        }
        // One of 15 turns: 14 of 5 000 bytes make a quantum.
        assert!(sent >= 10_000 / 16 * 65_000, "{sent}");
    }

    /// A transfer that its window holds back is bulk all the same: it does not come in front of a request.
    #[test]
    fn who_is_held_by_a_window_takes_turns() {
        let mut turns = Turns::new();
        for key in 0..3 {
            turns.push(key, 0);
            turns.end(key, 5000, Ended::Held);
            turns.push(key, 0);
        }
        turns.push(3, 0);
        assert_eq!(turns.next().unwrap().0, 3);
        turns.end(3, 100, Ended::Done);
        assert_eq!(turns.next().unwrap().0, 0);
        turns.end(0, 5000, Ended::Done);
        turns.push(0, 0);
        assert_eq!(turns.next().unwrap().0, 0, "no longer");
    }

    #[test]
    fn a_blocked_turn_goes_on() {
        let mut turns = Turns::new();
        turns.push(0, 0);
        turns.push(1, 0);
        assert_eq!(turns.next(), Some((0, QUANTUM)));
        turns.end(0, 10_000, Ended::Blocked);
        assert_eq!(turns.next(), Some((0, QUANTUM - 10_000)));
        turns.end(0, 55_000, Ended::Spent);
        assert_eq!(turns.next(), Some((1, QUANTUM)));
    }

    #[test]
    fn a_flow_is_listed_once_and_leaves_no_trace() {
        let mut turns = Turns::new();
        for _ in 0..1000 {
            (0..3).for_each(|key| turns.push(key, 0));
        }
        assert_eq!((turns.len(), turns.nodes.len()), (3, 3));
        turns.end(0, QUANTUM, Ended::Spent);
        turns.remove(0);
        turns.remove(2);
        turns.remove(2);
        turns.push(0, 0);
        assert_eq!(turns.next(), Some((1, QUANTUM)));
        turns.end(1, 1, Ended::Done);
        assert_eq!(turns.next(), Some((0, QUANTUM)), "another flow's: nothing of the first is left");
        turns.end(0, 1, Ended::Done);
        assert!(turns.is_empty() && turns.next().is_none());
    }

    /// Two groups, the second with many keys: each has half, and a key of the second has its share of that.
    #[test]
    fn a_group_gets_no_more_by_having_more_keys() {
        let mut turns = Turns::new();
        let mut wants = [1 << 40; 33];
        turns.push(0, 0);
        (1..33).for_each(|key| turns.push(key, 3));
        let mut sent = [0_u64; 33];
        for _ in 0..6400 {
            let (key, bytes) = turn(&mut turns, &mut wants).unwrap();
            sent[key as usize] += u64::from(bytes);
        }
        let many: u64 = sent[1..].iter().sum();
        assert!(sent[0].abs_diff(many) * 50 < many, "{} against {many}", sent[0]);
        let (least, most) = (sent[1..].iter().min().unwrap(), sent[1..].iter().max().unwrap());
        assert!(most - least <= 8 * u64::from(QUANTUM), "{sent:?}");
        // A group that wants little is served first.
        wants[0] = 1000;
        while turns.contains(0) {
            turn(&mut turns, &mut wants);
        }
        for _ in 0..10 {
            let mut waited = 0;
            wants[0] = 1000;
            turns.push(0, 0);
            while turn(&mut turns, &mut wants).unwrap().0 != 0 {
                waited += 1;
            }
            assert!(waited <= 3, "{waited} turns of others");
            for _ in 0..70 {
                turn(&mut turns, &mut wants);
            }
        }
    }

    proptest! {
        /// Whatever happens, the lists hold exactly who is ready, and everybody's turn comes.
        #[test]
        fn nobody_is_lost(steps in prop::collection::vec((0..7u8, 0..8u32, 0..70_000u32), 0..300), groups in 1..4u32) {
            let mut turns = Turns::new();
            let mut ready = std::collections::BTreeSet::new();
            for (step, key, bytes) in steps {
                match step {
                    0 | 1 => {
                        turns.push(key, key % groups);
                        ready.insert(key);
                    }
                    2 => {
                        turns.remove(key);
                        ready.remove(&key);
                    }
                    _ => {
                        let Some((key, allowed)) = turns.next() else { continue };
                        prop_assert!(ready.contains(&key) && (1..=QUANTUM).contains(&allowed));
                        let how = [Ended::Done, Ended::Held, Ended::Spent, Ended::Blocked][usize::from(step) - 3];
                        turns.end(key, bytes.min(allowed), how);
                        if matches!(how, Ended::Done | Ended::Held) {
                            ready.remove(&key);
                        }
                    }
                }
                prop_assert_eq!(turns.len(), ready.len());
                prop_assert!((0..8).all(|key| turns.contains(key) == ready.contains(&key)));
            }
            let mut waiting = ready.clone();
            for _ in 0..20 * ready.len() {
                let Some((key, _)) = turns.next() else { break };
                waiting.remove(&key);
                turns.end(key, QUANTUM, Ended::Spent);
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
