//! The DPDK driver: its own tests, two processes on each wire that needs no kernel, and the kernel as the other side.
//!
//! ```text
//!   machnet-<pid>-a                                        machnet-<pid>-b
//!   10.77.0.9, fd77::9: DPDK port on eth0 ◀──── veth ────▶ eth0 10.77.0.2, fd77::2: kernel (ping, UDP sockets)
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::netns::{self, Hosts, Namespace};
use crate::run::{self, Running, run};
use crate::test::{cargo, suite};
use crate::{root, target, tools};

/// What is built and tested with the feature, always together: each choice of packages would be built anew.
const PACKAGES: [&str; 4] = ["machnet-dpdk-sys", "machnet-dpdk", "machnet", "machnet-cli"];
const FEATURES: &str = "machnet-dpdk/dpdk,machnet/dpdk,machnet-cli/dpdk";

/// For one command, on a machine busy with other things.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Bytes of a bulk transfer in each direction, MiB.
const BULK: &str = "1024";

/// What goes between the applications of two daemons, and over huge pages.
const DAEMONS: [&str; 3] = [
    "--flows 4 --size 64 --outstanding 8 --count 2000",
    "--size 20KiB --outstanding 8 --count 1000",
    "--mode stream --size 1MiB --count 256",
];

/// Drivers whose other side is the kernel.
const DRIVERS: [Driver; 2] =
    [Driver { name: "net_af_packet", needs_root: false }, Driver { name: "net_af_xdp", needs_root: true }];

struct Driver {
    name: &'static str,
    /// Root of the machine, not of a user namespace.
    needs_root: bool,
}

/// The step.
pub(crate) fn check() -> Result<()> {
    if !tools::is_root() {
        return netns::in_user_namespace("dpdk");
    }
    run(with_feature("clippy").args(["--all-targets", "--", "-D", "warnings"]), LIMIT)?;
    let mut tests = with_feature("test");
    tests.env("MACHNET_BULK_MIB", BULK);
    tests.args(["--lib", "--bins", "--test", "dpdk"]);
    for name in test_programs()? {
        tests.args(["--test", &name]);
    }
    tests.args(["--", "--test-threads", "1"]);
    run(&mut tests, LIMIT)?;
    // This builds the program, too, as a test of its package would have it: `cargo build` chooses other features, and builds all again.
    let mut typed = with_feature("test");
    run(typed.args(["--test", "cli", "--", "--test-threads", "1", "dpdk::", "doctor::"]), LIMIT)?;
    let program = target().join("debug/machnet");
    let mut table = Vec::new();
    for driver in &DRIVERS {
        if driver.needs_root && !is_real_root() {
            println!("{} is left out: its BPF program takes root of the machine", driver.name);
            continue;
        }
        table.push((driver.name, Peers::new(driver, &program)?.check()?));
    }
    daemons(&program)?;
    if is_real_root() {
        huge_pages(&program)?;
    } else {
        println!("huge pages are left out: only root of the machine can have some made");
    }
    for (driver, checks) in table {
        println!("{driver:<14} with the kernel: {}", checks.join(", "));
    }
    Ok(())
}

/// Two daemons of two engines each that memif joins: an application of one, and one of the other that compares every byte; and the
/// end-to-end tests.
fn daemons(program: &Path) -> Result<()> {
    let log = target().join("xtask");
    let start = |name, role, ip| {
        let us = std::process::id();
        let url = format!("dpdk://vdev:net_memif0,role={role},socket=/machnet-xtask-{us}?huge=no&ip={ip}/24");
        Daemon::roomy(Command::new(program), &log, name, &url, "engines = 2\n")
    };
    let (near, far) = (start("dpdk-near", "server", "10.98.0.1")?, start("dpdk-far", "client", "10.98.0.2")?);
    let mut command = Command::new(program);
    command.args(["perf", "server", &format!("{}?server=10.98.0.1:7000", near.url())]);
    let server = serve(&mut command, &log.join("dpdk-daemon-server.log"))?;
    let at = format!("{}?server=10.98.0.1:7000", far.url());
    for options in DAEMONS {
        let mut client = Command::new(program);
        client.args(["perf", "client", &at, "--verify", "--warmup", "10"]).args(options.split_whitespace());
        run(&mut client, LIMIT)?;
    }
    drop(server);
    suite([&near, &far], "memif")?;
    far.end()?;
    near.end()
}

/// Memory of the kind that real NICs take: two processes on each wire, and where payloads lie if devices see physical addresses. All else
/// here does without.
fn huge_pages(program: &Path) -> Result<()> {
    let pages = HugePages::reserve(192)?;
    let us = std::process::id();
    let memif = |role| format!("net_memif0,role={role},socket=/machnet-xtask-{us}");
    let socket = std::env::temp_dir().join(format!("machnet-xtask-{us}"));
    let virtio =
        (format!("net_vhost0,iface={}", socket.display()), format!("net_virtio_user0,path={}", socket.display()));
    for (here, there) in [(memif("server"), memif("client")), virtio] {
        let url = |device: &str, ip| format!("dpdk://vdev:{device}?huge=yes&ip={ip}/24");
        let mut command = Command::new(program);
        command.args(["perf", "server", &url(&here, "10.98.0.1")]);
        let server = serve(&mut command, &target().join("xtask/dpdk-huge-server.log"))?;
        let used = pages.reserved - HugePages::read("free_hugepages")?;
        if used == 0 {
            bail!("the server runs with huge=yes, and uses none of {} huge pages", pages.reserved);
        }
        let at = format!("{}&server=10.98.0.1:7000", url(&there, "10.98.0.2"));
        for options in DAEMONS {
            let mut client = Command::new(program);
            client.args(["perf", "client", &at, "--verify", "--warmup", "10"]).args(options.split_whitespace());
            run(&mut client, LIMIT)?;
        }
        drop(server);
        println!("{here} with huge pages: {used} of 2 MiB at the server");
    }
    let _ = fs::remove_file(&socket);
    // Who may take PCI devices, and has no IOMMU, has physical addresses. All of the memory from the start: see "Known limits" of
    // docs/drivers.md.
    let mut copies = with_feature("test");
    copies.env("MACHNET_DPDK_MEMORY", "huge=yes&memory=256&allow=ffff:ff:1f.7");
    run(copies.args(["--test", "dpdk", "--", "--test-threads", "1", "copies::"]), LIMIT)
}

/// Huge pages of 2 MiB that the machine has for as long as this lives.
struct HugePages {
    before: u64,
    reserved: u64,
}

impl HugePages {
    const FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

    fn reserve(pages: u64) -> Result<Self> {
        let before = Self::read("nr_hugepages")?;
        let guard = Self { before, reserved: before + pages };
        Self::write(before + pages)?;
        let got = Self::read("nr_hugepages")?;
        if got < before + pages {
            bail!("the kernel has memory for {got} huge pages of 2 MiB: {} are needed", before + pages);
        }
        Ok(guard)
    }

    fn read(name: &str) -> Result<u64> {
        let path = format!("{}/{name}", Self::FOLDER);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        text.trim().parse().with_context(|| format!("{path}: {text:?}"))
    }

    fn write(pages: u64) -> Result<()> {
        let path = format!("{}/nr_hugepages", Self::FOLDER);
        fs::write(&path, pages.to_string()).with_context(|| format!("cannot write {path}"))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = Self::write(self.before) {
            println!("huge pages stay reserved: {error:#}");
        }
    }
}

/// All of the driver's own: none of them is run without its feature.
fn test_programs() -> Result<Vec<String>> {
    let directory = root().join("crates/machnet-dpdk/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

fn with_feature(command: &str) -> Command {
    let mut cargo = cargo(command);
    cargo.arg("--locked");
    for package in PACKAGES {
        cargo.args(["-p", package]);
    }
    cargo.args(["--features", FEATURES]);
    cargo
}

/// Starts a server; returns when it listens.
fn serve(command: &mut Command, log: &Path) -> Result<Running> {
    let what = run::describe(command);
    println!("$ {what} &");
    let mut server = Running::start(command.stdout(File::create(log)?))?;
    let listens = run::wait_until(Duration::from_secs(30), || {
        if let Some(status) = server.ended()? {
            bail!("`{what}` ended: {status}");
        }
        Ok(fs::read_to_string(log)?.contains("listening on"))
    })?;
    if !listens {
        bail!("`{what}` does not listen within 30 s");
    }
    Ok(server)
}

/// True unless this root is one of a user namespace.
fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// A host on a DPDK port and one on the kernel's sockets.
struct Peers<'a> {
    hosts: Hosts,
    program: &'a Path,
    /// The port, as a URL.
    port: String,
    /// The same with the addresses that the kernel has.
    kernels: String,
    driver: &'static str,
}

impl<'a> Peers<'a> {
    fn new(driver: &Driver, program: &'a Path) -> Result<Self> {
        let hosts = Hosts::new()?;
        for host in [&hosts.a, &hosts.b] {
            // What a veth hands on need not have a checksum, nor fit an MTU, unless it is told so.
            run(host.command(Path::new("ethtool")).args(["-K", "eth0", "tx", "off"]), LIMIT)?;
        }
        let device = format!("dpdk://vdev:{}0,iface=eth0?huge=no", driver.name);
        let (port, kernels) = (format!("{device}&ip=10.77.0.9/24&ip=fd77::9/64"), format!("{device}&ip=kernel"));
        Ok(Self { hosts, program, port, kernels, driver: driver.name })
    }

    /// Everything that each driver must do; returns what it was.
    fn check(&self) -> Result<Vec<&'static str>> {
        let (v4, v6) = ("udp://10.77.0.9:7000", "udp://[fd77::9]:7000");
        let server = self.serve(&self.hosts.a, &self.port, "server")?;
        for address in ["10.77.0.9", "fd77::9"] {
            run(self.hosts.b.command(Path::new("ping")).args(["-c", "3", "-i", "0.2", "-W", "5", address]), LIMIT)?;
        }
        self.echo(v4)?;
        self.echo(v6)?;
        self.bulk(&self.hosts.b, v4)?;

        let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::KILL)?;
        drop(server);
        let again = self.serve(&self.hosts.a, &self.port, "server-again")?;
        self.echo(v4)?;
        drop(again);
        let mut checks = vec!["ARP and ping", "ND and ping", "echo v4", "echo v6", "bulk in", "kill -9 and restart"];
        // AF_XDP's driver asks for combined queues, which a veth has not.
        if self.driver == "net_af_packet" {
            self.several()?;
            checks.push("two engines");
        }
        // AF_PACKET leaves the kernel what it receives, and the kernel would answer for an address that both have.
        if self.driver == "net_af_xdp" {
            let taken_over = self.serve(&self.hosts.a, &self.kernels, "kernel-addresses")?;
            run(self.hosts.b.command(Path::new("ping")).args(["-c", "3", "-i", "0.2", "-W", "5", "10.77.0.1"]), LIMIT)?;
            self.echo("udp://10.77.0.1:7000")?;
            self.echo("udp://[fd77::1]:7000")?;
            drop(taken_over);
            checks.push("the kernel's addresses");
        }

        let server = self.serve(&self.hosts.b, "udp://10.77.0.2:7000", "udp-server")?;
        let out = format!("{}&server=10.77.0.2:7000", self.port);
        self.bulk(&self.hosts.a, &out)?;
        self.in_place(&out)?;
        drop(server);
        checks.extend(["bulk out", "sent in place"]);
        Ok(checks)
    }

    /// Two queues that the kernel's hash chooses between, for flows as for questions and pings: flows find ports whose packets come to their
    /// own engines.
    fn several(&self) -> Result<()> {
        let server = self.serve(&self.hosts.a, &format!("{}&engines=2", self.port), "two-engines")?;
        for address in ["10.77.0.9", "fd77::9"] {
            run(self.hosts.b.command(Path::new("ping")).args(["-c", "3", "-i", "0.2", "-W", "5", address]), LIMIT)?;
        }
        let mut client = self.client(&self.hosts.b, "udp://10.77.0.9:7000?engines=2");
        client.args(["--flows", "8", "--count", "20000", "--warmup", "8000", "--json"]);
        println!("$ {}", run::describe(&client));
        let found = run::capture(&mut client, LIMIT, &self.log("two-engines-client")?)?;
        let report: Value = serde_json::from_str(&found.text).with_context(|| found.text.clone())?;
        let ratio = report["handover_ratio"].as_f64().context("no handover_ratio")?;
        println!("handover_ratio {ratio:.6}");
        ensure!(found.status.success() && ratio < 0.001, "of the packets {ratio} were handed over: {report}");
        drop(server);
        Ok(())
    }

    fn serve(&self, host: &Namespace, url: &str, name: &str) -> Result<Running> {
        let mut command = host.command(self.program);
        serve(command.args(["perf", "server", url]), &self.log(name)?)
    }

    fn log(&self, name: &str) -> Result<PathBuf> {
        let directory = target().join("xtask");
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory.join(format!("dpdk-{}-{name}.log", self.driver)))
    }

    fn echo(&self, url: &str) -> Result<()> {
        for size in ["64", "1KiB", "20KiB"] {
            let mut client = self.client(&self.hosts.b, url);
            run(client.args(["--warmup", "10", "--size", size, "--outstanding", "8", "--count", "2000"]), LIMIT)?;
        }
        Ok(())
    }

    fn bulk(&self, host: &Namespace, url: &str) -> Result<()> {
        let mut client = self.client(host, url);
        run(client.args(["--warmup", "10", "--mode", "stream", "--size", "1MiB", "--count", BULK]), LIMIT)
    }

    /// Requests that are sent from where they were built, all but few: the first one asks for the frames.
    fn in_place(&self, url: &str) -> Result<()> {
        let mut client = self.client(&self.hosts.a, url);
        client.args(["--size", "1KiB", "--outstanding", "8", "--count", "2000", "--json"]);
        let what = run::describe(&client);
        println!("$ {what}");
        let captured = run::capture(&mut client, LIMIT, &self.log("in-place")?)?;
        let report = captured.text.lines().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let in_place = report.and_then(|report| report["client"]["counts"]["sent_in_place"].as_u64());
        match in_place {
            Some(1000..) if captured.status.success() => Ok(()),
            _ => bail!("`{what}`: {}; {in_place:?} of 2000 requests sent in place; {}", captured.status, captured.text),
        }
    }

    /// A client that compares every byte.
    fn client(&self, host: &Namespace, url: &str) -> Command {
        let mut client = host.command(self.program);
        client.current_dir(root()).args(["perf", "client", url, "--verify"]);
        client
    }
}
