//! `machnet-sim`: runs scenarios, seeds and the matrix. Called by `cargo xtask sim`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::fs;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use machnet_sim::scenario::{self, Scenario};
use machnet_sim::{CELLS, Outcome, Tally, attempt, difference, keep_panics, matrix, trace};

#[derive(Parser)]
#[command(bin_name = "cargo xtask sim", about = "The transport in virtual time. Without options: every scenario, once")]
struct Cli {
    /// List the scenarios and what they promise
    #[arg(long, conflicts_with_all = ["scenario", "seeds", "seed"])]
    list: bool,
    /// Run this scenario; with --seeds, `mix` if none is named
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// The seed of a single run
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// Run seeds FIRST..FIRST+N
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first of the seeds
    #[arg(long, value_name = "FIRST", default_value_t = 0, requires = "seeds")]
    first: u64,
    /// Write what happens to FILE, and beside it a pcapng for Wireshark
    #[arg(long, value_name = "FILE", requires = "scenario", conflicts_with = "seeds")]
    trace: Option<PathBuf>,
    /// Print the matrix loss × round-trip time × size of what one flow makes of it
    #[arg(long, conflicts_with_all = ["list", "scenario", "seeds"])]
    matrix: bool,
    /// Fail, and show the difference, if the matrix is not the committed one
    #[arg(long, requires = "matrix")]
    check: bool,
    /// Commit the matrix to its file
    #[arg(long, requires = "matrix", conflicts_with = "check")]
    write: bool,
    /// The file of the matrix
    #[arg(long, value_name = "FILE", default_value = "docs/results/matrix.md")]
    table: PathBuf,
    /// Where traces of failed runs go
    #[arg(long, value_name = "DIR", default_value = "target/sim")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    keep_panics();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if cli.list {
        let mut text = String::new();
        for Scenario { name, about, pending, .. } in scenario::all() {
            let pending = pending.map(|why| format!(" [pending: {why}]")).unwrap_or_default();
            text += &format!("{name:<24}{about}{pending}\n");
        }
        return print(&text);
    }
    if cli.matrix {
        return run_matrix(cli);
    }
    let named = cli.scenario.as_deref().map(find).transpose()?;
    match (named, cli.seeds) {
        (named, Some(seeds)) => run_seeds(cli, &named.map_or_else(|| find("mix"), Ok)?, seeds),
        (Some(scenario), None) => run_one(cli, &scenario),
        (None, None) => run_all(cli),
    }
}

fn find(name: &str) -> Result<Scenario> {
    scenario::find(name).with_context(|| format!("no scenario is called {name}; `--list` shows them all"))
}

/// One run, its figures, and the trace if asked for or if it fails.
fn run_one(cli: &Cli, scenario: &Scenario) -> Result<()> {
    let start = Instant::now();
    let outcome = match &cli.trace {
        Some(path) => {
            let (outcome, files) = trace(scenario, cli.seed, path).with_context(|| format!("{}", path.display()))?;
            println!("trace: {} and {}", files.text.display(), files.capture.display());
            outcome
        }
        None => attempt(scenario, cli.seed),
    };
    println!("{}: {}", scenario.name, scenario.about);
    show_figures(&outcome);
    show_tally(&outcome.recorder.tally(), start);
    if outcome.is_as_expected(scenario) {
        println!("as expected: {}", scenario.pending.unwrap_or("passed"));
        return Ok(());
    }
    bail!("{}", explain(cli, scenario, cli.seed, &outcome)?)
}

/// Every scenario with one seed.
fn run_all(cli: &Cli) -> Result<()> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let scenarios: Vec<Scenario> = scenario::all().collect();
    for scenario in &scenarios {
        let begin = Instant::now();
        let outcome = attempt(scenario, cli.seed);
        tally.add(&outcome.recorder.tally());
        let verdict = match (&outcome.result, outcome.is_as_expected(scenario)) {
            (Ok(()), true) => "passed",
            (Err(_), true) => "pending",
            (Ok(()), false) => "PASSED, though pending",
            (Err(_), false) => "FAILED",
        };
        println!("{:<24}{verdict} in {:.1} s", scenario.name, begin.elapsed().as_secs_f64());
        show_figures(&outcome);
        if !outcome.is_as_expected(scenario) {
            failures.push(explain(cli, scenario, cli.seed, &outcome)?);
        }
    }
    show_tally(&tally, start);
    println!("{} scenarios, {} failed", scenarios.len(), failures.len());
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n\n")) }
}

/// Many seeds on every core, until all are done or three have failed.
fn run_seeds(cli: &Cli, scenario: &Scenario, seeds: u64) -> Result<()> {
    const ENOUGH: usize = 3;
    let start = Instant::now();
    let bar = ProgressBar::new(seeds)
        .with_style(ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} seeds, {elapsed} of about {duration}")?);
    bar.set_message(scenario.name);
    let next = AtomicU64::new(cli.first);
    let over = AtomicBool::new(false);
    let found: Mutex<(Tally, Vec<(u64, Outcome)>)> = Mutex::default();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - cli.first >= seeds || over.load(Ordering::Relaxed) {
                        break;
                    }
                    let outcome = attempt(scenario, seed);
                    let mut found = found.lock().expect("nobody panics while holding it");
                    found.0.add(&outcome.recorder.tally());
                    if outcome.result.is_err() {
                        found.1.push((seed, outcome));
                        over.fetch_or(found.1.len() >= ENOUGH, Ordering::Relaxed);
                    }
                    drop(found);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let (tally, mut failures) = found.into_inner().expect("nobody panicked while holding it");
    let done = next.into_inner().saturating_sub(cli.first).min(seeds);
    println!("{}: {done} seeds from {}", scenario.name, cli.first);
    show_tally(&tally, start);
    failures.sort_by_key(|&(seed, _)| seed);
    if failures.is_empty() {
        return Ok(());
    }
    let texts: Result<Vec<String>> =
        failures.iter().map(|(seed, outcome)| explain(cli, scenario, *seed, outcome)).collect();
    bail!("{} seeds fail\n\n{}", failures.len(), texts?.join("\n\n"))
}

/// The matrix: printed, compared or written.
fn run_matrix(cli: &Cli) -> Result<()> {
    let start = Instant::now();
    let bar = ProgressBar::new(CELLS).with_style(style("cells")?);
    bar.set_message("matrix");
    let table = matrix(|| bar.inc(1));
    bar.finish_and_clear();
    let path = cli.table.display();
    if cli.write {
        if let Some(directory) = cli.table.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        fs::write(&cli.table, &table).with_context(|| format!("cannot write {path}"))?;
    } else if cli.check {
        let committed = fs::read_to_string(&cli.table).with_context(|| format!("cannot read {path}"))?;
        let difference = difference(&committed, &table);
        if !difference.is_empty() {
            bail!("the matrix is not that of {path}:\n{difference}if that is meant: cargo xtask sim --matrix --write");
        }
    } else {
        print(&table)?;
    }
    eprintln!("{CELLS} cells in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Prints to whoever still reads.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn style(unit: &str) -> Result<ProgressStyle> {
    let template = format!("{{msg}} [{{bar:40}}] {{pos}}/{{len}} {unit}, {{elapsed}} of about {{duration}}");
    Ok(ProgressStyle::with_template(&template)?)
}

/// Why a run failed, where its trace is, and how to repeat it.
fn explain(cli: &Cli, scenario: &Scenario, seed: u64, outcome: &Outcome) -> Result<String> {
    let name = scenario.name;
    let Err(error) = &outcome.result else {
        return Ok(format!("{name} is pending and passes with seed {seed}: its entry must go"));
    };
    let path = cli.out.join(format!("{name}-{seed}.trace"));
    let (_, files) = trace(scenario, seed, &path).with_context(|| format!("cannot write {}", path.display()))?;
    let brief: String = error.lines().take(12).collect::<Vec<_>>().join("\n");
    Ok(format!(
        "{name} fails with seed {seed}: {brief}\ntrace: {} and {}\nrepeat: cargo xtask sim --scenario {name} --seed {seed}",
        files.text.display(),
        files.capture.display(),
    ))
}

fn show_figures(outcome: &Outcome) {
    for (name, value) in outcome.recorder.figures() {
        println!("    {name}: {value}");
    }
}

fn show_tally(tally: &Tally, start: Instant) {
    let wall = start.elapsed().as_secs_f64();
    let packets = tally.nics.sent;
    println!("packets: {packets} sent, {} received, in {} worlds", tally.nics.received, tally.worlds);
    println!(
        "virtual time: {:.1} s in {} rounds; fingerprint {:016x}",
        tally.time.as_secs_f64(),
        tally.rounds,
        tally.hash
    );
    println!("drops:");
    for (kind, count) in tally.drops() {
        println!("    {kind:<24}{count:>10}");
    }
    println!("wall time: {wall:.1} s, {:.0} packets/s", packets as f64 / wall);
}
