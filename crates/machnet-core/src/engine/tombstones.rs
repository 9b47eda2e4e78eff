//! Flows that are over and only answer late packets: so many, and then the oldest is forgotten
//! (`docs/spec/flow.md#limits`).

use std::collections::VecDeque;

/// See the module. Knows flows by key and id; some of those may be forgotten already, and count until they reach the front.
#[derive(Debug)]
pub(crate) struct Tombstones {
    order: VecDeque<(u32, u64)>,
    most: usize,
}

impl Tombstones {
    pub(crate) const fn new(most: u32) -> Self {
        Self { order: VecDeque::new(), most: most as usize }
    }

    /// Adds a flow; returns the one to forget for it.
    pub(crate) fn push(&mut self, key: u32, id: u64, mut lives: impl FnMut(u32, u64) -> bool) -> Option<(u32, u64)> {
        while self.order.front().is_some_and(|&(key, id)| !lives(key, id)) {
            self.order.pop_front();
        }
        self.order.push_back((key, id));
        if self.order.len() > self.most { self.order.pop_front() } else { None }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_the_forgotten_do_not_count() {
        let mut tombstones = Tombstones::new(2);
        assert_eq!(tombstones.push(1, 10, |_, _| true), None);
        assert_eq!(tombstones.push(2, 20, |_, _| true), None);
        assert_eq!(tombstones.push(3, 30, |_, _| true), Some((1, 10)));
        assert_eq!(tombstones.push(4, 40, |key, _| key != 2), None, "2 was forgotten");
        assert_eq!(tombstones.push(5, 50, |_, _| true), Some((3, 30)));
        assert_eq!(tombstones.len(), 2);
    }
}
