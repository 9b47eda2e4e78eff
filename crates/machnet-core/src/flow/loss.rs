//! Packets that were sent and not acknowledged, and which of them are lost (`docs/spec/flow.md#loss-and-time`).
//!
//! One entry per packet number from `base` on. An entry leaves at the front once it is acknowledged, was nothing to
//! acknowledge, or has been lost for a PTO; the front is the floor that every packet names.

use std::collections::VecDeque;
use std::time::Duration;

use super::Sent;
use crate::Instant;
use crate::seq::expand;
use crate::wire::AckBlock;

/// RFC 9002 §6.1.1.
const REORDERING: u64 = 3;

/// The span of numbers that may be outstanding: well within what a packet's floor field can say.
pub(crate) const MAX_SPAN: u64 = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InFlight,
    Acknowledged,
    Lost(Instant),
    /// Elicits nothing.
    Quiet,
}

#[derive(Debug)]
struct Packet {
    sent: Instant,
    bytes: u32,
    /// How many entries of `contents` are its own, and how many there ever were before them.
    contents: u32,
    first: u64,
    fate: Fate,
    /// The window was what held the sender back when this was sent.
    limited: bool,
}

impl Packet {
    /// Where its contents are, once `gone` have left the front.
    const fn contents_after(&self, gone: u64) -> std::ops::Range<usize> {
        let first = (self.first - gone) as usize;
        first..first + self.contents as usize
    }
}

/// What an acknowledgement brought.
#[derive(Debug, Default)]
pub(crate) struct AckResult {
    /// Something was acknowledged for the first time.
    pub(crate) new: bool,
    /// When the largest number, if newly acknowledged, was sent.
    pub(crate) sample: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Outstanding {
    base: u64,
    packets: VecDeque<Packet>,
    /// What the packets carried, in the same order.
    contents: VecDeque<Sent>,
    /// Entries that have left `contents`.
    contents_gone: u64,
    in_flight: u64,
    /// Entries below this index are not in flight.
    scan_from: usize,
    largest_acked: Option<u64>,
    loss_at: Option<Instant>,
    /// When the last eliciting packet was sent.
    last_sent: Instant,
    /// When something was last acknowledged, or the first packet after a pause was sent.
    progress: Instant,
    backoff: u32,
    pub(crate) packets_lost: u64,
}

impl Outstanding {
    pub(crate) const fn new() -> Self {
        Self {
            base: 0,
            packets: VecDeque::new(),
            contents: VecDeque::new(),
            contents_gone: 0,
            in_flight: 0,
            scan_from: 0,
            largest_acked: None,
            loss_at: None,
            last_sent: Instant::ZERO,
            progress: Instant::ZERO,
            backoff: 0,
            packets_lost: 0,
        }
    }

    /// The number of the next packet.
    pub(crate) fn next(&self) -> u64 {
        self.base + self.packets.len() as u64
    }

    /// Forgets, and gives the memory back, if nothing is in flight: nobody asks about what was acknowledged or lost.
    pub(crate) fn shed(&mut self) {
        if self.in_flight == 0 {
            self.base = self.next();
            self.scan_from = 0;
            self.loss_at = None;
            self.packets = VecDeque::new();
            self.contents = VecDeque::new();
        }
    }

    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.packets.len()
    }

    /// Bytes sent, neither acknowledged nor lost.
    pub(crate) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// True if the span of numbers leaves room for another packet with content. If it does not, what is lost is
    /// forgotten early: only something in flight, which has a timer, may keep the sender waiting.
    pub(crate) fn has_span(&mut self) -> bool {
        while self.packets.len() as u64 >= MAX_SPAN {
            if self.packets.front().is_none_or(|packet| packet.fate == Fate::InFlight) {
                return false;
            }
            self.forget_oldest();
        }
        true
    }

    fn forget_oldest(&mut self) {
        let Some(packet) = self.packets.pop_front() else { return };
        self.contents.drain(..packet.contents as usize);
        self.contents_gone += u64::from(packet.contents);
        self.base += 1;
        self.scan_from = self.scan_from.saturating_sub(1);
    }

    /// Forgets what nobody asks about any more, and returns how far back the floor lies from the next number.
    pub(crate) fn floor_distance(&mut self, now: Instant, pto: Duration) -> u16 {
        while let Some(packet) = self.packets.front() {
            let keep = match packet.fate {
                Fate::InFlight => true,
                Fate::Lost(at) => now < at + pto,
                Fate::Acknowledged | Fate::Quiet => false,
            };
            if keep {
                break;
            }
            self.forget_oldest();
        }
        u16::try_from(self.packets.len()).unwrap_or(u16::MAX)
    }

    /// Records a packet with its contents; a packet without any elicits nothing. A probe of the MTU counts 0 bytes: neither window nor
    /// PTO know of it.
    pub(crate) fn sent(&mut self, now: Instant, bytes: u32, contents: &[Sent], limited: bool) {
        let fate = if contents.is_empty() { Fate::Quiet } else { Fate::InFlight };
        if fate == Fate::InFlight {
            if self.in_flight == 0 {
                self.progress = now;
            }
            self.in_flight += u64::from(bytes);
            self.last_sent = now;
        }
        let first = self.contents_gone + self.contents.len() as u64;
        self.contents.extend(contents);
        self.packets.push_back(Packet { sent: now, bytes, contents: contents.len() as u32, first, fate, limited });
    }

    /// True if the block speaks only of numbers that were sent.
    pub(crate) fn is_plausible(&self, block: &AckBlock) -> bool {
        expand(block.largest, self.next()) < self.next()
    }

    /// True if the packet with this number was sent, with content, and is not acknowledged.
    pub(crate) fn is_outstanding(&self, number: u32) -> bool {
        let number = expand(number, self.next());
        let packet = number.checked_sub(self.base).and_then(|i| self.packets.get(i as usize));
        packet.is_some_and(|packet| matches!(packet.fate, Fate::InFlight | Fate::Lost(_)))
    }

    /// Applies a plausible block. `acked` is called with what was acknowledged for the first time, `cc` with each
    /// packet's time, bytes and whether the window limited it.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        block: &AckBlock,
        mut acked: impl FnMut(Sent),
        mut cc: impl FnMut(Instant, u64, bool),
    ) -> AckResult {
        let largest = expand(block.largest, self.next());
        let mut result = AckResult::default();
        if largest < self.base {
            return result;
        }
        self.largest_acked = self.largest_acked.max(Some(largest));
        let run_start = (largest + 1).saturating_sub(block.run.into());
        let words = u64::from(block.words) * 64;
        // The bitmap's lowest number; entries below it are not spoken of.
        let low = if words == 0 { run_start } else { run_start.saturating_sub(1 + words) }.max(self.base);
        let mut content_acked = false;
        for number in low..=largest {
            let packet = &mut self.packets[(number - self.base) as usize];
            let reported = number >= run_start || {
                // `run_start - 1` is the hole, which has no bit.
                let bit = (run_start - 1).wrapping_sub(1 + number);
                number + 1 < run_start && block.bitmap[(bit / 64) as usize] >> (63 - bit % 64) & 1 == 1
            };
            if !reported || !matches!(packet.fate, Fate::InFlight | Fate::Lost(_)) {
                continue;
            }
            if packet.fate == Fate::InFlight {
                self.in_flight -= u64::from(packet.bytes);
            }
            packet.fate = Fate::Acknowledged;
            result.new = true;
            if number == largest {
                result.sample = Some(packet.sent);
            }
            cc(packet.sent, packet.bytes.into(), packet.limited);
            for &sent in self.contents.range(packet.contents_after(self.contents_gone)) {
                content_acked |= !matches!(sent, Sent::Ping(_) | Sent::Probe(_));
                acked(sent);
            }
        }
        if result.new {
            self.progress = now;
            // A PING alone that gets through, while data does not, is no reason to send that faster: the receiver may
            // have no memory for it.
            if content_acked || self.in_flight == 0 {
                self.backoff = 0;
            }
        }
        result
    }

    /// Declares lost what is. `lost` is called with what was in it, `cc` with when each packet was sent.
    pub(crate) fn detect(
        &mut self,
        now: Instant,
        loss_delay: Duration,
        mut lost: impl FnMut(Sent),
        mut cc: impl FnMut(Instant),
    ) {
        self.loss_at = None;
        let Some(largest) = self.largest_acked.filter(|&n| n >= self.base) else { return };
        let end = (largest - self.base) as usize;
        let mut still = None;
        for i in self.scan_from.min(end)..end {
            let packet = &mut self.packets[i];
            if packet.fate != Fate::InFlight {
                continue;
            }
            let due = packet.sent + loss_delay;
            if end - i >= REORDERING as usize || due <= now {
                packet.fate = Fate::Lost(now);
                self.in_flight -= u64::from(packet.bytes);
                // That a probe of the MTU is lost is no sign of congestion (RFC 8899 §3).
                if packet.bytes > 0 {
                    self.packets_lost += 1;
                    cc(packet.sent);
                }
                self.contents.range(packet.contents_after(self.contents_gone)).copied().for_each(&mut lost);
            } else {
                still.get_or_insert(i);
                self.loss_at = Some(self.loss_at.map_or(due, |at| at.min(due)));
            }
        }
        self.scan_from = still.unwrap_or(end);
    }

    /// When to look again: at a loss by time, else at a PTO.
    pub(crate) fn deadline(&self, pto: Duration) -> Option<Instant> {
        if self.loss_at.is_some() {
            return self.loss_at;
        }
        (self.in_flight > 0).then(|| self.probe_from() + pto)
    }

    /// What a PTO counts from: the last packet sent, or the last news of the peer. While acknowledgements of a long
    /// queue trickle in, and no window or credit lets us send, nothing needs a probe (as RFC 6298 §5.3 restarts).
    fn probe_from(&self) -> Instant {
        self.last_sent.max(self.progress)
    }

    /// When the last eliciting packet was sent.
    pub(crate) const fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// Expirations of the PTO in a row.
    pub(crate) const fn backoff(&self) -> u32 {
        self.backoff
    }

    /// True if the deadline that passed was a PTO's: then the caller sends probes.
    pub(crate) fn on_timeout(&mut self, now: Instant, pto: Duration) -> bool {
        let expired = self.loss_at.is_none() && self.in_flight > 0 && self.probe_from() + pto <= now;
        self.backoff += u32::from(expired);
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::super::send::Part;
    use super::*;

    const fn part(id: u32) -> Sent {
        Sent::Message(Part { id, offset: 0, len: 1 })
    }

    fn block(largest: u32, run: u16) -> AckBlock {
        AckBlock { largest, run, delay_us: 0, words: 0, bitmap: [0; 16] }
    }

    fn filled(n: u32) -> Outstanding {
        let mut sent = Outstanding::new();
        for i in 0..n {
            sent.sent(Instant(u64::from(i)), 100, &[part(i)], true);
        }
        sent
    }

    #[test]
    fn three_later_acknowledgements_declare_a_loss_once() {
        let mut sent = filled(5);
        let mut acked = Vec::new();
        let result = sent.on_ack(Instant(10), &block(3, 3), |c| acked.push(c), |_, _, _| {});
        assert!(result.new && result.sample == Some(Instant(3)));
        assert_eq!(acked, [part(1), part(2), part(3)]);
        let mut lost = Vec::new();
        sent.detect(Instant(10), Duration::from_secs(1), |c| lost.push(c), |_| {});
        assert_eq!(lost, [part(0)]);
        assert_eq!((sent.in_flight(), sent.packets_lost), (100, 1));
        sent.detect(Instant(10), Duration::from_secs(1), |_| panic!("declared twice"), |_| {});
        // Spurious: the acknowledgement still counts.
        let result = sent.on_ack(Instant(11), &block(3, 4), |c| acked.push(c), |_, _, _| {});
        assert!(result.new && acked.last() == Some(&part(0)));
        assert_eq!(sent.in_flight(), 100);
        assert_eq!(sent.floor_distance(Instant(11), Duration::ZERO), 1);
    }

    #[test]
    fn one_later_acknowledgement_declares_it_by_time() {
        let mut sent = filled(2);
        let _ = sent.on_ack(Instant(10), &block(1, 1), |_| {}, |_, _, _| {});
        let delay = Duration::from_nanos(100);
        sent.detect(Instant(10), delay, |_| panic!("too early"), |_| {});
        assert_eq!(sent.deadline(Duration::from_secs(1)), Some(Instant(100)));
        let mut lost = 0;
        sent.detect(Instant(100), delay, |_| lost += 1, |_| {});
        assert_eq!((lost, sent.in_flight()), (1, 0));
        // The floor stays until it has been lost for a PTO.
        assert_eq!(sent.floor_distance(Instant(150), Duration::from_nanos(51)), 2);
        assert_eq!(sent.floor_distance(Instant(151), Duration::from_nanos(51)), 0);
        assert_eq!(sent.next(), 2);
    }

    #[test]
    fn the_bitmap_is_read_as_it_is_written() {
        let mut acks = super::super::acks::Acks::new();
        for number in [0, 1, 3, 4, 7, 9, 10] {
            acks.record(Instant::ZERO, number, 0);
        }
        let mut sent = filled(12);
        let mut acked = Vec::new();
        let _ = sent.on_ack(Instant(20), &acks.block(Instant::ZERO, true).unwrap(), |c| acked.push(c), |_, _, _| {});
        assert_eq!(acked, [0, 1, 3, 4, 7, 9, 10].map(part));
    }

    #[test]
    fn numbers_never_sent_are_implausible_and_old_ones_harmless() {
        let mut sent = filled(3);
        assert!(!sent.is_plausible(&block(3, 1)));
        assert!(!sent.is_plausible(&block(u32::MAX, 1)));
        assert!(sent.is_plausible(&block(2, 1)));
        assert!(sent.is_outstanding(2) && !sent.is_outstanding(3));
        let _ = sent.on_ack(Instant(5), &block(2, u16::MAX), |_| {}, |_, _, _| {});
        assert!(!sent.is_outstanding(2));
        sent.floor_distance(Instant(5), Duration::ZERO);
        let result = sent.on_ack(Instant(6), &block(1, 2), |_| panic!("twice"), |_, _, _| {});
        assert!(!result.new);
    }

    #[test]
    fn a_timeout_backs_off_until_something_is_acknowledged() {
        let mut sent = filled(4);
        let pto = Duration::from_nanos(1000);
        assert_eq!(sent.deadline(pto), Some(Instant(1003)));
        assert!(!sent.on_timeout(Instant(1002), pto));
        assert!(sent.on_timeout(Instant(1003), pto));
        assert_eq!(sent.backoff(), 1);
        let _ = sent.on_ack(Instant(1100), &block(0, 1), |_| {}, |_, _, _| {});
        assert_eq!((sent.backoff(), sent.deadline(pto)), (0, Some(Instant(2100))));
    }
}
