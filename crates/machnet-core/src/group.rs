//! The engines of one endpoint: what they share, and how what arrives at one gets to another
//! (`docs/adr/0017-several-engines-hand-over-and-probe.md`).
//!
//! ```text
//!   engine 0 ── receives for 2 ──▶ inbox of 2 ──▶ engine 2: as if it had received it
//!   engine 1 ── receives for 2 ──────┘ full? dropped before anything was acknowledged, and counted
//! ```
//!
//! Nothing of this is looked at by an engine that is alone.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use std::sync::Arc;

use machnet_channel::{Doorbell, FrameRef, Inbox, InboxReceiver, Tried};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::driver::{Meta, Unreachable};
use crate::engine::{Keyed, PortMaps};
use crate::placement::{Board, Placed};

/// The most engines of an endpoint.
pub const MAX_ENGINES: usize = 64;

/// Places of an inbox: two bursts. They pin so many frames of other engines' drivers at most.
const INBOX: usize = 512;

/// What one engine hands another.
#[derive(Debug)]
pub(crate) enum Handed {
    /// A datagram, which arrived on queue `meta.queue`; how many engines looked at it before, or that it was placed.
    Packet { meta: Meta, payload: FrameRef, hops: u8 },
    /// An ICMP message about an INIT, which does not say whose.
    Unreachable(Unreachable),
    /// A flow of this start of a peer was validated, the `since`th that any engine found.
    Started { name: (IpAddr, u16), instance: u64, since: u64 },
}

/// The same for all engines of the endpoint.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Of this start of the endpoint.
    pub(crate) instance: u64,
    /// Of tokens.
    pub(crate) secret: [u8; 16],
    /// Which engine decides where an INIT belongs.
    pub(crate) placement: Keyed,
    pub(crate) board: Board,
    /// What peers' ports hit.
    pub(crate) maps: Arc<Tried<PortMaps>>,
    inboxes: Box<[Arc<Inbox<Handed>>]>,
    /// Engines that still have flows, or may have some.
    unfinished: AtomicU32,
    /// Starts of peers that were found.
    starts: AtomicU64,
}

/// One engine's place among those of its endpoint; see [`Engine::join`](crate::Engine::join).
#[derive(Debug)]
pub struct Member {
    index: u8,
    receiver: InboxReceiver<Handed>,
    shared: Arc<Shared>,
    /// Whom something was handed to since the last ring, a bit each.
    rings: u64,
    is_finished: bool,
    /// What this one decided of INITs.
    pub(crate) placed: Placed,
    /// Flows of this engine as the others know them.
    pub(crate) flows: u64,
}

impl Member {
    /// A place for each engine of an endpoint, in order: engine `n` is woken by `bells[n]`, the one of its channel. `seed` must be
    /// unpredictable outside of simulations.
    ///
    /// # Panics
    /// If there is no bell, or more than [`MAX_ENGINES`].
    #[must_use]
    pub fn group(bells: &[Arc<Doorbell>], seed: [u8; 32]) -> Vec<Self> {
        assert!((1..=MAX_ENGINES).contains(&bells.len()), "{} engines: there may be 1 to {MAX_ENGINES}", bells.len());
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut secret = [0; 16];
        rng.fill_bytes(&mut secret);
        let (inboxes, receivers): (Vec<_>, Vec<_>) =
            bells.iter().map(|bell| Inbox::new(INBOX, Arc::clone(bell))).unzip();
        let shared = Arc::new(Shared {
            instance: rng.next_u64(),
            secret,
            placement: Keyed::new(&mut rng),
            maps: Arc::new(Tried::new(PortMaps::new(Keyed::new(&mut rng)))),
            board: Board::new(bells.len()),
            inboxes: inboxes.into(),
            unfinished: AtomicU32::new(bells.len() as u32),
            starts: AtomicU64::new(0),
        });
        let member = |(index, receiver)| Self {
            index: index as u8,
            receiver,
            shared: Arc::clone(&shared),
            rings: 0,
            is_finished: false,
            placed: Placed::default(),
            flows: 0,
        };
        receivers.into_iter().enumerate().map(member).collect()
    }

    /// Its number, which its flows' ids begin with.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How many engines there are.
    pub(crate) fn len(&self) -> u8 {
        self.shared.inboxes.len() as u8
    }

    /// The place of a peer's start that was just found in the order of all: only that order matters.
    pub(crate) fn next_start(&self) -> u64 {
        self.shared.starts.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives `handed` to engine `to`. False if its inbox is full, or the engine gone.
    pub(crate) fn hand(&mut self, to: u8, handed: Handed) -> bool {
        let Some(inbox) = self.shared.inboxes.get(usize::from(to)) else { return false };
        self.rings |= 1 << to;
        inbox.push(handed).is_ok()
    }

    /// Wakes the engines that something was handed to.
    pub(crate) fn ring(&mut self) {
        let mut rings = std::mem::take(&mut self.rings);
        while rings != 0 {
            self.shared.inboxes[rings.trailing_zeros() as usize].ring();
            rings &= rings - 1;
        }
    }

    pub(crate) fn take(&mut self) -> Option<Handed> {
        self.receiver.pop()
    }

    /// True if the engine may sleep, as far as the others are concerned. Called after its bell was armed.
    pub(crate) fn may_sleep(&self) -> bool {
        self.receiver.is_empty() && !(self.is_finished && self.are_all_finished())
    }

    /// The engine has ended its flows and will have no others. It goes on handing over until all have.
    pub(crate) fn finish(&mut self) {
        if !std::mem::replace(&mut self.is_finished, true) && self.shared.unfinished.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.shared.inboxes.iter().for_each(|inbox| inbox.ring());
        }
    }

    pub(crate) fn are_all_finished(&self) -> bool {
        self.shared.unfinished.load(Ordering::Acquire) == 0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // An engine that panicked must not keep the others for ever.
        self.finish();
    }
}
