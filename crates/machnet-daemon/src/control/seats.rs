//! Those who are attached: who may be, what they take, and when they are gone.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use machnet_channel::shared::{Attach, DaemonSide, FEATURES, Geometry, Refusal, Refused, Reply, VERSIONS, Welcome};
use machnet_channel::{ForeignRegion, Words as _};
use machnet_core::{Arrival, Ended};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};

use crate::config::{Allowance, Settings, show_size};
use crate::desk::Shared;

/// Words of a page.
const PAGE_WORDS: usize = 512;
/// Pages that are made before others may have the core.
const SLICE: usize = 32;

/// Somebody who is attached.
#[derive(Debug)]
pub(super) struct Seat {
    line: Arc<OwnedFd>,
    /// The engine has been told that it is gone.
    is_gone: bool,
    allowance: usize,
    bytes: u64,
    pub(super) name: String,
    pub(super) process: i32,
    pub(super) user: u32,
    pub(super) since: Instant,
}

/// Who calls, as the kernel says.
struct Credentials {
    process: i32,
    user: u32,
    group: u32,
}

#[derive(Debug)]
pub(super) struct Seats {
    allow: Vec<Allowance>,
    most: usize,
    memory: u64,
    max_message: u32,
    home: SocketAddr,
    seats: BTreeMap<u64, Seat>,
    next: u64,
    /// Bytes that those attached take, or may.
    taken: u64,
    pub(super) attached: u64,
    /// By [`Refusal`].
    pub(super) refused: BTreeMap<&'static str, u64>,
}

const fn label(why: Refusal) -> &'static str {
    match why {
        Refusal::Version => "version",
        Refusal::NotPermitted => "not permitted",
        Refusal::Quota => "quota",
        Refusal::NoMemory => "no memory",
        Refusal::ShuttingDown => "shutting down",
        Refusal::Malformed => "malformed",
        _ => "other",
    }
}

impl Seats {
    pub(super) fn new(settings: &Settings, home: SocketAddr) -> Self {
        Self {
            allow: settings.allow.clone(),
            most: settings.applications as usize,
            memory: settings.memory,
            max_message: settings.engine.max_message,
            home,
            seats: BTreeMap::new(),
            next: 1,
            taken: 0,
            attached: 0,
            refused: BTreeMap::new(),
        }
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &OwnedFd> {
        self.seats.values().filter(|seat| !seat.is_gone).map(|seat| &*seat.line)
    }

    /// User and process of a seat.
    pub(super) fn who(&self, id: u64) -> Option<(u32, i32)> {
        self.seats.get(&id).map(|seat| (seat.user, seat.process))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&u64, &Seat)> {
        self.seats.iter()
    }

    /// The name of what lets an application in.
    pub(super) fn allowance(&self, seat: &Seat) -> &Allowance {
        &self.allow[seat.allowance]
    }

    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Lets a caller in, or tells it why not.
    pub(super) fn admit(
        &mut self,
        caller: OwnedFd,
        attach: &Attach,
        closing: bool,
    ) -> Option<(Box<Arrival<Shared>>, Arc<OwnedFd>)> {
        let line = Arc::new(caller);
        match self.try_admit(&line, attach, closing) {
            Ok((seat, arrival, reply, region)) => {
                if send_reply(&line, &reply, Some(&region)).is_err() {
                    // It went away, and did not see any of it.
                    return None;
                }
                tracing::info!(id = arrival.id, name = seat.name, pid = seat.process, uid = seat.user, "attached");
                self.taken += seat.bytes;
                self.attached += 1;
                self.seats.insert(arrival.id, seat);
                Some((arrival, line))
            }
            Err((why, text)) => {
                self.refuse(&line, why, text, &attach.name);
                None
            }
        }
    }

    /// A caller that said nothing that makes sense.
    pub(super) fn refuse_nonsense(&mut self, caller: &OwnedFd, why: &str) {
        self.refuse(caller, Refusal::Malformed, why.to_owned(), "");
    }

    /// A caller that came too often.
    pub(super) fn refuse_for_now(&mut self, caller: &OwnedFd, why: String, name: &str) {
        *self.refused.entry("too often").or_default() += 1;
        tell(caller, Refusal::Quota, why, name);
    }

    fn refuse(&mut self, caller: &OwnedFd, why: Refusal, text: String, name: &str) {
        *self.refused.entry(label(why)).or_default() += 1;
        tell(caller, why, text, name);
    }

    #[expect(clippy::type_complexity, reason = "the parts of one answer")]
    fn try_admit(
        &mut self,
        caller: &Arc<OwnedFd>,
        attach: &Attach,
        closing: bool,
    ) -> Result<(Seat, Box<Arrival<Shared>>, Reply, OwnedFd), (Refusal, String)> {
        if closing {
            return Err((Refusal::ShuttingDown, "the daemon is ending".to_owned()));
        }
        let version = attach.common_version().ok_or_else(|| {
            let ((from, to), (oldest, newest)) = (VERSIONS, attach.versions);
            let text = format!("the daemon speaks versions {from} to {to}, the application {oldest} to {newest}");
            (Refusal::Version, text)
        })?;
        let peer = sockopt::socket_peercred(caller);
        let peer = peer.map_err(|error| (Refusal::NotPermitted, format!("cannot tell who calls: {error}")))?;
        let who =
            Credentials { process: peer.pid.as_raw_nonzero().get(), user: peer.uid.as_raw(), group: peer.gid.as_raw() };
        let at = self.find(&who)?;
        let allowance = &self.allow[at];
        self.check_quota(at)?;
        let geometry = geometry_for(allowance, attach.flows);
        let bytes = geometry.bytes() as u64 + allowance.quota.memory;
        if self.taken + bytes > self.memory {
            let (left, all) = (show_size(self.memory - self.taken), show_size(self.memory));
            let text =
                format!("the daemon has {left} of its {all} left, and this application takes {}", show_size(bytes));
            return Err((Refusal::Quota, text));
        }
        let (region, fd) = ForeignRegion::create("machnet", geometry.bytes())
            .map_err(|error| (Refusal::NoMemory, format!("the daemon has no memory or descriptors left: {error}")))?;
        // Here, not in the engine's rounds, its pages are made.
        for slice in region.words().chunks(SLICE * PAGE_WORDS) {
            slice.iter().step_by(PAGE_WORDS).for_each(|word| {
                word.load(Ordering::Relaxed);
            });
            std::thread::yield_now();
        }
        // So that a few messages fit the quota at a time.
        let max_message = u64::from(self.max_message).min(allowance.quota.memory / 4) as u32;
        let side = DaemonSide::new(Arc::new(region), &geometry, max_message);
        let id = self.next;
        self.next += 1;
        let slots = (geometry.flows, geometry.listeners);
        let arrival = Arrival { id, side, slots, max_message, quota: allowance.quota.clone() };
        let features = attach.features & FEATURES;
        let welcome = Welcome { version, features, geometry, home: self.home, max_message };
        let seat = Seat {
            line: Arc::clone(caller),
            is_gone: false,
            allowance: at,
            bytes,
            name: attach.name.clone(),
            process: who.process,
            user: who.user,
            since: Instant::now(),
        };
        Ok((seat, Box::new(arrival), Reply::Welcome(welcome), fd))
    }

    /// The first allowance that fits.
    fn find(&self, who: &Credentials) -> Result<usize, (Refusal, String)> {
        let fits = |allowance: &Allowance| {
            allowance.user.is_none_or(|user| user == who.user) && allowance.group.is_none_or(|group| group == who.group)
        };
        self.allow.iter().position(fits).ok_or_else(|| {
            let Credentials { user, group, .. } = who;
            (Refusal::NotPermitted, format!("the daemon's configuration lets in neither user {user} nor group {group}"))
        })
    }

    fn check_quota(&self, at: usize) -> Result<(), (Refusal, String)> {
        if self.seats.len() >= self.most {
            let text = format!("{} applications are attached, which is all that the daemon takes", self.seats.len());
            return Err((Refusal::Quota, text));
        }
        let Allowance { applications, name, .. } = &self.allow[at];
        let alike = self.seats.values().filter(|seat| seat.allowance == at).count();
        if alike >= *applications as usize {
            let text = format!("{alike} applications of {name:?} are attached, which is all that the daemon takes");
            return Err((Refusal::Quota, text));
        }
        Ok(())
    }

    /// Those whose connection was closed since the last look.
    pub(super) fn hung_up(&mut self) -> Vec<u64> {
        let (ids, seats): (Vec<u64>, Vec<&mut Seat>) =
            self.seats.iter_mut().filter(|(_, seat)| !seat.is_gone).map(|(id, seat)| (*id, seat)).unzip();
        let mut fds: Vec<_> = seats.iter().map(|seat| PollFd::new(&*seat.line, PollFlags::RDHUP)).collect();
        if fds.is_empty() || !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..)) {
            return Vec::new();
        }
        let gone: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut left = Vec::new();
        for ((id, seat), gone) in ids.into_iter().zip(seats).zip(gone) {
            if gone {
                seat.is_gone = true;
                left.push(id);
            }
        }
        left
    }

    /// Somebody is no longer served: gives the seat up. Returns the connection.
    pub(super) fn leave(&mut self, id: u64, why: &Ended) -> Option<Arc<OwnedFd>> {
        let seat = self.seats.remove(&id)?;
        self.taken -= seat.bytes;
        if *why == Ended::Gone {
            tracing::info!(id, name = seat.name, "gone");
        } else {
            tracing::warn!(id, name = seat.name, pid = seat.process, %why, "no longer served");
        }
        Some(seat.line)
    }
}

/// Tells a caller why it is not let in.
fn tell(caller: &OwnedFd, why: Refusal, text: String, name: &str) {
    tracing::info!(name, why = label(why), text, "not let in");
    // If it cannot be told, it finds the socket closed.
    let _ = send_reply(caller, &Reply::Refused(Refused { why, versions: VERSIONS, text }), None);
}

/// As many flows as asked for, in steps, and at most as many as allowed.
fn geometry_for(allowance: &Allowance, flows: u32) -> Geometry {
    let most = allowance.geometry.flows;
    let flows = if flows == 0 { most } else { flows.min(most).next_multiple_of(64) };
    Geometry { flows, ..allowance.geometry }
}

/// The answer to a caller, with the region's descriptor in it. Does not block.
fn send_reply(caller: &OwnedFd, reply: &Reply, region: Option<&OwnedFd>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = region.iter().map(|fd| fd.as_fd()).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(rustix::io::Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(caller, &[IoSlice::new(&reply.emit())], &mut control, flags).map(|_| ())
}
