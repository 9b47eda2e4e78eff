//! What flows send with: the driver, and the packets that were built for it and not taken yet.
//!
//! A packet is built in a fresh frame, payload and all; or it ends with a message that lies in a frame of its own already, and then only
//! what is in front of the message is written there, before it; or it ends with a part of such a message, which the device gathers from
//! there, if it can (`docs/adr/0023-gathered-packets.md`):
//!
//! ```text
//!   fresh frame     ├─ headroom ─┼─ header, acknowledgements, chunks ─┤                      built here, goes back
//!                                             │ copied: at most FRONT bytes
//!   message's frame ├─ headroom ─┼─ (free) ─┼─ the same ──────────────┼─ message ─┤          is sent
//!
//!   fresh frame     ├─ headroom ─┼─ header, acknowledgements, chunks ─┤                      is sent,
//!   long frame      ├─ message … ────────────┼─ part ─┼──────────────┤                      and the part behind it
//! ```

use std::collections::VecDeque;

use machnet_channel::{Frame, FrameRef};

use super::BURST;
use super::paths::Paths;
use crate::driver::{Meta, TxPacket};
use crate::flow::Sent;
use crate::{Driver, Instant};

/// What a packet counts at least in a flow's turn.
const LEAST: usize = 64;
/// Bytes built in one round for each packet that may be: 256 are six GSO batches.
const PACKET_BYTES: u64 = 1500;

/// Room in front of a message that is built in a frame, between lower headers and payload: header 16, fixed part of DATA 8,
/// an acknowledgement block with up to two words 28, the head of a MESSAGE 8 are 60 bytes. A line, so that payloads lie as
/// aligned as the headroom is. What needs more in front is copied.
pub(crate) const FRONT: u32 = 64;

/// What follows that which a packet was filled with.
#[derive(Debug)]
pub(crate) enum End {
    /// A message in a frame of its own, whose front is for the rest.
    Message(FrameRef),
    /// A part of a message that the device reads where it lies.
    Part(FrameRef),
}

/// Messages that applications built in frames.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Of the packet at hand.
    pub(crate) end: Option<End>,
    /// The driver takes packets that end with [`End::Part`].
    pub(crate) gathers: bool,
    /// Messages that went in the frame they were built in, and that were copied out of one.
    pub(crate) in_place: u64,
    pub(crate) copied: u64,
    /// Parts that went from where they were built, each time, and that were copied although the driver gathers.
    pub(crate) parts: u64,
    pub(crate) copied_parts: u64,
}

impl Built {
    /// Bytes of the message or part that ends the packet at hand.
    pub(crate) fn end_len(&self) -> usize {
        match &self.end {
            Some(End::Message(bytes) | End::Part(bytes)) => bytes.as_ref().len(),
            None => 0,
        }
    }
}

/// See the module. The engine lends it to one flow after the other.
#[derive(Debug)]
pub(crate) struct Tx<D> {
    pub(crate) driver: D,
    /// Of this start of the endpoint: INIT and ACCEPT say it.
    pub(crate) instance: u64,
    /// How many engines the endpoint has: likewise.
    pub(crate) engines: u8,
    /// The ports flows may be sent to: likewise.
    pub(crate) ports: (u16, u16),
    /// The ports that the flow whose turn it is sends between, if not its own.
    pub(crate) steer: Option<(u16, u16)>,
    /// What paths carry.
    pub(crate) paths: Paths,
    /// What the packet that was built last carries.
    pub(crate) contents: Vec<Sent>,
    batch: VecDeque<TxPacket>,
    /// Bytes in the batch.
    bytes: u64,
    /// Bytes that the driver may hold before nothing more is built.
    device_limit: u64,
    /// Bytes in the batch from which on flows wait for the next round: what one round builds, and what the driver may hold
    /// beyond what it held when the round began.
    limit: u64,
    /// What the flow whose turn it is may send, and has sent.
    allowed: u32,
    used: u32,
    /// Packets built in one round.
    burst: usize,
    /// The driver had no frame in this round: the engine tries again when one comes home.
    starved: bool,
    /// Packets ever built.
    built: u64,
    built_frames: Built,
}

impl<D: Driver> Tx<D> {
    pub(super) fn new(driver: D, instance: u64, paths: Paths, device_limit: u64) -> Self {
        let ports = driver.ports();
        let gathers = driver.capabilities().long_frames > 0;
        Self {
            driver,
            instance,
            engines: 1,
            steer: None,
            ports,
            paths,
            contents: Vec::new(),
            batch: VecDeque::with_capacity(BURST),
            bytes: 0,
            burst: BURST,
            device_limit,
            limit: 0,
            allowed: 0,
            used: 0,
            starved: false,
            built: 0,
            built_frames: Built { gathers, ..Built::default() },
        }
    }

    /// Packets built in one round, from now on.
    pub(super) const fn set_burst(&mut self, burst: usize) {
        self.burst = burst;
    }

    /// A round begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.starved = false;
        self.driver.begin(now);
        self.driver.reap();
        self.limit = self.burst as u64 * PACKET_BYTES;
        if let Some(held) = self.driver.backlog() {
            // What comes next had better wait here, where it can be overtaken.
            self.limit = self.limit.min(self.device_limit.saturating_sub(held));
        }
    }

    /// True if flows are to wait for the next round.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.len() >= self.burst || self.bytes >= self.limit
    }

    /// True if nothing can be sent until the driver has done something.
    pub(super) fn is_blocked(&self) -> bool {
        !self.batch.is_empty()
    }

    /// The next flow has its turn, of `allowed` bytes.
    pub(super) const fn begin_turn(&mut self, allowed: u32) {
        (self.allowed, self.used) = (allowed, 0);
    }

    /// Bytes built in this turn.
    pub(super) const fn turn_bytes(&self) -> u32 {
        self.used
    }

    /// True if a packet of `len` bytes does not belong to this turn any more. The first always does.
    pub(crate) const fn is_turn_over(&self, len: usize) -> bool {
        self.used > 0 && self.used as usize + len > self.allowed as usize
    }

    /// True if even answers that no flow pays for must be left out.
    pub(super) fn is_overfull(&self) -> bool {
        self.batch.len() >= 2 * BURST
    }

    /// True if nothing waits for the driver.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    pub(super) const fn is_starved(&self) -> bool {
        self.starved
    }

    pub(super) const fn built(&self) -> u64 {
        self.built
    }

    /// Messages that went in the frame they were built in, and that were copied out of one.
    pub(super) const fn built_in_frames(&self) -> [u64; 2] {
        [self.built_frames.in_place, self.built_frames.copied]
    }

    /// Parts of them that were gathered from where they lie, and that were copied although the driver gathers.
    pub(super) const fn built_in_parts(&self) -> [u64; 2] {
        [self.built_frames.parts, self.built_frames.copied_parts]
    }

    /// Builds a packet of up to `room` bytes with `fill`, which returns its length (0: nothing, after all), and queues
    /// it. Returns false if there was no frame.
    pub(crate) fn packet(
        &mut self,
        meta: Meta,
        room: usize,
        fill: impl FnOnce(&mut [u8], &mut Vec<Sent>, &mut Built) -> usize,
    ) -> bool {
        let headroom = self.driver.capabilities().headroom as usize;
        let Some(mut frame) = self.driver.frame() else {
            self.starved = true;
            return false;
        };
        let Some(bytes) = frame.bytes_mut().and_then(|bytes| bytes.get_mut(headroom..headroom + room)) else {
            self.starved = true;
            return false;
        };
        self.contents.clear();
        let len = fill(bytes, &mut self.contents, &mut self.built_frames);
        if self.built_frames.end.is_some() {
            self.queue_built(meta, frame, len);
            return true;
        }
        // Short ones cost work, and one that came to nothing must not be tried for ever.
        self.used += len.max(LEAST) as u32;
        if len > 0 {
            self.built += 1;
            self.bytes += len as u64;
            let payload = frame.share(headroom as u32..(headroom + len) as u32);
            self.batch.push_back(TxPacket { meta, payload, tail: None });
            if let Some(ports) = self.steer {
                self.redirect(ports);
            }
        }
        true
    }

    /// Queues a packet that ends with what lies in another frame: the first `len` bytes of what `frame` was filled with go in front of it.
    #[inline(never)]
    fn queue_built(&mut self, meta: Meta, frame: Frame, len: usize) {
        let whole = len + self.built_frames.end_len();
        let (payload, tail) = match self.built_frames.end.take() {
            Some(End::Message(message)) => (self.in_front(message, frame, len), None),
            Some(End::Part(part)) => {
                self.built_frames.parts += 1;
                let headroom = self.driver.capabilities().headroom;
                (frame.share(headroom..headroom + len as u32), Some(part))
            }
            None => return,
        };
        self.used += whole as u32;
        self.built += 1;
        self.bytes += whole as u64;
        self.batch.push_back(TxPacket { meta, payload, tail });
        if let Some(ports) = self.steer {
            self.redirect(ports);
        }
    }

    /// The message, and in front of it the first `len` bytes of what `frame` was filled with.
    fn in_front(&mut self, mut message: FrameRef, mut frame: Frame, len: usize) -> FrameRef {
        let headroom = self.driver.capabilities().headroom as usize;
        let whole = len + message.as_ref().len();
        let (filled, behind) = frame.bytes_mut().unwrap_or_default()[headroom..].split_at_mut(len);
        if let Some(front) = message.grow(len as u32) {
            front.copy_from_slice(filled);
            self.built_frames.in_place += 1;
            self.driver.recycle(frame.share(0..0));
            message
        } else {
            behind[..whole - len].copy_from_slice(message.as_ref());
            self.built_frames.copied += 1;
            frame.share(headroom as u32..(headroom + whole) as u32)
        }
    }

    /// The packet that was built last goes between other ports.
    #[cold]
    fn redirect(&mut self, (local, remote): (u16, u16)) {
        if let Some(packet) = self.batch.back_mut() {
            packet.meta.local.set_port(local);
            packet.meta.remote.set_port(remote);
        }
    }

    /// Gives the driver what was built. Returns true if it took anything.
    pub(super) fn flush(&mut self) -> bool {
        if self.batch.is_empty() {
            return false;
        }
        let taken = self.driver.tx_burst(&mut self.batch);
        self.bytes = 0;
        if !self.batch.is_empty() {
            self.bytes = self.batch.iter().map(|packet| packet.len() as u64).sum();
        }
        taken > 0
    }
}
