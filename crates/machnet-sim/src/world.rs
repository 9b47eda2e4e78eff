//! The world: engines on a fabric and the tasks above them, stepped in virtual time.
//!
//! An engine is polled exactly as its runner polls it: again and again while it is busy; then it goes to sleep (arm the
//! bell, ask [`Engine::may_sleep`]) and is woken by its deadline, its bell, or its driver. Each round costs
//! [`WorldConfig::poll_cost`]; what it sends leaves, and whom it wakes runs, at the round's end. Nothing polls "to be
//! sure", so a hint, a bell or a deadline that is lost shows as a world that stands still.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use machnet_channel::Intake;
use machnet_core::{Config, Driver, Engine, EngineStats, Instant, LocalChannel, Member};

use crate::executor::{Executor, Handle, Task};
use crate::fabric::HostId;
use crate::machine::Machine;
use crate::{Attached, Ethernet, Fabric, Link, LinkId, NicConfig, Node, Recorder, Rss, SimDriver, SimRng, Tally};

/// An engine of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineId(pub(crate) usize);

/// How a world runs.
#[derive(Clone, Copy, Debug)]
pub struct WorldConfig {
    /// What a round of an engine takes, its packets apart.
    pub poll_cost: Duration,
    /// What each packet adds to the round in which it is received or sent.
    pub packet_cost: Duration,
    /// Rounds in a row, each within 50 µs of the one before, in which an engine may move no packet and wake no task.
    pub idle_rounds: u32,
    /// Events of the fabric that a [`Failure`] shows.
    pub trace: usize,
    /// NICs speak Ethernet, as with [`NicConfig::ethernet`], unless theirs says more.
    pub ethernet: Option<Ethernet>,
}

impl Default for WorldConfig {
    fn default() -> Self {
        let (poll_cost, packet_cost) = (Duration::from_micros(1), Duration::ZERO);
        Self { poll_cost, packet_cost, idle_rounds: 1000, trace: 0, ethernet: None }
    }
}

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
    /// An engine went to sleep until a time that is over.
    LateTimer(MachineId),
    /// An engine has more of something than its configuration allows.
    OverLimit(MachineId),
    /// An engine sent what it must not: see `oracle.rs`.
    Violation(String),
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
    /// A machine's bell was rung since the last look.
    bells: Arc<AtomicBool>,
    /// Machines by the fabric's numbers of their NICs, and NICs to which something came.
    by_nic: Vec<Option<MachineId>>,
    touched: Vec<usize>,
    recorder: Recorder,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, config: WorldConfig) -> Self {
        Self::recorded(seed, config, &Recorder::default())
    }

    /// An empty world that leaves its counts and events in `recorder`.
    #[must_use]
    pub fn recorded(seed: u64, config: WorldConfig, recorder: &Recorder) -> Self {
        let fabric = Fabric::new(seed);
        fabric.keep_trace(config.trace.max(recorder.keeps()));
        fabric.watch();
        Self {
            seed,
            config,
            now: Instant::ZERO,
            fabric,
            executor: Executor::new(),
            machines: Vec::new(),
            engines: 0,
            plans: SimRng::new(seed, PLAN_STREAM),
            bells: Arc::default(),
            by_nic: Vec::new(),
            touched: Vec::new(),
            recorder: recorder.clone(),
        }
    }

    /// A host with one NIC and an engine on it.
    ///
    /// # Panics
    /// If the address is taken or the engine refuses its configuration.
    pub fn machine(&mut self, address: IpAddr, nic: NicConfig, config: Config) -> MachineId {
        let host = self.fabric.host(address);
        let id = MachineId(self.machines.len());
        let machine = self.build(id, host, nic, config);
        self.machines.push(machine);
        id
    }

    /// The machine's engine dies without a word, and another one starts on its host.
    ///
    /// # Panics
    /// If the new engine refuses its configuration.
    pub fn restart(&mut self, machine: MachineId, nic: NicConfig, config: Config) {
        let old = self.machines.remove(machine.0);
        let host = old.engine.driver().host();
        self.recorder.end(&engine_tally(&old), Vec::new());
        drop(old);
        let new = self.build(machine, host, nic, config);
        self.machines.insert(machine.0, new);
    }

    fn build(&mut self, id: MachineId, host: HostId, nic: NicConfig, config: Config) -> Machine {
        let WorldConfig { poll_cost, packet_cost, ethernet, .. } = self.config;
        let nic = NicConfig { tx_delay: poll_cost, packet_cost, ethernet: nic.ethernet.or(ethernet), ..nic };
        let driver = self.fabric.nic(host, nic).expect("a NIC");
        let driver = Attached::new(driver).expect("a network on the NIC");
        self.machine_on(id, driver, Intake::new(), config, None)
    }

    /// An engine on `driver`, alone or one of several.
    fn machine_on(
        &mut self,
        id: MachineId,
        driver: Attached,
        intake: Arc<Intake>,
        config: Config,
        member: Option<Member>,
    ) -> Machine {
        self.by_nic.resize(self.by_nic.len().max(driver.nic() + 1), None);
        self.by_nic[driver.nic()] = Some(id);
        let seed = self.engine_seed();
        let channel = LocalChannel::new(Arc::clone(&intake));
        let is_grouped = member.is_some();
        let engine = match member {
            Some(member) => Engine::join(driver, channel, config, seed, member),
            None => Engine::new(driver, channel, config, seed),
        };
        let engine = engine.expect("a configuration without contradictions");
        let machine = Machine::new(engine, intake, &config, &self.bells, self.now, self.config.poll_cost);
        if is_grouped { machine.grouped() } else { machine }
    }

    fn engine_seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        SimRng::new(self.seed, ENGINE_STREAM + self.engines).fill(&mut seed);
        self.engines += 1;
        seed
    }

    /// A host with one NIC of several queues, and an engine on each. They have `ports` ports in all, from the home port on.
    ///
    /// # Panics
    /// As [`World::machine`].
    pub fn machines(
        &mut self,
        address: IpAddr,
        nic: NicConfig,
        config: Config,
        engines: usize,
        ports: u16,
        rss: Rss,
    ) -> Vec<MachineId> {
        let host = self.fabric.host(address);
        let first = self.machines.len();
        let several = self.build_several(first, host, nic, config, engines, ports, rss);
        self.machines.extend(several);
        (first..self.machines.len()).map(MachineId).collect()
    }

    /// The engines of a host die without a word, and as many others start on it.
    ///
    /// # Panics
    /// If `machines` are not those of one host, or a new engine refuses its configuration.
    pub fn restart_several(&mut self, machines: &[MachineId], nic: NicConfig, config: Config, ports: u16, rss: Rss) {
        let (first, host) = (machines[0].0, self.host(machines[0]));
        let all = first..first + machines.len();
        let old: Vec<_> = self.machines.drain(all).collect();
        for machine in &old {
            assert_eq!(machine.engine.driver().host(), host, "an engine of another host");
            self.recorder.end(&engine_tally(machine), Vec::new());
        }
        drop(old);
        let new = self.build_several(first, host, nic, config, machines.len(), ports, rss);
        self.machines.splice(first..first, new);
    }

    #[expect(clippy::too_many_arguments, reason = "what World::machines is given, and where")]
    fn build_several(
        &mut self,
        first: usize,
        host: HostId,
        nic: NicConfig,
        config: Config,
        engines: usize,
        ports: u16,
        rss: Rss,
    ) -> Vec<Machine> {
        let WorldConfig { poll_cost, packet_cost, ethernet, .. } = self.config;
        let nic = NicConfig { tx_delay: poll_cost, packet_cost, ethernet: nic.ethernet.or(ethernet), ..nic };
        let queues = self.fabric.queues(host, nic, engines, ports, rss).expect("a NIC");
        let drivers = Attached::several(queues).expect("a network on the NIC");
        let intakes: Vec<_> = (0..engines).map(|_| Intake::new()).collect();
        let bells: Vec<_> = intakes.iter().map(|intake| Arc::clone(intake.bell())).collect();
        let members = Member::group(&bells, self.engine_seed());
        let each = drivers.into_iter().zip(intakes).zip(members).enumerate();
        each.map(|(n, ((driver, intake), member))| {
            self.machine_on(MachineId(first + n), driver, intake, config, Some(member))
        })
        .collect()
    }

    /// What a round and each packet cost the machine's engine from now on.
    pub fn set_costs(&mut self, machine: MachineId, round: Duration, packet: Duration) {
        let machine = &mut self.machines[machine.0];
        machine.round_cost = round;
        machine.engine.driver_mut().set_costs(round, packet);
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

    /// From now on, where the device of a machine writes what it receives is noted: [`SimDriver::written`].
    pub fn watch(&mut self, machine: MachineId) {
        self.machines[machine.0].engine.driver_mut().watch();
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
        let machine = &mut self.machines[machine.0];
        machine.free_at = self.now + duration;
        machine.look(self.now);
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
            machine.look(self.now);
        }
        match self.machines.iter().position(Machine::is_unclean) {
            Some(id) => Err(self.failure(Trouble::NotClean(MachineId(id)))),
            None => Ok(()),
        }
    }

    /// Goes to the next moment at which something happens, if that is before `end`, and lets it happen.
    fn step(&mut self, end: Instant) -> Result<(), Trouble> {
        self.executor.schedule(self.now);
        self.look();
        let machines = self.machines.iter().filter_map(|machine| machine.next).min();
        let next = [machines, self.executor.next(), self.fabric.next_event()].into_iter().flatten().min();
        match next {
            None => return Err(Trouble::Stuck),
            Some(next) if next > end => return Err(Trouble::OutOfTime),
            Some(next) => self.advance(next.max(self.now)),
        }
        self.executor.run(self.now);
        self.look();
        for id in 0..self.machines.len() {
            if self.machines[id].next.is_some_and(|next| next <= self.now) {
                self.poll(id)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, to: Instant) {
        self.now = to;
        self.fabric.advance(to);
    }

    /// Looks at the machines of which anything may have changed: those that got a packet, and those whose bell was rung.
    fn look(&mut self) {
        self.fabric.take_touched(&mut self.touched);
        for nic in self.touched.drain(..) {
            if let Some(id) = self.by_nic[nic] {
                self.machines[id.0].look(self.now);
            }
        }
        if self.bells.swap(false, Ordering::AcqRel) {
            let now = self.now;
            self.machines.iter_mut().filter(|machine| machine.is_rung()).for_each(|machine| machine.look(now));
        }
    }

    fn poll(&mut self, id: usize) -> Result<(), Trouble> {
        let machine = &mut self.machines[id];
        let result = machine.poll(MachineId(id), self.now, self.executor.polls(), self.config.idle_rounds);
        machine.look(self.now);
        self.executor.schedule(machine.free_at);
        result?;
        self.fabric.violation().map_or(Ok(()), |what| Err(Trouble::Violation(what)))
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
            let _ = writeln!(report, "machine {id}: {machine}");
        }
        for event in self.fabric.newest(self.config.trace) {
            let _ = writeln!(report, "{event}");
        }
        report
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let (links, nics) = self.fabric.totals();
        let (events, hash) = (self.fabric.trace_len(), self.fabric.trace_hash());
        let time = self.now.since(Instant::ZERO);
        let mut tally = Tally { worlds: 1, events, time, links, nics, hash, ..Tally::default() };
        self.machines.iter().for_each(|machine| tally.add(&engine_tally(machine)));
        let kept = if self.recorder.keeps() > 0 { self.fabric.trace() } else { Vec::new() };
        self.recorder.end(&tally, kept);
        if std::thread::panicking() {
            self.recorder.post_mortem(format!("at {:.3} µs\n{}", self.now.0 as f64 / 1e3, self.report()));
        }
    }
}

/// What the engine of a machine counted.
fn engine_tally(machine: &Machine) -> Tally {
    Tally { rounds: machine.rounds, drops: machine.engine.stats().drops, ..Tally::default() }
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
