//! A port, or what one engine has of it, as a [`FrameDriver`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use dpdk_sys::dpdk_received;
use machnet_channel::{Doorbell, Frame, FrameRef};
use machnet_core::net::{FrameCapabilities, FrameDriver, RxFrame, TxFrame, UdpChecksum};
use machnet_core::{DropReason, Drops};

use crate::config::PortBuilder;
use crate::ffi::{self, Mbuf};
use crate::gate::Gate;
use crate::lent::{Lent, take_back};
use crate::link::Link;
use crate::pool::Pool;
use crate::{Device, Facts};

/// Frames given to the device at once.
const BURST: usize = 32;
/// Empty receives between looks at the clock.
const LOOK_EVERY: u32 = 64;

/// What one engine has of a DPDK port, as the network layer sees it: a queue pair, or several, and frames of its own.
pub struct Port {
    /// Before the pool, which the device uses.
    link: Arc<Link>,
    gate: Option<Arc<Gate>>,
    /// In order. Sent from is the first, or that which leads to the peer's engine.
    queues: Box<[u16]>,
    /// Which of them is received from next.
    turn: usize,
    /// For the other engines, until it is divided.
    others: Vec<Self>,
    capabilities: FrameCapabilities,
    facts: Facts,
    pool: Pool,
    /// More than the device can have: one that it lost is in front of others that it gave back.
    unusual: usize,
    /// What the device has not given back, of each queue.
    lent: Box<[Lent]>,
    empty: u32,
    drops: Drops,
    longest: u32,
    /// Where the device says what it received; empty between calls.
    received: Box<[dpdk_received; BURST]>,
}

// SAFETY: mbufs and queues may be used by any thread, by one at a time, and a `Port` is not shared.
unsafe impl Send for Port {}

/// Counters of a [`Port`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStats {
    /// Frames received, says the device.
    pub received: u64,
    /// Frames sent, says the device.
    pub sent: u64,
    /// Lost for want of descriptors.
    pub missed: u64,
    /// Lost for want of memory.
    pub no_frame: u64,
    /// Received with errors, or not sent for errors.
    pub errors: u64,
    /// Transmitted frames that the device has not given back.
    pub held: u64,
    /// Frames that engine and application have.
    pub in_use: u64,
}

impl Port {
    /// Settings to change before the port of `device` is opened.
    #[must_use]
    pub fn builder(device: Device) -> PortBuilder {
        PortBuilder::new(device)
    }

    pub(crate) fn new(
        link: Arc<Link>,
        engine: usize,
        queues: Box<[u16]>,
        pool: Pool,
        capabilities: FrameCapabilities,
        facts: Facts,
    ) -> Self {
        Self {
            gate: link.gate(engine),
            link,
            turn: 0,
            others: Vec::new(),
            capabilities,
            longest: facts.mtu + crate::config::ETHERNET,
            pool,
            unusual: 2 * queues.len() * usize::from(facts.tx_descriptors),
            lent: queues.iter().map(|_| Lent::default()).collect(),
            queues,
            facts,
            empty: 0,
            drops: Drops::default(),
            received: Box::new([dpdk_received::default(); BURST]),
        }
    }

    /// The first of several, which has the others until it is divided.
    pub(crate) fn first_of(mut self, others: impl Iterator<Item = Self>) -> Self {
        self.others.extend(others);
        self
    }

    /// What the port can do, and how it is set up.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The port's counters, of all its queues but for the last two. Asks the device, which may take some microseconds.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let counters = self.link.counters();
        PortStats {
            received: counters.received,
            sent: counters.sent,
            missed: counters.missed,
            no_frame: counters.no_mbuf,
            errors: counters.receive_errors + counters.send_errors,
            held: self.held() as u64,
            in_use: self.pool.in_use(self.held()).into(),
        }
    }

    /// Number of frames that may be taken before those in use come back.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.pool.left(self.held())
    }

    /// Whether the device vouches for the UDP checksum: only if it says so. What it did not look at is looked at here.
    fn is_verified(&self, flags: u64) -> bool {
        let said = flags & dpdk_sys::DPDK_RX_FLAG_L4_MASK;
        // Both bits: what is in the field is not the checksum, and the data is whole all the same. So it comes from a virtio host
        // or a neighbouring VM whose packets never met a wire.
        let (good, none) = (dpdk_sys::DPDK_RX_FLAG_L4_GOOD, dpdk_sys::DPDK_RX_FLAG_L4_MASK);
        self.capabilities.rx_checksum && (said == good || said == none)
    }

    fn accept(&mut self, received: &dpdk_received) -> Option<RxFrame> {
        // SAFETY: the device just gave it, and mbufs of this queue are of this pool.
        let frame = unsafe { self.pool.adopt(received.index) };
        let range = u32::from(received.offset)..u32::from(received.offset) + received.length;
        if received.segments != 1 {
            self.drops.count(DropReason::Oversized);
            if received.segments > 1 {
                // SAFETY: the first of several segments, which are ours; the first one is a frame now, and stays.
                unsafe { dpdk_sys::dpdk_cut(received.mbuf) };
            }
            return None;
        }
        if range.end > self.pool.frame_size() {
            self.drops.count(DropReason::Malformed);
            return None;
        }
        Some(RxFrame { frame, range, checksum_good: self.is_verified(received.flags) })
    }

    /// Receives up to `max` frames from a queue.
    fn receive(&mut self, queue: u16, out: &mut Vec<RxFrame>, max: usize) -> usize {
        let mut count = 0;
        while count < max {
            let wish = (max - count).min(BURST) as u16;
            let got = match self.link.enter(self.gate.as_deref()) {
                // SAFETY: a started port of ours with that queue, and room for so many.
                Some(at) => unsafe { dpdk_sys::dpdk_rx_burst(at.id, queue, self.received.as_mut_ptr(), wish) },
                None => 0,
            };
            for at in 0..usize::from(got.min(wish)) {
                let frame = self.received[at];
                if let Some(frame) = self.accept(&frame) {
                    out.push(frame);
                    count += 1;
                }
            }
            if got < wish {
                break;
            }
        }
        count
    }

    /// Where in `queues` a frame is sent from: where queues lead to the peer's of the same number, from that of the engine that it is for,
    /// or one that has none; else from the first.
    fn place(&self, frame: &TxFrame) -> usize {
        let queues = self.queues.len();
        if queues == 1 || self.capabilities.spreads {
            return 0;
        }
        self.queues.binary_search(&frame.queue).unwrap_or(usize::from(frame.queue) % queues)
    }

    /// Gives the first `count` frames of `batch`, at most a burst and all with one place, to the device; returns how many it took. If their
    /// queue takes none for long, its engine over there stands still: they go on the others, to be handed over or dropped there, for what
    /// is behind them is for engines that do not.
    fn give(&mut self, batch: &mut VecDeque<TxFrame>, count: usize) -> usize {
        let (first, queues) = (batch.front().map_or(0, |frame| self.place(frame)), self.queues.len());
        let mut given = self.give_at(first, batch, count);
        if self.lent[first].offered(given) {
            for n in 1..queues {
                given += self.give_at((first + n) % queues, batch, count - given);
            }
        }
        given
    }

    /// Likewise, on the queue at one place.
    fn give_at(&mut self, place: usize, batch: &mut VecDeque<TxFrame>, count: usize) -> usize {
        let mut mbufs: [Mbuf; BURST] = [std::ptr::null_mut(); BURST];
        // What is behind them, if any has something.
        let mut tails: [Mbuf; BURST] = [std::ptr::null_mut(); BURST];
        let mut two = false;
        for (n, (place, frame)) in mbufs.iter_mut().zip(batch.iter().take(count)).enumerate() {
            // The caller has looked.
            let Some((mbuf, start, length)) = self.pool.mbuf(&frame.bytes) else { return 0 };
            let version = match frame.checksum {
                UdpChecksum::Done => 0,
                UdpChecksum::Ipv4 => 4,
                UdpChecksum::Ipv6 => 6,
            };
            // SAFETY: an mbuf of this pool; no device has it, or its frame would be among the lent.
            unsafe { dpdk_sys::dpdk_prepare(mbuf, start, length, version) };
            if let Some(tail) = &frame.tail {
                two = true;
                let Some(piece) = self.pool.piece(tail) else { return 0 };
                let Some(gather) = self.pool.gather() else { return 0 };
                // SAFETY: prepared above; the tail is lent with its frame, or stays in the batch.
                tails[n] = unsafe { gather.attach(mbuf, tail, piece) }.unwrap_or(std::ptr::null_mut());
            }
            *place = mbuf;
        }
        let taken = match self.link.enter(self.gate.as_deref()) {
            // SAFETY: a started port of ours with that queue, and so many prepared mbufs.
            Some(at) => unsafe { dpdk_sys::dpdk_tx_burst(at.id, self.queues[place], mbufs.as_mut_ptr(), count as u16) },
            None => 0,
        };
        let taken = usize::from(taken).min(count);
        for &mbuf in &mbufs[taken..count] {
            // SAFETY: prepared above, and not taken.
            unsafe { dpdk_sys::dpdk_unprepare(mbuf) };
        }
        if two {
            self.lend_pieces(place, batch, (&mbufs, &tails), taken, count);
            return taken;
        }
        self.lent[place].extend(batch.drain(..taken).map(|frame| frame.bytes), &mbufs[..taken]);
        taken
    }

    /// The device took the first `taken` of `count` frames, some of which have a second piece: lent each for itself, behind the first.
    fn lend_pieces(
        &mut self,
        place: usize,
        batch: &mut VecDeque<TxFrame>,
        (mbufs, tails): (&[Mbuf; BURST], &[Mbuf; BURST]),
        taken: usize,
        count: usize,
    ) {
        for n in taken..count {
            take_back(&mut self.pool, mbufs[n]);
            if !tails[n].is_null() {
                // SAFETY: attached, and not taken.
                unsafe { dpdk_sys::dpdk_unprepare(tails[n]) };
                take_back(&mut self.pool, tails[n]);
            }
        }
        for (n, frame) in batch.drain(..taken).enumerate() {
            self.lent[place].push(frame.bytes, mbufs[n]);
            if let Some(tail) = frame.tail {
                self.lent[place].push(tail, tails[n]);
            }
        }
    }

    /// Frames that the device has.
    fn held(&self) -> usize {
        self.lent.iter().map(Lent::len).sum::<usize>() - self.pool.tails_lent()
    }

    /// How many frames at the front of `batch` can be transmitted at once, and on the same queue.
    fn sendable(&self, batch: &VecDeque<TxFrame>) -> usize {
        let place = batch.front().map_or(0, |frame| self.place(frame));
        let mut tails = self.pool.tails_left();
        let good = |frame: &&TxFrame| {
            let mut length = frame.bytes.as_ref().len();
            if let Some(tail) = &frame.tail {
                if tails == 0 || self.pool.piece(tail).is_none() {
                    return false;
                }
                tails -= 1;
                length += tail.as_ref().len();
            }
            self.place(frame) == place
                && self.pool.mbuf(&frame.bytes).is_some()
                && length > 0
                && length <= self.longest as usize
        };
        batch.iter().take(BURST).take_while(good).count()
    }

    /// Puts the first frame into one piece, if it has two: the device has as many second pieces as it may have.
    #[cold]
    fn put_together(batch: &mut VecDeque<TxFrame>) -> bool {
        let Some(TxFrame { bytes, tail: Some(tail), checksum, queue }) =
            batch.pop_front_if(|frame| frame.tail.is_some())
        else {
            return false;
        };
        let (bytes, tail) = match bytes.append(tail.as_ref()) {
            Ok(bytes) => (bytes, None),
            Err(bytes) => (bytes, Some(tail)),
        };
        let is_whole = tail.is_none();
        batch.push_front(TxFrame { bytes, tail, checksum, queue });
        is_whole
    }
}

impl FrameDriver for Port {
    fn capabilities(&self) -> &FrameCapabilities {
        &self.capabilities
    }

    fn split(mut self, queues: usize) -> io::Result<Vec<Self>> {
        let mut all = std::mem::take(&mut self.others);
        all.insert(0, self);
        if all.len() == queues {
            return Ok(all);
        }
        let text = format!(
            "{} was opened for {} and is to serve {queues}: say engines={queues} in its URL, or PortBuilder::engines({queues})",
            all[0].facts.name,
            if all.len() == 1 { "one engine".to_owned() } else { format!("{} engines", all.len()) },
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn frame(&mut self) -> Option<Frame> {
        if self.pool.left(self.held()) == 0 { None } else { self.pool.take() }
    }

    fn owns(&self, bytes: &FrameRef) -> bool {
        self.pool.mbuf(bytes).is_some()
    }

    fn long_frame(&mut self) -> Option<Frame> {
        self.pool.long_frame()
    }

    fn gathers(&self, tail: &FrameRef) -> bool {
        self.pool.piece(tail).is_some()
    }

    fn recycle(&mut self, bytes: FrameRef) {
        self.pool.frames().recycle(bytes);
    }

    fn is_short_of_frames(&self) -> bool {
        self.pool.left(self.held()) < self.pool.budget() / 2
    }

    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize {
        // What finds no frame stays with the device, which drops what comes when its ring is full.
        let max = max.min(self.pool.left(self.held()) as usize);
        let mut count = 0;
        for _ in 0..self.queues.len() {
            count += self.receive(self.queues[self.turn], out, max - count);
            self.turn = (self.turn + 1) % self.queues.len();
        }
        self.empty += u32::from(count == 0);
        if self.empty >= LOOK_EVERY {
            self.empty = 0;
            self.link.look();
        }
        count
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize {
        let mut taken = 0;
        while !batch.is_empty() {
            match self.sendable(batch) {
                0 if Self::put_together(batch) => {}
                0 => {
                    // Not of this pool, or longer than the device sends: never.
                    batch.pop_front();
                    self.drops.count(DropReason::Unsendable);
                    taken += 1;
                }
                count => {
                    let given = self.give(batch, count);
                    taken += given;
                    if given < count {
                        break;
                    }
                }
            }
        }
        taken
    }

    fn reap(&mut self) {
        register_thread();
        for lent in &mut self.lent {
            lent.reap(&mut self.pool);
        }
        if self.held() > self.unusual {
            self.lent.iter_mut().for_each(|lent| lent.search(&mut self.pool));
        }
        self.pool.restock();
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.pool.frames().set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        self.free_frames() == 0 && self.pool.frames().starve()
    }

    fn drops(&self) -> Drops {
        self.drops
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("facts", &self.facts)
            .field("free_frames", &self.free_frames())
            .field("held_by_device", &self.held())
            .finish_non_exhaustive()
    }
}

/// Makes DPDK know the calling thread, once, until it ends: pools have a cache for threads that they know. Without, all
/// works, only slower.
fn register_thread() {
    struct Registered(bool);
    impl Drop for Registered {
        fn drop(&mut self) {
            if self.0 {
                ffi::unregister_thread();
            }
        }
    }
    thread_local!(static THREAD: RefCell<Option<Registered>> = const { RefCell::new(None) });
    // An error means that the thread ends.
    let _ = THREAD.try_with(|thread| {
        if let Ok(mut thread) = thread.try_borrow_mut()
            && thread.is_none()
        {
            *thread = Some(Registered(ffi::register_thread().is_ok()));
        }
    });
}
