//! A sender that keeps to its credit, a receiver, and a network that loses, repeats and reorders between them: nothing legal
//! is refused, the credit is never exceeded, and at the end every message has arrived once, in order.

use std::collections::VecDeque;

use arbitrary::Unstructured;
use machnet_channel::{Message, UNIT, cost_in_units};

use super::super::receive::{ReceiveQueue, Stored};
use super::super::send::{Cut, Part, SendQueue};
use super::{Heap, packet};
use crate::wire::Chunk;

const MAX_MESSAGE: u32 = 4000;
const WINDOW: u64 = 40;
/// Room for chunks in a packet.
const SPACE: usize = 1200;

pub(crate) fn credit(bytes: &[u8]) {
    let _ = World::new().run(&mut Unstructured::new(bytes));
}

struct World {
    send: SendQueue,
    recv: ReceiveQueue,
    heap: Heap,
    /// Every message ever pushed.
    messages: Vec<Vec<u8>>,
    /// Parts on their way.
    wire: VecDeque<Part>,
    /// Delivered to the application, and consumed by it, in messages and units.
    delivered: usize,
    unread: VecDeque<u64>,
    consumed: u64,
    /// What the receiver allows, and what the sender knows of that.
    allowed: u64,
    credit: u64,
    refused: bool,
}

impl World {
    fn new() -> Self {
        Self {
            send: SendQueue::new(Cut::new(1232)),
            recv: ReceiveQueue::new(WINDOW, MAX_MESSAGE),
            heap: Heap::new(),
            messages: Vec::new(),
            wire: VecDeque::new(),
            delivered: 0,
            unread: VecDeque::new(),
            consumed: 0,
            allowed: WINDOW,
            credit: WINDOW,
            refused: false,
        }
    }

    fn run(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let result = self.operate(u);
        self.finish();
        result
    }

    fn operate(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        while !u.is_empty() {
            match u.int_in_range(0..=9)? {
                0..=1 => self.push(match u.int_in_range(0..=2)? {
                    0 => u.int_in_range(0..=130)?,
                    1 => u.int_in_range(1087..=1153)?,
                    _ => u.int_in_range(0..=MAX_MESSAGE as usize)?,
                }),
                2..=3 => self.transmit(),
                4 => self.consume(),
                5 => self.credit = self.allowed,
                6 => self.heap.only_oldest = u.arbitrary()?,
                7 => self.send.probe(),
                _ if self.wire.is_empty() => {}
                8 => {
                    let at = u.int_in_range(0..=self.wire.len() - 1)?;
                    self.deliver(at, u.arbitrary()?);
                }
                _ => {
                    let at = u.int_in_range(0..=self.wire.len() - 1)?;
                    if let Some(part) = self.wire.remove(at) {
                        self.send.lost(part);
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, len: usize) {
        if self.messages.len() < 64 {
            let message: Vec<u8> = (0..len).map(|i| (i + self.messages.len()) as u8).collect();
            self.send.push(message.clone().into());
            self.messages.push(message);
        }
    }

    fn transmit(&mut self) {
        let part = match self.send.next_again(SPACE) {
            Some(part) => Some(part),
            None if self.send.has_again() => None,
            None => self.send.next_new(self.credit, SPACE),
        };
        let Some(part) = part else { return };
        // By the specification's own words.
        let before: u64 = self.messages[..part.id as usize].iter().map(|message| cost_in_units(message.len())).sum();
        let end = u64::from(part.offset + part.len);
        assert!(before + 1 + end.div_ceil(UNIT) <= self.credit, "sent beyond the credit");
        self.wire.push_back(part);
    }

    /// One of the parts arrives; `again`: and stays on the wire.
    fn deliver(&mut self, at: usize, again: bool) {
        let Some(part) = self.wire.get(at).copied() else { return };
        if !again {
            self.wire.remove(at);
        }
        let message = &self.messages[part.id as usize];
        let payload = &message[part.offset as usize..][..part.len as usize];
        if let Some(chunk) = self.send.chunk(part) {
            let expected = if payload.len() == message.len() {
                Chunk::Whole { id: part.id, payload }
            } else {
                Chunk::Part { id: part.id, offset: part.offset, total: message.len() as u32, payload }
            };
            assert_eq!(chunk, expected);
        }
        let stored = if payload.len() == message.len() {
            self.recv.whole(part.id, payload, &packet(), &mut self.heap)
        } else {
            self.recv.part(part.id, (part.offset, message.len() as u32), payload, &packet(), &mut self.heap)
        };
        match stored {
            Stored::Yes => {
                self.send.acked(part, &mut self.heap);
            }
            Stored::NoMemory => {
                self.refused = true;
                self.send.lost(part);
            }
            Stored::Violation(_) | Stored::TooLarge => panic!("{part:?} is legal: {stored:?}"),
        }
        while let Some(message) = self.recv.pop() {
            self.take(&message.into_message());
        }
        self.allow();
    }

    fn take(&mut self, message: &Message) {
        assert_eq!(message.as_slice(), self.messages[self.delivered], "message {}", self.delivered);
        self.delivered += 1;
        self.unread.push_back(cost_in_units(message.len()));
    }

    fn consume(&mut self) {
        self.consumed += self.unread.pop_front().unwrap_or(0);
        self.allow();
    }

    fn allow(&mut self) {
        self.allowed = self.allowed.max(self.consumed + WINDOW).max(self.recv.reserved());
        self.recv.raise_limit(self.allowed);
    }

    /// Everything is read, memory is plenty and nothing is lost any more.
    fn finish(&mut self) {
        self.heap.only_oldest = false;
        let mut turns = 0;
        while !self.send.all_acknowledged() {
            let before = (self.delivered, self.consumed, self.credit, self.send.acknowledged(), self.wire.len());
            for part in std::mem::take(&mut self.wire) {
                self.send.lost(part);
            }
            self.transmit();
            self.deliver(0, false);
            self.consume();
            self.credit = self.allowed;
            let after = (self.delivered, self.consumed, self.credit, self.send.acknowledged(), self.wire.len());
            turns = if before == after { turns + 1 } else { 0 };
            assert!(turns < 100, "stuck at message {} of {}", self.delivered, self.messages.len());
        }
        assert_eq!(self.delivered, self.messages.len());
        let units: u64 = self.messages.iter().map(|message| cost_in_units(message.len())).sum();
        assert_eq!(self.send.acknowledged(), units, "room returns");
        assert_eq!(self.heap.in_use(), 0);
    }
}
