//! Named scenarios: what the transport promises in figures, each an assertion that any seed must pass.
//!
//! ```text
//! repair.rs    single losses, lost tails, bursts of losses, reordering
//! share.rs     bottlenecks: two flows, incast, policers, random loss
//! small.rs     requests and replies, small messages, flows beside others
//! ethernet.rs  engines on core's network layer, over frames
//! rss/        hosts with several engines behind an opaque hash
//! trouble.rs   black holes, silent acknowledgements, descheduled engines, readers that stop
//! mix.rs       everything at once, drawn from the seed
//! ```
//!
//! A scenario panics if the transport does not keep its promise; what it measured it leaves as figures. The command
//! `cargo xtask sim` and the test `scenarios` run the same functions.

mod ethernet;
mod mix;
mod repair;
mod rss;
mod share;
mod small;
mod trouble;

use std::time::Duration;

use machnet_core::Config;

use crate::setup::{config, nic};
use crate::{Link, NicConfig, Pair, Recorder, SimRng, World, WorldConfig};

/// A run of a scenario: its seed, and where it leaves what it finds.
#[derive(Clone, Debug)]
pub struct Run {
    seed: u64,
    recorder: Recorder,
}

impl Run {
    /// A run with `seed`.
    #[must_use]
    pub const fn new(seed: u64, recorder: Recorder) -> Self {
        Self { seed, recorder }
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream of the seed from which a scenario draws itself.
    fn rng(&self) -> SimRng {
        SimRng::new(self.seed, 1 << 40)
    }

    /// An empty world.
    fn world(&self, config: WorldConfig) -> World {
        World::recorded(self.seed, config, &self.recorder)
    }

    /// Two machines of moderate size, joined by `link`.
    fn pair(&self, link: &Link) -> Pair {
        self.pair_of(link, nic(), config())
    }

    /// Two machines of one kind, joined by `link`.
    fn pair_of(&self, link: &Link, nic: NicConfig, config: Config) -> Pair {
        Pair::in_world(self.world(costs()), link, [nic; 2], [config; 2])
    }

    /// Notes what was measured.
    fn figure(&self, name: impl Into<String>, value: impl std::fmt::Display) {
        self.recorder.figure(name, value);
    }
}

/// What engines cost in scenarios: 500 ns per round and 150 ns per packet, as of a polled driver on a core of its own.
fn costs() -> WorldConfig {
    WorldConfig {
        poll_cost: Duration::from_nanos(500),
        packet_cost: Duration::from_nanos(150),
        ..WorldConfig::default()
    }
}

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it promises.
    pub about: &'static str,
    /// Runs it; panics if the promise is broken.
    pub run: fn(&Run),
    /// Why the promise is known to be broken; such a scenario must fail.
    pub pending: Option<&'static str>,
}

/// A scenario whose promise is kept.
const fn kept(name: &'static str, about: &'static str, run: fn(&Run)) -> Scenario {
    Scenario { name, about, run, pending: None }
}

/// A scenario whose promise the transport does not keep yet.
const fn pending(name: &'static str, about: &'static str, run: fn(&Run), why: &'static str) -> Scenario {
    Scenario { name, about, run, pending: Some(why) }
}

/// Every scenario, the mix last.
pub fn all() -> impl Iterator<Item = Scenario> {
    [
        repair::SCENARIOS,
        share::SCENARIOS,
        small::SCENARIOS,
        trouble::SCENARIOS,
        ethernet::SCENARIOS,
        rss::SCENARIOS[0],
        rss::SCENARIOS[1],
        rss::SCENARIOS[2],
        rss::SCENARIOS[3],
        rss::SCENARIOS[4],
        mix::SCENARIOS,
    ]
    .concat()
    .into_iter()
}

/// The scenario of that name.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    all().find(|scenario| scenario.name == name)
}
