//! What arrives: demultiplexing, handshakes, RESETs.

use machnet_channel::FrameRef;

use super::handover::PLACED;
use super::memory::{charge, room};
use super::tokens::Claim;
use super::{Engine, PeerQueues, engine_of};
use crate::driver::{Meta, RxPacket};
use crate::flow::{Flow, Opening, State};
use crate::wire::{
    Data, HEADER_LEN, Handshake, Header, MIN_ELICITING_LEN, PacketType, RESET_LEN, Reason, Reset, Retry, WireError,
};
use crate::{AppChannel, Driver, DropReason};

/// ICMP messages looked at in one round.
const UNREACHABLE_PER_ROUND: usize = 16;

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// Receives one burst. Returns how much arrived.
    pub(super) fn receive_burst(&mut self) -> usize {
        let mut packets = std::mem::take(&mut self.rx);
        let (sorts, most) = (self.channel.grain().is_some(), self.receives());
        let n = self.tx.driver.rx_burst(&mut packets, most);
        self.packets_received += n as u64;
        if !sorts && !self.aside.is_empty() {
            self.receive_aside();
        }
        for packet in packets.drain(..) {
            match if sorts { self.waits(&packet) } else { None } {
                Some(group) => self.aside.push(group, packet),
                None => self.receive(packet),
            }
        }
        self.rx = packets;
        let mut news = n;
        for _ in 0..UNREACHABLE_PER_ROUND {
            let Some(unreachable) = self.tx.driver.unreachable() else { break };
            news += 1;
            self.on_unreachable(unreachable.remote, &unreachable.quoted);
            self.tell_unreachable(&unreachable);
        }
        news
    }

    /// Deals with a packet.
    pub(super) fn receive(&mut self, packet: RxPacket) {
        // Per packet, not per burst: what is lent, perhaps behind a hole that only another packet can fill, must never
        // be the whole pool.
        self.buffers.set_copy_all(self.tx.driver.is_short_of_frames());
        if let Err(reason) = self.try_receive(packet) {
            self.drops.count(reason);
        }
    }

    fn try_receive(&mut self, packet: RxPacket) -> Result<(), DropReason> {
        let RxPacket { mut meta, frame, range } = packet;
        meta.queue = self.index;
        if range.start > range.end || range.end as usize > frame.bytes().len() {
            return Err(DropReason::Oversized);
        }
        let payload = frame.share(range);
        if let Some(to) = self.owner(&meta, payload.as_ref()) {
            self.hand_over(to, meta, payload, 0);
            return Ok(());
        }
        let result = self.dispatch(meta, &payload, 0);
        self.tx.driver.recycle(payload);
        result
    }

    /// A packet of this engine's, which others have looked at `hops` times.
    pub(super) fn dispatch(&mut self, meta: Meta, payload: &FrameRef, hops: u8) -> Result<(), DropReason> {
        let bytes = payload.as_ref();
        let (header, rest) = match Header::parse(bytes) {
            Ok(parsed) => parsed,
            Err(error) => {
                if matches!(error, WireError::Version(_)) && Header::is_foreign_init(bytes) {
                    self.reset(meta, Reason::Version, 0, bytes);
                }
                return Err(error.into());
            }
        };
        match header.packet_type {
            PacketType::Init => self.on_init(meta, rest, payload, hops),
            PacketType::Accept => self.on_accept(meta, &header, rest, bytes),
            PacketType::Retry => self.on_retry(meta, &header, rest),
            PacketType::Data => self.on_data(meta, &header, rest, payload),
            PacketType::Probe => self.on_probe(meta, &header, rest),
            PacketType::ProbeReply => self.on_probe_reply(meta, &header, rest),
            PacketType::Reset => match self.on_reset(meta, &header, rest) {
                Err(DropReason::UnknownFlow) if header.flow == 0 && self.pass_on(meta, payload, hops) => Ok(()),
                result => result,
            },
        }
    }

    fn on_data(&mut self, meta: Meta, header: &Header, rest: &[u8], packet: &FrameRef) -> Result<(), DropReason> {
        let bytes = packet.as_ref();
        let Some(key) = self.flows.find(header.flow) else {
            if bytes.len() >= MIN_ELICITING_LEN {
                self.reset(meta, Reason::UnknownFlow, 0, bytes);
            }
            return Err(DropReason::UnknownFlow);
        };
        let (now, round) = (self.now, self.round());
        let Some(flow) = self.flows.get(key) else { return Err(DropReason::UnknownFlow) };
        if flow.remote.ip() != meta.remote.ip() {
            return Err(DropReason::WrongPeer);
        }
        let data = Data::parse(header, rest)?;
        match flow.state {
            State::Open | State::Aborting { .. } | State::Tombstone { .. } => {}
            State::HalfOpen { .. } => {
                flow.check(header, &data)?;
                if let Err(reason) = self.open(key) {
                    if let Some(flow) = self.flows.get(key)
                        && reason == DropReason::BacklogFull
                    {
                        flow.on_backlog_full(now);
                        self.touch(key);
                    }
                    return Err(reason);
                }
            }
            State::Connecting { .. } | State::Closed => return Err(DropReason::WrongState),
        }
        let Some(flow) = self.flows.get(key) else { return Err(DropReason::UnknownFlow) };
        self.buffers.set_peer_room(room(flow, &self.peers, &self.channel, self.config.peer_reassembly_bytes));
        let mut result = flow.on_data(round, header, &data, packet, &mut self.buffers);
        if result == Err(DropReason::NoBuffers) {
            // What was stored of it is delivered, and known if it comes again: the message that found no memory is the next.
            flow.deliver(now, &mut self.channel);
            if flow.look_for_reader(&mut self.channel) {
                result = flow.on_data(round, header, &data, packet, &mut self.buffers);
                flow.deliver(now, &mut self.channel);
            }
        }
        if result == Err(DropReason::NoBuffers) {
            flow.refuse(header.number);
        }
        flow.deliver(now, &mut self.channel);
        if let Some(membership) = flow.peer
            && result.is_ok()
        {
            self.peers.heard(membership, now);
        }
        charge(flow, &mut self.peers);
        if let Some(slot) = flow.slot {
            self.channel.charge(slot, bytes.len());
        }
        if flow.wanted_buffer().is_some() {
            self.note_waiting(key);
        }
        if result.is_ok() {
            self.note_arrival(key, &meta);
        }
        self.touch(key);
        result
    }

    /// The initiator's address is validated: hands the flow to its listener.
    fn open(&mut self, key: u32) -> Result<(), DropReason> {
        let Some(flow) = self.flows.get(key) else { return Err(DropReason::UnknownFlow) };
        let port = flow.local.port();
        let Some(listening) = self.listening.iter().find(|listening| listening.port == port) else {
            return Err(DropReason::NotListening);
        };
        if !self.channel.can_accept(listening.slot) {
            return Err(DropReason::BacklogFull);
        }
        let State::HalfOpen { instance, queues, .. } = flow.state else { return Err(DropReason::WrongState) };
        let slot = self.channel.accept(listening.slot, flow.local, flow.remote);
        flow.on_validated(self.now, slot);
        if let Some(opening) = flow.half_open.take() {
            self.half_open[opening as usize] -= 1;
        }
        tracing::debug!(flow = flow.id, peer = %flow.remote, local = %flow.local, "accepted");
        self.bind_slot(slot, key);
        self.enlist(key, instance);
        self.steer(key, instance, queues, false);
        Ok(())
    }

    fn on_init(&mut self, meta: Meta, rest: &[u8], payload: &FrameRef, hops: u8) -> Result<(), DropReason> {
        let packet = payload.as_ref();
        if packet.len() < Handshake::PACKET_LEN {
            return Err(DropReason::ShortInit);
        }
        let init = Handshake::parse(rest)?;
        // A repetition: the answer was lost, or crossed it.
        if let Some(key) = self.flows.find_remote(meta.remote.ip(), init.source) {
            let known = self.flows.get(key).map(|flow| flow.state);
            if !matches!(known, Some(State::HalfOpen { .. } | State::Open)) {
                return Err(DropReason::WrongState);
            }
            self.answer_init(key);
            return Ok(());
        }
        if hops != PLACED
            && let Some(to) = self.place_init(&meta, init.source, init.ports.0 == init.ports.1)
        {
            self.send_placed(to, meta, payload.clone());
            return Ok(());
        }
        let Some(listening) = self.listening.iter().find(|listening| listening.port == meta.local.port()) else {
            self.reset(meta, Reason::Refused, init.source, packet);
            return Err(DropReason::NotListening);
        };
        if !self.channel.can_accept(listening.slot) {
            return Err(DropReason::BacklogFull);
        }
        let claim = Claim { initiator: meta.remote, source: init.source, service: meta.local.port() };
        let proven = !init.token.is_empty() && self.tokens.check(self.now, &claim, init.token);
        let opening = if proven { Opening::Proven } else { Opening::Unproven };
        if self.half_open[opening as usize] >= self.config.max_half_open {
            if proven {
                return Err(DropReason::BacklogFull);
            }
            self.retry(meta, &claim);
            return Ok(());
        }
        if self.flows.len() >= self.config.max_flows as usize {
            return Err(DropReason::TooManyFlows);
        }
        // The port stays open until its last flow ends, listener or not.
        if self.tx.driver.open(meta.local.port()).is_err() {
            return Err(DropReason::NotListening);
        }
        let limits = if self.tx.driver.turns(meta.remote) { &self.near } else { &self.limits };
        let (now, options) = (self.now, self.channel.listen_options(listening.slot));
        let key = self
            .flows
            .insert(&mut self.rng, |id| Flow::accept(now, id, (meta.local, meta.remote), &init, options, limits));
        self.count_flows();
        self.flows.learn_remote(key);
        if let Some(flow) = self.flows.get(key) {
            flow.half_open = Some(opening);
        }
        self.half_open[opening as usize] += 1;
        self.answer_init(key);
        self.touch(key);
        Ok(())
    }

    /// ACCEPT, only ever in answer to an INIT and never longer than it.
    fn answer_init(&mut self, key: u32) {
        let now = self.now;
        let Some(flow) = self.flows.get(key) else { return };
        if self.tx.is_overfull() {
            self.drops.count(DropReason::Congested);
            return;
        }
        if !flow.transmit_handshake(now, PacketType::Accept, &mut self.tx) {
            self.drops.count(DropReason::NoFrames);
        }
    }

    fn on_accept(&mut self, meta: Meta, header: &Header, rest: &[u8], packet: &[u8]) -> Result<(), DropReason> {
        let accept = Handshake::parse(rest)?;
        let Some(key) = self.flows.find(header.flow) else {
            // Its initiator gave up: the acceptor need not wait for its timer.
            self.reset(meta, Reason::UnknownFlow, accept.source, packet);
            return Err(DropReason::UnknownFlow);
        };
        let Some(flow) = self.flows.get(key) else { return Err(DropReason::UnknownFlow) };
        // At the port that the flow holds open: the port it is answered at is the one it will close.
        if flow.remote != meta.remote || flow.local.port() != meta.local.port() {
            return Err(DropReason::WrongPeer);
        }
        if !matches!(flow.state, State::Connecting { .. }) {
            return Err(DropReason::WrongState);
        }
        flow.on_accept(self.now, meta.local, &accept);
        tracing::debug!(flow = flow.id, peer = %flow.remote, "connected");
        self.flows.learn_remote(key);
        self.enlist(key, accept.instance);
        self.steer(key, accept.instance, PeerQueues { engines: accept.engines, ports: accept.ports }, true);
        self.connecting.remove(&key);
        if let Some(flow) = self.flows.get(key) {
            flow.deliver(self.now, &mut self.channel);
        }
        self.touch(key);
        Ok(())
    }

    fn on_retry(&mut self, meta: Meta, header: &Header, rest: &[u8]) -> Result<(), DropReason> {
        let retry = Retry::parse(rest)?;
        let now = self.now;
        let key = self.flows.find(header.flow).ok_or(DropReason::UnknownFlow)?;
        let flow = self.flows.get(key).ok_or(DropReason::UnknownFlow)?;
        if flow.remote != meta.remote {
            return Err(DropReason::WrongPeer);
        }
        if !matches!(flow.state, State::Connecting { .. }) {
            return Err(DropReason::WrongState);
        }
        flow.on_retry(now, retry.token);
        self.touch(key);
        Ok(())
    }

    fn on_reset(&mut self, meta: Meta, header: &Header, rest: &[u8]) -> Result<(), DropReason> {
        let reset = Reset::parse(rest)?;
        let key = match header.flow {
            0 => self.flows.find_remote(meta.remote.ip(), reset.flow),
            id => self.flows.find(id),
        };
        let key = key.ok_or(DropReason::UnknownFlow)?;
        let flow = self.flows.get(key).ok_or(DropReason::UnknownFlow)?;
        if flow.remote.ip() != meta.remote.ip() {
            return Err(DropReason::WrongPeer);
        }
        if matches!(flow.state, State::Tombstone { .. } | State::Closed) {
            return Err(DropReason::WrongState);
        }
        if !flow.on_reset(&reset) {
            return Err(DropReason::ForgedReset);
        }
        tracing::debug!(flow = flow.id, peer = %flow.remote, reason = ?reset.reason, "reset");
        self.touch(key);
        Ok(())
    }

    /// Only our INITs make it count: everybody can send ICMP.
    pub(super) fn on_unreachable(&mut self, remote: std::net::SocketAddr, quoted: &[u8]) {
        let quotes_init = Header::parse(quoted).is_ok_and(|(header, _)| header.packet_type == PacketType::Init);
        if !quotes_init {
            return;
        }
        // The header of an INIT does not name its flow; whoever connects to that address is refused, rightly.
        let connecting = std::mem::take(&mut self.connecting);
        for &key in &connecting {
            let Some(flow) = self.flows.get(key).filter(|flow| flow.remote == remote) else { continue };
            flow.on_unreachable();
            self.touch(key);
        }
        self.connecting = connecting;
    }

    /// Asks an initiator to come again with a token, and remembers nothing of it.
    fn retry(&mut self, meta: Meta, claim: &Claim) {
        let token = self.tokens.make(self.now, claim);
        let flow = claim.source;
        let meta = Meta { queue: engine_of(flow).into(), ..meta };
        let sent = self.answer(meta, HEADER_LEN + Retry::OVERHEAD + token.len(), |bytes| {
            Header { packet_type: PacketType::Retry, blocks: 0, ack_now: false, flow, number: 0 }.emit(bytes);
            Retry { token: &token }.emit(&mut bytes[HEADER_LEN..]);
        });
        self.retries_sent += u64::from(sent);
    }

    /// Says statelessly that a packet has no flow, unless its source has had enough of those.
    fn reset(&mut self, meta: Meta, reason: Reason, flow: u64, answered: &[u8]) {
        if !self.resets.allow(self.now, meta.remote.ip()) {
            self.drops.count(DropReason::ResetLimited);
            return;
        }
        self.answer(Meta { queue: engine_of(flow).into(), ..meta }, RESET_LEN, |bytes| {
            Header { packet_type: PacketType::Reset, blocks: 0, ack_now: false, flow, number: 0 }.emit(bytes);
            Reset::emit(reason, answered, &mut bytes[HEADER_LEN..]);
        });
    }

    /// Sends a stateless packet of `len` bytes, which `fill` writes. Returns false, and counts, if there was no room.
    pub(super) fn answer(&mut self, meta: Meta, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if self.tx.is_overfull() {
            self.drops.count(DropReason::Congested);
            return false;
        }
        let sent = self.tx.packet(meta, len, |bytes, _, _| {
            fill(bytes);
            len
        });
        if !sent {
            self.drops.count(DropReason::NoFrames);
        }
        sent
    }
}
