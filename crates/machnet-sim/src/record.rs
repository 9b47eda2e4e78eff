//! What worlds leave behind when they end: counts, and, if asked for, what happened on the wire.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machnet_core::Drops;

use crate::{Event, LinkStats, NicStats};

/// Sums over worlds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Worlds that ended.
    pub worlds: u64,
    /// Rounds of engines.
    pub rounds: u64,
    /// Events of the fabrics.
    pub events: u64,
    /// Virtual time.
    pub time: Duration,
    /// What links counted.
    pub links: LinkStats,
    /// What NICs counted.
    pub nics: NicStats,
    /// What engines and their drivers dropped.
    pub drops: Drops,
    /// A hash that differs if anything differs.
    pub hash: u64,
}

impl Tally {
    /// Adds the sums of `other`. The hash does not depend on the order.
    pub fn add(&mut self, other: &Self) {
        self.worlds += other.worlds;
        self.rounds += other.rounds;
        self.events += other.events;
        self.time += other.time;
        self.links.add(&other.links);
        self.nics.add(&other.nics);
        self.drops.add(&other.drops);
        self.hash = self.hash.wrapping_add(other.hash);
    }

    /// Packets that were dropped, by kind: on links, at NICs, by engines.
    #[must_use]
    pub fn drops(&self) -> Vec<(String, u64)> {
        let (links, nics) = (&self.links, &self.nics);
        let fabric = [
            ("link: lost", links.lost),
            ("link: filtered", links.filtered),
            ("link: policed", links.policed),
            ("link: queue full", links.queue_full),
            ("link: too long", links.oversized),
            ("nic: checksum", nics.checksum),
            ("nic: ring full", nics.ring_full),
            ("nic: too long", nics.oversized),
            ("nic: no route", nics.no_route),
        ];
        let fabric = fabric.into_iter().filter(|&(_, n)| n > 0).map(|(kind, n)| (kind.to_owned(), n));
        fabric.chain(self.drops.iter().map(|(reason, n)| (format!("engine: {reason:?}"), n))).collect()
    }
}

/// A record of one run, shared by its worlds. Clones are the same record.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    tally: Tally,
    keep: usize,
    events: Vec<Event>,
    figures: Vec<(String, String)>,
    /// Nobody will ask for what a failed world says: it goes to standard error.
    is_quiet: bool,
    post_mortem: String,
}

impl Recorder {
    /// A record that keeps the newest `events` of each world, and what failed worlds say.
    #[must_use]
    pub fn keeping(events: usize) -> Self {
        Self(Arc::new(Mutex::new(Record { keep: events, is_quiet: true, ..Record::default() })))
    }

    /// How many events a world is to keep.
    pub(crate) fn keeps(&self) -> usize {
        self.lock().keep
    }

    /// A world is over.
    pub(crate) fn end(&self, tally: &Tally, events: Vec<Event>) {
        let mut record = self.lock();
        record.tally.add(tally);
        record.events.extend(events);
    }

    /// A world is over since a check in it failed.
    #[expect(clippy::print_stderr, reason = "a failed test says what it can")]
    pub(crate) fn post_mortem(&self, report: String) {
        let mut record = self.lock();
        if record.is_quiet {
            record.post_mortem += &report;
        } else {
            eprintln!("{report}");
        }
    }

    /// What worlds said in which a check failed.
    #[must_use]
    pub fn take_post_mortem(&self) -> String {
        std::mem::take(&mut self.lock().post_mortem)
    }

    /// Notes a figure that a scenario measured.
    pub fn figure(&self, name: impl Into<String>, value: impl std::fmt::Display) {
        self.lock().figures.push((name.into(), value.to_string()));
    }

    /// The figures, in the order they were noted.
    #[must_use]
    pub fn figures(&self) -> Vec<(String, String)> {
        self.lock().figures.clone()
    }

    /// The sums over the worlds that ended.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    /// The events kept, and none from now on.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.lock().events)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
