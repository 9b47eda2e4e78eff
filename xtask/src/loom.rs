//! The models of the lock-free parts, each in a process of its own, as many at once as there are cores.
//!
//! Loom makes and unmakes a stack for each thread of each execution. Models that share a process share its memory map, and
//! two of them in two threads take longer than one after the other.

use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::run::capture;
use crate::target;
use crate::test::{cargo, list_tests};

/// The loom build of the channel crate.
const FLAGS: &str = "--cfg machnet_loom";

const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The channel crate's tests under loom. A target directory of its own: other flags would rebuild the usual one.
pub(crate) fn tests() -> Command {
    let mut command = cargo("test");
    command.env("RUSTFLAGS", FLAGS).args(["--package", "machnet-channel", "--release", "--locked", "--tests"]);
    command.arg("--target-dir").arg(target().join("loom"));
    command
}

/// One of them. One thread: its name is printed before it runs, even if it then aborts the process.
pub(crate) fn test(name: &str) -> Command {
    let mut command = tests();
    command.args(["--", "--exact", name, "--test-threads", "1"]);
    command
}

/// Runs each; an error that names one that failed, once those that ran beside it have ended.
pub(crate) fn check() -> Result<()> {
    let names = list_tests(&mut tests(), "loom")?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    println!("{} models, {workers} at a time", names.len());
    let queue = Mutex::new(names.into_iter());
    let work = || -> Result<()> {
        while let Some(name) = take(&queue) {
            if let Err(error) = run_one(&name) {
                // The others end after what they are at.
                while take(&queue).is_some() {}
                return Err(error);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
            .fold(Ok(()), Result::and)
    })
}

fn take(queue: &Mutex<impl Iterator<Item = String>>) -> Option<String> {
    queue.lock().ok()?.next()
}

fn run_one(name: &str) -> Result<()> {
    let began = Instant::now();
    let log = target().join(format!("xtask/loom/{}.log", name.replace("::", ".")));
    let ran = capture(&mut test(name), LIMIT, &log)?;
    if !ran.status.success() || !ran.text.contains(&format!("test {name} ... ok")) {
        println!("{}", ran.text);
        bail!("{name} failed: {}; its output is above, and in {}", ran.status, log.display());
    }
    println!("test {name} ... ok, {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}
