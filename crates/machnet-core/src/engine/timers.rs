//! A hierarchical timing wheel: one timer per flow, set and moved in constant time, without allocation per timer.
//!
//! Level 0 has ticks of 8.192 µs; each higher level is 64 times coarser. A timer waits in the slot of its deadline and
//! moves down as the time comes; it never fires early, and late by less than one tick plus the engine's own delay.

use crate::Instant;

const TICK_BITS: u32 = 13;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 5 levels of 64 slots: 2 h 26 min ahead. Later deadlines wait in the last slot, and move on from there.
const LEVELS: usize = 5;
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    deadline: Instant,
    prev: u32,
    next: u32,
    /// `level * SLOTS + slot`, or [`NIL`] if not set.
    list: u32,
    /// It is among those that may fire before their time.
    early: bool,
}

/// Timers named by small numbers.
#[derive(Debug)]
pub(crate) struct Timers {
    nodes: Vec<Node>,
    heads: [u32; LEVELS * SLOTS],
    /// Bit per slot that is not empty.
    occupied: [u64; LEVELS],
    /// The tick that was last expired.
    tick: u64,
    /// No slot begins before this tick: until then there is nothing to expire or to move down.
    next: u64,
    /// What [`Timers::next_deadline`] found, until something is moved.
    found: Option<Option<Instant>>,
    /// Timers that may fire before their time, each once, and some that did.
    early: Vec<u32>,
}

impl Timers {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            heads: [NIL; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            tick: 0,
            next: u64::MAX,
            found: None,
            early: Vec::new(),
        }
    }

    /// Sets, moves or (with `None`) removes the timer of `key`.
    pub(crate) fn set(&mut self, key: u32, deadline: Option<Instant>) {
        let index = key as usize;
        if index >= self.nodes.len() {
            if deadline.is_none() {
                return;
            }
            self.nodes
                .resize(index + 1, Node { deadline: Instant::ZERO, prev: NIL, next: NIL, list: NIL, early: false });
        }
        let node = self.nodes[index];
        if node.list != NIL {
            if deadline == Some(node.deadline) {
                return;
            }
            self.unlink(key);
        }
        if let Some(deadline) = deadline {
            self.nodes[index].deadline = deadline;
            self.link(key);
        }
    }

    /// As [`Timers::set`], but a timer that would be moved to a later time may stay: it fires too early then, unless it is set
    /// again before, which [`Timers::next_early`] reminds of. Most are moved with each packet, and few ever fire.
    pub(crate) fn postpone(&mut self, key: u32, deadline: Option<Instant>) {
        match self.nodes.get_mut(key as usize) {
            Some(node) if node.list != NIL && deadline.is_none_or(|at| at >= node.deadline) => {
                if deadline != Some(node.deadline) && !std::mem::replace(&mut node.early, true) {
                    self.early.push(key);
                }
            }
            _ => self.set(key, deadline),
        }
    }

    /// A timer that may fire before its time: it is to be set anew.
    pub(crate) fn next_early(&mut self) -> Option<u32> {
        let key = self.early.pop()?;
        self.nodes[key as usize].early = false;
        Some(key)
    }

    /// Removes every timer due at `now` and gives its key to `due`.
    #[inline]
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<u32>) {
        let target = now.0 >> TICK_BITS;
        if target < self.next {
            // Nothing lies between. What is set from here on must not wait in a slot that has begun.
            self.tick = self.tick.max(target);
        } else {
            self.turn(now, target, due);
        }
    }

    /// Turns the wheel to the tick `target`.
    fn turn(&mut self, now: Instant, target: u64, due: &mut Vec<u32>) {
        self.found = None;
        loop {
            // What is due within the current tick, and everything in level 0 up to the target.
            self.expire_slot(now, due);
            if self.tick >= target {
                self.next = self.next_slot().unwrap_or(u64::MAX);
                return;
            }
            // Jump to the next tick at which an occupied slot begins, however far: who slept for a day, with a timer for
            // the next, must not turn through every tick between.
            self.tick = self.next_slot().map_or(target, |next| next.min(target));
            if self.tick.is_multiple_of(SLOTS as u64) {
                self.cascade();
            }
        }
    }

    /// The earliest deadline, or a moment before it at which the wheel must turn.
    #[inline]
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        if let Some(found) = self.found {
            return found;
        }
        let found = self.find_deadline();
        self.found = Some(found);
        found
    }

    fn find_deadline(&self) -> Option<Instant> {
        let mut best: Option<Instant> = None;
        for level in 0..LEVELS {
            let Some(ahead) = self.next_in_level(level) else { continue };
            let shift = SLOT_BITS * level as u32;
            let tick = (self.tick >> shift) + ahead;
            let at = if level == 0 {
                // The slot's own earliest deadline.
                let mut at = self.heads[(tick % SLOTS as u64) as usize];
                let mut earliest = Instant(u64::MAX);
                while at != NIL {
                    let node = &self.nodes[at as usize];
                    earliest = earliest.min(node.deadline);
                    at = node.next;
                }
                earliest
            } else {
                Instant((tick << shift) << TICK_BITS)
            };
            best = Some(best.map_or(at, |b| b.min(at)));
        }
        best
    }

    /// The tick at which the next occupied slot begins; the current one, if it is that.
    fn next_slot(&self) -> Option<u64> {
        let begins = (0..LEVELS).filter_map(|level| {
            let shift = SLOT_BITS * level as u32;
            Some(((self.tick >> shift) + self.next_in_level(level)?) << shift)
        });
        begins.min()
    }

    /// How many slots ahead of the current one the next occupied slot of `level` is.
    fn next_in_level(&self, level: usize) -> Option<u64> {
        let occupied = self.occupied[level];
        if occupied == 0 {
            return None;
        }
        let here = (self.tick >> (SLOT_BITS * level as u32)) % SLOTS as u64;
        let ahead = u64::from(occupied.rotate_right(here as u32).trailing_zeros());
        // A slot "0 ahead" of a higher level has been cascaded; what is in it again is a whole turn away.
        Some(if ahead == 0 && level > 0 { SLOTS as u64 } else { ahead })
    }

    fn expire_slot(&mut self, now: Instant, due: &mut Vec<u32>) {
        let slot = (self.tick % SLOTS as u64) as usize;
        let mut at = self.heads[slot];
        while at != NIL {
            let node = self.nodes[at as usize];
            if node.deadline <= now {
                self.unlink(at);
                due.push(at);
            }
            at = node.next;
        }
    }

    /// Moves what the coarser levels hold for the time from the current tick on down, coarsest first.
    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            let shift = SLOT_BITS * level as u32;
            if !self.tick.is_multiple_of(1 << shift) {
                continue;
            }
            let slot = (self.tick >> shift) as usize % SLOTS;
            let list = level * SLOTS + slot;
            let mut at = std::mem::replace(&mut self.heads[list], NIL);
            self.occupied[level] &= !(1 << slot);
            while at != NIL {
                let next = self.nodes[at as usize].next;
                self.link(at);
                at = next;
            }
        }
    }

    fn link(&mut self, key: u32) {
        self.found = None;
        let deadline = self.nodes[key as usize].deadline;
        let tick = (deadline.0 >> TICK_BITS).max(self.tick);
        let ahead = tick - self.tick;
        let level = (0..LEVELS - 1).find(|&l| ahead < 1 << (SLOT_BITS * (l as u32 + 1))).unwrap_or(LEVELS - 1);
        let shift = SLOT_BITS * level as u32;
        // Beyond the horizon: the slot that is last to come.
        let tick = tick.min(self.tick + ((SLOTS as u64 - 1) << shift));
        let slot = (tick >> shift) as usize % SLOTS;
        let list = (level * SLOTS + slot) as u32;
        let head = self.heads[list as usize];
        let node = &mut self.nodes[key as usize];
        (node.prev, node.next, node.list) = (NIL, head, list);
        if head != NIL {
            self.nodes[head as usize].prev = key;
        }
        self.heads[list as usize] = key;
        self.occupied[level] |= 1 << slot;
        self.next = self.next.min(tick >> shift << shift);
    }

    fn unlink(&mut self, key: u32) {
        self.found = None;
        let node = self.nodes[key as usize];
        self.nodes[key as usize].list = NIL;
        if node.next != NIL {
            self.nodes[node.next as usize].prev = node.prev;
        }
        if node.prev == NIL {
            self.heads[node.list as usize] = node.next;
            if node.next == NIL {
                self.occupied[node.list as usize / SLOTS] &= !(1 << (node.list as usize % SLOTS));
            }
        } else {
            self.nodes[node.prev as usize].next = node.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fires_every_timer_once_and_never_early(
            steps in prop::collection::vec((0..20u32, 0..40u32, 0..35u32, any::<bool>()), 1..200),
        ) {
            let mut timers = Timers::new();
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut now = Instant::ZERO;
            for (key, ahead, step, remove) in steps {
                let deadline = (!remove).then(|| Instant(now.0 + (1u64 << ahead) + u64::from(key)));
                timers.set(key, deadline);
                match deadline {
                    Some(at) => model.insert(key, at),
                    None => model.remove(&key),
                };
                let earliest = model.values().min().copied();
                prop_assert_eq!(timers.next_deadline().is_some(), earliest.is_some());
                if let (Some(next), Some(earliest)) = (timers.next_deadline(), earliest) {
                    prop_assert!(next <= earliest);
                }
                now = Instant(now.0 + (1u64 << step));
                let mut due = Vec::new();
                timers.expire(now, &mut due);
                due.sort_unstable();
                let expected: Vec<u32> = model.iter().filter(|(_, at)| **at <= now).map(|(k, _)| *k).collect();
                prop_assert_eq!(due, expected);
                model.retain(|_, at| *at > now);
            }
            // Following `next_deadline` reaches the rest, in few turns.
            let mut turns = 0;
            while let Some(next) = timers.next_deadline() {
                now = now.max(next);
                let mut due = Vec::new();
                timers.expire(now, &mut due);
                for key in due {
                    prop_assert!(model.remove(&key).is_some_and(|at| at <= now));
                }
                turns += 1;
                prop_assert!(turns < 200);
            }
            prop_assert!(model.is_empty());
        }
    }

    /// A postponed timer fires early and never late, until it is set again.
    #[test]
    fn what_is_postponed_may_stay() {
        let mut timers = Timers::new();
        let at = |ms: u64| Some(Instant(ms * 1_000_000));
        for key in [1, 2, 3] {
            timers.set(key, at(10));
        }
        timers.postpone(1, at(30));
        timers.postpone(1, None);
        timers.postpone(1, at(20));
        timers.postpone(2, at(5));
        timers.postpone(3, at(40));
        assert_eq!(timers.next_deadline(), at(5).map(|at| Instant(at.0 >> 19 << 19)));
        let mut due = Vec::new();
        timers.expire(Instant(5_000_000), &mut due);
        assert_eq!(due, [2]);
        assert_eq!((timers.next_early(), timers.next_early()), (Some(3), Some(1)));
        assert_eq!(timers.next_early(), None, "each once");
        timers.set(3, at(40));
        timers.expire(Instant(10_000_000), &mut due);
        assert_eq!(due, [2, 1], "one was not set again");
        timers.expire(Instant(39_999_999), &mut due);
        assert_eq!(due, [2, 1]);
        timers.expire(Instant(40_000_000), &mut due);
        assert_eq!(due, [2, 1, 3]);
    }

    /// One timer per key, however often it is moved: as many as flows (or peers) there can be.
    #[test]
    fn moving_a_timer_takes_no_memory() {
        let mut timers = Timers::new();
        for at in 0..100_000 {
            timers.set(at as u32 % 6, Some(Instant(at * 1_000_003 % 50_000_000_000)));
        }
        assert_eq!(timers.nodes.len(), 6);
        let mut due = Vec::new();
        timers.expire(Instant(100_000_000_000), &mut due);
        due.sort_unstable();
        assert_eq!(due, [0, 1, 2, 3, 4, 5]);
    }
}
