//! The engine's dealings with applications: connect, listen, take what is to be sent.

use std::net::SocketAddr;

use machnet_channel::{CloseReason, FlowState};

use super::{Engine, Listening};
use crate::flow::Flow;
use crate::{AppChannel, Driver, Hint, ListenSlot, Slot};

/// Messages taken from applications in one round, for each packet that it may send: they are smaller than packets.
const TAKES: usize = 4;

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// Looks at what applications did, a bounded share of it. Returns how often it looked.
    pub(super) fn look_at_applications(&mut self) -> usize {
        let mut takes = TAKES * self.burst;
        let again = self.unfinished.len().min(self.burst);
        for _ in 0..again {
            let Some(key) = self.unfinished.pop_front() else { break };
            if let Some(flow) = self.flows.get(key) {
                flow.is_unfinished = false;
            }
            self.look_at(key, &mut takes);
        }
        let mut looked = 0;
        while looked < self.burst {
            let Some(hint) = self.channel.next_hint() else { break };
            looked += 1;
            match hint {
                Hint::Connect(slot, peer) => self.connect(slot, peer, &mut takes),
                Hint::Flow(slot) => {
                    if let Some(key) = self.by_slot.get(slot.0 as usize).copied().flatten() {
                        self.look_at(key, &mut takes);
                    }
                }
                Hint::Listen(slot, port) => self.listen(slot, port),
                Hint::Unlisten(slot) => self.unlisten(slot),
            }
        }
        if self.channel.is_closing() && !self.shutting_down {
            self.shut_down();
            looked += 1;
        }
        // Each has its own bound.
        looked.max(again)
    }

    fn look_at(&mut self, key: u32, takes: &mut usize) {
        let Some(flow) = self.flows.get(key) else { return };
        if flow.on_app(self.now, &mut self.channel, takes) {
            if !std::mem::replace(&mut flow.is_unfinished, true) {
                self.unfinished.push_back(key);
            }
        } else if self.shutting_down {
            flow.on_shutdown(self.now);
        }
        if flow.wanted_buffer().is_some() {
            // It may have read what stood in the way of its next message.
            self.note_waiting(key);
        }
        self.touch(key);
    }

    fn connect(&mut self, slot: Slot, peer: SocketAddr, takes: &mut usize) {
        let home = self.tx.driver.home();
        let refusal = if self.shutting_down {
            Some(CloseReason::Shutdown)
        } else if home.is_ipv4() != peer.is_ipv4()
            || peer.ip().is_unspecified()
            || peer.port() == 0
            || !self.tx.driver.reaches(peer.ip())
        {
            Some(CloseReason::Unreachable)
        } else if self.flows.len() >= self.config.max_flows as usize {
            Some(CloseReason::NoRoom)
        } else {
            // The home port, counted once more for this flow.
            self.tx.driver.open(home.port()).err().map(|_| CloseReason::Unreachable)
        };
        if let Some(reason) = refusal {
            self.channel.set_state(slot, FlowState::CONNECTING.closed(reason));
            self.channel.release(slot);
            return;
        }
        let limits = if self.tx.driver.turns(peer) { &self.near } else { &self.limits };
        let (now, options) = (self.now, self.channel.options(slot));
        let key = self.flows.insert(&mut self.rng, |id| Flow::connect(now, id, home, peer, options, limits));
        self.count_flows();
        if let Some(flow) = self.flows.get(key) {
            flow.slot = Some(slot);
            tracing::debug!(flow = flow.id, %peer, "connecting");
        }
        self.connecting.insert(key);
        self.bind_slot(slot, key);
        self.look_at(key, takes);
    }

    fn listen(&mut self, slot: ListenSlot, port: u16) {
        if self.shutting_down {
            self.channel.unlisten(slot);
            return;
        }
        // One listener per port, like everywhere: the driver counts its opens and would not notice.
        if port != 0 && self.listening.iter().any(|listening| listening.port == port) {
            let error = std::io::Error::new(
                std::io::ErrorKind::AddrInUse,
                format!("port {port} has a listener on this endpoint already"),
            );
            self.channel.set_listening(slot, Err(&error));
            self.channel.unlisten(slot);
            return;
        }
        match self.tx.driver.open(port) {
            Ok(address) => {
                self.listening.push(Listening { port: address.port(), slot });
                self.tell_listening(address.port(), true);
                self.channel.set_listening(slot, Ok(address));
                tracing::debug!(%address, "listening");
            }
            Err(error) => {
                self.channel.set_listening(slot, Err(&error));
                self.channel.unlisten(slot);
            }
        }
    }

    fn unlisten(&mut self, slot: ListenSlot) {
        self.channel.unlisten(slot);
        if let Some(at) = self.listening.iter().position(|listening| listening.slot == slot) {
            let port = self.listening.swap_remove(at).port;
            self.tell_listening(port, false);
            self.tx.driver.close(port);
            tracing::debug!(port, "no longer listening");
        }
    }

    fn shut_down(&mut self) {
        self.shutting_down = true;
        for listening in std::mem::take(&mut self.listening) {
            self.channel.unlisten(listening.slot);
            self.tell_listening(listening.port, false);
            self.tx.driver.close(listening.port);
        }
        let keys: Vec<u32> = self.flows.slots().map(|(key, _)| key).collect();
        let mut takes = usize::MAX;
        for key in keys {
            self.look_at(key, &mut takes);
        }
    }
}
