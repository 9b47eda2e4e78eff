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

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use machnet_channel::{CloseReason, FlowState, Intake};
use machnet_core::{AppChannel, Config, Driver, Engine, EngineStats, LocalChannel, Member};
use rustix::thread::CpuSet;
use slab::Slab;

use crate::IdlePolicy;
use crate::parker::Parker;
use crate::runner::{Next, Runner};

/// What an engine is made of, and how it is run.
#[derive(Debug)]
pub(crate) struct Datapath<D> {
    pub(crate) driver: D,
    pub(crate) config: Config,
    pub(crate) idle: IdlePolicy,
    pub(crate) thread_name: String,
    pub(crate) core: Option<usize>,
    pub(crate) recv_spin: Duration,
}

impl<D: Driver + 'static> Datapath<D> {
    /// Starts the thread; returns when it is pinned and its engine exists.
    pub(crate) fn start(self) -> io::Result<Arc<EngineHandle>> {
        self.start_as(Intake::new(), None)
    }

    /// Starts a thread for each of `engines` engines, on drivers that the one is divided into.
    pub(crate) fn start_several(self, engines: usize) -> io::Result<Vec<Arc<EngineHandle>>> {
        let Self { driver, config, idle, thread_name, core, recv_spin } = self;
        let intakes: Vec<_> = (0..engines).map(|_| Intake::new()).collect();
        let bells: Vec<_> = intakes.iter().map(|intake| Arc::clone(intake.bell())).collect();
        let members = Member::group(&bells, seed()?);
        let parts = driver.split(engines)?.into_iter().zip(intakes).zip(members).enumerate();
        parts
            .map(|(n, ((driver, intake), member))| {
                let thread_name = format!("{thread_name}-{n}");
                let core = core.map(|core| core + n);
                Self { driver, config, idle, thread_name, core, recv_spin }.start_as(intake, Some(member))
            })
            .collect()
    }

    fn start_as(self, intake: Arc<Intake>, member: Option<Member>) -> io::Result<Arc<EngineHandle>> {
        let Self { driver, config, idle, thread_name, core, recv_spin } = self;
        let local = driver.home();
        let handle = EngineHandle::new(intake, local, config.max_message as usize, recv_spin);
        let channel = LocalChannel::new(Arc::clone(&handle.intake));
        let thread = EngineThread { driver, channel, config, idle, name: thread_name, core, nice: None };
        thread.start_as(&handle.status, member)?;
        tracing::debug!(%local, "endpoint started");
        Ok(handle)
    }
}

/// What an engine thread is made of, whoever its applications are.
#[derive(Debug)]
pub struct EngineThread<D, C> {
    /// What it drives.
    pub driver: D,
    /// Its applications.
    pub channel: C,
    /// Limits and times.
    pub config: Config,
    /// What it does when nothing is to be done.
    pub idle: IdlePolicy,
    /// Its name, of which Linux keeps 15 bytes.
    pub name: String,
    /// The only core it may run on.
    pub core: Option<usize>,
    /// How nice it is, if the system lets it; as the process, if it is none.
    pub nice: Option<i32>,
}

impl<D: Driver + 'static, C: AppChannel + 'static> EngineThread<D, C> {
    /// Starts the thread, which tells `status`; returns when it is pinned and its engine exists.
    ///
    /// # Errors
    /// As [`EndpointBuilder::start`](crate::EndpointBuilder::start).
    pub fn start(self, status: &Arc<Status>) -> io::Result<()> {
        self.start_as(status, None)
    }

    /// [`EngineThread::start`] for one of several engines of an endpoint, if it is one.
    ///
    /// # Errors
    /// As [`EngineThread::start`].
    pub fn start_as(self, status: &Arc<Status>, member: Option<Member>) -> io::Result<()> {
        if self.name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the engine thread's name contains a NUL"));
        }
        let seed = seed()?;
        let local = self.driver.home();
        let status = Arc::clone(status);
        let (tell, told) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(self.name.clone());
        thread.spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.run(&status, seed, member, &tell)));
            // The engine is gone by now, also after a panic: whoever waited for a flow was woken.
            status.end(match outcome {
                Ok(()) => Outcome::Finished,
                Err(panic) => {
                    report_panic(local, &*panic);
                    Outcome::Panicked
                }
            });
        })?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the engine thread panicked at its start")))
    }

    /// The thread's body, until the applications have gone and every flow has ended.
    fn run(
        self,
        status: &Arc<Status>,
        seed: [u8; 32],
        member: Option<Member>,
        tell: &mpsc::SyncSender<io::Result<()>>,
    ) {
        let local = self.driver.home();
        let start = || -> io::Result<_> {
            if let Some(core) = self.core {
                pin_to_core(core)?;
            }
            if let Some(nice) = self.nice
                && let Err(error) = rustix::process::setpriority_process(None, nice)
            {
                tracing::warn!(%error, nice, "the engine's thread keeps the priority of its process");
            }
            // The default slack of 50 µs would blunt every timer. Best effort.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000));
            let parker = Parker::new()?;
            let engine = match member {
                Some(member) => Engine::join(self.driver, self.channel, self.config, seed, member),
                None => Engine::new(self.driver, self.channel, self.config, seed),
            };
            let engine = engine.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            Ok((Runner::new(engine, Arc::clone(status), self.idle), parker))
        };
        match start() {
            Ok((runner, parker)) => {
                let _ = tell.send(Ok(()));
                drive(runner, &parker);
                tracing::debug!(%local, "engine ended");
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    }
}

fn drive<D: Driver, C: AppChannel>(mut runner: Runner<D, C>, parker: &Parker) {
    loop {
        match runner.round() {
            Next::Again => {}
            Next::Spin => std::hint::spin_loop(),
            Next::Yield => std::thread::yield_now(),
            Next::Park(timeout) => parker.park(&mut runner, timeout),
            Next::Finished => break,
        }
    }
}

/// Unpredictable to peers: flow ids are drawn from it.
///
/// # Errors
/// The system has no randomness.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| io::Error::other(format!("no randomness for the engine's seed: {e}")))?;
    Ok(seed)
}

pub(crate) fn report_panic(local: SocketAddr, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(%local, panic = text.unwrap_or("?"), "engine panicked");
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
    home: Arc<Home>,
    /// How long `recv` looks before it waits.
    recv_spin: Duration,
}

impl EngineHandle {
    pub(crate) fn new(intake: Arc<Intake>, local: SocketAddr, max_message: usize, recv_spin: Duration) -> Arc<Self> {
        let home = Arc::new(Home(Mutex::new((local, max_message))));
        Arc::new(Self { intake, status: Arc::new(Status::default()), home, recv_spin })
    }

    /// How long `recv` looks before it waits.
    pub(crate) const fn recv_spin(&self) -> Duration {
        self.recv_spin
    }

    pub(crate) const fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// True once the endpoint was shut down, or its engine is gone.
    pub(crate) fn is_closing(&self) -> bool {
        self.intake.is_closing()
    }

    /// Why a flow in this state is over, if it is. What an engine that is shut down could not finish within the linger it
    /// aborts; to the application that is the shutdown.
    pub(crate) fn reason(&self, state: FlowState) -> Option<CloseReason> {
        match state.reason() {
            Some(CloseReason::Aborted) if self.is_closing() => Some(CloseReason::Shutdown),
            reason => reason,
        }
    }

    /// The address flows leave from.
    pub(crate) fn local(&self) -> SocketAddr {
        lock(&self.home.0).0
    }

    /// Where the address is kept: an engine in another process may come back with another.
    pub(crate) const fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// The largest message, bytes.
    pub(crate) fn max_message(&self) -> usize {
        lock(&self.home.0).1
    }

    /// The counters as last published.
    pub(crate) fn stats(&self) -> EngineStats {
        match self.intake.pump() {
            Some(pump) => EngineStats::from_words(&pump.counters().unwrap_or_default()),
            None => self.status.stats(),
        }
    }

    /// Who tells about the engine.
    pub(crate) const fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// What the thread does last.
    #[cfg(test)]
    pub(crate) fn end(&self) {
        self.status.end(Outcome::Finished);
    }

    /// Resolves when the engine is gone.
    pub(crate) fn ended(&self) -> Ended {
        Status::ended(&self.status)
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.intake.shut_down();
    }
}

/// An engine's address, and the largest message, bytes. Locked for a copy.
#[derive(Debug)]
pub(crate) struct Home(Mutex<(SocketAddr, usize)>);

impl Home {
    pub(crate) fn set(&self, local: SocketAddr, max_message: usize) {
        *lock(&self.0) = (local, max_message);
    }
}

/// How an engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its applications have gone, and every flow has ended.
    Finished,
    /// It panicked.
    Panicked,
    /// The runtime that polled it is gone.
    Abandoned,
    /// It was another process's, which is gone.
    DaemonGone,
}

/// What an engine tells about itself. Its locks are held for a copy, by the engine never waited for.
#[derive(Debug, Default)]
pub struct Status {
    stats: Mutex<EngineStats>,
    exit: Mutex<Exit>,
    /// How often the engine went to sleep; written by the engine only.
    parks: AtomicU64,
    /// It was another process's, which is gone for good.
    gone: AtomicBool,
    /// It is another process's, which is away.
    detached: AtomicBool,
}

#[derive(Debug, Default)]
struct Exit {
    outcome: Option<Outcome>,
    waiting: Slab<Waker>,
}

impl Status {
    /// The counters as last published.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        *lock(&self.stats)
    }

    /// Resolves when the engine is gone.
    #[must_use]
    pub fn ended(this: &Arc<Self>) -> Ended {
        Ended { status: Arc::clone(this), key: None }
    }

    pub(crate) fn set_stats(&self, stats: EngineStats) {
        *lock(&self.stats) = stats;
    }

    pub(crate) fn count_park(&self) {
        self.parks.store(self.parks.load(Relaxed) + 1, Relaxed);
    }

    /// How often the engine went to sleep.
    #[must_use]
    pub fn parks(&self) -> u64 {
        self.parks.load(Relaxed)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Relaxed);
    }

    pub(crate) fn set_detached(&self, detached: bool) {
        self.detached.store(detached, Relaxed);
    }

    /// True while the engine is another process's, which is away.
    pub(crate) fn is_detached(&self) -> bool {
        self.detached.load(Relaxed)
    }

    /// True if the engine was another process's, which is gone for good.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// False if somebody reads the counters this moment: try again.
    pub(crate) fn publish(&self, stats: EngineStats) -> bool {
        match self.stats.try_lock() {
            Ok(mut published) => *published = stats,
            Err(TryLockError::Poisoned(poisoned)) => *poisoned.into_inner() = stats,
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }

    pub(crate) fn end(&self, outcome: Outcome) {
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
pub struct Ended {
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
