//! What an application uses, and which ports it has, where several engines serve it: quotas count over all of them.
//!
//! Each engine counts for itself, and adds what changed to the sums: so a sum is what it is without any engine waiting for another,
//! and nobody's mistake is another's. A check and what follows from it are two steps: engines that look at the same time may exceed a
//! number of flows or listeners by one each, and the memory by one message each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use machnet_channel::Doorbell;

use crate::ports::PortWords;

/// One application, at all engines.
#[derive(Debug, Default)]
pub struct Account {
    pub(super) flows: Sum,
    /// Ports listened on, at however many engines.
    pub(super) listeners: Sum,
    /// Units taken and not acknowledged.
    pub(super) held: Sum,
    /// Units that flows were given room for.
    pub(super) promised: Sum,
    /// Bytes received for it that wait for room in a pipe.
    pub(super) waiting: Sum,
    /// Engines that left something in its pipe for want of memory, a bit each, and their bells.
    hungry: AtomicU64,
    bells: Vec<Arc<Doorbell>>,
}

/// What several engines add to.
#[derive(Debug, Default)]
pub(super) struct Sum(AtomicU64);

impl Sum {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// One engine's share was `from`, and is `to`.
    pub(super) fn change(&self, from: u64, to: u64) {
        if from != to {
            self.0.fetch_add(to.wrapping_sub(from), Ordering::SeqCst);
        }
    }
}

impl Account {
    /// Of an application that engines with these bells serve, in the order of their numbers.
    #[must_use]
    pub fn new(bells: Vec<Arc<Doorbell>>) -> Arc<Self> {
        Arc::new(Self { bells, ..Self::default() })
    }

    /// An engine found no memory left. It looks once more after this; who frees some rings then.
    pub(super) fn hunger(&self, engine: u8) {
        self.hungry.fetch_or(1 << engine, Ordering::SeqCst);
    }

    /// Memory was freed.
    pub(super) fn feed(&self) {
        if self.hungry.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut hungry = self.hungry.swap(0, Ordering::SeqCst);
        while hungry != 0 {
            if let Some(bell) = self.bells.get(hungry.trailing_zeros() as usize) {
                bell.ring();
            }
            hungry &= hungry - 1;
        }
    }
}

/// Which application listens on which port, at any engine of a daemon: a word for each port, its application and by how many
/// listeners.
#[derive(Debug)]
pub struct Claims(PortWords);

/// Bits of a word that count listeners. Above them is the application's id, so that the count must never carry.
const TIMES: u32 = 8;
/// The most that are counted: one at each of 64 engines, and some that ask for what they have already and are about to be refused.
const MOST: u64 = (1 << TIMES) - 1;

impl Default for Claims {
    fn default() -> Self {
        Self(PortWords::new())
    }
}

impl Claims {
    /// An application is about to listen: `Some(true)` if it did not before, `None` if another one does, or it has asked for this too
    /// often.
    pub(super) fn claim(&self, port: u16, id: u64) -> Option<bool> {
        let more = |word: u64| match word {
            0 => Some(id << TIMES | 1),
            _ if word >> TIMES == id && word & MOST < MOST => Some(word + 1),
            _ => None,
        };
        self.0.make(port).fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|before| before == 0)
    }

    /// True if an application listens there.
    pub(super) fn has(&self, port: u16, id: u64) -> bool {
        self.0.get(port).is_some_and(|word| word.load(Ordering::Acquire) >> TIMES == id)
    }

    /// One of its listeners is gone. True if it was the last.
    pub(super) fn give_up(&self, port: u16, id: u64) -> bool {
        let one = id << TIMES | 1;
        let fewer = |word: u64| match word {
            _ if word >> TIMES != id => None,
            _ if word == one => Some(0),
            _ => Some(word - 1),
        };
        self.0.make(port).fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer) == Ok(one)
    }

    /// An application is gone: its ports are free for others, whether each engine has heard of it or not. Looks at all ports.
    pub fn forget(&self, id: u64) {
        for word in self.0.iter() {
            let gone = |word: u64| (word >> TIMES == id).then_some(0);
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_applications_until_all_its_listeners_or_it_is_gone() {
        let claims = Claims::default();
        assert_eq!([claims.claim(7, 1), claims.claim(7, 1), claims.claim(8, 2)], [Some(true), Some(false), Some(true)]);
        assert_eq!(claims.claim(7, 2), None);
        assert!(!claims.give_up(7, 1));
        assert_eq!(claims.claim(7, 2), None);
        claims.forget(1);
        assert_eq!(claims.claim(7, 2), Some(true));
        // The engine that hears of it late.
        assert!(!claims.give_up(7, 1));
        assert_eq!(claims.claim(7, 3), None);
        assert!(claims.give_up(7, 2) && claims.give_up(8, 2));
        assert_eq!([claims.claim(7, 3), claims.claim(8, 3)], [Some(true); 2]);
    }

    #[test]
    fn who_asks_for_a_port_over_and_over_does_not_give_it_to_another() {
        let claims = Claims::default();
        let granted = (0..1000).filter(|_| claims.claim(7, 1).is_some()).count() as u64;
        assert_eq!((granted, claims.has(7, 1), claims.has(7, 2)), (MOST, true, false));
        claims.forget(1);
        assert_eq!(claims.claim(7, 2), Some(true));
    }

    #[test]
    fn who_frees_memory_rings_who_wanted_it() {
        let bells: Vec<_> = (0..3).map(|_| Arc::new(Doorbell::new())).collect();
        let account = Account::new(bells.clone());
        account.held.change(0, 5);
        account.hunger(2);
        account.held.change(5, 3);
        account.feed();
        account.feed();
        assert_eq!(account.held.get(), 3);
        assert_eq!(account.hungry.load(Ordering::SeqCst), 0);
    }
}
