//! How an engine thread sleeps, and how applications wake it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use machnet_core::{AppChannel, Driver, Engine};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::runner::Runner;

/// An engine whose driver has nothing to sleep on looks at it this often.
pub(crate) const NAP: Duration = Duration::from_micros(250);

/// Where an engine thread sleeps: on its driver's file descriptor, its doorbell and a timeout.
#[derive(Debug)]
pub(crate) struct Parker {
    bell: Arc<BellFd>,
    waker: Waker,
}

impl Parker {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = Arc::new(BellFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        let waker = Waker::from(Arc::clone(&bell));
        Ok(Self { bell, waker })
    }

    /// Sleeps until there is something to do, at most for `timeout`.
    pub(crate) fn park<D: Driver, C: AppChannel>(&self, runner: &mut Runner<D, C>, timeout: Option<Duration>) {
        runner.bell.arm(&self.waker);
        // From here on whoever pushes a hint rings; what was pushed before is seen by this look.
        if runner.may_sleep() {
            runner.status.count_park();
            self.sleep(&runner.engine, timeout);
        }
        runner.bell.disarm();
    }

    fn sleep<D: Driver, C: AppChannel>(&self, engine: &Engine<D, C>, timeout: Option<Duration>) {
        let driver = engine.driver().wait();
        let timeout = if driver.is_some() { timeout } else { Some(timeout.map_or(NAP, |t| t.min(NAP))) };
        let mut fds = [(); 3].map(|()| PollFd::new(&self.bell.0, PollFlags::IN));
        let mut count = 1;
        for fd in [driver, engine.channel().wait()].into_iter().flatten() {
            fds[count] = PollFd::from_borrowed_fd(fd, PollFlags::IN);
            count += 1;
        }
        match poll(&mut fds[..count], timespec(timeout).as_ref()).map(|_| fds[0].revents()) {
            Ok(events) if !events.is_empty() => self.bell.clear(),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // Not expected of valid descriptors. Go on, but not in a hot loop.
                tracing::warn!(%error, "the engine thread cannot sleep on its driver");
                std::thread::sleep(NAP);
            }
        }
    }
}

/// `None` waits for ever, as does a time too long for the kernel.
fn timespec(timeout: Option<Duration>) -> Option<Timespec> {
    timeout.and_then(|t| Timespec::try_from(t).ok())
}

/// An eventfd as a waker.
#[derive(Debug)]
struct BellFd(OwnedFd);

impl BellFd {
    fn clear(&self) {
        let mut count = [0; 8];
        // `EAGAIN` if nobody rang after all: nothing to clear.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl Wake for BellFd {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Fails only if the counter is full, and then the descriptor polls readable anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}
