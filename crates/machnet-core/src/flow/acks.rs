//! What was received, and when to say so (`docs/spec/wire.md#acknowledgement-block`, `flow.md#acknowledging`).

use super::alarm::Alarm;
use crate::Instant;
use crate::seq::expand;
use crate::time::Span;
use crate::wire::{AckBlock, MAX_BITMAP_WORDS, MAX_BLOCKS};

/// Numbers below the largest whose fate is remembered: twice what a bitmap can report.
const WINDOW: u64 = 2 * 64 * MAX_BITMAP_WORDS as u64;
/// How far ahead of the largest a number may be (`docs/spec/wire.md#header`).
const MAX_AHEAD: u64 = 1 << 17;
/// Eliciting packets that are acknowledged at once, together.
const PACKETS_PER_ACK: u16 = 16;
/// How long an acknowledgement waits if no reply is expected in time, at most (`docs/spec/flow.md#acknowledging`).
const DELAY: Span = Span::from_micros(200);
/// Bitmap words that fit in the room that packets with data leave for blocks: three bitless ones'.
const WORDS_WITH_DATA: usize = (MAX_BLOCKS - 1) * AckBlock::len_with(0) / 8;

/// What is to be thought of a number that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Arrival {
    New,
    Duplicate,
    /// Too old to tell, or absurdly far ahead.
    OutOfWindow,
}

type Bits = [u64; (WINDOW / 64) as usize];

#[derive(Debug)]
pub(crate) struct Acks {
    /// One past the largest number received; 0 if none was.
    next: u64,
    /// When the largest arrived, at the earliest.
    largest_at: Instant,
    /// First number of the run that ends in the largest.
    run_start: u64,
    floor: u64,
    /// Bit `n % WINDOW` for each `n` of the window below `next`. None: the run is all that arrived.
    bits: Option<Box<Bits>>,
    /// Eliciting packets that no acknowledgement was sent for.
    unacknowledged: u16,
    deadline: Alarm,
    at_once: bool,
    /// When the first packet arrived that nothing was sent in reply to, and how long replies take, nanoseconds, smoothed;
    /// 0: nobody replied yet.
    asked: Alarm,
    reply: u32,
}

impl Acks {
    pub(crate) const fn new() -> Self {
        Self {
            next: 0,
            largest_at: Instant::ZERO,
            run_start: 0,
            floor: 0,
            bits: None,
            unacknowledged: 0,
            deadline: Alarm::NONE,
            at_once: false,
            asked: Alarm::NONE,
            reply: 0,
        }
    }

    /// Completes the low half of a number.
    pub(crate) const fn expand(&self, low: u32) -> u64 {
        expand(low, self.next)
    }

    /// What is to be thought of `number`, without recording it.
    pub(crate) fn classify(&self, number: u64) -> Arrival {
        if number >= self.next {
            // The first number is measured from 0, where every sender begins.
            return if number - self.next >= MAX_AHEAD { Arrival::OutOfWindow } else { Arrival::New };
        }
        if number + WINDOW < self.next {
            return Arrival::OutOfWindow;
        }
        if self.bit(number) { Arrival::Duplicate } else { Arrival::New }
    }

    /// Records `number`, which was [`Arrival::New`] and arrived at `since` at the earliest. `floor` is the oldest number the sender still asks about.
    pub(crate) fn record(&mut self, since: Instant, number: u64, floor: u64) -> bool {
        self.floor = self.floor.max(floor);
        let first = self.next == 0;
        let mut in_order = true;
        // The first run begins anywhere.
        if number != self.next && self.next > 0 && self.bits.is_none() {
            let mut bits = Box::new([0; (WINDOW / 64) as usize]);
            for received in self.run_start.max(self.next.saturating_sub(WINDOW))..self.next {
                set(&mut bits, received);
            }
            self.bits = Some(bits);
        }
        if number >= self.next {
            let gap = number - self.next;
            for skipped in self.next..self.next + gap.min(WINDOW) {
                self.clear(skipped);
            }
            if gap > 0 || first {
                self.run_start = number;
                in_order = first;
            }
            self.next = number + 1;
            self.largest_at = since;
            self.set(number);
        } else {
            in_order = false;
            self.set(number);
            while self.run_start > self.oldest() && self.bit(self.run_start - 1) {
                self.run_start -= 1;
            }
        }
        in_order
    }

    /// Notes that an eliciting packet was recorded. `at_once`: it must be acknowledged in this round.
    pub(crate) fn elicited(&mut self, now: Instant, at_once: bool, max_ack_delay: Span) {
        self.unacknowledged = self.unacknowledged.saturating_add(1);
        self.at_once |= at_once || self.unacknowledged >= PACKETS_PER_ACK;
        self.deadline.advance(now + self.delay(max_ack_delay));
        self.asked.advance(now);
    }

    /// Half as long again as replies take, so that the reply carries the acknowledgement; they do not wait for it in vain.
    fn delay(&self, max_ack_delay: Span) -> Span {
        let wanted = Span::from_nanos(u64::from(self.reply) * 3 / 2);
        let wanted = if wanted > max_ack_delay { DELAY } else { wanted.max(DELAY) };
        wanted.min(max_ack_delay)
    }

    /// A packet with content was sent: the application's reply, if it was asked.
    pub(crate) fn replied(&mut self, now: Instant) {
        if let Some(asked) = self.asked.take() {
            let took = u32::try_from(now.after(asked).as_nanos()).unwrap_or(u32::MAX);
            self.reply = if self.reply == 0 { took } else { (self.reply / 8 * 7).saturating_add(took / 8) };
        }
    }

    /// True if an acknowledgement must go out in this round, with data or without.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.unacknowledged > 0 && (self.at_once || self.deadline.is_due(now))
    }

    /// True if a packet that goes out anyway should carry one.
    pub(crate) const fn wants(&self) -> bool {
        self.unacknowledged > 0
    }

    /// When an acknowledgement becomes due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.get().filter(|_| self.unacknowledged > 0)
    }

    /// True if a bitmap has something to say: numbers are missing below the run and others are not.
    pub(crate) fn has_hole(&self) -> bool {
        self.next > 0 && self.run_start > self.oldest() + 1
    }

    /// The block to send now; `None` if nothing was received. `alone`: it need not leave room for full-size parts.
    #[inline]
    pub(crate) fn block(&self, now: Instant, alone: bool) -> Option<AckBlock> {
        let largest = self.next.checked_sub(1)?;
        let mut block = AckBlock {
            largest: largest as u32,
            run: u16::try_from(self.next - self.run_start).unwrap_or(u16::MAX),
            delay_us: u16::try_from(now.after(self.largest_at).as_micros()).unwrap_or(u16::MAX),
            words: 0,
            bitmap: [0; MAX_BITMAP_WORDS],
        };
        // A run longer than its field leaves out what is below: it was reported before, and stays acknowledged.
        if self.has_hole() && self.next - self.run_start <= u64::from(u16::MAX) {
            let hole = self.run_start - 1;
            let words = if alone { MAX_BITMAP_WORDS } else { WORDS_WITH_DATA };
            let count = (hole - self.oldest()).min(64 * words as u64);
            block.words = count.div_ceil(64) as u8;
            for i in 0..count {
                if self.bit(hole - 1 - i) {
                    block.bitmap[(i / 64) as usize] |= 1 << (63 - i % 64);
                }
            }
        }
        Some(block)
    }

    /// The block was sent.
    pub(crate) const fn sent(&mut self) {
        self.unacknowledged = 0;
        self.at_once = false;
        self.deadline = Alarm::NONE;
    }

    /// The oldest number that is remembered and asked about.
    fn oldest(&self) -> u64 {
        self.floor.max(self.next.saturating_sub(WINDOW)).min(self.next)
    }

    /// Gives back memory that says nothing: the run fills the window.
    pub(crate) fn shed(&mut self) {
        if self.run_start + WINDOW <= self.next {
            self.bits = None;
        }
    }

    fn bit(&self, number: u64) -> bool {
        match &self.bits {
            Some(bits) => bits[(number % WINDOW / 64) as usize] & 1 << (number % 64) != 0,
            None => number >= self.run_start,
        }
    }

    fn set(&mut self, number: u64) {
        if let Some(bits) = &mut self.bits {
            set(bits, number);
        }
    }

    fn clear(&mut self, number: u64) {
        if let Some(bits) = &mut self.bits {
            bits[(number % WINDOW / 64) as usize] &= !(1 << (number % 64));
        }
    }
}

const fn set(bits: &mut Bits, number: u64) {
    bits[(number % WINDOW / 64) as usize] |= 1 << (number % 64);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The numbers a block reports.
    pub(crate) fn reported(block: &AckBlock, expected: u64) -> BTreeSet<u64> {
        let largest = expand(block.largest, expected);
        let mut set: BTreeSet<u64> = (0..u64::from(block.run)).map(|i| largest - i).collect();
        for i in 0..u64::from(block.words) * 64 {
            if block.bitmap[(i / 64) as usize] >> (63 - i % 64) & 1 == 1 {
                set.insert(largest - u64::from(block.run) - 1 - i);
            }
        }
        set
    }

    proptest! {
        #[test]
        fn a_block_reports_what_was_received_and_nothing_else(
            steps in prop::collection::vec((0..40u64, any::<bool>()), 1..300), start in 0..100_000u64,
        ) {
            let mut acks = Acks::new();
            let mut model = BTreeSet::new();
            let mut top = start;
            for (step, back) in steps {
                let number = if back { top.saturating_sub(step * 7) } else { top + step };
                top = top.max(number);
                match acks.classify(number) {
                    Arrival::New => {
                        prop_assert!(model.insert(number));
                        acks.record(Instant::ZERO, number, 0);
                    }
                    Arrival::Duplicate => prop_assert!(model.contains(&number)),
                    Arrival::OutOfWindow => prop_assert!(number + WINDOW < acks.next),
                }
                let block = acks.block(Instant::ZERO, true).unwrap();
                let got = reported(&block, acks.next);
                let low = got.first().copied().unwrap().max(acks.next.saturating_sub(1024));
                let expected: BTreeSet<_> = model.range(low..).copied().collect();
                prop_assert_eq!(got.range(low..).copied().collect::<BTreeSet<_>>(), expected);
                let unreported = model.range(..got.first().copied().unwrap()).next_back();
                prop_assert!(unreported.is_none_or(|&n| n + 64 * 16 < acks.next));
            }
        }
    }

    #[test]
    fn the_floor_stops_the_bitmap() {
        let mut acks = Acks::new();
        for number in [0, 2, 4, 6] {
            acks.record(Instant::ZERO, number, 0);
        }
        assert_eq!(acks.block(Instant::ZERO, true).unwrap().words, 1);
        acks.record(Instant::ZERO, 7, 6);
        assert!(!acks.has_hole());
        let block = acks.block(Instant::ZERO, true).unwrap();
        assert_eq!((block.largest, block.run, block.words), (7, 2, 0));
    }

    #[test]
    fn due_at_once_for_sixteen_or_after_the_delay() {
        let delay = Span::from_micros(500);
        let mut acks = Acks::new();
        assert!(acks.record(Instant(0), 0, 0));
        acks.elicited(Instant(0), false, delay);
        assert!(!acks.is_due(Instant(199_999)));
        assert!(acks.is_due(Instant(200_000)));
        for number in 1..16 {
            assert!(!acks.is_due(Instant(1)));
            assert!(acks.record(Instant(1), number, 0));
            acks.elicited(Instant(1), false, delay);
        }
        assert!(acks.is_due(Instant(1)));
        acks.sent();
        assert!(!acks.wants() && acks.deadline().is_none());
        assert!(!acks.record(Instant(2), 17, 0), "a hole");
        assert!(!acks.record(Instant(2), 16, 0), "a hole filled");
        assert!(acks.record(Instant(2), 18, 0));
    }

    #[test]
    fn numbers_far_ahead_or_long_gone_are_refused() {
        let mut acks = Acks::new();
        acks.record(Instant::ZERO, 0, 0);
        assert_eq!(acks.classify(MAX_AHEAD), Arrival::New);
        assert_eq!(acks.classify(1 + MAX_AHEAD), Arrival::OutOfWindow);
        acks.record(Instant::ZERO, MAX_AHEAD, 0);
        assert_eq!(acks.classify(0), Arrival::OutOfWindow);
        assert_eq!(acks.classify(acks.next - WINDOW), Arrival::New);
        assert_eq!(acks.classify(acks.next - WINDOW - 1), Arrival::OutOfWindow);
    }

    #[test]
    fn it_waits_for_replies_that_come_in_time() {
        let most = Span::from_micros(500);
        let mut acks = Acks::new();
        let mut now = Instant::ZERO;
        let mut number = 0;
        // Reply times, µs, and how long the acknowledgement waits once they are known.
        for (reply, waits) in [(50, 200), (200, 300), (300, 450), (400, 200), (100, 200)] {
            for _ in 0..60 {
                acks.record(now, number, 0);
                acks.elicited(now, false, most);
                number += 1;
                now += Span::from_micros(reply);
                acks.replied(now);
                acks.sent();
                now += Span::from_micros(10);
                acks.replied(now);
            }
            let waits = Span::from_micros(waits);
            assert!(acks.delay(most).abs_diff(waits) < Span::from_micros(5), "{reply}: {:?}", acks.delay(most));
        }
        assert_eq!(acks.delay(Span::from_micros(70)), Span::from_micros(70), "never beyond what was promised");
    }

    #[test]
    fn with_data_a_bitmap_fits_where_bitless_blocks_would() {
        let mut acks = Acks::new();
        for number in (0..2000).step_by(2) {
            acks.record(Instant::ZERO, number, 0);
        }
        let block = |alone| acks.block(Instant::ZERO, alone).unwrap();
        assert_eq!((block(true).words, block(false).words), (16, 3));
        assert!(block(false).len() <= MAX_BLOCKS * AckBlock::len_with(0));
    }
}
