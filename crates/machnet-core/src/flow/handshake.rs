//! How a flow begins (`docs/spec/flow.md#states`, `wire.md#handshake`).

use std::net::SocketAddr;
use std::sync::Arc;

use machnet_channel::{FlowOptions, UNIT};

use super::{Cut, Flow, Hurry, Limits, State};
use crate::engine::PeerQueues;
use crate::time::Span;
use crate::wire::{BASE_PAYLOAD, Handshake};
use crate::{Instant, Slot};

/// First interval of repeated INITs, doubled each time.
pub(super) const INIT_INTERVAL: Span = Span::from_millis(10);

impl Flow {
    /// A flow that begins to connect.
    pub(crate) fn connect(
        now: Instant,
        id: u64,
        local: SocketAddr,
        remote: SocketAddr,
        options: FlowOptions,
        limits: &Arc<Limits>,
    ) -> Self {
        let state = State::Connecting {
            give_up: now + limits.connect_timeout,
            next_init: now,
            tries: 0,
            hurry: Hurry::Allowed,
        };
        Self::new(id, (local, remote), state, options, limits)
    }

    /// A flow that a valid INIT opened.
    pub(crate) fn accept(
        now: Instant,
        id: u64,
        addresses: (SocketAddr, SocketAddr),
        init: &Handshake<'_>,
        options: FlowOptions,
        limits: &Arc<Limits>,
    ) -> Self {
        let queues = PeerQueues { engines: init.engines, ports: init.ports };
        let state = State::HalfOpen { give_up: now + limits.connect_timeout, instance: init.instance, queues };
        let mut flow = Self::new(id, addresses, state, options, limits);
        flow.learn(init);
        flow
    }

    pub(super) fn learn(&mut self, handshake: &Handshake<'_>) {
        self.remote_id = handshake.source;
        self.peer_credit = handshake.credit.into();
        self.max_message = self.max_message.min(handshake.max_message);
        // Two parts at least fit the window, or the peer's credit would come in steps that none is covered by.
        let half = handshake.credit.saturating_mul(UNIT as u32 / 2);
        self.max_payload = self.max_payload.min(half).max(BASE_PAYLOAD as u32);
        self.rtt.set_peer_max_ack_delay(handshake.max_ack_delay_us);
        if self.limits.is_local {
            self.set_cut(Cut::new(self.max_payload as usize));
        }
    }

    /// ACCEPT arrived for a connecting flow.
    pub(crate) fn on_accept(&mut self, now: Instant, local: SocketAddr, accept: &Handshake<'_>) {
        self.learn(accept);
        self.sample_handshake(now);
        self.local = local;
        self.token = None;
        self.state = State::Open;
        // Tells the acceptor that its answer arrived, and validates our address.
        self.want_ping();
    }

    /// The first DATA arrived for a half-open flow: its address is validated.
    pub(crate) fn on_validated(&mut self, now: Instant, slot: Slot) {
        self.slot = Some(slot);
        self.state = State::Open;
        self.sample_handshake(now);
    }

    /// The peer's address is validated, but nobody accepts it yet: it goes on knocking, and so we go on waiting.
    pub(crate) fn on_backlog_full(&mut self, now: Instant) {
        if let State::HalfOpen { give_up, .. } = &mut self.state {
            *give_up = now + self.limits.connect_timeout;
        }
    }

    /// RETRY arrived for a connecting flow.
    pub(crate) fn on_retry(&mut self, now: Instant, token: &[u8]) {
        if let State::Connecting { next_init, hurry, .. } = &mut self.state {
            // Once per INIT of the timer: a peer that repeats RETRY must not make us repeat INIT for ever.
            if *hurry == Hurry::Allowed {
                *hurry = Hurry::Due;
                *next_init = now;
            }
            self.token = Some(Box::new(super::Token(token.into())));
        }
    }

    pub(super) fn sample_handshake(&mut self, now: Instant) {
        if let Some(at) = self.handshake_sent.take() {
            self.rtt.sample(now, now.after(at), Span::ZERO, Span::ZERO);
        }
    }
}
