//! All wires of an endpoint, by the slots of their addresses, and one epoll instance over their sockets.
//!
//! The sockets are looked at after a sleep, and every [`LOOK_EVERY`] rounds: while both sides are awake they say
//! nothing but that somebody is gone.

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use machnet_channel::FramePool;
use machnet_core::{Drops, RxPacket};
use rustix::event::{Timespec, epoll};

use crate::slots::slot_of;
use crate::wire::{End, Wire};

/// Rounds between two looks at the sockets (0.3 µs each), for those who never sleep.
const LOOK_EVERY: u32 = 256;
/// How many sockets one look finds; the others come with the next, as epoll rotates its list.
const EVENTS: usize = 64;
/// Stands for the porter's desk where epoll names slots.
const DESK: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Wires {
    by_slot: Vec<Option<Wire>>,
    /// Slots in use.
    live: Vec<usize>,
    /// Where in `live` the next burst begins.
    turn: usize,
    /// Slots with something to publish.
    unpublished: Vec<usize>,
    /// Datagrams that wait for room, in all.
    waiting: usize,
    epoll: OwnedFd,
    rounds: u32,
    slept: bool,
    /// Rings of wires that are gone.
    rings: u64,
}

impl Wires {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            by_slot: Vec::new(),
            live: Vec::new(),
            turn: 0,
            unpublished: Vec::new(),
            waiting: 0,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            rounds: 0,
            slept: false,
            rings: 0,
        })
    }

    /// Wakes the engine when somebody puts something on the desk.
    pub(crate) fn watch_desk(&self, bell: &OwnedFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, bell, epoll::EventData::new_u64(DESK), epoll::EventFlags::IN)?)
    }

    /// What an idle engine sleeps on.
    pub(crate) fn epoll(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(crate) fn add(&mut self, wire: Wire) -> io::Result<()> {
        let Some(slot) = slot_of(wire.peer()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is no address of a wire", wire.peer())));
        };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, wire.socket(), epoll::EventData::new_u64(slot as u64), flags)?;
        if slot >= self.by_slot.len() {
            self.by_slot.resize_with(slot + 1, || None);
        }
        self.by_slot[slot] = Some(wire);
        self.live.push(slot);
        Ok(())
    }

    pub(crate) const fn len(&self) -> usize {
        self.live.len()
    }

    /// Datagrams that wait for room, in all.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// How often other sides were rung.
    pub(crate) fn rings(&self) -> u64 {
        self.rings + self.live.iter().filter_map(|&slot| self.by_slot[slot].as_ref()).map(Wire::rings).sum::<u64>()
    }

    /// The wire to `peer`, and its slot.
    #[inline]
    pub(crate) fn to(&mut self, peer: Ipv4Addr) -> Option<(usize, &mut Wire)> {
        let slot = slot_of(peer)?;
        let wire = self.by_slot.get_mut(slot)?.as_mut()?;
        (wire.peer() == peer).then_some((slot, wire))
    }

    /// Notes that the wire in `slot` has something to publish.
    #[inline]
    pub(crate) fn sent_on(&mut self, slot: usize) {
        if self.unpublished.last() != Some(&slot) {
            self.unpublished.push(slot);
        }
    }

    /// Notes that one more datagram waits for room.
    pub(crate) const fn one_waits(&mut self) {
        self.waiting += 1;
    }

    /// Shows the other sides what was sent.
    #[inline]
    pub(crate) fn publish(&mut self) {
        for slot in self.unpublished.drain(..) {
            if let Some(wire) = &mut self.by_slot[slot] {
                wire.publish();
            }
        }
    }

    /// Sends what waits for room.
    #[inline]
    pub(crate) fn flush(&mut self, pool: &mut FramePool) {
        if self.waiting == 0 {
            return;
        }
        self.waiting = 0;
        for &slot in &self.live {
            if let Some(wire) = &mut self.by_slot[slot] {
                wire.flush(pool);
                self.waiting += wire.waiting();
            }
        }
    }

    /// Appends up to `max` datagrams to `out`, from each wire its share.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        own: Ipv4Addr,
        pool: &mut FramePool,
        drops: &mut Drops,
        out: &mut Vec<RxPacket>,
        max: usize,
    ) -> usize {
        let wires = self.live.len();
        if wires == 0 {
            return 0;
        }
        let share = (max / wires).max(1);
        self.turn = if self.turn + 1 < wires { self.turn + 1 } else { 0 };
        let mut count = 0;
        for i in 0..wires {
            let at = if self.turn + i < wires { self.turn + i } else { self.turn + i - wires };
            if let Some(wire) = &mut self.by_slot[self.live[at]] {
                count += wire.receive(own, pool, drops, out, share.min(max - count));
            }
        }
        count
    }

    /// True once in a while, and after a sleep: the sockets are to be looked at.
    #[inline]
    pub(crate) const fn is_time_to_look(&mut self) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        self.slept || self.rounds.is_multiple_of(LOOK_EVERY)
    }

    /// Hears bells, and gives the wires that are over, with the reason, to `over`.
    pub(crate) fn look(&mut self, mut over: impl FnMut(Wire, End)) {
        self.slept = false;
        for &slot in &self.live {
            if let Some(wire) = &mut self.by_slot[slot] {
                wire.disarm();
            }
        }
        let mut events = [MaybeUninit::uninit(); EVENTS];
        // An error cannot be but EINTR: what is there is found by the next look.
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) {
            for event in events {
                let gone = epoll::EventFlags::HUP | epoll::EventFlags::RDHUP | epoll::EventFlags::ERR;
                // The desk is looked at in every round.
                let (slot, flags) = (usize::try_from(event.data.u64()).unwrap_or(usize::MAX), event.flags);
                if let Some(Some(wire)) = self.by_slot.get_mut(slot) {
                    wire.hear(flags.intersects(gone));
                    if wire.is_over() {
                        // It would be readable for ever, and the wire may have to wait for frames.
                        let _ = epoll::delete(&self.epoll, wire.socket());
                    }
                }
            }
        }
        self.bury(&mut over);
    }

    fn bury(&mut self, over: &mut impl FnMut(Wire, End)) {
        let mut at = 0;
        while let Some(&slot) = self.live.get(at) {
            let Some(end) = self.by_slot[slot].as_ref().and_then(Wire::end) else {
                at += 1;
                continue;
            };
            self.live.swap_remove(at);
            if let Some(wire) = self.by_slot[slot].take() {
                self.rings += wire.rings();
                // Closing the socket takes it out of the set, as nobody else has it.
                over(wire, end);
            }
        }
    }

    /// Before the engine sleeps: true if it must not, because there is something to do.
    pub(crate) fn arm(&mut self, has_frames: bool) -> bool {
        self.slept = true;
        let mut work = false;
        for &slot in &self.live {
            if let Some(wire) = &mut self.by_slot[slot] {
                work |= wire.arm(has_frames);
                work |= wire.end().is_some();
            }
        }
        work
    }
}
