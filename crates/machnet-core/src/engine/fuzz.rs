//! The timing wheel against a sorted map: every timer fires once, never early, and no later than it is asked.

use std::collections::BTreeMap;

use arbitrary::Unstructured;

use super::timers::Timers;
use crate::Instant;

pub(crate) fn timers(bytes: &[u8]) {
    let _ = run(&mut Unstructured::new(bytes));
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut timers = Timers::new();
    let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
    let mut now = Instant::ZERO;
    while !u.is_empty() {
        for _ in 0..u.int_in_range(0..=4)? {
            let key = u.int_in_range(0..=40)?;
            // Past, near, far, beyond every horizon.
            let deadline = match u.int_in_range(0..=4)? {
                0 => None,
                1 => Some(Instant(now.0.saturating_sub(u.int_in_range(0..=1 << 20)?))),
                2 => Some(Instant(now.0 + u.int_in_range(0..=1 << 20)?)),
                3 => Some(Instant(now.0 + u.int_in_range(0..=1u64 << 50)?)),
                _ => Some(Instant(u.arbitrary::<u64>()? >> 1)),
            };
            timers.set(key, deadline);
            match deadline {
                Some(at) => model.insert(key, at),
                None => model.remove(&key),
            };
        }
        let earliest = model.values().min().copied();
        let next = timers.next_deadline();
        assert_eq!(next.is_some(), earliest.is_some());
        assert!(next <= earliest, "the engine would sleep too long");
        now = match u.int_in_range(0..=2)? {
            0 => now.max(next.unwrap_or(now)),
            1 => Instant(now.0 + u.int_in_range(0..=1 << 22)?),
            _ => Instant(now.0 + u.int_in_range(0..=1u64 << 50)?),
        };
        let mut due = Vec::new();
        timers.expire(now, &mut due);
        due.sort_unstable();
        let expected: Vec<u32> = model.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
        assert_eq!(due, expected);
        model.retain(|_, at| *at > now);
    }
    Ok(())
}
