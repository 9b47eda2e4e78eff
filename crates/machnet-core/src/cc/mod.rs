//! Congestion control: how many bytes a flow may have in flight.

mod aimd;

pub use aimd::Aimd;

use crate::Instant;

/// A congestion controller of one flow. It sees sizes and times, never packets.
pub trait Controller: Send + std::fmt::Debug {
    /// A packet of `bytes` sent at `sent` was acknowledged for the first time. `limited` is true if the window, not
    /// the application, was what held the sender back.
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, limited: bool);

    /// A packet sent at `sent` was declared lost.
    fn on_loss(&mut self, now: Instant, sent: Instant);

    /// Bytes that may be in flight.
    fn window(&self) -> u64;
}
