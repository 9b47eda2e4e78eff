//! What is around tenants: who lets them in and out, and rings their bells. Sockets in the daemon, nothing in tests.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::account::Account;
use machnet_channel::shared::{DaemonSide, Malformed};
use machnet_channel::{CloseReason, Doorbell, FlowState, FlowStats, Words};

/// Flows of one application that a report lists.
pub(super) const REPORTED_FLOWS: usize = 16;

/// Who lets applications in. Nothing here blocks.
pub trait Gate: Send {
    /// The memory that it shares with them.
    type Words: Words + Clone + Send;

    /// True if [`Gate::next`] has something. Asked in every round.
    fn has_news(&self) -> bool;

    /// Who came or went.
    fn next(&mut self) -> Option<News<Self::Words>>;

    /// Rings an application that sleeps.
    fn ring(&mut self, tenant: u64);

    /// An application is no longer served: because it is [gone](News::Gone), or for a reason of this side's. Its memory is
    /// given back with it: unmapping takes time that an engine has not.
    fn dismiss(&mut self, tenant: u64, why: &Ended, side: Box<DaemonSide<Self::Words>>);

    /// What [`News::Report`] asked for.
    fn report(&mut self, report: Report);

    /// True once the daemon is to end.
    fn is_closing(&self) -> bool;

    /// The engine's bell, which the gate rings when it has news.
    fn bell(&self) -> Arc<Doorbell>;

    /// Polls readable when an application has rung.
    fn wait(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The engine is awake: forgets who has rung.
    fn hush(&mut self) {}

    /// The engine may sleep, and is to be woken before long: it is to look at what somebody marked who marks without end.
    fn look_again(&mut self) {}

    /// After [`Gate::hush`]: an application has done something since the engine slept before, so what it rang for was there.
    fn meant_it(&mut self, tenant: u64) {
        let _ = tenant;
    }
}

/// Who came or went.
#[derive(Debug)]
pub enum News<W> {
    /// An application was let in.
    Came(Box<Arrival<W>>),
    /// The connection of an application was closed.
    Gone(u64),
    /// Somebody wants to know how it goes.
    Report,
}

/// An application that was let in.
#[derive(Debug)]
pub struct Arrival<W> {
    /// Its name to the gate, never used twice.
    pub id: u64,
    /// What is shared with it.
    pub side: DaemonSide<W>,
    /// How many flows each side may open, and listeners there are.
    pub slots: (u32, u32),
    /// The longest message it may send, bytes.
    pub max_message: u32,
    /// What it may use, at all engines together.
    pub quota: Quota,
    /// What it uses.
    pub account: Arc<Account>,
    /// The number of the engine that this is for.
    pub engine: u8,
}

/// What one application may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Flows that are open at a time, accepted and connected ones together.
    pub flows: u32,
    /// Listeners at a time.
    pub listeners: u32,
    /// Bytes of messages that it has sent and that were not acknowledged yet, as flow control counts them (in units of 64 B,
    /// one more for each message).
    pub memory: u64,
    /// Ports it may listen on.
    pub ports: Ports,
}

/// Ports that may be listened on; 0 stands for "any free one".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// Those in any of `ranges`.
    #[must_use]
    pub const fn new(ranges: Vec<RangeInclusive<u16>>) -> Self {
        Self(ranges)
    }

    /// True if `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, range) in self.0.iter().enumerate() {
            let (comma, first, last) = (if i > 0 { ", " } else { "" }, range.start(), range.end());
            if first == last { write!(f, "{comma}{first}") } else { write!(f, "{comma}{first}-{last}") }?;
        }
        Ok(())
    }
}

/// Why an application is no longer served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It closed its connection, or died.
    Gone,
    /// It wrote what cannot be.
    Malformed(Malformed),
    /// It sent more on a flow than it was given room for.
    Overran {
        /// The flow's slot.
        slot: u32,
    },
}

impl Ended {
    /// A short name, for counters.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Malformed(malformed) => malformed.label(),
            Self::Overran { .. } => "room",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("it closed its connection"),
            Self::Malformed(malformed) => write!(f, "it wrote what cannot be: {malformed}"),
            Self::Overran { slot } => write!(f, "it sent more on the flow in slot {slot} than it was given room for"),
        }
    }
}

/// How applications do.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each that is served, or has flows that are not over.
    pub tenants: Vec<TenantReport>,
    /// Applications that are no longer served, by [`Ended::label`].
    pub ended: Vec<(&'static str, u64)>,
}

/// How one application does.
#[derive(Clone, Debug, Default)]
pub struct TenantReport {
    /// Its name to the gate.
    pub id: u64,
    /// It is no longer served; flows of it are ending.
    pub is_over: bool,
    /// Counters.
    pub counters: Counters,
    /// Bytes it has sent that were not acknowledged, as its quota counts them.
    pub held: u64,
    /// Bytes received for it that wait for room in its pipe.
    pub waiting: u64,
    /// Ports it listens on.
    pub ports: Vec<u16>,
    /// Flows that are open.
    pub flows: u32,
    /// The first of them.
    pub some_flows: Vec<FlowReport>,
}

impl TenantReport {
    /// Adds what another engine says of the same application.
    pub fn add(&mut self, other: Self) {
        self.is_over &= other.is_over;
        self.counters.add(&other.counters);
        self.held += other.held;
        self.waiting += other.waiting;
        self.ports.extend(other.ports);
        self.ports.sort_unstable();
        self.ports.dedup();
        self.flows += other.flows;
        self.some_flows.extend(other.some_flows);
        self.some_flows.truncate(REPORTED_FLOWS);
    }
}

/// Of one application, since it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages taken from its pipe.
    pub messages_taken: u64,
    /// Their bytes.
    pub bytes_taken: u64,
    /// Messages put into its pipe.
    pub messages_put: u64,
    /// Their bytes.
    pub bytes_put: u64,
    /// Times that it was rung.
    pub rings: u64,
    /// Flows opened.
    pub flows_opened: u64,
    /// Flows and listeners refused for a quota or a permission.
    pub refused: u64,
}

impl Counters {
    fn add(&mut self, other: &Self) {
        self.messages_taken += other.messages_taken;
        self.bytes_taken += other.bytes_taken;
        self.messages_put += other.messages_put;
        self.bytes_put += other.bytes_put;
        self.rings += other.rings;
        self.flows_opened += other.flows_opened;
        self.refused += other.refused;
    }
}

/// How one flow does.
#[derive(Clone, Copy, Debug)]
pub struct FlowReport {
    /// This side's address, once it is known.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub peer: SocketAddr,
    /// Where it stands.
    pub state: FlowState,
    /// Its counters.
    pub stats: FlowStats,
}

impl FlowReport {
    /// Why it is over, if it is.
    #[must_use]
    pub const fn reason(&self) -> Option<CloseReason> {
        self.state.reason()
    }
}
