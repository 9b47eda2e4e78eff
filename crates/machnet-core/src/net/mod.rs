//! The network layer: what lies between datagrams and an Ethernet device.
//!
//! A [`FrameDriver`] moves frames; [`Net`] around it is a [`Driver`] like any other.
//!
//! ```text
//!   engine ── TxPacket ─▶ route ─▶ neighbour ─▶ headers, checksum ─▶ TxFrame ─▶ device     transmit.rs
//!                         routes.rs  neighbours.rs  template.rs checksum.rs
//!   engine ◀─ RxPacket ── UDP, open port ◀─ IP ◀─ Ethernet ◀─ RxFrame ◀─ device             receive.rs
//!                         └ ARP, neighbour discovery, ping, closed ports: answered here     messages.rs
//! ```
//!
//! Addresses come from [`NetConfig`]; neighbours are asked for and believed only then. What is not for this host, and
//! what this layer does not do (VLANs, fragments, IP options beyond skipping them, IPv6 extension headers, multicast) is
//! dropped and counted, by [`DropReason`]. It does not do DHCP, router discovery or duplicate address detection: clouds
//! assign addresses. With several engines each has a layer and a queue of its own; answers come to the queue that the device chooses,
//! and are passed on (`siblings.rs`).
//!
//! Sans-IO: time comes by [`Driver::begin`], questions repeat by [`Driver::next_deadline`].
//!
//! Reference: RFC 826 (ARP), RFC 4861 (neighbour discovery), RFC 792 and RFC 4443 (ICMP), RFC 1122 (hosts);
//! `docs/spec/net.md` has what is done of them, with every constant.

#[cfg(any(test, fuzzing))]
mod bench;
mod checksum;
mod config;
mod driver;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod headers;
mod limit;
mod mac;
mod messages;
mod neighbours;
mod ports;
mod receive;
mod routes;
mod siblings;
mod template;
#[cfg(test)]
mod tests;
mod transmit;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use machnet_channel::{Doorbell, Frame, FrameRef};

pub use config::{NetConfig, NetError};
pub use driver::{FrameCapabilities, FrameDriver, RxFrame, TxFrame, UdpChecksum};
pub use mac::{MacAddr, NotMac};

use crate::time::earlier;
use crate::{Capabilities, Driver, DropReason, Drops, Instant, RxPacket, TxPacket, Unreachable};
use headers::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN};
use limit::RateLimit;
use neighbours::Neighbours;
use ports::{Held, Ports};
use routes::Routes;
use siblings::{Notice, Siblings};
use transmit::{Staged, Way};

/// In front of a payload, besides what the device wants: Ethernet, IPv6 and UDP headers are 62 bytes; 64 keep payloads
/// aligned.
const HEADROOM: u32 = 64;
/// Of so many of the device's frames applications may have one to build in: received payloads are lent to them only while half are
/// free, so that they never have the last quarter.
const BUILT: u32 = 4;
/// Answers and questions that wait for the device; more are dropped.
const MAX_CONTROL: usize = 64;
/// ICMP messages that wait for the engine, as on sockets.
const MAX_UNREACHABLE: usize = 64;
/// Datagrams of this host to itself that wait for the engine.
const MAX_LOOPED: usize = 256;
/// UDP ports that belong to each of several engines, on devices whose ports choose the queue: as over sockets.
const PORTS_PER_ENGINE: u16 = 4;
/// How soon the device is tried again with answers that it refused.
const CONTROL_RETRY: Duration = Duration::from_millis(1);

/// A [`Driver`] over an Ethernet device. See the module.
#[derive(Debug)]
pub struct Net<F> {
    device: F,
    /// For those that it may be divided into.
    config: NetConfig,
    /// If it was.
    siblings: Option<Siblings>,
    /// The ports that are always open.
    range: (u16, u16),
    capabilities: Capabilities,
    mac: MacAddr,
    /// The longest IP packet, bytes.
    mtu: usize,
    /// Where frames begin in their memory, at least.
    frame_start: usize,
    /// The device computes UDP checksums.
    offload: bool,
    answers_closed: bool,
    home: SocketAddr,
    routes: Routes,
    ports: Ports,
    neighbours: Neighbours<TxFrame>,
    limit: RateLimit,
    now: Instant,
    /// Of the layer itself, and what waited for a neighbour: goes before anything else.
    control: VecDeque<TxFrame>,
    /// Frames on their way from a batch to the device; empty between calls, as the next two.
    staged: VecDeque<TxFrame>,
    stages: VecDeque<Staged>,
    /// The last datagram's addresses, and where it went.
    last_way: Option<Way>,
    received: Vec<RxFrame>,
    /// Datagrams of this host to itself.
    looped: VecDeque<RxPacket>,
    unreachable: VecDeque<Unreachable>,
    drops: Drops,
}

impl<F: FrameDriver> Net<F> {
    /// The network of `config` on `device`.
    ///
    /// # Errors
    /// What of the configuration contradicts itself or the device.
    pub fn new(mut device: F, config: &NetConfig) -> Result<Self, NetError> {
        let device_can = *device.capabilities();
        config.check(&device_can)?;
        // IP has no longer ones.
        let mtu = device_can.mtu.min(65_535);
        let need = (device_can.headroom + HEADROOM + mtu) as usize;
        let size = device.frame().ok_or(NetError::NoFrame)?.bytes().len();
        if size < need {
            return Err(NetError::Frames { size, mtu, need });
        }
        let ip_len = if config.has_v6() { IPV6_LEN } else { IPV4_LEN };
        let mut capabilities = Capabilities::minimal(mtu - (ip_len + UDP_LEN) as u32);
        capabilities.headroom = device_can.headroom + HEADROOM;
        capabilities.descriptors = device_can.descriptors;
        capabilities.can_sleep = device_can.can_sleep;
        capabilities.build_frames = device_can.frames / BUILT;
        capabilities.long_frames = device_can.long_frames;
        capabilities.chain_frames = device_can.frames / Capabilities::CHAINED;
        let mut ports = Ports::new();
        let home = ports.open(config.port).map_err(|_| NetError::NoAddress)?;
        let address = config.addresses.first().ok_or(NetError::NoAddress)?.addr();
        Ok(Self {
            device,
            config: config.clone(),
            siblings: None,
            range: (home, home),
            capabilities,
            mac: device_can.mac,
            mtu: mtu as usize,
            frame_start: device_can.headroom as usize,
            offload: device_can.tx_checksum,
            answers_closed: config.answer_closed_ports,
            home: SocketAddr::new(address, home),
            routes: Routes::new(config),
            ports,
            neighbours: Neighbours::new(config.max_neighbours, config.max_pending),
            limit: RateLimit::new(config.answers_per_second),
            now: Instant::ZERO,
            control: VecDeque::new(),
            staged: VecDeque::new(),
            stages: VecDeque::new(),
            last_way: None,
            received: Vec::new(),
            looped: VecDeque::new(),
            unreachable: VecDeque::new(),
            drops: Drops::default(),
        })
    }

    /// The device.
    pub const fn device(&self) -> &F {
        &self.device
    }

    /// The device, to steer it.
    pub const fn device_mut(&mut self) -> &mut F {
        &mut self.device
    }

    fn note_unreachable(&mut self, unreachable: Unreachable) {
        if self.unreachable.len() < MAX_UNREACHABLE {
            self.unreachable.push_back(unreachable);
        }
    }

    /// Tells the other engines of this host, if there are any.
    fn tell(&mut self, notice: Notice) {
        let lost = self.siblings.as_ref().map_or(0, |siblings| siblings.tell(notice));
        (0..lost).for_each(|_| self.drops.count(DropReason::HandoverFull));
    }

    /// Takes in what the other engines tell.
    fn hear(&mut self) {
        while let Some(notice) = self.siblings.as_mut().and_then(Siblings::hear) {
            match notice {
                Notice::Asked(ip, mac) => self.neighbours.on_question(self.now, ip, mac),
                Notice::Answered(ip, mac) => self.on_answer(ip, mac),
                Notice::Unreachable(unreachable) => self.note_unreachable(unreachable),
            }
        }
    }

    /// Asks what the table of neighbours wants to know, and gives the device what waits for it.
    fn settle(&mut self) {
        while let Some(question) = self.neighbours.question() {
            self.ask(question);
        }
        for _ in 0..self.neighbours.take_lost() {
            self.drops.count(DropReason::NoNeighbour);
        }
        self.flush_control();
    }
}

impl<F: FrameDriver> Driver for Net<F> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        self.home
    }

    fn ports(&self) -> (u16, u16) {
        self.range
    }

    /// By its routes, which do not change.
    fn reaches(&self, remote: IpAddr) -> bool {
        let has_way = self.routes.is_own(remote) || self.routes.next_hop(remote).is_ok();
        has_way && self.routes.source(remote).is_some()
    }

    /// Each has a queue of the device's, with memory of its own. Where ports choose the queue, there are four for each driver beside the
    /// home port, most of them above it.
    fn split(self, drivers: usize) -> io::Result<Vec<Self>> {
        if drivers == 1 {
            // Which says whether it was to be divided.
            let device = self.device.split(1)?.pop().ok_or(io::ErrorKind::InvalidData)?;
            return Ok(vec![Self { device, ..self }]);
        }
        let Self { device, mut config, home, .. } = self;
        let wanted = if device.capabilities().spreads { PORTS_PER_ENGINE.saturating_mul(drivers as u16) } else { 1 };
        let first = home.port().min(u16::MAX - wanted + 1);
        let range = (first, first + (wanted - 1));
        config.port = home.port();
        let held = Held::new();
        let parts = device.split(drivers)?.into_iter().zip(Siblings::group(drivers));
        parts
            .map(|(device, siblings)| {
                let error = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
                let mut net = Self::new(device, &config).map_err(error)?;
                net.ports = Ports::of(Arc::clone(&held));
                for port in range.0..=range.1 {
                    net.ports.open(port)?;
                }
                (net.range, net.siblings) = (range, Some(siblings));
                Ok(net)
            })
            .collect()
    }

    fn begin(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.hear();
        self.neighbours.expire(self.now);
        self.settle();
    }

    fn next_deadline(&self) -> Option<Instant> {
        let retry = (!self.control.is_empty()).then(|| self.now + CONTROL_RETRY);
        earlier(self.neighbours.next_deadline(), retry)
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(self.home.ip(), self.ports.open(port)?))
    }

    fn close(&mut self, port: u16) {
        self.ports.close(port);
    }

    fn frame(&mut self) -> Option<Frame> {
        self.device.frame()
    }

    fn long_frame(&mut self) -> Option<Frame> {
        self.device.long_frame()
    }

    fn recycle(&mut self, payload: FrameRef) {
        self.device.recycle(payload);
    }

    fn is_short_of_frames(&self) -> bool {
        self.device.is_short_of_frames()
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        self.receive_burst(out, max)
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        self.transmit_burst(batch)
    }

    fn reap(&mut self) {
        self.device.reap();
    }

    fn backlog(&self) -> Option<u64> {
        self.device.backlog()
    }

    fn unreachable(&mut self) -> Option<Unreachable> {
        self.unreachable.pop_front()
    }

    fn doubt(&mut self, remote: IpAddr) {
        if let Ok(hop) = self.routes.next_hop(remote) {
            self.neighbours.doubt(self.now, hop);
            self.settle();
        }
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        self.device.wait()
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        if let Some(siblings) = &self.siblings {
            siblings.set_bell(Arc::clone(&bell));
        }
        self.device.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        self.device.starve() || self.siblings.as_ref().is_some_and(Siblings::have_news)
    }

    fn drops(&self) -> Drops {
        let mut drops = self.drops;
        drops.add(&self.device.drops());
        drops
    }
}

/// Bytes of an Ethernet frame that carries an IP packet of `mtu` bytes.
const fn longest_frame(mtu: usize) -> usize {
    ETHERNET_LEN + mtu
}

/// True if both are of one family.
const fn is_one_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
