//! What will happen, in order of time, and of creation where the times are equal.
//!
//! The heap holds small keys; what happens waits in a slab, so that the heap does not move datagrams about.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use machnet_core::Instant;

/// A queue of things to happen.
#[derive(Debug)]
pub(crate) struct EventQueue<T> {
    heap: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    waiting: Vec<Option<T>>,
    vacant: Vec<u32>,
    /// How many were ever scheduled: the order of those at one moment.
    order: u64,
}

impl<T> EventQueue<T> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), waiting: Vec::new(), vacant: Vec::new(), order: 0 }
    }

    /// Lets `what` happen at `at`.
    pub(crate) fn push(&mut self, at: Instant, what: T) {
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.waiting[slot as usize] = Some(what);
                slot
            }
            None => {
                self.waiting.push(Some(what));
                self.waiting.len() as u32 - 1
            }
        };
        self.heap.push(Reverse((at, self.order, slot)));
        self.order += 1;
    }

    /// When the next thing happens.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|&Reverse((at, ..))| at)
    }

    /// The next thing, if it happens until `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, T)> {
        if self.next()? > now {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.vacant.push(slot);
        self.waiting[slot as usize].take().map(|what| (at, what))
    }

    /// How many things wait.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_time_then_of_creation() {
        let mut queue = EventQueue::new();
        for (at, name) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b')] {
            queue.push(Instant(at), name);
        }
        assert_eq!((queue.next(), queue.len()), (Some(Instant(3)), 4));
        assert_eq!(queue.pop(Instant(2)), None);
        queue.push(Instant(3), 'A');
        let order: String = std::iter::from_fn(|| queue.pop(Instant(9))).map(|(_, name)| name).collect();
        assert_eq!(order, "aAbcd");
    }
}
