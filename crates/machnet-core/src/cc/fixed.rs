//! A window that never changes: for measuring everything else.

use super::{Acked, Controller, Lost, MAX_WINDOW};
use crate::time::Span;

/// See the module.
#[derive(Debug)]
pub struct Fixed(u64);

impl Fixed {
    /// A window of `bytes`, but at least one `packet`.
    #[must_use]
    pub fn new(bytes: u32, packet: u32) -> Self {
        Self(u64::from(bytes).clamp(packet.into(), MAX_WINDOW.max(packet.into())))
    }
}

impl Controller for Fixed {
    fn on_ack(&mut self, _: &Acked) {}

    fn on_loss(&mut self, _: &Lost) {}

    fn on_undo(&mut self) {}

    fn on_restart(&mut self, _: Span, _: Span) {}

    fn set_packet(&mut self, bytes: u32) {
        self.0 = self.0.max(bytes.into());
    }

    fn window(&self) -> u64 {
        self.0
    }

    fn pacing_gain(&self) -> Option<f64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_a_packet_and_no_more_than_any_path() {
        assert_eq!(Fixed::new(0, 1200).window(), 1200);
        assert_eq!(Fixed::new(65_536, 1200).window(), 65_536);
        assert_eq!(Fixed::new(u32::MAX, 1200).window(), MAX_WINDOW);
    }
}
