//! Sets of units against sets of numbers.

use std::collections::BTreeSet;

use arbitrary::Unstructured;

use super::UnitSet;

pub(crate) fn units(bytes: &[u8]) {
    let _ = run(&mut Unstructured::new(bytes));
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut set = UnitSet::default();
    while !u.is_empty() {
        let len = u.int_in_range(1..=20_000)?;
        set.reset(len);
        let units = len.div_ceil(64);
        let mut model = BTreeSet::new();
        let (mut message, mut copy) = (vec![0; len as usize], vec![0; len as usize]);
        for _ in 0..u.int_in_range(0..=20)? {
            let first = u.int_in_range(0..=units - 1)?;
            let end = u.int_in_range(first + 1..=units)?;
            let (offset, bytes) = (first * 64, (end * 64).min(len) - first * 64);
            assert_eq!(set.contains(offset, bytes), (first..end).all(|unit| model.contains(&unit)));
            if u.arbitrary()? {
                let new = (first..end).filter(|&unit| model.insert(unit)).count();
                assert_eq!(set.insert(offset, bytes) as usize, new);
                continue;
            }
            let value: u8 = u.arbitrary()?;
            set.fill(offset, &vec![value; bytes as usize], &mut message);
            for unit in first..end {
                if model.insert(unit) {
                    copy[(unit * 64) as usize..((unit + 1) * 64).min(len) as usize].fill(value);
                }
            }
            assert!(message == copy, "the first copy of a unit wins");
            assert_eq!(set.is_full(), model.len() as u32 == units);
        }
    }
    Ok(())
}
