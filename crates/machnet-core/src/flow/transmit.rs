//! Building a flow's packets (`docs/spec/flow.md#sending`, `#acknowledging`).

use super::send::Part;
use super::{Alarm, Control, Flow, Hurry, Mtu, Sent, State, handshake};
use crate::cc::Controller as _;
use crate::driver::Meta;
use crate::engine::{Built, End, FRONT, Tx, engine_of};
use crate::wire::{
    BASE_PAYLOAD, Chunk, Data, HEADER_LEN, Handshake, Header, MIN_ELICITING_LEN, PacketType, TAILROOM, VERSIONS,
};
use crate::{Driver, Instant};

/// Packets of a window whose quarter is less than what peers acknowledge at once.
const SMALL_WINDOW: u64 = 64;
/// Packets sent on a PTO (RFC 9002 §6.2.4). The last is a PING alone: a receiver without memory for data can take it,
/// and its answer shows that the peer lives.
pub(super) const PROBES: u8 = 2;

impl Flow {
    const fn meta(&self) -> Meta {
        // Before the peer has chosen an engine any will do, and all are to have some flows; but each copy of an INIT the same.
        let engine = match self.state {
            State::Connecting { .. } => self.id as u8,
            _ => engine_of(self.remote_id),
        };
        Meta { local: self.local, remote: self.remote, queue: engine as u16 }
    }

    /// Sends what is due and may be sent. Returns true if there is more, for the next turn.
    pub(crate) fn transmit<D: Driver>(&mut self, now: Instant, tx: &mut Tx<D>) -> bool {
        match self.state {
            State::Connecting { .. } => return self.transmit_init(now, tx),
            State::HalfOpen { .. } | State::Closed => return false,
            State::Open | State::Aborting { .. } | State::Tombstone { .. } => {}
        }
        self.probe_path(now, tx);
        while self.has_something(now) {
            if tx.is_full() || tx.is_turn_over(self.send.cut().packet()) || !self.transmit_data(now, tx) {
                return true;
            }
        }
        false
    }

    /// False if [`Flow::transmit`] would surely find nothing to do: for most flows that have only received.
    pub(crate) fn wants_turn(&self, now: Instant) -> bool {
        self.state != State::Open
            || !self.send.all_sent()
            || self.send.may_have_again()
            || self.acks.is_due(now)
            || self.announce
            || self.refused.is_some()
            || self.probes > 0
            || self.wants_control()
            // A pacer that waits must hear that its time has come, or its deadline stays for ever.
            || self.pacer.deadline().is_some()
            || self.mtu.as_ref().is_some_and(|mtu| mtu.wants_turn())
    }

    fn wants_control(&self) -> bool {
        [self.abort, self.stop, self.ping, self.blocked, self.fin].contains(&Control::Wanted)
    }

    /// True if there are messages, or parts of them, that were never sent.
    pub(crate) fn keeps_data_back(&self) -> bool {
        !self.send.all_sent()
    }

    /// Looks for the longest packets that the path carries, once there is something that needs several.
    fn probe_path<D: Driver>(&mut self, now: Instant, tx: &mut Tx<D>) {
        if self.state != State::Open {
            return;
        }
        let Some(mtu) = &mut self.mtu else {
            if self.max_payload > BASE_PAYLOAD as u32 && !self.limits.is_local && self.send.is_large() {
                let known = tx.paths.get(now, self.remote.ip());
                self.mtu = Some(Box::new(Mtu::new(self.max_payload, self.remote.is_ipv4(), known)));
                self.adopt_mtu();
                self.probe_path(now, tx);
            }
            return;
        };
        if let Some(payload) = mtu.take_news() {
            tx.paths.learn(now, self.remote.ip(), payload);
        }
        let Some(size) = mtu.due().filter(|_| !tx.is_full() && self.sent.has_span()) else { return };
        let distance = self.sent.floor_distance(now, self.rtt.pto(0));
        let (number, credit) = (self.sent.next() as u32, self.credit());
        let (flow, len) = (self.remote_id, size as usize - TAILROOM);
        let sent = tx.packet(self.meta(), len, |bytes, contents, _| {
            Header { packet_type: PacketType::Data, blocks: 0, ack_now: true, flow, number }.emit(bytes);
            Data::emit_fixed(distance, credit as u32, &mut bytes[HEADER_LEN..]);
            let mut at = HEADER_LEN + Data::FIXED_LEN;
            at += Chunk::Ping.emit(&mut bytes[at..]);
            Chunk::emit_pad(&mut bytes[at..]);
            contents.push(Sent::Probe(size));
            len
        });
        if sent {
            self.credit_sent = credit;
            self.sent.sent(now, 0, &tx.contents, false);
            if let Some(mtu) = &mut self.mtu {
                mtu.sent(now, self.rtt.pto(0));
            }
        }
    }

    fn transmit_init<D: Driver>(&mut self, now: Instant, tx: &mut Tx<D>) -> bool {
        let State::Connecting { next_init, tries, .. } = self.state else { return false };
        if next_init > now {
            return false;
        }
        if tx.is_full() || !self.transmit_handshake(now, PacketType::Init, tx) {
            return true;
        }
        if let State::Connecting { next_init, tries: next, hurry, .. } = &mut self.state {
            *next_init = now + handshake::INIT_INTERVAL * (1 << tries.min(20));
            if *hurry == Hurry::Due {
                *hurry = Hurry::Used;
            } else {
                *hurry = Hurry::Allowed;
                *next = tries.saturating_add(1);
            }
        }
        false
    }

    /// Sends INIT, or ACCEPT in answer to one. Returns false if there was no frame.
    pub(crate) fn transmit_handshake<D: Driver>(
        &mut self,
        now: Instant,
        packet_type: PacketType,
        tx: &mut Tx<D>,
    ) -> bool {
        let header = Header {
            packet_type,
            blocks: 0,
            ack_now: false,
            flow: if packet_type == PacketType::Init { 0 } else { self.remote_id },
            number: self.sent.next() as u32,
        };
        let handshake = Handshake {
            source: self.id,
            instance: tx.instance,
            max_message: self.limits.max_message,
            credit: self.limits.receive_window as u32,
            max_ack_delay_us: self.limits.max_ack_delay.as_micros() as u32,
            versions: VERSIONS,
            engines: tx.engines,
            ports: if tx.ports.0 < tx.ports.1 { tx.ports } else { (self.local.port(), self.local.port()) },
            token: self.token.as_ref().map_or(&[], |token| &token.0),
        };
        let sent = tx.packet(self.meta(), Handshake::PACKET_LEN, |bytes, _, _| {
            header.emit(bytes);
            handshake.emit(&mut bytes[HEADER_LEN..]);
            Handshake::PACKET_LEN
        });
        if sent {
            // The peer decides how often: nothing of it may gather.
            self.sent.floor_distance(now, self.rtt.pto(0));
            self.handshake_sent = if self.sent.next() == 0 { Alarm::at(now) } else { Alarm::NONE };
            self.sent.sent(now, Handshake::PACKET_LEN as u32, &[], false);
        }
        sent
    }

    /// True if a packet would go out now.
    fn has_something(&mut self, now: Instant) -> bool {
        if !self.wants_turn(now) {
            return false;
        }
        if self.acks.is_due(now) || self.announce {
            return true;
        }
        if matches!(self.state, State::Tombstone { .. }) {
            return false;
        }
        if self.refused.is_some() {
            return true;
        }
        self.check_blocked();
        let wants = self.send.has_again() || self.has_credit();
        let open = (wants || self.pacer.deadline().is_some()) && self.window_open(now);
        self.probes > 0
            || [self.abort, self.stop, self.ping, self.blocked].contains(&Control::Wanted)
            || (self.fin == Control::Wanted && self.send.all_sent())
            || (open && wants)
    }

    /// True if a packet with content may go out now.
    fn window_open(&mut self, now: Instant) -> bool {
        let (packet, burst) = (self.send.cut().packet() as u32, self.limits.burst);
        self.pacer.is_ready(now, &self.cc, self.rtt.smoothed_or_initial(), packet, burst)
            && !self.sent.is_held()
            && self.sent.has_span()
            && self.sent.in_flight() < self.cc.window()
            && !self.sent.is_stretched()
    }

    /// True if a packet of `bytes` fills the window, or a quarter of a small one: peers acknowledge every 16 packets, and do
    /// not know how many the window holds.
    fn wants_ack(&self, bytes: u64) -> bool {
        let (window, before) = (self.cc.window(), self.sent.in_flight());
        let quarter = (window / 4).max(1);
        let small = window < SMALL_WINDOW * self.send.cut().packet() as u64;
        before + bytes >= window || (small && 2 * before >= window && before / quarter < (before + bytes) / quarter)
    }

    /// Builds one DATA packet. Returns false if there was no frame.
    fn transmit_data<D: Driver>(&mut self, now: Instant, tx: &mut Tx<D>) -> bool {
        let distance = self.sent.floor_distance(now, self.rtt.pto(0));
        let number = self.sent.next();
        let credit = self.credit();
        let room = self.send.cut().packet();
        let mut sent_len = 0;
        let done = tx.packet(self.meta(), room, |bytes, contents, built| {
            let mut at = HEADER_LEN + Data::FIXED_LEN;
            let mut blocks = 0;
            let due = self.acks.is_due(now);
            if self.acks.wants() {
                // All of the bitmap costs up to 128 bytes: only where an acknowledgement is due for its own sake.
                if let Some(block) = self.acks.block(now, due) {
                    at += block.emit(&mut bytes[at..]);
                    blocks = 1;
                }
            }
            let probing = self.probes > 0;
            let refused = self.refused.take();
            if let Some((first, last)) = refused {
                at += Chunk::Refused { first, last }.emit(&mut bytes[at..]);
            }
            at += if self.probes == 1 { 0 } else { self.fill(now, bytes, at, contents, probing, built) };
            let message_len = built.end_len();
            if contents.is_empty() {
                if probing {
                    at += Chunk::Ping.emit(&mut bytes[at..]);
                    contents.push(Sent::Ping(self.ping_round));
                } else if blocks == 0 && !self.announce && refused.is_none() {
                    return 0;
                }
            }
            self.acks.sent();
            self.announce = false;
            self.credit_sent = credit;
            if !contents.is_empty() {
                self.probes = self.probes.saturating_sub(1);
                if at + message_len < MIN_ELICITING_LEN {
                    let end = MIN_ELICITING_LEN.max(at + 4);
                    Chunk::emit_pad(&mut bytes[at..end]);
                    at = end;
                }
            }
            // The peer's answer is what we wait for now.
            let full = self.wants_ack((at + message_len) as u64)
                || self.send.wanted_credit().is_some_and(|c| c > self.peer_credit);
            let ack_now = !contents.is_empty()
                && (probing
                    || (full && !self.send.all_sent())
                    || contents.iter().any(|sent| matches!(sent, Sent::Blocked(_))));
            Header { packet_type: PacketType::Data, blocks, ack_now, flow: self.remote_id, number: number as u32 }
                .emit(bytes);
            Data::emit_fixed(distance, credit as u32, &mut bytes[HEADER_LEN..]);
            sent_len = at + message_len;
            at
        });
        if !done || sent_len == 0 {
            return done;
        }
        if !tx.contents.is_empty() {
            self.acks.replied(now);
            let (pto, idle) = (self.rtt.pto(0), now.after(self.sent.idle_since()));
            if self.sent.in_flight() == 0 && idle > pto && self.sent.has_sent() {
                self.cc.on_restart(idle, pto);
            }
            let rtt = self.rtt.smoothed_or_initial();
            self.pacer.sent(now, &self.cc, rtt, room as u32, sent_len as u64);
        }
        let limited = 2 * (self.sent.in_flight() + sent_len as u64) >= self.cc.window() || self.cc.fraction().is_some();
        self.sent.sent(now, sent_len as u32, &tx.contents, limited);
        self.on_traffic(now);
        if tx.contents.contains(&Sent::Fin) {
            // The peer may have ended both directions already, and wait for nothing but this.
            self.settle(now);
        }
        true
    }

    /// Writes the chunks that are due into `out`, from `start` on, notes them in `contents`, and returns their length. A message that lies in a
    /// frame of its own ends the packet, and goes to `built`.
    fn fill(
        &mut self,
        now: Instant,
        out: &mut [u8],
        start: usize,
        contents: &mut Vec<Sent>,
        probing: bool,
        built: &mut Built,
    ) -> usize {
        if matches!(self.state, State::Tombstone { .. }) {
            return 0;
        }
        let mut at = start + self.fill_controls(now, &mut out[start..], contents);
        if !(probing || self.window_open(now)) {
            return at - start;
        }
        // Lost parts first, then new ones; a part that does not fit waits for the next packet.
        loop {
            let space = out.len() - at;
            let part = if self.send.has_again() {
                self.send.next_again(space)
            } else {
                self.send.next_new(self.peer_credit, space)
            };
            let Some(part) = part else { break };
            if self.send.may_lie(part) && self.end_with(part, out, &mut at, contents, built) {
                return at - start;
            }
            let Some(chunk) = self.send.chunk(part) else { break };
            at += chunk.emit(&mut out[at..]);
            contents.push(Sent::Message(part));
        }
        if self.fin == Control::Wanted && self.send.all_sent() {
            let chunk = Chunk::Fin { next: self.send.next_id() };
            if chunk.len() <= out.len() - at {
                self.put_fin(chunk, out, &mut at, contents);
            }
        }
        at - start
    }

    #[inline]
    fn put_fin(&mut self, fin: Chunk<'_>, out: &mut [u8], at: &mut usize, contents: &mut Vec<Sent>) {
        *at += fin.emit(&mut out[*at..]);
        self.fin = Control::Sent;
        contents.push(Sent::Fin);
    }

    /// Ends the packet with `part`, from where it lies: its headers in front of it, or elsewhere. False if it is to be copied.
    #[inline(never)]
    fn end_with(
        &mut self,
        part: Part,
        out: &mut [u8],
        at: &mut usize,
        contents: &mut Vec<Sent>,
        built: &mut Built,
    ) -> bool {
        (self.send.is_built(part) && self.depart(part, out, at, contents, built))
            || (built.gathers && self.gather(part, out, at, contents, built))
    }

    /// Sends the message of `part` from where it lies, if what has been written up to `at` has room in front of it, and writes the
    /// rest of that: FIN, which may come before the last message, and the message's own head. False if it is to be copied.
    fn depart(
        &mut self,
        part: Part,
        out: &mut [u8],
        at: &mut usize,
        contents: &mut Vec<Sent>,
        built: &mut Built,
    ) -> bool {
        let fin = Chunk::Fin { next: self.send.next_id() };
        let ends = self.fin == Control::Wanted && self.send.all_sent();
        let front = *at + Chunk::WHOLE_OVERHEAD + if ends { fin.len() } else { 0 };
        let fits = front <= FRONT as usize && front + part.len as usize <= out.len();
        let space = out.len().saturating_sub(front + part.len as usize);
        built.end = if fits { self.send.depart(part, self.peer_credit, space).map(End::Message) } else { None };
        if built.end.is_none() {
            self.send.settle(part);
            // Its parts may yet go from where they lie.
            built.copied += u64::from(!built.gathers);
            return false;
        }
        if ends {
            self.put_fin(fin, out, at, contents);
        }
        *at += Chunk::emit_before_whole(part.id, part.len as usize, &mut out[*at..]);
        contents.push(Sent::Message(part));
        true
    }

    /// Lets the device gather `part` from where it was built, and writes what stands in front of it: FIN, which may come before the last
    /// message, and the part's own head. False if it is to be copied: it was not built in a frame, or something else shares its packet.
    fn gather(
        &mut self,
        part: Part,
        out: &mut [u8],
        at: &mut usize,
        contents: &mut Vec<Sent>,
        built: &mut Built,
    ) -> bool {
        let Some((lies, total)) = self.send.lies(part) else { return false };
        let is_whole = part.len == total;
        let overhead = if is_whole { Chunk::WHOLE_OVERHEAD } else { Chunk::PART_OVERHEAD };
        let Some(space) = out.len().checked_sub(*at + overhead + part.len as usize) else { return false };
        if self.send.is_followed(part, self.peer_credit, space) {
            built.copied_parts += 1;
            return false;
        }
        let fin = Chunk::Fin { next: self.send.next_id() };
        if self.fin == Control::Wanted && self.send.all_sent() && fin.len() <= space {
            self.put_fin(fin, out, at, contents);
        }
        let len = part.len as usize;
        *at += if is_whole {
            Chunk::emit_before_whole(part.id, len, &mut out[*at..])
        } else {
            Chunk::emit_before_part(part.id, part.offset, total, len, &mut out[*at..])
        };
        contents.push(Sent::Message(part));
        built.end = Some(End::Part(lies));
        true
    }

    fn fill_controls(&mut self, now: Instant, out: &mut [u8], contents: &mut Vec<Sent>) -> usize {
        if !self.wants_control() {
            return 0;
        }
        let mut at = 0;
        let wanted = self.send.wanted_credit().unwrap_or(self.peer_credit) as u32;
        for (control, chunk, sent) in [
            (&mut self.abort, Chunk::Abort(self.abort_reason), Sent::Abort),
            (&mut self.stop, Chunk::Stop(self.stop_reason), Sent::Stop),
            (&mut self.ping, Chunk::Ping, Sent::Ping(self.ping_round)),
            (&mut self.blocked, Chunk::Blocked { wanted }, Sent::Blocked(self.blocked_round)),
        ] {
            if *control == Control::Wanted {
                *control = Control::Sent;
                at += chunk.emit(&mut out[at..]);
                contents.push(sent);
            }
        }
        // Without a window FIN still goes out: it costs no credit, and there is nothing after it.
        if self.fin == Control::Wanted && self.send.all_sent() && !self.window_open(now) {
            let chunk = Chunk::Fin { next: self.send.next_id() };
            at += chunk.emit(&mut out[at..]);
            self.fin = Control::Sent;
            contents.push(Sent::Fin);
        }
        at
    }
}
