//! Daemons whose applications a task runs: `machnet daemon`, each with a configuration and a socket of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::run::{Running, describe, wait_until};

/// For a daemon to serve, and to end: on a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon, of one host. Dropped, it ends.
pub(crate) struct Daemon {
    process: Running,
    pub(crate) socket: PathBuf,
    said: PathBuf,
}

impl Daemon {
    /// Starts `command`, `machnet` on the host it is for, as the daemon `name` of the vNIC `url`, its engine on `core` if that
    /// is given; returns when it serves. What it says goes to the folder `log`.
    pub(crate) fn start(command: Command, log: &Path, name: &str, url: &str, core: Option<usize>) -> Result<Self> {
        let core = core.map_or_else(String::new, |core| format!("core = {core}\n"));
        Self::with(command, log, name, url, &core, 32)
    }

    /// The same for the end-to-end tests, of which some want many flows, with these lines about its engines.
    pub(crate) fn roomy(command: Command, log: &Path, name: &str, url: &str, engine: &str) -> Result<Self> {
        Self::with(command, log, name, url, engine, 1024)
    }

    fn with(mut command: Command, log: &Path, name: &str, url: &str, engine: &str, flows: u32) -> Result<Self> {
        fs::create_dir_all(log).with_context(|| format!("cannot create {}", log.display()))?;
        let socket = std::env::temp_dir().join(format!("machnet-xtask-{}-{name}.sock", std::process::id()));
        let text = format!(
            "[driver]\nurl = {url:?}\n[socket]\npath = {:?}\n[engine]\n{engine}[limits]\nmemory = \"256GiB\"\ndrain = \"8s\"\n\
             [[allow]]\nname = \"xtask\"\napplications = 64\nports = [\"any\"]\nmemory = \"{}MiB\"\nflows = {flows}\n",
            socket.display().to_string(),
            2 * flows
        );
        let config = log.join(format!("{name}.toml"));
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let said = log.join(format!("{name}.log"));
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&said)
            .with_context(|| format!("cannot create {}", said.display()))?;
        command.arg("daemon").arg("--config").arg(&config).stdout(file.try_clone()?).stderr(file);
        let what = describe(&command);
        let mut process = Running::start(&mut command)?;
        let mut serves = false;
        wait_until(PATIENCE, || {
            serves = listens(&socket);
            Ok(serves || process.ended()?.is_some())
        })?;
        let daemon = Self { process, socket, said };
        if !serves {
            bail!("`{what}` does not serve: {}", daemon.said());
        }
        Ok(daemon)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its socket, as applications name it.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Asks it to end, which it has to do in order.
    pub(crate) fn end(mut self) -> Result<()> {
        let status = self.process.end(PATIENCE)?;
        if !status.success() {
            bail!("the daemon at {} did not end in order: {status}: {}", self.socket.display(), self.said());
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default().trim().to_owned()
    }

    /// CPU time since its start.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // After the name, which may hold anything: state is the third field, utime and stime are the 14th and 15th, in ticks
        // of 10 ms on every Linux there is.
        let fields =
            text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>));
        let ticks: u64 =
            fields.context("no fields")?.sum::<Result<_, _>>().with_context(|| format!("{path}: {text}"))?;
        Ok(Duration::from_millis(10 * ticks))
    }
}

/// True if somebody listens at the socket: its file is there a little sooner.
fn listens(path: &Path) -> bool {
    let connected = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)
    };
    connected().is_ok()
}

/// The file that says whose the socket is outlives its daemon; nobody will have that name again.
impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket.with_extension("sock.lock"));
    }
}
