//! The dedicated engine thread, and the handle that everything an application holds keeps of it.
//!
//! ```text
//!   Endpoint ─┐
//!   Listener ─┼─ Arc<EngineHandle> ── Intake ──▶ thread: loop { poll(now); spin, yield or park }
//!   Flow ─────┘        │ last one dropped: shut_down         │ parks on {driver's fd, eventfd, next deadline}
//!                      └────────── Arc<Status> ◀── counters, how the thread ended
//! ```
//!
//! The handle never waits for the thread, and the thread never waits for a handle: the engine goes on until every flow
//! has ended (bounded by the configured linger), then the thread ends by itself. If the engine panics it is dropped
//! while the thread unwinds, which marks every flow and listener as shut down and wakes who waits; nothing of the
//! engine is used afterwards.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::task::{Context, Poll, Waker};

use machnet_channel::Intake;
use machnet_core::{Config, Driver, Engine, EngineStats, Instant, LocalChannel};
use rustix::thread::CpuSet;
use slab::Slab;

use crate::IdlePolicy;
use crate::idle::{Idle, Step};
use crate::parker::Parker;

/// What an engine thread is made of.
#[derive(Debug)]
pub(crate) struct Datapath<D> {
    pub(crate) driver: D,
    pub(crate) config: Config,
    pub(crate) idle: IdlePolicy,
    pub(crate) thread_name: String,
    pub(crate) core: Option<usize>,
}

impl<D: Driver + 'static> Datapath<D> {
    /// Starts the thread; returns when it is pinned and its engine exists.
    pub(crate) fn start(self) -> io::Result<Arc<EngineHandle>> {
        if self.thread_name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the engine thread's name contains a NUL"));
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|e| io::Error::other(format!("no randomness for the engine's seed: {e}")))?;

        let local = self.driver.home();
        let handle = EngineHandle::new(Intake::new(), local, self.config.max_message as usize);
        let (intake, status) = (Arc::clone(&handle.intake), Arc::clone(&handle.status));
        let (tell, told) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(self.thread_name.clone());
        thread.spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.run(&intake, &status, seed, &tell)));
            // The engine is gone by now, also after a panic: whoever waited for a flow was woken.
            status.end(match outcome {
                Ok(()) => Outcome::Finished,
                Err(panic) => {
                    let text = panic.downcast_ref::<&str>().copied();
                    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                    tracing::error!(%local, panic = text.unwrap_or("?"), "engine thread panicked");
                    Outcome::Panicked
                }
            });
        })?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the engine thread panicked at its start")))?;
        tracing::debug!(%local, "endpoint started");
        Ok(handle)
    }

    /// The thread's body, until the application has gone and every flow has ended.
    fn run(self, intake: &Arc<Intake>, status: &Status, seed: [u8; 32], tell: &mpsc::SyncSender<io::Result<()>>) {
        let local = self.driver.home();
        let start = || -> io::Result<_> {
            if let Some(core) = self.core {
                pin_to_core(core)?;
            }
            // The default slack of 50 µs would blunt every timer. Best effort.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000));
            let parker = Parker::new()?;
            let channel = LocalChannel::new(Arc::clone(intake));
            let engine = Engine::new(self.driver, channel, self.config, seed)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            Ok((engine, parker))
        };
        match start() {
            Ok((engine, parker)) => {
                let _ = tell.send(Ok(()));
                drive(engine, &parker, intake, status, self.idle);
                tracing::debug!(%local, "endpoint ended");
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    }
}

/// Counters are published at least every so many rounds while the engine is busy, and whenever it becomes quiet.
const PUBLISH_EVERY: u32 = 256;

fn drive<D: Driver>(
    mut engine: Engine<D, LocalChannel>,
    parker: &Parker,
    intake: &Intake,
    status: &Status,
    policy: IdlePolicy,
) {
    let epoch = std::time::Instant::now();
    let mut idle = Idle::new(policy);
    let mut unpublished = 0;
    loop {
        // Read before the round: a request that comes after this must keep the engine from going to sleep.
        let closing = intake.is_closing();
        let now = Instant(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let progress = engine.poll(now);
        if engine.is_finished() {
            break;
        }
        if progress.busy {
            idle.busy();
            unpublished += 1;
            if unpublished >= PUBLISH_EVERY && status.publish(engine.stats()) {
                unpublished = 0;
            }
            continue;
        }
        if unpublished > 0 && status.publish(engine.stats()) {
            unpublished = 0;
        }
        match idle.quiet(now, progress.next_deadline) {
            Step::Spin => std::hint::spin_loop(),
            Step::Park if unpublished == 0 => {
                let timeout = progress.next_deadline.map(|at| at.since(now));
                parker.park(&mut engine, intake, timeout, || intake.is_closing() == closing);
            }
            // Also if the counters could not be published because somebody reads them this very moment.
            Step::Park | Step::Yield => std::thread::yield_now(),
        }
    }
    *lock(&status.stats) = engine.stats();
}

fn pin_to_core(core: usize) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let pinned = (core < CpuSet::MAX_CPU)
        .then(|| {
            let mut only = CpuSet::new();
            only.set(core);
            rustix::thread::sched_setaffinity(None, &only).ok()
        })
        .flatten();
    pinned.ok_or_else(|| {
        let allowed: Vec<_> =
            (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).map(|cpu| cpu.to_string()).collect();
        let text = format!("cannot pin the engine to core {core}; its thread may run on: {}", allowed.join(", "));
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// What endpoints, listeners and flows hold of their engine. The last one dropped asks it to end.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    intake: Arc<Intake>,
    status: Arc<Status>,
    local: SocketAddr,
    max_message: usize,
}

impl EngineHandle {
    pub(crate) fn new(intake: Arc<Intake>, local: SocketAddr, max_message: usize) -> Arc<Self> {
        Arc::new(Self { intake, status: Arc::new(Status::default()), local, max_message })
    }

    pub(crate) const fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// True once the endpoint was shut down, or its engine is gone.
    pub(crate) fn is_closing(&self) -> bool {
        self.intake.is_closing()
    }

    /// The address flows leave from.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The largest message, bytes.
    pub(crate) const fn max_message(&self) -> usize {
        self.max_message
    }

    /// The counters as last published.
    pub(crate) fn stats(&self) -> EngineStats {
        *lock(&self.status.stats)
    }

    /// What the thread does last.
    #[cfg(test)]
    pub(crate) fn end(&self) {
        self.status.end(Outcome::Finished);
    }

    /// Resolves when the engine is gone.
    pub(crate) fn ended(&self) -> Ended {
        Ended { status: Arc::clone(&self.status), key: None }
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.intake.shut_down();
    }
}

/// How an engine thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    Panicked,
}

/// What an engine thread tells about itself. Its locks are held for a copy, by the engine never waited for.
#[derive(Debug, Default)]
struct Status {
    stats: Mutex<EngineStats>,
    exit: Mutex<Exit>,
}

#[derive(Debug, Default)]
struct Exit {
    outcome: Option<Outcome>,
    waiting: Slab<Waker>,
}

impl Status {
    /// False if somebody reads the counters this moment: try again.
    fn publish(&self, stats: EngineStats) -> bool {
        match self.stats.try_lock() {
            Ok(mut published) => *published = stats,
            Err(TryLockError::Poisoned(poisoned)) => *poisoned.into_inner() = stats,
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }

    fn end(&self, outcome: Outcome) {
        let mut exit = lock(&self.exit);
        exit.outcome = Some(outcome);
        let waiting = std::mem::take(&mut exit.waiting);
        drop(exit);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// None of these locks guards an invariant that a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when the engine is gone: every flow of it has its final state.
#[derive(Debug)]
pub(crate) struct Ended {
    status: Arc<Status>,
    key: Option<usize>,
}

impl Future for Ended {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let mut exit = lock(&this.status.exit);
        if let Some(outcome) = exit.outcome {
            this.key = None;
            return Poll::Ready(outcome);
        }
        match this.key {
            Some(key) => exit.waiting[key].clone_from(cx.waker()),
            None => this.key = Some(exit.waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // Nothing if the engine has ended meanwhile: it took all wakers along.
            drop(lock(&self.status.exit).waiting.try_remove(key));
        }
    }
}
