//! A DATA packet arrives: what is wrong with it, what it acknowledges, what it carries (`docs/spec/wire.md#data`).

use machnet_channel::{CloseReason, FrameRef};

use super::acks::Arrival;
use super::receive::Stored;
use super::{Control, Flow, Mtu, Round, Sent, State, Store};
use crate::cc::{Acked, Controller as _, Lost};
use crate::seq::expand;
use crate::time::Span;
use crate::wire::{AckBlock, Chunk, Data, Header, Reason};
use crate::{DropReason, Instant};

impl Flow {
    /// Checks what can be wrong with a DATA packet as such, before anything of it counts. Returns its number.
    pub(crate) fn check(&self, header: &Header, data: &Data<'_>) -> Result<u64, DropReason> {
        self.check_with(header, data.block().as_ref())
    }

    #[inline]
    fn check_with(&self, header: &Header, block: Option<&AckBlock>) -> Result<u64, DropReason> {
        let number = self.acks.expand(header.number);
        match self.acks.classify(number) {
            Arrival::New => {}
            Arrival::Duplicate => return Err(DropReason::Duplicate),
            Arrival::OutOfWindow => return Err(DropReason::OutOfWindow),
        }
        if block.is_some_and(|block| !self.sent.is_plausible(block)) {
            return Err(DropReason::AckOfUnsent);
        }
        // One per path, and there is one path.
        if header.blocks > 1 {
            return Err(DropReason::Malformed);
        }
        Ok(number)
    }

    /// DATA arrived. `packet` is all of it, `data` its checked contents.
    pub(crate) fn on_data(
        &mut self,
        round: Round,
        header: &Header,
        data: &Data<'_>,
        packet: &FrameRef,
        store: &mut impl Store,
    ) -> Result<(), DropReason> {
        let now = round.now;
        let block = data.block();
        let number = self.check_with(header, block.as_ref())?;
        self.packets_received += 1;
        self.on_traffic(now);
        if let Some(block) = &block {
            self.on_ack(round, block, store);
        }
        if matches!(self.state, State::Tombstone { .. }) {
            self.stay(now, data.chunks().elicits());
        }
        if let Some(range) = data.chunks().refused() {
            self.on_refused(now, range);
        }
        if header.blocks > 0 {
            // Of what is left.
            self.detect_losses(now);
        }
        self.peer_credit = self.peer_credit.max(expand(data.credit, self.peer_credit));
        if matches!(self.state, State::Aborting { .. }) && !data.chunks().any(|chunk| matches!(chunk, Chunk::Abort(_)))
        {
            // Not recorded: nobody takes what is in it, and the peer must not believe that somebody did.
            self.settle(now);
            return Ok(());
        }

        let mut at_once = header.ack_now;
        for chunk in data.chunks() {
            if matches!(chunk, Chunk::Ping) && !header.ack_now {
                // A peer that gave our next message its buffer says so; with ACK_NOW it may be a probe.
                self.sent.release();
            }
            at_once |= matches!(chunk, Chunk::Fin { .. } | Chunk::Stop(_) | Chunk::Abort(_));
            match self.on_chunk(now, chunk, packet, store) {
                Stored::Yes => {}
                Stored::NoMemory => return Err(DropReason::NoBuffers),
                Stored::TooLarge => {
                    self.abort(now, Reason::TooLarge, CloseReason::TooLarge);
                    return Err(DropReason::Protocol);
                }
                Stored::Violation(what) => {
                    tracing::debug!(flow = self.id, peer = %self.remote, what, "the peer broke the protocol");
                    self.abort(now, Reason::Protocol, CloseReason::Protocol);
                    return Err(DropReason::Protocol);
                }
            }
        }
        if self.recv.reserved() > self.credit_sent {
            self.check_credit();
        }
        let floor = number.saturating_sub(data.floor.into());
        let in_order = self.acks.record(now - round.gap, number, floor);
        if data.chunks().elicits() {
            self.acks.elicited(now, at_once || !in_order, self.limits.max_ack_delay);
        }
        self.settle(now);
        Ok(())
    }

    fn on_ack(&mut self, round: Round, block: &AckBlock, store: &mut impl Store) {
        let now = round.now;
        let Self { sent, send, mtu, fin, stop, abort, ping, ping_round, blocked, blocked_round, .. } = self;
        let result = sent.on_ack(now, block, |content| match content {
            Sent::Message(part) => {
                if let Some(mtu) = mtu.as_mut().filter(|_| Mtu::is_long(part.len)) {
                    mtu.on_long_acked();
                }
                send.acked(part, store);
            }
            Sent::Probe(size) => {
                if let Some(mtu) = mtu {
                    mtu.on_acked(now, size);
                }
            }
            Sent::Fin => *fin = Control::Acked,
            Sent::Stop => *stop = Control::Acked,
            Sent::Abort => *abort = Control::Acked,
            Sent::Ping(round) if round == *ping_round => *ping = Control::Idle,
            Sent::Blocked(round) if round == *blocked_round => *blocked = Control::Idle,
            Sent::Ping(_) | Sent::Blocked(_) => {}
        });
        let mut sample = None;
        if let Some(at) = result.sample {
            let (latest, delay) = (now.after(at), Span::from_micros(block.delay_us.into()));
            self.rtt.sample(now, latest, delay, round.gap);
            // What the peer's host waited is no congestion, however long. It says at most too much: never less than the path takes.
            sample = Some(latest.saturating_sub(delay).max(self.rtt.min().min(latest)));
        }
        if result.new {
            self.probes = 0;
            if let Some(mtu) = self.mtu.as_mut().filter(|_| self.sent.backoff() > 0) {
                mtu.on_short_acked();
            }
            self.adopt_mtu();
            self.cc.on_ack(&Acked {
                now,
                bytes: result.bytes,
                limited: result.limited,
                newest: result.newest,
                rtt: sample,
                gap: round.gap,
                smoothed: self.rtt.smoothed_or_initial(),
                min: self.rtt.min(),
            });
        }
        if result.undo {
            self.cc.on_undo();
        }
    }

    pub(super) fn detect_losses(&mut self, now: Instant) {
        let Self { sent, send, mtu, fin, stop, abort, ping, ping_round, blocked, blocked_round, rtt, .. } = self;
        let losses = sent.detect(now, rtt, |content| match content {
            Sent::Message(part) => {
                if let Some(mtu) = mtu.as_mut().filter(|_| Mtu::is_long(part.len)) {
                    mtu.on_long_lost(now, rtt.smoothed_or_initial());
                }
                send.lost(part);
            }
            Sent::Probe(size) => {
                if let Some(mtu) = mtu {
                    mtu.on_lost(now, size);
                }
            }
            Sent::Fin => fin.lost(),
            Sent::Stop => stop.lost(),
            Sent::Abort => abort.lost(),
            Sent::Ping(round) if round == *ping_round => ping.lost(),
            Sent::Blocked(round) if round == *blocked_round => blocked.lost(),
            Sent::Ping(_) | Sent::Blocked(_) => {}
        });
        self.adopt_mtu();
        if losses.packets > 0 {
            self.cc.on_loss(&Lost {
                now,
                packets: losses.packets,
                newest: losses.newest,
                persistent: losses.persistent,
                smoothed: self.rtt.smoothed_or_initial(),
            });
        }
    }

    /// The peer had no memory for these packets: they go again when it has.
    fn on_refused(&mut self, now: Instant, range: (u32, u32)) {
        let Self { sent, send, fin, stop, abort, ping, ping_round, blocked, blocked_round, .. } = self;
        sent.refuse(now, range, |content| match content {
            Sent::Message(part) => send.lost(part),
            Sent::Fin => fin.lost(),
            Sent::Stop => stop.lost(),
            Sent::Abort => abort.lost(),
            Sent::Ping(round) if round == *ping_round => ping.lost(),
            Sent::Blocked(round) if round == *blocked_round => blocked.lost(),
            Sent::Ping(_) | Sent::Blocked(_) | Sent::Probe(_) => {}
        });
    }

    /// A packet was dropped for want of memory, and will be again while the flow's next message has none: the peer is told.
    pub(crate) fn refuse(&mut self, number: u32) {
        if self.recv.wanted().is_none() {
            return;
        }
        let (first, last) = self.refused.get_or_insert((number, number));
        if number.wrapping_sub(*last) <= u32::MAX / 2 {
            *last = number;
        } else if first.wrapping_sub(number) <= u32::MAX / 2 {
            *first = number;
        }
    }

    fn on_chunk(&mut self, now: Instant, chunk: Chunk<'_>, packet: &FrameRef, store: &mut impl Store) -> Stored {
        match chunk {
            Chunk::Whole { id, payload } => self.recv.whole(id, payload, packet, store),
            Chunk::Part { id, offset, total, payload } => self.recv.part(id, (offset, total), payload, packet, store),
            Chunk::Refused { .. } => Stored::Yes,
            Chunk::Fin { next } => self.recv.fin(next),
            Chunk::Stop(_) => {
                if !std::mem::replace(&mut self.peer_stopped, true) {
                    self.send.discard();
                    self.blocked = Control::Idle;
                    if self.fin == Control::Idle {
                        self.fin = Control::Wanted;
                    }
                }
                Stored::Yes
            }
            Chunk::Abort(reason) => {
                if matches!(self.state, State::Open) {
                    self.entomb(
                        now,
                        if reason == Reason::TooLarge { CloseReason::TooLarge } else { CloseReason::Reset },
                    );
                }
                Stored::Yes
            }
            Chunk::Blocked { .. } => {
                self.peer_blocked = true;
                self.retell = true;
                self.check_credit();
                Stored::Yes
            }
            Chunk::Ping => {
                // The peer lives, and may have memory again for what it refused: no reason to wait for a long back-off.
                // Not within a PTO of the last one: the PING may be a probe too, of a peer that refuses ours likewise.
                if (self.sent.backoff() > 0 || self.sent.is_held()) && self.sent.last_sent() + self.rtt.pto(0) <= now {
                    self.probe_now();
                }
                Stored::Yes
            }
        }
    }
}
