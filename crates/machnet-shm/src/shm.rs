//! The driver itself.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FramePool, FrameRef, Region};
use machnet_core::{Capabilities, Driver, DropReason, Drops, RxPacket, TxPacket, Unreachable};

use crate::ShmBuilder;
use crate::geometry::{Geometry, UNIT};
use crate::porter::{Arrival, Porter};
use crate::ports::{HOME_PORT, OpenPorts};
use crate::rendezvous::Name;
use crate::slots::HUB;
use crate::wire::{End, Sent, Wire, quote};
use crate::wires::Wires;

/// Datagrams of an endpoint to itself that wait to be received.
const LOOPBACK: usize = 256;
/// Reports of unreachable addresses that wait for the engine; more are not worth keeping.
const REPORTS: usize = 64;

/// A [`Driver`] over memory shared with other processes of this host.
///
/// ```
/// use machnet_core::Driver;
/// use machnet_shm::Shm;
///
/// let name = format!("doc-{}", std::process::id());
/// let hub = Shm::bind(&name)?;
/// let client = Shm::connect(&name)?;
/// assert_eq!(hub.home().ip().to_string(), "127.0.0.1");
/// assert_eq!(client.home().ip().to_string(), "127.0.0.2");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Shm {
    name: Name,
    capabilities: Capabilities,
    geometry: Geometry,
    address: Ipv4Addr,
    ports: OpenPorts,
    pool: FramePool,
    wires: Wires,
    /// The hub's.
    porter: Option<Porter>,
    /// From this endpoint to itself.
    loopback: VecDeque<RxPacket>,
    unreachable: VecDeque<Unreachable>,
    drops: Drops,
    hung_up: u64,
    broken: u64,
}

/// Counters of a [`Shm`] driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShmStats {
    /// Wires that there are: the hub's clients, or a client's one.
    pub wires: u64,
    /// Wires that ended because the other process closed them or died.
    pub hung_up: u64,
    /// Wires that ended because the other process wrote what cannot be.
    pub broken: u64,
    /// Processes that the hub did not let in.
    pub refused: u64,
    /// Times that the other side slept and was rung: a system call each.
    pub rings: u64,
}

impl Shm {
    /// Becomes the hub of `name`, with default settings; see [`ShmBuilder::bind`].
    ///
    /// # Errors
    /// As [`ShmBuilder::bind`].
    pub fn bind(name: &str) -> io::Result<Self> {
        Self::builder().bind(name)
    }

    /// Attaches to the hub of `name`, with default settings; see [`ShmBuilder::connect`].
    ///
    /// # Errors
    /// As [`ShmBuilder::connect`].
    pub fn connect(name: &str) -> io::Result<Self> {
        Self::builder().connect(name)
    }

    /// Attaches to the hub of `name`, or becomes it, with default settings; see [`ShmBuilder::attach`].
    ///
    /// # Errors
    /// As [`ShmBuilder::attach`].
    pub fn attach(name: &str) -> io::Result<Self> {
        Self::builder().attach(name)
    }

    /// Says what is wrong with a name that cannot be a wire's.
    ///
    /// # Errors
    /// `InvalidInput`, which says what a name may be.
    pub fn check_name(name: &str) -> io::Result<()> {
        Name::new(name).map(drop)
    }

    /// Settings to change before binding or attaching.
    #[must_use]
    pub const fn builder() -> ShmBuilder {
        ShmBuilder::new()
    }

    /// The hub's address, which is the same on every name. A client that wants to talk to the hub's endpoint calls it.
    pub const HUB: IpAddr = IpAddr::V4(HUB);

    pub(crate) fn hub(config: &ShmBuilder, name: Name) -> io::Result<Self> {
        let porter = Porter::start(&name, config.geometry, config.clients)?;
        let shm = Self::new(config, name, HUB, config.geometry)?;
        shm.wires.watch_desk(porter.desk().bell())?;
        Ok(Self { porter: Some(porter), ..shm })
    }

    pub(crate) fn client(config: &ShmBuilder, name: &Name) -> io::Result<Self> {
        let line = name.call(config.patience)?;
        let geometry = line.welcome.geometry;
        let mut shm = Self::new(config, name.clone(), line.welcome.client, geometry)?;
        let (out, into) = (geometry.up(), geometry.down());
        shm.wires.add(Wire::new(line.welcome.hub, line.socket, line.region, &out, &into))?;
        Ok(shm)
    }

    fn new(config: &ShmBuilder, name: Name, address: Ipv4Addr, geometry: Geometry) -> io::Result<Self> {
        let frame_size = geometry.max_payload.next_multiple_of(UNIT as u32);
        let (_, pool) = Region::anonymous(frame_size, config.frames)?;
        let mut capabilities = Capabilities::minimal(geometry.max_payload);
        capabilities.descriptors = geometry.descriptors as u16;
        capabilities.can_sleep = true;
        capabilities.is_local = true;
        Ok(Self {
            name,
            capabilities,
            geometry,
            address,
            ports: OpenPorts::new(),
            pool,
            wires: Wires::new()?,
            porter: None,
            loopback: VecDeque::new(),
            unreachable: VecDeque::new(),
            drops: Drops::default(),
            hung_up: 0,
            broken: 0,
        })
    }

    /// True if this side is the hub of its name.
    #[must_use]
    pub const fn is_hub(&self) -> bool {
        self.porter.is_some()
    }

    /// Number of free frames. Exact only while nobody drops one.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.pool.free()
    }

    /// The driver's counters.
    #[must_use]
    pub fn stats(&self) -> ShmStats {
        ShmStats {
            wires: self.wires.len() as u64,
            hung_up: self.hung_up,
            broken: self.broken,
            refused: self.porter.as_ref().map_or(0, |porter| porter.desk().refused()),
            rings: self.wires.rings(),
        }
    }

    /// Lets in who came, and looks at the sockets when it is time to.
    #[inline]
    fn attend(&mut self) {
        if self.porter.as_ref().is_some_and(|porter| porter.desk().has_news()) {
            self.let_in();
        }
        if self.wires.is_time_to_look() {
            self.look();
        }
    }

    fn let_in(&mut self) {
        let Some(porter) = &self.porter else { return };
        let (out, into) = (self.geometry.down(), self.geometry.up());
        for Arrival { address, socket, region } in porter.desk().arrivals() {
            let wire = Wire::new(address, socket, region, &out, &into);
            if let Err(error) = self.wires.add(wire) {
                // The client finds its socket closed.
                tracing::warn!(name = %self.name, %address, %error, "cannot watch a client");
                porter.desk().leave(address);
            }
        }
    }

    fn look(&mut self) {
        let Self { wires, porter, name, hung_up, broken, .. } = self;
        wires.look(|wire, end| {
            let peer = wire.peer();
            match end {
                End::HungUp { .. } => {
                    *hung_up += 1;
                    tracing::debug!(%name, %peer, "the other process is gone");
                }
                End::Broken(why) => {
                    *broken += 1;
                    tracing::warn!(%name, %peer, %why, "wire closed: the other process broke it");
                }
            }
            drop(wire);
            if let Some(porter) = porter {
                porter.desk().leave(peer);
            }
        });
    }

    /// Takes a datagram from the engine; gives it back if it must wait.
    #[inline]
    fn take(&mut self, packet: TxPacket) -> Result<(), TxPacket> {
        let IpAddr::V4(peer) = packet.meta.remote.ip() else {
            self.lose(&packet);
            return Ok(());
        };
        if packet.payload.as_ref().len() > self.geometry.max_payload as usize {
            self.drops.count(DropReason::Unsendable);
            return Ok(());
        }
        let alone = self.wires.len() == 1;
        let Some((slot, wire)) = self.wires.to(peer) else {
            if peer == self.address {
                return self.loop_back(packet);
            }
            return self.take_to_stranger(peer, packet);
        };
        match wire.send(&packet) {
            Sent::Yes => {
                self.wires.sent_on(slot);
                self.pool.recycle(packet.payload);
                Ok(())
            }
            Sent::Never => {
                self.lose(&packet);
                Ok(())
            }
            // The only one whom that can hold up is the one who does not make room.
            Sent::Full if alone => Err(packet),
            Sent::Full => {
                self.keep(peer, packet);
                Ok(())
            }
        }
    }

    /// Takes a datagram to whom no wire leads, perhaps because it came since the last round: a client may tell its address as
    /// soon as it knows it.
    #[cold]
    fn take_to_stranger(&mut self, peer: Ipv4Addr, packet: TxPacket) -> Result<(), TxPacket> {
        self.let_in();
        if self.wires.to(peer).is_some() {
            return self.take(packet);
        }
        self.lose(&packet);
        Ok(())
    }

    /// Keeps a datagram that found no room, so that it does not hold up others; loses it if too many wait.
    #[cold]
    fn keep(&mut self, peer: Ipv4Addr, packet: TxPacket) {
        // What waits takes frames from everybody.
        let crowded = self.wires.waiting() >= self.pool.capacity() as usize / 4;
        let kept = self.wires.to(peer).is_some_and(|(_, wire)| !crowded && wire.keep(packet).is_ok());
        if kept {
            self.wires.one_waits();
        } else {
            self.drops.count(DropReason::Congested);
        }
    }

    /// Nobody has the address it goes to.
    #[cold]
    fn lose(&mut self, packet: &TxPacket) {
        self.drops.count(DropReason::Unsendable);
        if self.unreachable.len() < REPORTS
            && let Some(quoted) = quote(&packet.payload)
        {
            self.unreachable.push_back(Unreachable { remote: packet.meta.remote, quoted });
        }
    }

    /// From this endpoint to itself: copied all the same, so that a frame has one way home.
    fn loop_back(&mut self, packet: TxPacket) -> Result<(), TxPacket> {
        if self.loopback.len() >= LOOPBACK {
            return Err(packet);
        }
        let Some(mut frame) = self.pool.take() else { return Err(packet) };
        let payload = packet.payload.as_ref();
        let len = payload.len();
        if let Some(bytes) = frame.bytes_mut() {
            bytes[..len].copy_from_slice(payload);
        }
        let mut meta = packet.meta;
        (meta.local, meta.remote) = (meta.remote, SocketAddr::from((self.address, packet.meta.local.port())));
        self.loopback.push_back(RxPacket { meta, frame, range: 0..len as u32 });
        self.pool.recycle(packet.payload);
        Ok(())
    }
}

impl Driver for Shm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        SocketAddr::from((self.address, HOME_PORT))
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((self.address, self.ports.open(port)?)))
    }

    fn close(&mut self, port: u16) {
        self.ports.close(port);
    }

    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn recycle(&mut self, payload: FrameRef) {
        self.pool.recycle(payload);
    }

    fn is_short_of_frames(&self) -> bool {
        self.pool.free() < self.pool.capacity() / 2
    }

    /// Ports that nobody has opened receive, too: it is the engine that refuses.
    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        self.attend();
        let own = self.loopback.len().min(max);
        out.extend(self.loopback.drain(..own));
        let Self { wires, pool, drops, address, .. } = self;
        own + wires.receive(*address, pool, drops, out, max - own)
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let mut taken = 0;
        while let Some(packet) = batch.pop_front() {
            if let Err(packet) = self.take(packet) {
                batch.push_front(packet);
                break;
            }
            taken += 1;
        }
        self.wires.publish();
        taken
    }

    fn reap(&mut self) {
        self.pool.gather();
        self.wires.flush(&mut self.pool);
    }

    fn unreachable(&mut self) -> Option<Unreachable> {
        self.unreachable.pop_front()
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wires.epoll())
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.pool.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        // Without frames data stays where it is, and must not keep the engine awake.
        let has_frames = self.pool.free() > 0 || self.pool.starve();
        let work = self.wires.arm(has_frames);
        let news = self.porter.as_ref().is_some_and(|porter| porter.desk().has_news());
        work || news || !self.loopback.is_empty() || !self.unreachable.is_empty()
    }

    fn drops(&self) -> Drops {
        self.drops
    }
}

impl fmt::Debug for Shm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shm")
            .field("name", &self.name)
            .field("home", &self.home())
            .field("is_hub", &self.is_hub())
            .field("stats", &self.stats())
            .field("free_frames", &self.free_frames())
            .finish_non_exhaustive()
    }
}
