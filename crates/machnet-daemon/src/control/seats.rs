//! Those who are attached: who may be, what they take, and when they are gone.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use machnet_channel::shared::{
    Attach, DaemonSide, FEATURES, Geometry, MAX_CHANNELS, Refusal, Refused, Reply, SEVERAL, VERSIONS, Welcome,
};
use machnet_channel::{Doorbell, ForeignRegion, Words as _};
use machnet_core::{Account, Arrival, Ended};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};

use crate::config::{Allowance, Settings, show_size};
use crate::desk::Shared;

use super::peers::Credentials;
use super::ration::Ration;

/// Words of a page.
const PAGE_WORDS: usize = 512;

/// Somebody who is attached.
#[derive(Debug)]
pub(super) struct Seat {
    /// Those that are not over.
    channels: Vec<Channel>,
    /// The engine of the first.
    first: usize,
    /// For what it did.
    is_over: bool,
    allowance: usize,
    bytes: u64,
    pub(super) name: String,
    pub(super) process: i32,
    pub(super) user: u32,
    pub(super) since: Instant,
}

/// To one engine.
#[derive(Debug)]
struct Channel {
    engine: usize,
    line: Arc<OwnedFd>,
    /// The engine has been told that it is gone.
    is_gone: bool,
}

/// What is told to an engine: which, who came, and the connection.
pub(super) type Came = (usize, Box<Arrival<Shared>>, Arc<OwnedFd>);

/// What goes to the application: the regions, and the ends of connections.
type Descriptors = Vec<OwnedFd>;

#[derive(Debug)]
pub(super) struct Seats {
    allow: Vec<Allowance>,
    most: usize,
    memory: u64,
    max_message: u32,
    home: SocketAddr,
    /// Of each engine.
    bells: Vec<Arc<Doorbell>>,
    seats: BTreeMap<u64, Seat>,
    next: u64,
    /// Bytes that those attached take, or may.
    taken: u64,
    pub(super) attached: u64,
    /// By [`Refusal`].
    pub(super) refused: BTreeMap<&'static str, u64>,
    /// Applications that are no longer served, by [`Ended::label`].
    pub(super) ended: BTreeMap<&'static str, u64>,
    /// What may be written of callers, of those who come and go, and of those who are sent away.
    refusals: Ration,
    visits: Ration,
    offences: Ration,
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
    pub(super) fn new(settings: &Settings, home: SocketAddr, bells: Vec<Arc<Doorbell>>) -> Self {
        Self {
            allow: settings.allow.clone(),
            most: settings.applications as usize,
            memory: settings.memory,
            max_message: settings.engine.max_message,
            home,
            bells,
            seats: BTreeMap::new(),
            next: 1,
            taken: 0,
            attached: 0,
            refused: BTreeMap::new(),
            ended: BTreeMap::new(),
            refusals: Ration::new("refusals"),
            visits: Ration::new("applications that came or went"),
            offences: Ration::new("applications that are no longer served"),
        }
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &OwnedFd> {
        self.seats
            .values()
            .flat_map(|seat| &seat.channels)
            .filter(|channel| !channel.is_gone)
            .map(|channel| &*channel.line)
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
    pub(super) fn admit(&mut self, caller: OwnedFd, attach: &Attach, flows: &[u64], closing: bool) -> Vec<Came> {
        let line = Arc::new(caller);
        match self.try_admit(&line, attach, flows, closing) {
            Ok((id, seat, came, reply, descriptors)) => {
                if send_reply(&line, &reply, &descriptors).is_err() {
                    // It went away, and did not see any of it.
                    return Vec::new();
                }
                let engines = came.len();
                if self.visits.may(Instant::now()) {
                    tracing::info!(id, name = seat.name, pid = seat.process, uid = seat.user, engines, "attached");
                }
                self.taken += seat.bytes;
                self.attached += 1;
                self.seats.insert(id, seat);
                came
            }
            Err((why, text)) => {
                self.refuse(&line, why, text, &attach.name);
                Vec::new()
            }
        }
    }

    /// The engines that a caller is to talk to: as many as it asks for, those with the fewest flows first, and of those with the same
    /// the ones with the fewest applications. Whoever has one flow only has it at the first.
    fn engines_for(&self, attach: &Attach, flows: &[u64]) -> Vec<usize> {
        let all = self.bells.len();
        let most = match (attach.features & SEVERAL, attach.channels) {
            (0, _) => 1,
            (_, 0) => all,
            (_, most) => all.min(most as usize),
        };
        let mut engines: Vec<usize> = (0..all).collect();
        let first = |engine: usize| self.seats.values().filter(|seat| seat.first == engine).count();
        engines.sort_by_cached_key(|&engine| (flows[engine], first(engine)));
        engines.truncate(most);
        engines
    }

    /// A caller that said nothing that makes sense.
    pub(super) fn refuse_nonsense(&mut self, caller: &OwnedFd, why: &str) {
        self.refuse(caller, Refusal::Malformed, why.to_owned(), "");
    }

    /// A caller that came too often.
    pub(super) fn refuse_for_now(&mut self, caller: &OwnedFd, why: String, name: &str) {
        self.tell(caller, "too often", Refusal::Quota, why, name);
    }

    /// Somebody who asks how it goes, and has not read what he was answered.
    pub(super) fn turn_away(&mut self) {
        *self.refused.entry("unread").or_default() += 1;
    }

    /// The system has nothing left for another caller.
    pub(super) fn say_lacking(&mut self, error: &rustix::io::Errno) {
        if self.refusals.may(Instant::now()) {
            tracing::warn!(%error, "cannot accept a caller");
        }
    }

    fn refuse(&mut self, caller: &OwnedFd, why: Refusal, text: String, name: &str) {
        self.tell(caller, label(why), why, text, name);
    }

    /// Tells a caller why it is not let in.
    fn tell(&mut self, caller: &OwnedFd, label: &'static str, why: Refusal, text: String, name: &str) {
        *self.refused.entry(label).or_default() += 1;
        if self.refusals.may(Instant::now()) {
            tracing::info!(name, why = label, text, "not let in");
        }
        // If it cannot be told, it finds the socket closed.
        let _ = send_reply(caller, &Reply::Refused(Refused { why, versions: VERSIONS, text }), &[]);
    }

    #[expect(clippy::type_complexity, reason = "the parts of one answer")]
    fn try_admit(
        &mut self,
        caller: &Arc<OwnedFd>,
        attach: &Attach,
        flows: &[u64],
        closing: bool,
    ) -> Result<(u64, Seat, Vec<Came>, Reply, Descriptors), (Refusal, String)> {
        if closing {
            return Err((Refusal::ShuttingDown, "the daemon is ending".to_owned()));
        }
        let version = attach.common_version().ok_or_else(|| {
            let ((from, to), (oldest, newest)) = (VERSIONS, attach.versions);
            let text = format!("the daemon speaks versions {from} to {to}, the application {oldest} to {newest}");
            (Refusal::Version, text)
        })?;
        let who = Credentials::of(caller);
        let who = who.map_err(|error| (Refusal::NotPermitted, format!("cannot tell who calls: {error}")))?;
        let at = self.find(&who)?;
        let allowance = &self.allow[at];
        self.check_quota(at)?;
        let geometry = geometry_for(allowance, attach.flows);
        let engines = self.engines_for(attach, flows);
        // So that a few messages fit the quota at a time.
        let max_message = u64::from(self.max_message).min(allowance.quota.memory / 4) as u32;
        let (features, channels) = (attach.features & FEATURES, engines.len() as u32);
        let welcome = Welcome { version, features, geometry, home: self.home, max_message, channels };
        let bytes = (engines.len() * welcome.region_bytes()) as u64 + allowance.quota.memory;
        if self.taken + bytes > self.memory {
            let (left, all) = (show_size(self.memory - self.taken), show_size(self.memory));
            let text =
                format!("the daemon has {left} of its {all} left, and this application takes {}", show_size(bytes));
            return Err((Refusal::Quota, text));
        }
        let id = self.next;
        let account = Account::new(self.bells.clone());
        let (mut regions, mut ends, mut came) = (Vec::new(), Vec::new(), Vec::new());
        for &engine in &engines {
            let (region, fd) = make_region(welcome.region_bytes()).map_err(lacking)?;
            regions.push(fd);
            // The first channel's is the caller's own.
            let line = if came.is_empty() {
                Arc::clone(caller)
            } else {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
                let (mine, other) = pair.map_err(|error| lacking(error.into()))?;
                ends.push(other);
                Arc::new(mine)
            };
            let side = DaemonSide::new(Arc::new(region), &geometry, max_message).with_status(welcome.has_status());
            let (slots, quota) = ((geometry.flows, geometry.listeners), allowance.quota.clone());
            let (account, number) = (Arc::clone(&account), engine as u8);
            let arrival = Arrival { id, side, slots, max_message, quota, account, engine: number };
            came.push((engine, Box::new(arrival), line));
        }
        self.next += 1;
        regions.append(&mut ends);
        let channel = |(engine, _, line): &Came| Channel { engine: *engine, line: Arc::clone(line), is_gone: false };
        let seat = Seat {
            channels: came.iter().map(channel).collect(),
            first: engines[0],
            is_over: false,
            allowance: at,
            bytes,
            name: attach.name.clone(),
            process: who.process,
            user: who.user,
            since: Instant::now(),
        };
        Ok((id, seat, came, Reply::Welcome(welcome), regions))
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

    /// Whose connections were closed since the last look: the application, the engine, and whether that was its last.
    pub(super) fn hung_up(&mut self) -> Vec<(u64, usize, bool)> {
        let open = self.seats.iter_mut().flat_map(|(id, seat)| seat.channels.iter_mut().map(|channel| (*id, channel)));
        let (ids, channels): (Vec<u64>, Vec<&mut Channel>) = open.filter(|(_, channel)| !channel.is_gone).unzip();
        let mut fds: Vec<_> = channels.iter().map(|channel| PollFd::new(&*channel.line, PollFlags::RDHUP)).collect();
        if fds.is_empty() || !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..)) {
            return Vec::new();
        }
        let gone: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut left = Vec::new();
        for ((id, channel), gone) in ids.into_iter().zip(channels).zip(gone) {
            if gone {
                channel.is_gone = true;
                left.push((id, channel.engine));
            }
        }
        let is_gone =
            |id: u64| self.seats.get(&id).is_none_or(|seat| seat.channels.iter().all(|channel| channel.is_gone));
        left.into_iter().map(|(id, engine)| (id, engine, is_gone(id))).collect()
    }

    /// The other engines that serve an application.
    pub(super) fn others(&self, id: u64, engine: usize) -> impl Iterator<Item = usize> {
        let channels = self.seats.get(&id).into_iter().flat_map(|seat| &seat.channels);
        channels.map(|channel| channel.engine).filter(move |other| *other != engine)
    }

    /// Somebody is no longer served by an engine: with the last, or for what it did, the seat is free. Returns the connection.
    pub(super) fn leave(&mut self, id: u64, engine: usize, why: &Ended) -> Option<Arc<OwnedFd>> {
        let seat = self.seats.get_mut(&id)?;
        let at = seat.channels.iter().position(|channel| channel.engine == engine)?;
        let line = seat.channels.swap_remove(at).line;
        if *why != Ended::Gone && !std::mem::replace(&mut seat.is_over, true) {
            *self.ended.entry(why.label()).or_default() += 1;
            if self.offences.may(Instant::now()) {
                tracing::warn!(id, name = seat.name, pid = seat.process, %why, "no longer served");
            }
        }
        if !seat.channels.is_empty() {
            return Some(line);
        }
        let seat = self.seats.remove(&id)?;
        self.taken -= seat.bytes;
        if !seat.is_over {
            *self.ended.entry(why.label()).or_default() += 1;
            if self.visits.may(Instant::now()) {
                tracing::info!(id, name = seat.name, "gone");
            }
        }
        Some(line)
    }
}

/// As many flows as asked for, in steps, and at most as many as allowed.
fn geometry_for(allowance: &Allowance, flows: u32) -> Geometry {
    let most = allowance.geometry.flows;
    let flows = if flows == 0 { most } else { flows.min(most).next_multiple_of(64) };
    Geometry { flows, ..allowance.geometry }
}

/// Memory to share.
fn make_region(bytes: usize) -> io::Result<(ForeignRegion, OwnedFd)> {
    let (region, fd) = ForeignRegion::create("machnet", bytes)?;
    // Here, not in the engine's rounds, its pages are made. This thread is nice, and that is enough: one that also yielded after
    // each few pages would give up a time slice of every busy process on its core for each, and attaching would take seconds.
    region.words().iter().step_by(PAGE_WORDS).for_each(|word| {
        word.load(Ordering::Relaxed);
    });
    Ok((region, fd))
}

fn lacking(error: io::Error) -> (Refusal, String) {
    (Refusal::NoMemory, format!("the daemon has no memory or descriptors left: {error}"))
}

/// The answer to a caller, with descriptors in it. Does not block.
fn send_reply(caller: &OwnedFd, reply: &Reply, descriptors: &[OwnedFd]) -> rustix::io::Result<()> {
    const MOST: usize = 2 * MAX_CHANNELS as usize;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(rustix::io::Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(caller, &[IoSlice::new(&reply.emit())], &mut control, flags).map(|_| ())
}
