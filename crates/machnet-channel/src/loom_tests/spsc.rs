use loom::sync::Arc;
use loom::thread;

use super::model;
use crate::spsc::{Keep, KeepAll, KeepOne, Spsc};

#[test]
fn order_across_segments_with_recycling() {
    order_across_segments::<KeepAll>();
}

#[test]
fn order_across_segments_with_one_spare() {
    order_across_segments::<KeepOne>();
}

/// Under loom a segment has two slots.
fn order_across_segments<K: Keep + 'static>() {
    model(6, || {
        let queue = Arc::new(Spsc::<_, K>::new());
        for i in 0..2 {
            // SAFETY: one thread so far.
            unsafe { queue.push(Arc::new(i)) };
            // SAFETY: as above.
            assert_eq!(unsafe { queue.pop() }.as_deref(), Some(&i));
        }
        // The producer needs two more segments; the consumer hands the first one back meanwhile.
        let producer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                for i in 2..6 {
                    // SAFETY: the only producer.
                    unsafe { queue.push(Arc::new(i)) };
                }
            })
        };
        let mut expected = 2;
        for _ in 0..3 {
            // SAFETY: the only consumer.
            if let Some(item) = unsafe { queue.pop() } {
                assert_eq!(*item, expected);
                expected += 1;
            }
        }
        producer.join().unwrap();
        // SAFETY: the only consumer.
        while let Some(item) = unsafe { queue.pop() } {
            assert_eq!(*item, expected);
            expected += 1;
        }
        assert_eq!(expected, 6);
    });
}

#[test]
fn dropped_by_either_side_with_items_inside() {
    model(6, || {
        let queue = Arc::new(Spsc::<_, KeepAll>::new());
        let producer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                for i in 0..3 {
                    // SAFETY: the only producer.
                    unsafe { queue.push(Arc::new(i)) };
                }
            })
        };
        // SAFETY: the only consumer.
        let first = unsafe { queue.pop() };
        drop(queue);
        assert!(first.is_none_or(|item| *item == 0));
        producer.join().unwrap();
    });
}

#[test]
fn memory_is_given_back_while_the_consumer_goes_on() {
    given_back::<KeepAll>();
    given_back::<KeepOne>();
}

/// The producer sheds (inbox), and the consumer too (outbox), at any point of the other's way.
fn given_back<K: Keep + 'static>() {
    model(6, || {
        let queue = Arc::new(Spsc::<_, K>::new());
        for i in 0..3 {
            // SAFETY: one thread so far.
            unsafe { queue.push(Arc::new(i)) };
        }
        let producer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                // SAFETY: the only producer.
                unsafe { queue.shed() };
                for i in 3..6 {
                    // SAFETY: as above.
                    unsafe { queue.push(Arc::new(i)) };
                }
            })
        };
        let mut expected = 0;
        for _ in 0..3 {
            // SAFETY: the only consumer.
            let item = unsafe { queue.pop() }.expect("there before the threads parted");
            assert_eq!(*item, expected);
            expected += 1;
        }
        queue.shed_spare();
        producer.join().unwrap();
        // SAFETY: the only consumer.
        while let Some(item) = unsafe { queue.pop() } {
            assert_eq!(*item, expected);
            expected += 1;
        }
        assert_eq!(expected, 6);
    });
}
