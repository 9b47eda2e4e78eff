//! What flows send with: the driver, and the packets that were built for it and not taken yet.

use std::collections::VecDeque;

use super::BURST;
use crate::Driver;
use crate::driver::{Meta, TxPacket};
use crate::flow::Sent;

/// See the module. The engine lends it to one flow after the other.
#[derive(Debug)]
pub(crate) struct Tx<D> {
    pub(crate) driver: D,
    /// Of this start of the endpoint: INIT and ACCEPT say it.
    pub(crate) instance: u64,
    /// What the packet that was built last carries.
    pub(crate) contents: Vec<Sent>,
    batch: VecDeque<TxPacket>,
    /// Packets built in one round.
    burst: usize,
    /// The driver had no frame in this round: the engine tries again when one comes home.
    starved: bool,
    /// Packets ever built.
    built: u64,
}

impl<D: Driver> Tx<D> {
    pub(super) fn new(driver: D, instance: u64) -> Self {
        let batch = VecDeque::with_capacity(BURST);
        Self { driver, instance, contents: Vec::new(), batch, burst: BURST, starved: false, built: 0 }
    }

    /// Packets built in one round, from now on.
    pub(super) const fn set_burst(&mut self, burst: usize) {
        self.burst = burst;
    }

    /// A round begins.
    pub(super) fn begin(&mut self) {
        self.starved = false;
        self.driver.reap();
    }

    /// True if flows are to wait for the next round.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.len() >= self.burst
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

    /// Builds a packet of up to `room` bytes with `fill`, which returns its length (0: nothing, after all), and queues
    /// it. Returns false if there was no frame.
    pub(crate) fn packet(
        &mut self,
        meta: Meta,
        room: usize,
        fill: impl FnOnce(&mut [u8], &mut Vec<Sent>) -> usize,
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
        let len = fill(bytes, &mut self.contents);
        if len > 0 {
            self.built += 1;
            let payload = frame.share(headroom as u32..(headroom + len) as u32);
            self.batch.push_back(TxPacket { meta, payload });
        }
        true
    }

    /// Gives the driver what was built. Returns true if it took anything.
    pub(super) fn flush(&mut self) -> bool {
        !self.batch.is_empty() && self.driver.tx_burst(&mut self.batch) > 0
    }
}
