//! A flow's dealings with its application: what it wants and posts, what it is told (`docs/spec/flow.md#published-state`).

use machnet_channel::{CloseReason, FlowState, FlowStats, Intent};

use super::{Alarm, Control, Flow, Linger, Published, State};
use crate::cc::Controller as _;
use crate::wire::Reason;
use crate::{AppChannel, Instant};

/// Messages taken from one application in one round.
const TAKE_PER_TURN: usize = 256;

impl Flow {
    /// Looks at the application's side. Returns true if there is more to take in the next round.
    pub(crate) fn on_app(&mut self, now: Instant, channel: &mut impl AppChannel, takes: &mut usize) -> bool {
        let Some(slot) = self.slot else { return false };
        let intent = channel.intent(slot);
        self.recv.set_read(channel.consumed(slot));
        self.check_credit();
        if intent.has(Intent::CHUNKS) {
            self.recv.take_chunks();
        }
        if intent.has(Intent::ABORT) {
            self.abort(now, Reason::None, CloseReason::Aborted);
            return false;
        }
        let mut taken = 0;
        let mut drained = false;
        while taken < TAKE_PER_TURN && *takes > 0 {
            let Some(message) = channel.take(slot) else {
                drained = true;
                break;
            };
            taken += 1;
            *takes -= 1;
            // After FIN only an endpoint that shuts down under its application posts.
            if self.peer_stopped || self.fin != Control::Idle {
                continue;
            }
            if message.len() > self.max_message as usize && !matches!(self.state, State::Connecting { .. }) {
                self.abort(now, Reason::TooLarge, CloseReason::TooLarge);
                return false;
            }
            self.send.push(message);
        }
        self.on_intent(now, intent, drained);
        if drained {
            self.tell_at(slot, channel);
        }
        !drained
    }

    /// Acts on what the application wants; `drained`: every message posted before was taken.
    pub(super) fn on_intent(&mut self, now: Instant, intent: Intent, drained: bool) {
        // An aborted flow has nothing more to say than ABORT; a FIN beside it would look like an end in order.
        if matches!(self.state, State::Aborting { .. } | State::Tombstone { .. } | State::Closed) {
            return;
        }
        if intent.has(Intent::STOP) && self.stop == Control::Idle && !self.recv.is_ended() {
            self.stop = Control::Wanted;
            self.recv.stop();
        }
        if intent.has(Intent::FIN) && drained {
            if self.fin == Control::Idle {
                self.fin = Control::Wanted;
            }
            let until = Alarm::at(now + self.limits.linger);
            if self.lingers == Linger::Not {
                (self.lingers, self.linger) = (Linger::Finishing, until);
            }
            if intent.has(Intent::STOP) && self.lingers != Linger::Dropped {
                (self.lingers, self.linger) = (Linger::Dropped, until);
                // Nobody waits for the answer any more.
                if matches!(self.state, State::Connecting { .. }) && self.send.all_sent() {
                    self.close(CloseReason::Aborted);
                }
            }
        }
        self.settle(now);
    }

    /// The endpoint closes: as if the application had dropped its handles.
    pub(crate) fn on_shutdown(&mut self, now: Instant) {
        if matches!(self.state, State::Connecting { .. } | State::HalfOpen { .. }) {
            self.close(CloseReason::Shutdown);
        }
        self.on_intent(now, Intent::FIN.with(Intent::STOP), true);
    }

    /// Delivers what arrived. Call it before [`Flow::publish`], and after each packet: the end of the stream shows
    /// only then.
    pub(crate) fn deliver(&mut self, now: Instant, channel: &mut impl AppChannel) {
        let Some(slot) = self.slot else { return };
        let mut any = false;
        while let Some(message) = self.recv.pop() {
            channel.deliver(slot, message);
            any = true;
        }
        if any && self.recv.has_fin() {
            self.settle(now);
        }
        if std::mem::take(&mut self.retell) {
            self.tell_at(slot, channel);
        }
    }

    /// Tells the application where the flow stands, if that changed. Returns true if it is over for the application.
    pub(crate) fn publish(&mut self, channel: &mut impl AppChannel) -> bool {
        let Some(slot) = self.slot else { return false };
        let acknowledged = self.send.acknowledged();
        channel.set_stats(slot, &self.stats());
        if self.is_plain() && self.published.state == FlowState::OPEN {
            if acknowledged != self.published.acknowledged {
                self.published.acknowledged = acknowledged;
                channel.set_progress(slot, acknowledged + self.limits.send_buffer, acknowledged);
            }
            if std::mem::take(&mut self.shed_channel) {
                channel.shed(slot);
            }
            return false;
        }
        let mut state = FlowState::CONNECTING;
        // A connecting flow that is closed was never open, and knows no id of the peer.
        if self.remote_id != 0 && !matches!(self.state, State::Connecting { .. } | State::HalfOpen { .. }) {
            state = state.with(FlowState::OPEN);
        }
        // Not `is_ended`, and not after our STOP: the peer then ends its stream anywhere (a flow that is reset stops,
        // one that the endpoint shuts down says STOP), and what the application misses must not look like the end.
        if self.recv.is_complete() && self.stop == Control::Idle {
            state = state.with(FlowState::READ_ENDED);
        }
        if self.peer_stopped {
            state = state.with(FlowState::WRITE_ENDED);
        }
        if self.is_finished() {
            state = state.with(FlowState::FIN_ACKED);
        }
        if self.lingers == Linger::Late && !self.is_finished() {
            state = state.with(FlowState::FIN_LATE);
        }
        // Bits are only ever added: an abort forgets what a FIN said.
        state = state.with(self.published.state);
        if let Some(reason) = self.closed {
            state = state.closed(reason);
        }
        // Before the handshake nothing can be sent: room would only be memory.
        let room = if state.has(FlowState::OPEN) { acknowledged + self.limits.send_buffer } else { 0 };
        let now = Published { acknowledged, state };
        // Before there is room to send: who sends looks at the maximum.
        let opened = state.has(FlowState::OPEN) && !self.published.state.has(FlowState::OPEN);
        if opened {
            channel.set_local(slot, self.local);
            channel.set_max_message(slot, self.max_message);
        }
        if opened || now.acknowledged != self.published.acknowledged {
            channel.set_progress(slot, room, acknowledged);
        }
        if std::mem::take(&mut self.shed_channel) {
            channel.shed(slot);
        }
        if now.state != self.published.state {
            channel.set_state(slot, state);
        }
        self.published = now;
        self.closed.is_some()
    }

    /// True if the flow is open, and neither side has begun to end it.
    fn is_plain(&self) -> bool {
        self.state == State::Open
            && self.fin == Control::Idle
            && self.stop == Control::Idle
            && !self.peer_stopped
            && !self.recv.has_fin()
            && self.lingers == Linger::Not
            && self.closed.is_none()
    }

    pub(super) fn stats(&self) -> FlowStats {
        let mut stats = FlowStats::default();
        // Each has a number.
        stats.packets_sent = self.sent.next();
        stats.packets_received = self.packets_received;
        stats.messages_sent = self.send.messages_sent;
        stats.bytes_sent = self.send.bytes_sent;
        stats.messages_received = self.recv.messages_received;
        stats.bytes_received = self.recv.bytes_received;
        stats.packets_lost = self.sent.packets_lost;
        stats.smoothed_rtt_ns = self.rtt.smoothed().as_nanos();
        stats.congestion_window = self.cc.window();
        stats
    }
}
