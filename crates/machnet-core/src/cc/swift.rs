//! Swift (Kumar et al., SIGCOMM 2020): the round trip is held at a target, windows below one packet are paced.
//!
//! What differs from the paper, and why, is in `docs/spec/flow.md#swift`: the target is relative to the smallest round
//! trip, which is looked for by draining the queue now and then; it starts by doubling; loss below 2 % with a short
//! queue is not congestion.

use super::{Acked, Controller, INITIAL_PACKETS, Lost, MAX_WINDOW, decayed};
use crate::Instant;
use crate::time::Span;

/// The paper's additive increase per round trip, packets; its β; and the most that one decrease takes.
const AI: f64 = 1.0;
const BETA: f64 = 0.8;
const MAX_MDF: f64 = 0.5;
/// The least window, packets (the paper's fs_min_cwnd): one packet in 100 round trips.
const MIN_WINDOW: f64 = 0.01;
/// Queueing that is wanted: the paper's base target of 25 µs, or an eighth of the smallest round trip, what its jitter
/// may be on a long path.
const MARGIN: f64 = 25e-6;
const MARGIN_PART: f64 = 0.125;
/// Flow scaling (paper §3.3): what is added at a window of `FS_MIN` packets; nothing is from `FS_MAX` on.
const FS_RANGE: f64 = 4.0 * MARGIN;
const FS_MIN: f64 = 0.1;
const FS_MAX: f64 = 100.0;
/// Loss that is not taken for congestion while the round trip is below its target: BBR's BBRLossThresh.
const TOLERATED: f32 = 0.02;
/// Packets over which it is measured, and with how many good ones a measurement begins, so that one loss says nothing.
const LOSS_WINDOW: f32 = 2048.0;
const LOSS_PRIOR: f32 = 128.0;
/// A round trip counts as it is if at most this part of the target may have been spent waiting for our own engine.
const GAP_PART: u32 = 4;
/// Every so many round trips the window is halved for two, to see the path without our own queue: costs less than 1 %.
const DRAIN_EVERY: u16 = 128;
const DRAIN_FOR: u16 = 2;
const DRAIN: f64 = 0.5;
/// As [`super::cubic`].
const GAIN: f64 = 1.25;
const SLOW_START_GAIN: f64 = 2.0;

/// See the module.
#[derive(Debug)]
pub struct Swift {
    packet: u32,
    /// Packets.
    window: f64,
    /// When it was last decreased.
    decreased: Instant,
    /// The window before a loss decreased it, and whether that ended the start.
    before: f64,
    was_starting: bool,
    /// Packets acknowledged since the last sample of the round trip.
    gathered: f64,
    /// A round trip is over when something sent from here on is acknowledged; how many were since the last draining.
    round: Instant,
    rounds: u16,
    starting: bool,
    /// Recent packets, and how many of them were lost.
    sent: f32,
    lost: f32,
}

impl Swift {
    /// A controller of a flow whose packets are at most `packet` bytes long.
    #[must_use]
    pub const fn new(packet: u32) -> Self {
        Self {
            packet,
            window: INITIAL_PACKETS as f64,
            decreased: Instant::ZERO,
            before: 0.0,
            was_starting: false,
            gathered: 0.0,
            round: Instant::ZERO,
            rounds: 0,
            starting: true,
            sent: LOSS_PRIOR,
            lost: 0.0,
        }
    }

    /// The round trip that is aimed at.
    #[must_use]
    pub fn target(&self, min: Span) -> Span {
        let min = min.as_secs_f64();
        let alpha = FS_RANGE / (FS_MIN.sqrt().recip() - FS_MAX.sqrt().recip());
        let scaled = alpha * (self.window.sqrt().recip() - FS_MAX.sqrt().recip());
        Span::from_secs_f64(min + MARGIN.max(MARGIN_PART * min) + scaled.clamp(0.0, FS_RANGE))
    }

    /// At most once per round trip.
    fn may_decrease(&self, now: Instant, rtt: Span) -> bool {
        self.decreased == Instant::ZERO || now.after(self.decreased) >= rtt
    }

    fn decrease(&mut self, now: Instant, factor: f64) {
        self.window *= factor.max(1.0 - MAX_MDF);
        self.decreased = now;
        self.starting = false;
        self.gathered = 0.0;
        self.clamp();
    }

    fn clamp(&mut self) {
        self.window = self.window.clamp(MIN_WINDOW, (MAX_WINDOW / u64::from(self.packet)).max(2) as f64);
    }

    const fn is_draining(&self) -> bool {
        self.rounds >= DRAIN_EVERY
    }

    /// Notes `packets` of which `lost` were lost.
    fn measure(&mut self, packets: f32, lost: f32) {
        self.sent += packets;
        self.lost += lost;
        if self.sent > LOSS_WINDOW {
            self.sent /= 2.0;
            self.lost /= 2.0;
        }
    }
}

impl Controller for Swift {
    fn on_ack(&mut self, acked: &Acked) {
        let packets = acked.bytes as f64 / f64::from(self.packet);
        self.measure(packets as f32, 0.0);
        if acked.newest >= self.round {
            self.round = acked.now;
            self.rounds = if self.rounds >= DRAIN_EVERY + DRAIN_FOR || self.starting { 0 } else { self.rounds + 1 };
        }
        self.gathered = (self.gathered + acked.limited as f64 / f64::from(self.packet)).min(self.window.max(1.0));
        let target = self.target(acked.min);
        let Some(mut rtt) = acked.rtt else { return };
        if acked.gap > target / GAP_PART {
            // That our engine was kept from looking is no congestion: the acknowledgement may have waited all that time,
            // and the packet as long, in a round like this one, before it left.
            rtt = rtt.saturating_sub(2 * acked.gap).max(acked.min.min(rtt));
        }
        if rtt < target {
            // Below a packet the paper counts packets, whatever their length.
            let gathered = std::mem::take(&mut self.gathered).max(if self.window < 1.0 { 1.0 } else { 0.0 });
            self.window += if self.starting {
                gathered
            } else if self.is_draining() {
                0.0
            } else {
                AI * gathered / self.window.max(1.0)
            };
            self.clamp();
        } else if self.may_decrease(acked.now, acked.smoothed) {
            let excess = (rtt - target).as_secs_f64() / rtt.as_secs_f64();
            // Who does not even fill his window is not the reason: a packet at a time is what he may always send.
            let floor = if acked.limited > 0 { 0.0 } else { self.window.min(1.0) };
            self.decrease(acked.now, (1.0 - BETA * excess).max(floor / self.window));
        }
    }

    fn on_loss(&mut self, lost: &Lost) {
        self.measure(lost.packets as f32, lost.packets as f32);
        if lost.persistent {
            self.window = MIN_WINDOW.max(1.0);
            self.starting = false;
            self.decreased = lost.now;
            return;
        }
        let new = self.decreased == Instant::ZERO || lost.newest > self.decreased;
        if new && self.lost > TOLERATED * self.sent && self.may_decrease(lost.now, lost.smoothed) {
            (self.before, self.was_starting) = (self.window, self.starting);
            self.decrease(lost.now, 1.0 - MAX_MDF);
            // What was measured was answered.
            (self.sent, self.lost) = (LOSS_PRIOR, 0.0);
        }
    }

    fn on_undo(&mut self) {
        self.window = self.window.max(std::mem::take(&mut self.before));
        self.starting |= std::mem::take(&mut self.was_starting);
        self.lost = 0.0;
        self.clamp();
    }

    fn on_restart(&mut self, idle: Span, pto: Span) {
        self.window = decayed(self.window, INITIAL_PACKETS.into(), idle, pto);
        self.gathered = 0.0;
    }

    fn set_packet(&mut self, bytes: u32) {
        let factor = f64::from(self.packet) / f64::from(bytes);
        for packets in [&mut self.window, &mut self.before, &mut self.gathered] {
            *packets *= factor;
        }
        self.packet = bytes;
        self.clamp();
    }

    fn window(&self) -> u64 {
        let part = if self.is_draining() { DRAIN } else { 1.0 };
        ((self.window * part).max(1.0) * f64::from(self.packet)) as u64
    }

    fn fraction(&self) -> Option<f64> {
        (self.window < 1.0).then_some(self.window)
    }

    fn pacing_gain(&self) -> Option<f64> {
        Some(if self.starting { SLOW_START_GAIN } else { GAIN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Span {
        Span::from_micros(n)
    }

    const MIN: Span = us(100);

    fn acked(now: u64, bytes: u64, rtt: Span) -> Acked {
        let newest = Instant(now * 1000) - rtt;
        Acked {
            now: Instant(now * 1000),
            bytes,
            limited: bytes,
            newest,
            rtt: Some(rtt),
            gap: us(31),
            smoothed: rtt,
            min: MIN,
        }
    }

    fn lost(now: u64, packets: u32) -> Lost {
        let newest = Instant(now * 1000) - MIN;
        Lost { now: Instant(now * 1000), packets, newest, persistent: false, smoothed: MIN }
    }

    fn settled(window: f64) -> Swift {
        Swift { starting: false, window, ..Swift::new(1000) }
    }

    #[test]
    fn the_target_is_higher_for_small_windows() {
        assert_eq!(settled(100.0).target(us(100)), us(125));
        assert_eq!(settled(1000.0).target(us(8000)), us(9000));
        assert_eq!(settled(0.1).target(us(100)), us(225));
        assert_eq!(settled(0.01).target(us(100)), us(225));
        let one = settled(1.0).target(us(100));
        assert!(us(150) < one && one < us(160), "{one:?}");
    }

    #[test]
    fn starts_by_doubling_and_ends_with_the_first_queue() {
        let mut cc = Swift::new(1000);
        cc.on_ack(&acked(1000, 32_000, us(100)));
        assert_eq!(cc.window(), 64_000);
        cc.on_ack(&acked(1100, 64_000, us(250)));
        // 0.8 · (250 − target)/250, and once per round trip.
        let window = cc.window;
        assert!(window > 32.0 && window < 40.0, "{window}");
        cc.on_ack(&acked(1200, 32_000, us(250)));
        assert!((cc.window - window).abs() < 1e-9);
        cc.on_ack(&acked(1300, (window * 1000.0) as u64, us(100)));
        assert!((cc.window - window - 1.0).abs() < 0.05, "{}", cc.window);
    }

    #[test]
    fn without_a_sample_nothing_is_decided_and_nothing_forgotten() {
        let mut cc = settled(10.0);
        cc.on_ack(&Acked { rtt: None, ..acked(1000, 2000, us(900)) });
        assert!((cc.window - 10.0).abs() < 1e-9);
        cc.on_ack(&acked(1001, 8000, us(100)));
        assert!((cc.window - 11.0).abs() < 1e-9);
    }

    #[test]
    fn what_our_own_engine_waited_does_not_count() {
        let mut cc = settled(10.0);
        // 4 ms in which nobody looked.
        cc.on_ack(&Acked { gap: us(4000), ..acked(10_000, 10_000, us(4100)) });
        assert!((cc.window - 11.0).abs() < 1e-9, "{}", cc.window);
        cc.on_ack(&Acked { gap: us(4000), ..acked(20_000, 10_000, us(8500)) });
        assert!(cc.window < 8.0, "{}", cc.window);
    }

    #[test]
    fn who_sends_little_may_always_send_a_packet() {
        let mut cc = settled(1.5);
        for now in 1..20 {
            cc.on_ack(&Acked { limited: 0, ..acked(now * 10_000, 64, us(4000)) });
        }
        assert!((cc.window - 1.0).abs() < 1e-9, "{}", cc.window);
    }

    #[test]
    fn below_a_packet_it_counts_in_fractions() {
        let mut cc = settled(1.0);
        let mut now = 1000;
        for _ in 0..4 {
            now += 10_000;
            cc.on_ack(&acked(now, 1000, us(5000)));
        }
        assert!((cc.window - 0.0625).abs() < 1e-9, "{}", cc.window);
        assert_eq!((cc.fraction(), cc.window()), (Some(cc.window), 1000));
        cc.on_ack(&acked(now + 20_000, 64, us(100)));
        assert!((cc.window - 1.0625).abs() < 1e-9 && cc.fraction().is_none());
    }

    #[test]
    fn loss_counts_from_two_percent_on() {
        let mut cc = settled(50.0);
        let mut now = 1000;
        for _ in 0..100 {
            now += 200;
            cc.on_ack(&acked(now, 100_000, us(100)));
            cc.on_loss(&lost(now, 1));
        }
        assert!(cc.window > 100.0, "{}", cc.window);
        let before = cc.window;
        for _ in 0..60 {
            now += 200;
            cc.on_ack(&acked(now, 25_000, us(100)));
            cc.on_loss(&lost(now, 1));
        }
        assert!(cc.window < before / 1.8, "{}", cc.window);
        cc.on_loss(&Lost { persistent: true, ..lost(now, 1) });
        assert!((cc.window - 1.0).abs() < 1e-9);
    }

    #[test]
    fn an_undone_loss_costs_nothing() {
        for starting in [false, true] {
            let mut cc = Swift { starting, ..settled(50.0) };
            cc.on_loss(&lost(1000, 10));
            assert!((cc.window - 25.0).abs() < 1e-9 && !cc.starting);
            cc.on_undo();
            assert!((cc.window - 50.0).abs() < 1e-9 && cc.starting == starting);
        }
    }

    #[test]
    fn now_and_then_it_looks_at_the_path_without_its_queue() {
        let mut cc = settled(50.0);
        let (mut now, mut drained) = (1000, 0);
        for _ in 0..2 * u32::from(DRAIN_EVERY + DRAIN_FOR + 1) {
            now += 200;
            cc.on_ack(&acked(now, 1000, us(100)));
            drained += u32::from(cc.is_draining());
            assert_eq!(cc.window() < 40_000, cc.is_draining());
        }
        assert_eq!(drained, 2 * u32::from(DRAIN_FOR + 1));
    }
}
