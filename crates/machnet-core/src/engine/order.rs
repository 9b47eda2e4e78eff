//! In which order flows have their turns: those of groups that did little lately before all others, while the channel
//! [sorts](crate::AppChannel::grain) them.

use super::turns::{Ended, Turns};

/// See the module.
#[derive(Debug)]
pub(super) struct Order {
    first: Turns,
    /// Those of groups that did much.
    last: Turns,
    /// The turn is one of `last`.
    is_last: bool,
}

impl Order {
    pub(super) const fn new() -> Self {
        Self { first: Turns::new(), last: Turns::new(), is_last: false }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_empty() && self.last.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.first.len() + self.last.len()
    }

    /// `key`, of `group`, has something to send.
    pub(super) fn push(&mut self, key: u32, group: u32, is_heavy: bool) {
        if is_heavy {
            // If its group was another kind before, it is found out when it has its turn.
            if !self.first.contains(key) {
                self.last.push(key, group);
            }
            return;
        }
        if !self.last.is_empty() {
            self.last.remove(key);
        }
        self.first.push(key, group);
    }

    /// The group of `key`, whose turn it is, has come to do much: it has its turn after the others.
    pub(super) fn put_last(&mut self, key: u32, group: u32) {
        self.first.remove(key);
        self.last.push(key, group);
    }

    /// True if `key` is to have a turn.
    pub(super) fn contains(&self, key: u32) -> bool {
        self.first.contains(key) || self.last.contains(key)
    }

    /// Whose turn it is, how many bytes it may send, and whether its group is one that did much. `sorts`: those of others come first;
    /// else what is left of the former does. Say how it ended by [`Order::end`].
    pub(super) fn next(&mut self, sorts: bool) -> Option<(u32, u32, bool)> {
        self.is_last = !self.last.is_empty() && (self.first.is_empty() || !sorts);
        let turns = if self.is_last { &mut self.last } else { &mut self.first };
        turns.next().map(|(key, allowed)| (key, allowed, self.is_last))
    }

    /// The turn of `key` ended after `bytes`.
    pub(super) fn end(&mut self, key: u32, bytes: u32, how: Ended) {
        let turns = if self.is_last { &mut self.last } else { &mut self.first };
        turns.end(key, bytes, how);
    }

    /// `key` is gone.
    pub(super) fn remove(&mut self, key: u32) {
        self.first.remove(key);
        self.last.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_did_little_come_first_and_the_rest_is_not_forgotten() {
        let mut order = Order::new();
        order.push(0, 0, true);
        order.push(1, 1, false);
        order.push(1, 1, true);
        assert_eq!(order.len(), 2, "each is in one place");
        assert_eq!(order.next(true).map(|next| (next.0, next.2)), Some((1, false)));
        order.end(1, 100, Ended::Spent);
        assert_eq!(order.next(true).map(|next| next.0), Some(1), "it goes on");
        order.put_last(1, 1);
        assert_eq!(order.next(true).map(|next| (next.0, next.2)), Some((0, true)));
        order.push(1, 1, false);
        assert_eq!(order.next(true).map(|next| (next.0, next.2)), Some((1, false)), "it did little again");
        assert_eq!(order.next(false).map(|next| next.0), Some(0), "nobody sorts any more");
        order.end(0, 100, Ended::Done);
        order.remove(1);
        assert!(order.is_empty() && order.next(false).is_none() && !order.contains(0));
    }
}
