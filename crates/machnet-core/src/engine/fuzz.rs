//! Fuzz bodies of the engine's parts (`crate::fuzz`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use arbitrary::Unstructured;

use super::timers::Timers;
use super::tokens::{Claim, LIFE, TOKEN_LEN, Tokens};
use crate::Instant;

/// Tokens: what is accepted was made for this claim at most [`LIFE`] ago.
pub(crate) fn token(bytes: &[u8]) {
    let _ = check(&mut Unstructured::new(bytes));
}

fn claim(u: &mut Unstructured<'_>) -> arbitrary::Result<Claim> {
    let initiator = SocketAddr::new(Ipv4Addr::from_bits(u.int_in_range(0..=3)?).into(), u.int_in_range(0..=3)?);
    Ok(Claim { initiator, source: u.int_in_range(0..=3)?, service: u.int_in_range(0..=3)? })
}

fn check(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let tokens = Tokens::new(&[7; 16]);
    let (made, by) = (Instant(u.arbitrary::<u64>()? >> 4), claim(u)?);
    let mut token = tokens.make(made, &by).to_vec();
    while !u.is_empty() {
        let later = Instant(made.0 + u.int_in_range(0..=2 * LIFE.as_nanos() as u64)?);
        let other = if u.arbitrary()? { by } else { claim(u)? };
        let age = later.0 / 1_000_000 - made.0 / 1_000_000;
        let untouched = token == tokens.make(made, &by);
        let accepted = tokens.check(later, &other, &token);
        if untouched {
            assert_eq!(accepted, other == by && age <= LIFE.as_millis() as u64);
        } else if accepted {
            // A fuzzer reads comparisons, and may find out what the tag should be.
            let millis = later.0 / 1_000_000;
            assert!((0..=LIFE.as_millis() as u64).any(|age| {
                millis.checked_sub(age).is_some_and(|at| tokens.make(Instant(at * 1_000_000), &other) == token[..])
            }));
        }
        match u.int_in_range(0..=3)? {
            0 => token = tokens.make(made, &by).to_vec(),
            1 => token.truncate(u.int_in_range(0..=TOKEN_LEN)?),
            2 => token.push(u.arbitrary()?),
            _ if token.is_empty() => {}
            _ => {
                let at = u.int_in_range(0..=token.len() - 1)?;
                token[at] ^= u.arbitrary::<u8>()?;
            }
        }
    }
    Ok(())
}

/// The timing wheel against a sorted map: every timer fires once, never early, and no later than it is asked.
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
