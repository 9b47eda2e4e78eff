//! What happened on the fabric, as a hash that tests compare and, if asked for, as a list that people read.

use std::hash::Hasher;
use std::net::SocketAddr;

use machnet_core::Instant;
use siphasher::sip::SipHasher13;

use crate::describe;

/// Bytes of a datagram that the hash covers: headers and first chunks. What follows is the applications', who check it.
const HEAD: usize = 64;

/// What happened to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// Handed to the NIC.
    Sent,
    /// Too long for the NIC or a link.
    Oversized,
    /// No host has the address, or no route leads there.
    NoRoute,
    /// Lost on a link by chance.
    Lost,
    /// Dropped by a link's filter.
    Filtered,
    /// Dropped by a link's policer.
    Policed,
    /// Dropped by a full queue.
    QueueFull,
    /// Altered on a link.
    Corrupted,
    /// Doubled on a link.
    Duplicated,
    /// Delayed beyond its successors on a link.
    Reordered,
    /// Dropped by the receiver's checksum.
    Checksum,
    /// Nobody has the port open.
    ClosedPort,
    /// The receive ring was full.
    RingFull,
    /// In the receive ring.
    Arrived,
    /// Dropped by the receiving driver: no frame.
    NoFrames,
    /// An ICMP "port unreachable" reached the sender.
    Unreachable,
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// What.
    pub kind: EventKind,
    /// The datagram's source.
    pub from: SocketAddr,
    /// The datagram's destination.
    pub to: SocketAddr,
    /// Its UDP payload.
    pub payload: Vec<u8>,
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, kind, from, to, payload } = self;
        let (at, kind, len) = (at.0 as f64 / 1e3, format!("{kind:?}"), payload.len());
        write!(f, "{at:>12.3} µs {kind:<11} {from} → {to} {len:>5} B ")?;
        f.write_str(&describe(payload))
    }
}

/// The running hash over every event; optionally the newest events themselves.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: SipHasher13,
    count: u64,
    keep: usize,
    kept: std::collections::VecDeque<Event>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { hasher: SipHasher13::new(), count: 0, keep: 0, kept: std::collections::VecDeque::new() }
    }

    pub(crate) fn keep(&mut self, events: usize) {
        self.keep = events;
    }

    pub(crate) fn push(&mut self, at: Instant, kind: EventKind, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        self.count += 1;
        self.hasher.write_u64(at.0);
        self.hasher.write_u8(kind as u8);
        // `hash` of the standard library's types is not promised to stay the same, but is the same within a build.
        std::hash::Hash::hash(&(from, to), &mut self.hasher);
        self.hasher.write_u64(payload.len() as u64);
        self.hasher.write(&payload[..payload.len().min(HEAD)]);
        if self.keep > 0 {
            if self.kept.len() == self.keep {
                self.kept.pop_front();
            }
            self.kept.push_back(Event { at, kind, from, to, payload: payload.to_vec() });
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.kept.iter().cloned().collect()
    }
}
