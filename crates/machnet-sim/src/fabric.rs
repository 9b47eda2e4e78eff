//! The fabric: hosts with NICs, joined by routes of links, in virtual time.
//!
//! A datagram goes from a NIC through the links of the route between the two hosts, hop by hop, into the receive ring
//! of the NIC that has its port open. Who may share what is up to the routes: a link in the routes of many senders is
//! a bottleneck, a link of its own per pair a cable.
//!
//! Time moves only in [`Fabric::advance`]; everything until then happened in order of time, and of creation where the
//! times are equal. The fabric is shared by the drivers on it, hence the lock; in a simulation nobody ever waits for
//! it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machnet_core::{Instant, Unreachable};

use crate::ethernet;
use crate::link::{Filter, LinkState};
use crate::nic::{Datagram, Host, Nic};
use crate::oracle::Oracle;
use crate::queue::EventQueue;
use crate::rss::{Queues, Rss};
use crate::trace::Trace;
use crate::{Corruption, Event, EventKind, Link, LinkStats, NicConfig, NicStats, Sighting, SimDriver, SimRng, Verdict};

/// A host of a fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub(crate) usize);

/// A link of a fabric: one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(usize);

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
            by_mac: BTreeMap::new(),
            links: Vec::new(),
            routes: BTreeMap::new(),
            nics: Vec::new(),
            queues: Vec::new(),
            events: EventQueue::new(),
            touched: Vec::new(),
            spare: Vec::new(),
            trace: Trace::new(),
            oracle: Oracle::default(),
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
        inner.hosts.push(Host::new(address));
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

    /// A NIC at `host` with several queues, each a driver: they share its home port and the `ports − 1` after it.
    ///
    /// # Errors
    /// As [`Fabric::nic`].
    pub fn queues(
        &self,
        host: HostId,
        config: NicConfig,
        queues: usize,
        ports: u16,
        rss: Rss,
    ) -> io::Result<Vec<SimDriver>> {
        let number = {
            let mut inner = self.lock();
            let rng = SimRng::new(inner.seed, RSS_STREAM + inner.queues.len() as u64);
            inner.queues.push(Queues::new(Vec::new(), rss, rng));
            inner.queues.len() - 1
        };
        let mut drivers: Vec<SimDriver> = Vec::new();
        for _ in 0..queues {
            let port = drivers.first().map_or(config.port, |first| machnet_core::Driver::home(first).port());
            let config = NicConfig { port, ..config };
            drivers.push(SimDriver::queue(self.clone(), host, config, number, ports)?);
        }
        let mut inner = self.lock();
        inner.queues[number].redraw();
        // Who speaks Ethernet leaves ports to the layer above.
        for port in (1..ports).filter(|_| config.ethernet.is_none()) {
            let home = machnet_core::Driver::home(&drivers[0]).port();
            inner.open(drivers[0].nic(), home + port)?;
        }
        Ok(drivers)
    }

    /// The NIC that `queue` is a queue of chooses queues by other keys and tables from now on.
    ///
    /// # Panics
    /// If it has only one.
    pub fn redraw_rss(&self, queue: &SimDriver) {
        let mut inner = self.lock();
        let number = inner.nics[queue.nic()].queue_of.expect("a NIC with several queues");
        inner.queues[number].redraw();
    }

    /// The NIC that `queue` is a queue of chooses queues otherwise from now on.
    ///
    /// # Panics
    /// If it has only one.
    pub fn set_rss(&self, queue: &SimDriver, rss: Rss) {
        let mut inner = self.lock();
        let number = inner.nics[queue.nic()].queue_of.expect("a NIC with several queues");
        inner.queues[number].set(rss);
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

    /// Sets the filter that every datagram on `link` passes first; it replaces those before.
    pub fn filter(&self, link: LinkId, filter: impl FnMut(&Sighting<'_>) -> Verdict + Send + 'static) {
        let filter: Filter = Box::new(filter);
        self.lock().links[link.0].filters = vec![filter];
    }

    /// Adds a filter behind those that `link` has.
    pub fn also_filter(&self, link: LinkId, filter: Filter) {
        self.lock().links[link.0].filters.push(filter);
    }

    /// Puts a datagram on the route between the hosts of `from` and `to`, whoever really sent it.
    ///
    /// # Panics
    /// If no host has the address of `from`.
    pub fn inject(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut inner = self.lock();
        let host = *inner.by_address.get(&from.ip()).expect("the source's host exists");
        inner.depart(HostId(host), Datagram::new(from, to, payload.to_vec()));
    }

    /// Puts a datagram on the route from `host` to the host of `to`, whatever source it names: a forged one.
    pub fn forge(&self, host: HostId, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut inner = self.lock();
        inner.depart(host, Datagram::new(from, to, payload.to_vec()));
    }

    /// The fabric's time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.lock().now
    }

    /// When the next thing happens.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        self.lock().events.next()
    }

    /// Lets everything happen that happens until `now`.
    ///
    /// # Panics
    /// If time would go back.
    pub fn advance(&self, now: Instant) {
        let mut inner = self.lock();
        assert!(now >= inner.now, "time goes back from {:?} to {now:?}", inner.now);
        while let Some((at, what)) = inner.events.pop(now) {
            inner.now = at;
            inner.happen(what);
        }
        inner.now = now;
    }

    /// What a link counted.
    #[must_use]
    pub fn link_stats(&self, link: LinkId) -> LinkStats {
        self.lock().links[link.0].stats
    }

    /// The first rule of the wire that an engine broke, if any (`oracle.rs`).
    #[must_use]
    pub fn violation(&self) -> Option<String> {
        self.lock().oracle.violation().map(str::to_owned)
    }

    /// Moves the NICs to which something came since the last call to `nics`.
    pub(crate) fn take_touched(&self, nics: &mut Vec<usize>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for &nic in &inner.touched {
            inner.nics[nic].is_touched = false;
        }
        nics.append(&mut inner.touched);
    }

    /// The sums of what every link and every NIC counted.
    #[must_use]
    pub fn totals(&self) -> (LinkStats, NicStats) {
        let inner = self.lock();
        let (mut links, mut nics) = (LinkStats::default(), NicStats::default());
        inner.links.iter().for_each(|link| links.add(&link.stats));
        inner.nics.iter().for_each(|nic| nics.add(&nic.stats));
        (links, nics)
    }

    /// Hash over every event so far: time, kind, addresses, length and first bytes.
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

    /// The newest `events` of the events kept, oldest first.
    pub(crate) fn newest(&self, events: usize) -> Vec<Event> {
        let mut kept = self.trace();
        kept.drain(..kept.len().saturating_sub(events));
        kept
    }

    /// From now on what is sent is checked; see [`Fabric::violation`]. For worlds: bare drivers send what they like.
    pub(crate) fn watch(&self) {
        self.lock().oracle.switch_on();
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

/// The streams of the seed for NICs with several queues.
const RSS_STREAM: u64 = 1 << 34;

/// Buffers kept for the next datagrams.
const SPARE: usize = 1024;

enum Happening {
    /// A datagram comes to hop `hop` of `route`.
    Hop { route: Arc<[LinkId]>, hop: usize, datagram: Datagram },
    /// A datagram leaves a NIC.
    Depart { host: HostId, datagram: Datagram },
    /// An ICMP message comes to the host of `to`, about a datagram that `to` sent.
    Icmp { to: SocketAddr, unreachable: Unreachable },
}

pub(crate) struct Inner {
    seed: u64,
    pub(crate) now: Instant,
    hosts: Vec<Host>,
    by_address: BTreeMap<IpAddr, usize>,
    /// NICs that speak Ethernet, by their address.
    by_mac: BTreeMap<[u8; 6], usize>,
    links: Vec<LinkState>,
    routes: BTreeMap<(HostId, HostId), Arc<[LinkId]>>,
    nics: Vec<Nic>,
    /// NICs with several queues, each of which is a [`Nic`].
    queues: Vec<Queues>,
    events: EventQueue<Happening>,
    /// NICs to which something came, for the world.
    touched: Vec<usize>,
    /// Buffers of datagrams that are no more.
    spare: Vec<Vec<u8>>,
    trace: Trace,
    oracle: Oracle,
}

impl Inner {
    pub(crate) fn attach(&mut self, host: HostId, config: &NicConfig, queue_of: Option<usize>) -> usize {
        let nic = self.nics.len();
        self.nics.push(Nic { queue_of, ..Nic::new(host, config) });
        if let Some(number) = queue_of {
            self.queues[number].nics.push(nic);
        }
        if config.ethernet.is_some() {
            let first = self.first(nic);
            self.by_mac.insert(ethernet::mac(self.hosts[host.0].address), first);
        }
        nic
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
        let first = self.first(nic);
        self.hosts[self.nics[nic].host.0].open(first, port)
    }

    pub(crate) fn close(&mut self, nic: usize, port: u16) {
        let first = self.first(nic);
        self.hosts[self.nics[nic].host.0].close(first, port);
    }

    pub(crate) fn has_open(&self, nic: usize, port: u16) -> bool {
        self.hosts[self.nics[nic].host.0].nic_of(port) == Some(self.first(nic))
    }

    /// The queue whose number stands for the whole NIC.
    fn first(&self, nic: usize) -> usize {
        self.nics[nic].queue_of.map_or(nic, |number| self.queues[number].nics[0])
    }

    /// The queue of `nic` that a datagram goes to.
    fn queue(&mut self, nic: usize, datagram: &Datagram) -> usize {
        match self.nics[nic].queue_of {
            Some(number) => self.queues[number].choose(datagram.from, datagram.to, datagram.payload()),
            None => nic,
        }
    }

    /// The queue of `nic` that a frame without ports goes to: any.
    fn any_queue(&mut self, nic: usize) -> usize {
        self.nics[nic].queue_of.map_or(nic, |number| self.queues[number].any())
    }

    /// The NIC is gone.
    pub(crate) fn detach(&mut self, nic: usize) {
        // The first of several queues to go takes the ports along: they end together.
        let first = self.first(nic);
        self.hosts[self.nics[nic].host.0].close_all(first);
        self.by_mac.retain(|_, of| *of != nic);
        self.nics[nic].ring.clear();
        self.nics[nic].unreachable.clear();
    }

    /// The NIC sends: the datagram leaves after the NIC's delay and `late`.
    pub(crate) fn transmit(&mut self, nic: usize, from: SocketAddr, to: SocketAddr, payload: &[u8], late: Duration) {
        let now = self.now;
        let sender = &mut self.nics[nic];
        sender.stats.sent += 1;
        sender.stats.sent_bytes += payload.len() as u64;
        self.trace.push(now, EventKind::Sent, from, to, payload);
        self.oracle.on_sent(now, from, to, payload);
        if payload.len() > sender.max_payload as usize {
            sender.stats.oversized += 1;
            self.trace.push(now, EventKind::Oversized, from, to, payload);
            return;
        }
        let (host, at) = (sender.host, now + sender.tx_delay + late);
        let known = self.by_address.get(&to.ip()).is_some_and(|&to| self.routes.contains_key(&(host, HostId(to))));
        if !known {
            sender.stats.no_route += 1;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(payload);
        let datagram = Datagram::new(from, to, copy);
        self.events.push(at, Happening::Depart { host, datagram });
    }

    /// The NIC sends an Ethernet frame: to whom it says, or to everybody to whom a route leads.
    pub(crate) fn transmit_frame(&mut self, nic: usize, frame: &[u8], late: Duration) {
        let (host, now) = (self.nics[nic].host, self.now);
        let at = now + self.nics[nic].tx_delay + late;
        let own = SocketAddr::new(self.hosts[host.0].address, 0);
        let found = ethernet::read(frame);
        let sender = &mut self.nics[nic];
        sender.stats.sent += 1;
        sender.stats.sent_bytes += frame.len() as u64;
        let mac = *frame.first_chunk().expect("an Ethernet header");
        let group = frame[0] & 1 != 0;
        if let Some(ethernet::Udp { from, to, ref payload }) = found {
            let payload = &frame[payload.clone()];
            self.trace.push(now, EventKind::Sent, from, to, payload);
            self.oracle.on_sent(now, from, to, payload);
            if payload.len() > self.nics[nic].max_payload as usize {
                self.nics[nic].stats.oversized += 1;
                return self.trace.push(now, EventKind::Oversized, from, to, payload);
            }
        } else {
            self.trace.push(now, EventKind::Sent, own, own, frame);
        }
        let own_nic = self.first(nic);
        let targets: Vec<_> = match group {
            true => self.by_mac.iter().filter(|&(_, &other)| other != own_nic).map(|(&mac, _)| mac).collect(),
            false => vec![mac],
        };
        for mac in targets {
            let Some(&target) = self.by_mac.get(&mac) else { continue };
            let peer = SocketAddr::new(self.address_of(target), 0);
            let (from, to, udp) = match &found {
                Some(udp) => (udp.from, udp.to, udp.payload.clone()),
                None => (own, peer, 0..frame.len()),
            };
            let bytes = frame.to_vec();
            let datagram = Datagram { from, to, bytes, udp, frame_to: Some(mac), damaged: false };
            self.events.push(at, Happening::Depart { host, datagram });
        }
    }

    /// Keeps the buffer of a datagram that is no more for another.
    pub(crate) fn bury(&mut self, mut datagram: Datagram) {
        if self.spare.len() < SPARE {
            datagram.bytes.clear();
            self.spare.push(datagram.bytes);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Depart { host, datagram } => self.depart(host, datagram),
            Happening::Hop { route, hop, datagram } if hop < route.len() => self.hop(route, hop, datagram),
            Happening::Hop { datagram, .. } => self.arrive(datagram),
            Happening::Icmp { to, unreachable } => self.arrive_unreachable(to, unreachable),
        }
    }

    fn depart(&mut self, host: HostId, datagram: Datagram) {
        let to = match datagram.frame_to {
            Some(mac) => self.by_mac.get(&mac).map(|&nic| self.nics[nic].host.0),
            None => self.by_address.get(&datagram.to.ip()).copied(),
        };
        match to.and_then(|to| self.routes.get(&(host, HostId(to)))) {
            Some(route) => self.hop(Arc::clone(route), 0, datagram),
            None => self.discard(EventKind::NoRoute, datagram),
        }
    }

    /// Notes a datagram's end.
    pub(crate) fn discard(&mut self, kind: EventKind, datagram: Datagram) {
        self.note(kind, &datagram);
        self.bury(datagram);
    }

    fn note(&mut self, kind: EventKind, datagram: &Datagram) {
        self.trace.push(self.now, kind, datagram.from, datagram.to, datagram.payload());
    }

    /// A datagram meets a link: the order of the fates below is the order in which real ones strike.
    fn hop(&mut self, route: Arc<[LinkId]>, hop: usize, mut datagram: Datagram) {
        let now = self.now;
        let link = &mut self.links[route[hop].0];
        let index = link.stats.offered;
        let len = datagram.payload().len();
        link.stats.offered += 1;
        link.stats.bytes += len as u64;
        let (from, to) = (datagram.from, datagram.to);
        let late = match link.filter(&Sighting { at: now, index, from, to, payload: datagram.payload() }) {
            Verdict::Pass => Duration::ZERO,
            Verdict::Delay(by) => by,
            Verdict::Drop => {
                link.stats.filtered += 1;
                return self.discard(EventKind::Filtered, datagram);
            }
        };
        if len > link.config.max_payload as usize {
            link.stats.oversized += 1;
            return self.discard(EventKind::Oversized, datagram);
        }
        if link.is_policed(now, from, to, len) {
            link.stats.policed += 1;
            return self.discard(EventKind::Policed, datagram);
        }
        let Some(sent) = link.enqueue(now, len) else {
            link.stats.queue_full += 1;
            return self.discard(EventKind::QueueFull, datagram);
        };
        // Chance strikes behind the first hop, where ARP never comes.
        if link.is_lost() && !datagram.is_control() {
            link.stats.lost += 1;
            return self.discard(EventKind::Lost, datagram);
        }
        let (corrupt, duplicate, delay) = (link.config.corrupt, link.config.duplicate, link.config.delay);
        if link.rng.chance(corrupt) {
            link.stats.corrupted += 1;
            match link.config.corruption {
                Corruption::Noticed => {
                    datagram.damaged = true;
                    // What carries no UDP is left to Ethernet's own check.
                    if datagram.frame_to.is_some() && !datagram.is_control() {
                        datagram.flip(&mut link.rng);
                    }
                }
                Corruption::Unnoticed if datagram.is_control() => datagram.damaged = true,
                Corruption::Unnoticed => {
                    let mut payload = datagram.payload().to_vec();
                    link.damage(&mut payload);
                    datagram.set_payload(payload);
                    self.oracle.distrust();
                }
            }
            self.note(EventKind::Corrupted, &datagram);
        }
        let arrival = sent + delay + late;
        if self.links[route[hop].0].rng.chance(duplicate) {
            self.links[route[hop].0].stats.duplicated += 1;
            self.note(EventKind::Duplicated, &datagram);
            self.deliver(Arc::clone(&route), hop, arrival, datagram.clone());
        }
        self.deliver(route, hop, arrival, datagram);
    }

    fn deliver(&mut self, route: Arc<[LinkId]>, hop: usize, mut at: Instant, datagram: Datagram) {
        let link = &mut self.links[route[hop].0];
        link.stats.delivered += 1;
        if link.rng.chance(link.config.reorder) {
            link.stats.reordered += 1;
            at += link.rng.duration(link.config.reorder_by);
            self.note(EventKind::Reordered, &datagram);
        }
        self.events.push(at, Happening::Hop { route, hop: hop + 1, datagram });
    }

    fn arrive(&mut self, mut datagram: Datagram) {
        if datagram.frame_to.is_none() && self.by_mac.contains_key(&ethernet::mac(datagram.to.ip())) {
            // Forged, or from a host that has no frames: it comes as one all the same.
            datagram.wrap();
        }
        if let Some(mac) = datagram.frame_to {
            return self.arrive_frame(mac, datagram);
        }
        let Some(&host) = self.by_address.get(&datagram.to.ip()) else { return };
        let Some(nic) = self.hosts[host].nic_of(datagram.to.port()) else {
            if self.hosts[host].answers_unreachable && !datagram.damaged {
                self.answer_closed(HostId(host), &datagram);
            }
            return self.discard(EventKind::ClosedPort, datagram);
        };
        let nic = self.queue(nic, &datagram);
        if datagram.damaged {
            self.nics[nic].stats.checksum += 1;
            return self.discard(EventKind::Checksum, datagram);
        }
        self.receive(nic, datagram);
    }

    /// A frame comes to the NIC of this Ethernet address, if there still is one.
    fn arrive_frame(&mut self, mac: [u8; 6], datagram: Datagram) {
        let Some(&nic) = self.by_mac.get(&mac) else { return self.discard(EventKind::NoRoute, datagram) };
        let nic = if datagram.is_control() { self.any_queue(nic) } else { self.queue(nic, &datagram) };
        if datagram.damaged && datagram.is_control() {
            self.nics[nic].stats.checksum += 1;
            return self.discard(EventKind::Checksum, datagram);
        }
        self.receive(nic, datagram);
    }

    /// Puts a datagram into a NIC's ring.
    fn receive(&mut self, nic: usize, datagram: Datagram) {
        let receiver = &mut self.nics[nic];
        if receiver.is_down {
            return self.discard(EventKind::Lost, datagram);
        }
        if receiver.ring.len() >= receiver.descriptors {
            receiver.stats.ring_full += 1;
            return self.discard(EventKind::RingFull, datagram);
        }
        receiver.stats.received += 1;
        self.note(EventKind::Arrived, &datagram);
        if !datagram.damaged && !datagram.is_control() {
            self.oracle.on_arrived(datagram.from, datagram.to, datagram.payload());
        }
        self.touch(nic);
        self.nics[nic].ring.push_back(datagram);
    }

    fn touch(&mut self, nic: usize) {
        if !std::mem::replace(&mut self.nics[nic].is_touched, true) {
            self.touched.push(nic);
        }
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
        let n = datagram.payload().len().min(16);
        quoted[..n].copy_from_slice(&datagram.payload()[..n]);
        let unreachable = Unreachable { remote: datagram.to, quoted };
        self.events.push(at, Happening::Icmp { to: datagram.from, unreachable });
    }

    fn arrive_unreachable(&mut self, to: SocketAddr, unreachable: Unreachable) {
        let Some(&host) = self.by_address.get(&to.ip()) else { return };
        let Some(nic) = self.hosts[host].nic_of(to.port()) else { return };
        self.trace.push(self.now, EventKind::Unreachable, unreachable.remote, to, &unreachable.quoted);
        self.nics[nic].notify(unreachable);
        self.touch(nic);
    }
}
