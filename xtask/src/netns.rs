//! Two hosts on one machine: network namespaces joined by a veth pair.
//!
//! ```text
//!   machnet-<pid>-a                     machnet-<pid>-b
//!   eth0 10.77.0.1, fd77::1  ◀──veth──▶  eth0 10.77.0.2, fd77::2
//! ```
//!
//! The names carry the pid of the task that made them: the namespaces go when it ends, and those of a task that was
//! killed go when the next one starts. Without root, all this happens in a user namespace.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::CommandExt;

use crate::daemon::Daemon;
use crate::run::{self, Running};
use crate::test::suite;
use crate::{target, tools};

const PREFIX: &str = "machnet-";

/// Messages from client to server and back, with sizes log-uniform up to the maximum.
pub(crate) struct Exchange {
    pub(crate) client: &'static str,
    pub(crate) server: &'static str,
    pub(crate) messages: u32,
    pub(crate) max_size: u32,
    pub(crate) seed: u64,
}

const EXCHANGES: [Exchange; 2] = [
    Exchange { client: "10.77.0.1", server: "10.77.0.2", messages: 10_000, max_size: 1 << 20, seed: 1 },
    Exchange { client: "fd77::1", server: "fd77::2", messages: 2_000, max_size: 1 << 20, seed: 2 },
];
/// Those between applications of two daemons.
const SHARED: [Exchange; 2] = [
    Exchange { client: "10.77.0.1", server: "10.77.0.2", messages: 2_000, max_size: 1 << 20, seed: 3 },
    Exchange { client: "fd77::1", server: "fd77::2", messages: 500, max_size: 1 << 20, seed: 4 },
];
pub(crate) const PORT: u16 = 9000;

/// For one exchange, on a machine busy with other things.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Runs `echo_server` and `echo_client` from `programs` against each other, each in a namespace of its own: with engines of their
/// own, and attached to daemons there, which `machnet` is the program of.
pub(crate) fn echo(programs: &Path, machnet: &Path) -> Result<()> {
    if !tools::is_root() {
        return in_user_namespace("netns");
    }
    let hosts = Hosts::new()?;
    for exchange in &EXCHANGES {
        exchange.run(&hosts, programs)?;
    }
    let log = target().join("xtask");
    for exchange in &SHARED {
        let start = |host: &Namespace, name, ip: &str| {
            let ip = SocketAddr::new(ip.parse()?, 0);
            Daemon::start(host.command(machnet), &log, name, &format!("udp://{ip}"), None)
        };
        let client = start(&hosts.a, "netns-a", exchange.client)?;
        let server = start(&hosts.b, "netns-b", exchange.server)?;
        exchange.between(&hosts, programs, Some([&client, &server]))?;
        client.end()?;
        server.end()?;
    }
    let joined = [
        ("veth", &hosts.b, "udp://10.77.0.1:0".to_owned(), "udp://10.77.0.2:0".to_owned()),
        // On one host: whoever shares memory meets at a name of its namespace.
        ("shm", &hosts.a, format!("shm://xtask-{}", std::process::id()), format!("shm://xtask-{}", std::process::id())),
    ];
    for (by, there, near, far) in joined {
        let near = Daemon::roomy(hosts.a.command(machnet), &log, &format!("{by}-a"), &near, "")?;
        let far = Daemon::roomy(there.command(machnet), &log, &format!("{by}-b"), &far, "")?;
        suite([&near, &far], by)?;
        far.end()?;
        near.end()?;
    }
    Ok(())
}

/// Runs a step again as root of a user namespace, where anybody may make network namespaces.
pub(crate) fn in_user_namespace(step: &str) -> Result<()> {
    // `ip netns` keeps its names under /run, which is not ours: a /run of our own, seen by this process tree alone.
    let script = "mount -t tmpfs tmpfs /run && exec \"$0\" test --no-install --only \"$1\"";
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", script]).arg(xtask).arg(step);
    run::run(&mut command, 2 * LIMIT)
}

impl Exchange {
    pub(crate) fn run(&self, hosts: &Hosts, programs: &Path) -> Result<()> {
        self.between(hosts, programs, None)
    }

    /// Between client and server with engines of their own, or attached to daemons.
    fn between(&self, hosts: &Hosts, programs: &Path, daemons: Option<[&Daemon; 2]>) -> Result<()> {
        let endpoint = |command: &mut Command, own: &str, daemon: Option<&Daemon>| {
            match daemon {
                Some(daemon) => command.env("MACHNET_ENDPOINT", daemon.url()),
                None => command.args(["--bind", own]),
            };
        };
        let port = PORT.to_string();
        let mut server = hosts.b.command(&programs.join("echo_server"));
        endpoint(&mut server, self.server, daemons.map(|[_, server]| server));
        server.args(["--port", &port, "--once"]);
        println!("$ {} &", run::describe(&server));
        let mut server = Running::start(&mut server)?;
        let open = run::wait_until(Duration::from_secs(10), || {
            if let Some(status) = server.ended()? {
                bail!("echo_server ended before a client came: {status}");
            }
            // Also if it is a daemon's: that is in the same namespace.
            Ok(has_udp_port(server.id(), PORT))
        })?;
        if !open {
            bail!("echo_server did not open UDP port {PORT} within 10 s");
        }

        let to = SocketAddr::new(self.server.parse()?, PORT).to_string();
        let (messages, max_size, seed) = (self.messages.to_string(), self.max_size.to_string(), self.seed.to_string());
        let mut client = hosts.a.command(&programs.join("echo_client"));
        endpoint(&mut client, self.client, daemons.map(|[client, _]| client));
        client.args([&to, "--messages", &messages, "--max-size", &max_size, "--seed", &seed]);
        run::run(&mut client, LIMIT)?;

        let status = server.wait(Duration::from_secs(30)).context("echo_server serves one client, which is done")?;
        if !status.success() {
            bail!("echo_server failed: {status}");
        }
        Ok(())
    }
}

/// True if a process (and its network namespace) has UDP port `port` open.
pub(crate) fn has_udp_port(pid: u32, port: u16) -> bool {
    // The second column is `local address:port`, in hexadecimal.
    let end = format!(":{port:04X}");
    ["udp", "udp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        table.lines().any(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&end)))
    })
}

/// The two namespaces.
pub(crate) struct Hosts {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
}

impl Hosts {
    pub(crate) fn new() -> Result<Self> {
        remove_stale()?;
        let pid = std::process::id();
        let (a, b) = (Namespace::new(format!("{PREFIX}{pid}-a"))?, Namespace::new(format!("{PREFIX}{pid}-b"))?);
        ip(&["link", "add", "eth0", "netns", &a.name, "type", "veth", "peer", "name", "eth0", "netns", &b.name])?;
        for (host, v4, v6) in [(&a, "10.77.0.1/24", "fd77::1/64"), (&b, "10.77.0.2/24", "fd77::2/64")] {
            ip(&["-n", &host.name, "addr", "add", v4, "dev", "eth0"])?;
            // Without duplicate address detection: the address works at once.
            ip(&["-n", &host.name, "addr", "add", v6, "dev", "eth0", "nodad"])?;
            ip(&["-n", &host.name, "link", "set", "lo", "up"])?;
            ip(&["-n", &host.name, "link", "set", "eth0", "up"])?;
        }
        Ok(Self { a, b })
    }
}

/// A network namespace; removed, with what is in it, when dropped.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    fn new(name: String) -> Result<Self> {
        if run::interrupted() {
            bail!("interrupted");
        }
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// `program`, to be run in the namespace.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = tools::command("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// Removes the namespaces of tasks that were killed, and what they left running there.
fn remove_stale() -> Result<()> {
    for line in ip(&["netns", "list"])?.lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let Some(owner) = owner(name) else { continue };
        if is_xtask(owner) {
            continue;
        }
        println!("removing the namespace {name}, whose task is gone");
        for pid in ip(&["netns", "pids", name])?.lines().filter_map(|pid| pid.trim().parse().ok()) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        ip(&["netns", "del", name])?;
    }
    Ok(())
}

/// The pid in the name of a namespace of ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, host) = name.strip_prefix(PREFIX)?.split_once('-')?;
    matches!(host, "a" | "b").then(|| pid.parse().ok())?
}

/// True if `pid` is a running xtask: the number may have been given to something else since.
fn is_xtask(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "xtask")
}

/// Runs `ip`, to its end: it is quick, and is what cleans up after an interrupt.
pub(crate) fn ip(arguments: &[&str]) -> Result<String> {
    let mut command = tools::command("ip");
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    let output = command.output().context("cannot start `ip`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}", run::describe(&command), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_namespaces_have_an_owner() {
        assert_eq!(owner("machnet-17-a"), Some(17));
        for name in ["machnet-17", "machnet-17-c", "machnet-x-a", "other-17-a", "machnet--a"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn a_bound_port_is_seen() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(has_udp_port(std::process::id(), port));
    }
}
