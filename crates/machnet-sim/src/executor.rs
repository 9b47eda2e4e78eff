//! Runs applications: tasks that are polled when, and only when, their waker was called.
//!
//! That is the point of it. A waker that an engine forgets to call, or calls before the news is visible, leaves its
//! task waiting for ever, and the world reports it as stuck.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use machnet_core::Instant;

/// What tasks see of the world: its clock, and how to start more tasks. Clones are the same.
#[derive(Clone)]
pub struct Handle(Rc<RefCell<Shared>>);

struct Shared {
    now: Instant,
    timers: BinaryHeap<Reverse<Timer>>,
    next_timer: u64,
    spawned: Vec<(String, Body)>,
}

type Body = Pin<Box<dyn Future<Output = ()>>>;

impl Handle {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// Waits until `at`.
    #[must_use]
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { handle: self.clone(), at }
    }

    /// Waits.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Starts a task. `name` is for reports.
    pub fn spawn<T: 'static>(&self, name: impl Into<String>, body: impl Future<Output = T> + 'static) -> Task<T> {
        let task = Task(Rc::new(RefCell::new(Outcome { value: None, waiter: None })));
        let outcome = Rc::clone(&task.0);
        let body = async move {
            let value = body.await;
            let mut outcome = outcome.borrow_mut();
            outcome.value = Some(value);
            if let Some(waiter) = outcome.waiter.take() {
                waiter.wake();
            }
        };
        self.0.borrow_mut().spawned.push((name.into(), Box::pin(body)));
        task
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// A task's result, to take or to await. Dropping it leaves the task alone.
#[derive(Debug)]
pub struct Task<T>(Rc<RefCell<Outcome<T>>>);

#[derive(Debug)]
struct Outcome<T> {
    value: Option<T>,
    waiter: Option<Waker>,
}

impl<T> Task<T> {
    /// True if the result is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.borrow().value.is_some()
    }

    /// The result, once, if the task is done.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        self.0.borrow_mut().value.take()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut outcome = self.0.borrow_mut();
        match outcome.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                outcome.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Resolves at a moment.
#[derive(Debug)]
pub struct Sleep {
    handle: Handle,
    at: Instant,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.handle.0.borrow_mut();
        if shared.now >= self.at {
            return Poll::Ready(());
        }
        let order = shared.next_timer;
        shared.next_timer += 1;
        shared.timers.push(Reverse(Timer { at: self.at, order, waker: cx.waker().clone() }));
        Poll::Pending
    }
}

struct Timer {
    at: Instant,
    order: u64,
    waker: Waker,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Tasks that were woken, in the order of their wake-ups.
#[derive(Debug, Default)]
struct Woken(Mutex<VecDeque<usize>>);

impl Woken {
    fn push(&self, task: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    }
}

struct TaskWaker {
    task: usize,
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.woken.push(self.task);
        }
    }
}

struct Running {
    name: String,
    body: Body,
    flag: Arc<TaskWaker>,
    waker: Waker,
}

/// The tasks of a world.
pub(crate) struct Executor {
    handle: Handle,
    tasks: Vec<Option<Running>>,
    woken: Arc<Woken>,
    /// Woken tasks and when they run.
    runs: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    next_run: u64,
    unfinished: usize,
    polls: u64,
}

impl Executor {
    pub(crate) fn new() -> Self {
        let shared = Shared { now: Instant::ZERO, timers: BinaryHeap::new(), next_timer: 0, spawned: Vec::new() };
        Self {
            handle: Handle(Rc::new(RefCell::new(shared))),
            tasks: Vec::new(),
            woken: Arc::default(),
            runs: BinaryHeap::new(),
            next_run: 0,
            unfinished: 0,
            polls: 0,
        }
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How often a task was polled.
    pub(crate) const fn polls(&self) -> u64 {
        self.polls
    }

    /// Adopts tasks that were spawned since; they run at once.
    fn adopt(&mut self) {
        let spawned = std::mem::take(&mut self.handle.0.borrow_mut().spawned);
        for (name, body) in spawned {
            let task = self.tasks.len();
            let flag = Arc::new(TaskWaker { task, queued: AtomicBool::new(false), woken: Arc::clone(&self.woken) });
            let waker = Waker::from(Arc::clone(&flag));
            waker.wake_by_ref();
            self.tasks.push(Some(Running { name, body, flag, waker }));
            self.unfinished += 1;
        }
    }

    pub(crate) fn is_done(&mut self) -> bool {
        self.adopt();
        self.unfinished == 0
    }

    pub(crate) fn unfinished(&self) -> Vec<String> {
        self.tasks.iter().flatten().map(|task| task.name.clone()).collect()
    }

    /// Drops every unfinished task, and with it what it holds.
    pub(crate) fn cancel(&mut self) {
        self.adopt();
        for task in &mut self.tasks {
            self.unfinished -= usize::from(task.take().is_some());
        }
    }

    /// Tasks woken since the last call run at `at`.
    pub(crate) fn schedule(&mut self, at: Instant) {
        self.adopt();
        let mut woken = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
        for task in woken.drain(..) {
            self.runs.push(Reverse((at, self.next_run, task)));
            self.next_run += 1;
        }
    }

    /// When a task wants to run next.
    pub(crate) fn next(&self) -> Option<Instant> {
        let timer = self.handle.0.borrow().timers.peek().map(|Reverse(timer)| timer.at);
        let run = self.runs.peek().map(|&Reverse((at, ..))| at);
        [timer, run].into_iter().flatten().min()
    }

    /// Runs everything due at `now`.
    pub(crate) fn run(&mut self, now: Instant) {
        self.handle.0.borrow_mut().now = now;
        self.schedule(now);
        loop {
            let due = self.handle.pop_timer();
            if let Some(waker) = due {
                waker.wake();
                self.schedule(now);
            } else if self.runs.peek().is_some_and(|&Reverse((at, ..))| at <= now) {
                if let Some(Reverse((_, _, task))) = self.runs.pop() {
                    self.poll(task);
                    self.schedule(now);
                }
            } else {
                break;
            }
        }
    }

    fn poll(&mut self, task: usize) {
        let Some(running) = &mut self.tasks[task] else { return };
        self.polls += 1;
        running.flag.queued.store(false, Ordering::Release);
        let mut cx = Context::from_waker(&running.waker);
        if running.body.as_mut().poll(&mut cx).is_ready() {
            self.tasks[task] = None;
            self.unfinished -= 1;
        }
    }
}

impl Handle {
    /// The waker of a timer that is due.
    fn pop_timer(&self) -> Option<Waker> {
        let mut shared = self.0.borrow_mut();
        let due = shared.timers.peek().is_some_and(|Reverse(timer)| timer.at <= shared.now);
        due.then(|| shared.timers.pop().map(|Reverse(timer)| timer.waker)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn tasks_run_when_woken_and_only_then() {
        let mut executor = Executor::new();
        let handle = executor.handle().clone();
        let sleeper = {
            let handle = handle.clone();
            executor.handle().spawn("sleeper", async move {
                handle.sleep(Duration::from_nanos(10)).await;
                handle.spawn("child", async { 7 }).await
            })
        };
        let _forgotten = handle.spawn("forgotten", poll_fn(|_| Poll::<()>::Pending));
        assert!(!executor.is_done());
        executor.run(Instant(0));
        assert_eq!((executor.polls(), executor.next()), (2, Some(Instant(10))));
        executor.run(Instant(9));
        assert_eq!(executor.polls(), 2);
        executor.run(Instant(10));
        assert_eq!((sleeper.take(), executor.next()), (Some(7), None));
        assert_eq!(executor.unfinished(), ["forgotten"]);
    }
}
