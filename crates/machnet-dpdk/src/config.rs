//! How a port is set up, and what is wrong with a setting that cannot work.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machnet_core::MAX_ENGINES;
use machnet_core::net::{FrameCapabilities, Net, NetConfig};

use crate::attach::{Attached, Comeback, Queues, Rings, attach, what_was_said};
use crate::gate::Gate;
use crate::link::Link;
use crate::pool::{HEADROOM, Pool};
use crate::quirks::{Quirks, Revival};
use crate::{Device, Eal, Facts, HugePages, Port, ffi, interface, log, refusal};

/// An Ethernet header.
pub(crate) const ETHERNET: u32 = 14;
/// What the least common denominator has.
const DESCRIPTORS: u16 = 256;
/// The usual MTU, and the longest unless more is asked for or the kernel's interface has more.
const MTU: u32 = 1500;
/// The least room of an mbuf that drivers are written for.
const ROOM: u32 = 2048;
/// Long frames of an engine, unless another number is asked for, beside those that an idle device keeps: messages of two packets, as many
/// as it has descriptors for.
const LONG_FRAMES: u32 = 64;
/// No more unless asked for: what endpoints take by default.
const USUAL_LONG_FRAMES: u32 = 256;
/// 256 MiB.
pub(crate) const MAX_LONG_FRAMES: u32 = 4096;
/// Frames of an engine: fewer than these stand in each other's way, and more are 2 GiB.
pub(crate) const FRAMES: RangeInclusive<u32> = 64..=1_000_000;
/// Second pieces of frames that are on their way to the device, which has as many as descriptors, twice over while it is attached again.
const TAILS: u32 = 64;
/// Behind the headers, so that payloads lie aligned; as the network layer has it.
const ALIGNED: u32 = 64;
/// Longest frame that an mbuf's 16-bit lengths hold, with all that is in front of it.
pub(crate) const MAX_MTU: u32 = 16_000;

/// A host on a DPDK port: a [`Driver`](machnet_core::Driver).
pub type Dpdk = Net<Port>;

/// Settings of a [`Port`]; made by [`Port::builder`].
#[derive(Clone, Debug)]
pub struct PortBuilder {
    device: Device,
    eal: Option<Eal>,
    frames: u32,
    descriptors: u16,
    mtu: Option<u32>,
    /// The longest by default.
    usual: u32,
    checksums: bool,
    long_frames: Option<u32>,
    engines: usize,
    queues: Option<u16>,
}

impl PortBuilder {
    pub(crate) const fn new(device: Device) -> Self {
        Self {
            device,
            eal: None,
            frames: 4096,
            descriptors: DESCRIPTORS,
            mtu: None,
            usual: MTU,
            checksums: false,
            long_frames: None,
            engines: 1,
            queues: None,
        }
    }

    /// How DPDK is started, if it does not run in this process yet.
    #[must_use]
    pub fn eal(mut self, eal: Eal) -> Self {
        self.eal = Some(eal);
        self
    }

    /// How many engines the port is to serve, 1 to 64; default 1. Each has a queue pair, or several, and frames of its own. An endpoint
    /// on it must have as many (`EndpointBuilder::engines`).
    #[must_use]
    pub const fn engines(mut self, engines: usize) -> Self {
        self.engines = engines;
        self
    }

    pub(crate) const fn engines_wanted(&self) -> usize {
        self.engines
    }

    /// Number of queue pairs, at least one for each engine, which is the default. Both sides of memif, and of virtio-user and vhost, should
    /// have the same: what is sent from a queue comes to the peer's queue of the same number.
    #[must_use]
    pub const fn queues(mut self, queues: u16) -> Self {
        self.queues = Some(queues);
        self
    }

    /// Number of frames of each engine, for what is received, built and lent to the application together; what lies in the device's rings
    /// is not counted. 64 to 1 000 000, default 4096.
    #[must_use]
    pub const fn frames(mut self, frames: u32) -> Self {
        self.frames = frames;
        self
    }

    /// Descriptors of each ring, from 1; the device has the last word. Default 256.
    #[must_use]
    pub const fn descriptors(mut self, descriptors: u16) -> Self {
        self.descriptors = descriptors;
        self
    }

    /// The longest IP packet, bytes, up to 16 000. Default: the device's, but no more than 1 500.
    #[must_use]
    pub const fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// No longer ones than the kernel's interface takes, unless the MTU is chosen.
    pub(crate) const fn mtu_at_most(mut self, bytes: u32) -> Self {
        self.usual = bytes;
        self
    }

    /// Lets the device compute and verify UDP checksums, if it can. Default: software does, which is never wrong.
    #[must_use]
    pub const fn checksum_offload(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// Number of long frames of each engine, 64 KiB each, that applications may build messages of several packets in, if the device sends
    /// frames of two pieces: their memory is taken when the first one is wanted. 0 to 4096; 0: the device is not asked to send such. Default:
    /// half as many as transmit descriptors and 64, at most 256.
    #[must_use]
    pub const fn long_frames(mut self, frames: u32) -> Self {
        self.long_frames = Some(frames);
        self
    }

    /// Opens the port, with the host that `net` says on it.
    ///
    /// # Errors
    /// As [`PortBuilder::open`]; `InvalidInput` for addresses that cannot be.
    pub fn open_net(&self, net: &NetConfig) -> io::Result<Dpdk> {
        let address = net.addresses.first().map(|net| net.addr());
        Net::new(self.open_for(address)?, net).map_err(|error| bad(error.to_string()))
    }

    /// Opens the port: starts DPDK if need be, attaches the device, sets up its queues, starts it. Its link may come up
    /// later.
    ///
    /// # Errors
    /// `InvalidInput`: a setting outside its limits, or the device's; `NotFound`: no such device; `AddrInUse`: this or
    /// another process has it, or the kernel; `ConnectionRefused`: nobody serves its socket yet; `PermissionDenied`; `OutOfMemory`; as
    /// [`Eal::start`]; else what DPDK says.
    pub fn open(&self) -> io::Result<Port> {
        self.open_for(None)
    }

    /// Opens the port for the host that has `address`.
    fn open_for(&self, address: Option<IpAddr>) -> io::Result<Port> {
        self.check()?;
        self.start_eal()?;
        // DPDK's devices come and go one at a time.
        let control = control();
        let attached = attach(&self.device, address, self.queue_pairs())?;
        let (link, port) = self.set_up(&attached).map_err(|error| self.about(error))?;
        attached.keep();
        if let Err(error) = link.start() {
            let error = self.about(error);
            // Which the port's end takes.
            drop(control);
            return Err(error);
        }
        tracing::info!(port = %port.facts().name, facts = ?port.facts(), "opened");
        Ok(port)
    }

    fn check(&self) -> io::Result<()> {
        if !FRAMES.contains(&self.frames) {
            return Err(bad(format!("{} frames: there must be {} to {}", self.frames, FRAMES.start(), FRAMES.end())));
        }
        if let Some(frames) = self.long_frames
            && frames > MAX_LONG_FRAMES
        {
            return Err(bad(format!("{frames} long frames: there must be 0 to {MAX_LONG_FRAMES}")));
        }
        if !(1..=MAX_ENGINES).contains(&self.engines) {
            return Err(bad(format!("{} engines: there must be 1 to {MAX_ENGINES}", self.engines)));
        }
        let queues = self.queue_pairs();
        if usize::from(queues) < self.engines {
            return Err(bad(format!("queues={queues} for {} engines: each needs one, so at least {0}", self.engines)));
        }
        if self.descriptors == 0 {
            return Err(bad(format!("0 descriptors: a ring needs some, {DESCRIPTORS} for example")));
        }
        if self.mtu.is_some_and(|mtu| mtu > MAX_MTU) {
            return Err(bad(format!("an MTU of {}: it must be at most {MAX_MTU}", self.mtu.unwrap_or_default())));
        }
        Ok(())
    }

    /// So many are wanted.
    fn queue_pairs(&self) -> u16 {
        self.queues.unwrap_or(self.engines as u16)
    }

    fn start_eal(&self) -> io::Result<()> {
        let eal = match &self.eal {
            Some(eal) => eal.clone(),
            None if Eal::is_running() => return Ok(()),
            None => Eal::new().huge_pages(HugePages::Auto),
        };
        match &self.device {
            Device::Pci(address) => eal.allow(address).start(),
            Device::Mac(_) => eal.any_pci().start(),
            Device::Vdev { .. } => eal.start(),
        }
    }

    fn set_up(&self, attached: &Attached) -> io::Result<(Arc<Link>, Port)> {
        let id = attached.id();
        let raw = ffi::facts(id)?;
        let mut facts = Facts::new(&raw);
        if facts.max_queues == 0 {
            return Err(io::Error::new(ErrorKind::Unsupported, "it has no queue pair".to_owned()));
        }
        let count = self.queue_pairs();
        if count > facts.max_queues {
            let (most, engines) = (facts.max_queues, self.engines);
            return Err(bad(format!(
                "{count} queue pairs, for engines={engines}: it has {most}, so ask for no more engines, and queues, than that"
            )));
        }
        let quirks = match &self.device {
            Device::Vdev { name, .. } => Quirks::of(name),
            _ => Quirks::of(&facts.driver),
        };
        let arguments = attached.arguments();
        let interface = quirks.interface(arguments).map(str::to_owned);
        facts.mtu = self.choose_mtu(&facts, raw.max_frame, quirks.longest_frame(arguments), interface.as_deref())?;
        let wanted = |capabilities: u64, one: u64| if self.checksums { capabilities & one } else { 0 };
        let descriptors = ffi::adjust_descriptors(id, self.descriptors)?;
        let usual = (u32::from(descriptors.1) / 2 + LONG_FRAMES).min(USUAL_LONG_FRAMES);
        let long_frames = if facts.gathers { self.long_frames.unwrap_or(usual) } else { 0 };
        let spreads = count > 1 && !quirks.pairs;
        let queues = Queues {
            rx_offloads: wanted(raw.rx_offloads, dpdk_sys::DPDK_RX_UDP_CKSUM | dpdk_sys::DPDK_RX_IPV4_CKSUM),
            tx_offloads: wanted(raw.tx_offloads, dpdk_sys::DPDK_TX_UDP_CKSUM | dpdk_sys::DPDK_TX_IPV4_CKSUM)
                | if long_frames > 0 { dpdk_sys::DPDK_TX_MULTI_SEGS } else { 0 },
            spread_by: if spreads { raw.rss_fields & dpdk_sys::DPDK_RSS_UDP } else { 0 },
            // 0 is the driver's default.
            mtu: if quirks.takes_mtu { facts.mtu as u16 } else { 0 },
            link_interrupts: quirks.hears_of_link && facts.link_events,
            descriptors,
        };
        (facts.queues, facts.rx_descriptors, facts.tx_descriptors) =
            (count, queues.descriptors.0, queues.descriptors.1);
        let mut parts = self.divide(count, &facts, raw.min_rx_buffer, &quirks)?;
        if long_frames > 0 {
            for (_, pool) in &mut parts {
                // Of which some may be lost with a device that is attached again.
                let tails = 2 * u32::from(facts.tx_descriptors) + TAILS;
                pool.set_gather(&pool_name(), tails, long_frames, facts.node.map_or(-1, |node| node as i32))?;
            }
        }
        let ring = |queue: usize| {
            let pool = &parts[queue % self.engines].1;
            Some((pool.mempool(), pool.lease()?))
        };
        let rings = Rings((0..count.into()).filter_map(ring).collect());
        // SAFETY: a pool is freed after its port is gone.
        unsafe { queues.set_up(id, &rings) }?;
        let revival = match quirks.revival(arguments) {
            Revival::Attach => Comeback::Attach(attached.again(facts.mac, queues)),
            Revival::Start => Comeback::Start,
            Revival::Alone => Comeback::Alone,
        };
        let gated = if self.engines > 1 || quirks.frees_by_interrupts { self.engines } else { 0 };
        let gates = (0..gated).map(|_| Gate::new(quirks.frees_by_interrupts)).collect();
        let device = (id, facts.name.clone());
        let link = Arc::new(Link::new(device, revival, interface, gates, quirks.frees_by_interrupts, rings));
        let mut capabilities = FrameCapabilities::minimal(facts.mac, facts.mtu);
        capabilities.headroom = HEADROOM;
        capabilities.descriptors = facts.rx_descriptors.min(facts.tx_descriptors);
        capabilities.tx_checksum = self.checksums && facts.tx_checksum;
        capabilities.rx_checksum = self.checksums && facts.rx_checksum;
        capabilities.spreads = spreads;
        capabilities.long_frames = long_frames;
        let mut ports = parts.drain(..).enumerate().map(|(engine, (queues, pool))| {
            // Of several engines each has frames of its own.
            capabilities.frames = pool.budget();
            Port::new(Arc::clone(&link), engine, queues, pool, capabilities, facts.clone())
        });
        let first = ports.next().ok_or_else(|| bad("no engine".to_owned()))?;
        let port = first.first_of(ports);
        Ok((link, port))
    }

    /// The queues of each engine, and its frames.
    fn divide(
        &self,
        count: u16,
        facts: &Facts,
        min_rx_buffer: u32,
        quirks: &Quirks,
    ) -> io::Result<Vec<(Box<[u16]>, Pool)>> {
        let room = (facts.mtu + ETHERNET + ALIGNED).max(ROOM).max(min_rx_buffer).next_multiple_of(ALIGNED);
        let ring = (u32::from(facts.rx_descriptors) + u32::from(facts.tx_descriptors)).max(quirks.ring_frames);
        let node = facts.node.map_or(-1, |node| node as i32);
        let part = |engine: usize| {
            let queues: Box<[u16]> = (engine as u16..count).step_by(self.engines).collect();
            let pool = Pool::new(&pool_name(), self.frames, ring * queues.len() as u32, room as u16, node)?;
            Ok((queues, pool))
        };
        (0..self.engines).map(part).collect()
    }

    /// The MTU: what is wished for, or the device's but no more than usual.
    fn choose_mtu(
        &self,
        facts: &Facts,
        longest_frame: u32,
        buffer: Option<u32>,
        interface: Option<&str>,
    ) -> io::Result<u32> {
        // Which refuses what is longer, one frame after the other, when it is sent.
        let by_kernel = interface.and_then(|name| Some((name, interface::mtu(name)?)));
        let by_buffer = buffer.map_or(u32::MAX, |bytes| bytes.saturating_sub(ETHERNET));
        // Who has buffers does not know how long they are.
        let known = buffer.is_none() && longest_frame > ETHERNET;
        let by_frame = if known { longest_frame - ETHERNET } else { u32::MAX };
        let by_device = if facts.max_mtu == 0 { u32::MAX } else { facts.max_mtu.into() };
        let most = by_device.min(by_buffer).min(by_frame).min(MAX_MTU);
        let usual = if facts.mtu == 0 { self.usual } else { facts.mtu.min(self.usual) };
        if let Some((name, at_most)) = by_kernel
            && self.mtu.is_some_and(|mtu| mtu > at_most && mtu <= most)
        {
            return Err(bad(format!(
                "an MTU of {mtu}: the interface {name} takes at most {at_most}: ip link set dev {name} mtu {mtu}",
                mtu = self.mtu.unwrap_or_default()
            )));
        }
        let usual = by_kernel.map_or(usual, |(_, at_most)| usual.min(at_most));
        match self.mtu {
            None => Ok(usual.min(most)),
            Some(mtu) if mtu <= most => Ok(mtu),
            Some(mtu) => Err(bad(format!("an MTU of {mtu}: the port takes at most {most}"))),
        }
    }

    /// Says which port an error is about, and what DPDK said.
    fn about(&self, error: io::Error) -> io::Error {
        let (kind, text) = match refusal::reason(&error, &log::said()) {
            Some((kind, mend)) => (kind, format!("{mend} ({error})")),
            None => (error.kind(), error.to_string()),
        };
        io::Error::new(kind, format!("{}: {text}{}", self.device, what_was_said()))
    }
}

/// Held while a device is attached, set up or removed.
pub(crate) fn control() -> MutexGuard<'static, ()> {
    static CONTROL: Mutex<()> = Mutex::new(());
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bad(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, text)
}

/// Pools of one process have different names.
fn pool_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("machnet-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
