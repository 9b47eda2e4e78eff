//! What the engine does about steering: flows that open, packets that stray, probes and their answers.

use std::sync::Arc;

use machnet_channel::Tried;
use rand_chacha::rand_core::Rng as _;

use super::super::{Engine, Keyed, engine_of};
use super::{Forward, Pair, PeerQueues, PortMaps, Ports, SOON, Search, Steered, Steering};
use crate::driver::Meta;
use crate::flow::State;
use crate::wire::{HEADER_LEN, Header, PROBE_LEN, PacketType, Probe};
use crate::{AppChannel, Driver, DropReason, Instant};

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// The number of this engine, and how many there are.
    fn place(&self) -> (u8, u8) {
        self.group.as_ref().map_or((0, 1), |group| (group.index(), group.len()))
    }

    /// A flow opened. If its packets may hit a wrong queue on either side, and there are pairs to choose from, it is steered;
    /// the initiator looks for a pair as soon as it hears of the peer.
    #[inline(never)]
    pub(in super::super) fn steer(&mut self, key: u32, instance: u64, peer: PeerQueues, is_initiator: bool) {
        let (_, own_engines) = self.place();
        if own_engines == 1 && peer.engines == 1 {
            return;
        }
        let own_ports = self.tx.ports;
        let Some(flow) = self.flows.get(key) else { return };
        if self.tx.driver.turns(flow.remote) {
            // No queue is chosen for what never leaves the engine.
            return;
        }
        let home = (flow.local.port(), flow.remote.port());
        let own = if own_ports.0 < own_ports.1 { own_ports } else { (home.0, home.0) };
        let ports = Ports { own, peer: peer.ports };
        if ports.pairs() == 1 {
            return;
        }
        let (id, target, name) = (flow.id, engine_of(flow.remote_id), (flow.remote.ip(), instance));
        let (now, rng, group) = (self.now, &mut self.rng, &self.group);
        let steering = self.steering.get_or_insert_with(|| {
            let maps = group.as_ref().map(|group| Arc::clone(&group.shared().maps));
            Steering::new(maps.unwrap_or_else(|| Arc::new(Tried::new(PortMaps::new(Keyed::new(rng))))))
        });
        let flow = Steered {
            id,
            peer: name,
            target,
            engines: peer.engines,
            ports,
            pair: home,
            forward: Forward::Unknown,
            seen: None,
            strays: 0,
            peer_settled: false,
            answered: [None; 2],
            spare: None,
            search: None,
            eager: is_initiator,
            not_before: now,
            failures: 0,
            number: 0,
        };
        steering.insert(key, flow);
        self.adopt(key);
    }

    /// Takes a pair that the map knows, if the flow needs one. True if it needs none any more.
    fn adopt(&mut self, key: u32) -> bool {
        let now = self.now;
        let Some((flow, maps)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return true };
        if !flow.is_settled()
            && let Some(pair) = maps.and_then(|maps| maps.find(now, flow.peer, &flow.ports, flow.target))
        {
            (flow.pair, flow.forward) = (pair, Forward::Hits);
        }
        flow.is_settled()
    }

    /// Notes where a packet of a flow arrived.
    #[inline]
    pub(in super::super) fn note_arrival(&mut self, key: u32, meta: &Meta) {
        if self.steering.is_some() {
            self.note_arrival_steered(key, meta);
        }
    }

    #[inline(never)]
    fn note_arrival_steered(&mut self, key: u32, meta: &Meta) {
        let (now, (own, _)) = (self.now, self.place());
        let flow = self.steering.as_mut().and_then(|steering| steering.flows.get_mut(key as usize)?.as_mut());
        if flow.is_some_and(|flow| flow.on_arrival(meta, own) && flow.search.is_none() && flow.not_before <= now) {
            self.begin_search(key);
        }
    }

    fn begin_search(&mut self, key: u32) {
        let random = self.rng.next_u64();
        let (_, own_engines) = self.place();
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return };
        flow.search = Some(Search::new(flow.ports, flow.engines.max(own_engines), random));
        self.probe_next(key, None);
    }

    /// Sends a PROBE on the next pair, which tells about the answer to the one before; or ends the search. If the peer is
    /// settled, two: it tells of the first only if that hit.
    fn probe_next(&mut self, key: u32, answers: Option<(u64, u8)>) {
        let now = self.now;
        let (_, own_engines) = self.place();
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return };
        if let Some(search) = &mut flow.search {
            search.first = None;
        }
        let two = !flow.is_settled() && (flow.peer_settled || own_engines == 1);
        match self.next_pair(key) {
            Some(pair) => {
                self.send_probe(key, pair, answers, false, two);
                if two && let Some(next) = self.next_pair(key) {
                    self.send_probe(key, next, answers, false, false);
                }
            }
            None => {
                if let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) {
                    flow.end_search(now, false);
                }
                self.end_probing(key, answers);
            }
        }
    }

    /// The next pair of a search.
    fn next_pair(&mut self, key: u32) -> Option<Pair> {
        let now = self.now;
        let (flow, maps) = self.steering.as_mut()?.get(key)?;
        let (settled, name) = (flow.is_settled(), flow.peer);
        // A pair whose engine is known says nothing new, unless it is the way back that is looked for.
        flow.search
            .as_mut()?
            .advance(|pair| !settled && maps.as_ref().is_some_and(|maps| maps.get(now, name, pair).is_some()))
    }

    /// The search is over; the peer still does not know where its last answer arrived.
    fn end_probing(&mut self, key: u32, answers: Option<(u64, u8)>) {
        let Some(steering) = &mut self.steering else { return };
        steering.timers.set(key, None);
        let Some(pair) = steering.pair(key) else { return };
        if answers.is_some() {
            let nonce = self.nonce();
            let probe = Probe { nonce, answers, seen: None, settled: false, home: false, last: true, more: false };
            self.emit_probe(key, PacketType::Probe, pair, probe);
        }
    }

    /// Sends a PROBE that is to be answered; on the way that `home` says; with `more`, only if it hits, for another follows.
    fn send_probe(&mut self, key: u32, pair: Pair, answers: Option<(u64, u8)>, home: bool, more: bool) {
        let (now, nonce) = (self.now, self.nonce());
        let Some(pto) = self.flows.get(key).map(|flow| flow.pto()) else { return };
        let Some(steering) = &mut self.steering else { return };
        steering.timers.set(key, Some(now + pto));
        let Some((flow, _)) = steering.get(key) else { return };
        if let Some(search) = &mut flow.search {
            search.sent(nonce);
            if more {
                search.followed();
            }
        }
        let probe = Probe { nonce, answers, seen: flow.seen, settled: flow.is_settled(), home, last: false, more };
        self.emit_probe(key, PacketType::Probe, pair, probe);
    }

    /// Builds the packet. If there is no room for it, it is lost like any other.
    fn emit_probe(&mut self, key: u32, packet_type: PacketType, pair: Pair, probe: Probe) {
        let Some(flow) = self.flows.get(key) else { return };
        let (mut local, mut remote) = (flow.local, flow.remote);
        local.set_port(pair.0);
        remote.set_port(pair.1);
        let Some(steering) = &mut self.steering else { return };
        let Some((steered, _)) = steering.get(key) else { return };
        let header = Header { packet_type, blocks: 0, ack_now: false, flow: flow.remote_id, number: steered.number };
        steered.number = steered.number.wrapping_add(1);
        steering.probes_sent += 1;
        self.answer(Meta { local, remote, queue: 0 }, PROBE_LEN, |bytes| {
            header.emit(bytes);
            probe.emit(&mut bytes[HEADER_LEN..]);
        });
    }

    fn nonce(&mut self) -> u64 {
        self.rng.next_u64().max(1)
    }

    /// The flow that a probe names, if it is one that may be probed.
    fn probed(&mut self, meta: &Meta, header: &Header) -> Result<u32, DropReason> {
        let key = self.flows.find(header.flow).ok_or(DropReason::UnknownFlow)?;
        let flow = self.flows.get(key).ok_or(DropReason::UnknownFlow)?;
        if flow.remote.ip() != meta.remote.ip() {
            return Err(DropReason::WrongPeer);
        }
        let id = flow.id;
        let is_open = flow.state == State::Open;
        let steered = self.steering.as_mut().and_then(|steering| steering.get(key));
        if !is_open || steered.is_none_or(|(steered, _)| steered.id != id) {
            return Err(DropReason::WrongState);
        }
        Ok(key)
    }

    #[inline(never)]
    pub(in super::super) fn on_probe(&mut self, meta: Meta, header: &Header, rest: &[u8]) -> Result<(), DropReason> {
        let probe = Probe::parse(rest)?;
        let key = self.probed(&meta, header)?;
        let now = self.now;
        let (came, (own, _)) = (meta.queue as u8, self.place());
        if let Some((nonce, hit)) = probe.answers {
            let flow = self.steering.as_mut().and_then(|steering| Some(steering.get(key)?.0));
            let mut answered = flow.into_iter().flat_map(|flow| flow.answered).flatten();
            if let Some((_, pair)) = answered.find(|&(own, _)| own == nonce) {
                self.on_hit(key, pair, hit);
            }
        }
        self.on_seen(key, &probe);
        self.adopt(key);
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return Ok(()) };
        // Who probes tries both ways.
        flow.not_before = flow.not_before.max(now + SOON);
        flow.peer_settled = probe.settled;
        if probe.last || (probe.more && came != own) {
            return Ok(());
        }
        // The exact reverse passes wherever the probe did; and who did not get it asks for another way.
        let pair = if probe.home { flow.pair } else { (meta.local.port(), meta.remote.port()) };
        let (settled, home) = (flow.is_settled(), probe.home);
        flow.answered = [None; 2];
        // Only this way is looked for: a second trial of it costs one packet, and another exchange two.
        let second = if probe.settled && !settled && !home { self.spare_pair(key) } else { None };
        self.reply(key, pair, (probe.nonce, came), second.is_some());
        if let Some(second) = second {
            self.reply(key, second, (probe.nonce, came), false);
        }
        Ok(())
    }

    /// A pair for a second answer.
    fn spare_pair(&mut self, key: u32) -> Option<Pair> {
        let (now, random, (_, own_engines)) = (self.now, self.rng.next_u64(), self.place());
        let (flow, maps) = self.steering.as_mut()?.get(key)?;
        let (ports, engines, name) = (flow.ports, flow.engines.max(own_engines), flow.peer);
        let spare = flow.spare.get_or_insert_with(|| Search::new(ports, engines, random));
        spare.advance(|pair| maps.as_ref().is_some_and(|maps| maps.get(now, name, pair).is_some()))
    }

    fn reply(&mut self, key: u32, pair: Pair, answers: (u64, u8), more: bool) {
        let nonce = self.nonce();
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return };
        flow.answered.swap(0, 1);
        flow.answered[0] = Some((nonce, pair));
        let (seen, settled) = (flow.seen, flow.is_settled());
        let reply = Probe { nonce, answers: Some(answers), seen, settled, home: false, last: false, more };
        self.emit_probe(key, PacketType::ProbeReply, pair, reply);
    }

    #[inline(never)]
    pub(in super::super) fn on_probe_reply(
        &mut self,
        meta: Meta,
        header: &Header,
        rest: &[u8],
    ) -> Result<(), DropReason> {
        let reply = Probe::parse(rest)?;
        let key = self.probed(&meta, header)?;
        let (now, (own, own_engines), came) = (self.now, self.place(), meta.queue as u8);
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else {
            return Err(DropReason::WrongState);
        };
        let Some(search) = &mut flow.search else { return Err(DropReason::ForgedProbe) };
        let answered = reply.answers.and_then(|(nonce, hit)| Some((search.pair_of(nonce)?, hit)));
        let Some((pair, hit)) = answered else { return Err(DropReason::ForgedProbe) };
        search.answered();
        flow.peer_settled = reply.settled;
        self.on_hit(key, pair, hit);
        self.on_seen(key, &reply);
        let there = self.adopt(key);
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return Ok(()) };
        // It knows a pair already, or the one that this answer came on; that it must be told.
        let report = Some((reply.nonce, came)).filter(|_| !reply.settled);
        let back = own_engines == 1 || reply.settled || came == own;
        if there && !back && reply.more {
            // The second answer may have hit.
            return Ok(());
        }
        if there && back {
            flow.end_search(now, true);
            self.end_probing(key, report.filter(|_| own_engines > 1));
        } else {
            self.probe_next(key, Some((reply.nonce, came)));
        }
        Ok(())
    }

    /// The peer says which of its engines a pair hits.
    fn on_hit(&mut self, key: u32, pair: Pair, engine: u8) {
        let now = self.now;
        let Some((flow, maps)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return };
        if engine >= flow.engines {
            return;
        }
        if let Some(mut maps) = maps
            && flow.ports.contains(pair)
        {
            maps.learn(now, flow.peer, pair, engine);
        }
        flow.on_report(pair, engine);
    }

    /// The peer says where the flow's last packet arrived.
    fn on_seen(&mut self, key: u32, probe: &Probe) {
        let Some(seen) = probe.seen else { return };
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return };
        // Nothing is sent on a pair because somebody says that it saw something there: only what is sent on.
        if seen.ports == flow.pair {
            self.on_hit(key, seen.ports, seen.engine);
        }
    }

    /// Looks after probes that were not answered.
    #[inline(never)]
    pub(in super::super) fn expire_searches(&mut self) -> bool {
        let now = self.now;
        let Some(steering) = &mut self.steering else { return false };
        if steering.timers.next_deadline().is_none_or(|at| at > now) {
            return false;
        }
        let mut due = std::mem::take(&mut self.due);
        steering.timers.expire(now, &mut due);
        for key in due.drain(..) {
            self.on_unanswered(now, key);
        }
        self.due = due;
        true
    }

    fn on_unanswered(&mut self, now: Instant, key: u32) {
        let is_open = self.flows.get(key).is_some_and(|flow| flow.state == State::Open);
        let Some((flow, _)) = self.steering.as_mut().and_then(|steering| steering.get(key)) else { return };
        let Some(search) = &mut flow.search else { return };
        if !is_open || !search.unanswered() {
            return flow.end_search(now, false);
        }
        let pair = search.pair;
        if std::mem::replace(&mut search.again, true) {
            self.probe_next(key, None);
        } else {
            self.send_probe(key, pair, None, true, false);
        }
    }
}
