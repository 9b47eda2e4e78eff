//! Packets that arrive at one engine and belong to another of the same endpoint (`docs/spec/wire.md#several-engines`).

use std::hash::BuildHasher as _;
use std::net::IpAddr;

use machnet_channel::FrameRef;

use super::Engine;
use crate::driver::{Meta, Unreachable};
use crate::group::Handed;
use crate::wire::{Addressee, addressee};
use crate::{AppChannel, Driver, DropReason};

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// The engine that a packet belongs to, if that is another one.
    #[inline]
    pub(super) fn owner(&self, meta: &Meta, packet: &[u8]) -> Option<u8> {
        let group = self.group.as_ref()?;
        let engines = group.len();
        let owner = match addressee(packet)? {
            Addressee::Flow(id) => (id >> 56) as u8,
            Addressee::Initiator { source, single_port } => {
                // A pair that has no alternative had best end where it arrives.
                if single_port && self.tx.ports.0 == self.tx.ports.1 {
                    return None;
                }
                place(&group.shared().placement, meta.remote.ip(), source, engines)
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

/// The engine of `engines` that an INIT belongs to: every copy of it says the same.
pub(super) fn place(key: &super::Keyed, ip: IpAddr, source: u64, engines: u8) -> u8 {
    ((u128::from(key.hash_one((ip, source))) * u128::from(engines)) >> 64) as u8
}
