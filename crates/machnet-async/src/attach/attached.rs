//! What stands in the engine's place of an attached endpoint.
//!
//! ```text
//!   Endpoint, Listener, Flow ── EngineHandle ── Intake ──▶ Attached ──▶ Attachment (the pump) ──▶ region
//!                                                 ▲                        │ until the end
//!                                                 └────────────────────────┘
//! ```
//!
//! The intake and the pump hold each other until the endpoint has ended, or lost its daemon for good while it ended: so it
//! finishes what was sent after everything the application held is gone. Then nobody polls, and a thread listens.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use machnet_channel::shared::{Afterwards, AppSide, Attachment, Over};
use machnet_channel::{ForeignRegion, Intake, Pump};

use super::bells::{Bell, Bells, Connection};
use super::dial::{Dialled, dial};
use super::{AttachBuilder, Reconnect};
use crate::datapath::{EngineHandle, Outcome, Status};

#[derive(Debug)]
pub(super) struct Attached {
    me: Weak<Self>,
    builder: AttachBuilder,
    attachment: Attachment<Arc<ForeignRegion>, Bell>,
    bells: Bells,
    status: Arc<Status>,
    /// The endpoint was asked to end.
    closing: AtomicBool,
    /// Whoever attaches again waits here, and stops when the endpoint ends.
    ended: Mutex<bool>,
    ending: Condvar,
}

/// Attaches, and puts the pump into the engine's place.
pub(super) fn start(builder: AttachBuilder) -> io::Result<Arc<EngineHandle>> {
    let Dialled { socket, welcome, region } = dial(&builder.path, &builder.greeting())?;
    let intake = Intake::new();
    let handle = EngineHandle::new(Arc::clone(&intake), welcome.home, welcome.max_message as usize, builder.recv_spin);
    let attached = Arc::new_cyclic(|me: &Weak<Attached>| {
        let connection = Connection::new(socket, Weak::clone(me));
        let side = AppSide::new(Arc::new(region), &welcome.geometry, welcome.max_message);
        let afterwards = if builder.reconnect == Reconnect::Never { Afterwards::Ends } else { Afterwards::Reattaches };
        Attached {
            me: Weak::clone(me),
            attachment: Attachment::new(&intake, side, Bell(Arc::clone(&connection)), afterwards),
            bells: Bells::new(connection),
            status: Arc::clone(handle.status()),
            closing: AtomicBool::new(false),
            ended: Mutex::new(false),
            ending: Condvar::new(),
            builder,
        }
    });
    tracing::debug!(path = %attached.builder.path.display(), home = %welcome.home, "attached");
    intake.set_pump(attached);
    Ok(handle)
}

impl Attached {
    /// The bell rang, or the connection is closed.
    pub(super) fn was_rung(&self) {
        self.attachment.rung();
    }

    /// The channel is over. Everybody who waited was told.
    pub(super) fn on_over(&self, why: &Over) {
        let path = self.builder.path.display();
        match why {
            Over::Finished => tracing::debug!(%path, "detached"),
            Over::Gone => tracing::warn!(%path, "the daemon is gone"),
            Over::Broken(what) => tracing::error!(%path, %what, "the daemon wrote what cannot be"),
        }
        if *why == Over::Finished || self.closing.load(Ordering::Acquire) {
            *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.ending.notify_all();
            self.status.end(if *why == Over::Finished { Outcome::Finished } else { Outcome::DaemonGone });
            return;
        }
        match self.builder.reconnect {
            Reconnect::Never => self.status.set_gone(),
            Reconnect::BackingOff { first, most } => {
                let me = Weak::clone(&self.me);
                let thread = std::thread::Builder::new().name("machnet-attach".to_owned());
                if let Err(error) = thread.spawn(move || attach_again(&me, first, most)) {
                    tracing::error!(%path, %error, "no thread to attach again");
                    self.status.set_gone();
                    self.attachment.give_up();
                }
            }
        }
    }

    /// True if the endpoint ended before `wait` was over.
    fn ends_within(&self, wait: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) =
            self.ending.wait_timeout_while(ended, wait, |ended| !*ended).unwrap_or_else(PoisonError::into_inner);
        *ended
    }

    fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attaches again, sooner or later.
fn attach_again(me: &Weak<Attached>, first: Duration, most: Duration) {
    let mut wait = first;
    while let Some(attached) = me.upgrade() {
        if attached.ends_within(wait) {
            return;
        }
        let path: &PathBuf = &attached.builder.path;
        match dial(path, &attached.builder.greeting()) {
            Ok(Dialled { socket, welcome, region }) => {
                let connection = Connection::new(socket, Weak::clone(me));
                let side = AppSide::new(Arc::new(region), &welcome.geometry, welcome.max_message);
                attached.attachment.attach(side, Bell(Arc::clone(&connection)));
                attached.bells.move_to(connection);
                // A ring of before somebody listened.
                attached.attachment.rung();
                tracing::info!(path = %path.display(), home = %welcome.home, "attached again");
                return;
            }
            Err(error) => tracing::debug!(%error, ?wait, "not attached again yet"),
        }
        wait = (wait * 2).clamp(Duration::from_millis(1), most.max(Duration::from_millis(1)));
    }
}

impl Pump for Attached {
    fn pump(&self) {
        self.attachment.pump();
    }

    fn has_news(&self) -> bool {
        self.attachment.has_news()
    }

    fn waits(&self) {
        self.bells.listen_here();
        crate::hook::waits_for(|| self.me.upgrade());
    }

    fn looks(&self, on: bool) {
        self.attachment.looks(on);
    }

    fn rings(&self) -> (u64, u64) {
        self.attachment.rings()
    }

    fn shut_down(&self) {
        self.closing.store(true, Ordering::Release);
        self.attachment.pump();
        if !self.has_ended() {
            // Nobody may poll any more.
            self.bells.listen_in_thread();
        }
    }
}
