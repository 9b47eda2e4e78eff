//! Packets that were received for groups that did much lately: dealt with after those of others, and in small amounts.
//!
//! A driver hands out packets in the order they came. Of several applications' one socket, or the way around, a request may lie
//! behind all that a bulk transfer filled it with. So they are sorted before the work begins, which is in dealing with them.

use std::collections::VecDeque;

use super::Engine;
use crate::driver::RxPacket;
use crate::wire::{Addressee, addressee};
use crate::{AppChannel, Driver};

/// Packets that lie aside; more stay with the driver.
const MOST: usize = 1024;
/// Packets received in one round while the channel sorts.
const BURST: usize = 64;
/// What a packet costs beside its bytes.
const OVERHEAD: usize = 256;
/// What a group has dealt with in its turn.
const TURN: usize = 4 << 10;

/// See the module. Of each group in the order they came; the groups take turns, of [`TURN`] bytes.
#[derive(Debug, Default)]
pub(super) struct Aside {
    groups: Vec<VecDeque<RxPacket>>,
    /// Groups that have packets here, whose turn is next, and how much of it is used up.
    turns: VecDeque<u32>,
    used: usize,
    len: usize,
}

impl Aside {
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn has(&self, group: u32) -> bool {
        self.groups.get(group as usize).is_some_and(|queue| !queue.is_empty())
    }

    pub(super) fn push(&mut self, group: u32, packet: RxPacket) {
        if group as usize >= self.groups.len() {
            self.groups.resize_with(group as usize + 1, VecDeque::new);
        }
        let queue = &mut self.groups[group as usize];
        if queue.is_empty() {
            self.turns.push_back(group);
        }
        queue.push_back(packet);
        self.len += 1;
    }

    /// The next packet, and what dealing with it costs.
    fn pop(&mut self) -> Option<(RxPacket, usize)> {
        let group = *self.turns.front()?;
        let queue = &mut self.groups[group as usize];
        let packet = queue.pop_front()?;
        let cost = packet.range.len() + OVERHEAD;
        self.len -= 1;
        self.used += cost;
        if queue.is_empty() || self.used >= TURN {
            self.used = 0;
            self.turns.pop_front();
            if !queue.is_empty() {
                self.turns.push_back(group);
            }
        }
        Some((packet, cost))
    }
}

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// How many packets to receive.
    pub(super) fn receives(&self) -> usize {
        match self.channel.grain() {
            Some(_) => self.burst.min(BURST).min(MOST.saturating_sub(self.aside.len)),
            None => self.burst,
        }
    }

    /// Whether a packet had better wait: the group it is for.
    pub(super) fn waits(&self, packet: &RxPacket) -> Option<u32> {
        let (from, to) = (packet.range.start as usize, packet.range.end as usize);
        let Addressee::Flow(id) = packet.frame.bytes().get(from..to).and_then(addressee)? else { return None };
        let group = self.channel.group(self.flows.look(self.flows.find(id)?)?.slot?);
        // Behind those that wait already: who overtakes his own packets makes them look lost.
        (self.channel.is_heavy(group) || self.aside.has(group)).then_some(group)
    }

    /// Deals with packets that lie aside: with all, if the channel sorts no more. Returns how many.
    pub(super) fn receive_aside(&mut self) -> usize {
        let (mut bytes, mut dealt_with) = (0, 0);
        let grain = self.channel.grain();
        // Frames that lie here may be wanted elsewhere.
        if grain.is_some() && self.channel.is_express() && !self.tx.driver.is_short_of_frames() {
            return 0;
        }
        while let Some((packet, cost)) = self.aside.pop() {
            dealt_with += 1;
            bytes += cost;
            self.receive(packet);
            // More than is sent, so that little gathers here.
            if let Some(grain) = grain
                && (bytes >= 2 * grain as usize || self.channel.is_pressed())
                && !self.tx.driver.is_short_of_frames()
            {
                break;
            }
        }
        dealt_with
    }
}

#[cfg(test)]
mod tests {
    use machnet_channel::Region;

    use super::*;
    use crate::driver::Meta;

    #[test]
    fn groups_take_turns_and_keep_their_order() {
        let mut pool = Region::anonymous(2048, 64).unwrap().1;
        let mut aside = Aside::default();
        let at = "10.0.0.1:1".parse().unwrap();
        for (group, len) in [(2, 2000), (2, 2001), (2, 2002), (0, 100), (2, 2003), (0, 101)] {
            let meta = Meta { local: at, remote: at, queue: 0 };
            aside.push(group, RxPacket { meta, frame: pool.take().unwrap(), range: 0..len });
        }
        assert!(aside.has(2) && !aside.has(1));
        let lens: Vec<_> = std::iter::from_fn(|| aside.pop()).map(|(packet, _)| packet.range.len()).collect();
        assert_eq!(lens, [2000, 2001, 100, 101, 2002, 2003]);
        assert!(aside.is_empty() && !aside.has(2));
    }
}
