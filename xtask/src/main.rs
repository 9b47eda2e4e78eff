//! `cargo xtask`: the project's own tasks. `cargo xtask test` passes every test on a fresh machine.
//!
//! ```text
//! test.rs      the steps, their order, what each needs
//! tools.rs     finding and installing what a step needs
//! run.rs       running commands: bounded, interruptible, with nothing left behind
//! mutants.rs   the loom tests must notice every listed bug
//! sim.rs       the transport in virtual time
//! daemon.rs    daemons for the applications that a task runs
//! netns.rs     two hosts on one machine, and the end-to-end run between them
//! rpc.rs       frameworks, servers and load tools that others wrote, over Machnet
//! dissector.rs the Wireshark dissector, on a sample and on real traffic
//! dpdk.rs      the DPDK driver, on every wire that one machine has
//! asan.rs      tests that read what strangers write, under AddressSanitizer
//! fuzz.rs      the fuzz targets, for as long as wanted
//! instructions.rs  what the engine's work costs, against a committed baseline
//! bench/       Machnet and its rivals, measured side by side
//! soak.rs      random faults against a model, for as long as wanted
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

mod asan;
mod bench;
mod daemon;
mod dissector;
mod dpdk;
mod fuzz;
mod instructions;
mod loom;
mod mutants;
mod netns;
mod rpc;
mod run;
mod sim;
mod soak;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Machnet's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check, in order, until the first failure
    Test(test::Options),
    /// Random faults against a model: kills, stops, slow readers, storms of flows, large messages
    Soak(soak::Options),
    /// Fuzz parsers, sub-machines and two engines against each other
    Fuzz(fuzz::Options),
    /// The shared channel and the daemon's hostile applications, under AddressSanitizer
    Asan,
    /// The transport in virtual time: named scenarios, seeds, the matrix (`--help` shows its options)
    Sim(sim::Options),
    /// Measure Machnet and its rivals on the same wires: rows, results, plots
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = run::catch_signals().and_then(|()| match cli.task {
        Task::Test(options) => test::test(&options),
        Task::Soak(options) => soak::soak(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Asan => asan::asan(),
        Task::Sim(options) => sim::sim(&options),
        Task::Bench(options) => bench::bench(&options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if run::interrupted() { 130 } else { 1 })
        }
    }
}

/// The workspace's root.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}
