//! What a host of the fabric has: an address, ports, NICs, and the datagrams in their rings.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use machnet_core::Unreachable;

use crate::NicConfig;
use crate::fabric::HostId;

/// The first port that `open(0)` tries, as IANA has it.
const FIRST_FREE: u16 = 49_152;

/// ICMP messages that wait for a driver; more are dropped, as a kernel's error queue does.
const MAX_UNREACHABLE: usize = 64;

/// What a NIC counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NicStats {
    /// Datagrams handed to the NIC.
    pub sent: u64,
    /// Bytes of them, UDP payloads.
    pub sent_bytes: u64,
    /// Datagrams put into the receive ring.
    pub received: u64,
    /// Datagrams sent that were longer than the NIC's MTU.
    pub oversized: u64,
    /// Datagrams sent to where no route leads.
    pub no_route: u64,
    /// Datagrams dropped by the checksum.
    pub checksum: u64,
    /// Datagrams dropped since the receive ring was full.
    pub ring_full: u64,
    /// Datagrams dropped, or attempts to receive one that failed, for want of a frame.
    pub no_frames: u64,
    /// Datagrams received that were longer than a frame.
    pub long: u64,
    /// ICMP "port unreachable" received.
    pub unreachable: u64,
}

impl NicStats {
    /// Adds what another NIC counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.received += other.received;
        self.oversized += other.oversized;
        self.no_route += other.no_route;
        self.checksum += other.checksum;
        self.ring_full += other.ring_full;
        self.no_frames += other.no_frames;
        self.long += other.long;
        self.unreachable += other.unreachable;
    }
}

/// A datagram on its way.
#[derive(Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
    /// The checksum is wrong.
    pub(crate) damaged: bool,
}

/// A NIC as the fabric sees it.
pub(crate) struct Nic {
    pub(crate) host: HostId,
    pub(crate) descriptors: usize,
    pub(crate) max_payload: u32,
    pub(crate) tx_delay: Duration,
    pub(crate) ring: VecDeque<Datagram>,
    pub(crate) unreachable: VecDeque<Unreachable>,
    pub(crate) stats: NicStats,
    /// In the fabric's list of NICs to which something came.
    pub(crate) is_touched: bool,
}

impl Nic {
    pub(crate) fn new(host: HostId, config: &NicConfig) -> Self {
        Self {
            host,
            descriptors: config.rx_descriptors as usize,
            max_payload: config.max_payload,
            tx_delay: config.tx_delay,
            ring: VecDeque::new(),
            unreachable: VecDeque::new(),
            stats: NicStats::default(),
            is_touched: false,
        }
    }

    pub(crate) fn notify(&mut self, unreachable: Unreachable) {
        self.stats.unreachable += 1;
        if self.unreachable.len() < MAX_UNREACHABLE {
            self.unreachable.push_back(unreachable);
        }
    }
}

/// A host.
pub(crate) struct Host {
    pub(crate) address: IpAddr,
    ports: BTreeMap<u16, Port>,
    next_free: u16,
    pub(crate) answers_unreachable: bool,
}

struct Port {
    nic: usize,
    opens: u32,
}

impl Host {
    pub(crate) const fn new(address: IpAddr) -> Self {
        Self { address, ports: BTreeMap::new(), next_free: FIRST_FREE, answers_unreachable: false }
    }

    /// Opens `port` (0: a free one) for `nic`, once more if it is open already.
    pub(crate) fn open(&mut self, nic: usize, port: u16) -> io::Result<SocketAddr> {
        let port = if port == 0 { self.free_port()? } else { port };
        let entry = self.ports.entry(port).or_insert(Port { nic, opens: 0 });
        if entry.nic != nic {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("port {port} is another NIC's")));
        }
        entry.opens += 1;
        Ok(SocketAddr::new(self.address, port))
    }

    pub(crate) fn close(&mut self, nic: usize, port: u16) {
        if let Some(entry) = self.ports.get_mut(&port).filter(|entry| entry.nic == nic) {
            entry.opens -= 1;
            if entry.opens == 0 {
                self.ports.remove(&port);
            }
        }
    }

    /// Closes every port of `nic`.
    pub(crate) fn close_all(&mut self, nic: usize) {
        self.ports.retain(|_, port| port.nic != nic);
    }

    /// The NIC that has `port` open.
    pub(crate) fn nic_of(&self, port: u16) -> Option<usize> {
        self.ports.get(&port).map(|port| port.nic)
    }

    fn free_port(&mut self) -> io::Result<u16> {
        for _ in FIRST_FREE..=u16::MAX {
            let port = self.next_free;
            self.next_free = port.checked_add(1).unwrap_or(FIRST_FREE);
            if !self.ports.contains_key(&port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port"))
    }
}
