//! What scenarios share: two machines and a dialog between them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use machnet_sim::{Link, WorldConfig};

pub(crate) use machnet_sim::setup::{PORT, TOMBSTONES, config, ip, nic};
pub(crate) use machnet_sim::{Chunk, Dialog, Pair, Seen, listen};

pub(crate) const fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

pub(crate) fn world_config() -> WorldConfig {
    WorldConfig { trace: env("MACHNET_SIM_TRACE").unwrap_or(0) as usize, ..WorldConfig::default() }
}

/// Two machines of moderate size, joined by `link`.
pub(crate) fn pair(seed: u64, link: &Link) -> Pair {
    Pair::with(seed, link, [nic(); 2], [config(); 2], world_config())
}

/// Runs `scenario` with many seeds: `of_200` of every 200 asked for. A failure names its seed and how to repeat it.
pub(crate) fn seeds(test: &str, of_200: u64, scenario: impl Fn(u64)) {
    let seeds = match env("MACHNET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..(env("MACHNET_SIM_SEEDS").unwrap_or(200) * of_200).div_ceil(200),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no text)");
            panic!(
                "seed {seed} fails: {text}\nrepeat: MACHNET_SIM_SEED={seed} MACHNET_SIM_TRACE=100 cargo test -p machnet-sim \
                 --release {test}"
            );
        }
    }
}

/// Reads a packet that an engine made.
pub(crate) fn read(packet: &[u8]) -> Seen {
    Seen::read(packet)
}
