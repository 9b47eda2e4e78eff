//! Two hosts with engines, polled as their runners would, and the wire between them, of which every datagram is the adversary's.
//! (What else there is on an Ethernet passes: `net` has a fuzz target of its own.)

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use machnet_channel::{Backlog, BacklogConsumer, Intake};
use machnet_core::{Config, Engine, EngineStats, Instant, LocalChannel, Member};

use crate::fabric::HostId;
use crate::{Attached, Ethernet, Fabric, Link, NicConfig, Rss, Verdict};

/// Who connects, who accepts, and a stranger without an engine.
pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
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

/// What the hosts are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Their NICs speak Ethernet.
    ethernet: Option<Ethernet>,
    /// How many engines each has, and what a NIC with several queues does with what it receives.
    engines: [usize; 2],
    rss: Rss,
}

impl Kind {
    /// What the bits of a byte say.
    pub(super) const fn of(byte: u8) -> Self {
        let offload = byte & 4 != 0;
        Self {
            ethernet: match byte & 2 {
                0 => None,
                _ => Some(Ethernet { tx_checksum: offload, rx_checksum: offload }),
            },
            engines: [1 + (byte >> 3 & 1) as usize, 1 + (byte >> 4) as usize % 4 % 3],
            rss: [Rss::Toeplitz, Rss::Random, Rss::Wrong, Rss::Spray][(byte >> 6) as usize],
        }
    }
}

/// An engine of a host.
struct Machine {
    engine: Engine<Attached, LocalChannel>,
    intake: Arc<Intake>,
    deadline: Option<Instant>,
    /// It stands still until then.
    stands_until: Instant,
}

impl Machine {
    /// A machine that runs, and has something to do: its driver brought something, or a timer is due.
    fn wants(&self, now: Instant) -> bool {
        self.stands_until <= now
            && (self.engine.driver().is_ready() || self.deadline.is_some_and(|deadline| deadline <= now))
    }
}

/// Bytes between the stranger and B.
#[derive(Default)]
struct Toll {
    sent: u64,
    received: u64,
}

pub(super) struct Duel {
    kind: Kind,
    fabric: Fabric,
    hosts: [HostId; 2],
    machines: [Vec<Machine>; 2],
    /// At each engine of B.
    listeners: Vec<BacklogConsumer>,
    /// Engines made so far.
    made: u8,
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
    pub(super) fn new(kind: Kind) -> Self {
        let fabric = Fabric::new(0);
        let ids = [A, B, X].map(|host| fabric.host(address(host)));
        let (caught, open, toll) =
            (Arc::<Mutex<Vec<Datagram>>>::default(), Arc::<AtomicBool>::default(), Arc::<Mutex<Toll>>::default());
        for (from, to) in [(A, B), (B, A)] {
            let link = fabric.link(Link::with_delay(Duration::ZERO));
            fabric.route(ids[from], ids[to], &[link]);
            let (caught, open) = (Arc::clone(&caught), Arc::clone(&open));
            fabric.filter(link, move |seen| {
                if open.load(Ordering::Relaxed) || seen.from.port() == 0 {
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
        let mut duel = Self {
            kind,
            fabric,
            hosts: [ids[A], ids[B]],
            machines: [Vec::new(), Vec::new()],
            listeners: Vec::new(),
            made: 0,
            now: Instant(1_000_000),
            caught,
            open,
            toll,
            held: VecDeque::new(),
            old: VecDeque::new(),
            ids: BTreeSet::new(),
        };
        duel.start(A);
        duel.start(B);
        duel.listeners = duel.machines[B].iter().map(|machine| Backlog::listen(&machine.intake, PORT, 4)).collect();
        duel.poll();
        duel
    }

    /// A host's engines start; those that it had die without a word.
    pub(super) fn start(&mut self, host: usize) {
        self.machines[host].clear();
        let Kind { ethernet, engines, rss } = self.kind;
        let nic = NicConfig { port: 5000, frames: 96, ethernet, ..NicConfig::default() };
        let engines = engines[host];
        let drivers = match engines {
            1 => self.fabric.nic(self.hosts[host], nic).map(|nic| vec![nic]),
            _ => self.fabric.queues(self.hosts[host], nic, engines, 4 * engines as u16, rss),
        };
        let drivers = Attached::several(drivers.expect("a NIC")).expect("a network on the NIC");
        let intakes: Vec<_> = drivers.iter().map(|_| Intake::new()).collect();
        let mut members = Vec::new();
        if engines > 1 {
            self.made += 1;
            let bells: Vec<_> = intakes.iter().map(|intake| Arc::clone(intake.bell())).collect();
            members = Member::group(&bells, [self.made; 32]);
        }
        for (driver, intake) in drivers.into_iter().zip(intakes) {
            self.made += 1;
            let (channel, seed) = (LocalChannel::new(Arc::clone(&intake)), [self.made; 32]);
            let engine = match members.is_empty() {
                true => Engine::new(driver, channel, config(), seed),
                false => Engine::join(driver, channel, config(), seed, members.remove(0)),
            };
            let engine = engine.expect("a configuration that works");
            self.machines[host].push(Machine { engine, intake, deadline: Some(self.now), stands_until: Instant::ZERO });
        }
    }

    /// One of a host's engines stands still for a while.
    pub(super) fn stand(&mut self, host: usize, engine: usize, time: Duration) {
        let engines = self.machines[host].len();
        self.machines[host][engine % engines].stands_until = self.now + time;
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

    /// Every engine runs from now on.
    pub(super) fn calm(&mut self) {
        self.machines.iter_mut().flatten().for_each(|machine| machine.stands_until = self.now);
        self.poll();
    }

    /// Of one of a host's engines.
    pub(super) fn intake(&self, host: usize, engine: usize) -> &Arc<Intake> {
        &self.machines[host][engine % self.machines[host].len()].intake
    }

    pub(super) const fn listeners(&mut self) -> &mut Vec<BacklogConsumer> {
        &mut self.listeners
    }

    /// True if the id was on the wire.
    pub(super) fn knows(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Flows of all engines.
    pub(super) fn flows(&self) -> u64 {
        self.machines.iter().flatten().map(|machine| machine.engine.stats().flows).sum()
    }

    /// Polls all engines until they have nothing more to do, and takes what they send.
    pub(super) fn poll(&mut self) {
        self.poll_some(&[A, B]);
    }

    fn poll_some(&mut self, hosts: &[usize]) {
        for _ in 0..ROUNDS {
            let mut is_over = true;
            for &host in hosts {
                for n in 0..self.machines[host].len() {
                    is_over &= !self.round(host, n);
                }
            }
            let now = self.now;
            // A timer in the past would be such a round after every other.
            if is_over && !hosts.iter().any(|&host| self.machines[host].iter().any(|machine| machine.wants(now))) {
                return self.catch();
            }
        }
        panic!("a machine is busy without end at {:?}: {}", self.now, self.report());
    }

    /// A round of an engine, unless it stands still; true if it wants another one.
    fn round(&mut self, host: usize, engine: usize) -> bool {
        let machine = &mut self.machines[host][engine];
        if machine.stands_until > self.now {
            return false;
        }
        self.now += Duration::from_nanos(500);
        self.fabric.advance(self.now);
        let progress = machine.engine.poll(self.now);
        self.fabric.advance(self.now);
        machine.deadline = progress.next_deadline;
        progress.busy
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
        self.poll_some(&[if packet.to.ip() == address(A) { A } else { B }]);
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
        let at = |machine: &Machine| machine.deadline.map(|deadline| deadline.max(machine.stands_until));
        self.machines.iter().flatten().filter_map(at).min()
    }

    /// What holds at all times.
    pub(super) fn check(&self) {
        for machine in self.machines.iter().flatten() {
            assert!(machine.engine.stats().flows <= MAX_FLOWS.into());
        }
        let toll = self.toll.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(toll.sent <= toll.received, "{} bytes sent for {}", toll.sent, toll.received);
    }

    pub(super) fn report(&self) -> String {
        let machine =
            |Machine { engine, deadline, .. }: &Machine| format!("{:?}, wakes at {deadline:?}\n", engine.stats());
        let machines: String = self.machines.iter().flatten().map(machine).collect();
        format!("{:?}, {} held, now {:?}\n{machines}", self.kind, self.held.len(), self.now)
    }

    /// No flow is left: every frame is home. Returns the sums of what the engines counted.
    pub(super) fn close(mut self) -> EngineStats {
        let mut sum = EngineStats::default();
        self.held.clear();
        // What waits for a neighbour that does not answer is given up by then.
        self.wait(Duration::from_secs(5));
        self.machines.iter_mut().flatten().for_each(|machine| machine.engine.driver_mut().give_back());
        for machine in self.machines.iter().flatten() {
            let (stats, driver) = (machine.engine.stats(), machine.engine.driver());
            assert_eq!(stats.buffers_in_use, 0, "buffers of {stats:?}");
            let free = u64::from(driver.free_frames()) + stats.build_frames_waiting;
            assert_eq!(free, u64::from(driver.frames()), "frames of {stats:?}");
            sum.add(&stats);
        }
        sum
    }
}
