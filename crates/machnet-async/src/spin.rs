//! The bounded spin in `recv`, for runtimes with several workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use machnet_channel::{Chunks, FlowState, Pump, RecvEnd};

/// How often the inbox is looked at between two looks at clock and state.
const LOOKS: u32 = 32;

/// Looks for a message for up to `limit`, without anybody being registered: the engine calls no waker meanwhile.
pub(crate) fn for_message(end: &mut RecvEnd, limit: Duration) -> Option<Chunks> {
    if limit.is_zero() {
        return None;
    }
    if let Some(message) = end.take_chunks() {
        return Some(message);
    }
    let looking = Looking::new(end);
    let began = Instant::now();
    loop {
        for _ in 0..LOOKS {
            let message = if looking.has_news() { end.take_chunks() } else { end.take_delivered() };
            if message.is_some() {
                return message;
            }
            std::hint::spin_loop();
        }
        let state = end.mailbox().state();
        if state.has(FlowState::READ_ENDED) || state.has(FlowState::CLOSED) || began.elapsed() >= limit {
            return None;
        }
    }
}

/// While it lives, the engine of another process need not ring.
struct Looking(Option<Arc<dyn Pump>>);

impl Looking {
    fn new(end: &RecvEnd) -> Self {
        let pump = end.mailbox().intake().pump().cloned();
        if let Some(pump) = &pump {
            pump.looks(true);
        }
        Self(pump)
    }

    fn has_news(&self) -> bool {
        self.0.as_ref().is_some_and(|pump| pump.has_news())
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        if let Some(pump) = &self.0 {
            pump.looks(false);
        }
    }
}
