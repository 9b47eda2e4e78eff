//! What every placement does with its engine: rounds, the clock, the idle ladder, counters.

use std::sync::Arc;
use std::time::Duration;

use machnet_channel::Doorbell;
use machnet_core::{AppChannel, Driver, Engine, Instant};

use crate::IdlePolicy;
use crate::datapath::Status;
use crate::idle::{Idle, Step};
use crate::pace::Pace;
use crate::parker::NAP;

/// Counters are published at least every so many rounds while the engine is busy, and whenever it becomes quiet.
const PUBLISH_EVERY: u32 = 256;

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Next {
    /// The round moved something: another one at once.
    Again,
    /// Another one soon.
    Spin,
    /// Another one, after others had the core.
    Yield,
    /// Nothing to do for this long, or until somebody rings.
    Park(Option<Duration>),
    /// The engine has nothing more to do, ever.
    Finished,
}

/// An engine, its clock, and where it stands on the idle ladder.
#[derive(Debug)]
pub(crate) struct Runner<D: Driver, C: AppChannel> {
    pub(crate) engine: Engine<D, C>,
    /// The engine's.
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) status: Arc<Status>,
    idle: Idle,
    epoch: std::time::Instant,
    unpublished: u32,
    /// As the last round saw it.
    closing: bool,
    /// What keeps rounds short, if others wait for their end.
    pace: Option<Pace>,
}

impl<D: Driver, C: AppChannel> Runner<D, C> {
    pub(crate) fn new(engine: Engine<D, C>, status: Arc<Status>, policy: IdlePolicy) -> Self {
        let idle = Idle::new(policy);
        let idle = if engine.driver().wait().is_some() { idle } else { idle.napping(NAP) };
        Self {
            bell: engine.channel().bell(),
            engine,
            status,
            idle,
            epoch: std::time::Instant::now(),
            unpublished: 0,
            closing: false,
            pace: None,
        }
    }

    /// Applications share the thread: rounds take no longer than they can wait. And who cannot be woken looks a little longer before it
    /// gives the core away, for they run in between.
    pub(crate) fn share_thread(&mut self) {
        let pace = Pace::new();
        self.engine.set_burst(pace.burst());
        self.pace = Some(pace);
        if self.engine.driver().wait().is_none() {
            self.idle.looking();
        }
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// One round of the engine.
    pub(crate) fn round(&mut self) -> Next {
        // Read before the round: a request that comes after this must keep the engine from going to sleep.
        self.closing = self.engine.channel().is_closing();
        let now = self.now();
        let progress = self.engine.poll(now);
        if self.engine.is_finished() {
            self.status.set_stats(self.engine.stats());
            return Next::Finished;
        }
        if progress.busy {
            if self.pace.is_some() {
                let took = self.now().since(now);
                self.adjust(took, progress.full);
            }
            self.idle.busy(now);
            self.unpublished += 1;
            if self.unpublished >= PUBLISH_EVERY && self.status.publish(self.engine.stats()) {
                self.unpublished = 0;
            }
            return Next::Again;
        }
        if self.unpublished > 0 && self.status.publish(self.engine.stats()) {
            self.unpublished = 0;
        }
        match self.idle.quiet(now, progress.next_deadline) {
            Step::Spin => Next::Spin,
            Step::Park if self.unpublished == 0 => Next::Park(progress.next_deadline.map(|at| at.since(now))),
            // Also if the counters could not be published because somebody reads them this very moment.
            Step::Park | Step::Yield => Next::Yield,
        }
    }

    fn adjust(&mut self, took: Duration, full: bool) {
        if let Some(pace) = &mut self.pace
            && pace.took(took, full)
        {
            self.engine.set_burst(pace.burst());
        }
    }

    /// Called when the doorbell is armed: true if there is still nothing to do.
    pub(crate) fn may_sleep(&mut self) -> bool {
        let may = self.engine.channel().is_closing() == self.closing && self.engine.may_sleep();
        if may && self.engine.driver().wait().is_none() {
            self.engine.naps();
        }
        may
    }
}
