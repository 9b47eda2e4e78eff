//! Running commands: bounded in time, ended by Ctrl-C, with no process left behind.
//!
//! Each command gets a process group of its own, so that ending it ends what it started and nothing else. A signal
//! only sets a flag: whoever waits for a command sees it and returns an error, and what was set up is taken down by
//! `Drop` on the way out.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes SIGINT, SIGTERM and SIGHUP end the task in order.
pub(crate) fn catch_signals() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot catch signals")
}

/// True once a signal asked the task to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A command that runs. Dropped, it is ended together with everything in its process group.
pub(crate) struct Running {
    child: Child,
    what: String,
    ended: bool,
}

impl Running {
    /// Starts `command`, without standard input.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let what = describe(command);
        let child =
            command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("cannot start `{what}`"))?;
        Ok(Self { child, what, ended: false })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().with_context(|| format!("cannot wait for `{}`", self.what))?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Waits for the end, for `limit` at most.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(limit, || {
            status = self.ended()?;
            Ok(status.is_some())
        })?;
        match status {
            Some(status) => Ok(status),
            None => bail!("`{}` did not end within {} s", self.what, limit.as_secs()),
        }
    }

    /// Asks it to end, and waits for that as [`Running::wait`].
    pub(crate) fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // An error means that the group is gone: what we want.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Looks at `done` until it is true or `limit` has passed; returns which. An error if a signal asked to end.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        if done()? {
            return Ok(true);
        }
        if interrupted() {
            bail!("interrupted");
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `command`, its output going where ours goes; an error unless it succeeds within `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let what = describe(command);
    println!("$ {what}");
    let status = Running::start(command)?.wait(limit)?;
    if !status.success() {
        bail!("`{what}` failed: {status}");
    }
    Ok(())
}

/// How a command went, and what it printed to standard output and error.
pub(crate) struct Captured {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it printed.
    pub(crate) text: String,
}

/// Runs `command`, its output going to the file `log`.
pub(crate) fn capture(command: &mut Command, limit: Duration, log: &Path) -> Result<Captured> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    let status = Running::start(command)?.wait(limit)?;
    let text = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(Captured { status, text: String::from_utf8_lossy(&text).into_owned() })
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(&value?.to_string_lossy()))));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| quoted(&word.to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}
