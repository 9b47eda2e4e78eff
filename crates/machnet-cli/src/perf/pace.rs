//! Waiting for a moment, to the microsecond: tokio's own timers have a granularity of 1 ms.

use std::future::poll_fn;
use std::io;
use std::sync::Mutex;
use std::task::Poll;
use std::time::{Duration, Instant};

use machnet_channel::ReadableFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// What is nearer than this is waited for awake: to sleep and come back takes as long.
const NEAR: Duration = Duration::from_micros(50);

/// Wakes one task at given moments, by a timer of the kernel's.
pub(crate) struct Pacer {
    timer: ReadableFd,
    armed: Mutex<Option<Instant>>,
}

impl Pacer {
    /// For a task of this runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer: ReadableFd::register(timer)?, armed: Mutex::new(None) })
    }

    /// Resolves at `due`, or as soon after it as the task runs.
    pub(crate) async fn until(&self, due: Instant) -> io::Result<()> {
        poll_fn(|cx| {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Ready(Ok(()));
            }
            if left < NEAR {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            while let Poll::Ready(edge) = self.timer.poll_readable(cx) {
                edge?;
            }
            let mut armed = self.armed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if *armed != Some(due) {
                let it_value = Timespec::try_from(left).unwrap_or_default();
                let spec = Itimerspec { it_interval: Timespec::default(), it_value };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
                *armed = Some(due);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_early_and_again_and_again() {
        let pacer = Pacer::new().unwrap();
        for micros in [0, 10, 100, 2000, 1, 500] {
            let due = Instant::now() + Duration::from_micros(micros);
            pacer.until(due).await.unwrap();
            assert!(Instant::now() >= due);
        }
    }
}
