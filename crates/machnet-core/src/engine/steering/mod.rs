//! Steering: which ports flows are sent between, so that their packets hit the right one of several queues
//! (`docs/spec/flow.md#steering`, `wire.md#several-engines`).
//!
//! ```text
//!   flow opens ─▶ map knows a pair? ─yes─▶ take it
//!                     │ no                             arrivals ─▶ 8 strays in a row ─┐
//!                     ▼                                                               ▼
//!                 search: PROBE on a pair ─▶ PROBE_REPLY on its reverse ─▶ map, both ways ─▶ next pair, or settled
//! ```
//!
//! Kept beside the flows, and only for those with another choice than their home pair: an endpoint with one port whose peers
//! have one has none of this.

mod ports;
mod probes;
mod search;

use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use machnet_channel::Tried;

pub(crate) use ports::{Pair, PeerName, PortMaps};
use search::{Ports, Search};

use super::timers::Timers;
use crate::Instant;
use crate::driver::Meta;
use crate::wire::SeenAt;

/// Packets in a row on wrong queues from which on a better pair is looked for.
const STRAYS: u8 = 8;
/// How soon after a search that succeeded, or a probe of the peer's, the next may begin.
const SOON: Duration = Duration::from_millis(10);
/// And after one that failed: doubled with each, up to `LATE << DOUBLINGS`.
const LATE: Duration = Duration::from_secs(1);
const DOUBLINGS: u8 = 6;

/// What a flow's peer said of itself in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerQueues {
    pub(crate) engines: u8,
    pub(crate) ports: (u16, u16),
}

/// Whether the pair that a flow is sent on hits the engine that owns the flow there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forward {
    Unknown,
    Hits,
    Misses,
}

/// A flow with a choice.
#[derive(Debug)]
struct Steered {
    /// The flow's id: slots are used again.
    id: u64,
    peer: PeerName,
    /// The peer's engine that owns the flow, and how many it has.
    target: u8,
    engines: u8,
    ports: Ports,
    /// The pair that the flow is sent on; at first that of its handshake.
    pair: Pair,
    forward: Forward,
    /// Where its last packet arrived.
    seen: Option<SeenAt>,
    /// How many arrived on a wrong queue since the last on the right one.
    strays: u8,
    /// The peer needs no other pair.
    peer_settled: bool,
    /// The last PROBE_REPLYs to the peer: their nonces and pairs.
    answered: [Option<(u64, Pair)>; 2],
    /// The order in which second answers try pairs.
    spare: Option<Search>,
    search: Option<Search>,
    /// A search begins with the first packet of the peer, which shows that the flow is open there.
    eager: bool,
    /// No search begins before.
    not_before: Instant,
    failures: u8,
    /// Probes sent.
    number: u32,
}

impl Steered {
    /// The pair hits this engine of the peer's, as somebody said.
    fn on_report(&mut self, pair: Pair, engine: u8) {
        if engine == self.target && (pair == self.pair || self.forward != Forward::Hits) {
            (self.pair, self.forward) = (pair, Forward::Hits);
        } else if pair == self.pair && engine != self.target {
            self.forward = Forward::Misses;
        }
    }

    /// A packet that is no probe arrived. True if it is time to search.
    fn on_arrival(&mut self, meta: &Meta, own: u8) -> bool {
        let engine = meta.queue as u8;
        self.seen = Some(SeenAt { ports: (meta.remote.port(), meta.local.port()), engine });
        self.strays = if engine == own { 0 } else { self.strays.saturating_add(1) };
        std::mem::take(&mut self.eager) && !self.is_settled() || self.strays >= STRAYS
    }

    const fn is_settled(&self) -> bool {
        self.engines == 1 || matches!(self.forward, Forward::Hits)
    }

    /// The search is over.
    fn end_search(&mut self, now: Instant, settled: bool) {
        self.search = None;
        if settled {
            self.failures = 0;
            self.not_before = now + SOON;
        } else {
            self.not_before = now + LATE * (1 << self.failures);
            self.failures = (self.failures + 1).min(DOUBLINGS);
        }
        // Those on the way do not count again.
        self.strays = 0;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Steering {
    maps: Arc<Tried<PortMaps>>,
    /// By the flows' keys.
    flows: Vec<Option<Box<Steered>>>,
    /// Of outstanding probes, by flow.
    timers: Timers,
    probes_sent: u64,
}

impl Steering {
    fn new(maps: Arc<Tried<PortMaps>>) -> Box<Self> {
        Box::new(Self { maps, flows: Vec::new(), timers: Timers::new(), probes_sent: 0 })
    }

    pub(super) const fn probes_sent(&self) -> u64 {
        self.probes_sent
    }

    /// The pair to send a flow on; `None`: its own addresses.
    #[inline]
    pub(super) fn pair(&self, key: u32) -> Option<Pair> {
        self.flows.get(key as usize)?.as_ref().map(|flow| flow.pair)
    }

    fn insert(&mut self, key: u32, flow: Steered) {
        let index = key as usize;
        if index >= self.flows.len() {
            self.flows.resize_with(index + 1, || None);
        }
        self.flows[index] = Some(Box::new(flow));
    }

    pub(super) fn forget(&mut self, key: u32) {
        self.timers.set(key, None);
        if let Some(flow) = self.flows.get_mut(key as usize) {
            *flow = None;
        }
    }

    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    /// A flow, and the map if nobody else has it at the moment: an engine waits for nobody.
    fn get(&mut self, key: u32) -> Option<(&mut Steered, Option<impl DerefMut<Target = PortMaps>>)> {
        Some((self.flows.get_mut(key as usize)?.as_mut()?, self.maps.get()))
    }
}
