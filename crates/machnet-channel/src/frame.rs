//! Regions of fixed-size frames, and the one rule for frames: *a frame is written only by its single holder*.
//!
//! ```text
//!   FramePool ──take──▶ Frame (count 1: may write) ──share──▶ FrameRef (count n: read-only, a range)
//!       ▲                                                        │ clone: count + 1
//!       └──────────── free list ◀── count 0 ─────────────────────┘ drop: count − 1
//! ```
//!
//! A count per frame, in the region, is all there is: a loan to a driver, a message lent to the application and the
//! engine's own hold are the same thing. [`Frame::bytes_mut`] works at count 1 only; who must write a frame that is
//! lent takes a fresh one. Dropping never blocks and may happen on any thread, after engine, endpoint and runtime are
//! gone: the region lives until its last frame does.
//!
//! One exception, by ranges: what lies in front of a payload may be written while others read the payload (`front.rs`).
//!
//! [`Region`]`<Private>` is memory that only this process writes. Memory that others write gets a type of its own (a
//! `&[u8]` over it would be undefined behaviour), so that the compiler keeps the two apart.

use std::alloc::Layout;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::Doorbell;
use crate::front::Front;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use crate::sync::{self, Arc};

/// The end of a free list.
pub(crate) const NIL: u32 = u32::MAX;
/// In place of the link of a frame in use: it was given to applications to build in, and is counted out when it comes home.
pub(crate) const BUILDING: u32 = NIL - 1;

/// Memory that only this process writes.
#[derive(Debug)]
pub enum Private {}

/// Frames of one size in one piece of memory.
pub struct Region<K> {
    inner: Arc<RegionInner>,
    kind: PhantomData<K>,
}

pub(crate) struct FrameMeta {
    /// Holders of the frame; 0 on the free list, and while a device has it.
    pub(crate) count: AtomicU32,
    /// Next on a free list; of a frame in use [`BUILDING`] or of no meaning.
    pub(crate) next: AtomicU32,
    /// Its first byte.
    pub(crate) start: NonNull<u8>,
}

/// Whose the bytes are.
pub(crate) enum Memory {
    /// The region's own.
    Allocated(NonNull<u8>, Layout),
    /// Somebody else's, who keeps them as long as this lives.
    Lent { _owner: Box<dyn Send + Sync> },
}

pub(crate) struct RegionInner {
    memory: Memory,
    frame_size: u32,
    frames: Box<[FrameMeta]>,
    bell: OnceLock<Arc<Doorbell>>,
    home: Home,
}

/// Written by every thread that drops a frame; apart from what every access to a frame reads.
#[repr(align(64))]
struct Home {
    /// Frames that came home, newest first; the pool takes the whole list at once.
    newest: AtomicU32,
    /// How many frames ever came home. Counted before the push, so that who takes a frame finds it counted.
    returned: AtomicU64,
    /// Frames that are [`BUILDING`].
    building: AtomicU32,
    /// The pool ran dry and its engine wants to hear of the next frame.
    starving: AtomicBool,
}

// SAFETY: `start`s point into `memory`, which is reached through `Frame` (one holder, may write) and `FrameRef` (many, read only), whose counts
// are atomic; everything else is atomic or immutable.
unsafe impl Send for RegionInner {}
// SAFETY: as above.
unsafe impl Sync for RegionInner {}

/// Bytes that [`Frame::prefetch`] asks for at most.
const PREFETCHED: u32 = 1536;
/// A cache line, bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// Alignment of a region and, where `frame_size` allows, of its frames: a page, as UMEM and DMA want it.
const ALIGN: usize = 4096;

impl Region<Private> {
    /// `count` frames of `frame_size` bytes each, zeroed, untouched until used: pages cost memory only then.
    ///
    /// # Errors
    /// `InvalidInput` if either is 0 or the product overflows; `OutOfMemory`.
    pub fn anonymous(frame_size: u32, count: u32) -> io::Result<(Self, FramePool)> {
        let bad = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a region of {count} frames of {frame_size} bytes: both must be positive and fit in memory"),
            )
        };
        if count == NIL {
            return Err(bad());
        }
        let size = (frame_size as usize).checked_mul(count as usize).filter(|&n| n > 0).ok_or_else(bad)?;
        // Not `Layout`'s alignment: beyond malloc's own, `alloc_zeroed` writes the zeros itself and so touches every page.
        // Without it, it is `calloc`, which leaves fresh pages to the kernel.
        let layout =
            size.checked_add(ALIGN - 1).and_then(|size| Layout::from_size_align(size, 1).ok()).ok_or_else(bad)?;
        // SAFETY: the size is not 0.
        let allocation = unsafe { std::alloc::alloc_zeroed(layout) };
        let allocation = NonNull::new(allocation).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let skip = allocation.addr().get().next_multiple_of(ALIGN) - allocation.addr().get();
        // SAFETY: `skip` is below ALIGN, and the allocation has ALIGN - 1 bytes more than the frames need.
        let base = unsafe { allocation.add(skip) };
        let frames = (0..count)
            .map(|i| FrameMeta {
                count: AtomicU32::new(0),
                next: AtomicU32::new(if i + 1 == count { NIL } else { i + 1 }),
                // SAFETY: the allocation has room for `count` frames after `base`.
                start: unsafe { base.add(i as usize * frame_size as usize) },
            })
            .collect();
        Ok(Self::over(Memory::Allocated(allocation, layout), frame_size, frames, 0))
    }

    /// A region, and the pool whose list of free frames begins at `free`.
    pub(crate) fn over(memory: Memory, frame_size: u32, frames: Box<[FrameMeta]>, free: u32) -> (Self, FramePool) {
        let home = Home {
            newest: AtomicU32::new(NIL),
            returned: AtomicU64::new(0),
            building: AtomicU32::new(0),
            starving: AtomicBool::new(false),
        };
        let taken = if free == NIL { frames.len() as u64 } else { 0 };
        let inner = Arc::new(RegionInner { memory, frame_size, frames, bell: OnceLock::new(), home });
        let pool = FramePool { inner: Arc::clone(&inner), free, taken };
        (Self { inner, kind: PhantomData }, pool)
    }
}

impl<K> Region<K> {
    /// Bytes per frame.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.inner.frame_size
    }

    /// Number of frames.
    #[must_use]
    pub fn frame_count(&self) -> u32 {
        self.inner.frames.len() as u32
    }
}

impl<K> std::fmt::Debug for Region<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl std::fmt::Debug for RegionInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("frame_size", &self.frame_size)
            .field("frame_count", &self.frames.len())
            .finish_non_exhaustive()
    }
}

impl RegionInner {
    pub(crate) fn start_of(&self, index: u32) -> NonNull<u8> {
        self.meta(index).start
    }

    /// Bytes of a frame.
    ///
    /// # Safety
    /// The range is inside the frame, and while the slice lives somebody has a reference to it: such a frame is never written there.
    pub(crate) unsafe fn slice(&self, index: u32, start: u32, end: u32) -> &[u8] {
        // SAFETY: inside the frame.
        let first = unsafe { self.start_of(index).add(start as usize) };
        // SAFETY: as above, and nobody writes it.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), (end - start) as usize) }
    }

    pub(crate) fn meta(&self, index: u32) -> &FrameMeta {
        &self.frames[index as usize]
    }

    /// Notes that an application may build in a frame, which its only holder calls.
    pub(crate) fn count_in(&self, index: u32) {
        self.meta(index).next.store(BUILDING, Ordering::Relaxed);
        self.home.building.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a frame in use was given to applications to build in.
    pub(crate) fn is_building(&self, index: u32) -> bool {
        self.meta(index).next.load(Ordering::Relaxed) == BUILDING
    }

    /// Frames that applications build in, or have built in and that are not home.
    pub(crate) fn building(&self) -> u32 {
        self.home.building.load(Ordering::Relaxed)
    }

    /// A frame comes home: nobody holds it.
    fn count_out(&self, meta: &FrameMeta) {
        if meta.next.load(Ordering::Relaxed) == BUILDING {
            self.home.building.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn retain(&self, index: u32) {
        // Relaxed: the caller holds the frame, so it cannot come home meanwhile.
        let before = self.meta(index).count.fetch_add(1, Ordering::Relaxed);
        // Leaking references in a loop must end in an abort, not in a frame freed under its readers.
        if before > u32::MAX / 2 {
            std::process::abort();
        }
    }

    pub(crate) fn release(&self, index: u32) {
        let meta = self.meta(index);
        // Release: our reads end before the next holder writes. Acquire (below, last holder only): theirs did too.
        let order = if sync::mutant!("count_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        if meta.count.fetch_sub(1, order) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        self.count_out(meta);
        let home = &self.home;
        home.returned.fetch_add(1, Ordering::Relaxed);
        let mut head = sync::guess_u32(&home.newest);
        loop {
            meta.next.store(head, Ordering::Relaxed);
            match home.newest.compare_exchange_weak(head, index, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // Orders the push before the look at `starving`; pairs with the fence in `FramePool::starve`.
        if !sync::mutant!("release_fence") {
            fence(Ordering::SeqCst);
        }
        // Acquire: the bell was set before.
        if home.starving.load(Ordering::Relaxed)
            && home.starving.swap(false, Ordering::AcqRel)
            && let Some(bell) = self.bell.get()
        {
            bell.ring();
        }
    }
}

impl Drop for RegionInner {
    fn drop(&mut self) {
        if let Memory::Allocated(allocation, layout) = self.memory {
            // SAFETY: allocated in `anonymous` with this layout; no frame is left (each holds an `Arc` of this).
            unsafe { std::alloc::dealloc(allocation.as_ptr(), layout) };
        }
    }
}

/// The one place frames of a region are taken from. Belongs to the engine or its driver.
#[derive(Debug)]
pub struct FramePool {
    pub(crate) inner: Arc<RegionInner>,
    /// Head of the list that only the pool sees.
    free: u32,
    taken: u64,
}

impl FramePool {
    /// Takes a free frame; `None` if all are in use. Its bytes are whatever they were.
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.pop()?;
        self.inner.meta(index).count.store(1, Ordering::Relaxed);
        Some(Frame { region: Arc::clone(&self.inner), index })
    }

    /// Takes a free frame off the list, as it is.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        if self.free == NIL {
            // Acquire: pairs with the Release in `release`. Taking the whole list at once leaves no room for ABA.
            self.free = self.inner.home.newest.swap(NIL, Ordering::Acquire);
            if self.free == NIL {
                return None;
            }
        }
        let index = self.free;
        self.free = self.inner.meta(index).next.load(Ordering::Relaxed);
        self.taken += 1;
        Some(index)
    }

    /// Puts the frames that came home before those never used yet, so that they are taken first: they are in the cache,
    /// and their pages exist. Without it, frames lent to applications walk through the whole region. To be called once a
    /// round; costs a load, and one more per frame that came home.
    pub fn gather(&mut self) {
        let home = &self.inner.home;
        if self.free == NIL || home.newest.load(Ordering::Relaxed) == NIL {
            return;
        }
        // Acquire: as in `take`.
        let newest = home.newest.swap(NIL, Ordering::Acquire);
        let mut last = newest;
        loop {
            let next = self.inner.meta(last).next.load(Ordering::Relaxed);
            if next == NIL {
                break;
            }
            last = next;
        }
        self.inner.meta(last).next.store(self.free, Ordering::Relaxed);
        self.free = newest;
    }

    /// Takes back a reference, if it is the last one to a frame of this region, without the detour through the list that
    /// other threads use; else drops it.
    pub fn recycle(&mut self, frame: FrameRef) {
        if !Arc::ptr_eq(&self.inner, &frame.region) {
            return;
        }
        let meta = self.inner.meta(frame.index);
        // Acquire: pairs with the Release in `release`, as in `Frame::bytes_mut`. At 1 nobody else can raise it.
        if meta.count.load(Ordering::Acquire) == 1 {
            let this = ManuallyDrop::new(frame);
            // SAFETY: `this` is never dropped nor used again, so the `Arc` is dropped once.
            drop(unsafe { std::ptr::read(&raw const this.region) });
            self.inner.count_out(meta);
            meta.count.store(0, Ordering::Relaxed);
            meta.next.store(self.free, Ordering::Relaxed);
            self.free = this.index;
            self.taken -= 1;
        }
    }

    /// True if `frame` is one of this region.
    #[must_use]
    pub fn owns(&self, frame: &FrameRef) -> bool {
        Arc::ptr_eq(&self.inner, &frame.region)
    }

    /// Number of free frames. Exact only while nobody drops one; a frame counts a little before it can be taken.
    #[must_use]
    pub fn free(&self) -> u32 {
        (self.inner.frames.len() as u64 + self.inner.home.returned.load(Ordering::Relaxed) - self.taken) as u32
    }

    /// Number of frames of the region.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner.frames.len() as u32
    }

    /// Bytes per frame.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.inner.frame_size
    }

    /// The bell to ring when a frame comes home after [`FramePool::starve`]. The first one stays.
    pub fn set_bell(&mut self, bell: Arc<Doorbell>) {
        let _ = self.inner.bell.set(bell);
    }

    /// Called before an engine that wants a frame sleeps, after it armed its doorbell: asks for the bell. Returns true if
    /// a frame is there already, and the engine must not sleep. One frame rings once: call it before every sleep.
    pub fn starve(&mut self) -> bool {
        let home = &self.inner.home;
        // Release: who sees the pool starve finds the bell. A swap for the reason given in `Doorbell::arm`.
        home.starving.swap(true, Ordering::AcqRel);
        // Pairs with the fence in `release`.
        if !sync::mutant!("starve_fence") {
            fence(Ordering::SeqCst);
        }
        self.free != NIL || home.newest.load(Ordering::Relaxed) != NIL
    }
}

/// A frame held alone: the holder may write it, if no [`FrameRef`] made with [`Frame::lend`] is left.
pub struct Frame {
    pub(crate) region: Arc<RegionInner>,
    pub(crate) index: u32,
}

impl Frame {
    /// The whole frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let start = self.region.start_of(self.index);
        // SAFETY: the frame is inside the region, initialised (zeroed at first), and written only through
        // `bytes_mut`, which takes `&mut self` and refuses while it is lent.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.region.frame_size as usize) }
    }

    /// The whole frame, to write; `None` while it is lent: take a fresh frame then.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // Acquire: pairs with the Release in `release`, so that a past reader's reads are over.
        if self.region.meta(self.index).count.load(Ordering::Acquire) != 1 {
            return None;
        }
        let start = self.region.start_of(self.index);
        // SAFETY: count 1 and `&mut self`: nobody else reads or writes the frame, and no reference can be made while
        // the slice lives.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.region.frame_size as usize) })
    }

    /// Has the processor fetch `range` of the frame, which will soon be read, if it can: at most a usual Ethernet frame of it, for behind that its own
    /// prefetchers are on the track. Whatever the range is, nothing else happens.
    #[inline]
    pub fn prefetch(&self, range: Range<u32>) {
        let end = range.end.min(self.region.frame_size).min(range.start.saturating_add(PREFETCHED));
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        for at in (range.start..end).step_by(2 * LINE) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.region.start_of(self.index).as_ptr().cast::<i8>().wrapping_add(at as usize);
            // SAFETY: every processor of this kind has it, and it only hints, whatever the address is.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(LINE)) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = end;
    }

    /// Lends `range` of the frame, read-only; the frame may not be written until the loan is dropped.
    ///
    /// # Panics
    /// If `range` is not inside the frame.
    #[must_use]
    pub fn lend(&self, range: Range<u32>) -> FrameRef {
        assert!(range.start <= range.end && range.end <= self.region.frame_size, "range outside the frame");
        self.region.retain(self.index);
        FrameRef::new(Arc::clone(&self.region), self.index, range)
    }

    /// Gives up writing: the frame comes home when the last reference is dropped.
    ///
    /// # Panics
    /// If `range` is not inside the frame.
    #[must_use]
    pub fn share(self, range: Range<u32>) -> FrameRef {
        assert!(range.start <= range.end && range.end <= self.region.frame_size, "range outside the frame");
        // The hold passes from one handle to the other: no count changes.
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so the `Arc` has one owner still.
        let region = unsafe { std::ptr::read(&raw const this.region) };
        FrameRef::new(region, this.index, range)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.region.release(self.index);
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("index", &self.index).finish_non_exhaustive()
    }
}

/// A counted, read-only reference to part of a frame.
pub struct FrameRef {
    pub(crate) region: Arc<RegionInner>,
    pub(crate) index: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// See `front.rs`.
    pub(crate) front: Front,
}

impl FrameRef {
    /// The caller's hold becomes the reference's.
    pub(crate) const fn new(region: Arc<RegionInner>, index: u32, range: Range<u32>) -> Self {
        Self { region, index, start: range.start, end: range.end, front: Front::none() }
    }

    /// Bytes in view.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.end - self.start
    }

    /// True if none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Another reference to `range` of this one.
    ///
    /// # Panics
    /// If `range` is not inside this reference.
    #[must_use]
    pub fn slice(&self, range: Range<u32>) -> Self {
        assert!(range.start <= range.end && range.end <= self.end - self.start, "range outside the reference");
        let start = self.start + range.start;
        self.share_at(start);
        Self::new(Arc::clone(&self.region), self.index, start..self.start + range.end)
    }

    /// Another hold, whose bytes begin at `start` of the frame.
    pub(crate) fn share_at(&self, start: u32) {
        self.region.retain(self.index);
        self.front.share(start);
    }

    /// The frame itself, to write again, and where in it this reference was; the reference, if others are left.
    ///
    /// # Errors
    /// The frame is lent to somebody else too.
    pub fn into_frame(self) -> Result<(Frame, Range<u32>), Self> {
        // Acquire: pairs with the Release in `release`, so that past readers' reads are over. At 1 nobody else can raise it.
        if self.region.meta(self.index).count.load(Ordering::Acquire) != 1 {
            return Err(self);
        }
        // The hold passes from one handle to the other: no count changes.
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so the `Arc` has one owner still.
        let region = unsafe { std::ptr::read(&raw const this.region) };
        Ok((Frame { region, index: this.index }, this.start..this.end))
    }

    /// Drops the first `n` bytes from view.
    ///
    /// # Panics
    /// If fewer are left.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= (self.end - self.start) as usize, "advance past the end");
        self.start += n as u32;
    }

    /// Drops all but the first `len` bytes from view.
    pub fn truncate(&mut self, len: usize) {
        if len < (self.end - self.start) as usize {
            self.end = self.start + len as u32;
        }
    }
}

impl AsRef<[u8]> for FrameRef {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `start..end` is inside the frame (checked when made), and a frame with a reference is never written.
        unsafe { self.region.slice(self.index, self.start, self.end) }
    }
}

impl Clone for FrameRef {
    fn clone(&self) -> Self {
        self.slice(0..self.end - self.start)
    }
}

impl Drop for FrameRef {
    fn drop(&mut self) {
        self.region.release(self.index);
    }
}

impl std::fmt::Debug for FrameRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameRef")
            .field("index", &self.index)
            .field("range", &(self.start..self.end))
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_frame_once_and_all_come_home() {
        let (region, mut pool) = Region::anonymous(256, 4).unwrap();
        assert_eq!((region.frame_size(), region.frame_count()), (256, 4));
        let mut frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((frames.len(), pool.free()), (4, 0));
        for (i, frame) in frames.iter_mut().enumerate() {
            frame.bytes_mut().unwrap().fill(i as u8);
        }
        for (i, frame) in frames.iter().enumerate() {
            assert!(frame.bytes().iter().all(|&b| b == i as u8));
        }
        drop(frames);
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn the_last_reference_is_recycled_others_are_not() {
        let (_region, mut pool) = Region::anonymous(64, 2).unwrap();
        let (_other, mut stranger) = Region::anonymous(64, 2).unwrap();
        let whole = pool.take().unwrap().share(0..10);
        let part = whole.slice(2..5);
        pool.recycle(whole);
        assert_eq!(pool.free(), 1);
        stranger.recycle(part);
        assert_eq!((pool.free(), stranger.free()), (2, 2));
        for _ in 0..10 {
            let frames = [pool.take().unwrap(), pool.take().unwrap()];
            assert!(pool.take().is_none());
            for frame in frames {
                pool.recycle(frame.share(0..1));
            }
        }
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn frames_that_came_home_are_taken_first() {
        let (_region, mut pool) = Region::anonymous(64, 100).unwrap();
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let frames = [pool.take().unwrap(), pool.take().unwrap(), pool.take().unwrap()];
            used.extend(frames.iter().map(|frame| frame.bytes().as_ptr().addr()));
            drop(frames);
            pool.gather();
        }
        assert_eq!((used.len(), pool.free()), (3, 100));
        let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(all.len(), 100, "and none is lost");
    }

    #[test]
    fn a_lent_frame_cannot_be_written() {
        let (_region, mut pool) = Region::anonymous(64, 1).unwrap();
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap()[..5].copy_from_slice(b"hello");
        let loan = frame.lend(0..5);
        assert!(frame.bytes_mut().is_none());
        assert_eq!(loan.as_ref(), b"hello");
        drop(loan);
        assert!(frame.bytes_mut().is_some());
    }

    #[test]
    fn the_last_reference_becomes_a_frame_again() {
        let (_region, mut pool) = Region::anonymous(64, 1).unwrap();
        let (_other, stranger) = Region::anonymous(64, 1).unwrap();
        let packet = pool.take().unwrap().share(8..16);
        assert!(pool.owns(&packet) && !stranger.owns(&packet));
        let part = packet.slice(2..5);
        let packet = packet.into_frame().expect_err("two references");
        drop(packet);
        let (mut frame, range) = part.into_frame().unwrap();
        assert_eq!(range, 10..13);
        frame.bytes_mut().unwrap()[0] = 1;
        assert_eq!(pool.free(), 0);
        drop(frame);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn messages_of_one_packet_outlive_pool_and_region() {
        let (region, mut pool) = Region::anonymous(64, 1).unwrap();
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap()[..6].copy_from_slice(b"abcdef");
        let packet = frame.share(0..6);
        let (a, mut b) = (packet.slice(0..3), packet.slice(3..6));
        drop((packet, region, pool));
        b.advance(1);
        assert_eq!((a.as_ref(), b.as_ref(), b.clone().as_ref()), (&b"abc"[..], &b"ef"[..], &b"ef"[..]));
    }

    #[test]
    fn a_starving_pool_hears_of_the_next_frame() {
        let (_region, mut pool) = Region::anonymous(64, 1).unwrap();
        let bell = Arc::new(Doorbell::new());
        pool.set_bell(Arc::clone(&bell));
        let frame = pool.take().unwrap();
        assert!(!pool.starve());
        bell.arm(std::task::Waker::noop());
        drop(frame);
        assert_eq!(bell.rings(), 1);
        assert!(pool.starve());
    }

    #[test]
    fn what_is_prefetched_may_be_anything() {
        let (_region, mut pool) = Region::anonymous(64, 1).unwrap();
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap().fill(7);
        for (start, end) in [(0, 64), (3, 3), (9, 2), (63, u32::MAX), (64, 65), (u32::MAX, u32::MAX)] {
            frame.prefetch(start..end);
        }
        assert_eq!(frame.bytes(), [7; 64]);
    }

    #[test]
    fn regions_are_page_aligned() {
        for (size, count) in [(64, 1), (2048, 3), (4096, 2)] {
            let (_region, mut pool) = Region::anonymous(size, count).unwrap();
            let first = pool.take().unwrap();
            assert!(first.bytes().as_ptr().addr().is_multiple_of(ALIGN));
            assert!(first.bytes().iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn nonsense_sizes_are_refused() {
        for (size, count) in [(0, 1), (1, 0), (u32::MAX, u32::MAX)] {
            assert_eq!(Region::anonymous(size, count).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
