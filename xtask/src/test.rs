//! `cargo xtask test`: the steps, their order, and what each needs.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::daemon::Daemon;
use crate::run::{capture, describe, run};
use crate::tools::{self, Tool};
use crate::{dissector, dpdk, instructions, loom, mutants, netns, root, rpc, sim, soak, target};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Install nothing: refuse if something is missing, and name it
    #[arg(long)]
    no_install: bool,
    /// Run only this step; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// List the steps and what they need
    #[arg(long)]
    list: bool,
}

/// A step. They run in this order: what is quick, or fails most often, comes first.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Formatting
    Fmt,
    /// Licences, sources and duplicates of dependencies
    Deny,
    /// Lints, warnings denied
    Clippy,
    /// Documentation builds without warnings
    Doc,
    /// Unit, integration and documentation tests
    Test,
    /// Every driver through every check, as a table
    Conformance,
    /// Simulations, optimised: suite, scenarios, 2 000 seeds, matrix
    Sim,
    /// Instructions of the engine's work, against the committed baseline
    Instructions,
    /// Model checking of the lock-free parts
    Loom,
    /// Each listed bug in the lock-free parts is noticed by its loom test
    Mutants,
    /// The examples that check themselves run
    Examples,
    /// Random faults against a model, for a moment
    Soak,
    /// A thousand applications of a daemon, killed at any instruction
    Kills,
    /// Two processes in two network namespaces, over IPv4 and IPv6, with engines of their own and with daemons; the end-to-end tests over
    /// daemons joined by veth and by shared memory
    Netns,
    /// Wireshark's dissector, on the committed sample and on real traffic
    Dissector,
    /// The DPDK driver, between processes and daemons, and with the kernel on the other side
    Dpdk,
    /// Frameworks, servers and load tools that others wrote: tonic, axum, tarpc, TLS, redis, PostgreSQL, h2load
    Rpc,
}

/// Longer than any step takes; a step that hangs fails the run.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// How long the soak of a test run lasts.
const SMOKE: Duration = Duration::from_secs(20);

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }

    fn about(self) -> String {
        self.to_possible_value().and_then(|v| v.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    const fn tools(self) -> &'static [Tool] {
        match self {
            Self::Fmt => &[tools::RUSTFMT],
            Self::Deny => &[tools::CARGO_DENY],
            Self::Clippy => &[tools::CLIPPY],
            Self::Test | Self::Netns => &[tools::IP, tools::NAMESPACES],
            Self::Instructions => &[tools::VALGRIND],
            Self::Dissector => &[tools::IP, tools::TC, tools::NAMESPACES, tools::TSHARK],
            Self::Conformance => &[tools::PKG_CONFIG, tools::LIBDPDK, tools::LIBCLANG, tools::IP, tools::NAMESPACES],
            Self::Dpdk => &[
                tools::PKG_CONFIG,
                tools::LIBDPDK,
                tools::LIBCLANG,
                tools::IP,
                tools::ETHTOOL,
                tools::PING,
                tools::NAMESPACES,
            ],
            Self::Rpc => &[tools::REDIS_SERVER, tools::REDIS_BENCHMARK, tools::H2LOAD, tools::INITDB, tools::SETPRIV],
            Self::Doc | Self::Sim | Self::Loom | Self::Mutants | Self::Examples | Self::Soak | Self::Kills => &[],
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => run(cargo("fmt").args(["--all", "--check"]), LIMIT),
            // Advisories are left out: their database is fetched from a host that CI does not reach.
            Self::Deny => run(
                Command::new(tools::cargo_deny())
                    .current_dir(root())
                    .args(["--locked", "check", "bans", "licenses", "sources"]),
                LIMIT,
            ),
            Self::Clippy => {
                run(cargo("clippy").args(["--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]), LIMIT)
            }
            Self::Doc => run(
                cargo("doc").env("RUSTDOCFLAGS", "-D warnings").args(["--workspace", "--no-deps", "--locked"]),
                LIMIT,
            ),
            // Tests that need a namespace may not do without it here. The steps `conformance`, `sim` and `rpc`
            // run the tests of their packages.
            Self::Test => run(workspace_tests().env("MACHNET_NAMESPACES", "1"), LIMIT),
            Self::Conformance => {
                run(cargo("test").args(["--locked", "-q", "-p", "machnet-conformance", "--features", "dpdk"]), LIMIT)
            }
            Self::Sim => sim::check(),
            Self::Instructions => instructions::check(false),
            Self::Loom => loom::check(),
            Self::Mutants => mutants::check(),
            Self::Examples => {
                let echo = ["--release", "--locked", "--example", "echo", "--", "--quick"];
                run(cargo("run").args(echo), LIMIT)?;
                let shm = format!("shm://examples-{}", std::process::id());
                run(cargo("run").args(echo).arg("--two-process").env("MACHNET_ENDPOINT", shm), LIMIT)?;
                run(cargo("run").args(["--release", "--locked", "--example", "chat", "--", "demo"]), LIMIT)
            }
            Self::Soak => soak::soak_for(SMOKE, Some(1)),
            Self::Kills => {
                let mut kills = workspace_tests();
                kills.args(["--test", "daemon", "kills::killed"]);
                run(kills.env("MACHNET_KILLS", "1000"), LIMIT)
            }
            Self::Netns => {
                build_echo()?;
                // The program `machnet`, as the step `test` has built it: `cargo build` chooses other features, and builds all again.
                run(workspace_tests().args(["--test", "cli", "--no-run"]), LIMIT)?;
                netns::echo(&target().join("release/examples"), &target().join("debug/machnet"))
            }
            Self::Dissector => {
                build_echo()?;
                dissector::check(&target().join("release/examples"))
            }
            Self::Dpdk => dpdk::check(),
            Self::Rpc => rpc::check(),
        }
    }
}

/// The tests of the packages that have no step of their own.
fn workspace_tests() -> Command {
    let mut tests = cargo("test");
    tests.args(["--workspace", "--locked"]);
    for package in ["machnet-sim", "machnet-examples", "machnet-conformance"] {
        tests.args(["--exclude", package]);
    }
    tests
}

/// The files of end-to-end tests, all of whose tests can do with two daemons that somebody else started, but few.
const SUITE: [&str; 6] = ["echo", "endings", "refusals", "runtimes", "stream", "waking"];

/// Runs the end-to-end tests with endpoints attached to two daemons, `joined` somehow.
pub(crate) fn suite(daemons: [&Daemon; 2], joined: &str) -> Result<()> {
    println!("the end-to-end tests over daemons joined by {joined}:");
    let mut tests = workspace_tests();
    for file in SUITE {
        tests.args(["--test", file]);
    }
    tests.args(["--", "--exact", "all_of_it_over_joined_daemons"]);
    let [a, b] = daemons.map(|daemon| daemon.socket.display().to_string());
    run(tests.env("MACHNET_TEST_DAEMONS", format!("{a},{b}")), LIMIT)
}

/// The two programs of the steps between namespaces.
fn build_echo() -> Result<()> {
    let mut build = cargo("build");
    build.args(["--release", "--locked", "--example", "echo_server", "--example", "echo_client"]);
    run(&mut build, LIMIT)
}

/// Runs the chosen steps, all by default, until the first failure.
pub(crate) fn test(options: &Options) -> Result<()> {
    let steps: Vec<Step> = Step::value_variants()
        .iter()
        .copied()
        .filter(|s| options.only.is_empty() || options.only.contains(s))
        .collect();
    if options.list {
        for step in steps {
            let needs: Vec<_> = step.tools().iter().map(|tool| tool.name).collect();
            let needs = if needs.is_empty() { String::new() } else { format!(" (needs {})", needs.join(", ")) };
            println!("{:<13}{}{needs}", step.name(), step.about());
        }
        return Ok(());
    }
    tools::provide(steps.iter().flat_map(|step| step.tools()), options.no_install)?;

    let mut times = Vec::new();
    for (i, &step) in steps.iter().enumerate() {
        println!("\n=== {} ({} of {}): {}", step.name(), i + 1, steps.len(), step.about());
        let start = Instant::now();
        let result = step.run();
        times.push((step, start.elapsed()));
        if let Err(error) = result {
            summary(&times);
            println!("steps: {} passed, 1 failed", times.len() - 1);
            bail!("step {name} failed: {error:#}\n  to repeat it: cargo xtask test --only {name}", name = step.name());
        }
        println!("=== {} passed in {:.1} s", step.name(), start.elapsed().as_secs_f64());
    }
    summary(&times);
    println!("steps: {} passed, 0 failed", times.len());
    Ok(())
}

fn summary(times: &[(Step, Duration)]) {
    println!();
    for (step, time) in times {
        println!("{:<13}{:>7.1} s", step.name(), time.as_secs_f64());
    }
}

/// A cargo command at the workspace's root.
pub(crate) fn cargo(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg(command).current_dir(root());
    // What `cargo run` says of this program is none of its business, but build scripts (ring's) would run again for it,
    // and everything above them would be built again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The names of the tests that `command` (a `cargo test` without `--`) would run; an error if there is none.
pub(crate) fn list_tests(command: &mut Command, step: &str) -> Result<Vec<String>> {
    let log = target().join(format!("xtask/{step}-list.log"));
    let listed = capture(command.args(["--", "--list", "--format", "terse"]), LIMIT, &log)?;
    if !listed.status.success() {
        eprintln!("{}", listed.text);
        bail!("cannot list the tests: {}", listed.status);
    }
    let names: Vec<String> =
        listed.text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    if names.is_empty() {
        bail!("`{}` finds no test", describe(command));
    }
    Ok(names)
}
