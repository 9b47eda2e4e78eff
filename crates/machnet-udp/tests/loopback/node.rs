//! A driver and what tests do with it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use machnet_channel::FrameRef;
use machnet_core::{Driver, Meta, RxPacket, TxPacket, Unreachable};
use machnet_udp::{Udp, UdpBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The loopback addresses every test runs on.
pub(crate) const FAMILIES: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// After this long a test has failed.
const LIMIT: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// A driver whose frames must all be home at the end.
pub(crate) struct Node {
    udp: Udp,
    frames: u32,
}

impl Node {
    pub(crate) fn new(address: &str) -> Self {
        Self::with(Udp::builder(), address)
    }

    pub(crate) fn with(builder: UdpBuilder, address: &str) -> Self {
        let udp = builder.bind(address).unwrap();
        let frames = udp.free_frames();
        Self { udp, frames }
    }

    pub(crate) fn payload(&mut self, bytes: &[u8]) -> FrameRef {
        let mut frame = self.udp.frame().unwrap();
        frame.bytes_mut().unwrap()[..bytes.len()].copy_from_slice(bytes);
        frame.share(0..bytes.len() as u32)
    }

    pub(crate) fn packet(&mut self, remote: SocketAddr, bytes: &[u8]) -> TxPacket {
        let local = self.udp.home();
        TxPacket { meta: Meta { local, remote, queue: 0 }, payload: self.payload(bytes), tail: None }
    }

    /// Sends all of `batch`, which loopback never refuses.
    pub(crate) fn send_all(&mut self, mut batch: VecDeque<TxPacket>) {
        let all = batch.len();
        assert_eq!(self.udp.tx_burst(&mut batch), all);
        assert!(batch.is_empty());
    }

    pub(crate) fn send(&mut self, remote: SocketAddr, bytes: &[u8]) {
        let packet = self.packet(remote, bytes);
        self.send_all([packet].into());
    }

    /// Receives exactly `count` datagrams, in bursts of at most `max`.
    pub(crate) fn receive(&mut self, count: usize, max: usize) -> Vec<RxPacket> {
        let mut all = Vec::new();
        while all.len() < count {
            let (before, room) = (all.len(), max.min(count - all.len()));
            let n = self.udp.rx_burst(&mut all, room);
            assert!(n <= room && all.len() == before + n);
            if n == 0 {
                self.await_readable();
            }
        }
        all
    }

    pub(crate) fn receive_one(&mut self) -> RxPacket {
        self.receive(1, 1).remove(0)
    }

    /// Waits for the next report of an unreachable port; there is no data.
    pub(crate) fn await_unreachable(&mut self) -> Unreachable {
        loop {
            if let Some(report) = self.udp.unreachable() {
                return report;
            }
            self.await_readable();
            assert_eq!(self.udp.rx_burst(&mut Vec::new(), 1), 0);
        }
    }

    pub(crate) fn await_readable(&self) {
        assert!(self.poll(LIMIT), "nothing came");
    }

    pub(crate) fn readable(&self) -> bool {
        self.poll(Timespec::default())
    }

    fn poll(&self, timeout: Timespec) -> bool {
        let fd = self.udp.wait().unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    }
}

impl Deref for Node {
    type Target = Udp;
    fn deref(&self) -> &Udp {
        &self.udp
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Udp {
        &mut self.udp
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.udp.free_frames(), self.frames, "frames are missing");
        }
    }
}

pub(crate) fn bytes(packet: &RxPacket) -> &[u8] {
    &packet.frame.bytes()[packet.range.start as usize..packet.range.end as usize]
}

/// `len` bytes that differ between seeds, and within.
pub(crate) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seed.wrapping_mul(31) ^ i ^ (i >> 8).wrapping_mul(7)) as u8).collect()
}

/// A port that was free a moment ago.
pub(crate) fn closed_port(like: SocketAddr) -> SocketAddr {
    std::net::UdpSocket::bind(SocketAddr::new(like.ip(), 0)).unwrap().local_addr().unwrap()
}
