//! Empty frames of the engine's driver, for applications to build messages in.
//!
//! ```text
//!   engine: Stocker::put ──▶ slots ──take──▶ Reserved ──send──▶ Message ─▶ flow, device ─┐ acknowledged, and the device is done
//!              ▲                                │ dropped                                ▼
//!              └── Driver::frame ◀──────────────┴──────────────── the region's free list (frame.rs)
//! ```
//!
//! Applications call neither engine nor driver for a frame, and never wait for one: they take what is in a slot, or build in
//! ordinary memory. Nor do they give one back: a frame comes home as any does, from whoever drops it last.
//!
//! The stock is filled by its engine at the end of rounds, once somebody wanted a frame and found none, and whenever a quarter of
//! the slots is empty. What it gave away and is not home is bounded: frames in slots, under construction, posted, unacknowledged,
//! and held by the device all count, so that applications can never take those that everything else is received in.
//!
//! An engine has one stock of frames that hold a packet, and, where the device gathers packets from pieces, one of *long* frames for messages
//! of several packets ([`Stocker::long`]).
//!
//! A slot is taken, or filled, by who turns its state; meanwhile it is nobody else's, and others take the next one. So nobody waits for
//! anybody, and there is no ABA.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{self, Arc, UnsafeCell};
use crate::{Frame, Intake, frame::RegionInner};

/// Messages of fewer bytes are copied: a copy is cheaper than a frame of its own (the issue's threshold).
pub const BUILD_FROM: usize = 1024;

/// Frames that wait, at most: twice what an application with 32 requests outstanding takes between two rounds.
#[cfg(not(machnet_loom))]
const SLOTS: u32 = 64;
#[cfg(machnet_loom)]
const SLOTS: u32 = 2;
/// Of long frames: 1 MiB of those of 64 KiB, half of what a flow sends ahead by default.
#[cfg(not(machnet_loom))]
const LONG_SLOTS: u32 = 16;
#[cfg(machnet_loom)]
const LONG_SLOTS: u32 = 2;

const EMPTY: u32 = 0;
const BUSY: u32 = 1;
const FULL: u32 = 2;

struct Slot {
    state: AtomicU32,
    frame: UnsafeCell<Option<Frame>>,
}

impl Slot {
    /// Runs `f` on the slot's content if its state is `from`, and leaves it in state `to`.
    fn turn<T>(&self, from: u32, to: u32, f: impl FnOnce(&mut Option<Frame>) -> T) -> Option<T> {
        if self.state.load(Ordering::Relaxed) != from {
            return None;
        }
        // Acquire: pairs with the Release below. Who turned the slot last is done with what is in it.
        let order = if sync::mutant!("stock_acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        self.state.compare_exchange(from, BUSY, order, Ordering::Relaxed).ok()?;
        let result = self.frame.with_mut(|frame| {
            // SAFETY: who made the slot BUSY has it alone until it stores another state.
            f(unsafe { &mut *frame })
        });
        let order = if sync::mutant!("stock_release") { Ordering::Relaxed } else { Ordering::Release };
        self.state.store(to, order);
        Some(result)
    }
}

// SAFETY: the cell is touched by who turned the state alone; a `Frame` may go to any thread.
unsafe impl Send for Stock {}
// SAFETY: as above.
unsafe impl Sync for Stock {}

/// What applications take frames from. Belongs to the [`Intake`] of its engine.
pub struct Stock {
    slots: Box<[Slot]>,
    /// Where payloads begin, and how long they are, at least and at most.
    start: u32,
    from: usize,
    room: u32,
    /// The slot to look at first: any is right.
    at: AtomicU32,
    taken: AtomicU64,
    missed: AtomicU64,
}

impl Stock {
    /// A frame to build a message of up to `len` bytes in, and where in it. `None`: the message is too short or too long for
    /// that, or no frame is there.
    pub(crate) fn take(&self, len: usize) -> Option<(Frame, u32)> {
        if len < self.from || len > self.room as usize {
            return None;
        }
        let count = self.slots.len() as u32;
        let first = self.at.load(Ordering::Relaxed);
        for at in first..first + count {
            if let Some(frame) = self.slots[(at % count) as usize].turn(FULL, EMPTY, Option::take).flatten() {
                self.at.store((at + 1) % count, Ordering::Relaxed);
                self.taken.fetch_add(1, Ordering::Relaxed);
                return Some((frame, self.start));
            }
        }
        self.missed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Fills an empty slot, looking at `first` first; returns which, or the frame if none is.
    fn put(&self, frame: Frame, first: u32) -> Result<u32, Frame> {
        let count = self.slots.len() as u32;
        let mut frame = Some(frame);
        for at in first..first + count {
            self.slots[(at % count) as usize].turn(EMPTY, FULL, |place| *place = frame.take());
            if frame.is_none() {
                return Ok(at % count);
            }
        }
        frame.map_or(Ok(first), Err)
    }
}

impl std::fmt::Debug for Stock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stock").field("start", &self.start).field("room", &self.room).finish_non_exhaustive()
    }
}

/// The engine's hand on a [`Stock`]. Dropped, it takes out what is in the slots.
#[derive(Debug)]
pub struct Stocker {
    stock: Arc<Stock>,
    limit: u32,
    filled: u64,
    /// The slot to look at first: who takes empties them in turn.
    at: u32,
    /// Of the frames that were put in.
    region: Option<Arc<RegionInner>>,
}

impl Stocker {
    /// Gives the applications of `intake` a stock, empty at first: frames whose payload begins at `start` and has up to `room`
    /// bytes. Of them at most `limit`, at least one, are away at a time. `None` if the intake has a stock.
    #[must_use]
    pub fn new(intake: &Intake, start: u32, room: u32, limit: u32) -> Option<Self> {
        let this = Self::with(SLOTS, BUILD_FROM, start, room, limit);
        intake.set_stock(Arc::clone(&this.stock)).then_some(this)
    }

    /// A stock of long frames, for messages of more than `above` and up to `room` bytes, from the frames' first byte on: nothing is written
    /// in front of them. `None` if the intake has one.
    #[must_use]
    pub fn long(intake: &Intake, above: u32, room: u32, limit: u32) -> Option<Self> {
        let this = Self::with(LONG_SLOTS, BUILD_FROM.max(above as usize + 1), 0, room, limit);
        intake.set_long_stock(Arc::clone(&this.stock)).then_some(this)
    }

    fn with(slots: u32, from: usize, start: u32, room: u32, limit: u32) -> Self {
        let slot = || Slot { state: AtomicU32::new(EMPTY), frame: UnsafeCell::new(None) };
        let stock = Arc::new(Stock {
            slots: (0..slots.min(limit.max(1))).map(|_| slot()).collect(),
            start,
            from,
            room,
            at: AtomicU32::new(0),
            taken: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        });
        Self { stock, limit, filled: 0, at: 0, region: None }
    }

    /// True if nobody ever missed a frame: none is wanted.
    #[must_use]
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.filled == 0 && self.missed() == 0
    }

    /// How many frames to put in now: 0 until one was missed, and while three quarters of the slots are full.
    #[must_use]
    pub fn wanted(&self) -> u32 {
        if self.is_quiet() {
            return 0;
        }
        let slots = self.stock.slots.len() as u32;
        let missing = slots.saturating_sub(self.waiting());
        if 4 * missing < slots {
            return 0;
        }
        missing.min(self.limit.saturating_sub(self.away()))
    }

    /// Puts `frame` in; gives it back if no slot is empty. All frames are of one region.
    ///
    /// # Errors
    /// The frame.
    pub fn put(&mut self, frame: Frame) -> Result<(), Frame> {
        let region = self.region.get_or_insert_with(|| Arc::clone(&frame.region));
        if !Arc::ptr_eq(region, &frame.region) || region.building() >= self.limit {
            return Err(frame);
        }
        region.count_in(frame.index);
        self.at = self.stock.put(frame, self.at)? + 1;
        self.filled += 1;
        Ok(())
    }

    /// Frames in slots.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.filled.saturating_sub(self.stock.taken.load(Ordering::Relaxed)) as u32
    }

    /// Frames that were put in and are not home.
    #[must_use]
    pub fn away(&self) -> u32 {
        self.region.as_ref().map_or(0, |region| region.building())
    }

    /// How often somebody wanted a frame and none was there.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.stock.missed.load(Ordering::Relaxed)
    }
}

impl Drop for Stocker {
    fn drop(&mut self) {
        for slot in &self.stock.slots {
            // A slot that is being taken goes to who takes it.
            drop(slot.turn(FULL, EMPTY, Option::take));
        }
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;
    use crate::{FramePool, FrameRef, Message, Region};

    fn stock(frames: u32, limit: u32) -> (FramePool, Arc<Intake>, Stocker) {
        let (_, pool) = Region::anonymous(2048, frames).unwrap();
        let intake = Intake::new();
        let stocker = Stocker::new(&intake, 100, 1500, limit).unwrap();
        (pool, intake, stocker)
    }

    fn fill(stocker: &mut Stocker, pool: &mut FramePool) {
        for _ in 0..stocker.wanted() {
            stocker.put(pool.take().unwrap()).unwrap();
        }
    }

    #[test]
    fn is_empty_until_somebody_wants_a_frame() {
        let (mut pool, intake, mut stocker) = stock(200, 100);
        let stock = intake.stock().unwrap();
        assert_eq!(stocker.wanted(), 0);
        assert!(stock.take(BUILD_FROM - 1).is_none() && stock.take(1501).is_none());
        assert_eq!((stocker.wanted(), stocker.missed()), (0, 0), "neither is for frames");
        assert!(stock.take(BUILD_FROM).is_none());
        assert_eq!((stocker.wanted(), stocker.missed()), (SLOTS, 1));
        fill(&mut stocker, &mut pool);
        let (frame, start) = stock.take(1500).unwrap();
        assert_eq!((start, stocker.wanted(), stocker.away()), (100, 0, SLOTS));
        let taken: Vec<_> = (1..SLOTS / 4).map(|_| stock.take(1024).unwrap()).collect();
        assert_eq!(stocker.wanted(), SLOTS / 4);
        drop((frame, taken));
        assert_eq!(stocker.away(), SLOTS - SLOTS / 4, "those that came home do not count");
        drop(stocker);
        assert_eq!(pool.free(), 200);
        assert!(intake.stock().unwrap().take(1024).is_none());
    }

    #[test]
    fn no_more_are_away_than_the_limit_says() {
        let (mut pool, intake, mut stocker) = stock(200, 10);
        let stock = intake.stock().unwrap();
        assert!(stock.take(1024).is_none());
        fill(&mut stocker, &mut pool);
        let mut messages: Vec<Message> = std::iter::from_fn(|| stock.take(1024))
            .map(|(frame, start)| frame.share_with_front(start..start + 1024).unwrap().into())
            .collect();
        assert_eq!((messages.len(), stocker.wanted(), stocker.away()), (10, 0, 10));
        assert!(stocker.put(pool.take().unwrap()).is_err());
        // Acknowledged, and still the device's.
        let packet = FrameRef::built(&mut messages[0]).unwrap().depart().unwrap();
        messages.remove(0);
        assert_eq!((stocker.wanted(), stocker.away()), (0, 10));
        pool.recycle(packet);
        messages.truncate(7);
        assert_eq!((stocker.wanted(), stocker.away()), (3, 7));
        fill(&mut stocker, &mut pool);
        assert_eq!(std::iter::from_fn(|| stock.take(1024)).count(), 3);
        drop((messages, stocker));
        assert_eq!(pool.free(), 200);
    }

    #[test]
    fn frames_of_another_region_are_given_back() {
        let (mut pool, _intake, mut stocker) = stock(4, 4);
        let (_, mut other) = Region::anonymous(2048, 1).unwrap();
        stocker.put(pool.take().unwrap()).unwrap();
        assert!(stocker.put(other.take().unwrap()).is_err());
        assert_eq!((stocker.away(), other.free()), (1, 1));
    }

    #[test]
    fn an_intake_has_one_stock_of_each_kind() {
        let (_pool, intake, _stocker) = stock(4, 4);
        assert!(Stocker::new(&intake, 0, 1500, 1).is_none());
        let long = Stocker::long(&intake, 1500, 65_536, 1);
        assert!(long.is_some() && Stocker::long(&intake, 1500, 65_536, 1).is_none());
    }

    #[test]
    fn long_frames_are_for_what_fits_no_other() {
        let (mut pool, intake, mut stocker) = stock(200, 100);
        let (_, mut long_pool) = Region::anonymous(65_536, 40).unwrap();
        let mut long = Stocker::long(&intake, 1500, 65_536, 40).unwrap();
        assert!(intake.frame(1500).is_none() && intake.frame(65_537).is_none());
        assert_eq!((stocker.missed(), long.missed(), long.wanted()), (1, 0, 0));
        assert!(intake.frame(1501).is_none());
        assert_eq!((stocker.missed(), long.missed(), long.wanted()), (1, 1, LONG_SLOTS));
        fill(&mut long, &mut long_pool);
        assert!(intake.frame(1500).is_none(), "packets' frames are none of those");
        fill(&mut stocker, &mut pool);
        let (short, start) = intake.frame(1500).unwrap();
        assert_eq!((short.bytes().len(), start), (2048, 100));
        let (frame, start) = intake.frame(65_536).unwrap();
        assert_eq!((frame.bytes().len(), start, long.away()), (65_536, 0, LONG_SLOTS));
        let mut message = Message::from(frame.share_with_front(0..65_536).unwrap());
        assert!(FrameRef::built(&mut message).is_none(), "nothing goes in front of it");
        let part = FrameRef::part_of(&message, 1088, 1088).unwrap();
        assert_eq!(part.as_ref().as_ptr(), message.as_slice()[1088..].as_ptr());
        drop((message, long));
        assert_eq!(long_pool.free(), 39, "the device reads it");
        drop(part);
        assert_eq!(long_pool.free(), 40);
        assert!(FrameRef::part_of(&Message::from(pool.take().unwrap().share(0..8)), 0, 8).is_none(), "not to build in");
        assert!(FrameRef::part_of(&Message::from("elsewhere"), 0, 8).is_none());
    }
}
