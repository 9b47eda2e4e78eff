//! A driver that counts.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use machnet_async::{Driver, Drops, Udp};
use machnet_channel::{Doorbell, Frame};
use machnet_core::{Capabilities, RxPacket, TxPacket, Unreachable};

/// A driver that counts the rounds of its engine.
pub struct Counted {
    udp: Udp,
    rounds: Arc<AtomicU64>,
    /// Has something to sleep on.
    wakes: bool,
}

impl Counted {
    /// One on loopback, and its count.
    pub fn new() -> (Self, Arc<AtomicU64>) {
        let rounds = Arc::new(AtomicU64::new(0));
        (Self { udp: Udp::bind((super::V4, 0)).unwrap(), rounds: Arc::clone(&rounds), wakes: true }, rounds)
    }

    /// One without a file descriptor, as some NICs under DPDK.
    pub fn without_fd() -> (Self, Arc<AtomicU64>) {
        let (driver, rounds) = Self::new();
        (Self { wakes: false, ..driver }, rounds)
    }
}

impl Driver for Counted {
    fn capabilities(&self) -> &Capabilities {
        self.udp.capabilities()
    }
    fn home(&self) -> SocketAddr {
        self.udp.home()
    }
    fn open(&mut self, port: u16) -> std::io::Result<SocketAddr> {
        self.udp.open(port)
    }
    fn close(&mut self, port: u16) {
        self.udp.close(port);
    }
    fn frame(&mut self) -> Option<Frame> {
        self.udp.frame()
    }
    fn is_short_of_frames(&self) -> bool {
        self.udp.is_short_of_frames()
    }
    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        self.rounds.fetch_add(1, Relaxed);
        self.udp.rx_burst(out, max)
    }
    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        self.udp.tx_burst(batch)
    }
    fn unreachable(&mut self) -> Option<Unreachable> {
        self.udp.unreachable()
    }
    fn wait(&self) -> Option<BorrowedFd<'_>> {
        self.udp.wait().filter(|_| self.wakes)
    }
    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.udp.set_bell(bell);
    }
    fn starve(&mut self) -> bool {
        self.udp.starve()
    }
    fn drops(&self) -> Drops {
        self.udp.drops()
    }
}
