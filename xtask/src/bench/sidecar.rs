//! `cargo xtask bench --sidecar`: what it costs that the engine is a daemon's.
//!
//! On the veth each host has a daemon, on the core that its application is on; beside it the same applications with
//! engines of their own, and TCP. On one host there is one daemon, on the server's core. CPU time counts the daemons'
//! whole lives. Beside bad neighbours, other applications of the same daemon, an honest pair is measured as well. Each of these is a
//! process on the client's core, at the lowest priority, and uses all of it that nobody else wants; so does what they are
//! compared with, which does nothing else: a busy loop, or for the one that rings as many system calls. What is left is what they do by way of the daemon. No scheduler gives one of two who want
//! all of a core more than half: beside the one that sends all it can, 32 outstanding show the share, and an open loop at a tenth of
//! that rate whether who wants less than his share gets it. The passage between application and engine alone, on cores of their own: `cargo bench -p machnet-daemon`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cell::PATIENCE;
use super::contenders::{Contender, INLINE, SHM, TCP, THREAD, UDS, on_two_cores};
use super::matrix::{Experiment, FLOOD, LATENCY, RATE, Wire};
use super::results::Results;
use super::rows::{Row, Want, against, not_measured};
use crate::daemon::Daemon;
use crate::run::{Running, run, wait_until};
use crate::test::cargo;

/// The scheme of applications of a daemon.
pub(super) const SCHEME: &str = "unix";

/// Daemon and application wait as they do by default. (Who spins on the core that its daemon needs waits for itself.)
const SIDECAR: Contender = on_two_cores("machnet sidecar", SCHEME, &[]);

/// Beside somebody who only uses the client's core, and beside those who do that to make trouble.
const BUSY: Contender = Contender { beside: Some("busy"), ..on_two_cores("beside busy loop", SCHEME, &[]) };
/// The same with the system calls of the one that rings, to a socket of its own: each is a stretch that the kernel does not interrupt.
const CALLS: Contender = Contender { beside: Some("calls"), ..on_two_cores("beside calls", SCHEME, &[]) };
const TROUBLE: [Contender; 4] = [
    Contender { beside: Some("sends"), ..on_two_cores("beside sender", SCHEME, &[]) },
    Contender { beside: Some("deaf"), ..on_two_cores("beside non-reader", SCHEME, &[]) },
    Contender { beside: Some("rings"), ..on_two_cores("beside ringer", SCHEME, &[]) },
    Contender { beside: Some("corrupts"), ..on_two_cores("beside corrupter", SCHEME, &[]) },
];

const ROUND_TRIP: &str = "round trip 1KiB, veth";
const OUTSTANDING: &str = "32 outstanding 1KiB, veth";
const BULK: &str = "bulk one way 64KiB, veth";
const LOCAL: &str = "round trip 1KiB, one host";
const LOCAL_OUTSTANDING: &str = "32 outstanding 1KiB, one host";
const BESIDE: &str = "neighbours: round trip 1KiB, one host";
const BESIDE_OUTSTANDING: &str = "neighbours: 32 outstanding 1KiB, one host";
const BESIDE_OPEN: &str = "neighbours: open loop 1KiB, 40000 per s, one host";

/// How much worse an honest pair may fare for its neighbours.
const WORSE: f64 = 1.2;

/// Applications that a daemon at rest has, for how long it is watched, and what part of a core it may use.
const ATTACHED: usize = 32;
const WATCHED: Duration = Duration::from_secs(5);
const IDLE: f64 = 0.01;

/// What is measured, for so long each.
pub(crate) fn experiments(millis: u64) -> Vec<Experiment> {
    let far = vec![SIDECAR, INLINE, THREAD, TCP];
    let near = vec![SIDECAR, SHM, TCP, UDS];
    let beside: Vec<_> = [SIDECAR, BUSY, CALLS].into_iter().chain(TROUBLE).collect();
    [
        (ROUND_TRIP, Wire::Veth, far.clone(), "--mode rr --size 1KiB", LATENCY),
        (OUTSTANDING, Wire::Veth, far.clone(), "--mode rr --outstanding 32 --size 1KiB", RATE),
        (BULK, Wire::Veth, far, "--mode stream --size 64KiB", FLOOD),
        (LOCAL, Wire::Local, near.clone(), "--mode rr --size 1KiB", LATENCY),
        (LOCAL_OUTSTANDING, Wire::Local, near, "--mode rr --outstanding 32 --size 1KiB", RATE),
        (BESIDE, Wire::Local, beside.clone(), "--mode rr --size 1KiB", LATENCY),
        (BESIDE_OUTSTANDING, Wire::Local, beside.clone(), "--mode rr --outstanding 32 --size 1KiB", RATE),
        (BESIDE_OPEN, Wire::Local, beside, "--mode rr --rate 40000 --size 1KiB", RATE),
    ]
    .map(|(name, wire, contenders, options, shows)| Experiment {
        name: name.to_owned(),
        wire,
        contenders,
        options: format!("{options} --duration {millis}ms").split_whitespace().map(str::to_owned).collect(),
        required: true,
        repetitions: u32::MAX,
        shows,
    })
    .into()
}

/// The goals of issue 8, of what was measured, and how far they are met. `idle`: of a core, at rest.
pub(crate) fn rows(results: &Results, idle: Option<f64>) -> Vec<Row> {
    use Want::{AtLeast, AtMost};
    let mut rows = vec![
        against(results, "a", (ROUND_TRIP, "p50_us"), (&SIDECAR, &TCP), Some(AtMost(1.0))),
        against(results, "a", (ROUND_TRIP, "p99_us"), (&SIDECAR, &TCP), Some(AtMost(1.0))),
        against(results, "b", (OUTSTANDING, "rate_per_s"), (&SIDECAR, &TCP), None),
        against(results, "b", (BULK, "gbit_per_s"), (&SIDECAR, &TCP), None),
        against(results, "c", (ROUND_TRIP, "p50_us"), (&SIDECAR, &THREAD), None),
        against(results, "c", (ROUND_TRIP, "p50_us"), (&SIDECAR, &INLINE), None),
        against(results, "c", (OUTSTANDING, "rate_per_s"), (&SIDECAR, &INLINE), None),
        against(results, "d", (LOCAL, "p50_us"), (&SIDECAR, &TCP), Some(AtMost(1.0))),
        against(results, "d", (LOCAL_OUTSTANDING, "rate_per_s"), (&SIDECAR, &TCP), Some(AtLeast(1.0))),
    ];
    rows.push(against(results, "f", (BESIDE, "p50_us"), (&BUSY, &SIDECAR), None));
    for bad in &TROUBLE {
        let like = if bad.beside == Some("rings") { &CALLS } else { &BUSY };
        rows.extend(
            ["p50_us", "p99_us"].map(|field| against(results, "f", (BESIDE, field), (bad, like), Some(AtMost(WORSE)))),
        );
        // Half of it is the share of who wants all beside another one who does.
        let share = if bad.beside == Some("sends") { 0.5 } else { 1.0 };
        let at_least = Some(AtLeast(share / WORSE));
        rows.push(against(results, "f", (BESIDE_OUTSTANDING, "rate_per_s"), (bad, like), at_least));
        rows.push(against(results, "f", (BESIDE_OPEN, "rate_per_s"), (bad, like), Some(AtLeast(1.0 / WORSE))));
    }
    rows.retain(Row::is_measured);
    rows.push(Row {
        row: "e",
        what: format!("a daemon at rest with {ATTACHED} applications, part of a core"),
        target: format!("< {IDLE}"),
        result: idle.map_or_else(not_measured, |part| format!("{part:.4}")),
        ratio: idle.map(|part| part / IDLE),
        met: idle.map(|part| part < IDLE),
    });
    rows
}

/// Builds the neighbours, and `machnet` if it is `wanted`.
pub(super) fn build(wanted: bool) -> Result<()> {
    let build = |what: [&str; 4]| run(cargo("build").args(["--profile", "dist", "--locked"]).args(what), super::BUILD);
    build(["--package", "machnet-daemon", "--example", "neighbour"])?;
    if wanted { build(["--package", "machnet-cli", "--bin", "machnet"]) } else { Ok(()) }
}

/// Lets a bad neighbour in; returns when it is at it.
pub(super) fn neighbour(program: &Path, kind: &str, daemon: &Daemon, core: usize, log: &Path) -> Result<Running> {
    let mut command = Command::new(program);
    command.arg(kind).arg(&daemon.socket).arg(core.to_string());
    let said = log.join("neighbour.log");
    let file = fs::File::create(&said).with_context(|| format!("cannot create {}", said.display()))?;
    let mut neighbour = Running::start(command.stdout(file.try_clone()?).stderr(file))?;
    let mut text = String::new();
    wait_until(PATIENCE, || {
        text = fs::read_to_string(&said)?;
        Ok(text.contains("at it") || neighbour.ended()?.is_some())
    })?;
    ensure!(text.contains("at it"), "the neighbour {kind} does not begin: {}", text.trim());
    Ok(neighbour)
}

/// Adds what daemons used to a report.
pub(super) fn count_cpu(report: &mut Value, daemons: &[Daemon]) -> Result<()> {
    let used = daemons.iter().map(Daemon::cpu).sum::<Result<Duration>>()?.as_secs_f64();
    report["daemons_cpu_s"] = used.into();
    let per_operation = report["operations"].as_f64().filter(|count| *count > 0.0).map(|count| used * 1e6 / count);
    if let Some((own, theirs)) = report["cpu_us_per_op"].as_f64().zip(per_operation) {
        report["cpu_us_per_op"] = (own + theirs).into();
    }
    Ok(())
}

/// What part of a core a daemon uses whose applications do nothing.
pub(super) fn idle(program: &Path, log: &Path) -> Result<f64> {
    let daemon = Daemon::start(Command::new(program), log, "idle", "udp://127.0.0.1:0", Some(0))?;
    let mut applications = Vec::new();
    for n in 0..ATTACHED {
        let mut server = Command::new(program);
        let url = format!("{SCHEME}://{}?server=127.0.0.1:{}", daemon.socket.display(), 20_000 + n);
        let said = log.join("idle-server.log");
        let _ = fs::remove_file(&said);
        server.args(["perf", "server", &url]).stdout(fs::File::create(&said)?);
        applications.push(Running::start(&mut server)?);
        if !wait_until(PATIENCE, || Ok(fs::read_to_string(&said)?.contains("listening on")))? {
            bail!("{url} does not listen");
        }
    }
    let before = daemon.cpu()?;
    std::thread::sleep(WATCHED);
    Ok((daemon.cpu()? - before).as_secs_f64() / WATCHED.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::rows::table;
    use super::*;

    #[test]
    fn each_row_finds_its_numbers() {
        let mut results = Results::new(String::new(), 1, 100);
        for experiment in experiments(100) {
            for contender in &experiment.contenders {
                // All alike: every goal is met.
                let report = serde_json::json!({ "p50_us": 2.0, "p99_us": 3.0, "rate_per_s": 2e6, "gbit_per_s": 1.0 });
                results.add(&experiment, contender, Ok(report)).unwrap();
            }
        }
        let rows = rows(&results, Some(0.005));
        assert_eq!(rows.len(), 27);
        let table = table(&rows);
        assert!(!table.contains("NOT MET") && !table.contains("not measured"), "{table}");
    }

    #[test]
    fn what_daemons_use_is_counted() {
        let mut report = serde_json::json!({ "operations": 10, "cpu_us_per_op": 2.0 });
        count_cpu(&mut report, &[]).unwrap();
        assert_eq!((report["cpu_us_per_op"].as_f64(), report["daemons_cpu_s"].as_f64()), (Some(2.0), Some(0.0)));
    }
}
