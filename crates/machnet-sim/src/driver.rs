//! [`SimDriver`]: a NIC of the fabric behind core's [`Driver`] trait.
//!
//! Frames come from a region of the driver's own, so tests see each one come home. The device may keep transmitted
//! frames: for a time, and until it transmitted some more, as real ones do (virtio keeps the last ones for ever).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use machnet_channel::{Doorbell, Frame, FramePool, FrameRef, Region};
use machnet_core::net::{FrameCapabilities, MacAddr};
use machnet_core::{
    Capabilities, Driver, DropReason, Drops, Instant, LONG_FRAME, Meta, RxPacket, TxPacket, Unreachable,
};

use crate::ethernet;
use crate::fabric::HostId;
use crate::nic::Datagram;
use crate::{EventKind, Fabric, Link, NicStats};

/// IPv4's and UDP's headers: the MTU is so much longer than the longest payload.
const IP_AND_UDP: u32 = 28;

/// What happens to a datagram in the ring when no frame is free for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFrame {
    /// It stays in the ring, as in a socket's buffer.
    Wait,
    /// It is dropped and counted.
    Drop,
}

/// What a NIC can do that speaks Ethernet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// It computes the UDP checksums of what it sends.
    pub tx_checksum: bool,
    /// It verifies those of what it receives.
    pub rx_checksum: bool,
}

/// A NIC.
#[derive(Clone, Copy, Debug)]
pub struct NicConfig {
    /// The home port; 0: any free one.
    pub port: u16,
    /// The longest UDP payload the MTU allows, bytes.
    pub max_payload: u32,
    /// Frames of the region.
    pub frames: u32,
    /// Bytes per frame.
    pub frame_size: u32,
    /// Long frames: the device sends packets whose end lies in one. 0: packets lie in one piece.
    pub long_frames: u32,
    /// Bytes in front of received payloads, and asked for in front of transmitted ones.
    pub headroom: u32,
    /// Datagrams that may wait to be received.
    pub rx_descriptors: u16,
    /// Transmitted frames that the device may hold; beyond, `tx_burst` takes nothing.
    pub tx_descriptors: u16,
    /// From `tx_burst` to the link.
    pub tx_delay: Duration,
    /// What each packet, received or sent, costs its engine.
    pub packet_cost: Duration,
    /// Bits per second that leave the NIC; `None`: infinitely many. What waits for the line stays in its descriptor.
    pub line_rate: Option<u64>,
    /// How long the device holds a transmitted frame.
    pub hold: Duration,
    /// And until how many more were transmitted. Less than `tx_descriptors`.
    pub hold_packets: u16,
    /// What happens when no frame is free for a received datagram.
    pub no_frame: NoFrame,
    /// The NIC moves Ethernet frames ([`machnet_core::net::FrameDriver`]), not datagrams.
    pub ethernet: Option<Ethernet>,
}

impl Default for NicConfig {
    fn default() -> Self {
        Self {
            port: 0,
            max_payload: 1472,
            frames: 4096,
            frame_size: 2048,
            long_frames: 0,
            headroom: 0,
            rx_descriptors: 256,
            tx_descriptors: 256,
            tx_delay: Duration::ZERO,
            packet_cost: Duration::ZERO,
            line_rate: None,
            hold: Duration::ZERO,
            hold_packets: 0,
            no_frame: NoFrame::Wait,
            ethernet: None,
        }
    }
}

/// A transmitted frame that the device has not given back.
#[derive(Debug)]
struct Held {
    until: Instant,
    /// It leaves once so many frames were transmitted.
    after: u64,
    payload: FrameRef,
    tail: Option<FrameRef>,
}

/// A NIC queue pair of the fabric.
#[derive(Debug)]
pub struct SimDriver {
    pub(crate) fabric: Fabric,
    host: HostId,
    pub(crate) nic: usize,
    pub(crate) config: NicConfig,
    capabilities: Capabilities,
    pub(crate) frame_capabilities: FrameCapabilities,
    home: SocketAddr,
    ports: (u16, u16),
    pub(crate) pool: FramePool,
    pub(crate) long_pool: Option<FramePool>,
    held: VecDeque<Held>,
    transmitted: u64,
    /// What the packets of the engine's round have cost so far.
    spent: Duration,
    /// When the line will be free.
    line_free: Instant,
    /// A frame was wanted and none was free.
    pub(crate) wants_frame: bool,
    /// `tx_burst` found the ring full.
    pub(crate) wants_descriptor: bool,
    drops: Drops,
    /// Where the device wrote what it received, if somebody wants to know.
    written: Option<Vec<Range<usize>>>,
    /// The NIC's other queues, until each has an owner.
    pub(crate) others: Vec<SimDriver>,
}

impl SimDriver {
    pub(crate) fn new(fabric: Fabric, host: HostId, config: NicConfig) -> io::Result<Self> {
        Self::attach(fabric, host, config, None, 1)
    }

    /// A queue of a NIC with several, which has `ports` ports from its home port on.
    pub(crate) fn queue(
        fabric: Fabric,
        host: HostId,
        config: NicConfig,
        number: usize,
        ports: u16,
    ) -> io::Result<Self> {
        Self::attach(fabric, host, config, Some(number), ports)
    }

    fn attach(
        fabric: Fabric,
        host: HostId,
        config: NicConfig,
        queue_of: Option<usize>,
        ports: u16,
    ) -> io::Result<Self> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if config.hold_packets >= config.tx_descriptors {
            return Err(bad("a NIC that holds as many frames as it has descriptors never sends again"));
        }
        if u64::from(config.headroom) + u64::from(config.max_payload) > u64::from(config.frame_size) {
            return Err(bad("headroom and MTU exceed a frame"));
        }
        let (_, pool) = Region::anonymous(config.frame_size, config.frames)?;
        let long_pool = match config.long_frames {
            0 => None,
            count => Some(Region::anonymous(LONG_FRAME, count)?.1),
        };
        let (nic, home) = {
            let mut inner = fabric.lock();
            let nic = inner.attach(host, &config, queue_of);
            // Who speaks Ethernet leaves ports to the layer above.
            let home = match config.ethernet {
                Some(_) => SocketAddr::new(inner.address_of(nic), config.port),
                None => inner.open(nic, config.port)?,
            };
            (nic, home)
        };
        let mut capabilities = Capabilities::minimal(config.max_payload);
        capabilities.headroom = config.headroom;
        capabilities.descriptors = config.tx_descriptors;
        // What is sent is read where it lies, as a device does.
        capabilities.build_frames = config.frames / 4;
        capabilities.long_frames = config.long_frames;
        capabilities.chain_frames = config.frames / Capabilities::CHAINED;
        let mac = MacAddr(ethernet::mac(home.ip()));
        let mut frame_capabilities = FrameCapabilities::minimal(mac, config.max_payload + IP_AND_UDP);
        frame_capabilities.headroom = config.headroom;
        frame_capabilities.descriptors = config.tx_descriptors;
        frame_capabilities.frames = config.frames;
        frame_capabilities.long_frames = config.long_frames;
        if let Some(ethernet) = config.ethernet {
            frame_capabilities.tx_checksum = ethernet.tx_checksum;
            frame_capabilities.rx_checksum = ethernet.rx_checksum;
            frame_capabilities.spreads = queue_of.is_some();
        }
        Ok(Self {
            fabric,
            host,
            nic,
            config,
            capabilities,
            frame_capabilities,
            home,
            ports: (home.port(), home.port() + (ports - 1)),
            pool,
            long_pool,
            held: VecDeque::new(),
            transmitted: 0,
            spent: Duration::ZERO,
            line_free: Instant::ZERO,
            wants_frame: false,
            wants_descriptor: false,
            drops: Drops::default(),
            written: None,
            others: Vec::new(),
        })
    }

    /// The host the NIC is in.
    #[must_use]
    pub const fn host(&self) -> HostId {
        self.host
    }

    /// What the NIC counted.
    #[must_use]
    pub fn nic_stats(&self) -> NicStats {
        self.fabric.lock().nic(self.nic).stats
    }

    /// Frames that are free.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.pool.free()
    }

    /// Frames of the region.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.pool.capacity()
    }

    /// Long frames that are free.
    #[must_use]
    pub fn free_long_frames(&self) -> u32 {
        self.long_pool.as_ref().map_or(0, FramePool::free)
    }

    /// Transmitted frames that the device holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What the device reads, or has read and not given back, where it lies; oldest first.
    pub fn held_bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.held.iter().map(|held| held.payload.as_ref())
    }

    /// Likewise, the ends of packets that lie apart from the rest.
    pub fn held_tails(&self) -> impl Iterator<Item = &[u8]> {
        self.held.iter().filter_map(|held| held.tail.as_ref()).map(AsRef::as_ref)
    }

    /// From now on, where the device writes what it receives is noted.
    pub fn watch(&mut self) {
        self.written = Some(Vec::new());
    }

    /// Where the device has written what it received since [`SimDriver::watch`]: addresses in memory.
    pub fn written(&self) -> &[Range<usize>] {
        self.written.as_deref().unwrap_or_default()
    }

    /// The NIC's link comes up or goes down: what is sent, and what arrives, meanwhile is lost.
    pub fn set_link(&mut self, up: bool) {
        self.fabric.lock().nic_mut(self.nic).is_down = !up;
    }

    /// True unless [`SimDriver::set_link`] took the link down.
    #[must_use]
    pub fn is_link_up(&self) -> bool {
        !self.fabric.lock().nic(self.nic).is_down
    }

    /// The device gives back what it holds, as it does when it is stopped.
    pub fn give_back(&mut self) {
        self.held.clear();
    }

    /// True if a file descriptor of this driver would poll readable: something came in and can be received, or a
    /// refused `tx_burst` would succeed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let inner = self.fabric.lock();
        let nic = inner.nic(self.nic);
        // Datagrams that found no frame say nothing new: the frame's bell does.
        let waits_for_frame = self.wants_frame && self.config.no_frame == NoFrame::Wait;
        !nic.unreachable.is_empty()
            || !nic.ring.is_empty() && !waits_for_frame
            || self.wants_descriptor && self.held.front().is_none_or(|held| self.is_done(held, inner.now))
    }

    /// When the device gives back a frame or a descriptor that the engine waits for.
    #[must_use]
    pub fn next_release(&self) -> Option<Instant> {
        let held = self.held.front().filter(|_| self.wants_frame || self.wants_descriptor)?;
        (held.after <= self.transmitted).then_some(held.until)
    }

    /// The fabric's number of this NIC.
    pub(crate) const fn nic(&self) -> usize {
        self.nic
    }

    /// What packets cost from now on, and how long after its beginning a round sends.
    pub(crate) fn set_costs(&mut self, round: Duration, packet: Duration) {
        self.config.packet_cost = packet;
        self.fabric.lock().nic_mut(self.nic).tx_delay = round;
    }

    /// A round of the engine begins.
    pub(crate) const fn begin_round(&mut self) {
        self.spent = Duration::ZERO;
    }

    /// What the packets of the round cost.
    pub(crate) const fn spent(&self) -> Duration {
        self.spent
    }

    /// Takes up to `max` datagrams, or frames, from the ring and copies each into a frame. Returns how many.
    pub(crate) fn pull(&mut self, max: usize, mut give: impl FnMut(Frame, Range<u32>, &Datagram)) -> usize {
        let mut inner = self.fabric.lock();
        self.wants_frame = false;
        while self.drops.get(DropReason::Checksum) < inner.nic(self.nic).stats.checksum {
            self.drops.count(DropReason::Checksum);
        }
        let mut count = 0;
        while count < max && !inner.nic(self.nic).ring.is_empty() {
            let frame = self.pool.take();
            if frame.is_none() {
                inner.nic_mut(self.nic).stats.no_frames += 1;
                if self.config.no_frame == NoFrame::Wait {
                    self.wants_frame = true;
                    break;
                }
            }
            let Some(datagram) = inner.nic_mut(self.nic).ring.pop_front() else { break };
            let Some(mut frame) = frame else {
                self.drops.count(DropReason::NoFrames);
                inner.discard(EventKind::NoFrames, datagram);
                continue;
            };
            self.spent += self.config.packet_cost;
            let start = self.config.headroom as usize;
            let end = start + datagram.bytes.len();
            let Some(room) = frame.bytes_mut().and_then(|bytes| bytes.get_mut(start..end)) else {
                inner.nic_mut(self.nic).stats.long += 1;
                self.drops.count(DropReason::Oversized);
                continue;
            };
            room.copy_from_slice(&datagram.bytes);
            if let Some(written) = &mut self.written {
                let at = room.as_ptr_range();
                written.push(at.start.addr()..at.end.addr());
            }
            give(frame, start as u32..end as u32, &datagram);
            inner.bury(datagram);
            count += 1;
        }
        count
    }

    /// True if the device takes another frame. If not, it is remembered that one was refused.
    pub(crate) fn has_descriptor(&mut self) -> bool {
        self.wants_descriptor = self.held.len() >= usize::from(self.config.tx_descriptors);
        !self.wants_descriptor
    }

    /// `len` bytes are to leave; returns how long after `now` they will have left.
    pub(crate) fn charge(&mut self, now: Instant, len: usize) -> Duration {
        self.spent += self.config.packet_cost;
        let line = Link { rate: self.config.line_rate, ..Link::default() };
        self.line_free = self.line_free.max(now + self.spent) + line.serialisation(len);
        self.line_free.since(now)
    }

    /// The device keeps what leaves `late` after `now`.
    pub(crate) fn hold(&mut self, now: Instant, late: Duration, payload: FrameRef, tail: Option<FrameRef>) {
        self.transmitted += 1;
        self.held.push_back(Held {
            until: now + late + self.config.hold,
            after: self.transmitted + u64::from(self.config.hold_packets),
            payload,
            tail,
        });
    }

    /// What leaves, in one piece.
    ///
    /// # Panics
    /// If its end is in memory that the device does not read: a bug of the engine.
    pub(crate) fn whole<'a>(&self, payload: &'a FrameRef, tail: Option<&FrameRef>) -> Cow<'a, [u8]> {
        let Some(tail) = tail else { return Cow::Borrowed(payload.as_ref()) };
        assert!(self.reads(tail), "a packet ends in memory that the device does not read");
        Cow::Owned([payload.as_ref(), tail.as_ref()].concat())
    }

    /// True if packets may end in that memory.
    pub(crate) fn reads(&self, tail: &FrameRef) -> bool {
        self.long_pool.as_ref().is_some_and(|pool| pool.owns(tail) || self.pool.owns(tail))
    }

    fn is_done(&self, held: &Held, now: Instant) -> bool {
        held.until <= now && held.after <= self.transmitted
    }
}

impl Driver for SimDriver {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        self.home
    }

    fn ports(&self) -> (u16, u16) {
        self.ports
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        self.fabric.lock().open(self.nic, port)
    }

    fn close(&mut self, port: u16) {
        self.fabric.lock().close(self.nic, port);
    }

    fn frame(&mut self) -> Option<Frame> {
        let frame = self.pool.take();
        self.wants_frame |= frame.is_none();
        frame
    }

    fn long_frame(&mut self) -> Option<Frame> {
        self.long_pool.as_mut()?.take()
    }

    fn is_short_of_frames(&self) -> bool {
        self.pool.free() < self.pool.capacity() / 2
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        self.pull(max, |frame, range, datagram| {
            let meta = Meta { local: datagram.to, remote: datagram.from, queue: 0 };
            out.push(RxPacket { meta, frame, range });
        })
    }

    /// # Panics
    /// If a datagram leaves from a port or address that is not the driver's: a bug of the engine.
    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let fabric = self.fabric.clone();
        let mut inner = fabric.lock();
        let mut taken = 0;
        self.wants_descriptor = false;
        if inner.nic(self.nic).is_down {
            taken = batch.drain(..).map(|_| self.drops.count(DropReason::Unsendable)).count();
        }
        while let Some(packet) = batch.front() {
            if !self.has_descriptor() {
                break;
            }
            let mut from = packet.meta.local;
            if from.ip().is_unspecified() {
                from.set_ip(inner.address_of(self.nic));
            }
            assert_eq!(from.ip(), inner.address_of(self.nic), "sent from an address the NIC does not have");
            assert!(inner.has_open(self.nic, from.port()), "sent from port {}, which is not open", from.port());
            let whole = self.whole(&packet.payload, packet.tail.as_ref());
            let payload = whole.as_ref();
            if payload.len() > self.config.max_payload as usize {
                self.drops.count(DropReason::Oversized);
            }
            let late = self.charge(inner.now, payload.len());
            inner.transmit(self.nic, from, packet.meta.remote, payload, late);
            taken += 1;
            let Some(packet) = batch.pop_front() else { break };
            self.hold(inner.now, late, packet.payload, packet.tail);
        }
        taken
    }

    fn reap(&mut self) {
        let now = self.fabric.now();
        while self.held.front().is_some_and(|held| self.is_done(held, now)) {
            self.held.pop_front();
        }
    }

    fn backlog(&self) -> Option<u64> {
        let waits = self.line_free.since(self.fabric.now()).as_nanos();
        self.config.line_rate.map(|rate| (waits * u128::from(rate) / 8_000_000_000) as u64)
    }

    fn unreachable(&mut self) -> Option<Unreachable> {
        self.fabric.lock().nic_mut(self.nic).unreachable.pop_front()
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.pool.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        if !self.wants_frame {
            return false;
        }
        let home = self.pool.starve();
        self.wants_frame = !home;
        home
    }

    fn drops(&self) -> Drops {
        self.drops
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.fabric.lock().detach(self.nic);
    }
}
