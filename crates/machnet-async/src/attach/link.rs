//! What the channels of an attached endpoint share: one for each engine of the daemon's, up and down together. Only an engine that
//! is silent while another one answers is given up alone: its channel has no daemon until all attach again.
//!
//! ```text
//!   up ── any channel is over ──▶ lost: the others are told ── reconnect ──▶ a thread dials ──▶ up
//!    │                                     └ never: gone
//!    └── a channel has nothing left: ended ── all have ──▶ whoever dials stops
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use machnet_channel::shared::Over;

use super::attached::Attached;
use super::dial::{Dialled, dial};
use super::{AttachBuilder, Reconnect};

#[derive(Debug)]
pub(super) struct Link {
    pub(super) builder: AttachBuilder,
    /// Each owns itself until it has ended, or lost its daemon for good.
    channels: OnceLock<Vec<Weak<Attached>>>,
    /// The daemon is gone, and everybody was told or is being told.
    lost: AtomicBool,
    /// An engine has left a question unanswered since all attached.
    doubted: AtomicBool,
    /// Channels that have not ended. Whoever attaches again waits here, and stops when there are none.
    left: Mutex<usize>,
    ending: Condvar,
}

impl Link {
    pub(super) fn new(builder: AttachBuilder, channels: usize) -> Arc<Self> {
        let (lost, doubted, ending) = (AtomicBool::new(false), AtomicBool::new(false), Condvar::new());
        Arc::new(Self { builder, channels: OnceLock::new(), lost, doubted, left: Mutex::new(channels), ending })
    }

    /// These are they.
    pub(super) fn set_channels(&self, channels: Vec<Weak<Attached>>) {
        let _ = self.channels.set(channels);
    }

    fn channels(&self) -> impl Iterator<Item = Arc<Attached>> {
        self.channels.get().into_iter().flatten().filter_map(Weak::upgrade)
    }

    fn left(&self) -> MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel has ended for good.
    pub(super) fn end(&self) {
        *self.left() -= 1;
        self.ending.notify_all();
    }

    /// True if all channels ended before `wait` was over.
    fn ends_within(&self, wait: Duration) -> bool {
        let left = self.ending.wait_timeout_while(self.left(), wait, |left| *left > 0);
        *left.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// An engine left a question unanswered.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// One engine does not answer: true if another one does.
    pub(super) fn goes_on(&self) -> bool {
        !self.lost.load(Ordering::Acquire) && self.channels().any(|channel| channel.answers())
    }

    /// A channel is over, and the endpoint did not end it: neither daemon nor application go on with the others.
    pub(super) fn lose(self: &Arc<Self>, why: &Over) {
        if self.lost.swap(true, Ordering::AcqRel) {
            return;
        }
        let path = self.builder.path.display();
        match why {
            Over::Finished => {}
            Over::Gone => tracing::warn!(%path, "the daemon is gone"),
            Over::Silent => tracing::error!(%path, "the daemon does not answer"),
            Over::Broken(what) => tracing::error!(%path, %what, "the daemon wrote what cannot be"),
        }
        self.channels().for_each(|channel| channel.hang_up(why));
        let (first, most) = match self.builder.reconnect {
            Reconnect::Never => return self.channels().for_each(|channel| channel.set_gone()),
            Reconnect::BackingOff { first, most } => (first, most),
        };
        let me = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("machnet-attach".to_owned());
        if let Err(error) = thread.spawn(move || attach_again(&me, first, most)) {
            tracing::error!(%path, %error, "no thread to attach again");
            self.channels().for_each(|channel| channel.give_up());
        }
    }

    /// Goes on with the daemon that answered. One with fewer engines than the last leaves channels without a daemon.
    fn attach(&self, dialled: Dialled) {
        let Dialled { welcome, channels } = dialled;
        let home = welcome.home;
        // Before the first of them can be lost again.
        self.lost.store(false, Ordering::Release);
        self.doubted.store(false, Ordering::Release);
        let mut fresh = channels.into_iter();
        for channel in self.channels() {
            let Some((socket, region)) = fresh.next() else { break };
            channel.attach(socket, region, &welcome);
        }
        tracing::info!(path = %self.builder.path.display(), %home, engines = welcome.channels, "attached again");
    }
}

/// Attaches again, sooner or later.
fn attach_again(me: &Weak<Link>, first: Duration, most: Duration) {
    let mut wait = first;
    while let Some(link) = me.upgrade() {
        if link.ends_within(wait) {
            return;
        }
        let path = &link.builder.path;
        let channels = link.channels.get().map_or(0, Vec::len) as u32;
        match dial(path, &link.builder.greeting(channels)) {
            Ok(dialled) => return link.attach(dialled),
            Err(error) => tracing::debug!(%error, ?wait, "not attached again yet"),
        }
        wait = (wait * 2).clamp(Duration::from_millis(1), most.max(Duration::from_millis(1)));
    }
}
