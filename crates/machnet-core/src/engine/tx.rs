//! What flows send with: the driver, and the packets that were built for it and not taken yet.
//!
//! A packet is built in a fresh frame, payload and all; or it ends with a message that lies in a frame of its own already, and then only
//! what is in front of the message is written there, before it:
//!
//! ```text
//!   fresh frame     ├─ headroom ─┼─ header, acknowledgements, chunks ─┤                      built here, goes back
//!                                             │ copied: at most FRONT bytes
//!   message's frame ├─ headroom ─┼─ (free) ─┼─ the same ──────────────┼─ message ─┤          is sent
//! ```

use std::collections::VecDeque;

use machnet_channel::FrameRef;

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

/// What a packet was filled with.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// Bytes written.
    pub(crate) len: usize,
    /// What follows them: a message in a frame of its own, whose front is for what was written.
    pub(crate) message: Option<FrameRef>,
    /// Messages that were built in frames, and copied for the first time.
    pub(crate) copied: u32,
}

impl From<usize> for Filled {
    fn from(len: usize) -> Self {
        Self { len, ..Self::default() }
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
    /// Messages that went in the frame they were built in, and that were copied out of one.
    in_place: u64,
    copied: u64,
}

impl<D: Driver> Tx<D> {
    pub(super) fn new(driver: D, instance: u64, paths: Paths, device_limit: u64) -> Self {
        let ports = driver.ports();
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
            in_place: 0,
            copied: 0,
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

    pub(super) const fn sent_in_place(&self) -> u64 {
        self.in_place
    }

    pub(super) const fn built_and_copied(&self) -> u64 {
        self.copied
    }

    /// Builds a packet of up to `room` bytes with `fill`, which returns its length (0: nothing, after all), and queues
    /// it. Returns false if there was no frame.
    pub(crate) fn packet<T: Into<Filled>>(
        &mut self,
        meta: Meta,
        room: usize,
        fill: impl FnOnce(&mut [u8], &mut Vec<Sent>) -> T,
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
        let Filled { mut len, message, copied } = fill(bytes, &mut self.contents).into();
        self.copied += u64::from(copied);
        let mut own = None;
        if let Some(message) = message {
            own = self.before(message, bytes, &mut len);
        }
        // Short ones cost work, and one that came to nothing must not be tried for ever.
        self.used += len.max(LEAST) as u32;
        if len > 0 {
            self.built += 1;
            self.bytes += len as u64;
            let mut payload = frame.share(headroom as u32..(headroom + len) as u32);
            if let Some(message) = own {
                self.driver.recycle(std::mem::replace(&mut payload, message));
            }
            self.batch.push_back(TxPacket { meta, payload });
            if let Some(ports) = self.steer {
                self.redirect(ports);
            }
        }
        true
    }

    /// Writes the first `len` bytes of `bytes` in front of `message`, whose length is added to `len`. `None`: they do not go there, so
    /// the message was copied behind them.
    fn before(&mut self, mut message: FrameRef, bytes: &mut [u8], len: &mut usize) -> Option<FrameRef> {
        let written = std::mem::replace(len, *len + message.as_ref().len());
        if let Some(front) = message.grow(written as u32) {
            front.copy_from_slice(&bytes[..written]);
            self.in_place += 1;
            return Some(message);
        }
        bytes[written..*len].copy_from_slice(message.as_ref());
        self.copied += 1;
        None
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
        self.bytes = self.batch.iter().map(|packet| packet.payload.as_ref().len() as u64).sum();
        taken > 0
    }
}
