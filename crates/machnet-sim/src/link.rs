//! One direction of a cable: what delays, drops and damages datagrams, and what it counts.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use machnet_core::Instant;

use crate::SimRng;

/// Bytes that a datagram occupies on a link beyond its UDP payload: UDP 8, IPv4 20, Ethernet 14 + 4, preamble 8 and
/// inter-frame gap 12.
pub const OVERHEAD: u64 = 66;

/// What corruption does to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// The receiver's UDP checksum notices: dropped and counted.
    Noticed,
    /// Nothing notices: bits flipped, the end cut off, or bytes added. The parsers may do anything but panic.
    Unnoticed,
}

/// Loss in bursts, as Gilbert and Elliott have it: a link is good or bad, and what comes to a bad one may be lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    /// Probability, per datagram, that a good link turns bad.
    pub begin: f64,
    /// Probability, per datagram, that a bad link turns good: bursts are `1 / end` datagrams long on average.
    pub end: f64,
    /// Probability of loss on a bad link.
    pub loss: f64,
}

/// A token bucket for each pair of addresses and ports, as clouds limit single flows: what exceeds it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policer {
    /// Bits per second, counted with [`OVERHEAD`].
    pub rate: u64,
    /// Bytes that may come at once.
    pub burst: u64,
}

/// One direction of a link. `Link::default()` is a perfect one of 5 µs.
#[derive(Clone, Debug)]
pub struct Link {
    /// Propagation delay.
    pub delay: Duration,
    /// Bits per second; `None`: infinitely many.
    pub rate: Option<u64>,
    /// Datagrams that may wait for or be in serialisation; one more is dropped. Meaningless without a rate.
    pub queue_packets: u32,
    /// Bytes (with [`OVERHEAD`]) that may wait for or be in serialisation.
    pub queue_bytes: u64,
    /// The longest UDP payload that passes.
    pub max_payload: u32,
    /// What each pair of addresses and ports may send.
    pub police: Option<Policer>,
    /// Probability of loss.
    pub loss: f64,
    /// Loss in bursts, besides.
    pub bursts: Option<Bursts>,
    /// Probability that a datagram arrives twice.
    pub duplicate: f64,
    /// Probability that a datagram takes up to `reorder_by` longer.
    pub reorder: f64,
    /// The most that a reordered datagram is delayed.
    pub reorder_by: Duration,
    /// Probability of corruption.
    pub corrupt: f64,
    /// What corruption does.
    pub corruption: Corruption,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(5),
            rate: None,
            queue_packets: 1000,
            queue_bytes: u64::MAX,
            max_payload: 65_507,
            police: None,
            loss: 0.0,
            bursts: None,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_micros(50),
            corrupt: 0.0,
            corruption: Corruption::Noticed,
        }
    }
}

impl Link {
    /// A perfect link of `delay`.
    #[must_use]
    pub fn with_delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// A link on which nothing arrives.
    #[must_use]
    pub fn black_hole() -> Self {
        Self { loss: 1.0, ..Self::default() }
    }

    /// A link with loss, duplication, reordering and corruption of 1 % each.
    #[must_use]
    pub fn hostile(corruption: Corruption) -> Self {
        Self { loss: 0.01, duplicate: 0.01, reorder: 0.01, corrupt: 0.01, corruption, ..Self::default() }
    }

    /// A link of `rate` bits per second and `delay`, whose queue holds `queue` bytes.
    #[must_use]
    pub fn with_rate(rate: u64, delay: Duration, queue: u64) -> Self {
        Self { delay, rate: Some(rate), queue_packets: u32::MAX, queue_bytes: queue, ..Self::default() }
    }

    /// How long `payload` bytes occupy the link.
    #[must_use]
    pub fn serialisation(&self, payload: usize) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| time_of(payload as u64 + OVERHEAD, rate))
    }
}

/// How long `bytes` take at `rate` bits per second.
fn time_of(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos((u128::from(bytes) * 8_000_000_000).div_ceil(u128::from(rate.max(1))) as u64)
}

/// What a link counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Datagrams that came to the link.
    pub offered: u64,
    /// Bytes of them, without overhead.
    pub bytes: u64,
    /// Datagrams that left it, duplicates included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped by the filter.
    pub filtered: u64,
    /// Dropped by the policer.
    pub policed: u64,
    /// Dropped by the full queue.
    pub queue_full: u64,
    /// Longer than `max_payload`.
    pub oversized: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Delayed beyond their successors.
    pub reordered: u64,
    /// Altered.
    pub corrupted: u64,
    /// The most datagrams that waited or were in serialisation at once.
    pub deepest: u64,
}

impl LinkStats {
    /// Adds what another link counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.bytes += other.bytes;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.filtered += other.filtered;
        self.policed += other.policed;
        self.queue_full += other.queue_full;
        self.oversized += other.oversized;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.deepest = self.deepest.max(other.deepest);
    }
}

/// A datagram as a link's filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// When it came to the link.
    pub at: Instant,
    /// How many came before it.
    pub index: u64,
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its UDP payload.
    pub payload: &'a [u8],
}

/// What a filter decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As without a filter.
    Pass,
    /// Dropped.
    Drop,
    /// As without a filter, and late by this much.
    Delay(Duration),
}

/// What decides about the datagrams of a link, one after the other.
pub type Filter = Box<dyn FnMut(&Sighting<'_>) -> Verdict + Send>;

/// A link in operation.
pub(crate) struct LinkState {
    pub(crate) config: Link,
    pub(crate) rng: SimRng,
    pub(crate) filters: Vec<Filter>,
    pub(crate) stats: LinkStats,
    /// When the datagrams in the queue will have left it, and their bytes.
    queue: VecDeque<(Instant, u64)>,
    queued_bytes: u64,
    /// The link is bad, in the words of [`Bursts`].
    is_bad: bool,
    /// When each policed pair's bucket will be full again.
    buckets: BTreeMap<(SocketAddr, SocketAddr), Instant>,
}

impl LinkState {
    pub(crate) fn new(config: Link, rng: SimRng) -> Self {
        Self {
            config,
            rng,
            filters: Vec::new(),
            stats: LinkStats::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            is_bad: false,
            buckets: BTreeMap::new(),
        }
    }

    /// Asks every filter; the first that drops ends it, delays add up.
    pub(crate) fn filter(&mut self, seen: &Sighting<'_>) -> Verdict {
        let mut late = Duration::ZERO;
        for filter in &mut self.filters {
            match filter(seen) {
                Verdict::Pass => {}
                Verdict::Delay(by) => late += by,
                Verdict::Drop => return Verdict::Drop,
            }
        }
        if late.is_zero() { Verdict::Pass } else { Verdict::Delay(late) }
    }

    /// Draws whether a datagram is lost.
    pub(crate) fn is_lost(&mut self) -> bool {
        let bursts = self.config.bursts.is_some_and(|Bursts { begin, end, loss }| {
            let turns = self.rng.chance(if self.is_bad { end } else { begin });
            self.is_bad ^= turns;
            self.is_bad && self.rng.chance(loss)
        });
        bursts || self.rng.chance(self.config.loss)
    }

    /// True if the policer has no tokens for `payload` bytes from `from` to `to`.
    pub(crate) fn is_policed(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, payload: usize) -> bool {
        let Some(Policer { rate, burst }) = self.config.police else { return false };
        let full_at = self.buckets.entry((from, to)).or_insert(Instant::ZERO);
        let after = now.max(*full_at) + time_of(payload as u64 + OVERHEAD, rate);
        let exceeds = after > now + time_of(burst, rate);
        if !exceeds {
            *full_at = after;
        }
        exceeds
    }

    /// Queues `payload` bytes at `now`; returns when the last bit will be on the wire, or `None` if the queue is full.
    pub(crate) fn enqueue(&mut self, now: Instant, payload: usize) -> Option<Instant> {
        if self.config.rate.is_none() {
            return Some(now);
        }
        while let Some(&(left, bytes)) = self.queue.front() {
            if left > now {
                break;
            }
            self.queue.pop_front();
            self.queued_bytes -= bytes;
        }
        let size = payload as u64 + OVERHEAD;
        if self.queue.len() >= self.config.queue_packets as usize
            || self.queued_bytes.saturating_add(size) > self.config.queue_bytes
        {
            return None;
        }
        let start = self.queue.back().map_or(now, |&(left, _)| left);
        let end = start + self.config.serialisation(payload);
        self.queue.push_back((end, size));
        self.queued_bytes += size;
        self.stats.deepest = self.stats.deepest.max(self.queue.len() as u64);
        Some(end)
    }

    /// Alters `payload` beyond what a checksum would let pass.
    pub(crate) fn damage(&mut self, payload: &mut Vec<u8>) {
        match self.rng.below(8) {
            0 => payload.truncate(self.rng.below(payload.len() as u64) as usize),
            1 => {
                let mut extra = vec![0; 1 + self.rng.below(64) as usize];
                self.rng.fill(&mut extra);
                payload.extend_from_slice(&extra);
            }
            // Headers and chunk headers are where damage is interesting: half of the rest goes there.
            kind => {
                let reach = if kind < 5 { payload.len().min(64) } else { payload.len() };
                for _ in 0..1 + self.rng.below(8) {
                    if reach > 0 {
                        let bit = self.rng.below(reach as u64 * 8) as usize;
                        payload[bit / 8] ^= 1 << (bit % 8);
                    }
                }
            }
        }
    }
}
