//! A sender's memory of its packets and a receiver's of theirs, and a network between them: what is acknowledged has arrived,
//! once; what is lost is said once; bytes in flight are those of neither; and something always comes next while there are any.

use std::collections::VecDeque;

use arbitrary::Unstructured;

use super::super::Sent;
use super::super::acks::{Acks, Arrival};
use super::super::loss::Outstanding;
use super::super::rtt::Rtt;
use super::super::send::Part;
use crate::Instant;
use crate::time::Span;
use crate::wire::AckBlock;

pub(crate) fn loss(bytes: &[u8]) {
    let _ = World::new().run(&mut Unstructured::new(bytes));
}

/// A packet, by its number.
#[derive(Clone, Copy)]
struct Packet {
    bytes: u32,
    elicits: bool,
    floor: u64,
    arrived: bool,
    acked: bool,
    lost: bool,
}

impl Packet {
    const fn in_flight(&self) -> bool {
        self.elicits && !self.acked && !self.lost
    }
}

struct World {
    now: Instant,
    sent: Outstanding,
    acks: Acks,
    rtt: Rtt,
    packets: Vec<Packet>,
    /// Numbers, and blocks, on their way.
    there: VecDeque<u64>,
    back: VecDeque<AckBlock>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant(1),
            sent: Outstanding::new(),
            acks: Acks::new(),
            rtt: Rtt::new(),
            packets: Vec::new(),
            there: VecDeque::new(),
            back: VecDeque::new(),
        }
    }

    fn run(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let result = self.operate(u);
        self.finish();
        result
    }

    fn operate(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        while !u.is_empty() {
            self.now += Span::from_nanos(u.int_in_range(0..=1 << 14)?);
            match u.int_in_range(0..=11)? {
                0..=3 => {
                    let (count, elicits) = (u.int_in_range(1..=20)?, u.ratio(7, 8)?);
                    (0..count).for_each(|_| self.send(elicits));
                }
                4..=5 => {
                    let count = u.int_in_range(1..=20)?;
                    (0..count).for_each(|_| self.arrive(0, false));
                }
                6 if !self.there.is_empty() => {
                    let at = u.int_in_range(0..=self.there.len() - 1)?;
                    self.arrive(at, u.arbitrary()?);
                }
                7 if !self.there.is_empty() => {
                    let at = u.int_in_range(0..=self.there.len() - 1)?;
                    self.there.remove(at);
                }
                8 => {
                    // A block is as true later, and without what its bitmap says.
                    self.back.extend(self.acks.block(self.now, u.arbitrary()?));
                    self.acks.sent();
                }
                9 if !self.back.is_empty() => {
                    let at = u.int_in_range(0..=self.back.len() - 1)?;
                    let block = if u.arbitrary()? { self.back.remove(at) } else { self.back.get(at).copied() };
                    block.into_iter().for_each(|block| self.acknowledge(&block));
                }
                10 => self.now += Span::from_micros(1 << u.int_in_range(0..=20)?),
                11 if u.arbitrary()? => self.sent.shed(),
                _ => self.on_time(),
            }
            self.check();
        }
        Ok(())
    }

    fn send(&mut self, elicits: bool) {
        if elicits && !self.sent.has_span() {
            return;
        }
        let number = self.packets.len() as u64;
        assert_eq!(self.sent.next(), number, "numbers grow by one");
        let distance = u64::from(self.sent.floor_distance(self.now, self.rtt.pto(0)));
        let floor = number - distance;
        assert!(
            self.packets[..floor as usize].iter().all(|packet| !packet.in_flight()),
            "the floor is above what is asked about"
        );
        let bytes = 100 + number as u32 % 7;
        let content = Sent::Message(Part { id: number as u32, offset: 0, len: 1 });
        self.sent.sent(self.now, bytes, if elicits { std::slice::from_ref(&content) } else { &[] }, true);
        self.packets.push(Packet { bytes, elicits, floor, arrived: false, acked: false, lost: false });
        self.there.push_back(number);
    }

    fn arrive(&mut self, at: usize, again: bool) {
        let Some(number) = self.there.get(at).copied() else { return };
        if !again {
            self.there.remove(at);
        }
        if self.acks.classify(number) == Arrival::New {
            let packet = &mut self.packets[number as usize];
            packet.arrived = true;
            let in_order = self.acks.record(self.now, number, packet.floor);
            if packet.elicits {
                self.acks.elicited(self.now, !in_order, Span::from_micros(250));
            }
        }
    }

    fn acknowledge(&mut self, block: &AckBlock) {
        assert!(self.sent.is_plausible(block), "it acknowledges what was sent");
        let Self { sent, packets, now, .. } = self;
        let mut bytes = 0;
        let result = sent.on_ack(*now, block, |content| {
            let packet = &mut packets[index(content)];
            assert!(packet.arrived, "acknowledged and never arrived");
            assert!(!std::mem::replace(&mut packet.acked, true), "acknowledged twice");
            bytes += u64::from(packet.bytes);
        });
        assert_eq!((result.bytes, result.new), (bytes, bytes > 0));
        if let Some(at) = result.sample {
            self.rtt.sample(self.now, self.now.after(at), Span::from_micros(block.delay_us.into()), Span::ZERO);
        }
        self.detect();
    }

    fn detect(&mut self) {
        let Self { sent, packets, now, rtt, .. } = self;
        let mut count = 0;
        let losses = sent.detect(*now, rtt, |content| {
            let packet = &mut packets[index(content)];
            assert!(packet.in_flight(), "lost, and acknowledged or lost before");
            packet.lost = true;
            count += 1;
        });
        assert_eq!(losses.packets, count);
    }

    /// What a flow does when a deadline passed.
    fn on_time(&mut self) {
        if self.sent.on_timeout(self.now, &self.rtt) {
            self.send(true);
        } else {
            self.detect();
        }
    }

    fn check(&self) {
        let in_flight: u64 =
            self.packets.iter().filter(|packet| packet.in_flight()).map(|packet| u64::from(packet.bytes)).sum();
        assert_eq!(self.sent.in_flight(), in_flight);
        assert_eq!(self.sent.packets_lost, self.packets.iter().filter(|packet| packet.lost).count() as u64);
        // Only what is in flight is waited for, and for that there is always a time.
        assert_eq!(self.sent.deadline(&self.rtt).is_some(), in_flight > 0);
        for (number, packet) in self.packets.iter().enumerate().rev().take(64) {
            let outstanding = self.sent.is_outstanding(number as u32);
            assert!(!outstanding || packet.elicits && !packet.acked, "{number} is not outstanding");
            assert!(outstanding || !packet.in_flight(), "{number} is in flight and not outstanding");
        }
    }

    /// Everything arrives, and every deadline is kept: nothing stays in flight.
    fn finish(&mut self) {
        self.there.clear();
        self.back.clear();
        let mut turns = 0;
        while let Some(deadline) = self.sent.deadline(&self.rtt) {
            self.now = self.now.max(deadline);
            self.on_time();
            self.now += Span::from_micros(10);
            while !self.there.is_empty() {
                self.arrive(0, false);
            }
            if let Some(block) = self.acks.block(self.now, true) {
                self.acknowledge(&block);
            }
            self.check();
            turns += 1;
            assert!(turns < 100, "packets stay in flight: {:?}", self.sent.deadline(&self.rtt));
        }
    }
}

fn index(content: Sent) -> usize {
    match content {
        Sent::Message(part) => part.id as usize,
        other => panic!("{other:?} was never sent"),
    }
}
