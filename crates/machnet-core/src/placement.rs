//! Which engine of an endpoint a new flow from outside is to be at
//! (`docs/adr/0017-several-engines-hand-over-and-probe.md`).
//!
//! ```text
//!   INIT ─▶ engine that was hit ── hash of who sent it ──▶ its director ── least loaded that listens ──▶ its engine
//!                                                        └ remembers it: the next copy goes there, too
//! ```
//!
//! Every copy of an INIT comes to the same director, so what that remembers is its own: nothing is shared but a count of flows
//! for each engine, and who listens where.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Instant;
use crate::ports::PortWords;

/// A count in a line of its own: each engine writes its own in nearly every handshake.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Load(AtomicU64);

/// What the engines of an endpoint know of each other.
#[derive(Debug)]
pub(crate) struct Board {
    /// Flows at each engine, and on their way to it.
    loads: Box<[Load]>,
    /// The engines that listen at a port, a bit each.
    listening: PortWords,
}

impl Board {
    pub(crate) fn new(engines: usize) -> Self {
        Self { loads: (0..engines).map(|_| Load::default()).collect(), listening: PortWords::new() }
    }

    /// An engine listens at a port from now on, or no more.
    pub(crate) fn set_listening(&self, engine: u8, port: u16, listens: bool) {
        let word = self.listening.make(port);
        if listens {
            word.fetch_or(1 << engine, Ordering::Relaxed);
        } else {
            word.fetch_and(!(1 << engine), Ordering::Relaxed);
        }
    }

    /// The engines that listen at a port.
    pub(crate) fn listeners(&self, port: u16) -> u64 {
        self.listening.get(port).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// An engine has `n` flows more, or one is on its way to it.
    pub(crate) fn add(&self, engine: u8, n: u64) {
        self.loads[usize::from(engine)].0.fetch_add(n, Ordering::Relaxed);
    }

    /// And fewer.
    pub(crate) fn remove(&self, engine: u8, n: u64) {
        self.loads[usize::from(engine)].0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Of the engines in `among` one with the fewest flows, the first from `from` on. `among` names at least one.
    pub(crate) fn least(&self, among: u64, from: u8) -> u8 {
        let count = self.loads.len() as u8;
        let engines = (0..count).map(|n| (from + n) % count).filter(|engine| among >> engine & 1 == 1);
        let load = |engine: &u8| self.loads[usize::from(*engine)].0.load(Ordering::Relaxed);
        engines.min_by_key(load).unwrap_or(from)
    }
}

/// What a director remembers: where it sent whom. Bounded; when it is full, it keeps for itself who comes.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    engines: BTreeMap<(IpAddr, u64), u8>,
    /// In the order in which they are forgotten.
    until: VecDeque<(Instant, (IpAddr, u64))>,
}

impl Placed {
    /// Where the INIT of `who` was sent before.
    pub(crate) fn find(&mut self, now: Instant, who: &(IpAddr, u64)) -> Option<u8> {
        while let Some((_, old)) = self.until.front().filter(|(until, _)| *until <= now) {
            self.engines.remove(old);
            self.until.pop_front();
        }
        self.engines.get(who).copied()
    }

    /// Remembers it `until` then, which is never before that of others. False if there are `most` already.
    pub(crate) fn insert(&mut self, until: Instant, who: (IpAddr, u64), engine: u8, most: u32) -> bool {
        if self.engines.len() >= most as usize {
            return false;
        }
        self.engines.insert(who, engine);
        self.until.push_back((until, who));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_of_those_that_listen() {
        let board = Board::new(4);
        for engine in [0, 2, 3] {
            board.set_listening(engine, 9000, true);
        }
        assert_eq!(board.listeners(9000), 0b1101);
        assert_eq!(board.listeners(9001), 0);
        // Equal: who asks.
        assert_eq!(board.least(0b1101, 2), 2);
        assert_eq!(board.least(0b1101, 1), 2);
        board.add(2, 2);
        board.add(3, 1);
        assert_eq!(board.least(0b1101, 2), 0);
        board.add(0, 3);
        assert_eq!(board.least(0b1101, 0), 3);
        board.remove(0, 3);
        board.set_listening(0, 9000, false);
        assert_eq!((board.listeners(9000), board.least(board.listeners(9000), 0)), (0b1100, 3));
    }

    #[test]
    fn what_was_placed_is_found_until_then_and_no_more_than_the_most() {
        let (mut placed, ip) = (Placed::default(), IpAddr::from([10, 0, 0, 1]));
        assert!(placed.insert(Instant(100), (ip, 1), 3, 2));
        assert!(placed.insert(Instant(200), (ip, 2), 1, 2));
        assert!(!placed.insert(Instant(200), (ip, 3), 1, 2));
        assert_eq!(placed.find(Instant(99), &(ip, 1)), Some(3));
        assert_eq!(placed.find(Instant(100), &(ip, 1)), None);
        assert_eq!(placed.find(Instant(100), &(ip, 2)), Some(1));
        assert!(placed.insert(Instant(300), (ip, 3), 0, 2));
        assert_eq!(placed.find(Instant(400), &(ip, 3)), None);
        assert!(placed.engines.is_empty() && placed.until.is_empty());
    }
}
