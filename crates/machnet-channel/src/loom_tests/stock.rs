use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::model;
use crate::{FramePool, FrameRef, Intake, Message, Region, Stocker};

fn stock(frames: u32) -> (FramePool, Arc<Intake>, Stocker) {
    // loom looks at every byte's owner, not at bytes: a message may be of none.
    let (_region, pool) = Region::anonymous(2048, frames).unwrap();
    let intake = Intake::new();
    let stocker = Stocker::new(&intake, 64, 1024, frames).unwrap();
    (pool, intake, stocker)
}

fn take(intake: &Intake) -> Option<Message> {
    let (frame, start) = intake.stock().unwrap().take(1024)?;
    Some(frame.share_with_front(start..start + 8).unwrap().into())
}

/// Two tasks and the engine at the same two slots: each frame is one's alone, and all come home.
#[test]
fn each_frame_goes_to_one_task() {
    model(2, || {
        let (mut pool, intake, mut stocker) = stock(2);
        // What is in each frame, as far as loom can see it.
        let shadows = Arc::new([(); 2].map(|()| UnsafeCell::new(())));
        let base = pool.take().unwrap();
        let at = base.bytes().as_ptr().addr();
        stocker.put(base).unwrap();
        let tasks = [(); 2].map(|()| {
            let (intake, shadows) = (Arc::clone(&intake), Arc::clone(&shadows));
            thread::spawn(move || {
                if let Some(message) = take(&intake) {
                    let frame = usize::from(message.as_slice().as_ptr().addr() - 64 != at);
                    shadows[frame].with_mut(|_| drop(message));
                }
            })
        });
        if let Some(frame) = pool.take() {
            drop(stocker.put(frame));
        }
        for task in tasks {
            task.join().unwrap();
        }
        assert_eq!(stocker.away(), stocker.waiting(), "what nobody has is in a slot");
        drop(stocker);
        assert_eq!(pool.free(), 2);
    });
}

/// A slot that a task emptied is filled again: the engine does not write it before the task has read it.
#[test]
fn a_slot_is_read_before_it_is_filled_again() {
    model(4, || {
        let (mut pool, intake, mut stocker) = stock(2);
        stocker.put(pool.take().unwrap()).unwrap();
        let task = {
            let intake = Arc::clone(&intake);
            thread::spawn(move || [take(&intake), take(&intake)].into_iter().flatten().count())
        };
        stocker.put(pool.take().unwrap()).unwrap();
        let taken = task.join().unwrap();
        assert!(taken >= 1 && stocker.waiting() as usize == 2 - taken);
        drop(stocker);
        assert_eq!(pool.free(), 2);
    });
}

/// The engine ends while a task takes a frame: the task has it, or the engine does.
#[test]
fn the_engine_ends_while_a_frame_is_taken() {
    model(4, || {
        let (mut pool, intake, mut stocker) = stock(1);
        stocker.put(pool.take().unwrap()).unwrap();
        let task = {
            let intake = Arc::clone(&intake);
            thread::spawn(move || drop(take(&intake)))
        };
        drop(stocker);
        task.join().unwrap();
        assert!(take(&intake).is_none());
        assert_eq!(pool.free(), 1);
    });
}

/// The engine writes headers in front of a message while others read it, and the last to drop it counts it home.
#[test]
fn headers_are_written_while_the_message_is_read() {
    model(4, || {
        let (mut pool, intake, mut stocker) = stock(1);
        let (front, payload) = (UnsafeCell::new(()), Arc::new(UnsafeCell::new(())));
        stocker.put(pool.take().unwrap()).unwrap();
        let mut message = take(&intake).unwrap();
        let mut packet = FrameRef::built(&mut message).unwrap().depart().unwrap();
        let reader = {
            let payload = Arc::clone(&payload);
            thread::spawn(move || payload.with(|_| drop(message)))
        };
        if let Some(bytes) = packet.grow(8) {
            front.with_mut(|_| bytes.fill(1));
        }
        payload.with(|_| assert_eq!(packet.as_ref().len(), 16));
        drop(packet);
        reader.join().unwrap();
        assert_eq!((stocker.away(), pool.free()), (0, 1));
        drop(stocker);
    });
}
