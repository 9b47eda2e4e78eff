//! `cargo xtask sim`: the transport in virtual time (`crates/machnet-sim`, whose binary takes the same options).

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::run::run;
use crate::test::{cargo, list_tests};
use crate::{root, target};

/// Options of `cargo xtask sim`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Options of the simulator; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Building on a slow machine, and any number of seeds.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer than the seeds, the scenarios or the matrix of a test run take on a busy machine.
const STEP: Duration = Duration::from_secs(20 * 60);

/// Optimised, with checks of overflow (Cargo.toml).
const PROFILE: [&str; 2] = ["--profile", "sim"];

/// Seeds of a test run.
const SEEDS: &str = "2000";

/// Runs the simulator.
pub(crate) fn sim(options: &Options) -> Result<()> {
    let options: Vec<&str> = options.options.iter().map(String::as_str).collect();
    simulate(&options, LIMIT)
}

/// The step of a test run: the suite, every scenario, the seeds, and the matrix.
pub(crate) fn check() -> Result<()> {
    let suite = ["--package", "machnet-sim", "--locked"];
    list_tests(cargo("test").args(PROFILE).args(suite), "sim")?;
    run(cargo("test").args(PROFILE).args(suite), STEP)?;
    simulate(&["--seeds", SEEDS], STEP)?;
    simulate(&["--matrix", "--check"], STEP)
}

fn simulate(options: &[&str], limit: Duration) -> Result<()> {
    run(cargo("build").args(PROFILE).args(["--locked", "--quiet", "--package", "machnet-sim"]), STEP)?;
    let mut command = Command::new(target().join("sim/machnet-sim"));
    run(command.current_dir(root()).args(options), limit)
}
