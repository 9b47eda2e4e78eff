use loom::sync::Arc;
use loom::thread;

use super::{model, wait};
use crate::{Doorbell, Inbox};
use std::task::Poll;

/// Producers that push `each` and give up what finds the ring full, and a consumer that sleeps by the doorbell's protocol
/// until it has got all that was not given up.
fn hands_over(capacity: usize, producers: u64, each: u64, preemptions: usize) {
    model(preemptions, move || {
        let bell = Arc::new(Doorbell::new());
        let (inbox, mut receiver) = Inbox::new(capacity, Arc::clone(&bell));
        let threads: Vec<_> = (0..producers)
            .map(|producer| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    for n in 0..each {
                        // On the heap, so that a value read twice, or never, shows.
                        let pushed = inbox.push(Box::new((producer, n)));
                        assert!(pushed.is_ok(), "there is room for all");
                    }
                    inbox.ring();
                })
            })
            .collect();
        let mut next = vec![0; producers as usize];
        while next.iter().sum::<u64>() < producers * each {
            let (producer, n) = *wait(|cx| {
                if let Some(value) = receiver.pop() {
                    return Poll::Ready(value);
                }
                bell.arm(cx.waker());
                match receiver.pop() {
                    Some(value) => {
                        bell.disarm();
                        Poll::Ready(value)
                    }
                    None => Poll::Pending,
                }
            });
            assert_eq!(n, next[producer as usize], "out of order, lost or doubled");
            next[producer as usize] += 1;
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(receiver.is_empty());
    });
}

#[test]
fn one_engine_hands_over_to_a_sleeping_one() {
    hands_over(2, 1, 2, 3);
}

#[test]
fn two_engines_hand_over_to_a_third() {
    hands_over(2, 2, 1, 3);
}

/// Slots are used again: what a producer writes never meets a reader of the last lap.
#[test]
fn a_slot_is_read_before_it_is_written_again() {
    model(3, || {
        let (inbox, mut receiver) = Inbox::new(2, Arc::new(Doorbell::new()));
        (0..2).for_each(|n| inbox.push(Box::new(n)).unwrap());
        let producer = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.push(Box::new(2)).is_ok())
        };
        assert_eq!(receiver.pop().as_deref(), Some(&0));
        let pushed = producer.join().unwrap();
        assert_eq!(receiver.pop().as_deref(), Some(&1));
        assert_eq!(receiver.pop().as_deref(), pushed.then_some(&2), "refused, or handed over");
    });
}

/// The consumer leaves: what was pushed before, meanwhile and after is dropped, by whoever is last.
#[test]
fn nothing_leaks_when_the_consumer_leaves() {
    model(3, || {
        let (inbox, receiver) = Inbox::new(2, Arc::new(Doorbell::new()));
        let value = Arc::new(());
        inbox.push(Arc::clone(&value)).unwrap();
        let producer = {
            let (inbox, value) = (Arc::clone(&inbox), Arc::clone(&value));
            thread::spawn(move || _ = inbox.push(value))
        };
        drop(receiver);
        producer.join().unwrap();
        drop(inbox);
        assert_eq!(Arc::strong_count(&value), 1);
    });
}
