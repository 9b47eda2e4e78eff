//! Numbers received, against a set of them: a block says nothing that is untrue, and all that is asked about.

use std::collections::BTreeSet;

use arbitrary::Unstructured;

use super::super::acks::{Acks, Arrival};
use crate::Instant;
use crate::seq::expand;
use crate::time::Span;
use crate::wire::{AckBlock, MAX_BITMAP_WORDS};

/// `docs/spec/wire.md#header`.
const MAX_AHEAD: u64 = 1 << 17;
/// The numbers that a bitmap can report; twice as many are remembered.
const BITMAP: u64 = 64 * MAX_BITMAP_WORDS as u64;

pub(crate) fn acks(bytes: &[u8]) {
    let _ = run(&mut Unstructured::new(bytes));
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut acks = Acks::new();
    let mut model = BTreeSet::new();
    let (mut next, mut floor) = (0u64, 0u64);
    let mut now = Instant(1);
    while !u.is_empty() {
        now += Span::from_micros(u.int_in_range(0..=100)?);
        let number = match u.int_in_range(0..=7)? {
            0..=2 => next,
            3 => next + u.int_in_range(0..=70)?,
            4 => next + u.int_in_range(0..=MAX_AHEAD + 10)?,
            5 => next.saturating_sub(u.int_in_range(1..=70)?),
            6 => next.saturating_sub(u.int_in_range(1..=3 * BITMAP)?),
            _ => {
                acks.shed();
                continue;
            }
        };
        assert_eq!(acks.expand(number as u32), number);
        let expected = if number >= next + MAX_AHEAD || number + 2 * BITMAP < next {
            Arrival::OutOfWindow
        } else if model.contains(&number) {
            Arrival::Duplicate
        } else {
            Arrival::New
        };
        assert_eq!(acks.classify(number), expected, "number {number}, next {next}");
        if expected != Arrival::New {
            continue;
        }
        let distance = u64::from(u.int_in_range(0..=u16::MAX)?);
        let in_order = acks.record(now, number, number.saturating_sub(distance));
        assert_eq!(in_order, number == next || model.is_empty(), "number {number}, next {next}");
        floor = floor.max(number.saturating_sub(distance));
        model.insert(number);
        next = next.max(number + 1);
        acks.elicited(now, u.arbitrary()?, Span::from_micros(250));
        assert!(acks.wants() && acks.deadline().is_some());
        let at_once = acks.is_due(now);
        for bitmap in [false, true] {
            let block = acks.block(now, bitmap).expect("something was received");
            check(&block, bitmap, &model, next, floor);
        }
        if at_once || u.arbitrary()? {
            acks.sent();
            assert!(!acks.wants() && !acks.is_due(now) && acks.deadline().is_none());
        }
        // Nobody asks about them, and nothing is remembered of them.
        model = model.split_off(&next.saturating_sub(4 * BITMAP));
    }
    Ok(())
}

fn check(block: &AckBlock, bitmap: bool, model: &BTreeSet<u64>, next: u64, floor: u64) {
    let largest = expand(block.largest, next);
    assert_eq!(largest, next - 1);
    let run = u64::from(block.run);
    let low = next - run;
    // What left the model is older than anything but a run.
    let known = next.saturating_sub(4 * BITMAP);
    assert!((low.max(known)..next).all(|n| model.contains(&n)), "a run of what was received");
    let bits = u64::from(block.words) * 64;
    for i in 0..bits {
        if block.bitmap[(i / 64) as usize] >> (63 - i % 64) & 1 == 1 {
            let number = low.checked_sub(2 + i).expect("no number below 0");
            assert!(model.contains(&number), "{number} was never received");
        }
    }
    if bitmap && low > known && block.run < u16::MAX {
        let oldest = floor.max(next.saturating_sub(2 * BITMAP)).max((low - 1).saturating_sub(BITMAP));
        for &number in model.range(oldest.min(low)..low) {
            let bit = (low - 2) - number;
            assert!(bit < bits, "{number} has no bit; the run begins at {low}, the floor is {floor}");
            assert!(block.bitmap[(bit / 64) as usize] >> (63 - bit % 64) & 1 == 1, "{number} is not reported");
        }
    }
    let mut out = vec![0; block.len()];
    assert_eq!(block.emit(&mut out), out.len());
    assert_eq!(AckBlock::parse(&out), Ok((*block, &[][..])));
}
