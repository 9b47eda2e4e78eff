//! One flow: a reliable, ordered, message-preserving connection (`docs/spec/flow.md`).
//!
//! The flow only routes between its sub-machines, each of which can be tested alone:
//!
//! | module | knows |
//! |---|---|
//! | [`send`] | what is to be sent: messages, parts, what was acknowledged of them |
//! | [`loss`] | packets in flight: numbers, losses, probes |
//! | [`rack`] | how long a packet may be overtaken before it is lost |
//! | [`acks`] | numbers received, and when to say so |
//! | [`receive`] | messages received, the credit of the peer |
//! | [`partial`] | what is there of a long one |
//! | [`pacer`] | how soon packets may follow each other |
//! | [`rtt`] | round-trip time |
//! | [`crate::cc`] | the congestion window |
//!
//! What it does with them, by occasion:
//!
//! | module | when |
//! |---|---|
//! | `handshake` | the flow begins |
//! | `input` | DATA arrived |
//! | `app` | the application wants something, or is told |
//! | `credit` | room was consumed, reserved or named |
//! | `liveness` | a deadline passed; traffic paused |
//! | `transmit` | it has its turn to send |
//! | `ending` | the flow ends |
//!
//! The engine calls `on_*` with what happened and `now`, then [`Flow::transmit`], then [`Flow::publish`]. A flow reads no
//! clock, and holds no reference to the engine.

mod acks;
mod alarm;
mod app;
mod credit;
mod ending;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handshake;
mod input;
mod liveness;
mod loss;
pub(crate) mod mtu;
mod pacer;
mod partial;
mod rack;
mod receive;
mod rtt;
mod send;
mod transmit;
mod units;

use std::net::SocketAddr;
use std::sync::Arc;

use machnet_channel::{CloseReason, Congestion, FlowOptions, FlowState, UNIT, cost_in_units};

pub(crate) use receive::{Need, Store};
pub(crate) use send::Cut;
pub(crate) use units::UnitSet;

use crate::cc::AnyController;
use crate::engine::{Membership, PeerQueues};
use crate::time::Span;
use crate::wire::{BASE_PAYLOAD, Reason};
use crate::{Capabilities, Config, Instant, Slot};
use acks::Acks;
use alarm::Alarm;
use loss::Outstanding;
use mtu::Mtu;
use pacer::Pacer;
use receive::ReceiveQueue;
use rtt::Rtt;
use send::{Part, SendQueue};

/// What a packet carried that must arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Message(Part),
    Fin,
    Stop,
    Abort,
    /// With the number of the request: what an older one said is not what this one says.
    Blocked(u32),
    /// Likewise: it may stand for the credit that the packet named.
    Ping(u32),
    /// A probe of the path's MTU: the UDP payload whose passing it shows.
    Probe(u32),
}

/// Where a flow stands (`docs/spec/flow.md#states`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting {
        give_up: Instant,
        next_init: Instant,
        /// INITs that the timer brought.
        tries: u8,
        hurry: Hurry,
    },
    HalfOpen {
        give_up: Instant,
        /// The initiator's start, as it says.
        instance: u64,
        /// And its engines and ports.
        queues: PeerQueues,
    },
    Open,
    Aborting {
        until: Instant,
        /// That was put off.
        is_late: bool,
    },
    Tombstone {
        until: Instant,
        /// However long the peer asks.
        limit: Instant,
    },
    /// To be forgotten.
    Closed,
}

/// Whether a RETRY brings the next INIT at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hurry {
    Allowed,
    /// It does: that INIT goes out next.
    Due,
    /// It did, since the timer last brought one.
    Used,
}

/// Whether the initiator of a half-open flow showed that it receives at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Unproven,
    /// By a token.
    Proven,
}

/// Where one reliable control chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Control {
    Idle,
    Wanted,
    Sent,
    Acked,
}

impl Control {
    /// It was lost, or is sent again as a probe.
    fn lost(&mut self) {
        if *self == Self::Sent {
            *self = Self::Wanted;
        }
    }
}

/// When a round of the engine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) now: Instant,
    /// How long before `now` what arrived in this round may have arrived.
    pub(crate) gap: Span,
}

/// What of the configuration each flow needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_message: u32,
    /// Units.
    pub(crate) receive_window: u64,
    /// Units.
    pub(crate) send_buffer: u64,
    pub(crate) connect_timeout: Span,
    pub(crate) dead_peer_timeout: Span,
    pub(crate) linger: Span,
    pub(crate) max_ack_delay: Span,
    /// How packets are cut that every path carries.
    pub(crate) cut: Cut,
    /// The longest UDP payload that may be tried.
    pub(crate) max_payload: u32,
    /// So long packets pass, and none is lost.
    pub(crate) is_local: bool,
    pub(crate) congestion: Congestion,
    /// Packets and time that a paced flow may be ahead.
    pub(crate) burst: pacer::Burst,
}

impl Limits {
    pub(crate) fn new(config: &Config, max_payload: usize, driver: &Capabilities) -> Self {
        let default = if driver.can_sleep { Congestion::Cubic } else { Congestion::Swift };
        Self {
            max_message: config.max_message,
            receive_window: u64::from(config.receive_window) / UNIT,
            send_buffer: u64::from(config.send_buffer) / UNIT,
            connect_timeout: config.connect_timeout.into(),
            dead_peer_timeout: config.dead_peer_timeout.into(),
            linger: config.linger.into(),
            max_ack_delay: config.max_ack_delay.into(),
            cut: Cut::new(BASE_PAYLOAD),
            max_payload: max_payload as u32,
            is_local: driver.is_local,
            congestion: config.congestion.unwrap_or(default),
            burst: pacer::Burst::of(driver),
        }
    }
}

/// What the application was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Published {
    acknowledged: u64,
    state: FlowState,
}

#[derive(Debug)]
pub(crate) struct Flow {
    /// What the peer writes into its packets.
    pub(crate) id: u64,
    /// What we write into ours; 0 until known.
    pub(crate) remote_id: u64,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: State,
    /// The application's name for it, while it has one.
    pub(crate) slot: Option<Slot>,
    /// The engine's lists that hold it.
    pub(crate) is_unfinished: bool,
    pub(crate) is_touched: bool,
    /// It counts as half-open.
    pub(crate) half_open: Option<Opening>,
    /// It waits for a reassembly buffer.
    pub(crate) is_waiting: bool,
    /// It is among the engine's tombstones.
    pub(crate) is_entombed: bool,
    /// What of its reassembly its peer was charged for.
    pub(crate) charged: [u32; 2],
    /// Its place among the flows of its peer, once that is validated.
    pub(crate) peer: Option<Membership>,

    limits: Arc<Limits>,
    sent: Outstanding,
    acks: Acks,
    rtt: Rtt,
    cc: AnyController,
    pacer: Pacer,
    send: SendQueue,
    /// The path's MTU, once that was looked for.
    mtu: Option<Box<Mtu>>,
    recv: ReceiveQueue,

    /// Cumulative units the peer lets us send.
    peer_credit: u64,
    /// The smaller of both sides' limits.
    max_message: u32,
    /// The longest UDP payload that may be tried: ours, and half of the peer's window.
    max_payload: u32,
    /// The end of the furthest message that has or had a buffer, cumulative units.
    reserved: u64,
    /// The last credit that a packet named.
    credit_sent: u64,
    /// Numbers that were dropped for want of memory, the first and the last, and nobody said so yet.
    refused: Option<(u32, u32)>,
    /// The peer waits for credit.
    peer_blocked: bool,
    /// Credit is to be announced in this round.
    announce: bool,
    /// The application's share in [`Flow::check_credit`] is to be asked for anew.
    retell: bool,

    fin: Control,
    stop: Control,
    abort: Control,
    ping: Control,
    blocked: Control,
    /// How often PING and BLOCKED were asked for.
    ping_round: u32,
    blocked_round: u32,
    /// The credit at which BLOCKED was last said; `u64::MAX`: never.
    blocked_at: u64,
    /// Probes that may go out whatever the window.
    probes: u8,
    stop_reason: Reason,
    abort_reason: Reason,
    peer_stopped: bool,
    /// What was to be sent was dropped before it was acknowledged.
    cut_off: bool,
    linger: Alarm,
    lingers: Linger,
    /// When the last INIT or ACCEPT went out, if there was but one: then its answer is a sample of the round trip.
    handshake_sent: Alarm,
    closed: Option<CloseReason>,
    published: Published,
    packets_received: u64,
    /// When the last packet was received or sent.
    active_at: Instant,
    /// When to look whether the flow is idle ([`Flow::on_idle`]).
    idle_at: Alarm,
    /// The channel's is to be given back, too.
    shed_channel: bool,
    token: Option<Box<Token>>,
}

/// A token that a RETRY gave. Rare: a flow spends one word on it.
#[derive(Debug)]
struct Token(Box<[u8]>);

/// What happens when `linger` has passed since our FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linger {
    /// Nothing: there is no FIN yet.
    Not,
    /// Whoever waits for its acknowledgement is told.
    Finishing,
    /// That was told. The flow goes on.
    Late,
    /// The application is gone: the flow is aborted.
    Dropped,
}

impl Flow {
    fn new(
        id: u64,
        (local, remote): (SocketAddr, SocketAddr),
        state: State,
        options: FlowOptions,
        limits: &Arc<Limits>,
    ) -> Self {
        let congestion = options.congestion.unwrap_or(limits.congestion);
        Self {
            id,
            remote_id: 0,
            local,
            remote,
            state,
            slot: None,
            is_unfinished: false,
            is_touched: false,
            half_open: None,
            is_waiting: false,
            is_entombed: false,
            charged: [0; 2],
            peer: None,
            limits: Arc::clone(limits),
            sent: Outstanding::new(),
            acks: Acks::new(),
            rtt: Rtt::new(),
            cc: AnyController::new(congestion, limits.cut.packet() as u32),
            pacer: Pacer::new(),
            send: SendQueue::new(limits.cut),
            mtu: None,
            recv: ReceiveQueue::new(limits.receive_window, limits.max_message),
            peer_credit: 0,
            max_message: limits.max_message,
            max_payload: limits.max_payload,
            reserved: 0,
            credit_sent: limits.receive_window,
            refused: None,
            peer_blocked: false,
            announce: false,
            retell: true,
            fin: Control::Idle,
            stop: Control::Idle,
            abort: Control::Idle,
            ping: Control::Idle,
            blocked: Control::Idle,
            ping_round: 0,
            blocked_round: 0,
            blocked_at: u64::MAX,
            probes: 0,
            stop_reason: Reason::None,
            abort_reason: Reason::None,
            peer_stopped: false,
            cut_off: false,
            linger: Alarm::NONE,
            lingers: Linger::Not,
            handshake_sent: Alarm::NONE,
            closed: None,
            published: Published::default(),
            packets_received: 0,
            active_at: Instant::ZERO,
            idle_at: Alarm::NONE,
            shed_channel: false,
            token: None,
        }
    }

    /// Sent packets that are remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.sent.remembered()
    }

    /// Packets declared lost since this was last asked.
    pub(crate) const fn newly_lost(&mut self) -> u64 {
        self.sent.newly_lost()
    }
}

const _: () = assert!(cost_in_units(0) == 1);

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle flow is this, its entry in the tables, and the mailbox: less than 2 KiB in all
    /// (`machnet-sim`, test `memory_of_idle_flows`).
    #[test]
    fn a_flow_is_small() {
        let size = size_of::<Flow>();
        println!("{size} bytes");
        assert!(size <= 960, "{size}");
    }
}
