//! `cargo xtask fuzz`: the targets of `fuzz/`, one after the other, under libFuzzer and AddressSanitizer.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::run::run;
use crate::{root, target, tools};

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only this target; may be given several times
    #[arg(long, value_name = "TARGET")]
    target: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Reduce each corpus to what it covers, instead of adding to it
    #[arg(long)]
    minimize: bool,
    /// List the targets
    #[arg(long)]
    list: bool,
}

/// Building, with a sanitizer; and reducing a corpus.
const SLACK: Duration = Duration::from_secs(30 * 60);

/// Runs the chosen targets, all by default, until the first failure.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    let known = targets()?;
    for name in &options.target {
        ensure!(known.contains(name), "no target is called {name}; there are {}", known.join(", "));
    }
    if options.list {
        known.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    tools::provide([tools::NIGHTLY, tools::CARGO_FUZZ].iter(), false)?;
    for name in known.iter().filter(|name| options.target.is_empty() || options.target.contains(name)) {
        if options.minimize {
            run(&mut command("cmin", name), SLACK)?;
            continue;
        }
        let mut fuzz = command("run", name);
        // A run that takes longer is a bug of its own: work that grows faster than its input.
        fuzz.args(["--", "-timeout=10", "-max_len=4096"]).arg(format!("-max_total_time={}", options.seconds));
        if let Err(error) = run(&mut fuzz, Duration::from_secs(options.seconds) + SLACK) {
            bail!(
                "{error:#}\nThe input is in fuzz/artifacts/{name}. With the fix, move it to fuzz/corpus/{name}: `cargo test` runs it"
            );
        }
    }
    Ok(())
}

/// A command of cargo-fuzz. In a target directory of its own: a sanitizer would rebuild everything else.
fn command(what: &str, name: &str) -> Command {
    let mut command = Command::new(tools::cargo_fuzz());
    // Through rustup's proxy the nightly compiler is found, whatever this xtask was built with.
    command.current_dir(root()).env("RUSTUP_TOOLCHAIN", "nightly").args(["fuzz", what, name]);
    command.arg("--target-dir").arg(target().join("fuzz"));
    command
}

/// The names of the targets: those of their files.
fn targets() -> Result<Vec<String>> {
    let dir = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus is replayed by the tests of the crate that has the target's body; each target has one, and none is without.
    #[test]
    fn each_target_has_a_binary_and_a_corpus() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
        let binaries = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
        let mut binaries: Vec<_> = binaries.filter_map(|rest| rest.strip_suffix(".rs\"")).map(str::to_owned).collect();
        binaries.sort_unstable();
        let mut corpora: Vec<_> = fs::read_dir(root().join("fuzz/corpus"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        corpora.sort_unstable();
        let targets = targets().unwrap();
        assert!(targets.len() >= 14);
        assert_eq!(binaries, targets);
        assert_eq!(corpora, targets);
    }
}
