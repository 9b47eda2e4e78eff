//! Packets that arrive at one engine and belong to another of the same endpoint (`docs/spec/wire.md#several-engines`).

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;

use machnet_channel::FrameRef;

use super::Engine;
use crate::driver::{Meta, Unreachable};
use crate::group::Handed;
use crate::wire::{Addressee, addressee};
use crate::{AppChannel, Driver, DropReason};

/// In place of a count of engines: an INIT that was sent to its engine.
pub(super) const PLACED: u8 = u8::MAX;

/// The engine that a flow's id names.
pub(crate) const fn engine_of(id: u64) -> u8 {
    (id >> 56) as u8
}

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// The engine that a packet belongs to, or that decides where an INIT does, if that is another one.
    #[inline]
    pub(super) fn owner(&self, meta: &Meta, packet: &[u8]) -> Option<u8> {
        let group = self.group.as_ref()?;
        let engines = group.len();
        let owner = match addressee(packet)? {
            Addressee::Flow(id) => engine_of(id),
            Addressee::Initiator { source, single_port } => {
                // A pair that has no alternative had best end where it arrives, and what never leaves this engine, too.
                if single_port && self.tx.ports.0 == self.tx.ports.1 || self.tx.driver.turns(meta.remote) {
                    return None;
                }
                direct(&group.shared().placement, meta.remote.ip(), source, engines)
            }
        };
        // An id of no engine's is answered, or not, by whoever got it.
        (owner != group.index() && owner < engines).then_some(owner)
    }

    /// Hands a packet over.
    #[inline(never)]
    pub(super) fn hand_over(&mut self, to: u8, meta: Meta, payload: FrameRef, hops: u8) {
        let Some(group) = &mut self.group else { return };
        if group.hand(to, Handed::Packet { meta, payload, hops }) {
            self.handed_over += 1;
        } else {
            self.drops.count(DropReason::HandoverFull);
        }
    }

    /// The engine that the INIT of a new flow is to be at, if that is another one: of those that listen the one with the fewest
    /// flows. Asked by its director, which sends every copy to the same. `single`: it says that it receives on one port alone.
    #[inline(never)]
    pub(super) fn place_init(&mut self, meta: &Meta, source: u64, single: bool) -> Option<u8> {
        let group = self.group.as_mut()?;
        let (own, shared) = (group.index(), Arc::clone(group.shared()));
        let who = (meta.remote.ip(), source);
        if let Some(to) = group.placed.find(self.now, &who) {
            return (to != own).then_some(to);
        }
        let listeners = shared.board.listeners(meta.local.port());
        let stays = listeners >> own & 1 == 1;
        // The first if it must be somebody, and nothing can be remembered: that is the same for each copy.
        let first = listeners.trailing_zeros() as u8;
        let single = single && self.tx.ports.0 == self.tx.ports.1;
        let to = match listeners {
            0 => own,
            _ if stays && (single || self.tx.driver.turns(meta.remote)) => own,
            _ => shared.board.least(listeners, own),
        };
        if to == own {
            return None;
        }
        let until = self.now + self.config.connect_timeout;
        if group.placed.insert(until, who, to, self.config.max_half_open) {
            return Some(to);
        }
        (!stays).then_some(first)
    }

    /// Sends an INIT to its engine.
    pub(super) fn send_placed(&mut self, to: u8, meta: Meta, payload: FrameRef) {
        let Some(group) = &self.group else { return };
        let shared = Arc::clone(group.shared());
        // It counts as a flow of that engine until that has looked at it.
        shared.board.add(to, 1);
        let before = self.handed_over;
        self.hand_over(to, meta, payload, PLACED);
        if self.handed_over == before {
            shared.board.remove(to, 1);
        }
    }

    /// Tells the others how many flows there are here.
    #[inline]
    pub(super) fn count_flows(&mut self) {
        if let Some(group) = &mut self.group {
            let (flows, own) = (self.flows.len() as u64, group.index());
            let before = std::mem::replace(&mut group.flows, flows);
            if flows > before {
                group.shared().board.add(own, flows - before);
            } else if flows < before {
                group.shared().board.remove(own, before - flows);
            }
        }
    }

    /// Tells the others whether this engine listens at a port.
    pub(super) fn tell_listening(&self, port: u16, listens: bool) {
        if let Some(group) = &self.group {
            group.shared().board.set_listening(group.index(), port, listens);
        }
    }

    /// A RESET whose flow nobody knew so far goes on to the next engine, until all have seen it. True if it does.
    #[inline(never)]
    pub(super) fn pass_on(&mut self, meta: Meta, packet: &FrameRef, hops: u8) -> bool {
        let Some(group) = &self.group else { return false };
        let (engines, next) = (group.len(), (group.index() + 1) % group.len());
        if hops + 1 >= engines {
            return false;
        }
        self.hand_over(next, meta, packet.clone(), hops + 1);
        true
    }

    /// Which socket hears of an ICMP message is chance: every engine looks for the flow.
    pub(super) fn tell_unreachable(&mut self, unreachable: &Unreachable) {
        let Some(group) = &mut self.group else { return };
        let own = group.index();
        for to in (0..group.len()).filter(|&to| to != own) {
            if !group.hand(to, Handed::Unreachable(*unreachable)) {
                self.drops.count(DropReason::HandoverFull);
            }
        }
    }

    /// Flows of an earlier start of a peer may be at any engine.
    pub(super) fn tell_start(&mut self, name: (IpAddr, u16), instance: u64, since: u64) {
        let Some(group) = &mut self.group else { return };
        let own = group.index();
        for to in (0..group.len()).filter(|&to| to != own) {
            // Who does not hear of it finds out as an engine that is alone does: the peer does not know its flows.
            let _ = group.hand(to, Handed::Started { name, instance, since });
        }
    }

    /// Wakes those that something was handed to, and deals with what others handed over. Returns how much that was.
    #[inline(never)]
    pub(super) fn exchange(&mut self) -> usize {
        let Some(group) = &mut self.group else { return 0 };
        group.ring();
        let mut taken = 0;
        while taken < self.burst {
            let Some(handed) = self.group.as_mut().and_then(|group| group.take()) else { break };
            taken += 1;
            match handed {
                Handed::Packet { meta, payload, hops } => {
                    // Frames of another driver, whose want of them is not seen from here.
                    self.buffers.set_copy_all(true);
                    self.taken_over += 1;
                    if hops == PLACED
                        && let Some(group) = &self.group
                    {
                        group.shared().board.remove(group.index(), 1);
                    }
                    if let Err(reason) = self.dispatch(meta, &payload, hops) {
                        self.drops.count(reason);
                    }
                }
                Handed::Started { name, instance, since } => {
                    let displaced = self.peers.displaced(name, instance, since).to_vec();
                    self.displace(&displaced);
                }
                Handed::Unreachable(unreachable) => self.on_unreachable(unreachable.remote, &unreachable.quoted),
            }
        }
        if let Some(group) = &mut self.group {
            group.ring();
        }
        taken
    }
}

/// The engine of `engines` that decides where an INIT belongs: every copy of it says the same.
fn direct(key: &super::Keyed, ip: IpAddr, source: u64, engines: u8) -> u8 {
    ((u128::from(key.hash_one((ip, source))) * u128::from(engines)) >> 64) as u8
}
