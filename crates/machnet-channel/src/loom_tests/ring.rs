use loom::sync::{Arc, Notify};
use loom::thread;

use super::model;
use crate::words::{HeapWords, Words};
use crate::{RingConsumer, RingProducer, ring_words};

type Producer = RingProducer<Arc<HeapWords>>;
type Consumer = RingConsumer<Arc<HeapWords>>;

/// A ring of `capacity` in words of its own, with one word beside each descriptor: what it stands for.
fn ring(capacity: u32) -> (Producer, Consumer, Arc<HeapWords>) {
    let words = HeapWords::new(ring_words(capacity) + capacity as usize);
    (RingProducer::new(Arc::clone(&words), 0, capacity), RingConsumer::new(Arc::clone(&words), 0, capacity), words)
}

/// Where the payload of descriptor `n` lies.
fn payload(capacity: u32, n: u64) -> usize {
    ring_words(capacity) + (n % u64::from(capacity)) as usize
}

/// One side that sends and one that receives, with the bells they sleep on; `Notify` remembers a ring, as a socket does.
fn one_way(capacity: u32, count: u64, preemptions: usize) {
    model(preemptions, move || {
        let (mut producer, mut consumer, words) = ring(capacity);
        let (data, room) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let sender = {
            let (words, data, room) = (Arc::clone(&words), Arc::clone(&data), Arc::clone(&room));
            thread::spawn(move || {
                for n in 0..count {
                    while producer.room() == 0 {
                        if producer.look().unwrap() > 0 {
                            continue;
                        }
                        producer.arm();
                        if producer.look().unwrap() == 0 {
                            room.wait();
                        }
                        producer.disarm();
                    }
                    words.copy_in(payload(capacity, n), &(100 + n).to_ne_bytes());
                    assert!(producer.push(n));
                    if producer.publish() {
                        data.notify();
                    }
                }
            })
        };
        for n in 0..count {
            while consumer.ready() == 0 {
                if consumer.look().unwrap() > 0 {
                    continue;
                }
                consumer.arm();
                if consumer.look().unwrap() == 0 {
                    data.wait();
                }
                consumer.disarm();
            }
            assert_eq!(consumer.pop(), Some(n), "the index came before the descriptor");
            let mut bytes = [0; 8];
            words.copy_out(payload(capacity, n), &mut bytes);
            assert_eq!(u64::from_ne_bytes(bytes), 100 + n, "the index came before the payload");
            if consumer.release() {
                room.notify();
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn never_sleeps_with_data_or_room() {
    one_way(1, 2, 3);
}

#[test]
fn order_and_payload() {
    one_way(2, 3, 2);
}

/// What a driver is: a side with two rings and one bell, which sleeps for data and for room at once.
struct Side {
    out: Producer,
    into: Consumer,
    bell: Arc<Notify>,
    other: Arc<Notify>,
    to_send: u64,
    to_receive: u64,
}

impl Side {
    /// Sends what has room and receives what is there. True if that was anything.
    fn round(&mut self) -> bool {
        let mut moved = false;
        if self.to_send > 0 && (self.out.room() > 0 || self.out.look().unwrap() > 0) {
            assert!(self.out.push(self.to_send));
            self.to_send -= 1;
            moved = true;
            if self.out.publish() {
                self.other.notify();
            }
        }
        if self.to_receive > 0 && (self.into.ready() > 0 || self.into.look().unwrap() > 0) {
            assert_eq!(self.into.pop(), Some(self.to_receive));
            self.to_receive -= 1;
            moved = true;
            if self.into.release() {
                self.other.notify();
            }
        }
        moved
    }

    fn run(mut self) {
        while self.to_send > 0 || self.to_receive > 0 {
            if self.round() {
                continue;
            }
            self.into.arm();
            if self.to_send > 0 {
                self.out.arm();
            }
            let idle = self.into.look().unwrap() == 0 && (self.to_send == 0 || self.out.look().unwrap() == 0);
            if idle {
                self.bell.wait();
            }
            self.into.disarm();
            self.out.disarm();
        }
    }
}

/// Both sides full and asleep resolves by itself.
#[test]
fn both_sides_full_and_asleep() {
    model(2, || {
        let bells = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let ((out_a, in_b, _), (out_b, in_a, _)) = (ring(1), ring(1));
        let side = |out, into, own: usize| Side {
            out,
            into,
            bell: Arc::clone(&bells[own]),
            other: Arc::clone(&bells[1 - own]),
            to_send: 2,
            to_receive: 2,
        };
        let (a, b) = (side(out_a, in_a, 0), side(out_b, in_b, 1));
        let other = thread::spawn(move || b.run());
        a.run();
        other.join().unwrap();
    });
}
