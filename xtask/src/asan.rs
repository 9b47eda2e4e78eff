//! `cargo xtask asan`: what reads memory that strangers write, under AddressSanitizer: the shared channel's own tests, and
//! the daemon's with hostile applications.

use std::time::Duration;

use anyhow::Result;

use crate::run::run;
use crate::test::{cargo, list_tests};
use crate::{target, tools};

/// Only for this target is there a sanitizer's runtime, and without naming it build scripts would be sanitized as well.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Tests: their package, which of its programs, and a part of their names.
const SUITES: [[&str; 4]; 2] =
    [["machnet-channel", "--lib", "", "shared::"], ["machnet-daemon", "--test", "daemon", "hostile::"]];

/// Building everything once more, and running it several times slower.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs them all, until the first failure.
pub(crate) fn asan() -> Result<()> {
    tools::provide([tools::NIGHTLY].iter(), false)?;
    for [package, kind, name, part] in SUITES {
        let command = || {
            let mut command = cargo("test");
            // In a target directory of its own: a sanitizer would rebuild everything else.
            command.env("RUSTUP_TOOLCHAIN", "nightly").env("RUSTFLAGS", "-Zsanitizer=address");
            command.args(["--locked", "--target", TARGET, "--target-dir"]).arg(target().join("asan"));
            command.args(["--package", package, kind]).args(Some(name).filter(|name| !name.is_empty())).arg(part);
            command
        };
        let tests = list_tests(&mut command(), "asan")?;
        run(&mut command(), LIMIT)?;
        println!("{package}: {} tests without a finding", tests.len());
    }
    Ok(())
}
