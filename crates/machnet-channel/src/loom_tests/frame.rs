use std::task::Poll;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::{model, wait};
use crate::{Doorbell, FramePool, Private, Region};

fn region(frames: u32) -> (Region<Private>, FramePool) {
    Region::anonymous(64, frames).unwrap()
}

/// loom does not see the bytes of a frame; this stands for them.
type Bytes = Arc<UnsafeCell<()>>;

fn bytes() -> Bytes {
    Arc::new(UnsafeCell::new(()))
}

#[test]
fn comes_home_once_when_two_holders_drop() {
    model(6, || {
        let (_region, mut pool) = region(1);
        let shadow = bytes();
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap().fill(1);
        shadow.with_mut(|_| ());
        let first = frame.share(0..8);
        let second = first.slice(0..4);
        let holders = [first, second].map(|held| {
            let shadow = Arc::clone(&shadow);
            thread::spawn(move || {
                shadow.with(|_| assert_eq!(held.as_ref()[0], 1));
                drop(held);
            })
        });
        let again = pool.take();
        if let Some(_frame) = &again {
            shadow.with_mut(|_| ());
        }
        for holder in holders {
            holder.join().unwrap();
        }
        assert_eq!(pool.free(), u32::from(again.is_none()));
        assert!(pool.take().is_none_or(|_| again.is_none()), "one frame, taken twice");
    });
}

#[test]
fn two_frames_come_home_at_once() {
    model(6, || {
        let (_region, mut pool) = region(2);
        let holders = [pool.take().unwrap(), pool.take().unwrap()].map(|frame| thread::spawn(move || drop(frame)));
        let early = pool.take();
        let free = pool.free();
        assert!(free <= 2 - u32::from(early.is_some()));
        for holder in holders {
            holder.join().unwrap();
        }
        let rest: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(rest.len() + usize::from(early.is_some()), 2);
        drop((early, rest));
        assert_eq!(pool.free(), 2);
    });
}

#[test]
fn written_only_when_no_loan_is_left() {
    model(6, || {
        let (_region, mut pool) = region(1);
        let shadow = bytes();
        let mut frame = pool.take().unwrap();
        let readers = [frame.lend(0..8), frame.lend(8..16)].map(|loan| {
            let shadow = Arc::clone(&shadow);
            thread::spawn(move || {
                shadow.with(|_| assert_eq!(loan.as_ref()[0], 0));
                drop(loan);
            })
        });
        if let Some(bytes) = frame.bytes_mut() {
            shadow.with_mut(|_| bytes.fill(1));
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(frame.bytes_mut().is_some());
    });
}

#[test]
fn never_sleeps_with_a_frame_at_home() {
    model(6, || {
        let (_region, mut pool) = region(1);
        let bell = Arc::new(Doorbell::new());
        pool.set_bell(Arc::clone(&bell));
        let frame = pool.take().unwrap();
        let holder = thread::spawn(move || drop(frame));
        let frame = wait(|cx| {
            bell.disarm();
            loop {
                if let Some(frame) = pool.take() {
                    return Poll::Ready(frame);
                }
                bell.arm(cx.waker());
                if !pool.starve() {
                    return Poll::Pending;
                }
            }
        });
        holder.join().unwrap();
        drop(frame);
    });
}

#[test]
fn two_holders_ring_a_starving_pool() {
    model(3, || {
        let (_region, mut pool) = region(2);
        let bell = Arc::new(Doorbell::new());
        pool.set_bell(Arc::clone(&bell));
        let holders = [pool.take().unwrap(), pool.take().unwrap()].map(|frame| thread::spawn(move || drop(frame)));
        let mut frames = Vec::new();
        wait(|cx| {
            bell.disarm();
            loop {
                while let Some(frame) = pool.take() {
                    frames.push(frame);
                }
                if frames.len() == 2 {
                    return Poll::Ready(());
                }
                bell.arm(cx.waker());
                if !pool.starve() {
                    return Poll::Pending;
                }
            }
        });
        for holder in holders {
            holder.join().unwrap();
        }
        drop(frames);
        assert_eq!(pool.free(), 2);
    });
}

#[test]
fn the_last_holder_frees_the_region() {
    model(6, || {
        let (region, mut pool) = region(1);
        let frame = pool.take().unwrap();
        let loan = frame.lend(0..4);
        let holder = thread::spawn(move || assert_eq!(loan.as_ref(), [0; 4]));
        drop((region, pool));
        drop(frame);
        holder.join().unwrap();
    });
}
