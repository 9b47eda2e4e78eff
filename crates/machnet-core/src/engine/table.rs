//! The flows of an engine, by slot, by id, and by what their peer calls itself.

use std::hash::BuildHasher as _;
use std::net::IpAddr;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::Rng;
use siphasher::sip::SipHasher13;
use slab::Slab;

use crate::flow::Flow;

/// SipHash with keys from the engine's seed: peers choose what is hashed.
#[derive(Clone, Debug)]
pub(crate) struct Keyed(u64, u64);

impl Keyed {
    pub(crate) fn new(rng: &mut ChaCha12Rng) -> Self {
        Self(rng.next_u64(), rng.next_u64())
    }
}

impl std::hash::BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// A flow id: engine 8, slot 24, random 32 bits (`docs/spec/wire.md#header`).
const fn flow_id(engine: u8, slot: u32, random: u32) -> u64 {
    (engine as u64) << 56 | (slot as u64) << 32 | random as u64
}

const fn slot_of(id: u64) -> usize {
    (id >> 32) as usize & 0xff_ffff
}

/// What a flow's peer calls it.
fn name_of(flow: &Flow) -> (IpAddr, u64) {
    (flow.remote.ip(), flow.remote_id)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FlowTable {
    flows: Slab<Box<Flow>>,
    /// (peer's address, peer's id) → slot: repeated INITs and RESETs name flows so. Only the slots: the flows have the rest.
    by_remote: HashTable<u32>,
    keyed: Keyed,
    /// The engine's number.
    engine: u8,
}

impl FlowTable {
    pub(crate) fn new(rng: &mut ChaCha12Rng, engine: u8) -> Self {
        Self { flows: Slab::new(), by_remote: HashTable::new(), keyed: Keyed::new(rng), engine }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Adds the flow that `make` makes of its id.
    pub(crate) fn insert(&mut self, rng: &mut ChaCha12Rng, make: impl FnOnce(u64) -> Flow) -> u32 {
        let entry = self.flows.vacant_entry();
        let slot = entry.key() as u32;
        // 0 names no flow.
        let id = flow_id(self.engine, slot, rng.next_u32() | u32::from(slot == 0));
        entry.insert(Box::new(make(id)));
        slot
    }

    /// Makes the flow known by what its peer calls itself, as soon as that is known.
    pub(crate) fn learn_remote(&mut self, slot: u32) {
        let Self { flows, by_remote, keyed, .. } = self;
        let name = name_of(&flows[slot as usize]);
        let same = |&slot: &u32| flows.get(slot as usize).is_some_and(|flow| name_of(flow) == name);
        let hash = |&slot: &u32| flows.get(slot as usize).map_or(0, |flow| keyed.hash_one(name_of(flow)));
        match by_remote.entry(keyed.hash_one(name), same, hash) {
            Entry::Occupied(mut known) => *known.get_mut() = slot,
            Entry::Vacant(vacant) => _ = vacant.insert(slot),
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Box<Flow>> {
        let hash = self.keyed.hash_one(name_of(self.flows.get(slot as usize)?));
        if let Ok(known) = self.by_remote.find_entry(hash, |&known| known == slot) {
            known.remove();
        }
        self.flows.try_remove(slot as usize)
    }

    pub(crate) fn get(&mut self, slot: u32) -> Option<&mut Flow> {
        self.flows.get_mut(slot as usize).map(Box::as_mut)
    }

    pub(crate) fn look(&self, slot: u32) -> Option<&Flow> {
        self.flows.get(slot as usize).map(Box::as_ref)
    }

    /// The slot of the flow with this id.
    pub(crate) fn find(&self, id: u64) -> Option<u32> {
        let slot = slot_of(id);
        self.flows.get(slot).filter(|flow| flow.id == id).map(|_| slot as u32)
    }

    pub(crate) fn find_remote(&self, ip: IpAddr, id: u64) -> Option<u32> {
        let same = |&slot: &u32| self.flows.get(slot as usize).is_some_and(|flow| name_of(flow) == (ip, id));
        self.by_remote.find(self.keyed.hash_one((ip, id)), same).copied()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = (u32, &Flow)> {
        self.flows.iter().map(|(slot, flow)| (slot as u32, flow.as_ref()))
    }
}
