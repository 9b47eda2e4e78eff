//! A driver to play engine with.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use machnet_channel::Doorbell;
use machnet_core::{Driver, Meta, RxPacket, TxPacket};
use machnet_shm::{Shm, ShmBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Nothing here takes so long: who waits longer has found a hang.
const LONG: Duration = Duration::from_secs(60);

/// A name that no other test uses.
pub(crate) fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("wire-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Repeats `step` until it is true.
pub(crate) fn until(mut step: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !step() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::yield_now();
    }
}

pub(crate) struct Node {
    pub(crate) shm: Shm,
    pub(crate) batch: VecDeque<TxPacket>,
    pub(crate) received: Vec<RxPacket>,
}

impl Node {
    pub(crate) fn new(mut shm: Shm) -> Self {
        shm.set_bell(Arc::new(Doorbell::new()));
        Self { shm, batch: VecDeque::new(), received: Vec::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shm.home()
    }

    /// Queues a datagram and offers the queue to the driver.
    pub(crate) fn send(&mut self, to: SocketAddr, payload: &[u8]) -> usize {
        let mut frame = self.shm.frame().expect("a free frame");
        frame.bytes_mut().unwrap()[..payload.len()].copy_from_slice(payload);
        let meta = Meta { local: self.shm.home(), remote: to, queue: 0 };
        self.batch.push_back(TxPacket { meta, payload: frame.share(0..payload.len() as u32), tail: None });
        self.shm.tx_burst(&mut self.batch)
    }

    /// One round; returns how many datagrams came.
    pub(crate) fn round(&mut self) -> usize {
        self.shm.reap();
        let count = self.shm.rx_burst(&mut self.received, 256);
        self.shm.tx_burst(&mut self.batch);
        count
    }

    /// Rounds until `count` datagrams have come.
    pub(crate) fn wait_for(&mut self, count: usize) {
        until(|| {
            self.round();
            self.received.len() >= count
        });
    }

    /// Rounds until there are so many wires, asleep in between: a hub that spins keeps its porter from a crowded core.
    pub(crate) fn wait_for_wires(&mut self, wires: u64) {
        until(|| {
            self.round();
            let reached = self.shm.stats().wires == wires;
            if !reached && !self.shm.starve() {
                self.is_readable_within(Duration::from_secs(1));
            }
            reached
        });
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.is_readable_within(Duration::ZERO)
    }

    fn is_readable_within(&self, time: Duration) -> bool {
        let fd = self.shm.wait().unwrap();
        let time = Timespec::try_from(time).unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)).unwrap() == 1
    }
}

/// What datagram `n` is.
pub(crate) fn content(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (n * 131 + i * 7) as u8).collect()
}

pub(crate) fn payload(packet: &RxPacket) -> &[u8] {
    &packet.frame.bytes()[packet.range.start as usize..packet.range.end as usize]
}

/// A hub and one client of it.
pub(crate) fn pair_of(config: &ShmBuilder) -> (Node, Node) {
    let name = name();
    let mut hub = Node::new(config.clone().bind(&name).unwrap());
    let client = Node::new(config.clone().connect(&name).unwrap());
    hub.wait_for_wires(1);
    (hub, client)
}

pub(crate) fn pair() -> (Node, Node) {
    pair_of(&Shm::builder())
}
