//! The bounded spin in `recv`, for runtimes with several workers.

use std::time::{Duration, Instant};

use machnet_channel::{FlowState, Message, RecvEnd};

/// How often the inbox is looked at between two looks at clock and state.
const LOOKS: u32 = 32;

/// Looks for a message for up to `limit`, without anybody being registered: the engine calls no waker meanwhile.
pub(crate) fn for_message(end: &mut RecvEnd, limit: Duration) -> Option<Message> {
    if limit.is_zero() {
        return None;
    }
    let began = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if let Some(message) = end.take() {
                return Some(message);
            }
            std::hint::spin_loop();
        }
        let state = end.mailbox().state();
        if state.has(FlowState::READ_ENDED) || state.has(FlowState::CLOSED) || began.elapsed() >= limit {
            return None;
        }
    }
}
