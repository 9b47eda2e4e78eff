//! Keeps an engine out of its queues while somebody else takes them away: an engine that brings the link of all of them back, or memif's
//! driver.
//!
//! That one hears its peer in EAL's interrupt thread, and unmaps and frees the rings there when the peer is gone, whoever is
//! in the middle of a burst: the burst goes on in memory that is not there (22.11's `memif_disconnect`, and later ones'). It has no
//! lock that we could take, but it logs each message before it acts on it, and our log is called in that very thread. So
//! - an engine holds its queue's mutex for the length of a burst, and never waits for it: a closed queue has nothing to receive, and
//!   room for nothing;
//! - the log closes all gates and returns when every burst has ended: the message is acted on after that;
//! - an alarm, which the same thread runs when it is done with the message, opens them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::ffi;

/// Who must log all that it does, as DPDK names it.
pub(crate) const DRIVER: &str = "pmd.net.memif*";
/// What memif's driver logs, first of all, when its peer says or does something.
const HEARD: &str = "memif_msg_receive(): ";
/// What it logs when it has closed a connection.
const LEFT: &str = "memif_disconnect(): Disconnected";
/// How often the end of a burst is looked for, and how long at most: one that logs while the log waits for it would never end.
const STEP: Duration = Duration::from_micros(20);
const STEPS: u32 = 10_000;

/// Messages that are being handled.
static HEARING: AtomicU32 = AtomicU32::new(0);
/// Connections that ended.
static ENDED: AtomicU32 = AtomicU32::new(0);
static GATES: Mutex<Vec<Weak<Gate>>> = Mutex::new(Vec::new());

/// Of the queues that one engine has.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<()>);

/// The right to use them.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

impl Gate {
    /// `by_driver`: what is behind it goes while peers are heard.
    pub(crate) fn new(by_driver: bool) -> Arc<Self> {
        let gate = Arc::new(Self::default());
        if by_driver {
            let mut gates = gates();
            gates.retain(|gate| gate.strong_count() > 0);
            gates.push(Arc::downgrade(&gate));
        }
        gate
    }

    /// The right to use the queues until it is dropped; none while the gate is closed. Never waits.
    pub(crate) fn enter(&self) -> Option<Turn<'_>> {
        // First without the mutex, so that an engine that polls on does not keep it from who closes the gate.
        if HEARING.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let inside = self.try_lock()?;
        // Whoever closed the gate before had the mutex since: it is seen here. Acquire: and what was done behind it, if it is open again.
        (HEARING.load(Ordering::Acquire) == 0).then_some(inside)
    }

    fn try_lock(&self) -> Option<Turn<'_>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Returns when nobody is inside who entered before, or after so many looks.
    fn wait(&self, looks: u32) {
        for _ in 0..looks {
            if self.try_lock().is_some() {
                return;
            }
            thread::sleep(STEP);
        }
    }

    /// Returns when nobody is inside who entered before.
    pub(crate) fn wait_for_all(gates: &[Arc<Self>]) {
        for gate in gates {
            drop(gate.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// How many memif connections of this process have ended so far.
pub(crate) fn left() -> u32 {
    ENDED.load(Ordering::Relaxed)
}

/// True for what is logged only because of the gates.
pub(crate) fn asked_for(line: &str) -> bool {
    line.contains("memif_")
}

/// What the peer says when it has another number of queues than we.
const REFUSALS: [&str; 3] = [
    "Disconnect received: Incorrect secret",
    "Disconnect received: Secret required",
    "Disconnect received: Invalid ring index",
];

/// How often it is told that a peer refuses: it is asked ten times a second.
const TOLD_EVERY: Duration = Duration::from_secs(60);

fn is_time_to_tell() -> bool {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let is_time = told.is_none_or(|at| at.elapsed() >= TOLD_EVERY);
    if is_time {
        *told = Some(Instant::now());
    }
    is_time
}

/// A line of the log, in the thread that logs it and before that goes on.
pub(crate) fn heard(line: &str) {
    if REFUSALS.iter().any(|refusal| line.contains(refusal)) && is_time_to_tell() {
        tracing::error!(
            "{line}: the peer has another number of queue pairs, or secret=: give both sides the same (queues=)"
        );
    }
    if line.contains(LEFT) {
        ENDED.fetch_add(1, Ordering::Relaxed);
    }
    if !line.contains(HEARD) {
        return;
    }
    HEARING.fetch_add(1, Ordering::Relaxed);
    let gates: Vec<_> = gates().iter().filter_map(Weak::upgrade).collect();
    for gate in gates {
        gate.wait(STEPS);
    }
    if ffi::after_interrupts(open).is_err() {
        open(std::ptr::null_mut());
    }
}

extern "C" fn open(_: *mut std::ffi::c_void) {
    HEARING.fetch_sub(1, Ordering::Release);
}

fn gates() -> MutexGuard<'static, Vec<Weak<Gate>>> {
    GATES.lock().unwrap_or_else(PoisonError::into_inner)
}
