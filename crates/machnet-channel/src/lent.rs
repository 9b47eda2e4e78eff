//! Regions over memory that a device's library owns: a DPDK mempool, an AF_XDP UMEM.
//!
//! ```text
//!            adopt                       drop, share, lend: as any frame
//!   device ────────▶ Frame, FrameRef … ─────────────────────▶ free list of the pool
//!      ▲                                     take ◀──────────────┤
//!      └─────────────────────────────────────────────────────────┘ surrender
//! ```
//!
//! At first the device has every frame. It gets a frame back only from the pool's owner, never from who drops one: an
//! application's thread touches the list and nothing of the device.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::frame::{FrameMeta, Memory, NIL};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::{Frame, FramePool, FrameRef, Private, Region};

impl Region<Private> {
    /// A region of frames of `frame_size` bytes each that begin at `starts`. The device has all of them. `owner` is
    /// dropped, on whatever thread, after the last frame was.
    ///
    /// # Errors
    /// `InvalidInput` for no frames, more than 2³² − 1, or a size of 0.
    ///
    /// # Safety
    /// Each start has `frame_size` bytes behind it, initialised, disjoint from those of the others, valid until `owner`
    /// is dropped, and written by nobody but this process. Who calls [`FramePool::adopt`] keeps its contract.
    pub unsafe fn lent(
        starts: &[NonNull<u8>],
        frame_size: u32,
        owner: Box<dyn Send + Sync>,
    ) -> io::Result<(Self, FramePool)> {
        if starts.is_empty() || starts.len() >= NIL as usize || frame_size == 0 {
            let text = format!("a region of {} frames of {frame_size} bytes", starts.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let meta = |&start| FrameMeta { count: AtomicU32::new(0), next: AtomicU32::new(NIL), start };
        Ok(Self::over(Memory::Lent { _owner: owner }, frame_size, starts.iter().map(meta).collect(), NIL))
    }
}

impl FramePool {
    /// Takes frame `index` over from the device.
    ///
    /// # Panics
    /// If there is no such frame, or it is in use.
    ///
    /// # Safety
    /// The device has the frame, and neither reads nor writes it from now on, until it is surrendered or, for reading
    /// alone, lent.
    pub unsafe fn adopt(&mut self, index: u32) -> Frame {
        // Acquire: as in `take`; a frame that came home passed through the pool.
        let before = self.inner.meta(index).count.swap(1, Ordering::Acquire);
        assert_eq!(before, 0, "frame {index} is in use");
        Frame { region: Arc::clone(&self.inner), index }
    }

    /// Gives a free frame to the device: its index, or `None` if none is free.
    pub fn surrender(&mut self) -> Option<u32> {
        self.pop()
    }

    /// Which frame of this region `frame` is part of, and which part; `None` if it is of another.
    #[must_use]
    pub fn locate(&self, frame: &FrameRef) -> Option<(u32, Range<u32>)> {
        Arc::ptr_eq(&self.inner, &frame.region).then_some((frame.index, frame.start..frame.end))
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;
    use crate::sync::atomic::AtomicBool;

    struct Owner(Arc<AtomicBool>);

    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn region(frames: usize) -> (Region<Private>, FramePool, Arc<AtomicBool>, Vec<NonNull<u8>>) {
        let gone = Arc::new(AtomicBool::new(false));
        let memory: &'static mut [u8] = Box::leak(vec![0; frames * 100].into_boxed_slice());
        // Backwards: where frames lie is the device's business.
        let starts: Vec<_> = memory.chunks_exact_mut(100).rev().map(|frame| NonNull::from(frame).cast()).collect();
        // SAFETY: 100 bytes each, for ever.
        let (region, pool) = unsafe { Region::lent(&starts, 64, Box::new(Owner(Arc::clone(&gone)))) }.unwrap();
        (region, pool, gone, starts)
    }

    #[test]
    fn frames_go_from_the_device_to_the_application_and_back() {
        let (region, mut pool, gone, starts) = region(4);
        assert_eq!((pool.capacity(), pool.free(), pool.frame_size()), (4, 0, 64));
        assert!(pool.take().is_none() && pool.surrender().is_none(), "the device has all of them");
        // SAFETY: no device is there.
        let frames: Vec<_> = [2, 0].into_iter().map(|index| unsafe { pool.adopt(index) }).collect();
        assert_eq!(frames[0].bytes().as_ptr(), starts[2].as_ptr());
        assert_eq!(frames[1].bytes().len(), 64);
        let [second, first] = frames.try_into().unwrap();
        let loan = second.share(3..9);
        assert_eq!(pool.locate(&loan), Some((2, 3..9)));
        drop(first);
        assert_eq!((pool.free(), pool.surrender(), pool.surrender()), (1, Some(0), None));
        drop((region, pool));
        assert!(!gone.load(Ordering::Relaxed), "a message is still there");
        assert_eq!(loan.as_ref(), [0; 6]);
        drop(loan);
        assert!(gone.load(Ordering::Relaxed));
    }

    #[test]
    fn frames_of_another_region_are_not_located() {
        let (_region, mut pool, ..) = region(1);
        let (_other, stranger, ..) = region(1);
        // SAFETY: no device is there.
        let loan = unsafe { pool.adopt(0) }.share(0..1);
        assert_eq!(stranger.locate(&loan), None);
    }

    #[test]
    #[should_panic(expected = "frame 1 is in use")]
    fn a_frame_is_adopted_once() {
        let (_region, mut pool, ..) = region(2);
        // SAFETY: no device is there.
        let _frame = unsafe { pool.adopt(1) };
        // SAFETY: as above.
        let _again = unsafe { pool.adopt(1) };
    }

    #[test]
    fn nonsense_is_refused() {
        let owner = || Box::new(());
        // SAFETY: no memory at all.
        assert!(unsafe { Region::lent(&[], 64, owner()) }.is_err());
        // SAFETY: as above.
        assert!(unsafe { Region::lent(&[NonNull::dangling()], 0, owner()) }.is_err());
    }
}
