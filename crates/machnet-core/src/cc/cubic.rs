//! CUBIC (RFC 9438), in packets and seconds, with HyStart++ (RFC 9406).

use super::hystart::{Growth, HyStart};
use super::{Acked, Controller, INITIAL_PACKETS, Lost, MAX_WINDOW, decayed};
use crate::Instant;
use crate::time::Span;

/// RFC 9438 §4.1, packets/s³.
const C: f64 = 0.4;
/// RFC 9438 §4.6.
const BETA: f64 = 0.7;
/// RFC 9438 §4.3: as much per round trip as Reno gains on average with its factor of 1/2.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// RFC 9002 §7.2.
const MIN_PACKETS: f64 = 2.0;
/// Pacing: RFC 9002 §7.7 proposes 1.25; in slow start twice the window is underway a round trip later.
const GAIN: f64 = 1.25;
const SLOW_START_GAIN: f64 = 2.0;

/// See the module.
#[derive(Debug)]
pub struct Cubic {
    packet: u32,
    window: f64,
    threshold: f64,
    /// RFC 9438's W_max, and Reno's window since the last reduction (W_est).
    w_max: f64,
    w_est: f64,
    /// When the curve began; zero before the first acknowledgement after a reduction.
    epoch: Instant,
    /// Seconds from then until the window is `w_max` again.
    k: f32,
    /// Acknowledgements and losses of what was sent before this belong to a reduction that was made.
    reduced: Instant,
    /// Window (cwnd_prior), threshold and `w_max` before it.
    before: [f64; 3],
    hystart: HyStart,
}

impl Cubic {
    /// A controller of a flow whose packets are at most `packet` bytes long.
    #[must_use]
    pub const fn new(packet: u32) -> Self {
        Self {
            packet,
            window: INITIAL_PACKETS as f64,
            threshold: f64::INFINITY,
            w_max: 0.0,
            w_est: 0.0,
            epoch: Instant::ZERO,
            k: 0.0,
            reduced: Instant::ZERO,
            before: [0.0; 3],
            hystart: HyStart::new(),
        }
    }

    /// True until the first loss, or the first growth of the round trip.
    fn is_starting(&self) -> bool {
        self.window < self.threshold
    }

    /// W_cubic (RFC 9438 §4.2) at `t` seconds of the epoch.
    fn curve(&self, t: f64) -> f64 {
        C * (t - f64::from(self.k)).powi(3) + self.w_max
    }

    /// One acknowledgement of `packets` in congestion avoidance.
    fn avoid(&mut self, acked: &Acked, packets: f64) {
        if self.epoch == Instant::ZERO {
            if self.window < self.w_max {
                self.k = ((self.w_max - self.window) / C).cbrt() as f32;
            } else {
                // After slow start without loss: from here on convex.
                self.w_max = self.window;
                self.k = 0.0;
            }
            self.w_est = self.window;
            self.epoch = acked.now;
        }
        let t = acked.now.after(self.epoch).as_secs_f64();
        let alpha = if self.w_est >= self.before[0] { 1.0 } else { ALPHA };
        self.w_est += alpha * packets / self.window;
        if self.curve(t) < self.w_est {
            // RFC 9438 §4.3: where Reno would be faster. On paths of microseconds that is always.
            self.window = self.window.max(self.w_est);
        } else {
            let target = self.curve(t + acked.smoothed.as_secs_f64()).clamp(self.window, 1.5 * self.window);
            self.window += (target - self.window) / self.window * packets;
        }
    }

    fn clamp(&mut self) {
        self.window = self.window.clamp(MIN_PACKETS, (MAX_WINDOW / u64::from(self.packet)).max(2) as f64);
    }
}

impl Controller for Cubic {
    fn on_ack(&mut self, acked: &Acked) {
        // The first acknowledgements of all are of what was sent at 0.
        if acked.newest <= self.reduced && self.reduced > Instant::ZERO {
            return;
        }
        let packets = acked.limited as f64 / f64::from(self.packet);
        if self.is_starting() {
            match self.hystart.on_ack(acked) {
                Growth::By(part) => self.window += packets * part,
                Growth::Over => self.threshold = self.window,
            }
        } else if acked.limited == 0 {
            // RFC 9438 §5.8: time in which the application does not fill the window is not the curve's.
            self.epoch = Instant::ZERO;
        } else {
            self.avoid(acked, packets);
        }
        self.clamp();
    }

    fn on_loss(&mut self, lost: &Lost) {
        if lost.newest > self.reduced {
            self.before = [self.window, self.threshold, self.w_max];
            self.reduced = lost.now;
            // Fast convergence (RFC 9438 §4.7): who has less than last time makes room.
            self.w_max = if self.window < self.w_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
            self.window *= BETA;
            self.clamp();
            self.threshold = self.window;
            self.epoch = Instant::ZERO;
        }
        if lost.persistent {
            self.window = MIN_PACKETS;
            self.epoch = Instant::ZERO;
        }
    }

    fn on_undo(&mut self) {
        let [window, threshold, w_max] = self.before;
        if self.window < window {
            (self.window, self.threshold, self.w_max) = (window, threshold, w_max);
            self.epoch = Instant::ZERO;
        }
        // What is still underway from before is no reason to wait.
        self.reduced = Instant::ZERO;
    }

    fn on_restart(&mut self, idle: Span, pto: Span) {
        // RFC 7661's idea, as in Linux: the way back is by slow start.
        if self.threshold.is_finite() {
            self.threshold = self.threshold.max(0.75 * self.window);
        }
        self.window = decayed(self.window, INITIAL_PACKETS.into(), idle, pto);
        self.epoch = Instant::ZERO;
    }

    fn set_packet(&mut self, bytes: u32) {
        let factor = f64::from(self.packet) / f64::from(bytes);
        let [window, threshold, w_max] = &mut self.before;
        for packets in
            [&mut self.window, &mut self.threshold, &mut self.w_max, &mut self.w_est, window, threshold, w_max]
        {
            *packets *= factor;
        }
        self.packet = bytes;
        // The curve is one of packets, too.
        self.epoch = Instant::ZERO;
        self.clamp();
    }

    fn window(&self) -> u64 {
        (self.window * f64::from(self.packet)) as u64
    }

    fn pacing_gain(&self) -> Option<f64> {
        Some(if self.is_starting() { SLOW_START_GAIN } else { GAIN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Span = Span::from_millis(10);

    fn acked(now: u64, bytes: u64) -> Acked {
        let sent = Instant(now) - RTT;
        Acked {
            now: Instant(now),
            bytes,
            limited: bytes,
            newest: sent,
            rtt: Some(RTT),
            gap: Span::ZERO,
            smoothed: RTT,
            min: RTT,
        }
    }

    fn lost(now: u64) -> Lost {
        let newest = Instant(now) - RTT;
        Lost { now: Instant(now), packets: 1, newest, persistent: false, smoothed: RTT }
    }

    /// Acknowledges a window per round trip, for `rounds`.
    fn grow(cc: &mut Cubic, now: &mut u64, rounds: u32) {
        for _ in 0..rounds {
            *now += RTT.as_nanos();
            cc.on_ack(&acked(*now, cc.window()));
        }
    }

    #[test]
    fn doubles_until_a_loss_takes_three_tenths_once_per_round_trip() {
        let mut cc = Cubic::new(1000);
        let mut now = 1_000_000_000;
        grow(&mut cc, &mut now, 2);
        assert_eq!(cc.window(), 128_000);
        cc.on_loss(&lost(now));
        cc.on_loss(&lost(now + 5_000_000));
        assert_eq!(cc.window(), 89_600);
        assert_eq!(cc.pacing_gain(), Some(GAIN));
        cc.on_ack(&acked(now + 5_000_000, 50_000));
        assert_eq!(cc.window(), 89_600, "what was sent before the reduction does not widen the window");
        cc.on_undo();
        assert_eq!((cc.window(), cc.pacing_gain()), (128_000, Some(SLOW_START_GAIN)));
    }

    /// RFC 9438 figure 1: concave towards W_max, a plateau there, then convex.
    #[test]
    fn follows_the_curve_of_rfc_9438() {
        let mut cc = Cubic::new(1000);
        let mut now = 1_000_000_000;
        // 2 048 packets: large enough that Reno is slower.
        grow(&mut cc, &mut now, 6);
        cc.on_loss(&lost(now));
        let w_max = 2048.0;
        // Beyond the round trip of the loss.
        grow(&mut cc, &mut now, 2);
        let k = f64::from(cc.k);
        assert!((k - (w_max * 0.3 / C).cbrt()).abs() < 1e-3, "{k}");
        let rounds = (k / RTT.as_secs_f64()) as u32;
        grow(&mut cc, &mut now, rounds / 2);
        let half = cc.window;
        assert!((half - (w_max - C * (k / 2.0).powi(3))).abs() < 20.0, "{half}");
        grow(&mut cc, &mut now, rounds / 2);
        assert!((cc.window - w_max).abs() < 20.0, "{}", cc.window);
        grow(&mut cc, &mut now, rounds);
        assert!(cc.window > w_max + 0.8 * C * k.powi(3), "{}", cc.window);
    }

    /// On short paths the window of AIMD(α, β) is what counts: ALPHA per round trip, then 1 from where the loss was.
    #[test]
    fn grows_like_reno_where_reno_is_faster() {
        let mut cc = Cubic::new(1000);
        let mut now = 1_000_000_000;
        cc.on_loss(&lost(now));
        grow(&mut cc, &mut now, 1);
        let start = cc.window;
        grow(&mut cc, &mut now, 10);
        assert!((cc.window - start - 10.0 * ALPHA).abs() < 0.5, "{start} {}", cc.window);
        grow(&mut cc, &mut now, 10);
        let prior = cc.window;
        assert!(prior > 32.0);
        grow(&mut cc, &mut now, 10);
        assert!((cc.window - prior - 10.0).abs() < 0.5, "{prior} {}", cc.window);
    }

    #[test]
    fn fast_convergence_makes_room() {
        let mut cc = Cubic::new(1000);
        cc.on_loss(&lost(1_000_000_000));
        assert!((cc.w_max - 32.0).abs() < 1e-9);
        cc.on_loss(&lost(1_100_000_000));
        assert!((cc.w_max - 32.0 * 0.7 * 0.85).abs() < 1e-9);
    }

    #[test]
    fn idle_and_starved_flows() {
        let mut cc = Cubic::new(1000);
        let mut now = 1_000_000_000;
        cc.on_ack(&Acked { limited: 0, ..acked(now, 32_000) });
        assert_eq!(cc.window(), 32_000, "the application did not fill it");
        grow(&mut cc, &mut now, 3);
        cc.on_loss(&lost(now));
        let window = cc.window;
        cc.on_restart(10 * RTT, RTT);
        assert_eq!(cc.window(), 32_000);
        assert!(cc.is_starting() && (cc.threshold - window).abs() < 1e-9);
        cc.on_loss(&Lost { persistent: true, ..lost(now + 1_000_000_000) });
        assert_eq!(cc.window(), 2000);
        for i in 0..50 {
            cc.on_loss(&lost(now + (i + 2) * 1_000_000_000));
        }
        assert_eq!(cc.window(), 2000);
    }
}
