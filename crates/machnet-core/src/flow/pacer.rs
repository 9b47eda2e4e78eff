//! Pacing: a window is spread over its round trip, in bursts (`docs/spec/flow.md#pacing`).

use crate::cc::Controller;
use crate::time::Span;
use crate::{Capabilities, Instant};

/// Packets sent at once on sockets: one GSO batch, which costs little more than one packet.
const SOCKET_PACKETS: u32 = 64;
/// How late a sleeping engine may be woken by its timer. What is due meanwhile goes in one burst.
const SOCKET_TIMER: Span = Span::from_millis(1);
/// Packets sent at once on polled drivers: an eighth of the LCD's ring, and the initial window.
const POLLED_PACKETS: u32 = 32;
/// A polled engine looks at its timers this often, or about: one tick of the wheel.
const POLLED_TIMER: Span = Span::from_micros(8);

/// How far a paced flow may be ahead of its rate: the more of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Burst {
    packets: u32,
    time: Span,
}

impl Burst {
    /// What suits a driver.
    pub(crate) const fn of(driver: &Capabilities) -> Self {
        if driver.can_sleep {
            Self { packets: SOCKET_PACKETS, time: SOCKET_TIMER }
        } else {
            Self { packets: POLLED_PACKETS, time: POLLED_TIMER }
        }
    }
}

#[derive(Debug)]
pub(super) struct Pacer {
    /// When everything sent so far is paid for, ns, twice; and 1 if the burst is spent, so that the next begins then. In
    /// one word, for each flow has it.
    twice: u64,
}

/// Who waits so many times longer than the pace of now would have it waits for a round trip that is no more: of a host that
/// stood still, say. Less is what paces vary by.
const STALE: u32 = 4;

impl Pacer {
    pub(super) const fn new() -> Self {
        Self { twice: 0 }
    }

    const fn paid(&self) -> Instant {
        Instant(self.twice >> 1)
    }

    const fn waits(&self) -> bool {
        self.twice & 1 == 1
    }

    fn set(&mut self, paid: Instant, waits: bool) {
        self.twice = paid.0 << 1 | u64::from(waits);
    }

    /// True if a packet may go now, by the window and round trip as they are.
    pub(super) fn is_ready(
        &mut self,
        now: Instant,
        cc: &impl Controller,
        rtt: Span,
        packet: u32,
        burst: Burst,
    ) -> bool {
        let paid = self.paid();
        if paid <= now {
            self.set(paid, false);
            return true;
        }
        // Below one packet there are no bursts.
        let ahead = match cc.fraction() {
            Some(_) => Span::ZERO,
            None => burst.time.max(cost(cc, rtt, packet, u64::from(burst.packets) * u64::from(packet))),
        };
        if self.waits() {
            let longest = ahead + cost(cc, rtt, packet, packet.into());
            self.set(paid.min(now + STALE * longest), true);
        } else {
            self.set(paid, paid > now + ahead);
        }
        !self.waits()
    }

    /// A packet of `bytes` was sent.
    pub(super) fn sent(&mut self, now: Instant, cc: &impl Controller, rtt: Span, packet: u32, bytes: u64) {
        self.set(self.paid().max(now) + cost(cc, rtt, packet, bytes), self.waits());
    }

    /// When the next burst begins, if one is waited for.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waits().then_some(self.paid())
    }
}

/// How long `bytes` take at the controller's pace.
fn cost(cc: &impl Controller, rtt: Span, packet: u32, bytes: u64) -> Span {
    let Some(gain) = cc.pacing_gain() else { return Span::ZERO };
    let window = match cc.fraction() {
        // One packet, however short, takes its share.
        Some(fraction) => return Span::from_nanos((rtt.0 as f64 / fraction) as u64),
        None => cc.window().max(packet.into()) as f64,
    };
    Span::from_nanos((rtt.0 as f64 * bytes as f64 / (gain * window)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cc::Swift;

    /// A flow found by fuzzing stood still for 47 s: its peer had, and the pace was still that of the round trip meanwhile.
    #[test]
    fn nobody_waits_at_the_pace_of_a_round_trip_that_is_no_more() {
        let (cc, now) = (Swift::new(1000), Instant(1));
        let burst = Burst { packets: 64, time: Span::from_nanos(1_000_000) };
        let (long, short) = (Span::from_nanos(10_000_000_000), Span::from_nanos(100_000));
        let mut pacer = Pacer::new();
        while pacer.is_ready(now, &cc, long, 1000, burst) {
            pacer.sent(now, &cc, long, 1000, 1000);
        }
        assert!(pacer.deadline().unwrap() > now + long);
        assert!(!pacer.is_ready(now, &cc, short, 1000, burst));
        assert!(pacer.deadline().unwrap() < now + Span::from_nanos(10_000_000), "{pacer:?}");
    }
}
