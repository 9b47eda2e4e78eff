//! The park hook: a runtime that is about to sleep while a flow waits stays awake for a moment, and is woken for free.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use machnet_channel::{Pump, Spinning, current};
use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};

use crate::IdlePolicy;

/// How a current-thread tokio runtime waits for its flows before it parks. For [`park_hook`], with other times.
///
/// Once per park, and only if a task of the runtime began to wait for a flow since the last one, the thread spins for
/// [`ParkHook::spin_for`], then yields for [`ParkHook::yield_for`], and looks meanwhile whether an engine has something
/// for it. If so, it wakes the tasks itself and the runtime does not park.
///
/// While the hook waits, nothing else happens on the runtime: timers and other descriptors are late by up to both times
/// together. Tasks woken by other threads end the wait. A wait in vain is the last one until a flow gets something again:
/// a runtime whose flows are silent sleeps, and whatever else it does is not delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is `build` that makes the hook"]
pub struct ParkHook {
    spin_for: Duration,
    yield_for: Duration,
}

impl ParkHook {
    /// Yields for 100 µs, as engines do by default.
    pub const fn new() -> Self {
        Self { spin_for: Duration::ZERO, yield_for: IdlePolicy::DEFAULT_YIELD }
    }

    /// How long to look without giving the core away. Default: not at all. Up to 100 µs if the engine's thread has a core
    /// of its own: a runtime that spins on the engine's core keeps it from running.
    pub const fn spin_for(mut self, spin_for: Duration) -> Self {
        self.spin_for = spin_for;
        self
    }

    /// How long to look after that, giving the core away in between. Default: 100 µs.
    pub const fn yield_for(mut self, yield_for: Duration) -> Self {
        self.yield_for = yield_for;
        self
    }

    /// The hook, for [`tokio::runtime::Builder::on_thread_park`]. One for each runtime. In a runtime with several workers it
    /// does nothing: use [`EndpointBuilder::recv_spin`](crate::EndpointBuilder::recv_spin) there.
    pub fn build(self) -> impl Fn() + Send + Sync + 'static {
        let hook = Hook::new(self);
        move || hook.on_park()
    }
}

thread_local! {
    /// What tasks on this thread began to wait for since it parked.
    static PUMPS: RefCell<Vec<Arc<dyn Pump>>> = const { RefCell::new(Vec::new()) };
}

/// A task on this thread waits for the engine that `pump` stands for. Of use if the thread's runtime has a hook.
pub(crate) fn waits_for<P: Pump + 'static>(pump: impl FnOnce() -> Option<Arc<P>>) {
    if current::has_spinner()
        && let Some(pump) = pump()
    {
        let pump: Arc<dyn Pump> = pump;
        PUMPS.with_borrow_mut(|pumps| {
            if !pumps.iter().any(|known| Arc::ptr_eq(known, &pump)) {
                pumps.push(pump);
            }
        });
    }
}

/// What a runtime calls before it parks.
#[derive(Debug)]
struct Hook {
    times: ParkHook,
    spinning: Spinning,
    #[cfg(test)]
    waits: std::sync::atomic::AtomicU64,
}

impl Hook {
    fn new(times: ParkHook) -> Self {
        Self {
            times,
            spinning: Spinning::new(),
            #[cfg(test)]
            waits: std::sync::atomic::AtomicU64::new(0),
        }
    }

    fn on_park(&self) {
        if current::enter(self.spinning.spinner())
            && self.spinning.pays()
            && let Ok(runtime) = Handle::try_current()
            && runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
        {
            self.wait(&runtime.metrics());
        }
        PUMPS.take();
    }

    fn wait(&self, runtime: &RuntimeMetrics) {
        #[cfg(test)]
        self.waits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let Self { times: ParkHook { spin_for, yield_for }, spinning, .. } = self;
        let limit = *spin_for + *yield_for;
        let began = Instant::now();
        let pumps = PUMPS.take();
        pumps.iter().for_each(|pump| pump.looks(true));
        spinning.begin();
        // Besides engines, other threads may wake tasks, and an engine may have done so an instant ago.
        while spinning.drain() == 0 && !spinning.was_called() && runtime.global_queue_depth() == 0 {
            let waited = began.elapsed();
            if waited >= limit {
                spinning.was_in_vain();
                break;
            }
            // Engines of other processes hand over what this thread finds.
            for pump in pumps.iter().filter(|pump| pump.has_news()) {
                pump.pump();
            }
            if waited < *spin_for {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        spinning.end();
        pumps.iter().for_each(|pump| pump.looks(false));
    }
}

impl Default for ParkHook {
    fn default() -> Self {
        Self::new()
    }
}

/// A hook for [`tokio::runtime::Builder::on_thread_park`] that lets the runtime wait awake for its flows, up to 100 µs at a
/// time: a message then costs neither the engine nor the runtime a system call. [`ParkHook`] has the details.
///
/// The builder has one slot for such hooks; whoever needs another calls both from one closure.
///
/// ```
/// let hook = machnet_async::park_hook();
/// let runtime = tokio::runtime::Builder::new_current_thread()
///     .enable_all()
///     .on_thread_park(move || {
///         // … whatever else is to be done …
///         hook();
///     })
///     .build()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn park_hook() -> impl Fn() + Send + Sync + 'static {
    ParkHook::new().build()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::tests::Rig;

    /// A runtime with a silent flow sleeps: it waits for it in vain once, and again only after a flow got something.
    #[test]
    fn waits_in_vain_once() {
        const PARKS: usize = 20;
        let hook = Arc::new(Hook::new(ParkHook::new().yield_for(Duration::from_micros(10))));
        let on_park = Arc::clone(&hook);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .on_thread_park(move || on_park.on_park())
            .build()
            .unwrap();
        runtime.block_on(async {
            let (endpoint, mut rig) = Rig::new();
            let (mut flow, slot) = rig.flow(&endpoint);
            // The first park of a runtime is where tasks learn who spins for them.
            tokio::time::sleep(Duration::from_millis(1)).await;
            for messages in 1..=3 {
                for _ in 0..PARKS {
                    // A task begins to wait for the flow, and the runtime parks for a timer.
                    let mut recv = std::pin::pin!(flow.recv());
                    let waits = std::future::poll_fn(|cx| Poll::Ready(recv.as_mut().poll(cx).is_pending())).await;
                    assert!(waits);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                assert_eq!(hook.waits.load(Relaxed), messages, "waits in vain");
                rig.deliver(slot, "x");
                let Poll::Ready(message) = std::pin::pin!(flow.recv()).poll(&mut Context::from_waker(Waker::noop()))
                else {
                    panic!("it is there")
                };
                assert_eq!(message.unwrap().unwrap(), "x");
            }
        });
    }
}
