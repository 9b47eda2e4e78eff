//! `cargo xtask bench --sidecar`: what it costs that the engine is a daemon's.
//!
//! On the veth each host has a daemon, on the core that its application is on; beside it the same applications with
//! engines of their own, and TCP. On one host there is one daemon, on the server's core. CPU time counts the daemons'
//! whole lives. The passage between application and engine alone, on cores of their own: `cargo bench -p machnet-daemon`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::cell::PATIENCE;
use super::contenders::{Contender, INLINE, SHM, TCP, THREAD, UDS, on_two_cores};
use super::matrix::{Experiment, FLOOD, LATENCY, RATE, Wire};
use super::results::Results;
use super::rows::{Row, Want, against, not_measured};
use crate::daemon::Daemon;
use crate::run::{Running, wait_until};

/// The scheme of applications of a daemon.
pub(super) const SCHEME: &str = "unix";

/// Daemon and application wait as they do by default. (Who spins on the core that its daemon needs waits for itself.)
const SIDECAR: Contender = on_two_cores("machnet sidecar", SCHEME, &[]);

const ROUND_TRIP: &str = "round trip 1KiB, veth";
const OUTSTANDING: &str = "32 outstanding 1KiB, veth";
const BULK: &str = "bulk one way 64KiB, veth";
const LOCAL: &str = "round trip 1KiB, one host";
const LOCAL_OUTSTANDING: &str = "32 outstanding 1KiB, one host";

/// Applications that a daemon at rest has, for how long it is watched, and what part of a core it may use.
const ATTACHED: usize = 32;
const WATCHED: Duration = Duration::from_secs(5);
const IDLE: f64 = 0.01;

/// What is measured, for so long each.
pub(crate) fn experiments(millis: u64) -> Vec<Experiment> {
    let far = [SIDECAR, INLINE, THREAD, TCP];
    let near = [SIDECAR, SHM, TCP, UDS];
    [
        (ROUND_TRIP, Wire::Veth, far, "--mode rr --size 1KiB", LATENCY),
        (OUTSTANDING, Wire::Veth, far, "--mode rr --outstanding 32 --size 1KiB", RATE),
        (BULK, Wire::Veth, far, "--mode stream --size 64KiB", FLOOD),
        (LOCAL, Wire::Local, near, "--mode rr --size 1KiB", LATENCY),
        (LOCAL_OUTSTANDING, Wire::Local, near, "--mode rr --outstanding 32 --size 1KiB", RATE),
    ]
    .map(|(name, wire, contenders, options, shows)| Experiment {
        name: name.to_owned(),
        wire,
        contenders: contenders.to_vec(),
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
                let report = serde_json::json!({ "p50_us": 2.0, "p99_us": 3.0, "rate_per_s": 2e6, "gbit_per_s": 1.0 });
                results.add(&experiment, contender, Ok(report)).unwrap();
            }
        }
        let rows = rows(&results, Some(0.005));
        assert_eq!(rows.len(), 10);
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
