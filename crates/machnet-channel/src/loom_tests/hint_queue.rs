use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;

use super::model;
use crate::hint_queue::{HintQueue, Link, Linked};

struct Item {
    data: [AtomicU32; 2],
    unseen: AtomicU32,
    link: Link<Item>,
}

// SAFETY: the link is a field of the item.
unsafe impl Linked for Item {
    fn link(&self) -> &Link<Self> {
        &self.link
    }

    fn unseen(item: &Arc<Self>) {
        item.unseen.fetch_add(1, Relaxed);
    }
}

fn item() -> Arc<Item> {
    Arc::new(Item { data: [AtomicU32::new(0), AtomicU32::new(0)], unseen: AtomicU32::new(0), link: Link::new() })
}

/// Takes what waits and returns what a look at it finds: per item, whether it was there, and its data.
fn look<const N: usize>(queue: &HintQueue<Item>, items: &[Arc<Item>; N]) -> [Option<[u32; 2]>; N] {
    let mut found = [None; N];
    for taken in queue.take() {
        let i = items.iter().position(|item| Arc::ptr_eq(item, &taken)).expect("an item that was pushed");
        let looked = taken.data.each_ref().map(|word| word.load(Relaxed));
        assert!(found[i].replace(looked).is_none(), "queued twice");
    }
    found
}

#[test]
fn every_write_is_looked_at() {
    model(6, || {
        let (queue, item) = (Arc::new(HintQueue::new()), item());
        let producers = [0, 1].map(|i| {
            let (queue, item) = (Arc::clone(&queue), Arc::clone(&item));
            thread::spawn(move || {
                item.data[i].store(1, Relaxed);
                queue.push(&item);
            })
        });
        let items = [item];
        let first = look(&queue, &items)[0];
        for producer in producers {
            producer.join().unwrap();
        }
        let last = look(&queue, &items)[0].or(first);
        assert_eq!(last, Some([1, 1]), "a write that nobody looked at");
        assert_eq!(look(&queue, &items), [None]);
    });
}

#[test]
fn requeued_while_drained() {
    model(6, || {
        let (queue, items) = (Arc::new(HintQueue::new()), [item(), item()]);
        for item in &items {
            queue.push(item);
        }
        let producer = {
            let (queue, item) = (Arc::clone(&queue), Arc::clone(&items[0]));
            thread::spawn(move || {
                item.data[0].store(1, Relaxed);
                queue.push(&item);
            })
        };
        let first = look(&queue, &items);
        producer.join().unwrap();
        let last = look(&queue, &items);
        assert_eq!(last[0].or(first[0]), Some([1, 0]));
        assert_eq!([first[1], last[1]], [Some([0, 0]), None], "the neighbour of a requeued item was lost");
    });
}

#[test]
fn oldest_first() {
    model(2, || {
        let (queue, items) = (HintQueue::new(), [item(), item(), item()]);
        for item in &items {
            queue.push(item);
        }
        assert!(queue.take().zip(&items).all(|(a, b)| Arc::ptr_eq(&a, b)));
    });
}

#[test]
fn close_beside_push_drops_everything() {
    model(6, || {
        let (queue, items) = (Arc::new(HintQueue::new()), [item(), item()]);
        let producers = [0, 1].map(|i| {
            let (queue, item) = (Arc::clone(&queue), Arc::clone(&items[i]));
            thread::spawn(move || queue.push(&item))
        });
        queue.close();
        for producer in producers {
            producer.join().unwrap();
        }
        assert!(queue.take().next().is_none());
        for item in &items {
            assert_eq!(item.unseen.load(Relaxed), 1, "told that nobody will look, once");
        }
    });
}

#[test]
fn dropped_with_items_inside() {
    model(6, || {
        let (queue, item) = (Arc::new(HintQueue::new()), item());
        let producer = {
            let (queue, item) = (Arc::clone(&queue), Arc::clone(&item));
            thread::spawn(move || queue.push(&item))
        };
        let drain = queue.take();
        drop(queue);
        drop(drain);
        producer.join().unwrap();
        assert_eq!(item.unseen.load(Relaxed), 1);
    });
}
