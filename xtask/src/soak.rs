//! `cargo xtask soak`: random faults against a model, for as long as wanted (`examples/soak`).

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::run::run;
use crate::test::cargo;
use crate::{root, target};

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Seed of what is done; default: a new one, which is printed
    #[arg(long)]
    seed: Option<u64>,
}

/// Until a run that hangs is ended, beyond its time: building on a slow machine, and what is measured first.
const SLACK: Duration = Duration::from_secs(20 * 60);

/// Runs the soak; an error on any violation.
pub(crate) fn soak(options: &Options) -> Result<()> {
    soak_for(Duration::from_secs(60 * options.minutes), options.seed)
}

/// As [`soak`], for a time that need not be minutes.
pub(crate) fn soak_for(time: Duration, seed: Option<u64>) -> Result<()> {
    run(cargo("build").args(["--release", "--locked", "--example", "soak"]), SLACK)?;
    let mut command = Command::new(target().join("release/examples/soak"));
    command.current_dir(root()).arg("--seconds").arg(time.as_secs().to_string());
    if let Some(seed) = seed {
        command.arg("--seed").arg(seed.to_string());
    }
    // Its children die with it, whatever ends it.
    run(&mut command, time + SLACK)
}
