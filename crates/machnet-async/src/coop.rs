//! Cooperation with tokio's scheduler.
//!
//! A flow that always has a message, or room, would never let its task yield. tokio's own types share a budget per poll
//! of a task for that, and flows take part in it. Outside tokio nothing happens.

use std::task::{Context, Poll};

/// Calls `poll` unless the task has used its budget up: then it is pending, and woken at once.
pub(crate) fn poll<T>(cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let budget = std::task::ready!(tokio::task::coop::poll_proceed(cx));
    let result = poll(cx);
    if result.is_ready() {
        budget.made_progress();
    }
    result
}
