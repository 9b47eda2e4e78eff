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
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use machnet_channel::shared::{Afterwards, AppSide, Attachment, Over, Welcome};
use machnet_channel::{ForeignRegion, Intake, Pump};

use super::bells::{Bell, Bells, Connection};
use super::dial::{Dialled, dial};
use super::link::Link;
use super::{AttachBuilder, Reconnect, beats};
use crate::datapath::{EngineHandle, Home, Outcome, Status};

/// One channel: to one engine of the daemon's.
#[derive(Debug)]
pub(super) struct Attached {
    me: Weak<Self>,
    link: Arc<Link>,
    attachment: Attachment<Arc<ForeignRegion>, Bell>,
    bells: Bells,
    status: Arc<Status>,
    /// What the endpoint knows of its address.
    handle_home: Arc<Home>,
    /// The endpoint was asked to end.
    closing: AtomicBool,
    ended: AtomicBool,
    /// The last question was answered, for all that is known.
    answers: AtomicBool,
    /// This engine alone is given up.
    alone: AtomicBool,
}

/// Attaches, and puts a pump into the place of each engine.
pub(super) fn start(builder: AttachBuilder) -> io::Result<Vec<Arc<EngineHandle>>> {
    let Dialled { welcome, channels } = dial(&builder.path, &builder.greeting(0))?;
    let recv_spin = builder.recv_spin;
    let afterwards = if builder.reconnect == Reconnect::Never { Afterwards::Ends } else { Afterwards::Reattaches };
    let link = Link::new(builder, channels.len());
    let start = |(socket, region)| {
        let intake = Intake::new();
        let handle = EngineHandle::new(Arc::clone(&intake), welcome.home, welcome.max_message as usize, recv_spin);
        let attached = Arc::new_cyclic(|me: &Weak<Attached>| {
            let connection = Connection::new(socket, Weak::clone(me));
            let side = AppSide::new(Arc::new(region), &welcome.geometry, welcome.max_message);
            let side = side.with_status(welcome.has_status());
            Attached {
                me: Weak::clone(me),
                attachment: Attachment::new(&intake, side, Bell(Arc::clone(&connection)), afterwards),
                bells: Bells::new(connection),
                status: Arc::clone(handle.status()),
                handle_home: Arc::clone(handle.home()),
                closing: AtomicBool::new(false),
                ended: AtomicBool::new(false),
                answers: AtomicBool::new(false),
                alone: AtomicBool::new(false),
                link: Arc::clone(&link),
            }
        });
        (handle, intake, attached)
    };
    let started: Vec<_> = channels.into_iter().map(start).collect();
    // Before anybody can do anything.
    link.set_channels(started.iter().map(|(.., attached)| Arc::downgrade(attached)).collect());
    tracing::debug!(path = %link.builder.path.display(), home = %welcome.home, engines = started.len(), "attached");
    let timeout = link.builder.daemon_timeout;
    let handle = |(handle, intake, attached): (Arc<EngineHandle>, Arc<Intake>, Arc<Attached>)| {
        beats::watch(Arc::downgrade(&attached), timeout);
        intake.set_pump(attached);
        handle
    };
    Ok(started.into_iter().map(handle).collect())
}

impl Attached {
    /// The bell rang, or the connection is closed.
    pub(super) fn was_rung(&self) {
        self.attachment.rung();
    }

    /// The channel is over that had this connection. Everybody who waited was told.
    pub(super) fn on_over(&self, connection: u64, why: &Over) {
        if *why == Over::Finished || self.closing.load(Ordering::Acquire) {
            if !self.ended.swap(true, Ordering::AcqRel) {
                self.link.end();
            }
            self.status.end(if *why == Over::Finished { Outcome::Finished } else { Outcome::DaemonGone });
            return;
        }
        if !self.bells.is_current(connection) {
            // There is another one already.
            return;
        }
        if self.alone.swap(false, Ordering::AcqRel) {
            return;
        }
        match self.link.builder.reconnect {
            Reconnect::Never => self.status.set_gone(),
            Reconnect::BackingOff { .. } => self.status.set_detached(true),
        }
        self.link.lose(why);
    }

    /// Another channel of the endpoint was lost.
    pub(super) fn hang_up(&self, why: &Over) {
        if *why == Over::Silent {
            self.attachment.give_up_daemon();
        }
        self.bells.hang_up();
        self.attachment.rung();
    }

    /// Asks the daemon whether it is there; what became of the question before.
    pub(super) fn beat(&self) -> Option<bool> {
        // Where another engine is silent, one that nobody uses is asked, too: it may be as silent.
        let answered = self.attachment.beat(self.link.is_doubted());
        self.answers.store(answered == Some(true), Ordering::Release);
        if answered == Some(false) {
            self.link.doubt();
        }
        answered
    }

    /// True if the engine answered when it was asked last.
    pub(super) fn answers(&self) -> bool {
        self.answers.load(Ordering::Acquire)
    }

    /// The engine does not answer. If others do, nothing but this channel is lost.
    pub(super) fn on_silence(&self) {
        if self.link.goes_on() {
            tracing::error!(path = %self.link.builder.path.display(), "an engine of the daemon does not answer");
            // First: who is told that a listener ended here looks whether it goes on elsewhere.
            self.status.set_detached(true);
            self.alone.store(true, Ordering::Release);
        }
        self.attachment.give_up_daemon();
    }

    /// Its daemon is gone for good.
    pub(super) fn set_gone(&self) {
        self.status.set_gone();
    }

    /// There will be no other daemon.
    pub(super) fn give_up(&self) {
        self.status.set_gone();
        self.attachment.give_up();
    }

    /// Goes on with another daemon.
    pub(super) fn attach(&self, socket: OwnedFd, region: ForeignRegion, welcome: &Welcome) {
        if self.has_ended() {
            return;
        }
        let connection = Connection::new(socket, Weak::clone(&self.me));
        let side = AppSide::new(Arc::new(region), &welcome.geometry, welcome.max_message);
        let side = side.with_status(welcome.has_status());
        self.alone.store(false, Ordering::Release);
        self.handle_home.set(welcome.home, welcome.max_message as usize);
        self.status.set_detached(false);
        // First, or its end could be taken for that of the last one.
        self.bells.move_to(Arc::clone(&connection));
        self.attachment.attach(side, Bell(connection));
        // A ring of before somebody listened.
        self.attachment.rung();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
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

    fn counters(&self) -> Option<Vec<u64>> {
        let counters = self.attachment.counters();
        // For who asks again.
        self.attachment.beat(true);
        counters.map(|counters| counters.to_vec())
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
