//! What the engines of a host with several queues tell each other: who is whose neighbour, and what was unreachable. The device
//! chooses the queue that such a message comes to, and it seldom is the one of the engine that waits for it.
//!
//! Each engine has a table of its own, so that nothing is shared per packet; each judges what it is told by its own questions, as if it
//! had come to its own queue. A notice that finds no room is lost, like a packet: who misses it asks again.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use machnet_channel::{Doorbell, Inbox, InboxReceiver};

use super::MacAddr;
use crate::Unreachable;

/// Notices that wait for one engine; a power of two.
const WAITING: usize = 64;

/// What one engine heard and all want to know.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// Who is there asked for an address of this host.
    Asked(IpAddr, MacAddr),
    /// Somebody said who is there.
    Answered(IpAddr, MacAddr),
    /// A datagram of ours came to a closed port.
    Unreachable(Unreachable),
}

/// Rung when an engine was told something: the bell that its driver is given, which is later than the drivers are made.
type Bell = Arc<OnceLock<Arc<Doorbell>>>;

/// One engine's side.
#[derive(Debug)]
pub(super) struct Siblings {
    others: Vec<(Arc<Inbox<Notice>>, Bell)>,
    inbox: InboxReceiver<Notice>,
    bell: Bell,
}

impl Siblings {
    /// A host with `engines` engines.
    pub(super) fn group(engines: usize) -> Vec<Self> {
        let ends: Vec<_> = (0..engines).map(|_| (Inbox::new(WAITING, Arc::default()), Bell::default())).collect();
        let all: Vec<_> = ends.iter().map(|((inbox, _), bell)| (Arc::clone(inbox), Arc::clone(bell))).collect();
        let own = ends.into_iter().enumerate();
        own.map(|(at, ((_, inbox), bell))| {
            let mut others = all.clone();
            others.remove(at);
            Self { others, inbox, bell }
        })
        .collect()
    }

    /// Tells all others; returns how many had no room.
    pub(super) fn tell(&self, notice: Notice) -> u64 {
        let mut lost = 0;
        for (inbox, bell) in &self.others {
            if inbox.push(notice).is_err() {
                lost += 1;
            } else if let Some(bell) = bell.get() {
                bell.ring();
            }
        }
        lost
    }

    /// What another told.
    pub(super) fn hear(&mut self) -> Option<Notice> {
        self.inbox.pop()
    }

    /// True if there is something to hear. Before sleeping: ask after the doorbell was armed.
    pub(super) fn have_news(&self) -> bool {
        !self.inbox.is_empty()
    }

    pub(super) fn set_bell(&self, bell: Arc<Doorbell>) {
        // An engine has one bell for its life.
        let _ = self.bell.set(bell);
    }
}
