//! A device made of vectors, for tests and fuzzing.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FramePool, FrameRef, Region};

use super::{FrameCapabilities, FrameDriver, MacAddr, Net, NetConfig, RxFrame, TxFrame, UdpChecksum, checksum};
use crate::driver::Meta;
use crate::{Driver, Instant, RxPacket, TxPacket};

pub(crate) const FRAMES: u32 = 64;
pub(crate) const FRAME_SIZE: u32 = 2048;

/// The Ethernet address of host `n`.
pub(crate) const fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) capabilities: FrameCapabilities,
    pub(crate) pool: FramePool,
    pub(crate) arrived: VecDeque<Vec<u8>>,
    /// Says of what arrives that its checksum is right.
    pub(crate) vouches: bool,
    pub(crate) sent: Vec<Vec<u8>>,
    /// Where the sent frames lay in memory.
    pub(crate) places: Vec<usize>,
    /// How many frames it was offered, each time.
    pub(crate) offers: Vec<usize>,
    /// And where what was behind it lay, of those of two pieces.
    pub(crate) tails: Vec<usize>,
    /// How many frames it takes before it is full.
    pub(crate) room: usize,
    pub(crate) up: bool,
    /// Rung when a frame comes home, or a sibling heard something.
    pub(crate) bell: Option<Arc<Doorbell>>,
}

impl Port {
    pub(crate) fn new(mac: MacAddr, mtu: u32) -> Self {
        let (_, pool) = Region::anonymous(FRAME_SIZE, FRAMES).expect("memory");
        let (arrived, sent, places) = (VecDeque::new(), Vec::new(), Vec::new());
        let (offers, tails) = (Vec::new(), Vec::new());
        let capabilities = FrameCapabilities::minimal(mac, mtu);
        Self {
            capabilities,
            pool,
            arrived,
            vouches: false,
            sent,
            places,
            offers,
            tails,
            room: usize::MAX,
            up: true,
            bell: None,
        }
    }

    /// The frames that were sent, whose checksums the device has completed where it was to.
    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        self.places.clear();
        self.tails.clear();
        std::mem::take(&mut self.sent)
    }
}

impl FrameDriver for Port {
    fn capabilities(&self) -> &FrameCapabilities {
        &self.capabilities
    }

    fn split(self, queues: usize) -> io::Result<Vec<Self>> {
        let part = || {
            let mut port = Self::new(self.capabilities.mac, self.capabilities.mtu);
            port.capabilities = self.capabilities;
            port
        };
        Ok((0..queues).map(|_| part()).collect())
    }

    fn is_up(&self) -> bool {
        self.up
    }

    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn owns(&self, bytes: &FrameRef) -> bool {
        self.pool.owns(bytes)
    }

    fn gathers(&self, tail: &FrameRef) -> bool {
        self.pool.owns(tail)
    }

    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize {
        let mut count = 0;
        while count < max
            && !self.arrived.is_empty()
            && let Some(mut frame) = self.pool.take()
        {
            let Some(bytes) = self.arrived.pop_front() else { break };
            let end = 3 + bytes.len();
            if let Some(room) = frame.bytes_mut().and_then(|room| room.get_mut(3..end)) {
                room.copy_from_slice(&bytes);
                out.push(RxFrame { frame, range: 3..end as u32, checksum_good: self.vouches });
                count += 1;
            }
        }
        count
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize {
        self.offers.push(batch.len());
        let count = batch.len().min(self.room);
        self.room -= count;
        for TxFrame { bytes, tail, checksum, .. } in batch.drain(..count) {
            assert!(self.pool.owns(&bytes) && bytes.as_ref().len() >= 60);
            self.places.push(bytes.as_ref().as_ptr().addr());
            let mut copy = bytes.as_ref().to_vec();
            if let Some(tail) = tail {
                assert!(self.pool.owns(&tail));
                self.tails.push(tail.as_ref().as_ptr().addr());
                copy.extend_from_slice(tail.as_ref());
            }
            complete(&mut copy, checksum);
            self.sent.push(copy);
        }
        count
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.bell = Some(bell);
    }

    fn starve(&mut self) -> bool {
        false
    }
}

/// What a device does that computes checksums: sums up everything behind the IP header, pseudo-header included since its
/// sum is in the field.
fn complete(frame: &mut [u8], checksum: UdpChecksum) {
    let start = match checksum {
        UdpChecksum::Done => return,
        UdpChecksum::Ipv4 => 34,
        UdpChecksum::Ipv6 => 54,
    };
    let len = usize::from(u16::from_be_bytes([frame[start + 4], frame[start + 5]]));
    let sum = match checksum::Sum::default().add(&frame[start..start + len]).checksum() {
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    frame[start + 6..start + 8].copy_from_slice(&sum);
}

/// A layer on a [`Port`], at a time.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) net: Net<Port>,
    pub(crate) now: Instant,
}

impl Bench {
    pub(crate) fn new(host: u8, config: &NetConfig) -> Self {
        Self::on(Port::new(mac(host), 1500), config)
    }

    pub(crate) fn on(port: Port, config: &NetConfig) -> Self {
        let now = Instant(1_000_000_000);
        let mut net = Net::new(port, config).expect("a right configuration");
        net.begin(now);
        Self { net, now }
    }

    /// A layer for each of so many engines.
    pub(crate) fn several(port: Port, config: &NetConfig, engines: usize) -> Vec<Self> {
        let now = Instant(1_000_000_000);
        let nets = Net::new(port, config).expect("a right configuration").split(engines).expect("as many as wanted");
        let on = |mut net: Net<Port>| {
            net.begin(now);
            Self { net, now }
        };
        nets.into_iter().map(on).collect()
    }

    pub(crate) fn begin(&mut self, later: std::time::Duration) {
        self.now += later;
        self.net.begin(self.now);
    }

    /// What `frames` lead to.
    pub(crate) fn receive(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<(Meta, Vec<u8>)> {
        self.net.device.arrived.extend(frames);
        self.drain()
    }

    pub(crate) fn drain(&mut self) -> Vec<(Meta, Vec<u8>)> {
        let mut out = Vec::new();
        self.net.rx_burst(&mut out, 256);
        out.iter()
            .map(|RxPacket { meta, frame, range }| {
                (*meta, frame.bytes()[range.start as usize..range.end as usize].to_vec())
            })
            .collect()
    }

    /// A datagram from the home port, in a frame of the device.
    pub(crate) fn packet(&mut self, to: &str, payload: &[u8]) -> TxPacket {
        let start = self.net.capabilities().headroom;
        let mut frame = self.net.frame().expect("a frame");
        let end = start as usize + payload.len();
        frame.bytes_mut().expect("nobody else")[start as usize..end].copy_from_slice(payload);
        let meta = Meta { local: self.net.home(), remote: to.parse().expect("an address"), queue: 0 };
        TxPacket { meta, payload: frame.share(start..end as u32), tail: None }
    }

    pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
        self.net.device.take()
    }

    /// Frames that the layer holds itself.
    pub(crate) fn held(&self) -> u32 {
        FRAMES - self.net.device.pool.free()
    }
}
