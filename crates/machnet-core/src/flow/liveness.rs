//! What time brings: deadlines, probes, keepalives, and the memory that an idle flow gives back
//! (`docs/spec/flow.md#loss-and-time`, `#liveness`).

use std::time::Duration;

use machnet_channel::CloseReason;

use super::{Control, Flow, Linger, State, transmit};
use crate::Instant;
use crate::wire::Reason;

/// A flow that was idle for so long gives back the memory of its queues.
const IDLE: Duration = Duration::from_millis(100);

impl Flow {
    /// When [`Flow::on_timer`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let own = match self.state {
            State::Connecting { give_up, next_init, .. } => return Some(next_init.min(give_up)),
            State::HalfOpen { give_up } => return Some(give_up),
            State::Tombstone { until, .. } => Some(until),
            State::Aborting { until } => [Some(until), self.sent.deadline(self.pto())].into_iter().flatten().min(),
            State::Open => {
                [self.sent.deadline(self.pto()), self.linger.deadline(), self.shed_at].into_iter().flatten().min()
            }
            State::Closed => return None,
        };
        [own, self.acks.deadline()].into_iter().flatten().min()
    }

    pub(super) fn pto(&self) -> Duration {
        self.rtt.pto(self.sent.backoff())
    }

    /// A deadline passed. Sending, if due, is left to [`Flow::transmit`].
    pub(crate) fn on_timer(&mut self, now: Instant) {
        match self.state {
            State::Connecting { give_up, .. } => {
                if give_up <= now {
                    self.close(CloseReason::ConnectTimeout);
                }
            }
            State::HalfOpen { give_up: until } | State::Tombstone { until, .. } => {
                if until <= now {
                    self.close(CloseReason::ConnectTimeout);
                }
            }
            State::Aborting { until } => {
                if until <= now {
                    self.close(CloseReason::Aborted);
                } else {
                    self.on_sent_timer(now);
                }
            }
            State::Open => {
                if self.shed_at.is_some_and(|at| at <= now) {
                    self.shed(now);
                }
                match self.linger {
                    Linger::Dropped(until) if until <= now => {
                        return self.abort(now, Reason::Linger, CloseReason::Aborted);
                    }
                    Linger::Finishing(until) if until <= now => self.linger = Linger::Late,
                    _ => {}
                }
                self.on_sent_timer(now);
            }
            State::Closed => {}
        }
    }

    pub(super) fn on_sent_timer(&mut self, now: Instant) {
        if self.sent.on_timeout(now, self.pto()) {
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
        self.probes = transmit::PROBES;
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

    pub(super) fn on_traffic(&mut self, now: Instant) {
        self.active_at = now;
        if self.shed_at.is_none() {
            self.shed_at = Some(now + IDLE);
        }
    }

    /// Gives back the memory of past traffic, unless there was some lately.
    pub(super) fn shed(&mut self, now: Instant) {
        if self.sent.in_flight() > 0 || self.active_at + IDLE > now {
            self.shed_at = Some(self.active_at.max(now) + IDLE);
            return;
        }
        self.shed_at = None;
        self.shed_channel = true;
        self.sent.shed();
        self.acks.shed();
        self.send.shed();
        self.recv.shed();
    }
}
