//! The engines, polled as their runners would, and the wire between them, of which every packet is the adversary's.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use machnet_channel::{Backlog, BacklogConsumer, Intake};
use machnet_core::{Config, Driver, Engine, Instant, LocalChannel};

use crate::{Fabric, Link, NicConfig, SimDriver, Verdict};

/// Who connects, who accepts, and a stranger without an engine.
pub(super) const A: usize = 0;
const B: usize = 1;
pub(super) const X: usize = 2;

pub(super) const MAX_MESSAGE: u32 = 10_000;
const PORT: u16 = 7000;
const MAX_FLOWS: u32 = 8;
/// Packets that the adversary holds back, and old ones that he remembers.
const HELD: usize = 1024;
const OLD: usize = 64;
/// Rounds in which an engine may stay busy: more than it takes to send everything there is.
const ROUNDS: u32 = 1000;

#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) payload: Vec<u8>,
}

struct Host {
    engine: Engine<SimDriver, LocalChannel>,
    intake: Arc<Intake>,
    deadline: Option<Instant>,
}

/// Bytes between the stranger and B.
#[derive(Default)]
struct Toll {
    sent: u64,
    received: u64,
}

pub(super) struct Duel {
    fabric: Fabric,
    hosts: [Host; 2],
    listener: BacklogConsumer,
    now: Instant,
    /// What the engines sent since it was last looked at; packets pass while `open` is set.
    caught: Arc<Mutex<Vec<Datagram>>>,
    open: Arc<AtomicBool>,
    toll: Arc<Mutex<Toll>>,
    held: VecDeque<Datagram>,
    old: VecDeque<Datagram>,
    /// Flow ids seen on the wire: who does not see the wire does not know them.
    ids: BTreeSet<u64>,
}

fn address(host: usize) -> std::net::IpAddr {
    Ipv4Addr::new(10, 0, 0, host as u8 + 1).into()
}

fn config() -> Config {
    let mut config = Config::default();
    config.max_message = MAX_MESSAGE;
    config.receive_window = 4096;
    config.send_buffer = 4096;
    config.max_flows = MAX_FLOWS;
    config.max_half_open = 4;
    config.max_tombstones = 3;
    config.reassembly_bytes = 64 << 10;
    config.peer_reassembly_bytes = 20 << 10;
    config.connect_timeout = Duration::from_millis(300);
    config.dead_peer_timeout = Duration::from_secs(1);
    config.linger = Duration::from_secs(1);
    config
}

impl Duel {
    pub(super) fn new() -> Self {
        let fabric = Fabric::new(0);
        let ids = [A, B, X].map(|host| fabric.host(address(host)));
        let (caught, open, toll) =
            (Arc::<Mutex<Vec<Datagram>>>::default(), Arc::<AtomicBool>::default(), Arc::<Mutex<Toll>>::default());
        for (from, to) in [(A, B), (B, A)] {
            let link = fabric.link(Link::with_delay(Duration::ZERO));
            fabric.route(ids[from], ids[to], &[link]);
            let (caught, open) = (Arc::clone(&caught), Arc::clone(&open));
            fabric.filter(link, move |seen| {
                if open.load(Ordering::Relaxed) {
                    return Verdict::Pass;
                }
                let mut caught = caught.lock().unwrap_or_else(PoisonError::into_inner);
                caught.push(Datagram { from: seen.from, to: seen.to, payload: seen.payload.to_vec() });
                Verdict::Drop
            });
        }
        let (to_b, to_x) =
            fabric.join(ids[X], ids[B], Link::with_delay(Duration::ZERO), Link::with_delay(Duration::ZERO));
        for (link, to_b) in [(to_b, true), (to_x, false)] {
            let toll = Arc::clone(&toll);
            fabric.filter(link, move |seen| {
                let mut toll = toll.lock().unwrap_or_else(PoisonError::into_inner);
                *if to_b { &mut toll.received } else { &mut toll.sent } += seen.payload.len() as u64;
                Verdict::Pass
            });
        }
        let host = |host: usize| {
            let nic = NicConfig { port: 5000, frames: 96, ..NicConfig::default() };
            let driver = fabric.nic(ids[host], nic).expect("a NIC");
            let intake = Intake::new();
            let channel = LocalChannel::new(Arc::clone(&intake));
            let engine = Engine::new(driver, channel, config(), [host as u8; 32]).expect("a configuration that works");
            Host { engine, intake, deadline: None }
        };
        let hosts = [host(A), host(B)];
        let listener = Backlog::listen(&hosts[B].intake, PORT, 4);
        let mut duel = Self {
            fabric,
            hosts,
            listener,
            now: Instant(1_000_000),
            caught,
            open,
            toll,
            held: VecDeque::new(),
            old: VecDeque::new(),
            ids: BTreeSet::new(),
        };
        duel.poll();
        duel
    }

    pub(super) const fn now(&self) -> Instant {
        self.now
    }

    /// Where flows of a host leave from.
    pub(super) fn home(&self, host: usize) -> SocketAddr {
        SocketAddr::new(address(host), 5000)
    }

    /// Where B listens.
    pub(super) fn service(&self) -> SocketAddr {
        SocketAddr::new(address(B), PORT)
    }

    pub(super) const fn intake(&self, host: usize) -> &Arc<Intake> {
        &self.hosts[host].intake
    }

    pub(super) const fn listener(&mut self) -> &mut BacklogConsumer {
        &mut self.listener
    }

    /// True if the id was on the wire.
    pub(super) fn knows(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Flows of both engines.
    pub(super) fn flows(&self) -> u64 {
        self.hosts.iter().map(|host| host.engine.stats().flows).sum()
    }

    /// Polls both engines until they have nothing more to do, and takes what they send.
    pub(super) fn poll(&mut self) {
        for host in 0..self.hosts.len() {
            self.poll_one(host);
        }
    }

    fn poll_one(&mut self, host: usize) {
        for _ in 0..ROUNDS {
            self.now += Duration::from_nanos(500);
            self.fabric.advance(self.now);
            let Host { engine, deadline, .. } = &mut self.hosts[host];
            let progress = engine.poll(self.now);
            self.fabric.advance(self.now);
            *deadline = progress.next_deadline;
            // A timer in the past would be such a round after every other.
            if !progress.busy && deadline.is_none_or(|at| at > self.now) {
                self.catch();
                return;
            }
        }
        panic!("machine {host} is busy without end at {:?}: {}", self.now, self.report());
    }

    fn catch(&mut self) {
        for datagram in self.caught.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Headers name the receiver's id; INIT and ACCEPT their sender's.
            for id in [4, 16].map(|at| datagram.payload.get(at..at + 8)) {
                self.ids.extend(id.and_then(|id| id.try_into().ok()).map(u64::from_be_bytes));
            }
            if self.held.len() < HELD {
                self.held.push_back(datagram);
            }
        }
    }

    /// Takes one of the packets that are held back; the oldest is the likeliest.
    pub(super) fn take(&mut self, u: &mut Unstructured<'_>) -> Result<Option<Datagram>> {
        if self.held.is_empty() {
            return Ok(None);
        }
        let at = u.int_in_range(0..=self.held.len().min(16) - 1)?;
        Ok(self.held.remove(at))
    }

    /// A copy of a packet that was delivered before.
    pub(super) fn replay(&self, u: &mut Unstructured<'_>) -> Result<Option<Datagram>> {
        if self.old.is_empty() {
            return Ok(None);
        }
        let mut packet = self.old[u.int_in_range(0..=self.old.len() - 1)?].clone();
        if packet.to.ip() == address(B) && u.ratio(1, 4)? {
            packet.from = self.home(X);
        }
        Ok(Some(packet))
    }

    /// Lets a packet arrive.
    pub(super) fn deliver(&mut self, packet: &Datagram) {
        self.open.store(true, Ordering::Relaxed);
        self.fabric.inject(packet.from, packet.to, &packet.payload);
        self.fabric.advance(self.now);
        self.open.store(false, Ordering::Relaxed);
        if self.old.len() == OLD {
            self.old.pop_front();
        }
        self.old.push_back(packet.clone());
        self.poll_one(if packet.to.ip() == address(A) { A } else { B });
    }

    /// Delivers up to `limit` packets in order.
    pub(super) fn deliver_all(&mut self, limit: usize) {
        for _ in 0..limit.min(8 * HELD) {
            let Some(packet) = self.held.pop_front() else { break };
            self.deliver(&packet);
        }
    }

    /// Time passes, and engines run when they asked to.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next_deadline().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.poll();
        }
        self.freeze(end.since(self.now));
    }

    /// Time passes, and nobody runs.
    pub(super) fn freeze(&mut self, time: Duration) {
        self.now += time;
        self.fabric.advance(self.now);
        self.poll();
    }

    /// To the next deadline, if there is one.
    pub(super) fn wait_for_timer(&mut self) {
        let next = self.next_deadline().unwrap_or(self.now + Duration::from_millis(10));
        self.freeze(next.since(self.now));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.hosts.iter().filter_map(|host| host.deadline).min()
    }

    /// What holds at all times.
    pub(super) fn check(&self) {
        for host in &self.hosts {
            assert!(host.engine.stats().flows <= MAX_FLOWS.into());
        }
        let toll = self.toll.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(toll.sent <= toll.received, "{} bytes sent for {}", toll.sent, toll.received);
    }

    pub(super) fn report(&self) -> String {
        let hosts = self.hosts.iter().map(|host| format!("{:?}, wakes at {:?}\n", host.engine.stats(), host.deadline));
        format!("{} held, now {:?}\n{}", self.held.len(), self.now, hosts.collect::<String>())
    }

    /// No flow is left: every frame is home.
    pub(super) fn close(mut self) {
        self.held.clear();
        self.freeze(Duration::from_millis(1));
        for host in &mut self.hosts {
            host.engine.driver_mut().reap();
            let (stats, driver) = (host.engine.stats(), host.engine.driver());
            assert_eq!(stats.buffers_in_use, 0, "buffers of {stats:?}");
            assert_eq!(driver.free_frames(), driver.frames(), "frames");
        }
    }
}
