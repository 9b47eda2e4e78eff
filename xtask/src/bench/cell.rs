//! One measurement: a server's process, a client's, and what the client reports.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::contenders::Contender;
use super::dpdk::Ports;
use super::lossbox::Lossbox;
use super::matrix::{Experiment, Wire};
use super::sidecar;
use crate::daemon::Daemon;
use crate::netns::Hosts;
use crate::run::{Running, describe, wait_until};

/// For a server to listen, and to end after its client.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Longer than any measurement.
pub(super) const LIMIT: Duration = Duration::from_secs(5 * 60);

/// The wires.
pub(crate) struct Wires {
    pub(crate) hosts: Hosts,
}

/// Everything a measurement needs.
pub(crate) struct Bench {
    pub(crate) program: PathBuf,
    /// The bad neighbours, as `machnet-daemon`'s example of that name.
    pub(crate) neighbour: PathBuf,
    /// Where the processes' output goes.
    pub(crate) log: PathBuf,
    pub(crate) wires: Wires,
}

/// Which end of the wire.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Client,
    Server,
}

impl Bench {
    /// Measures once; returns the client's report.
    pub(crate) fn measure(&self, experiment: &Experiment, contender: &Contender) -> Result<Value> {
        fs::create_dir_all(&self.log).with_context(|| format!("cannot create {}", self.log.display()))?;
        let (client_core, _) = contender.cores();
        let (client_pin, server_pin) = contender.pins();
        let engines = contender.engines.map_or_else(String::new, |engines| format!("?engines={engines}"));
        let daemons = self.daemons(experiment.wire, contender)?;
        let said = self.log.join("server.log");
        let mut server = self.command(experiment.wire, Side::Server);
        let at = match daemons.first() {
            Some(daemon) => daemon.url(),
            None => listen_at(experiment.wire, contender.scheme) + &engines,
        };
        server.args(["perf", "server", &at, "--once"]);
        if contender.scheme == "udp" {
            server.args(["--max-flows", "110000"]);
        }
        server.args(["--timeout", "60s", "--pin", &server_pin]).args(contender.options);
        let mut server = Running::start(server.stdout(File::create(&said)?).stderr(self.log_file("server.err")?))?;
        let mut url = None;
        wait_until(PATIENCE, || {
            let text = fs::read_to_string(&said)?;
            url = text.split_once('\n').and_then(|(line, _)| line.strip_prefix("listening on ")).map(str::to_owned);
            Ok(url.is_some() || server.ended()?.is_some())
        })?;
        let Some(mut url) = url else { bail!("the server does not listen: {}", self.read("server.err")) };
        let _lossbox = match experiment.wire {
            Wire::Lossy(lost) => {
                let (scheme, at) = url.split_once("://").context("a URL has a scheme")?;
                let lossbox = Lossbox::start(at.parse::<SocketAddr>()?, lost)?;
                url = format!("{scheme}://{}", lossbox.address());
                Some(lossbox)
            }
            Wire::Dpdk(ports) => {
                // A port of its own, which names the server.
                url = ports.urls(contender.scheme).1;
                None
            }
            Wire::Veth | Wire::Loopback | Wire::Local => None,
        };
        if contender.engines.is_some() {
            url = url.split('?').next().unwrap_or_default().to_owned() + &engines;
        }
        if let Some(daemon) = daemons.last() {
            let (_, server) = url.split_once('?').context("a daemon's server says where it is")?;
            url = format!("{}?{server}", daemon.url());
        }

        let mut neighbour = match (contender.beside, daemons.first()) {
            (Some(kind), Some(daemon)) => {
                Some(sidecar::neighbour(&self.neighbour, kind, daemon, client_core, &self.log)?)
            }
            _ => None,
        };
        let mut client = self.command(experiment.wire, Side::Client);
        client.args(["perf", "client", &url, "--json", "--pin", &client_pin]);
        client.args(&experiment.options).args(contender.options);
        let command = describe(&client);
        client.stdout(self.log_file("client.log")?).stderr(self.log_file("client.err")?);
        let status = Running::start(&mut client)?.wait(LIMIT)?;
        let report = serde_json::from_str(&self.read("client.log"));
        ensure!(status.success(), "`{command}`: {status}: {}", self.read("client.err"));
        let mut report: Value = report.with_context(|| format!("what `{command}` reports"))?;
        report["command"] = Value::from(command);
        if !daemons.is_empty() {
            sidecar::count_cpu(&mut report, &daemons)?;
        }
        if let Some(neighbour) = &mut neighbour
            && let Some(status) = neighbour.ended()?
        {
            bail!("the neighbour ended before the measurement: {status}: {}", self.read("neighbour.log"));
        }
        // It ends by itself after its one client; if not, it is ended.
        server.wait(PATIENCE)?;
        Ok(report)
    }

    /// The daemons that a contender needs, the server's first: one on each host, with its application's core.
    fn daemons(&self, wire: Wire, contender: &Contender) -> Result<Vec<Daemon>> {
        if contender.scheme != sidecar::SCHEME {
            return Ok(Vec::new());
        }
        let (client, server) = contender.cores();
        let start = |side, name, address, core| {
            Daemon::start(self.command(wire, side), &self.log, name, &format!("udp://{address}"), Some(core))
        };
        if wire == Wire::Local {
            return Ok(vec![start(Side::Server, "daemon", "127.0.0.1:0", server)?]);
        }
        Ok(vec![
            start(Side::Server, "daemon-b", "10.77.0.2:0", server)?,
            start(Side::Client, "daemon-a", "10.77.0.1:0", client)?,
        ])
    }

    fn command(&self, wire: Wire, side: Side) -> Command {
        match (wire, side) {
            (Wire::Veth | Wire::Dpdk(Ports::AfPacket), Side::Client) => self.wires.hosts.a.command(&self.program),
            (Wire::Veth | Wire::Dpdk(Ports::AfPacket), Side::Server) => self.wires.hosts.b.command(&self.program),
            _ => Command::new(&self.program),
        }
    }

    fn log_file(&self, name: &str) -> Result<File> {
        let path = self.log.join(name);
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.log.join(name)).unwrap_or_default().trim().to_owned()
    }
}

/// Where a server listens.
fn listen_at(wire: Wire, scheme: &str) -> String {
    let us = std::process::id();
    match (wire, scheme) {
        (Wire::Dpdk(ports), _) => ports.urls(scheme).0,
        (_, "shm") => format!("shm://bench-{us}"),
        (_, "uds") => format!("uds://{}", Path::new("/tmp").join(format!("machnet-bench-{us}.sock")).display()),
        (Wire::Veth, _) => format!("{scheme}://10.77.0.2:0"),
        _ => format!("{scheme}://127.0.0.1:0"),
    }
}
