//! The world: engines on a fabric and the tasks above them, stepped in virtual time.
//!
//! An engine is polled exactly as its runner polls it: again and again while it is busy; then it goes to sleep (arm the
//! bell, ask [`Engine::may_sleep`]) and is woken by its deadline, its bell, or its driver. Each round costs
//! [`WorldConfig::poll_cost`]; what it sends leaves, and whom it wakes runs, at the round's end. Nothing polls "to be
//! sure", so a hint, a bell or a deadline that is lost shows as a world that stands still.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use machnet_channel::Intake;
use machnet_core::{Config, Driver, Engine, EngineStats, Instant, LocalChannel};

use crate::executor::{Executor, Handle, Task};
use crate::fabric::HostId;
use crate::{Event, Fabric, Link, LinkId, NicConfig, Node, SimDriver, SimRng};

/// An engine of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineId(usize);

/// How a world runs.
#[derive(Clone, Copy, Debug)]
pub struct WorldConfig {
    /// What a round of an engine takes.
    pub poll_cost: Duration,
    /// Rounds in a row, each within 50 µs of the one before, in which an engine may move no packet and wake no task.
    pub idle_rounds: u32,
    /// Events of the fabric that a [`Failure`] shows.
    pub trace: usize,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self { poll_cost: Duration::from_micros(1), idle_rounds: 1000, trace: 0 }
    }
}

/// Rounds further apart than this are not a livelock: there is time to sleep between them.
const LIVELOCK_GAP: Duration = Duration::from_micros(50);

/// Streams of the seed; links have those below.
const ENGINE_STREAM: u64 = 1 << 32;
const PLAN_STREAM: u64 = 1 << 33;

/// Why a run ended before it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Tasks wait, and nothing will ever happen again.
    Stuck,
    /// Tasks wait, and the time is over.
    OutOfTime,
    /// An engine is polled over and over without moving anything.
    Livelock(MachineId),
    /// An engine did not forget every flow in time, or something did not come home.
    NotClean(MachineId),
}

/// [`Trouble`], with what helps to understand it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{trouble:?} at {:.3} µs\n{report}", at.0 as f64 / 1e3)]
pub struct Failure {
    /// What is wrong.
    pub trouble: Trouble,
    /// When it was noticed.
    pub at: Instant,
    /// Unfinished tasks, engines and the newest events.
    pub report: String,
}

// Tests unwrap, and a report is made to be read.
impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// An engine, with its bell and its place in time.
struct Machine {
    engine: Engine<SimDriver, LocalChannel>,
    intake: Arc<Intake>,
    rung: Arc<Rung>,
    bell: Waker,
    awake: bool,
    deadline: Option<Instant>,
    /// The engine is occupied until then.
    free_at: Instant,
    rounds: u64,
    /// Rounds in a row without effect, and the packets and task polls at the last effect.
    idle_rounds: u32,
    effect: (u64, u64, u64),
}

impl Machine {
    /// When the engine is polled next.
    fn next(&self, now: Instant) -> Option<Instant> {
        let driver = self.engine.driver();
        let at = if self.awake || self.rung.0.load(Ordering::Acquire) || driver.is_ready() {
            Some(now)
        } else {
            [self.deadline, driver.next_release()].into_iter().flatten().min()
        };
        at.map(|at| at.max(self.free_at).max(now))
    }

    /// One round, and the decision whether to sleep.
    fn poll(&mut self, now: Instant, cost: Duration) {
        self.intake.bell().disarm();
        self.rung.0.store(false, Ordering::Release);
        let progress = self.engine.poll(now);
        self.deadline = progress.next_deadline;
        self.awake = progress.busy;
        if !self.awake {
            self.intake.bell().arm(&self.bell);
            self.awake = !self.engine.may_sleep();
            if self.awake {
                self.intake.bell().disarm();
            }
        }
        self.free_at = now + cost;
        self.rounds += 1;
    }
}

#[derive(Debug, Default)]
struct Rung(AtomicBool);

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A simulated world. See the module's documentation.
pub struct World {
    seed: u64,
    config: WorldConfig,
    now: Instant,
    fabric: Fabric,
    executor: Executor,
    machines: Vec<Machine>,
    /// Engines built so far; each has a seed of its own.
    engines: u64,
    plans: SimRng,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, config: WorldConfig) -> Self {
        let fabric = Fabric::new(seed);
        fabric.keep_trace(config.trace);
        Self {
            seed,
            config,
            now: Instant::ZERO,
            fabric,
            executor: Executor::new(),
            machines: Vec::new(),
            engines: 0,
            plans: SimRng::new(seed, PLAN_STREAM),
        }
    }

    /// A host with one NIC and an engine on it.
    ///
    /// # Panics
    /// If the address is taken or the engine refuses its configuration.
    pub fn machine(&mut self, address: IpAddr, nic: NicConfig, config: Config) -> MachineId {
        let host = self.fabric.host(address);
        let machine = self.build(host, nic, config);
        self.machines.push(machine);
        MachineId(self.machines.len() - 1)
    }

    /// The machine's engine dies without a word, and another one starts on its host.
    ///
    /// # Panics
    /// If the new engine refuses its configuration.
    pub fn restart(&mut self, machine: MachineId, nic: NicConfig, config: Config) {
        let old = self.machines.remove(machine.0);
        let host = old.engine.driver().host();
        drop(old);
        let new = self.build(host, nic, config);
        self.machines.insert(machine.0, new);
    }

    fn build(&mut self, host: HostId, nic: NicConfig, config: Config) -> Machine {
        let nic = NicConfig { tx_delay: self.config.poll_cost, ..nic };
        let driver = self.fabric.nic(host, nic).expect("a NIC");
        let intake = Intake::new();
        let mut seed = [0; 32];
        SimRng::new(self.seed, ENGINE_STREAM + self.engines).fill(&mut seed);
        self.engines += 1;
        let channel = LocalChannel::new(Arc::clone(&intake));
        let engine = Engine::new(driver, channel, config, seed).expect("a configuration without contradictions");
        let rung = Arc::<Rung>::default();
        let bell = Waker::from(Arc::clone(&rung));
        Machine {
            engine,
            intake,
            rung,
            bell,
            awake: true,
            deadline: None,
            free_at: self.now,
            rounds: 0,
            idle_rounds: 0,
            effect: (0, 0, 0),
        }
    }

    /// Joins two machines by links of the same kind in both directions.
    pub fn join(&mut self, a: MachineId, b: MachineId, link: &Link) -> (LinkId, LinkId) {
        self.fabric.join(self.host(a), self.host(b), link.clone(), link.clone())
    }

    /// What applications on `machine` use.
    #[must_use]
    pub fn node(&self, machine: MachineId) -> Node {
        let machine = &self.machines[machine.0];
        Node::new(machine.engine.driver().home(), Arc::clone(&machine.intake), self.executor.handle().clone())
    }

    /// Starts a task.
    pub fn spawn<T: 'static>(&self, name: impl Into<String>, body: impl Future<Output = T> + 'static) -> Task<T> {
        self.executor.handle().spawn(name, body)
    }

    /// The clock, and how to start tasks.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        self.executor.handle()
    }

    /// The fabric.
    #[must_use]
    pub const fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// The host of a machine.
    #[must_use]
    pub fn host(&self, machine: MachineId) -> HostId {
        self.driver(machine).host()
    }

    /// The driver of a machine.
    #[must_use]
    pub fn driver(&self, machine: MachineId) -> &SimDriver {
        self.machines[machine.0].engine.driver()
    }

    /// The counters of a machine's engine.
    #[must_use]
    pub fn stats(&self, machine: MachineId) -> EngineStats {
        self.machines[machine.0].engine.stats()
    }

    /// How often a machine's engine was polled.
    #[must_use]
    pub fn rounds(&self, machine: MachineId) -> u64 {
        self.machines[machine.0].rounds
    }

    /// The stream of the seed for workloads.
    pub const fn rng(&mut self) -> &mut SimRng {
        &mut self.plans
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Drops every unfinished task and what it holds, as when the applications' processes end.
    pub fn cancel(&mut self) {
        self.executor.cancel();
    }

    /// Asks the machine's engine to end every flow, as the last handle of an endpoint does when it is dropped.
    pub fn shut_down(&mut self, machine: MachineId) {
        self.machines[machine.0].intake.shut_down();
    }

    /// True once the machine's engine was shut down and has ended every flow.
    #[must_use]
    pub fn is_finished(&self, machine: MachineId) -> bool {
        self.machines[machine.0].engine.is_finished()
    }

    /// The machine's engine is not run for a while, as when its VM is descheduled.
    pub fn pause(&mut self, machine: MachineId, duration: Duration) {
        self.machines[machine.0].free_at = self.now + duration;
    }

    /// Runs until every task is done, for `limit` at most.
    ///
    /// # Errors
    /// Why they are not.
    pub fn run(&mut self, limit: Duration) -> Result<(), Failure> {
        let end = self.now + limit;
        while !self.executor.is_done() {
            self.step(end).map_err(|trouble| self.failure(trouble))?;
        }
        Ok(())
    }

    /// Runs until `task` is done, for `limit` at most, and returns its result.
    ///
    /// # Errors
    /// Why it is not.
    pub fn wait<T>(&mut self, task: &Task<T>, limit: Duration) -> Result<T, Failure> {
        let end = self.now + limit;
        loop {
            if let Some(value) = task.take() {
                return Ok(value);
            }
            self.step(end).map_err(|trouble| self.failure(trouble))?;
        }
    }

    /// Runs for `duration`, whatever the tasks do.
    ///
    /// # Errors
    /// A livelock.
    pub fn run_for(&mut self, duration: Duration) -> Result<(), Failure> {
        let end = self.now + duration;
        loop {
            match self.step(end) {
                Ok(()) => {}
                Err(Trouble::Stuck | Trouble::OutOfTime) => {
                    self.advance(end);
                    return Ok(());
                }
                Err(trouble) => return Err(self.failure(trouble)),
            }
        }
    }

    /// Runs until every engine has forgotten every flow, for `limit` at most, and checks that nothing leaked.
    ///
    /// # Errors
    /// What is left.
    pub fn settle(&mut self, limit: Duration) -> Result<(), Failure> {
        let end = self.now + limit;
        while self.machines.iter().any(|machine| machine.engine.stats().flows > 0) {
            match self.step(end) {
                Ok(()) => {}
                Err(Trouble::Stuck | Trouble::OutOfTime) => break,
                Err(trouble) => return Err(self.failure(trouble)),
            }
        }
        // The rounds that follow the last packets, and what the devices still hold.
        self.run_for(Duration::from_millis(1))?;
        for machine in &mut self.machines {
            machine.engine.driver_mut().give_back();
        }
        self.first_unclean().map_or(Ok(()), |id| Err(self.failure(Trouble::NotClean(id))))
    }

    fn first_unclean(&self) -> Option<MachineId> {
        let unclean = |machine: &Machine| {
            let (stats, driver) = (machine.engine.stats(), machine.engine.driver());
            stats.flows > 0 || stats.buffers_in_use > 0 || driver.free_frames() != driver.frames()
        };
        self.machines.iter().position(unclean).map(MachineId)
    }

    /// Goes to the next moment at which something happens, if that is before `end`, and lets it happen.
    fn step(&mut self, end: Instant) -> Result<(), Trouble> {
        self.executor.schedule(self.now);
        let machines = self.machines.iter().filter_map(|machine| machine.next(self.now)).min();
        let next = [machines, self.executor.next(), self.fabric.next_event()].into_iter().flatten().min();
        match next {
            None => return Err(Trouble::Stuck),
            Some(next) if next > end => return Err(Trouble::OutOfTime),
            Some(next) => self.advance(next.max(self.now)),
        }
        self.executor.run(self.now);
        for id in 0..self.machines.len() {
            if self.machines[id].next(self.now) == Some(self.now) {
                self.poll(id)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, to: Instant) {
        self.now = to;
        self.fabric.advance(to);
    }

    fn poll(&mut self, id: usize) -> Result<(), Trouble> {
        let machine = &mut self.machines[id];
        let gap = self.now.since(machine.free_at);
        machine.poll(self.now, self.config.poll_cost);
        let nic = machine.engine.driver().nic_stats();
        let effect = (nic.sent, nic.received, self.executor.polls());
        if effect == machine.effect && gap < LIVELOCK_GAP {
            machine.idle_rounds += 1;
        } else {
            machine.idle_rounds = 0;
        }
        machine.effect = effect;
        let livelock = machine.idle_rounds > self.config.idle_rounds;
        let end_of_round = machine.free_at;
        self.executor.schedule(end_of_round);
        if livelock { Err(Trouble::Livelock(MachineId(id))) } else { Ok(()) }
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        Failure { trouble, at: self.now, report: self.report() }
    }

    /// Unfinished tasks, engines and the newest events, for people.
    #[must_use]
    pub fn report(&self) -> String {
        use std::fmt::Write as _;
        let mut report = String::new();
        let _ = writeln!(report, "unfinished tasks: {}", self.executor.unfinished().join(", "));
        for (id, machine) in self.machines.iter().enumerate() {
            let stats = machine.engine.stats();
            let driver = machine.engine.driver();
            let Machine { awake, deadline, rounds, .. } = machine;
            let _ = writeln!(
                report,
                "machine {id}: awake {awake}, deadline {deadline:?}, {rounds} rounds, {} flows, {} buffers, {}/{} frames \
                 free, {} held, {:?}, drops {:?}",
                stats.flows,
                stats.buffers_in_use,
                driver.free_frames(),
                driver.frames(),
                driver.held(),
                driver.nic_stats(),
                stats.drops.iter().collect::<Vec<_>>(),
            );
        }
        let events: Vec<Event> = self.fabric.trace();
        for event in events {
            let _ = writeln!(report, "{event}");
        }
        report
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .field("now", &self.now)
            .field("machines", &self.machines.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_nobody_wakes_is_stuck() {
        let mut world = World::new(1, WorldConfig::default());
        world.spawn("forgotten", std::future::pending::<()>());
        let failure = world.run(Duration::from_secs(1)).unwrap_err();
        assert_eq!(failure.trouble, Trouble::Stuck);
        assert!(failure.to_string().contains("forgotten"));
    }

    #[test]
    fn time_passes_for_tasks_and_runs_out() {
        let mut world = World::new(1, WorldConfig::default());
        let handle = world.handle().clone();
        let task = world.spawn("sleeper", async move {
            handle.sleep(Duration::from_secs(3)).await;
            handle.now()
        });
        let failure = world.run(Duration::from_secs(2)).unwrap_err();
        assert_eq!(failure.trouble, Trouble::OutOfTime);
        world.run_for(Duration::from_millis(3500)).unwrap();
        assert_eq!(task.take(), Some(Instant(3_000_000_000)));
        assert_eq!(world.now(), Instant(3_500_000_000));
    }
}
