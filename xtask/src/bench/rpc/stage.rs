//! On which wire, in which network namespace and on which core a process runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bench::cell::Side;
use crate::bench::matrix::Wire;
use crate::netns::Hosts;
use crate::run::{Running, describe};
use crate::{target, tools};

use super::super::cell::LIMIT;

/// Where a cell is measured.
pub(super) struct Stage<'a> {
    pub(super) hosts: &'a Hosts,
    pub(super) wire: Wire,
    /// Where the output of processes goes.
    pub(super) log: PathBuf,
}

impl Stage<'_> {
    /// The server's address, as the client sees it.
    pub(super) const fn server_ip(&self) -> &'static str {
        match self.wire {
            Wire::Veth => "10.77.0.2",
            _ => "127.0.0.1",
        }
    }

    /// `program`, to be run on `side`.
    pub(super) fn command(&self, side: Side, program: &Path) -> Command {
        let (host, core) = match side {
            Side::Client => (&self.hosts.a, "0"),
            Side::Server => (&self.hosts.b, "1"),
        };
        let taskset = tools::path("taskset");
        let mut command = match self.wire {
            Wire::Veth => host.command(&taskset),
            _ => Command::new(taskset),
        };
        command.args(["-c", core]).arg(program);
        command
    }

    /// Starts a server; its output goes to files called `name`.
    pub(super) fn start(&self, command: &mut Command, name: &str) -> Result<Running> {
        Running::start(command.stdout(self.file(&format!("{name}.log"))?).stderr(self.file(&format!("{name}.err"))?))
    }

    /// Runs a client; what it printed.
    pub(super) fn run(&self, command: &mut Command, name: &str) -> Result<String> {
        let what = describe(command);
        let status = self.start(command, name)?.wait(LIMIT)?;
        ensure!(status.success(), "`{what}`: {status}: {}", self.read(&format!("{name}.err")).trim());
        Ok(self.read(&format!("{name}.log")))
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.log.join(name)).unwrap_or_default()
    }

    fn file(&self, name: &str) -> Result<File> {
        fs::create_dir_all(&self.log).with_context(|| format!("cannot create {}", self.log.display()))?;
        let path = self.log.join(name);
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))
    }
}

/// A program of ours.
pub(super) fn ours(name: &str) -> PathBuf {
    target().join("release").join(name)
}
