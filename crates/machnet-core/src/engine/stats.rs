//! What an engine counts, and how that is told elsewhere: summed up, and as words.

use crate::{DropReason, Drops};

/// Counters of an engine.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EngineStats {
    /// Rounds.
    pub rounds: u64,
    /// Time that rounds took which moved something, nanoseconds: how busy the engine is.
    pub busy_ns: u64,
    /// Datagrams received.
    pub packets_received: u64,
    /// Datagrams received that belonged to another engine of the endpoint, and were given to it.
    pub handed_over: u64,
    /// Datagrams that other engines of the endpoint gave to this one.
    pub taken_over: u64,
    /// PROBEs and their answers sent.
    pub probes_sent: u64,
    /// Datagrams built and handed to the driver.
    pub packets_sent: u64,
    /// Packets that flows declared lost, of flows that are gone too.
    pub packets_lost: u64,
    /// INITs that were answered by RETRY, and left no trace.
    pub retries_sent: u64,
    /// Flows that exist, half-open and closing ones included.
    pub flows: u64,
    /// Reassembly buffers in use.
    pub buffers_in_use: u64,
    /// Messages of several packets that stayed in them, for applications that take such in pieces.
    pub chained: u64,
    /// Those that might have, and were copied: too long, in parts that overlap, or the driver was short of frames.
    pub unchained: u64,
    /// Messages that were transmitted from the frame that their application built them in.
    pub sent_in_place: u64,
    /// Messages that were built in a frame and copied all the same: their path carries no packets so long, or they shared one.
    pub built_and_copied: u64,
    /// Messages that could have been built in a frame, and found none: built in ordinary memory, and copied.
    pub build_frames_missed: u64,
    /// Frames that applications have to build in, or have built in and that are not home ([`Config::build_frames`](crate::Config::build_frames)).
    pub build_frames_away: u64,
    /// Those of them that nobody has taken yet.
    pub build_frames_waiting: u64,
    /// Parts of messages that the device read where their application built them, each time that they were sent.
    pub parts_in_place: u64,
    /// Parts of such messages that were copied, because they shared their packet with something that came behind them.
    pub parts_copied: u64,
    /// Messages that could have been built in a long frame, and found none.
    pub long_frames_missed: u64,
    /// Long frames that applications have to build in, or have built in and that are not home ([`Config::long_frames`](crate::Config::long_frames)).
    pub long_frames_away: u64,
    /// Those of them that nobody has taken yet.
    pub long_frames_waiting: u64,
    /// Drops by reason, the driver's included.
    pub drops: Drops,
}

impl EngineStats {
    /// Adds the counters of another engine of the same endpoint.
    pub fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.busy_ns += other.busy_ns;
        self.packets_received += other.packets_received;
        self.handed_over += other.handed_over;
        self.taken_over += other.taken_over;
        self.probes_sent += other.probes_sent;
        self.packets_sent += other.packets_sent;
        self.packets_lost += other.packets_lost;
        self.retries_sent += other.retries_sent;
        self.flows += other.flows;
        self.buffers_in_use += other.buffers_in_use;
        self.chained += other.chained;
        self.unchained += other.unchained;
        self.sent_in_place += other.sent_in_place;
        self.built_and_copied += other.built_and_copied;
        self.build_frames_missed += other.build_frames_missed;
        self.build_frames_away += other.build_frames_away;
        self.build_frames_waiting += other.build_frames_waiting;
        self.parts_in_place += other.parts_in_place;
        self.parts_copied += other.parts_copied;
        self.long_frames_missed += other.long_frames_missed;
        self.long_frames_away += other.long_frames_away;
        self.long_frames_waiting += other.long_frames_waiting;
        self.drops.add(&other.drops);
    }

    /// Words that they are as.
    pub const WORDS: usize = 11 + DropReason::ALL.len();

    /// As words, in the order of `docs/spec/sidecar.md#status`.
    #[must_use]
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        words[..11].copy_from_slice(&[
            self.rounds,
            self.busy_ns,
            self.packets_received,
            self.packets_sent,
            self.packets_lost,
            self.handed_over,
            self.taken_over,
            self.probes_sent,
            self.retries_sent,
            self.flows,
            self.buffers_in_use,
        ]);
        for (word, reason) in words[11..].iter_mut().zip(DropReason::ALL) {
            *word = self.drops.get(reason);
        }
        words
    }

    /// As they were; 0 for what is missing.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Self {
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        let mut drops = Drops::default();
        for (n, reason) in DropReason::ALL.into_iter().enumerate() {
            drops.add_n(reason, word(11 + n));
        }
        Self {
            rounds: word(0),
            busy_ns: word(1),
            packets_received: word(2),
            packets_sent: word(3),
            packets_lost: word(4),
            handed_over: word(5),
            taken_over: word(6),
            probes_sent: word(7),
            retries_sent: word(8),
            flows: word(9),
            buffers_in_use: word(10),
            drops,
            ..Self::default()
        }
    }

    /// The share of what arrived that arrived at another engine than its own, from 0 to 1.
    #[must_use]
    pub fn handover_ratio(&self) -> f64 {
        if self.packets_received == 0 { 0.0 } else { self.handed_over as f64 / self.packets_received as f64 }
    }
}
