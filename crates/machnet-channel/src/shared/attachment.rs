//! Mailboxes and listeners of an endpoint, served from a region: what an engine does for those of its own process.
//!
//! ```text
//!   hints ─▶ outbox ──▶ pipe ──▶            who runs this:
//!            intent, consumed ──▶ words       · whoever hints, or finds nothing and is about to wait
//!   wakers ◀─ inbox ◀── pipe ◀──             · whoever looks for a while (`recv_spin`, a park hook)
//!   state, room ◀────── words ◀──            · whoever hears the bell
//! ```
//!
//! It is the state of a [`Poked`](crate::Poked): behind a lock that nobody waits for. Who finds it taken leaves, and the
//! holder does the work again. Wakers are called after the lock is let go.
//!
//! At the end of each turn the daemon is asked to ring, unless it knows, or has rung and the ring is on its way, or
//! somebody looks all the time. So there is always one of: a look to come, a ring on its way, or a daemon that will ring.

use super::app::AppSide;
use super::malformed::Malformed;
use super::served::Served;
use super::status::STATUS_COUNTERS;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::mutant;
use crate::{Intake, Poked, Words};

/// The connection beside the region: the bell, and the channel's life.
pub trait Line: Clone + Send + 'static {
    /// Rings the daemon. Does not block.
    fn ring(&self);

    /// Hears the daemon's rings. True if the connection is closed.
    fn hear(&self) -> bool;

    /// The channel is over, and everybody who waited was told. Called without the lock.
    fn over(&self, why: &Over);
}

/// Why a channel is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The endpoint was shut down, and every flow has ended.
    Finished,
    /// The daemon closed the connection, or died.
    Gone,
    /// It wrote what cannot be.
    Broken(Malformed),
    /// It did not answer for so long that it was given up.
    Silent,
}

/// What becomes of the endpoint when its daemon is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Listeners end, as flows do.
    Ends,
    /// Listeners wait for [`Attachment::attach`].
    Reattaches,
}

/// What others tell whoever has the lock, and counts.
#[derive(Debug)]
pub(super) struct Told {
    /// The bell may have rung.
    pub(super) rung: AtomicBool,
    /// How many look all the time.
    pub(super) looking: AtomicU32,
    pub(super) rings: AtomicU64,
    pub(super) heard: AtomicU64,
    /// The daemon is to be asked whether it is there, and whether it has answered so far: [`UNASKED`] and so on.
    pub(super) asks: AtomicU32,
    pub(super) answers: AtomicU32,
    /// It is given up.
    pub(super) silent: AtomicBool,
}

/// Whether to ask: only if something would be lost with the daemon, or in any case.
pub(super) const ASKS_NOT: u32 = 0;
pub(super) const ASKS_IF_USED: u32 = 1;
pub(super) const ASKS: u32 = 2;

/// What is known of the answer to the last question.
pub(super) const UNASKED: u32 = 0;
pub(super) const ANSWERED: u32 = 1;
pub(super) const UNANSWERED: u32 = 2;

/// An endpoint's flows and listeners, attached to a daemon.
#[derive(Debug)]
pub struct Attachment<W, L> {
    served: std::sync::Arc<Poked<Served<W, L>>>,
    told: Arc<Told>,
}

impl<W, L> Clone for Attachment<W, L> {
    fn clone(&self) -> Self {
        Self { served: std::sync::Arc::clone(&self.served), told: Arc::clone(&self.told) }
    }
}

impl<W: Words + Clone + Send + 'static, L: Line> Attachment<W, L> {
    /// Serves `intake` through `side`. The owner of the intake puts this in the engine's place.
    #[must_use]
    pub fn new(intake: &Arc<Intake>, side: AppSide<W>, line: L, afterwards: Afterwards) -> Self {
        let told = Arc::new(Told {
            rung: AtomicBool::new(false),
            looking: AtomicU32::new(0),
            rings: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            asks: AtomicU32::new(ASKS_NOT),
            answers: AtomicU32::new(UNASKED),
            silent: AtomicBool::new(false),
        });
        let served = Served::new(Arc::clone(intake), Arc::clone(&told), side, line, afterwards);
        Self { served: Poked::new(served), told }
    }

    /// Does what can be done by now; if somebody is at it, they do it once more.
    pub fn pump(&self) {
        self.served.poke();
    }

    /// The bell may have rung, or the connection be closed.
    pub fn rung(&self) {
        self.told.rung.store(true, Ordering::Release);
        self.served.poke();
    }

    /// True if the daemon did something that nobody looked at. False also if somebody is at it.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.served.try_with(|served| served.has_news()).unwrap_or(false)
    }

    /// From now on, or no more, somebody looks all the time: the daemon need not ring.
    pub fn looks(&self, on: bool) {
        if on {
            self.told.looking.fetch_add(1, Ordering::AcqRel);
            // What was asked for is taken back, if nobody is at it. Else a ring may come that nobody needs.
            let _ = self.served.try_with(|served| served.stop_asking());
        } else {
            self.told.looking.fetch_sub(1, Ordering::AcqRel);
            // Who holds the lock may have seen us look: it works once more, and asks.
            if !mutant!("attached_leave") {
                self.served.poke();
            }
        }
    }

    /// After [`Over::Gone`] or [`Over::Broken`]: goes on with another daemon, or the same that came back. Listeners that
    /// waited for it are opened again.
    pub fn attach(&self, side: AppSide<W>, line: L) {
        self.served.with(|served| served.attach(side, line));
        self.served.poke();
    }

    /// After [`Over::Gone`] or [`Over::Broken`]: there will be no other daemon. Listeners that waited end.
    pub fn give_up(&self) {
        drop(self.served.with(Served::give_up));
    }

    /// Asks the daemon whether it is there, and says what became of the question before: answered or not, or `None` if there was
    /// none, there is no daemon, or it answers none. Unless `always`, only if there are flows or listeners.
    pub fn beat(&self, always: bool) -> Option<bool> {
        let asks = if always { ASKS } else { ASKS_IF_USED };
        self.told.asks.fetch_max(asks, Ordering::AcqRel);
        self.served.poke();
        match self.told.answers.load(Ordering::Acquire) {
            ANSWERED => Some(true),
            UNANSWERED => Some(false),
            _ => None,
        }
    }

    /// The daemon does not answer, and is given up: [`Over::Silent`].
    pub fn give_up_daemon(&self) {
        self.told.silent.store(true, Ordering::Release);
        self.served.poke();
    }

    /// The counters of the daemon's engine as of its last answer, if somebody is not at it and it gives any.
    #[must_use]
    pub fn counters(&self) -> Option<[u64; STATUS_COUNTERS]> {
        self.served.try_with(|served| served.counters()).flatten()
    }

    /// Rings sent to the daemon, and times that its rings were heard.
    #[must_use]
    pub fn rings(&self) -> (u64, u64) {
        (self.told.rings.load(Ordering::Relaxed), self.told.heard.load(Ordering::Relaxed))
    }
}
