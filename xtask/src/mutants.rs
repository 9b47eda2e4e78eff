//! Checks the checkers: each bug listed in `crates/machnet-channel/mutants.txt` must make its loom test fail.
//!
//! A line is `name test`; the bug is in the code at `mutant!("name")`, which a loom build switches on by the environment
//! variable `MACHNET_MUTANT`: nothing is built anew. A name that is in no code changes nothing, so its test passes, and
//! that is an error here.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::capture;
use crate::test::list_tests;
use crate::{loom, root, target};

const LIST: &str = "crates/machnet-channel/mutants.txt";

const LIMIT: Duration = Duration::from_secs(10 * 60);

struct Mutant {
    name: String,
    test: String,
}

/// Runs each mutant's test; an error for the first that survives.
pub(crate) fn check() -> Result<()> {
    let text = fs::read_to_string(root().join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let mutants = parse(&text)?;
    let tests = list_tests(&mut loom::tests(), "mutants")?;
    for mutant in &mutants {
        if !tests.iter().any(|test| is_named(test, &mutant.test)) {
            bail!("{LIST}: mutant {} names the test {}, which does not exist", mutant.name, mutant.test);
        }
    }
    for mutant in &mutants {
        let test = tests.iter().find(|test| is_named(test, &mutant.test)).unwrap_or(&mutant.test);
        kill(&mutant.name, test)?;
        println!("mutant {:<24} noticed by {test}", mutant.name);
    }
    println!("mutants: {} passed, 0 failed", mutants.len());
    Ok(())
}

/// True if `path` (`module::test`) is the test called `name`, with or without its module.
fn is_named(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|module| module.ends_with("::"))
}

fn parse(text: &str) -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let words: Vec<_> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        match words[..] {
            [] => {}
            [name, test] if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                mutants.push(Mutant { name: name.to_owned(), test: test.to_owned() });
            }
            _ => bail!("{LIST}:{}: expected `name test`, found `{line}`", i + 1),
        }
    }
    if mutants.is_empty() {
        bail!("{LIST} lists no mutant");
    }
    Ok(mutants)
}

fn kill(name: &str, test: &str) -> Result<()> {
    let log = target().join(format!("xtask/mutants/{name}.log"));
    let ran = capture(loom::test(test).env("MACHNET_MUTANT", name), LIMIT, &log)?;
    if ran.status.success() {
        bail!("mutant {name} survives {test}; see {}", log.display());
    }
    if !ran.text.contains(&format!("test {test} ...")) {
        bail!("mutant {name} failed before it ran {test}; see {}", log.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_are_skipped() {
        let mutants = parse("# all\n\narm_fence  bell_is_heard # why\nring_fence loom::bell_is_heard\n").unwrap();
        let pairs: Vec<_> = mutants.iter().map(|m| (m.name.as_str(), m.test.as_str())).collect();
        assert_eq!(pairs, [("arm_fence", "bell_is_heard"), ("ring_fence", "loom::bell_is_heard")]);
    }

    #[test]
    fn nonsense_is_named_with_its_line() {
        for text in ["", "# nothing", "a b\nc", "a b c", "a-b c"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("a b\nc").err().unwrap().to_string().contains("mutants.txt:2"));
    }

    #[test]
    fn a_test_is_found_with_or_without_its_module() {
        assert!(is_named("loom::bell", "bell") && is_named("bell", "bell") && is_named("a::loom::bell", "loom::bell"));
        assert!(!is_named("loom::doorbell", "bell"));
    }
}
