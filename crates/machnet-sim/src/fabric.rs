//! The fabric: hosts with NICs, joined by routes of links, in virtual time.
//!
//! A datagram goes from a NIC through the links of the route between the two hosts, hop by hop, into the receive ring
//! of the NIC that has its port open. Who may share what is up to the routes: a link in the routes of many senders is
//! a bottleneck, a link of its own per pair a cable.
//!
//! Time moves only in [`Fabric::advance`]; everything until then happened in order of time, and of creation where the
//! times are equal. The fabric is shared by the drivers on it, hence the lock; in a simulation nobody ever waits for
//! it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machnet_core::{Instant, Unreachable};

use crate::link::{Filter, LinkState};
use crate::trace::Trace;
use crate::{Corruption, Event, EventKind, Link, LinkStats, NicConfig, Sighting, SimDriver, SimRng, Verdict};

/// A host of a fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(usize);

/// A link of a fabric: one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(usize);

/// What a NIC counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NicStats {
    /// Datagrams handed to the NIC.
    pub sent: u64,
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

/// A simulated network. Clones are the same fabric.
#[derive(Clone)]
pub struct Fabric(Arc<Mutex<Inner>>);

impl Fabric {
    /// An empty fabric at time zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            seed,
            now: Instant::ZERO,
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            links: Vec::new(),
            routes: BTreeMap::new(),
            nics: Vec::new(),
            events: BinaryHeap::new(),
            next_event: 0,
            trace: Trace::new(),
        })))
    }

    /// A host with one address.
    ///
    /// # Panics
    /// If another host has the address.
    #[must_use]
    pub fn host(&self, address: IpAddr) -> HostId {
        let mut inner = self.lock();
        let id = inner.hosts.len();
        assert!(inner.by_address.insert(address, id).is_none(), "two hosts at {address}");
        inner.hosts.push(Host { address, ports: BTreeMap::new(), next_free: FIRST_FREE, answers_unreachable: false });
        HostId(id)
    }

    /// Whether the host answers datagrams to a port nobody has open with an ICMP "port unreachable". Off at first.
    pub fn answer_unreachable(&self, host: HostId, on: bool) {
        self.lock().hosts[host.0].answers_unreachable = on;
    }

    /// A NIC at `host`; several share its address, each with ports of its own.
    ///
    /// # Errors
    /// As [`machnet_core::Driver::open`], for the home port; `InvalidInput` for a configuration that cannot work.
    pub fn nic(&self, host: HostId, config: NicConfig) -> io::Result<SimDriver> {
        SimDriver::new(self.clone(), host, config)
    }

    /// A link, in nobody's route yet.
    #[must_use]
    pub fn link(&self, config: Link) -> LinkId {
        let mut inner = self.lock();
        let id = inner.links.len();
        let rng = SimRng::new(inner.seed, id as u64);
        inner.links.push(LinkState::new(config, rng));
        LinkId(id)
    }

    /// Datagrams from `from` to `to` go through `links`, in this order.
    pub fn route(&self, from: HostId, to: HostId, links: &[LinkId]) {
        self.lock().routes.insert((from, to), links.into());
    }

    /// Joins two hosts by a link of their own in each direction.
    pub fn join(&self, a: HostId, b: HostId, there: Link, back: Link) -> (LinkId, LinkId) {
        let (there, back) = (self.link(there), self.link(back));
        self.route(a, b, &[there]);
        self.route(b, a, &[back]);
        (there, back)
    }

    /// Changes a link from now on.
    pub fn reconfigure(&self, link: LinkId, change: impl FnOnce(&mut Link)) {
        change(&mut self.lock().links[link.0].config);
    }

    /// Sets the filter that every datagram on `link` passes first; it replaces the one before.
    pub fn filter(&self, link: LinkId, filter: impl FnMut(&Sighting<'_>) -> Verdict + Send + 'static) {
        let filter: Filter = Box::new(filter);
        self.lock().links[link.0].filter = Some(filter);
    }

    /// Puts a datagram on the route between the hosts of `from` and `to`, whoever really sent it.
    ///
    /// # Panics
    /// If no host has the address of `from`.
    pub fn inject(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut inner = self.lock();
        let host = *inner.by_address.get(&from.ip()).expect("the source's host exists");
        let now = inner.now;
        inner.depart(HostId(host), now, Datagram { from, to, payload: payload.to_vec(), damaged: false });
    }

    /// Puts a datagram on the route from `host` to the host of `to`, whatever source it names: a forged one.
    pub fn forge(&self, host: HostId, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut inner = self.lock();
        let now = inner.now;
        inner.depart(host, now, Datagram { from, to, payload: payload.to_vec(), damaged: false });
    }

    /// The fabric's time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.lock().now
    }

    /// When the next thing happens.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        self.lock().events.peek().map(|Reverse(scheduled)| scheduled.at)
    }

    /// Lets everything happen that happens until `now`.
    ///
    /// # Panics
    /// If time would go back.
    pub fn advance(&self, now: Instant) {
        let mut inner = self.lock();
        assert!(now >= inner.now, "time goes back from {:?} to {now:?}", inner.now);
        while inner.events.peek().is_some_and(|Reverse(scheduled)| scheduled.at <= now) {
            let Some(Reverse(scheduled)) = inner.events.pop() else { break };
            inner.now = scheduled.at;
            inner.happen(scheduled.what);
        }
        inner.now = now;
    }

    /// What a link counted.
    #[must_use]
    pub fn link_stats(&self, link: LinkId) -> LinkStats {
        self.lock().links[link.0].stats
    }

    /// Hash over every event so far: time, kind, addresses and payload.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace.hash()
    }

    /// How many events there were.
    #[must_use]
    pub fn trace_len(&self) -> u64 {
        self.lock().trace.count()
    }

    /// Keeps the newest `events` events for [`Fabric::trace`].
    pub fn keep_trace(&self, events: usize) {
        self.lock().trace.keep(events);
    }

    /// The events kept, oldest first.
    #[must_use]
    pub fn trace(&self) -> Vec<Event> {
        self.lock().trace.events()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked while it held the lock is over anyhow; the drivers' drops must not panic again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        f.debug_struct("Fabric")
            .field("now", &inner.now)
            .field("hosts", &inner.hosts.len())
            .field("links", &inner.links.len())
            .field("pending", &inner.events.len())
            .finish_non_exhaustive()
    }
}

/// The first port that `open(0)` tries, as IANA has it.
const FIRST_FREE: u16 = 49_152;

/// ICMP messages that wait for a driver; more are dropped, as a kernel's error queue does.
const MAX_UNREACHABLE: usize = 64;

struct Host {
    address: IpAddr,
    ports: BTreeMap<u16, Port>,
    next_free: u16,
    answers_unreachable: bool,
}

struct Port {
    nic: usize,
    opens: u32,
}

/// A datagram on its way.
#[derive(Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
    /// The checksum is wrong.
    damaged: bool,
}

/// A NIC as the fabric sees it.
pub(crate) struct Nic {
    host: HostId,
    descriptors: usize,
    max_payload: u32,
    tx_delay: Duration,
    pub(crate) ring: VecDeque<Datagram>,
    pub(crate) unreachable: VecDeque<Unreachable>,
    pub(crate) stats: NicStats,
}

enum Happening {
    /// A datagram comes to hop `hop` of `route`.
    Hop { route: Arc<[LinkId]>, hop: usize, datagram: Datagram },
    /// A datagram leaves a NIC.
    Depart { host: HostId, datagram: Datagram },
    /// An ICMP message comes to the host of `to`, about a datagram that `to` sent.
    Icmp { to: SocketAddr, unreachable: Unreachable },
}

struct Scheduled {
    at: Instant,
    order: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(crate) struct Inner {
    seed: u64,
    pub(crate) now: Instant,
    hosts: Vec<Host>,
    by_address: BTreeMap<IpAddr, usize>,
    links: Vec<LinkState>,
    routes: BTreeMap<(HostId, HostId), Arc<[LinkId]>>,
    nics: Vec<Nic>,
    events: BinaryHeap<Reverse<Scheduled>>,
    next_event: u64,
    trace: Trace,
}

impl Inner {
    pub(crate) fn attach(&mut self, host: HostId, config: &NicConfig) -> usize {
        self.nics.push(Nic {
            host,
            descriptors: config.rx_descriptors as usize,
            max_payload: config.max_payload,
            tx_delay: config.tx_delay,
            ring: VecDeque::new(),
            unreachable: VecDeque::new(),
            stats: NicStats::default(),
        });
        self.nics.len() - 1
    }

    pub(crate) fn nic(&self, nic: usize) -> &Nic {
        &self.nics[nic]
    }

    pub(crate) fn nic_mut(&mut self, nic: usize) -> &mut Nic {
        &mut self.nics[nic]
    }

    pub(crate) fn address_of(&self, nic: usize) -> IpAddr {
        self.hosts[self.nics[nic].host.0].address
    }

    pub(crate) fn open(&mut self, nic: usize, port: u16) -> io::Result<SocketAddr> {
        let host = &mut self.hosts[self.nics[nic].host.0];
        let port = if port == 0 { host.free_port()? } else { port };
        let entry = host.ports.entry(port).or_insert(Port { nic, opens: 0 });
        if entry.nic != nic {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("port {port} is another NIC's")));
        }
        entry.opens += 1;
        Ok(SocketAddr::new(host.address, port))
    }

    pub(crate) fn close(&mut self, nic: usize, port: u16) {
        let host = &mut self.hosts[self.nics[nic].host.0];
        if let Some(entry) = host.ports.get_mut(&port).filter(|entry| entry.nic == nic) {
            entry.opens -= 1;
            if entry.opens == 0 {
                host.ports.remove(&port);
            }
        }
    }

    pub(crate) fn has_open(&self, nic: usize, port: u16) -> bool {
        self.hosts[self.nics[nic].host.0].ports.get(&port).is_some_and(|entry| entry.nic == nic)
    }

    /// The NIC is gone.
    pub(crate) fn detach(&mut self, nic: usize) {
        self.hosts[self.nics[nic].host.0].ports.retain(|_, port| port.nic != nic);
        self.nics[nic].ring.clear();
        self.nics[nic].unreachable.clear();
    }

    /// The NIC sends: the datagram leaves after the NIC's delay.
    pub(crate) fn transmit(&mut self, nic: usize, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let now = self.now;
        let sender = &mut self.nics[nic];
        sender.stats.sent += 1;
        self.trace.push(now, EventKind::Sent, from, to, payload);
        if payload.len() > sender.max_payload as usize {
            sender.stats.oversized += 1;
            self.trace.push(now, EventKind::Oversized, from, to, payload);
            return;
        }
        let (host, at) = (sender.host, now + sender.tx_delay);
        let known = self.by_address.get(&to.ip()).is_some_and(|&to| self.routes.contains_key(&(host, HostId(to))));
        if !known {
            sender.stats.no_route += 1;
        }
        let datagram = Datagram { from, to, payload: payload.to_vec(), damaged: false };
        self.schedule(at, Happening::Depart { host, datagram });
    }

    fn schedule(&mut self, at: Instant, what: Happening) {
        let order = self.next_event;
        self.next_event += 1;
        self.events.push(Reverse(Scheduled { at, order, what }));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Depart { host, datagram } => self.depart(host, self.now, datagram),
            Happening::Hop { route, hop, datagram } if hop < route.len() => self.hop(route, hop, datagram),
            Happening::Hop { datagram, .. } => self.arrive(datagram),
            Happening::Icmp { to, unreachable } => self.arrive_unreachable(to, unreachable),
        }
    }

    fn depart(&mut self, host: HostId, at: Instant, datagram: Datagram) {
        let to = self.by_address.get(&datagram.to.ip()).copied();
        match to.and_then(|to| self.routes.get(&(host, HostId(to)))) {
            Some(route) => {
                let route = Arc::clone(route);
                self.schedule(at, Happening::Hop { route, hop: 0, datagram });
            }
            None => self.note(EventKind::NoRoute, &datagram),
        }
    }

    fn note(&mut self, kind: EventKind, datagram: &Datagram) {
        self.trace.push(self.now, kind, datagram.from, datagram.to, &datagram.payload);
    }

    /// A datagram meets a link: the order of the fates below is the order in which real ones strike.
    fn hop(&mut self, route: Arc<[LinkId]>, hop: usize, mut datagram: Datagram) {
        let now = self.now;
        let link = &mut self.links[route[hop].0];
        let index = link.stats.offered;
        link.stats.offered += 1;
        link.stats.bytes += datagram.payload.len() as u64;
        let mut late = Duration::ZERO;
        if let Some(filter) = &mut link.filter {
            let Datagram { from, to, ref payload, .. } = datagram;
            match filter(&Sighting { at: now, index, from, to, payload }) {
                Verdict::Pass => {}
                Verdict::Delay(by) => late = by,
                Verdict::Drop => {
                    link.stats.filtered += 1;
                    return self.note(EventKind::Filtered, &datagram);
                }
            }
        }
        if datagram.payload.len() > link.config.max_payload as usize {
            link.stats.oversized += 1;
            return self.note(EventKind::Oversized, &datagram);
        }
        let Some(sent) = link.enqueue(now, datagram.payload.len()) else {
            link.stats.queue_full += 1;
            return self.note(EventKind::QueueFull, &datagram);
        };
        let config = link.config.clone();
        if link.rng.chance(config.loss) {
            link.stats.lost += 1;
            return self.note(EventKind::Lost, &datagram);
        }
        if link.rng.chance(config.corrupt) {
            link.stats.corrupted += 1;
            match config.corruption {
                Corruption::Noticed => datagram.damaged = true,
                Corruption::Unnoticed => link.damage(&mut datagram.payload),
            }
            self.note(EventKind::Corrupted, &datagram);
        }
        let arrival = sent + config.delay + late;
        if self.links[route[hop].0].rng.chance(config.duplicate) {
            self.links[route[hop].0].stats.duplicated += 1;
            self.note(EventKind::Duplicated, &datagram);
            self.deliver(&route, hop, &config, arrival, datagram.clone());
        }
        self.deliver(&route, hop, &config, arrival, datagram);
    }

    fn deliver(&mut self, route: &Arc<[LinkId]>, hop: usize, config: &Link, mut at: Instant, datagram: Datagram) {
        let link = &mut self.links[route[hop].0];
        link.stats.delivered += 1;
        if link.rng.chance(config.reorder) {
            link.stats.reordered += 1;
            at += link.rng.duration(config.reorder_by);
            self.note(EventKind::Reordered, &datagram);
        }
        self.schedule(at, Happening::Hop { route: Arc::clone(route), hop: hop + 1, datagram });
    }

    fn arrive(&mut self, datagram: Datagram) {
        let Some(&host) = self.by_address.get(&datagram.to.ip()) else { return };
        let Some(nic) = self.hosts[host].ports.get(&datagram.to.port()).map(|port| port.nic) else {
            self.note(EventKind::ClosedPort, &datagram);
            if self.hosts[host].answers_unreachable && !datagram.damaged {
                self.answer_closed(HostId(host), &datagram);
            }
            return;
        };
        let receiver = &mut self.nics[nic];
        if datagram.damaged {
            receiver.stats.checksum += 1;
            return self.note(EventKind::Checksum, &datagram);
        }
        if receiver.ring.len() >= receiver.descriptors {
            receiver.stats.ring_full += 1;
            return self.note(EventKind::RingFull, &datagram);
        }
        receiver.stats.received += 1;
        self.note(EventKind::Arrived, &datagram);
        self.nics[nic].ring.push_back(datagram);
    }

    /// The ICMP message takes the links' delays, but meets none of their misfortunes other than certain loss.
    fn answer_closed(&mut self, host: HostId, datagram: &Datagram) {
        let Some(&origin) = self.by_address.get(&datagram.from.ip()) else { return };
        let Some(route) = self.routes.get(&(host, HostId(origin))) else { return };
        let links = route.iter().map(|link| &self.links[link.0].config);
        let mut at = self.now;
        for link in links {
            if link.loss >= 1.0 {
                return;
            }
            at += link.delay;
        }
        let mut quoted = [0; 16];
        let n = datagram.payload.len().min(16);
        quoted[..n].copy_from_slice(&datagram.payload[..n]);
        let unreachable = Unreachable { remote: datagram.to, quoted };
        self.schedule(at, Happening::Icmp { to: datagram.from, unreachable });
    }

    fn arrive_unreachable(&mut self, to: SocketAddr, unreachable: Unreachable) {
        let Some(&host) = self.by_address.get(&to.ip()) else { return };
        let Some(nic) = self.hosts[host].ports.get(&to.port()).map(|port| port.nic) else { return };
        self.trace.push(self.now, EventKind::Unreachable, unreachable.remote, to, &unreachable.quoted);
        let receiver = &mut self.nics[nic];
        receiver.stats.unreachable += 1;
        if receiver.unreachable.len() < MAX_UNREACHABLE {
            receiver.unreachable.push_back(unreachable);
        }
    }

    pub(crate) fn note_no_frames(&mut self, datagram: &Datagram) {
        self.note(EventKind::NoFrames, datagram);
    }
}

impl Host {
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
