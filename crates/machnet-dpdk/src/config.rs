//! How a port is set up, and what is wrong with a setting that cannot work.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use machnet_core::net::{Net, NetConfig};

use crate::attach::{Attached, Comeback, Queues, attach, what_was_said};
use crate::gate::Gate;
use crate::pool::{HEADROOM, Pool};
use crate::quirks::{Quirks, Revival};
use crate::{Device, Eal, Facts, HugePages, Port, ffi, log};

/// An Ethernet header.
pub(crate) const ETHERNET: u32 = 14;
/// What the least common denominator has.
const DESCRIPTORS: u16 = 256;
/// The usual MTU, and the longest unless more is asked for or the kernel's interface has more.
const MTU: u32 = 1500;
/// The least room of an mbuf that drivers are written for.
const ROOM: u32 = 2048;
/// Behind the headers, so that payloads lie aligned; as the network layer has it.
const ALIGNED: u32 = 64;
/// Longest frame that an mbuf's 16-bit lengths hold, with all that is in front of it.
const MAX_MTU: u32 = 16_000;

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
}

impl PortBuilder {
    pub(crate) const fn new(device: Device) -> Self {
        Self { device, eal: None, frames: 4096, descriptors: DESCRIPTORS, mtu: None, usual: MTU, checksums: false }
    }

    /// How DPDK is started, if it does not run in this process yet.
    #[must_use]
    pub fn eal(mut self, eal: Eal) -> Self {
        self.eal = Some(eal);
        self
    }

    /// Number of frames, for what is received, built and lent to the application together; what lies in the device's rings
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
    /// another process has it; `OutOfMemory`; as [`Eal::start`]; else what DPDK says.
    pub fn open(&self) -> io::Result<Port> {
        self.open_for(None)
    }

    /// Opens the port for the host that has `address`.
    fn open_for(&self, address: Option<IpAddr>) -> io::Result<Port> {
        self.check()?;
        self.start_eal()?;
        // DPDK's devices come and go one at a time.
        let control = control();
        let attached = attach(&self.device, address)?;
        let mut port = self.set_up(&attached).map_err(|error| self.about(error))?;
        attached.keep();
        if let Err(error) = port.start() {
            let error = self.about(error);
            // Which the port's end takes.
            drop(control);
            return Err(error);
        }
        tracing::info!(port = %port.facts().name, facts = ?port.facts(), "opened");
        Ok(port)
    }

    fn check(&self) -> io::Result<()> {
        if !(64..=1_000_000).contains(&self.frames) {
            return Err(bad(format!("{} frames: there must be 64 to 1000000", self.frames)));
        }
        if self.descriptors == 0 {
            return Err(bad(format!("0 descriptors: a ring needs some, {DESCRIPTORS} for example")));
        }
        if self.mtu.is_some_and(|mtu| mtu > MAX_MTU) {
            return Err(bad(format!("an MTU of {}: it must be at most {MAX_MTU}", self.mtu.unwrap_or_default())));
        }
        Ok(())
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

    fn set_up(&self, attached: &Attached) -> io::Result<Port> {
        let id = attached.id();
        let raw = ffi::facts(id)?;
        let mut facts = Facts::new(&raw);
        if facts.max_queues == 0 {
            return Err(io::Error::new(ErrorKind::Unsupported, "it has no queue pair".to_owned()));
        }
        let quirks = match &self.device {
            Device::Vdev { name, .. } => Quirks::of(name),
            _ => Quirks::of(&facts.driver),
        };
        let arguments = attached.arguments();
        facts.mtu = self.choose_mtu(&facts, raw.max_frame, quirks.longest_frame(arguments))?;
        let wanted = |capabilities: u64, one: u64| if self.checksums { capabilities & one } else { 0 };
        let queues = Queues {
            rx_offloads: wanted(raw.rx_offloads, dpdk_sys::DPDK_RX_UDP_CKSUM | dpdk_sys::DPDK_RX_IPV4_CKSUM),
            tx_offloads: wanted(raw.tx_offloads, dpdk_sys::DPDK_TX_UDP_CKSUM | dpdk_sys::DPDK_TX_IPV4_CKSUM),
            // 0 is the driver's default.
            mtu: if quirks.takes_mtu { facts.mtu as u16 } else { 0 },
            link_interrupts: quirks.hears_of_link && facts.link_events,
            descriptors: ffi::adjust_descriptors(id, self.descriptors)?,
        };
        (facts.rx_descriptors, facts.tx_descriptors) = queues.descriptors;
        let room = (facts.mtu + ETHERNET + ALIGNED).max(ROOM).max(raw.min_rx_buffer).next_multiple_of(ALIGNED);
        let rings = (u32::from(facts.rx_descriptors) + u32::from(facts.tx_descriptors)).max(quirks.ring_frames);
        let node = facts.node.map_or(-1, |node| node as i32);
        let pool = Pool::new(&pool_name(), self.frames, rings, room as u16, node)?;
        // SAFETY: a pool is freed after its port is gone.
        unsafe { queues.set_up(id, pool.mempool()) }?;
        let revival = match quirks.revival(arguments) {
            Revival::Attach => Comeback::Attach(attached.again(facts.mac, queues)),
            Revival::Start => Comeback::Start,
            Revival::Alone => Comeback::Alone,
        };
        let interface = quirks.interface(arguments).map(str::to_owned);
        let gate = quirks.frees_by_interrupts.then(Gate::new);
        Ok(Port::new(id, facts, pool, HEADROOM, self.checksums, revival, gate, interface))
    }

    /// The MTU: what is wished for, or the device's but no more than usual.
    fn choose_mtu(&self, facts: &Facts, longest_frame: u32, buffer: Option<u32>) -> io::Result<u32> {
        let by_buffer = buffer.map_or(u32::MAX, |bytes| bytes.saturating_sub(ETHERNET));
        // Who has buffers does not know how long they are.
        let known = buffer.is_none() && longest_frame > ETHERNET;
        let by_frame = if known { longest_frame - ETHERNET } else { u32::MAX };
        let by_device = if facts.max_mtu == 0 { u32::MAX } else { facts.max_mtu.into() };
        let most = by_device.min(by_buffer).min(by_frame).min(MAX_MTU);
        let usual = if facts.mtu == 0 { self.usual } else { facts.mtu.min(self.usual) };
        match self.mtu {
            None => Ok(usual.min(most)),
            Some(mtu) if mtu <= most => Ok(mtu),
            Some(mtu) => Err(bad(format!("an MTU of {mtu}: the port takes at most {most}"))),
        }
    }

    /// Says which port an error is about, and what DPDK said.
    fn about(&self, error: io::Error) -> io::Error {
        if log::mentions("Failed to connect socket") {
            let text =
                format!("{}: nobody serves its socket yet: start the server first{}", self.device, what_was_said());
            return io::Error::new(ErrorKind::ConnectionRefused, text);
        }
        io::Error::new(error.kind(), format!("{}: {error}{}", self.device, what_was_said()))
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
