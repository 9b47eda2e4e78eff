//! What the peer may send us, and whether we may send (`docs/spec/wire.md#credit`, `flow.md#acknowledging`).

use machnet_channel::{Frame, UNIT};

use super::{Control, Flow, State, Store};
use crate::{AppChannel, Slot};

impl Flow {
    /// Announces credit if enough has gathered, or the peer waits for it.
    pub(super) fn check_credit(&mut self) {
        self.reserved = self.reserved.max(self.recv.reserved());
        let credit = self.credit();
        self.recv.raise_limit(credit);
        let step = if self.peer_blocked { 1 } else { self.credit_step() };
        // A reservation is announced at once: the peer cannot finish its message without.
        if credit >= self.credit_sent + step || self.reserved > self.credit_sent {
            self.announce = true;
            if std::mem::take(&mut self.peer_blocked) {
                // Reliable: if this one is lost, the peer has nothing to send that would bring another.
                self.want_ping();
            }
        }
    }

    /// What the peer may have sent in all: the window beyond what was consumed, or to the end of the oldest message.
    pub(super) fn credit(&self) -> u64 {
        (self.recv.read() + self.limits.receive_window).max(self.reserved)
    }

    /// max(¼ of the window, 2 packets), in units.
    pub(super) fn credit_step(&self) -> u64 {
        (self.limits.receive_window / 4).max(2 * self.limits.cut.packet() as u64 / UNIT)
    }

    /// Asks to be told when the application has consumed enough for [`Flow::check_credit`].
    pub(super) fn tell_at(&mut self, slot: Slot, channel: &mut impl AppChannel) {
        loop {
            let step = if self.peer_blocked { 1 } else { self.credit_step() };
            // What the next packet announces counts as announced.
            let announced = if self.announce { self.credit() } else { self.credit_sent };
            let mut at = announced - self.limits.receive_window + step;
            if self.waits_for_reader() {
                at = at.min(self.recv.read() + 1);
            }
            let consumed = channel.set_tell_at(slot, at);
            if consumed == self.recv.read() {
                return;
            }
            self.recv.set_read(consumed);
            self.check_credit();
            if consumed < at {
                return;
            }
        }
    }

    /// Memory that its unfinished messages hold: the next one, and others; KiB, rounded up.
    #[inline]
    pub(crate) fn reassembling(&self) -> [u32; 2] {
        self.recv.reassembling().map(|bytes| bytes.div_ceil(1024) as u32)
    }

    /// The length of the message that waits for a reassembly buffer, and is sure to give it back.
    pub(crate) fn wanted_buffer(&self) -> Option<u32> {
        if matches!(self.state, State::Open) && self.recv.is_read() { self.recv.wanted() } else { None }
    }

    /// True if its next message was refused, because its application does not read.
    fn waits_for_reader(&self) -> bool {
        !self.recv.is_read() && self.recv.wanted().is_some()
    }

    /// Memory was refused. Asks how far the application has read, which is known late, and to be told of more; returns true
    /// if it has read everything, and the packet may be tried again.
    pub(crate) fn look_for_reader(&mut self, channel: &mut impl AppChannel) -> bool {
        let Some(slot) = self.slot.filter(|_| self.waits_for_reader()) else { return false };
        self.tell_at(slot, channel);
        self.recv.is_read()
    }

    /// Gives the message that [waits](Flow::wanted_buffer) its buffer, and the peer the credit to fill it.
    pub(crate) fn reserve(&mut self, frame: Frame, store: &mut impl Store) {
        self.recv.reserve(frame, store);
        self.check_credit();
        // Its sender may have backed off.
        self.want_ping();
    }

    /// True if a new part is covered by credit.
    pub(super) fn has_credit(&self) -> bool {
        self.send.wanted_credit().is_some_and(|cost| cost <= self.peer_credit)
    }

    /// Data and no credit: that is said once per value of the credit.
    pub(super) fn check_blocked(&mut self) {
        if self.send.wanted_credit().is_some_and(|cost| cost > self.peer_credit) && self.blocked_at != self.peer_credit
        {
            self.blocked_at = self.peer_credit;
            self.blocked = Control::Wanted;
            self.blocked_round = self.blocked_round.wrapping_add(1);
        }
    }
}
