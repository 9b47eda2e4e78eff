//! How a flow ends: in order, aborted, reset, refused (`docs/spec/flow.md#states`, `#directions-of-an-open-flow`).

use machnet_channel::CloseReason;

use super::rtt::MAX_PTO;
use super::{Control, Flow, State};
use crate::Instant;
use crate::time::Span;
use crate::wire::{Reason, Reset};

/// How long ABORT is repeated at least, if nobody acknowledges it: a host may stand still for so long.
const ABORTING: Span = Span::from_secs(1);
/// The least life of a tombstone: the peer's retransmissions must meet it.
const TOMBSTONE: Span = Span::from_millis(100);
/// How long a tombstone waits for the next question of a peer that asked, at most: five of its longest back-offs.
const ASKED: Span = Span::from_nanos(5 * MAX_PTO.as_nanos());

impl Flow {
    /// RESET arrived. Returns false if it does not answer something outstanding.
    pub(crate) fn on_reset(&mut self, reset: &Reset) -> bool {
        let genuine = match self.state {
            State::Connecting { .. } | State::HalfOpen { .. } => u64::from(reset.number) < self.sent.next(),
            State::Open | State::Aborting { .. } => self.sent.is_outstanding(reset.number),
            State::Tombstone { .. } | State::Closed => false,
        };
        if genuine {
            self.close(match (self.state, reset.reason) {
                (State::Connecting { .. }, Reason::Version) => CloseReason::Version,
                (State::Connecting { .. }, _) => CloseReason::Refused,
                _ => CloseReason::Reset,
            });
        }
        genuine
    }

    /// The network says that the peer's port is not open. Only a hint, except before anything was heard of the peer.
    pub(crate) fn on_unreachable(&mut self) {
        if matches!(self.state, State::Connecting { .. }) {
            self.close(CloseReason::Refused);
        }
    }

    /// The endpoint at the peer's address was restarted, and does not know this flow.
    pub(crate) fn on_displaced(&mut self) {
        self.close(CloseReason::Reset);
    }

    /// The peer was silent for too long.
    pub(crate) fn on_peer_dead(&mut self) {
        if !matches!(self.state, State::Tombstone { .. }) {
            self.close(CloseReason::PeerDead);
        }
    }

    /// Ends the flow here and at the peer.
    pub(crate) fn abort(&mut self, now: Instant, reason: Reason, closed: CloseReason) {
        match self.state {
            State::Open => {
                self.state = State::Aborting { until: now + (3 * self.rtt.pto(0)).max(ABORTING), is_late: false };
                self.abort = Control::Wanted;
                self.abort_reason = reason;
                self.closed = Some(closed);
                self.quiet();
            }
            State::Connecting { .. } | State::HalfOpen { .. } => self.close(closed),
            State::Aborting { .. } | State::Tombstone { .. } | State::Closed => {}
        }
    }

    /// ABORT was repeated for long enough; unless this host stood still, and it waits to be sent: once more, then.
    pub(super) fn end_abort(&mut self, now: Instant) {
        match self.state {
            State::Aborting { is_late: false, .. } if self.abort == Control::Wanted => {
                self.state = State::Aborting { until: now + ABORTING, is_late: true };
            }
            _ => self.close(CloseReason::Aborted),
        }
    }

    /// Drops what was to be sent and what was received.
    pub(super) fn quiet(&mut self) {
        self.cut_off |= !self.send.all_acknowledged();
        self.send.discard();
        self.recv.stop();
        self.announce = false;
        self.probes = 0;
        for control in [&mut self.fin, &mut self.stop, &mut self.ping, &mut self.blocked] {
            if *control == Control::Wanted {
                *control = Control::Idle;
            }
        }
    }

    /// The flow is over for the application; only the memory of it is kept for the peer.
    pub(super) fn entomb(&mut self, now: Instant, reason: CloseReason) {
        self.closed = Some(reason);
        self.quiet();
        let until = now + self.briefly();
        self.state = State::Tombstone { until, limit: until + 2 * self.limits.dead_peer_timeout };
    }

    /// A packet of the peer has met a tombstone; `asks`: for an answer.
    pub(super) fn stay(&mut self, now: Instant, asks: bool) {
        let (briefly, is_over_there) = (self.briefly(), self.is_over_there());
        let State::Tombstone { until, limit } = &mut self.state else { return };
        if is_over_there {
            // What it asked it asked before it heard us.
            *until = (*until).min(now + briefly);
        } else if asks {
            // Our last answers were lost. It backs off, and silence when it asks again would look to it like our death.
            *until = (now + self.limits.dead_peer_timeout.min(ASKED)).min(*limit);
        }
    }

    /// How long a tombstone stays that nobody asks.
    fn briefly(&self) -> Span {
        (3 * self.rtt.pto(0)).max(TOMBSTONE)
    }

    /// The peer has our FIN and our STOP, and all before them that it wants: the flow is over there too, whatever of our
    /// answers it missed.
    fn is_over_there(&self) -> bool {
        self.stop == Control::Acked && self.fin == Control::Acked && (self.peer_stopped || self.is_finished())
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
        self.quiet();
        self.state = State::Closed;
    }

    /// Ends the flow if both directions are over (`docs/spec/flow.md#directions-of-an-open-flow`).
    pub(super) fn settle(&mut self, now: Instant) {
        match self.state {
            State::Open if self.fin == Control::Idle => {}
            State::Open => {
                // Everything that arrived in order was or will be delivered in this round: see `publish`.
                let sending =
                    self.is_finished() || (self.recv.has_fin() && self.peer_stopped && self.fin == Control::Sent);
                let receiving = self.recv.is_ended() || self.stop == Control::Acked;
                if sending && receiving {
                    self.entomb(now, CloseReason::Finished);
                }
            }
            State::Aborting { .. } if self.abort == Control::Acked => self.close(CloseReason::Aborted),
            _ => {}
        }
    }

    /// FIN and everything before it was acknowledged, or discarded because the peer reads no more.
    pub(super) fn is_finished(&self) -> bool {
        self.fin == Control::Acked && self.send.all_acknowledged() && !self.cut_off
    }
}
