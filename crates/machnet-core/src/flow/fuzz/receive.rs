//! Reassembly under a peer that sends anything the parser lets through: what is delivered is what came first, in order,
//! within the credit, and the memory comes home.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use machnet_channel::cost_in_units;

use super::super::receive::{ReceiveQueue, Stored};
use super::{Heap, MOST_PARTS, packet};

const MAX_MESSAGE: u32 = 3000;

pub(crate) fn receive(bytes: &[u8]) {
    let _ = run(&mut Unstructured::new(bytes));
}

/// A message as the model knows it.
struct Known {
    bytes: Vec<Option<u8>>,
}

impl Known {
    fn new(total: usize) -> Self {
        Self { bytes: vec![None; total] }
    }

    fn fill(&mut self, offset: usize, payload: &[u8]) {
        for (known, &byte) in self.bytes[offset..].iter_mut().zip(payload) {
            known.get_or_insert(byte);
        }
    }

    fn is_complete(&self) -> bool {
        self.bytes.iter().all(Option::is_some)
    }

    /// What its sender was charged at least: all of it before it sent the next, else up to the last byte seen.
    fn cost(&self, is_last: bool) -> u64 {
        let seen = self.bytes.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        cost_in_units(if is_last { seen } else { self.bytes.len() })
    }
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut heap = Heap::new();
    let mut limit = u.int_in_range(10..=300)?;
    let mut queue = ReceiveQueue::new(limit, MAX_MESSAGE);
    if u.arbitrary()? {
        queue.take_chunks();
    }
    let mut model: BTreeMap<u32, Known> = BTreeMap::new();
    let (mut next, mut delivered, mut stopped) = (0u32, 0u64, false);
    let packet = packet();
    while !u.is_empty() {
        match u.int_in_range(0..=15)? {
            0..=4 => {
                let id = id(u, next)?;
                let payload = payload(u)?;
                match queue.whole(id, &payload, &packet, &mut heap) {
                    Stored::Yes if id >= next && id < u32::MAX / 2 && !stopped => {
                        model.entry(id).or_insert_with(|| Known::new(payload.len())).fill(0, &payload);
                    }
                    Stored::Yes | Stored::NoMemory => {}
                    Stored::Violation(_) | Stored::TooLarge => stopped = stop(&mut queue, &mut model),
                }
            }
            5..=10 => {
                let id = id(u, next)?;
                let (offset, total, payload) = part(u)?;
                let packet = heap.packet(&payload);
                match queue.part(id, (offset, total), packet.as_ref(), &packet, &mut heap) {
                    Stored::Yes if id >= next && id < u32::MAX / 2 && !stopped => {
                        let known = model.entry(id).or_insert_with(|| Known::new(total as usize));
                        assert_eq!(known.bytes.len(), total as usize, "two totals for one message");
                        known.fill(offset as usize, &payload);
                    }
                    Stored::Yes | Stored::NoMemory => {}
                    Stored::Violation(_) | Stored::TooLarge => stopped = stop(&mut queue, &mut model),
                }
            }
            11 => {
                let fin = id(u, next)?;
                match queue.fin(fin) {
                    Stored::Yes => {
                        assert!(queue.has_fin() && (stopped || model.keys().all(|&id| id < fin)));
                    }
                    Stored::NoMemory => panic!("a FIN takes no memory"),
                    Stored::Violation(_) | Stored::TooLarge => stopped = stop(&mut queue, &mut model),
                }
            }
            12 => match u.arbitrary()? {
                true => heap.refuse = u.arbitrary()?,
                false => heap.chain = u.int_in_range(0..=MOST_PARTS)?,
            },
            13 => heap.only_oldest = u.arbitrary()?,
            14 => {
                limit = limit.max(delivered + u.int_in_range(10..=300)?).max(queue.reserved());
                queue.raise_limit(limit);
            }
            _ => {
                if queue.wanted().is_some()
                    && let Some(frame) = heap.pool.take()
                {
                    queue.reserve(frame, &mut heap);
                    assert_eq!(queue.wanted(), None);
                    limit = limit.max(queue.reserved());
                    queue.raise_limit(limit);
                }
            }
        }
        while let Some(message) = queue.pop() {
            let known = model.remove(&next).expect("a message that came");
            assert!(known.is_complete(), "message {next} has holes");
            let message = message.into_message();
            assert!(
                message.as_slice().iter().copied().eq(known.bytes.iter().flatten().copied()),
                "the first copy wins"
            );
            delivered += cost_in_units(message.len());
            next += 1;
        }
        assert!(model.get(&next).is_none_or(|known| !known.is_complete()), "message {next} is complete and waits");
        let last = model.keys().next_back().copied();
        let held: u64 = model.iter().map(|(&id, known)| known.cost(Some(id) == last)).sum();
        assert!(delivered + held <= limit, "{delivered} delivered and {held} held of {limit}");
        assert!(heap.in_use() as usize <= model.len() + 1, "a frame per message at most");
    }
    drop(queue);
    assert_eq!((heap.in_use(), heap.kept()), (0, [0; 2]));
    Ok(())
}

/// What a flow does that is aborted.
fn stop(queue: &mut ReceiveQueue, model: &mut BTreeMap<u32, Known>) -> bool {
    queue.stop();
    model.clear();
    true
}

fn id(u: &mut Unstructured<'_>, next: u32) -> arbitrary::Result<u32> {
    Ok(match u.int_in_range(0..=7)? {
        0..=3 => next,
        4..=5 => next + u.int_in_range(0..=7)?,
        6 => next.saturating_sub(u.int_in_range(0..=7)?),
        _ => u.arbitrary()?,
    })
}

fn payload(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let len = match u.int_in_range(0..=3)? {
        0 => u.int_in_range(0..=1)?,
        1 => u.int_in_range(62..=66)?,
        2 => u.int_in_range(0..=1500)?,
        _ => u.int_in_range(MAX_MESSAGE as usize - 1..=MAX_MESSAGE as usize + 1)?,
    };
    Ok(bytes(u.arbitrary()?, len))
}

/// What the parser lets through.
fn part(u: &mut Unstructured<'_>) -> arbitrary::Result<(u32, u32, Vec<u8>)> {
    let total: u32 = match u.int_in_range(0..=3)? {
        0..=1 => 200,
        2 => u.int_in_range(1..=MAX_MESSAGE)?,
        _ => u.int_in_range(MAX_MESSAGE..=MAX_MESSAGE + 2)?,
    };
    let units = total.div_ceil(64);
    let first = u.int_in_range(0..=units - 1)?;
    let count = u.int_in_range(1..=units - first)?;
    let end = ((first + count) * 64).min(total);
    Ok((first * 64, total, bytes(u.arbitrary()?, (end - first * 64) as usize)))
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| seed.wrapping_add(i as u8)).collect()
}
