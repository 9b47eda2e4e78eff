//! `machnet`: measure flows and their rivals, ping Machnet hosts, see what a machine can do.
//!
//! ```text
//! args.rs   sizes, times, cores as people write them
//! wire/     what carries messages: Machnet endpoints, and rivals behind the same calls
//! perf/     `machnet perf server`, `machnet perf client`
//! ping.rs   `machnet ping`
//! daemon.rs `machnet daemon`
//! stat.rs   `machnet stat`
//! doctor.rs `machnet doctor`
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

mod args;
mod daemon;
mod doctor;
mod perf;
mod ping;
mod stat;
mod wire;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

#[derive(Parser)]
#[command(name = "machnet", version, about = "Share an engine, measure flows and their rivals, ping Machnet hosts")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure: latency, rate, CPU time; Machnet beside TCP, QUIC and others
    #[command(subcommand)]
    Perf(perf::Perf),
    /// Handshakes with a Machnet host, timed
    Ping(ping::Options),
    /// An engine that the applications of this host share: a sidecar, until SIGTERM
    Daemon(daemon::Options),
    /// How a daemon and its applications do
    Stat(stat::Options),
    /// What would work on this machine, what is missing, and what mends it
    Doctor(doctor::Options),
}

/// How a program ends that was interrupted.
const INTERRUPTED: u8 = 130;

/// Interrupted before there was anything to report.
#[derive(Debug)]
struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted before anything was measured")
    }
}

impl std::error::Error for Interrupted {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // An operator wants to read what a daemon does; who measures wants to read what was measured. RUST_LOG says otherwise.
    let level = if matches!(cli.command, Command::Daemon(_)) { LevelFilter::INFO } else { LevelFilter::ERROR };
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let is_terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).with_writer(io::stderr).init();
    // As many sockets as this process may have: a thousand TCP connections are no error.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _ = setrlimit(Resource::Nofile, files);

    let (result, failure) = match cli.command {
        Command::Perf(perf) => (perf.run(), 1),
        Command::Ping(options) => (ping::run(&options), 2),
        Command::Daemon(options) => (daemon::run(&options), 1),
        Command::Stat(options) => (stat::run(&options), 1),
        Command::Doctor(options) => (doctor::run(&options), 1),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<Interrupted>() { INTERRUPTED } else { failure })
    })
}
