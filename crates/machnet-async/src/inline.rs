//! The inline placement: an engine polled by the application's own current-thread runtime.
//!
//! ```text
//!   round ─ moved something, or idle for less than the policy says ─▶ wakes itself: polled again after the tasks that
//!     ▲                                                              wait, without a look at epoll in between
//!     │   ─ woke somebody who has not answered ────────────────────▶ deferred: polled again after everybody else
//!     └── ─ idle for longer ───────────────────────────────────────▶ parked: doorbell, driver's descriptor, timerfd
//! ```
//!
//! Deferring is what lets the future of `block_on` run: the runtime polls it when its queue is empty (or after 61 tasks),
//! and a task that wakes itself is always in the queue. It costs one `epoll_wait` (about 0.5 µs), so it is done after a
//! round that woke somebody, unless whoever was woken has answered by the engine's next turn (then it was a task, not the
//! future of `block_on`), and else every eighth turn.
//!
//! The doorbell's waker is the task's own: rung on the runtime's thread, it pushes to the runtime's queue.

use std::future::{Future as _, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use machnet_channel::{Intake, ReadableFd};
use machnet_core::{Driver, Engine, LocalChannel};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::datapath::{Datapath, EngineHandle, Outcome, report_panic, seed};
use crate::parker::NAP;
use crate::runner::{Next, Runner};

impl<D: Driver + 'static> Datapath<D> {
    /// Spawns the engine on the current runtime.
    pub(crate) fn start_inline(self) -> io::Result<Arc<EngineHandle>> {
        let runtime = Handle::try_current().map_err(|_| unsupported("no tokio runtime is entered here"))?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Err(unsupported("this runtime has several worker threads, between which the engine would wander"));
        }
        if self.core.is_some() {
            let text = "an inline engine has no thread to pin: pin the runtime's";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if !self.recv_spin.is_zero() {
            let text = "an inline engine cannot run while `recv` spins: leave `recv_spin` out";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let local = self.driver.home();
        let max_message = self.config.max_message as usize;
        let handle = EngineHandle::new(Intake::new(), local, max_message, Duration::ZERO);
        handle.intake().set_inline();
        let channel = LocalChannel::new(Arc::clone(handle.intake()));
        let engine = Engine::new(self.driver, channel, self.config, seed()?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let bed = Bed::new(engine.driver())?;
        let mut runner = Runner::new(engine, Arc::clone(handle.status()), self.idle);
        runner.share_thread();
        let intake = Arc::clone(handle.intake());
        let mut task = Inline { runner: Some(runner), intake, bed, parked: false, turns: 0, woke: false };
        runtime.spawn(poll_fn(move |cx| task.turn(cx)));
        tracing::debug!(%local, "endpoint started inline");
        Ok(handle)
    }
}

fn unsupported(why: &str) -> io::Error {
    let text = format!("an inline engine needs a tokio current-thread runtime: {why}");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// However busy, the engine lets the future of `block_on`, timers and the descriptors of others have a turn after so many
/// of its own.
const DEFER_EVERY: u32 = 8;

/// The task.
struct Inline<D: Driver> {
    /// `None` once the engine has ended.
    runner: Option<Runner<D, LocalChannel>>,
    intake: Arc<Intake>,
    bed: Bed,
    /// The doorbell is armed.
    parked: bool,
    turns: u32,
    /// The last round woke somebody.
    woke: bool,
}

impl<D: Driver> Inline<D> {
    fn end(&mut self, outcome: Outcome) {
        if let Some(Runner { engine, status, .. }) = self.runner.take() {
            drop(engine); // first: who hears of the end finds every flow in its final state
            status.end(outcome);
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(runner) = &mut self.runner else { return Poll::Ready(()) };
        if std::mem::take(&mut self.parked) {
            runner.bell.disarm();
        }
        self.turns = self.turns.wrapping_add(1);
        let unanswered = std::mem::take(&mut self.woke) && !self.intake.has_hints();
        if unanswered || self.turns.is_multiple_of(DEFER_EVERY) {
            // Wakes this task when the runtime has nothing else to do; dropping it does not take that back.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let before = self.intake.woken();
        match catch_unwind(AssertUnwindSafe(|| runner.round())) {
            Ok(Next::Again | Next::Spin) => cx.waker().wake_by_ref(),
            Ok(Next::Yield) => {
                std::thread::yield_now();
                cx.waker().wake_by_ref();
            }
            Ok(Next::Park(timeout)) => {
                runner.bell.arm(cx.waker());
                self.parked = true;
                if runner.may_sleep() && self.bed.lie_down(cx, runner.engine.driver(), timeout) {
                    runner.status.count_park();
                } else {
                    cx.waker().wake_by_ref();
                }
            }
            Ok(Next::Finished) => {
                self.end(Outcome::Finished);
                return Poll::Ready(());
            }
            Err(panic) => {
                report_panic(runner.engine.driver().home(), &*panic);
                self.end(Outcome::Panicked);
                return Poll::Ready(());
            }
        }
        self.woke = self.intake.woken() != before;
        Poll::Pending
    }
}

impl<D: Driver> Drop for Inline<D> {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}

/// What a parked engine is woken by, besides its doorbell.
#[derive(Debug)]
struct Bed {
    /// A duplicate of the driver's; `None` if it has none.
    driver: Option<ReadableFd>,
    /// Tokio's own timers have a granularity of 1 ms.
    timer: ReadableFd,
}

impl Bed {
    fn new(driver: &impl Driver) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer: OwnedFd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let driver = driver.wait().map(|fd| fd.try_clone_to_owned().and_then(ReadableFd::register)).transpose()?;
        Ok(Self { driver, timer: ReadableFd::register(timer)? })
    }

    /// True if the task of `cx` will be woken when there is something to do; false if there is now.
    fn lie_down(&self, cx: &mut Context<'_>, driver: &impl Driver, timeout: Option<Duration>) -> bool {
        for fd in self.driver.iter().chain([&self.timer]) {
            // Old news: what made the descriptor readable was dealt with in rounds since. An error means that the
            // runtime is being dropped, and this task with it.
            while let Poll::Ready(Ok(())) = fd.poll_readable(cx) {}
        }
        // A descriptor that is readable already shows no edge. Looked at last, after the registration.
        if let Some(fd) = driver.wait() {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            if poll(&mut fds, Some(&Timespec::default())) != Ok(0) {
                return false;
            }
        }
        let timeout = if self.driver.is_some() { timeout } else { Some(timeout.map_or(NAP, |t| t.min(NAP))) };
        self.set_timer(timeout)
    }

    /// False if the timer cannot be set.
    fn set_timer(&self, timeout: Option<Duration>) -> bool {
        // Longer than the kernel can count is for ever. Zero would switch the timer off.
        let after = timeout.and_then(|t| Timespec::try_from(t.max(Duration::from_nanos(1))).ok());
        let it_value = after.unwrap_or_default();
        let spec = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).is_ok()
    }
}
