//! What time brings: deadlines, probes, keepalives, and the memory that an idle flow gives back
//! (`docs/spec/flow.md#loss-and-time`, `#liveness`).

use machnet_channel::CloseReason;

use super::{Alarm, Control, Cut, Flow, Linger, State, transmit};
use crate::Instant;
use crate::cc::Controller as _;
use crate::time::Span;
use crate::wire::Reason;

/// A flow that was idle for so long gives back the memory of its queues.
const IDLE: Span = Span::from_millis(100);
/// Silence of a flow after which its peer is asked whether it still knows it, in `dead_peer_timeout`s: a flow that waits for the rest
/// of what it received, and any. The peer may live and have lost the flow, and its ABORT the way.
const UNFINISHED_CHECK: u32 = 1;
const CHECK: u32 = 12;
/// PTOs in a row after which, if short packets pass, the long ones are believed to vanish (as persistent congestion, RFC 9002 §7.6.1).
const STUCK: u32 = 3;

trait OrEarlier {
    /// The earlier of two moments, of which each may be none.
    fn or_earlier(self, other: Self) -> Self;
}

impl OrEarlier for Option<Instant> {
    #[inline]
    fn or_earlier(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            _ => self.or(other),
        }
    }
}

impl Flow {
    /// When [`Flow::on_timer`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let own = match self.state {
            State::Connecting { give_up, next_init, .. } => return Some(next_init.min(give_up)),
            State::HalfOpen { give_up, .. } => return Some(give_up),
            State::Tombstone { until, .. } => Some(until),
            State::Aborting { until, .. } => Some(until).or_earlier(self.sent.deadline(&self.rtt)),
            State::Open => {
                // Only the pace is waited for: nothing else would bring the flow its turn.
                let pace = self.pacer.deadline().filter(|_| self.sent.in_flight() < self.cc.window());
                let mtu = self.mtu.as_ref().and_then(|mtu| mtu.deadline());
                let sent = self.sent.deadline(&self.rtt);
                sent.or_earlier(self.linger.get()).or_earlier(self.idle_at.get()).or_earlier(pace).or_earlier(mtu)
            }
            State::Closed => return None,
        };
        own.or_earlier(self.acks.deadline())
    }

    /// A deadline passed. Sending, if due, is left to [`Flow::transmit`].
    pub(crate) fn on_timer(&mut self, now: Instant) {
        match self.state {
            State::Connecting { give_up, .. } => {
                if give_up <= now {
                    self.close(CloseReason::ConnectTimeout);
                }
            }
            State::HalfOpen { give_up: until, .. } | State::Tombstone { until, .. } => {
                if until <= now {
                    self.close(CloseReason::ConnectTimeout);
                }
            }
            State::Aborting { until, .. } => {
                if until <= now {
                    self.end_abort(now);
                } else {
                    self.on_sent_timer(now);
                }
            }
            State::Open => {
                if let Some(mtu) = &mut self.mtu {
                    mtu.on_timer(now);
                }
                if self.idle_at.is_due(now) {
                    self.on_idle(now);
                }
                if self.linger.is_due(now) {
                    if self.lingers == Linger::Dropped {
                        return self.abort(now, Reason::Linger, CloseReason::Aborted);
                    }
                    (self.lingers, self.linger) = (Linger::Late, Alarm::NONE);
                }
                self.on_sent_timer(now);
            }
            State::Closed => {}
        }
    }

    /// The timer passed again and again, and the peer says nothing.
    pub(crate) const fn is_unanswered(&self) -> bool {
        match self.state {
            State::Connecting { tries, .. } => tries > 0,
            // One may be the loss of a last packet.
            State::Open => self.sent.backoff() > 1,
            _ => false,
        }
    }

    pub(super) fn on_sent_timer(&mut self, now: Instant) {
        if self.sent.on_timeout(now, &self.rtt) {
            // A peer without memory says so: that is not the path.
            if self.sent.backoff() >= STUCK
                && !self.sent.is_held()
                && let Some(mtu) = &mut self.mtu
                && mtu.on_stuck(now)
            {
                self.adopt_mtu();
            }
            self.probe_now();
        } else {
            self.detect_losses(now);
        }
    }

    /// Sends what the peer needs next once more. Not what is oldest in flight: that may be what the peer refuses, or
    /// nothing that matters any more. Every control chunk, for they are small, and the parts that are next in order.
    pub(super) fn probe_now(&mut self) {
        for control in [&mut self.fin, &mut self.stop, &mut self.abort, &mut self.ping, &mut self.blocked] {
            control.lost();
        }
        self.send.probe();
        if !self.send.has_again() {
            // Whatever the peer refused, it has by now.
            self.sent.release();
        }
        self.probes = transmit::PROBES;
    }

    /// Packets are as long as the path carries from now on.
    pub(super) fn adopt_mtu(&mut self) {
        if let Some(mtu) = &self.mtu {
            let cut = Cut::new(mtu.current() as usize);
            self.set_cut(cut);
        }
    }

    pub(super) fn set_cut(&mut self, cut: Cut) {
        if cut != self.send.cut() {
            self.send.set_cut(cut);
            self.cc.set_packet(cut.packet() as u32);
        }
    }

    /// Asks for a PING that is repeated until acknowledged. The acknowledgement of an earlier one says nothing of this.
    pub(super) fn want_ping(&mut self) {
        self.ping = Control::Wanted;
        self.ping_round = self.ping_round.wrapping_add(1);
    }

    /// Asks the peer whether it lives.
    pub(crate) fn keepalive(&mut self) {
        if self.ping == Control::Idle {
            self.want_ping();
        }
    }

    /// How long an answer of the peer takes at most, usually.
    pub(crate) fn pto(&self) -> Span {
        self.rtt.pto(0)
    }

    pub(super) fn on_traffic(&mut self, now: Instant) {
        self.active_at = now;
        self.idle_at.advance(now + IDLE);
    }

    /// After a time without traffic: gives back the memory of what was, and later asks whether the peer still knows the flow.
    pub(super) fn on_idle(&mut self, now: Instant) {
        if self.sent.in_flight() > 0 || self.active_at + IDLE > now {
            self.idle_at = Alarm::at(self.active_at.max(now) + IDLE);
            return;
        }
        self.shed_channel = true;
        self.sent.shed();
        self.acks.shed();
        self.send.shed();
        self.recv.shed();
        let check = if self.recv.is_unfinished() { UNFINISHED_CHECK } else { CHECK };
        let at = self.active_at + check * self.limits.dead_peer_timeout;
        self.idle_at = Alarm::at(at.max(now + IDLE));
        if at <= now {
            self.keepalive();
        }
    }
}
