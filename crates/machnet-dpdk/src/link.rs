//! What the queues of a port have in common: the device itself, whether there is a link, and what brings it back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dpdk_sys::dpdk_counters;
use machnet_channel::Tried;

use crate::attach::{Comeback, Rings, Started, remove, restart};
use crate::ffi;
use crate::gate::{self, Gate, Turn};
use crate::interface::is_running;

/// Between looks at the link.
const LINK_EVERY: Duration = Duration::from_millis(50);
/// How long a device that found its peer has to agree with it, before it is started or attached again: both sides' interrupt threads are in
/// that, and on a machine with more to do than cores each waits for its turn several times.
const AGREEMENT: Duration = Duration::from_secs(1);
/// The same where we hear that the peer is gone. A memif server that has not yet accepted a client that leaves dies of it: its driver
/// closes a descriptor that EAL's interrupt thread still waits for, and that panics (22.11's `memif_listener_handler`).
const HEARD_AGREEMENT: Duration = Duration::from_secs(30);
/// In the place of a port's number: it may not be used.
const AWAY: u32 = u32::MAX;

/// A device that was set up, until the last of its queues is gone.
pub(crate) struct Link {
    name: String,
    /// Which port it is, or [`AWAY`].
    id: AtomicU32,
    up: AtomicBool,
    /// Whoever polls in vain looks after it, one at a time.
    keeper: Tried<Keeper>,
    /// Of each engine, if somebody else changes what they use: another engine, or the driver.
    gates: Vec<Arc<Gate>>,
    /// Starting and ending is for EAL's interrupt thread.
    by_interrupts: bool,
    /// Goes after the device, which uses them to its end.
    rings: Rings,
}

struct Keeper {
    /// The port's number while nobody may use it, too.
    id: u16,
    /// It is being attached or started again, in another thread.
    busy: Option<JoinHandle<io::Result<Started>>>,
    /// The device is not attached, or is another thread's.
    away: bool,
    comeback: Comeback,
    /// The kernel's interface that it is, whose link its driver does not look at.
    interface: Option<String>,
    looked: Instant,
    /// When the device found its peer, until they agree, and how many peers had left then.
    found: Option<(Instant, u32)>,
}

/// The right to use one's queues of a port.
pub(crate) struct Inside<'a> {
    /// Which port.
    pub(crate) id: u16,
    _turn: Option<Turn<'a>>,
}

impl Link {
    pub(crate) fn new(
        (id, name): (u16, String),
        comeback: Comeback,
        interface: Option<String>,
        gates: Vec<Arc<Gate>>,
        by_interrupts: bool,
        rings: Rings,
    ) -> Self {
        let now = Instant::now();
        let keeper =
            Keeper { id, busy: None, away: false, comeback, interface, looked: now, found: Some((now, gate::left())) };
        let (up, keeper) = (AtomicBool::new(false), Tried::new(keeper));
        Self { name, id: AtomicU32::new(AWAY), up, keeper, gates, by_interrupts, rings }
    }

    pub(crate) fn start(&self) -> io::Result<()> {
        let Some(keeper) = self.keeper.get() else { return Ok(()) };
        ffi::start(keeper.id, self.by_interrupts)?;
        self.id.store(keeper.id.into(), Ordering::Release);
        self.up.store(keeper.link(), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn gate(&self, engine: usize) -> Option<Arc<Gate>> {
        self.gates.get(engine).cloned()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// The right to use the queues that `gate`, if there are gates, is in front of; none for the moment, or while the device is away.
    pub(crate) fn enter<'a>(&self, gate: Option<&'a Gate>) -> Option<Inside<'a>> {
        let turn = match gate {
            Some(gate) => Some(gate.enter()?),
            None => None,
        };
        // Behind the gate: who takes the device away has waited there since.
        u16::try_from(self.id.load(Ordering::Acquire)).ok().map(|id| Inside { id, _turn: turn })
    }

    pub(crate) fn counters(&self) -> dpdk_counters {
        let id = u16::try_from(self.id.load(Ordering::Relaxed)).ok();
        id.and_then(|id| ffi::counters(id).ok()).unwrap_or_default()
    }

    /// Looks at the link, if it is time.
    pub(crate) fn look(&self) {
        if let Some(mut keeper) = self.keeper.get()
            && keeper.looked.elapsed() >= LINK_EVERY
        {
            self.look_as(&mut keeper);
        }
    }

    #[cold]
    fn look_as(&self, keeper: &mut Keeper) {
        keeper.looked = Instant::now();
        if let Some(thread) = keeper.busy.take_if(|thread| thread.is_finished()) {
            self.take_over(keeper, thread);
        }
        let is_started = self.id.load(Ordering::Relaxed) != AWAY;
        let up = is_started && keeper.link();
        let was_up = self.up.swap(up, Ordering::Relaxed);
        if up != was_up {
            tracing::info!(port = %self.name, up, "link");
        }
        if up {
            keeper.found = None;
        }
        // One round later: what the link brought last was received.
        if !up && !was_up && !keeper.may_agree() {
            self.bring_back(keeper);
        }
    }

    /// Does what brings the link back, which may have to be tried again.
    fn bring_back(&self, keeper: &mut Keeper) {
        if keeper.busy.is_some() || matches!(keeper.comeback, Comeback::Alone) {
            return;
        }
        self.id.store(AWAY, Ordering::Relaxed);
        let gates = self.gates.clone();
        match &keeper.comeback {
            Comeback::Alone => {}
            Comeback::Start => keeper.busy = restart(keeper.id, self.by_interrupts, gates).ok(),
            Comeback::Attach(again) => {
                let old = (!keeper.away).then_some(keeper.id);
                // SAFETY: nobody uses the port until the thread has ended, which this device's end waits for; its pools go after it.
                if let Ok(thread) = unsafe { again.attach(old, self.rings.clone(), gates) } {
                    (keeper.away, keeper.busy) = (true, Some(thread));
                }
            }
        }
    }

    /// Takes the device over that was attached or started again.
    fn take_over(&self, keeper: &mut Keeper, thread: JoinHandle<io::Result<Started>>) {
        match thread.join() {
            Ok(Ok((id, left))) => {
                (keeper.id, keeper.away, keeper.found) = (id, false, Some((Instant::now(), left)));
                self.id.store(id.into(), Ordering::Release);
            }
            Ok(Err(error)) => tracing::debug!(port = %self.name, %error, "its peer is not there yet"),
            Err(_) => tracing::warn!(port = %self.name, "what brings it back panicked"),
        }
    }
}

impl Keeper {
    /// True if the device found a peer and may still come to an agreement with it.
    fn may_agree(&self) -> bool {
        let patience = match self.comeback {
            Comeback::Start => HEARD_AGREEMENT,
            _ => AGREEMENT,
        };
        self.found.is_some_and(|(at, left)| at.elapsed() < patience && left == gate::left())
    }

    /// What is known of the link; true if nothing is.
    fn link(&self) -> bool {
        let kernels = self.interface.as_deref().and_then(is_running);
        kernels.or_else(|| ffi::link_is_up(self.id)).unwrap_or(true)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(mut keeper) = self.keeper.get() else { return };
        if let Some(thread) = keeper.busy.take() {
            self.take_over(&mut keeper, thread);
        }
        if keeper.away {
            return;
        }
        let _control = crate::config::control();
        // The device gives back what it has while it goes.
        if let Err(error) = remove(keeper.id, &self.name) {
            tracing::warn!(port = %self.name, %error, "cannot remove");
        }
    }
}
