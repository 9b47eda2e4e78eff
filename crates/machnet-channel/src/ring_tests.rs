//! Rings with real threads, on mapped memory, and against a stranger who writes what he likes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use proptest::prelude::*;

use crate::words::{HeapWords, Words};
use crate::{ForeignRegion, RingConsumer, RingProducer, RingSide, ring_words};

const CAPACITY: u32 = 8;

fn heap() -> Arc<HeapWords> {
    HeapWords::new(ring_words(CAPACITY))
}

#[test]
fn fills_empties_and_wraps() {
    let words = heap();
    let mut producer = RingProducer::new(Arc::clone(&words), 0, CAPACITY);
    let mut consumer = RingConsumer::new(words, 0, CAPACITY);
    let mut expected = 0;
    for n in 0..100_u64 {
        let free = u64::from(producer.room());
        for i in 0..=free {
            assert_eq!(producer.push(8 * n + i), i < free, "full exactly at its capacity");
        }
        assert_eq!((producer.room(), producer.in_flight()), (0, CAPACITY));
        assert!(consumer.pop().is_none(), "nothing is shown before it is published");
        assert!(!producer.publish(), "nobody sleeps");
        assert_eq!(consumer.look(), Ok(CAPACITY));
        for _ in 0..CAPACITY {
            assert_eq!(consumer.pop(), Some(expected));
            expected += 1;
        }
        assert_eq!((consumer.pop(), consumer.ready()), (None, 0));
        assert_eq!(producer.look(), Ok(0), "nothing is free before it is released");
        assert!(!consumer.release());
        assert_eq!(producer.look(), Ok(CAPACITY));
    }
}

#[test]
fn each_ring_is_heard_once() {
    let words = heap();
    let mut producer = RingProducer::new(Arc::clone(&words), 0, CAPACITY);
    let mut consumer = RingConsumer::new(words, 0, CAPACITY);
    consumer.arm();
    assert!(producer.push(1) && producer.publish());
    assert!(producer.push(2) && !producer.publish(), "rung already");
    consumer.arm();
    consumer.disarm();
    assert!(producer.push(3) && !producer.publish(), "awake");
    producer.arm();
    assert_eq!(consumer.look(), Ok(3));
    assert!(consumer.release() && !consumer.release());
}

/// A million descriptors with their payloads between two threads and two mappings of the same memory.
#[test]
fn order_over_mapped_memory() {
    const COUNT: u64 = 1_000_000;
    let payload = ring_words(CAPACITY);
    let (here, fd) = ForeignRegion::create("test", 4096).unwrap();
    let there = ForeignRegion::open(&fd, 4096).unwrap();
    let (here, there) = (Arc::new(here), Arc::new(there));
    let at = move |n: u64| payload + 2 * (n as usize % CAPACITY as usize);
    let sender = thread::spawn(move || {
        let mut producer = RingProducer::new(Arc::clone(&here), 0, CAPACITY);
        for n in 0..COUNT {
            while producer.room() == 0 {
                if producer.look().unwrap() == 0 {
                    thread::yield_now();
                }
            }
            here.copy_in(at(n), &[n.to_ne_bytes(), (!n).to_ne_bytes()].concat());
            assert!(producer.push(n) && !producer.publish());
        }
    });
    let mut consumer = RingConsumer::new(Arc::clone(&there), 0, CAPACITY);
    for n in 0..COUNT {
        while consumer.ready() == 0 {
            if consumer.look().unwrap() == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(consumer.pop(), Some(n));
        let mut bytes = [0; 16];
        there.copy_out(at(n), &mut bytes);
        assert_eq!(bytes, *[n.to_ne_bytes(), (!n).to_ne_bytes()].concat());
        assert!(!consumer.release());
    }
    sender.join().unwrap();
}

#[test]
fn an_impossible_index_is_named() {
    let words = heap();
    let mut consumer = RingConsumer::new(Arc::clone(&words), 0, CAPACITY);
    words.words()[0].store(9, Relaxed);
    let error = consumer.look().unwrap_err();
    assert_eq!(error.side, RingSide::Producer);
    assert_eq!(error.to_string(), "the producer's index is 9; it must be from 0 to 8");
    assert_eq!((consumer.ready(), consumer.pop()), (0, None));
    words.words()[0].store(3, Relaxed);
    assert_eq!(consumer.look(), Ok(3));
    words.words()[0].store(2, Relaxed);
    assert!(consumer.look().is_err(), "an index does not go back");
}

#[test]
#[should_panic(expected = "power of two, not 12")]
fn capacities_are_powers_of_two() {
    let _ = RingConsumer::new(HeapWords::new(ring_words(12)), 0, 12);
}

#[test]
#[should_panic(expected = "outside of its memory")]
fn rings_lie_inside_their_memory() {
    let _ = RingConsumer::new(HeapWords::new(ring_words(8)), 1, 8);
}

/// What a stranger does to the words, and what we do meanwhile.
#[derive(Clone, Debug)]
enum Act {
    Write(usize, u64),
    Produce(u64),
    Consume(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let word = prop_oneof![any::<u64>(), 0..20_u64, (0..20_u64).prop_map(u64::wrapping_neg)];
    let act = prop_oneof![
        (0..ring_words(CAPACITY), word).prop_map(|(at, value)| Act::Write(at, value)),
        any::<u64>().prop_map(Act::Produce),
        any::<u8>().prop_map(Act::Consume),
    ];
    prop::collection::vec(act, 0..200)
}

proptest! {
    /// Whatever is in the words, at any time: bounded numbers or a named error, and no panic.
    #[test]
    fn hostile_words_yield_bounded_numbers_or_errors(acts in acts()) {
        let words = heap();
        let mut producer = RingProducer::new(Arc::clone(&words), 0, CAPACITY);
        let mut consumer = RingConsumer::new(Arc::clone(&words), 0, CAPACITY);
        for act in acts {
            match act {
                Act::Write(at, value) => words.words()[at].store(value, Relaxed),
                Act::Produce(descriptor) => {
                    if let Err(error) = producer.look() {
                        prop_assert_eq!(error.side, RingSide::Consumer);
                    }
                    let room = producer.room();
                    prop_assert!(room <= CAPACITY);
                    prop_assert_eq!(producer.push(descriptor), room > 0);
                    let _ = producer.publish();
                }
                Act::Consume(n) => {
                    if let Err(error) = consumer.look() {
                        prop_assert_eq!(error.side, RingSide::Producer);
                    }
                    let ready = consumer.ready();
                    prop_assert!(ready <= CAPACITY);
                    let popped = std::iter::from_fn(|| consumer.pop()).take(n.into()).count();
                    prop_assert_eq!(popped as u32, ready.min(n.into()));
                    let _ = consumer.release();
                }
            }
        }
    }
}

/// As above, with the stranger in another thread.
#[test]
fn a_stranger_scribbles_meanwhile() {
    let words = heap();
    let done = Arc::new(AtomicBool::new(false));
    let stranger = {
        let (words, done) = (Arc::clone(&words), Arc::clone(&done));
        thread::spawn(move || {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            while !done.load(Relaxed) {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let at = (state >> 33) as usize % ring_words(CAPACITY);
                words.words()[at].store(if state >> 63 == 0 { state >> 60 } else { state }, Relaxed);
            }
        })
    };
    let mut errors = 0;
    for _ in 0..10_000 {
        // A connection ends at the first error; here another one begins.
        let mut producer = RingProducer::new(Arc::clone(&words), 0, CAPACITY);
        let mut consumer = RingConsumer::new(Arc::clone(&words), 0, CAPACITY);
        for n in 0..10 {
            let outcome = producer.look().and(consumer.look());
            errors += u32::from(outcome.is_err());
            assert!(producer.room() <= CAPACITY && consumer.ready() <= CAPACITY);
            let _ = producer.push(n) && producer.publish();
            while consumer.pop().is_some() {}
            let _ = consumer.release();
        }
    }
    done.store(true, Relaxed);
    stranger.join().unwrap();
    assert!(errors > 0, "the stranger was not noticed");
}
