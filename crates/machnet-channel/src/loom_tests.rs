//! The crate's protocols under loom: every interleaving (up to a number of preemptions) and every value that the memory
//! model lets a load return. `RUSTFLAGS="--cfg machnet_loom" cargo test -p machnet-channel --release`; which seeded
//! defect each model must catch is listed in `mutants.txt`.
//!
//! "Sleep" is loom's `block_on`: who is not woken is reported as a deadlock. Leaked `Arc`s fail a model, too.

mod attachment;
mod backlog;
mod doorbell;
mod frame;
mod hint_queue;
mod inbox;
mod mailbox;
mod poked;
mod ring;
mod shared;
mod spinner;
mod spsc;
mod stock;

use std::future::poll_fn;
use std::task::{Context, Poll};

/// Runs `body` in all interleavings of up to `preemptions` preemptions, or `LOOM_MAX_PREEMPTIONS` if that is set.
fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check(body);
}

/// Sleeps until `poll` is ready.
fn wait<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    loom::future::block_on(poll_fn(poll))
}
