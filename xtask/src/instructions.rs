//! Instructions of the engine's work, counted by callgrind: the same on a busy machine, so they can be compared with a
//! committed baseline.
//!
//! `benches/engine` says what is counted. Counts depend on the compiler and a little on the C library's `memcpy`, so there
//! is a tolerance, and the baseline names the compiler. After a change that is worth what it costs, or saves:
//! `cargo xtask bench --instructions --write`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run::{capture, run};
use crate::test::cargo;
use crate::{root, target, tools};

const LIMIT: Duration = Duration::from_secs(20 * 60);
/// A count this much larger than the baseline fails.
const TOLERANCE: f64 = 0.05;
/// Cases of an engine that is one of several: these may differ by so much from the least of them.
const SEVERAL: &str = "request_1024_of_";
const FLAT: f64 = 0.10;
/// Differences of so few instructions are nobody's fault.
const SLACK: f64 = 3.0;
/// Counted steps: enough that what happens once in a while (growth, timers, keepalives) is spread.
const STEPS: u64 = 500;
/// Of steps that take long under callgrind.
const FEW_STEPS: u64 = 20;

const REQUEST: &str = "request_1024";

/// What is committed.
#[derive(Serialize, Deserialize)]
struct Baseline {
    /// The architecture it holds for.
    arch: String,
    /// Who compiled it.
    rustc: String,
    /// Instructions per operation.
    cases: BTreeMap<String, f64>,
}

fn file() -> PathBuf {
    root().join("benches/instructions.json")
}

/// Counts, prints, and compares with the baseline, or writes it.
pub(crate) fn check(write: bool) -> Result<()> {
    tools::provide([tools::VALGRIND].iter(), false)?;
    let counted = count_cases(|_| true)?;
    if write {
        let baseline = Baseline { arch: std::env::consts::ARCH.to_owned(), rustc: rustc()?, cases: counted };
        let mut text = serde_json::to_string_pretty(&baseline)?;
        text.push('\n');
        fs::write(file(), text).with_context(|| format!("cannot write {}", file().display()))?;
        println!("written: {}", file().display());
        return Ok(());
    }
    let baseline = fs::read_to_string(file()).with_context(|| format!("cannot read {}", file().display()))?;
    let baseline: Baseline = serde_json::from_str(&baseline).context("benches/instructions.json")?;
    if baseline.arch != std::env::consts::ARCH {
        println!("the baseline is for {}: nothing to compare with on {}", baseline.arch, std::env::consts::ARCH);
        return Ok(());
    }
    let verdict = Verdict::of(&baseline.cases, &counted);
    println!("{}", verdict.table);
    if verdict.failed.is_empty() {
        return Ok(());
    }
    bail!(
        "{}: the baseline is benches/instructions.json, of {}; if it is worth it: cargo xtask bench --instructions --write",
        verdict.failed.join("; "),
        baseline.rustc
    )
}

/// Of the engine at one end, for a request of 1 KiB and its reply: row (e) of the targets.
pub(crate) fn of_request() -> Result<Option<f64>> {
    Ok(count_cases(|name| name == REQUEST)?.remove(REQUEST))
}

struct Verdict {
    table: String,
    failed: Vec<String>,
}

impl Verdict {
    fn of(baseline: &BTreeMap<String, f64>, counted: &BTreeMap<String, f64>) -> Self {
        let mut table = format!("{:<34}{:>12}{:>12}{:>9}\n", "instructions", "baseline", "now", "change");
        let mut failed = Vec::new();
        for (name, &now) in counted {
            let Some(&was) = baseline.get(name) else {
                table += &format!("{name:<34}{:>12}{now:>12.0}\n", "none");
                failed.push(format!("{name} has no baseline"));
                continue;
            };
            let change = now / was - 1.0;
            let verdict = match () {
                () if (now - was).abs() <= SLACK => "",
                () if change > TOLERANCE => "  WORSE",
                () if change < -TOLERANCE => "  better: --write keeps it",
                () => "",
            };
            table += &format!("{name:<34}{was:>12.0}{now:>12.0}{:>8.1}%{verdict}\n", change * 100.0);
            if verdict == "  WORSE" {
                failed.push(format!("{name} takes {now:.0} instructions, not {was:.0} ({:+.1} %)", change * 100.0));
            }
        }
        let several = || counted.iter().filter(|(name, _)| name.starts_with(SEVERAL));
        let least = several().map(|(_, &count)| count).fold(f64::INFINITY, f64::min);
        for (name, count) in several().filter(|&(_, &count)| count > least * (1.0 + FLAT)) {
            failed.push(format!("{name} takes {count:.0} instructions, with fewer or more engines it is {least:.0}"));
        }
        for name in baseline.keys().filter(|name| !counted.contains_key(*name)) {
            failed.push(format!("{name} is in the baseline and was not counted"));
        }
        Self { table, failed }
    }
}

/// Instructions per operation of the cases that are `wanted`.
fn count_cases(wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, f64>> {
    let program = build()?;
    let log = target().join("xtask/instructions/list.log");
    let listed = capture(Command::new(&program).arg("--count-list").stderr(Stdio::null()), LIMIT, &log)?;
    let mut counted = BTreeMap::new();
    for line in listed.text.lines() {
        let (name, operations) = line.split_once(' ').with_context(|| format!("listed {line:?}"))?;
        if !wanted(name) {
            continue;
        }
        let operations: f64 = operations.parse().with_context(|| format!("listed {line:?}"))?;
        let steps = if name.contains("mib") || name.contains("10000") { FEW_STEPS } else { STEPS };
        counted.insert(name.to_owned(), count(&program, name, steps)? / operations);
    }
    if counted.is_empty() {
        bail!("{} lists no case", program.display());
    }
    Ok(counted)
}

/// Instructions of a step, inside of the functions named `counted_*`.
fn count(program: &Path, case: &str, steps: u64) -> Result<f64> {
    let folder = target().join("xtask/instructions");
    let profile = folder.join(format!("{case}.callgrind"));
    let mut callgrind = tools::command("valgrind");
    callgrind.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted_*"]);
    callgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    callgrind.arg(program).args(["--count", case, &steps.to_string()]);
    let said = capture(&mut callgrind, LIMIT, &folder.join(format!("{case}.log")))?;
    if !said.status.success() {
        bail!("counting {case}: {}\n{}", said.status, said.text);
    }
    let text = fs::read_to_string(&profile).with_context(|| format!("cannot read {}", profile.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
    match total {
        Some(total) if total > 0 => Ok(total as f64 / steps as f64),
        _ => bail!("counting {case}: nothing was counted; {}", profile.display()),
    }
}

/// Builds the program; returns where it is.
fn build() -> Result<PathBuf> {
    let log = target().join("xtask/instructions/build.log");
    let arguments = ["--locked", "--package", "machnet", "--bench", "engine", "--no-run"];
    run(cargo("bench").args(arguments), LIMIT)?;
    let built = capture(cargo("bench").args(arguments).args(["--quiet", "--message-format", "json"]), LIMIT, &log)?;
    let mut executables = built.text.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "engine").then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().context("cargo says nothing of the bench `engine`")
}

fn rustc() -> Result<String> {
    let log = target().join("xtask/instructions/rustc.log");
    Ok(capture(Command::new("rustc").arg("--version"), LIMIT, &log)?.text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_cost_more_because_there_are_others_are_named() {
        let cases = |of: &[(&str, f64)]| of.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        let flat = cases(&[("request_1024_of_1_engine", 1000.0), ("request_1024_of_8_engines", 1090.0)]);
        assert!(Verdict::of(&flat, &flat).failed.is_empty());
        let steep = cases(&[("request_1024_of_1_engine", 1000.0), ("request_1024_of_8_engines", 1110.0)]);
        let verdict = Verdict::of(&steep, &steep);
        assert_eq!(verdict.failed.len(), 1, "{:?}", verdict.failed);
        assert!(verdict.failed[0].contains("request_1024_of_8_engines takes 1110"), "{:?}", verdict.failed);
    }

    #[test]
    fn what_got_worse_is_named() {
        let cases = |of: &[(&str, f64)]| of.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        let baseline = cases(&[("same", 1000.0), ("worse", 1000.0), ("better", 1000.0), ("tiny", 10.0), ("gone", 1.0)]);
        let now = cases(&[("same", 1040.0), ("worse", 1060.0), ("better", 900.0), ("tiny", 12.0), ("new", 5.0)]);
        let verdict = Verdict::of(&baseline, &now);
        assert_eq!(verdict.failed.len(), 3, "{:?}", verdict.failed);
        for (at, what) in ["new has no baseline", "worse takes 1060 instructions, not 1000", "gone is in the baseline"]
            .iter()
            .enumerate()
        {
            assert!(verdict.failed[at].contains(what), "{:?}", verdict.failed);
        }
        assert!(verdict.table.contains("better: --write"), "{}", verdict.table);
    }
}
