//! Packets that were sent and not acknowledged, and which of them are lost (`docs/spec/flow.md#loss`).
//!
//! One entry per packet number from `base` on. An entry leaves at the front once it is acknowledged, was nothing to
//! acknowledge, or has been lost for a PTO; the front is the floor that every packet names.
//!
//! A packet is lost if a later one arrived, an acknowledgement said that this one did not (bitless blocks are silent about what is
//! below their run), and it is as old as [`Rack`] allows.

use std::collections::VecDeque;

use super::Sent;
use super::alarm::Alarm;
use super::rack::Rack;
use super::rtt::Rtt;
use crate::Instant;
use crate::seq::expand;
use crate::time::Span;
use crate::wire::{AckBlock, MAX_BITMAP_WORDS};

/// Numbers below a run that a block can speak of.
const REPORTABLE: u64 = 64 * MAX_BITMAP_WORDS as u64;

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
    /// A block said that it had not arrived.
    missing: bool,
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
    /// Bytes of the packets newly acknowledged, and of those that were sent when the window was the limit.
    pub(crate) bytes: u64,
    pub(crate) limited: u64,
    /// When the newest of them was sent.
    pub(crate) newest: Instant,
    /// Every loss since the last recovery began is refuted.
    pub(crate) undo: bool,
}

/// What was declared lost.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) packets: u32,
    /// When the newest of them was sent.
    pub(crate) newest: Instant,
    /// Nothing arrived of what was sent within [`Rtt::persistent`].
    pub(crate) persistent: bool,
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
    scan_from: u32,
    /// One past the largest number acknowledged; 0: none was.
    acked_to: u64,
    /// Below this no block will speak any more.
    reported_from: u64,
    rack: Rack,
    loss_at: Alarm,
    /// When the last eliciting packet was sent.
    last_sent: Instant,
    /// When something was last acknowledged, or the first packet after a pause was sent.
    progress: Instant,
    backoff: u32,
    /// The peer has no memory for what is next.
    held: bool,
    pub(crate) packets_lost: u64,
    /// How many of them [`newly_lost`](Outstanding::newly_lost) has not told yet.
    untold: u32,
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
            acked_to: 0,
            reported_from: 0,
            rack: Rack::new(),
            loss_at: Alarm::NONE,
            last_sent: Instant::ZERO,
            progress: Instant::ZERO,
            backoff: 0,
            held: false,
            packets_lost: 0,
            untold: 0,
        }
    }

    /// Packets declared lost since this was last asked.
    pub(crate) const fn newly_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.untold, 0) as u64
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
            self.loss_at = Alarm::NONE;
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
        for _ in 0..packet.contents {
            self.contents.pop_front();
        }
        self.contents_gone += u64::from(packet.contents);
        self.base += 1;
        self.scan_from = self.scan_from.saturating_sub(1);
    }

    /// Forgets what nobody asks about any more, and returns how far back the floor lies from the next number.
    pub(crate) fn floor_distance(&mut self, now: Instant, pto: Span) -> u16 {
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
        let contents = contents.len() as u32;
        self.packets.push_back(Packet { sent: now, bytes, contents, first, fate, limited, missing: false });
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

    /// Applies a plausible block. `acked` is called with what was acknowledged for the first time.
    pub(crate) fn on_ack(&mut self, now: Instant, block: &AckBlock, mut acked: impl FnMut(Sent)) -> AckResult {
        let next = self.next();
        let largest = expand(block.largest, next);
        let mut result = AckResult::default();
        if largest < self.base {
            return result;
        }
        self.acked_to = self.acked_to.max(largest + 1);
        let run_start = (largest + 1).saturating_sub(block.run.into());
        let words = u64::from(block.words) * 64;
        // The lowest number spoken of: the bitmap's, or the hole that ended the run. A run that fills its field ends in none.
        let spoken = if block.run == u16::MAX { run_start } else { run_start.saturating_sub(1 + words) };
        self.reported_from = self.reported_from.max(run_start.saturating_sub(1 + REPORTABLE));
        let mut content_acked = false;
        for number in spoken.max(self.base)..=largest {
            let packet = &mut self.packets[(number - self.base) as usize];
            let reported = number >= run_start || {
                // `run_start - 1` is the hole, which has no bit.
                let bit = (run_start - 1).wrapping_sub(1 + number);
                number + 1 < run_start && block.bitmap[(bit / 64) as usize] >> (63 - bit % 64) & 1 == 1
            };
            if !reported {
                packet.missing = true;
                continue;
            }
            match packet.fate {
                Fate::InFlight => self.in_flight -= u64::from(packet.bytes),
                Fate::Lost(at) if packet.bytes > 0 => result.undo |= self.rack.refuted(at, next),
                Fate::Lost(_) => {}
                Fate::Acknowledged | Fate::Quiet => continue,
            }
            packet.fate = Fate::Acknowledged;
            result.new = true;
            if number == largest {
                result.sample = Some(packet.sent);
            }
            self.rack.acknowledged(now, number, packet.sent, packet.missing);
            result.bytes += u64::from(packet.bytes);
            result.limited += if packet.limited { u64::from(packet.bytes) } else { 0 };
            result.newest = result.newest.max(packet.sent);
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
            self.held &= !content_acked;
        }
        result
    }

    /// Declares lost what is. `lost` is called with what was in it.
    pub(crate) fn detect(&mut self, now: Instant, rtt: &Rtt, mut lost: impl FnMut(Sent)) -> Losses {
        self.loss_at = Alarm::NONE;
        let mut losses = Losses::default();
        if self.acked_to <= self.base {
            return losses;
        }
        let (next, end) = (self.next(), (self.acked_to - 1 - self.base) as usize);
        let mut delay = None;
        let mut still = None;
        // Since when nothing arrived of what was sent.
        let mut silent: Option<Instant> = None;
        for i in (self.scan_from as usize).min(end)..end {
            let packet = &mut self.packets[i];
            if packet.fate == Fate::Acknowledged {
                silent = None;
            }
            if packet.fate != Fate::InFlight {
                continue;
            }
            if !packet.missing && self.base + i as u64 >= self.reported_from {
                still.get_or_insert(i);
                continue;
            }
            let due = packet.sent + *delay.get_or_insert_with(|| self.rack.delay((end - i) as u64, rtt));
            if due > now {
                still.get_or_insert(i);
                self.loss_at.advance(due);
                continue;
            }
            packet.fate = Fate::Lost(now);
            self.in_flight -= u64::from(packet.bytes);
            self.contents.range(packet.contents_after(self.contents_gone)).copied().for_each(&mut lost);
            if packet.bytes == 0 {
                // That a probe of the MTU is lost is no sign of congestion (RFC 8899 §3).
                continue;
            }
            self.packets_lost += 1;
            self.untold += 1;
            losses.packets += 1;
            losses.newest = losses.newest.max(packet.sent);
            let since = *silent.get_or_insert(packet.sent);
            losses.persistent |= rtt.persistent().is_some_and(|limit| packet.sent.after(since) >= limit);
            self.rack.lost(now, next);
        }
        self.scan_from = still.unwrap_or(end) as u32;
        losses
    }

    /// The peer dropped, for want of memory, what is in flight of the numbers from `first` to `last`. `refused` is called with what was in
    /// it. That is no sign of the path; nothing but probes is of use until the peer takes something.
    pub(crate) fn refuse(&mut self, now: Instant, (first, last): (u32, u32), mut refused: impl FnMut(Sent)) {
        let (first, last) = (expand(first, self.next()), expand(last, self.next()));
        for number in first.max(self.base)..(last + 1).min(self.next()) {
            let packet = &mut self.packets[(number - self.base) as usize];
            if packet.fate != Fate::InFlight || packet.bytes == 0 {
                continue;
            }
            packet.fate = Fate::Lost(now);
            self.in_flight -= u64::from(packet.bytes);
            self.contents.range(packet.contents_after(self.contents_gone)).copied().for_each(&mut refused);
            self.held = true;
        }
    }

    /// True while the peer has no memory for what is next.
    pub(crate) const fn is_held(&self) -> bool {
        self.held
    }

    /// The peer has memory again.
    pub(crate) const fn release(&mut self) {
        self.held = false;
    }

    /// True if so much was acknowledged beyond a packet in flight that receivers stop reporting what is below it.
    pub(crate) fn is_stretched(&self) -> bool {
        let oldest = self.base + u64::from(self.scan_from);
        self.acked_to > oldest + 1 + REPORTABLE
    }

    /// When to look again: at a loss by time, else at a PTO.
    pub(crate) fn deadline(&self, rtt: &Rtt) -> Option<Instant> {
        if self.loss_at.is_set() {
            return self.loss_at.get();
        }
        (self.in_flight > 0 || self.held).then(|| self.probe_at(rtt))
    }

    /// A PTO after the last packet sent (RFC 9002 §6.2.1), but a round trip after the last news of the peer at the
    /// earliest: while acknowledgements of a long queue trickle in, and no window or credit lets us send, nothing needs a
    /// probe (as RFC 6298 §5.3 restarts).
    fn probe_at(&self, rtt: &Rtt) -> Instant {
        (self.last_sent + rtt.pto(self.backoff)).max(self.progress + rtt.hold())
    }

    /// Since when nothing was sent or acknowledged.
    pub(crate) fn idle_since(&self) -> Instant {
        self.last_sent.max(self.progress)
    }

    /// True once an eliciting packet was sent.
    pub(crate) fn has_sent(&self) -> bool {
        self.last_sent > Instant::ZERO
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
    pub(crate) fn on_timeout(&mut self, now: Instant, rtt: &Rtt) -> bool {
        let expired = !self.loss_at.is_set() && (self.in_flight > 0 || self.held) && self.probe_at(rtt) <= now;
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

    /// A round trip of 100 ns.
    fn measured() -> Rtt {
        let mut rtt = Rtt::new();
        rtt.sample(Instant::ZERO, Span::from_nanos(100), Span::ZERO, Span::ZERO);
        rtt
    }

    #[test]
    fn three_later_acknowledgements_declare_a_loss_once_and_its_own_undoes_it() {
        let (mut sent, rtt) = (filled(5), measured());
        let mut acked = Vec::new();
        let result = sent.on_ack(Instant(10), &block(3, 3), |c| acked.push(c));
        assert!(result.new && result.sample == Some(Instant(3)));
        assert_eq!((result.bytes, result.limited, result.newest), (300, 300, Instant(3)));
        assert_eq!(acked, [part(1), part(2), part(3)]);
        let mut lost = Vec::new();
        assert_eq!(sent.detect(Instant(10), &rtt, |c| lost.push(c)).packets, 1);
        assert_eq!(lost, [part(0)]);
        assert_eq!((sent.in_flight(), sent.packets_lost), (100, 1));
        let losses = sent.detect(Instant(10), &rtt, |_| panic!("declared twice"));
        assert_eq!(losses.packets, 0);
        // Spurious: the acknowledgement still counts.
        let result = sent.on_ack(Instant(11), &block(3, 4), |c| acked.push(c));
        assert!(result.new && acked.last() == Some(&part(0)));
        assert!(result.undo);
        assert_eq!(sent.in_flight(), 100);
        assert_eq!(sent.floor_distance(Instant(11), Span::ZERO), 1);
    }

    #[test]
    fn one_later_acknowledgement_declares_it_by_time() {
        let (mut sent, rtt) = (filled(2), measured());
        let _ = sent.on_ack(Instant(101), &block(1, 1), |_| {});
        let _ = sent.detect(Instant(101), &rtt, |_| panic!("too early"));
        // Its round trip and a quarter.
        assert_eq!(sent.deadline(&rtt), Some(Instant(125)));
        assert_eq!(sent.detect(Instant(125), &rtt, |_| {}).packets, 1);
        assert_eq!(sent.in_flight(), 0);
        // The floor stays until it has been lost for a PTO.
        assert_eq!(sent.floor_distance(Instant(175), Span::from_nanos(51)), 2);
        assert_eq!(sent.floor_distance(Instant(176), Span::from_nanos(51)), 0);
        assert_eq!(sent.next(), 2);
    }

    #[test]
    fn what_no_block_speaks_of_is_not_lost() {
        let (mut sent, rtt) = (filled(2000), measured());
        // 4 is the hole; of 0 to 3 a bitless block says nothing.
        let _ = sent.on_ack(Instant(2100), &block(9, 5), |_| {});
        let mut lost = Vec::new();
        let _ = sent.detect(Instant(9000), &rtt, |c| lost.push(c));
        assert_eq!(lost, [part(4)]);
        // Nor will any, once it is 1 024 below the run.
        let _ = sent.on_ack(Instant(9000), &block(1500, 470), |_| {});
        assert!(sent.is_stretched());
        assert_eq!(sent.detect(Instant(9000), &rtt, |c| lost.push(c)).packets, 5, "0 to 3 and the hole");
        assert_eq!(lost.last(), Some(&part(1030)));
        assert!(sent.is_stretched());
        let _ = sent.on_ack(Instant(9000), &block(1999, 1990), |_| {});
        let _ = sent.detect(Instant(9000), &rtt, |_| panic!("acknowledged"));
        assert!(!sent.is_stretched());
    }

    #[test]
    fn what_the_peer_refused_is_no_loss_and_holds_the_rest() {
        let (mut sent, rtt) = (filled(6), measured());
        let _ = sent.on_ack(Instant(100), &block(1, 1), |_| {});
        let mut refused = Vec::new();
        sent.refuse(Instant(100), (1, 4), |content| refused.push(content));
        assert_eq!(refused, [part(2), part(3), part(4)], "not what was acknowledged");
        assert_eq!((sent.in_flight(), sent.is_held()), (200, true));
        sent.refuse(Instant(100), (2, 4), |_| panic!("twice"));
        sent.refuse(Instant(100), (5, 5), |_| {});
        sent.refuse(Instant(100), (6, 9), |_| panic!("never sent"));
        sent.refuse(Instant(100), (u32::MAX, 1), |_| panic!("no range"));
        sent.refuse(Instant(100), (0, 1), |_| {});
        assert_eq!(sent.in_flight(), 0);
        assert_eq!((sent.detect(Instant(10_000), &rtt, |_| panic!("lost")).packets, sent.packets_lost), (0, 0));
        // Nothing is in flight, and yet the peer is asked, ever more rarely, until it takes something.
        let first = sent.deadline(&rtt).unwrap();
        assert!(sent.on_timeout(first, &rtt) && sent.backoff() == 1);
        sent.sent(first, 100, &[Sent::Ping(0)], false);
        let _ = sent.on_ack(first, &block(6, 1), |_| {});
        assert!(sent.is_held(), "PING takes no memory");
        sent.sent(first, 100, &[part(2)], false);
        let _ = sent.on_ack(first, &block(7, 2), |_| {});
        assert!(!sent.is_held() && sent.backoff() == 0 && sent.deadline(&rtt).is_none());
    }

    #[test]
    fn a_long_silence_is_persistent_congestion() {
        let mut rtt = Rtt::new();
        rtt.sample(Instant::ZERO, Span::from_micros(100), Span::ZERO, Span::ZERO);
        let micros = |n: u64| Instant(n * 1000);
        // 3 · (100 + 4 · 50) µs; all but the last are lost.
        for (gap, persistent) in [(100, true), (99, false)] {
            let mut sent = Outstanding::new();
            for i in 0..11 {
                sent.sent(micros(gap * i), 100, &[part(i as u32)], true);
            }
            let _ = sent.on_ack(micros(2000), &block(10, 1), |_| {});
            let all = AckBlock { words: 1, ..block(10, 1) };
            let _ = sent.on_ack(micros(2000), &all, |_| {});
            let losses = sent.detect(micros(2000), &rtt, |_| {});
            assert_eq!((losses.packets, losses.persistent), (10, persistent), "{gap}");
        }
    }

    #[test]
    fn the_bitmap_is_read_as_it_is_written() {
        let mut acks = super::super::acks::Acks::new();
        for number in [0, 1, 3, 4, 7, 9, 10] {
            acks.record(Instant::ZERO, number, 0);
        }
        let mut sent = filled(12);
        let mut acked = Vec::new();
        let _ = sent.on_ack(Instant(20), &acks.block(Instant::ZERO, true).unwrap(), |c| acked.push(c));
        assert_eq!(acked, [0, 1, 3, 4, 7, 9, 10].map(part));
    }

    #[test]
    fn numbers_never_sent_are_implausible_and_old_ones_harmless() {
        let mut sent = filled(3);
        assert!(!sent.is_plausible(&block(3, 1)));
        assert!(!sent.is_plausible(&block(u32::MAX, 1)));
        assert!(sent.is_plausible(&block(2, 1)));
        assert!(sent.is_outstanding(2) && !sent.is_outstanding(3));
        let _ = sent.on_ack(Instant(5), &block(2, u16::MAX), |_| {});
        assert!(!sent.is_outstanding(2));
        sent.floor_distance(Instant(5), Span::ZERO);
        let result = sent.on_ack(Instant(6), &block(1, 2), |_| panic!("twice"));
        assert!(!result.new);
    }

    #[test]
    fn a_timeout_backs_off_until_something_is_acknowledged() {
        let (mut sent, mut rtt) = (filled(4), Rtt::new());
        rtt.sample(Instant::ZERO, Span::from_micros(500), Span::ZERO, Span::ZERO);
        let micros = |n: u64| Instant(n * 1000 + 3);
        assert_eq!(sent.deadline(&rtt), Some(micros(1000)));
        assert!(!sent.on_timeout(Instant(1_000_002), &rtt));
        assert!(sent.on_timeout(micros(1000), &rtt));
        assert_eq!((sent.backoff(), sent.deadline(&rtt)), (1, Some(micros(2000))));
        let _ = sent.on_ack(micros(1100), &block(0, 1), |_| {});
        assert_eq!((sent.backoff(), sent.deadline(&rtt)), (0, Some(micros(1600))));
    }
}
