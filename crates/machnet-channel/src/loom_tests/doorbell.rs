use std::task::Poll;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;

use super::{model, wait};
use crate::hint_queue::{HintQueue, Link, Linked};
use crate::{Doorbell, Intake};

struct Item {
    written: AtomicBool,
    link: Link<Item>,
}

// SAFETY: the link is a field of the item.
unsafe impl Linked for Item {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

/// `producers` write an item each and ring; the engine sleeps until it has seen all of them.
fn sleeps_and_hears(producers: usize, preemptions: usize) {
    model(preemptions, move || {
        let (queue, bell) = (Arc::new(HintQueue::new()), Arc::new(Doorbell::new()));
        let producers: Vec<_> = (0..producers)
            .map(|_| {
                let (queue, bell) = (Arc::clone(&queue), Arc::clone(&bell));
                thread::spawn(move || {
                    let item = Arc::new(Item { written: AtomicBool::new(false), link: Link::new() });
                    item.written.store(true, Relaxed);
                    queue.push(&item);
                    bell.ring();
                })
            })
            .collect();
        let mut seen = 0;
        wait(|cx| {
            bell.disarm();
            loop {
                for item in queue.take() {
                    assert!(item.written.load(Relaxed), "the hint came before what it hints at");
                    seen += 1;
                }
                if seen == producers.len() {
                    return Poll::Ready(());
                }
                bell.arm(cx.waker());
                if queue.is_empty() {
                    return Poll::Pending;
                }
            }
        });
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn never_sleeps_with_work_pending() {
    sleeps_and_hears(1, 6);
}

#[test]
fn two_producers_ring() {
    sleeps_and_hears(2, 3);
}

#[test]
fn two_producers_of_one_item() {
    // Who finds the item queued already must not return before somebody rings for its write.
    model(3, || {
        let (queue, bell) = (Arc::new(HintQueue::new()), Arc::new(Doorbell::new()));
        let item = Arc::new((AtomicBool::new(false), AtomicBool::new(false)));
        struct Both {
            data: Arc<(AtomicBool, AtomicBool)>,
            link: Link<Both>,
        }
        // SAFETY: the link is a field of the item.
        unsafe impl Linked for Both {
            fn link(&self) -> &Link<Self> {
                &self.link
            }
        }
        let both = Arc::new(Both { data: item, link: Link::new() });
        let producers = [0, 1].map(|i| {
            let (queue, bell, both) = (Arc::clone(&queue), Arc::clone(&bell), Arc::clone(&both));
            thread::spawn(move || {
                let word = if i == 0 { &both.data.0 } else { &both.data.1 };
                word.store(true, Relaxed);
                queue.push(&both);
                bell.ring();
            })
        });
        let mut seen = (false, false);
        wait(|cx| {
            bell.disarm();
            loop {
                for both in queue.take() {
                    seen = (both.data.0.load(Relaxed), both.data.1.load(Relaxed));
                }
                if seen == (true, true) {
                    return Poll::Ready(());
                }
                bell.arm(cx.waker());
                if queue.is_empty() {
                    return Poll::Pending;
                }
            }
        });
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn shut_down_is_heard() {
    model(6, || {
        let intake = Intake::new();
        let app = {
            let intake = Arc::clone(&intake);
            thread::spawn(move || intake.shut_down())
        };
        wait(|cx| {
            intake.bell().arm(cx.waker());
            if intake.is_closing() { Poll::Ready(()) } else { Poll::Pending }
        });
        app.join().unwrap();
        intake.close();
    });
}
