//! `cargo xtask bench --rpc`: what services notice when Machnet takes TCP's place.
//!
//! ```text
//! stage.rs     on which wire and which core a process runs
//! service.rs   gRPC calls and bytes in one direction, by the program rpc_bench
//! redis.rs     redis-benchmark against redis-server: directly, through gateways over TCP, through gateways over Machnet
//! ```
//!
//! The client's processes run on core 0, the server's on core 1.

mod redis;
mod service;
mod stage;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use serde_json::Value;

use super::contenders::{Contender, on_two_cores};
use super::matrix::{Experiment, Wire};
use super::results::Results;
use super::rows::{self, Row};
use super::{BUILD, Options, commit, folder, hosts};
use crate::netns::Hosts;
use crate::run::run;
use crate::target;
use crate::test::cargo;
use crate::tools::{IP, NAMESPACES, REDIS_BENCHMARK, REDIS_SERVER, TASKSET};
use stage::Stage;

/// What a quick run takes at most, but for the repetition that is underway.
const QUICK: Duration = Duration::from_secs(100);

const INLINE: Contender = on_two_cores("machnet", "machnet", &["--placement", "inline"]);
const THREAD: Contender = on_two_cores("machnet thread", "machnet", &["--placement", "thread"]);
const CHUNKS: Contender = on_two_cores("machnet chunks", "machnet", &["--placement", "inline", "--chunks"]);
const TCP: Contender = on_two_cores("tcp", "tcp", &[]);

const GATEWAYS: Contender = on_two_cores("machnet gateways", "machnet", &[]);
const ONE_THREAD: Contender = on_two_cores("machnet one thread", "machnet", &["--one-thread"]);
const TCP_GATEWAYS: Contender = on_two_cores("tcp gateways", "tcp", &[]);
const TCP_ONE_THREAD: Contender = on_two_cores("tcp one thread", "tcp", &["--one-thread"]);
const DIRECT: Contender = on_two_cores("tcp direct", "direct", &[]);

type Shows = &'static [(&'static str, &'static str)];
const CALLS: Shows = &[("rate_per_s", "per s"), ("p50_us", "p50 us"), ("p99_us", "p99 us")];
const FLOOD: Shows = &[("gbit_per_s", "Gbit/s")];
const REDIS: Shows = &[
    ("set/rate_per_s", "SET/s"),
    ("set/p50_us", "p50 us"),
    ("set/p99_us", "p99 us"),
    ("get/rate_per_s", "GET/s"),
    ("get/p50_us", "p50 us"),
    ("get/p99_us", "p99 us"),
];

/// What a cell of an experiment does.
#[derive(Clone, Copy)]
enum Work {
    /// gRPC calls, so many at once.
    Unary(u32),
    /// Bytes in one direction.
    Bulk,
    /// GET and SET, so many commands in a pipeline.
    Redis(u32),
}

/// Something to measure.
struct Case {
    work: Work,
    experiment: Experiment,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (wire, at) in [(Wire::Loopback, "loopback"), (Wire::Veth, "veth")] {
        let mut add = |work, name: &str, contenders: &[Contender], shows| {
            let experiment = Experiment {
                name: format!("{name}, {at}"),
                wire,
                contenders: contenders.to_vec(),
                options: Vec::new(),
                required: false,
                repetitions: u32::MAX,
                shows,
            };
            cases.push(Case { work, experiment });
        };
        let services = [INLINE, THREAD, TCP];
        add(Work::Unary(1), "tonic unary 1KiB", &services, CALLS);
        add(Work::Unary(32), "tonic unary 1KiB, 32 at once", &services, CALLS);
        add(Work::Bulk, "stream bulk 64KiB", &[INLINE, THREAD, CHUNKS, TCP], FLOOD);
        let servers = [ONE_THREAD, GATEWAYS, TCP_ONE_THREAD, TCP_GATEWAYS, DIRECT];
        add(Work::Redis(1), "redis 50 clients", &servers, REDIS);
        add(Work::Redis(16), "redis 50 clients, pipeline 16", &servers, REDIS);
    }
    cases
}

pub(super) fn bench(options: &Options) -> Result<()> {
    let millis = options.millis.unwrap_or(if options.quick { 300 } else { 2000 });
    let repetitions = options.repetitions.unwrap_or(if options.quick { 3 } else { 7 });
    let mut cases = cases();
    cases.retain(|case| options.only.as_ref().is_none_or(|only| case.experiment.name.contains(only)));
    if options.list {
        cases.iter().for_each(|case| case.experiment.list());
        return Ok(());
    }
    if cases.is_empty() {
        bail!(
            "no experiment's name contains {:?}; --rpc --list shows them",
            options.only.as_deref().unwrap_or_default()
        );
    }
    let folder = folder(options)?;
    let Some(hosts) = hosts(options, &folder, &[IP, NAMESPACES, TASKSET, REDIS_SERVER, REDIS_BENCHMARK], build)? else {
        return Ok(());
    };

    let mut results = Results::new(commit()?, repetitions, millis);
    let began = Instant::now();
    for Case { work, experiment } in &cases {
        println!("{}", experiment.name);
        // A B C A B C …: whatever else the machine does meets all alike.
        for repetition in 0..repetitions {
            if options.quick && began.elapsed() > QUICK {
                println!("  the time is up: {repetition} of {repetitions} repetitions");
                results.left_out(&format!("{}: from repetition {}", experiment.name, repetition + 1));
                break;
            }
            for contender in &experiment.contenders {
                let outcome = measure(*work, experiment.wire, contender, millis, &hosts);
                results.add(experiment, contender, outcome)?;
            }
        }
        results.print(experiment);
    }
    let rows = rows(&results, &cases);
    println!("\n{}", rows::table(&rows));
    println!("results: {}", results.write(&folder, "rpc", &rows)?.display());
    println!("{}", results.noise());
    Ok(())
}

fn build() -> Result<()> {
    run(cargo("build").args(["--release", "--locked", "--example", "tcp_proxy"]), BUILD)?;
    run(cargo("build").args(["--release", "--locked", "--package", "machnet-examples", "--bin", "rpc_bench"]), BUILD)
}

fn measure(work: Work, wire: Wire, contender: &Contender, millis: u64, hosts: &Hosts) -> Result<Value> {
    let stage = Stage { hosts, wire, log: target().join("xtask/bench-rpc") };
    let mut report = match work {
        Work::Unary(outstanding) => service::unary(&stage, contender, outstanding, millis)?,
        Work::Bulk => service::bulk(&stage, contender, millis)?,
        Work::Redis(pipeline) => redis::measure(&stage, contender, pipeline, millis)?,
    };
    report["at"] = SystemTime::UNIX_EPOCH.elapsed()?.as_secs().into();
    Ok(report)
}

/// Machnet against TCP, of what was asked for; only bulk has a target (issue 6).
fn rows(results: &Results, cases: &[Case]) -> Vec<Row> {
    let row = |case: &Case, field, (ours, theirs): (&Contender, &Contender), want| {
        rows::against(results, "r", (&case.experiment.name, field), (ours, theirs), want)
    };
    let mut rows = Vec::new();
    for case in cases {
        match case.work {
            Work::Unary(_) => {
                for field in ["rate_per_s", "p50_us", "p99_us"] {
                    rows.extend([INLINE, THREAD].map(|ours| row(case, field, (&ours, &TCP), None)));
                }
            }
            Work::Bulk => {
                let want = Some(rows::Want::AtLeast(1.0));
                rows.extend([INLINE, THREAD, CHUNKS].map(|ours| row(case, "gbit_per_s", (&ours, &TCP), want)));
            }
            Work::Redis(_) => {
                for field in ["set/rate_per_s", "get/rate_per_s", "get/p99_us"] {
                    let pairs = [(ONE_THREAD, TCP_ONE_THREAD), (GATEWAYS, TCP_GATEWAYS), (ONE_THREAD, DIRECT)];
                    rows.extend(pairs.map(|(ours, theirs)| row(case, field, (&ours, &theirs), None)));
                }
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_finds_its_numbers() {
        let cases = cases();
        let mut results = Results::new(String::new(), 1, 100);
        for Case { experiment, .. } in &cases {
            for contender in &experiment.contenders {
                let mut report = serde_json::json!({});
                for (field, _) in experiment.shows {
                    match field.split_once('/') {
                        Some((test, field)) => report[test][field] = 1.0.into(),
                        None => report[field] = 1.0.into(),
                    }
                }
                results.add(experiment, contender, Ok(report)).unwrap();
            }
        }
        let table = rows::table(&rows(&results, &cases));
        assert!(!table.contains("not measured") && table.contains("gbit_per_s of machnet, of that of tcp"), "{table}");
        assert_eq!(table.lines().filter(|line| line.ends_with(" met")).count(), 6, "{table}");
    }
}
