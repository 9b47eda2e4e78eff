//! `cargo xtask bench`: Machnet and its rivals on the same wires, in the same run, with the same program.
//!
//! ```text
//! contenders.rs  who is measured, with which settings, on which cores
//! matrix.rs      what is measured: the experiments
//! cell.rs        one measurement: a server's process and a client's
//! lossbox.rs     a wire that loses datagrams, in user space
//! results.rs     all reports, their medians and spreads; the file they are written to
//! rows.rs        the targets, and how far they are met
//! plots.rs       pictures
//! dpdk.rs        Machnet on DPDK's wires, beside bare frames
//! rpc/           the same for services: gRPC, byte streams, redis
//! sidecar.rs     the engine in a daemon
//! ```
//!
//! BENCHMARKING.md says how to read what comes out.

mod cell;
mod contenders;
mod dpdk;
mod lossbox;
mod matrix;
mod plots;
mod results;
mod rows;
mod rpc;
mod sidecar;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::instructions;
use crate::netns::{self, Hosts};
use crate::run::{capture, run};
use crate::test::cargo;
use crate::tools::{self, Tool};
use crate::{root, target};
use cell::{Bench, Wires};
use results::Results;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Short measurements, few repetitions: at most 5 minutes after building
    #[arg(long)]
    quick: bool,
    /// Where results and plots go
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Only experiments whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How often each measurement is repeated
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: Option<u32>,
    /// Milliseconds of each measurement
    #[arg(long, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    millis: Option<u64>,
    /// Measure with this `machnet` instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Count the instructions of the engine's work instead, and compare them with the committed baseline
    #[arg(long)]
    instructions: bool,
    /// With --instructions: what is counted is the new baseline
    #[arg(long, requires = "instructions")]
    write: bool,
    /// Measure services instead: gRPC, byte streams, redis behind gateways; with --quick in at most 2 minutes after building
    #[arg(long, conflicts_with_all = ["instructions", "program"])]
    rpc: bool,
    /// Measure DPDK's wires instead: Machnet beside bare frames, between two processes
    #[arg(long, conflicts_with_all = ["instructions", "rpc"])]
    dpdk: bool,
    /// Measure engines in daemons instead, beside engines of the applications' own
    #[arg(long, conflicts_with_all = ["instructions", "rpc", "dpdk"])]
    sidecar: bool,
    /// List the experiments
    #[arg(long)]
    list: bool,
    /// Already in a user namespace of its own
    #[arg(long, hide = true)]
    inside: bool,
}

/// What a quick run takes at most. Experiments that no row needs are left out, and named, when it runs out.
const QUICK: Duration = Duration::from_secs(4 * 60);
const BUILD: Duration = Duration::from_secs(30 * 60);

pub(crate) fn bench(options: &Options) -> Result<()> {
    if options.instructions {
        return instructions::check(options.write);
    }
    if options.rpc {
        return rpc::bench(options);
    }
    let millis = options.millis.unwrap_or(if options.quick { 500 } else { 2000 });
    let repetitions = options.repetitions.unwrap_or(if options.quick { 3 } else { 7 });
    let mut experiments = if options.dpdk {
        dpdk::experiments(millis)
    } else if options.sidecar {
        sidecar::experiments(millis)
    } else {
        matrix::experiments(options.quick, millis)
    };
    experiments.retain(|experiment| options.only.as_ref().is_none_or(|only| experiment.name.contains(only)));
    if options.list {
        experiments.iter().for_each(matrix::Experiment::list);
        return Ok(());
    }
    if experiments.is_empty() {
        bail!("no experiment's name contains {:?}; --list shows them", options.only.as_deref().unwrap_or_default());
    }
    let folder = folder(options)?;
    let build = || match &options.program {
        _ if options.sidecar && !options.inside => sidecar::build(options.program.is_none()),
        None => {
            let mut build = cargo("build");
            build.args(["--profile", "dist", "--locked", "--package", "machnet-cli"]);
            if options.dpdk {
                build.args(["--features", "dpdk"]);
            }
            run(&mut build, BUILD)
        }
        Some(program) if program.is_file() => Ok(()),
        Some(program) => bail!("--program {}: there is no such file", program.display()),
    };
    let mut needs = vec![tools::IP, tools::NAMESPACES];
    if options.dpdk {
        needs.extend([tools::PKG_CONFIG, tools::LIBDPDK, tools::LIBCLANG]);
    }
    let Some(hosts) = hosts(options, &folder, &needs, build)? else { return Ok(()) };

    let program = options.program.clone().unwrap_or_else(|| target().join("dist/machnet"));
    let neighbour = target().join("dist/examples/neighbour");
    let bench = Bench {
        program: fs::canonicalize(program)?,
        neighbour,
        log: target().join("xtask/bench"),
        wires: Wires { hosts },
    };
    let mut results = Results::new(commit()?, repetitions, millis);
    let began = Instant::now();
    for experiment in &experiments {
        if options.quick && !experiment.required && began.elapsed() > QUICK {
            println!("left out, for the time is up: {}", experiment.name);
            results.left_out(&experiment.name);
            continue;
        }
        println!("{}", experiment.name);
        // A B C A B C …: whatever else the machine does meets all alike.
        for _ in 0..repetitions.min(experiment.repetitions) {
            for contender in &experiment.contenders {
                let outcome = bench.measure(experiment, contender);
                results.add(experiment, contender, outcome)?;
            }
        }
        results.print(experiment);
    }

    if options.dpdk {
        return conclude(&results, &folder, "dpdk", &dpdk::rows(&results));
    }
    if options.sidecar {
        let idle = if options.only.is_none() { Some(sidecar::idle(&bench.program, &bench.log)?) } else { None };
        return conclude(&results, &folder, "sidecar", &sidecar::rows(&results, idle));
    }
    // Whoever measures with a program of his own may have no compiler, and no valgrind: the other rows stand without it.
    let instructions = instructions::of_request().map_err(|error| println!("instructions: not counted: {error:#}"));
    let rows = rows::rows(&results, instructions.ok().flatten());
    for plot in plots::draw(&results, &folder)? {
        println!("plot: {}", plot.display());
    }
    conclude(&results, &folder, "bench", &rows)
}

/// Shows and writes what came of it all.
fn conclude(results: &Results, folder: &Path, name: &str, rows: &[rows::Row]) -> Result<()> {
    println!("\n{}", rows::table(rows));
    println!("results: {}", results.write(folder, name, rows)?.display());
    println!("{}", results.noise());
    Ok(())
}

/// Where results go; they can be written there.
fn folder(options: &Options) -> Result<PathBuf> {
    let folder = options.out.clone().unwrap_or_else(|| root().join("bench-results"));
    writable(&folder)?;
    Ok(folder)
}

/// Sees to the tools, builds, and makes the two hosts; `None` if all of it was done in a user namespace of its own.
fn hosts(
    options: &Options,
    folder: &Path,
    tools: &[Tool],
    build: impl FnOnce() -> Result<()>,
) -> Result<Option<Hosts>> {
    if !options.inside {
        tools::provide(tools.iter(), false)?;
        build()?;
    }
    if !tools::is_root() {
        inside(folder)?;
        return Ok(None);
    }
    if options.inside {
        netns::ip(&["link", "set", "lo", "up"])?;
    }
    Hosts::new().map(Some)
}

/// Makes the folder, and sees whether files can be made in it: before an hour is spent.
fn writable(folder: &Path) -> Result<()> {
    let probe = folder.join(".writable");
    let tried = fs::create_dir_all(folder).and_then(|()| fs::write(&probe, "")).and_then(|()| fs::remove_file(&probe));
    tried
        .with_context(|| format!("results cannot be written to {}; choose another folder with --out", folder.display()))
}

/// Runs this again as root of a user namespace, where anybody may make network namespaces.
fn inside(folder: &Path) -> Result<()> {
    // `ip netns` keeps its names under /run, which is not ours: a /run of our own, seen by this process tree alone.
    let script = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", script]).arg(xtask);
    command.args(std::env::args_os().skip(1)).arg("--inside").arg("--out").arg(folder);
    run(&mut command, Duration::from_secs(4 * 60 * 60))
}

/// What is measured: the commit, and whether there is more than is committed.
fn commit() -> Result<String> {
    let log = target().join("xtask/commit.log");
    let mut git = Command::new("git");
    git.current_dir(root()).args(["describe", "--always", "--dirty", "--abbrev=12"]);
    let said = capture(&mut git, Duration::from_secs(20), &log)?;
    Ok(if said.status.success() { said.text.trim().to_owned() } else { "unknown".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let error = format!("{:#}", writable(Path::new("/dev/null/results")).unwrap_err());
        assert!(error.contains("/dev/null/results") && error.contains("--out"), "{error}");
    }

    #[test]
    fn each_row_finds_its_experiment_and_its_contenders() {
        let experiments = matrix::experiments(true, 100);
        let mut results = Results::new(String::new(), 1, 100);
        // Rows that say so if a quick run had no time for them.
        let rowed = [matrix::SPARSE, matrix::ENGINES, matrix::ENGINES_BULK];
        for experiment in
            experiments.iter().filter(|experiment| experiment.required || rowed.contains(&experiment.name.as_str()))
        {
            for contender in &experiment.contenders {
                let mut report = serde_json::json!({});
                for field in ["p50_us", "p99_us", "p999_us", "rate_per_s", "gbit_per_s"] {
                    report[field] = 1.0.into();
                }
                for side in ["client", "server"] {
                    report[side] = serde_json::json!({ "memory_per_flow_bytes": 1.0 });
                }
                results.add(experiment, contender, Ok(report)).unwrap();
            }
        }
        let table = rows::table(&rows::rows(&results, Some(1.0)));
        assert!(!table.contains("not measured"), "{table}");
        for row in "abcdefghij".chars() {
            assert!(table.lines().any(|line| line.starts_with(row)), "row {row}: {table}");
        }
    }
}
