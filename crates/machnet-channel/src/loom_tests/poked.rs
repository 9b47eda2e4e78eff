use std::sync::Arc;
use std::task::Context;

use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;

use super::model;
use crate::{Poked, Work};

/// What engines tell by relaxed stores, and what was seen of it when last worked.
struct Sees {
    told: Arc<[AtomicU32; 2]>,
    seen: [u32; 2],
    /// Works whose rest is not done.
    rests: Arc<AtomicU32>,
}

impl Work for Sees {
    type Rest = Arc<AtomicU32>;

    fn work(&mut self, _cx: &Context<'_>) -> Self::Rest {
        self.seen = [self.told[0].load(Relaxed), self.told[1].load(Relaxed)];
        self.rests.fetch_add(1, Relaxed);
        Arc::clone(&self.rests)
    }

    fn finish(rests: Self::Rest) {
        rests.fetch_sub(1, Relaxed);
    }
}

/// A task uses the state `uses` times while each of `pokers` tells something and pokes, `pokes` times: when all is quiet,
/// all was seen.
fn is_worked_on(uses: usize, pokers: usize, pokes: u32, preemptions: usize) {
    model(preemptions, move || {
        let told = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let rests = Arc::new(AtomicU32::new(0));
        let cell = Poked::new(Sees { told: Arc::clone(&told), seen: [0, 0], rests: Arc::clone(&rests) });
        let pokers: Vec<_> = (0..pokers)
            .map(|number| {
                let (cell, told) = (Arc::clone(&cell), Arc::clone(&told));
                thread::spawn(move || {
                    for poke in 1..=pokes {
                        told[number].store(poke, Relaxed);
                        cell.waker().wake();
                    }
                })
            })
            .collect();
        for _ in 0..uses {
            cell.with(|_| ());
        }
        let all = pokers.len();
        for poker in pokers {
            poker.join().unwrap();
        }
        assert_eq!(rests.load(Relaxed), 0);
        // No look of our own: it would work on what was left.
        let seen = cell.quietly(|state| state.seen);
        for number in 0..all {
            assert_eq!(seen[number], pokes, "a poke was lost");
        }
    });
}

#[test]
fn a_poke_is_worked_on_by_poker_or_holder() {
    is_worked_on(2, 1, 2, 4);
}

#[test]
fn two_pokers_and_a_holder() {
    is_worked_on(1, 2, 1, 3);
}
