//! What a host of the fabric has: an address, ports, NICs, and the datagrams in their rings.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use machnet_core::Unreachable;

use crate::ethernet;
use crate::fabric::HostId;
use crate::{NicConfig, SimRng};

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
    /// The UDP payload; with `frame_to`, the Ethernet frame that it is in.
    pub(crate) bytes: Vec<u8>,
    /// Where in `bytes` the UDP payload is; everywhere, if it is a frame that carries something else.
    pub(crate) udp: Range<usize>,
    /// The NIC that the frame is for, if it is one.
    pub(crate) frame_to: Option<[u8; 6]>,
    /// The checksum is wrong.
    pub(crate) damaged: bool,
}

impl Datagram {
    /// One that is no frame.
    pub(crate) const fn new(from: SocketAddr, to: SocketAddr, payload: Vec<u8>) -> Self {
        let udp = 0..payload.len();
        Self { from, to, bytes: payload, udp, frame_to: None, damaged: false }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[self.udp.clone()]
    }

    /// True if it is a frame that carries no UDP: ARP and the like.
    pub(crate) fn is_control(&self) -> bool {
        self.frame_to.is_some() && self.udp.len() == self.bytes.len()
    }

    /// Makes a frame of it, for the NIC of its destination.
    pub(crate) fn wrap(&mut self) {
        let payload = std::mem::take(&mut self.bytes);
        self.bytes = ethernet::frame(self.from, self.to, &payload);
        self.udp = self.bytes.len() - payload.len()..self.bytes.len();
        self.frame_to = Some(ethernet::mac(self.to.ip()));
        if self.damaged && !payload.is_empty() {
            let last = self.bytes.len() - 1;
            self.bytes[last] ^= 1;
        }
    }

    /// Another payload, with headers that are right for it.
    pub(crate) fn set_payload(&mut self, payload: Vec<u8>) {
        self.bytes = payload;
        self.udp = 0..self.bytes.len();
        if self.frame_to.is_some() {
            self.wrap();
        }
    }

    /// Flips a bit that a checksum covers: of the IPv4 header, of the UDP header, or of the payload.
    pub(crate) fn flip(&mut self, rng: &mut SimRng) {
        // IPv6 has no checksum of its own, and UDP's does not cover all of its header.
        let start = if self.from.is_ipv4() { 14 } else { self.udp.start - 8 };
        let bit = rng.below((self.udp.end - start) as u64 * 8) as usize;
        self.bytes[start + bit / 8] ^= 1 << (bit % 8);
    }
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
    /// Its link is down.
    pub(crate) is_down: bool,
    /// In the fabric's list of NICs to which something came.
    pub(crate) is_touched: bool,
    /// The fabric's number of the NIC that it is a queue of, if that has several.
    pub(crate) queue_of: Option<usize>,
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
            is_down: false,
            is_touched: false,
            queue_of: None,
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
