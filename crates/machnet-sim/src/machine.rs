//! An engine in a world, polled exactly as its runner polls it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use machnet_channel::Intake;
use machnet_core::{Config, Engine, Instant, LocalChannel};

use crate::{Attached, Trouble, world::MachineId};

/// Rounds further apart than this are not a livelock: there is time to sleep between them.
const LIVELOCK_GAP: Duration = Duration::from_micros(50);

/// Every so many rounds the engine's limits are checked.
const CHECK_EVERY: u64 = 64;

/// An engine, with its bell and its place in time.
pub(crate) struct Machine {
    pub(crate) engine: Engine<Attached, LocalChannel>,
    pub(crate) intake: Arc<Intake>,
    rung: Arc<Rung>,
    bell: Waker,
    pub(crate) awake: bool,
    pub(crate) deadline: Option<Instant>,
    /// The engine is occupied until then.
    pub(crate) free_at: Instant,
    pub(crate) rounds: u64,
    /// What a round costs before its packets.
    pub(crate) round_cost: Duration,
    max_flows: u64,
    /// Its host has other engines.
    is_grouped: bool,
    /// Rounds in a row without effect, and the packets and task polls at the last effect.
    idle_rounds: u32,
    effect: (u64, u64, u64),
    /// When the engine is polled next, as of the last look.
    pub(crate) next: Option<Instant>,
}

impl Machine {
    /// A machine that is polled as soon as it can be. Its bell notes itself in `bells` too.
    pub(crate) fn new(
        engine: Engine<Attached, LocalChannel>,
        intake: Arc<Intake>,
        config: &Config,
        bells: &Arc<AtomicBool>,
        now: Instant,
        round_cost: Duration,
    ) -> Self {
        let rung = Arc::new(Rung { this: AtomicBool::new(false), any: Arc::clone(bells) });
        let bell = Waker::from(Arc::clone(&rung));
        Self {
            engine,
            intake,
            rung,
            bell,
            awake: true,
            deadline: None,
            free_at: now,
            rounds: 0,
            round_cost,
            max_flows: config.max_flows.into(),
            is_grouped: false,
            idle_rounds: 0,
            effect: (0, 0, 0),
            next: Some(now),
        }
    }

    /// The same machine, one of several of its host.
    pub(crate) const fn grouped(mut self) -> Self {
        self.is_grouped = true;
        self
    }

    pub(crate) fn is_rung(&self) -> bool {
        self.rung.this.load(Ordering::Acquire)
    }

    /// Looks when the engine is polled next.
    pub(crate) fn look(&mut self, now: Instant) {
        let driver = self.engine.driver();
        let at = if self.awake || self.is_rung() || driver.is_ready() {
            Some(now)
        } else {
            [self.deadline, driver.next_release()].into_iter().flatten().min()
        };
        self.next = at.map(|at| at.max(self.free_at).max(now));
    }

    /// One round, and the decision whether to sleep. `polls` counts the polls of tasks, of which an engine that is
    /// busy with something brings some about; more than `idle_limit` rounds that bring nothing about are a livelock.
    pub(crate) fn poll(&mut self, id: MachineId, now: Instant, polls: u64, idle_limit: u32) -> Result<(), Trouble> {
        let gap = now.since(self.free_at);
        self.intake.bell().disarm();
        self.rung.this.store(false, Ordering::Release);
        self.engine.driver_mut().begin_round();
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
        self.free_at = now + self.round_cost + self.engine.driver().spent();
        self.rounds += 1;
        if !self.awake && self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Trouble::LateTimer(id));
        }
        let nic = self.engine.driver().nic_stats();
        // What others hand over came in, too.
        let taken = if self.is_grouped { self.engine.stats().taken_over } else { 0 };
        let effect = (nic.sent, nic.received + taken, polls);
        self.idle_rounds = if effect == self.effect && gap < LIVELOCK_GAP { self.idle_rounds + 1 } else { 0 };
        self.effect = effect;
        if self.idle_rounds > idle_limit {
            return Err(Trouble::Livelock(id));
        }
        if self.rounds.is_multiple_of(CHECK_EVERY) && self.engine.stats().flows > self.max_flows {
            return Err(Trouble::OverLimit(id));
        }
        Ok(())
    }

    /// True if a flow, a buffer or a frame is not where it was in the beginning.
    pub(crate) fn is_unclean(&self) -> bool {
        let (stats, driver) = (self.engine.stats(), self.engine.driver());
        stats.flows > 0
            || stats.buffers_in_use > 0
            || u64::from(driver.free_frames()) + stats.build_frames_waiting != u64::from(driver.frames())
            || u64::from(driver.free_long_frames()) + stats.long_frames_waiting != u64::from(driver.config.long_frames)
    }
}

#[derive(Debug)]
struct Rung {
    this: AtomicBool,
    /// Some machine's bell was rung: the world looks which.
    any: Arc<AtomicBool>,
}

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.this.store(true, Ordering::Release);
        self.any.store(true, Ordering::Release);
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stats, driver) = (self.engine.stats(), self.engine.driver());
        let Self { awake, deadline, rounds, .. } = self;
        write!(
            f,
            "awake {awake}, deadline {deadline:?}, {rounds} rounds, {} flows, {} buffers, {}/{} frames free, {} held, {:?}, \
             drops {:?}",
            stats.flows,
            stats.buffers_in_use,
            driver.free_frames(),
            driver.frames(),
            driver.held(),
            driver.nic_stats(),
            stats.drops.iter().collect::<Vec<_>>(),
        )
    }
}
