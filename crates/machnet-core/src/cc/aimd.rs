//! Additive increase, multiplicative decrease: RFC 9002 §7, in bytes.

use super::Controller;
use crate::Instant;

/// Initial window in packets: a datacentre's, where RFC 9002's 10 is the Internet's. 32 is one LCD receive ring's eighth.
const INITIAL_PACKETS: u64 = 32;
/// RFC 9002 §7.2.
const MIN_PACKETS: u64 = 2;
/// More than any path here holds; keeps arithmetic and buffers bounded.
const MAX_WINDOW: u64 = 16 << 20;

/// See the module.
#[derive(Debug)]
pub struct Aimd {
    packet: u64,
    window: u64,
    threshold: u64,
    /// Losses of packets sent before this belong to a reduction that was made.
    recovery_start: Option<Instant>,
    /// Bytes acknowledged towards the next increase.
    gathered: u64,
}

impl Aimd {
    /// A controller of a flow whose packets are at most `packet` bytes long.
    #[must_use]
    pub const fn new(packet: u64) -> Self {
        Self { packet, window: INITIAL_PACKETS * packet, threshold: u64::MAX, recovery_start: None, gathered: 0 }
    }
}

impl Controller for Aimd {
    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, limited: bool) {
        if !limited || self.recovery_start.is_some_and(|start| sent <= start) {
            return;
        }
        if self.window < self.threshold {
            self.window += bytes;
        } else {
            self.gathered += bytes;
            if self.gathered >= self.window {
                self.gathered -= self.window;
                self.window += self.packet;
            }
        }
        self.window = self.window.min(MAX_WINDOW);
    }

    fn on_loss(&mut self, now: Instant, sent: Instant) {
        if self.recovery_start.is_some_and(|start| sent <= start) {
            return;
        }
        self.recovery_start = Some(now);
        self.window = (self.window / 2).max(MIN_PACKETS * self.packet);
        self.threshold = self.window;
        self.gathered = 0;
    }

    fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_then_halves_once_per_round_then_grows_by_one() {
        let mut cc = Aimd::new(1000);
        let w0 = cc.window();
        cc.on_ack(Instant(10), Instant(1), w0, true);
        assert_eq!(cc.window(), 2 * w0);
        cc.on_loss(Instant(20), Instant(15));
        cc.on_loss(Instant(21), Instant(16));
        assert_eq!(cc.window(), w0);
        cc.on_ack(Instant(22), Instant(17), w0, true);
        assert_eq!(cc.window(), w0, "packets sent before the reduction do not grow the window");
        cc.on_ack(Instant(40), Instant(30), w0, true);
        assert_eq!(cc.window(), w0 + 1000);
    }

    #[test]
    fn an_idle_application_does_not_grow_it_and_losses_leave_two_packets() {
        let mut cc = Aimd::new(1000);
        let w0 = cc.window();
        cc.on_ack(Instant(10), Instant(1), w0, false);
        assert_eq!(cc.window(), w0);
        for i in 0..50 {
            cc.on_loss(Instant(100 * i + 100), Instant(100 * i + 99));
        }
        assert_eq!(cc.window(), 2000);
    }
}
