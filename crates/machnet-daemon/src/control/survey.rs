//! Who asks how it goes, and which engines have said so. An engine that stands still keeps nobody waiting.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use machnet_core::Report;

/// How long an engine has to report: less than `machnet stat` waits for the daemon.
const PATIENCE: Duration = Duration::from_secs(1);

/// What engines report for those who asked.
#[derive(Debug)]
pub(super) struct Survey {
    askers: Vec<OwnedFd>,
    /// When they are answered at the latest.
    until: Option<Instant>,
    /// Engines that were asked and have not reported: they are not asked again.
    owing: Vec<bool>,
    reports: BTreeMap<usize, Report>,
}

impl Survey {
    /// Of so many engines.
    pub(super) fn new(engines: usize) -> Self {
        Self { askers: Vec::new(), until: None, owing: vec![false; engines], reports: BTreeMap::new() }
    }

    /// Somebody asks. Returns the engines to be asked.
    pub(super) fn ask(&mut self, asker: OwnedFd, now: Instant) -> impl Iterator<Item = usize> {
        let is_first = self.askers.is_empty();
        self.askers.push(asker);
        self.until = self.until.or(Some(now + PATIENCE));
        let fresh =
            move |(engine, owes): (usize, &mut bool)| (is_first && !std::mem::replace(owes, true)).then_some(engine);
        self.owing.iter_mut().enumerate().filter_map(fresh)
    }

    /// When somebody is to be answered, whoever has reported.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// These reports came. If all are there that were asked for, or it is time: for whom they are, and those of all engines; `None` for
    /// one that is silent.
    pub(super) fn answered(
        &mut self,
        came: BTreeMap<usize, Report>,
        now: Instant,
    ) -> Option<(Vec<OwnedFd>, Vec<Option<Report>>)> {
        for (engine, report) in came {
            self.owing[engine] = false;
            self.reports.insert(engine, report);
        }
        let engines = self.owing.len();
        if self.askers.is_empty() {
            // Too late for who asked.
            self.reports.clear();
            return None;
        }
        if self.reports.len() < engines && self.until.is_some_and(|until| now < until) {
            return None;
        }
        self.until = None;
        let mut reports = std::mem::take(&mut self.reports);
        Some((std::mem::take(&mut self.askers), (0..engines).map(|engine| reports.remove(&engine)).collect()))
    }
}
