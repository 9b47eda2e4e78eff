//! Software that nobody here wrote, over Machnet: frameworks in the examples, and servers and load tools behind the gateway.
//!
//! ```text
//!   redis-benchmark ──tcp──▶ tcp_proxy ══machnet══▶ tcp_proxy ──tcp──▶ redis-server
//!   redis_client    ═══════════════════machnet════▶     "
//!   postgres_client ═══════════════════machnet════▶ tcp_proxy ──tcp──▶ postgres
//!   h2load          ──tcp──▶ tcp_proxy ══machnet══▶ axum_hello
//! ```
//!
//! Everything is on loopback, on ports that were free, and is ended when the step ends.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::netns::has_udp_port;
use crate::run::{self, Running, capture, run};
use crate::test::cargo;
use crate::{target, tools};

/// For one program, on a machine busy with other things.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// For building all of it.
const BUILD: Duration = Duration::from_secs(40 * 60);
/// Until a server listens.
const START: Duration = Duration::from_secs(30);

/// Runs all of it.
pub(crate) fn check() -> Result<()> {
    run(cargo("build").args(["--release", "--locked", "--example", "tcp_proxy"]), BUILD)?;
    run(cargo("build").args(["--release", "--locked", "--package", "machnet-examples", "--examples"]), BUILD)?;
    for example in ["tonic_greeter", "axum_hello", "tarpc_echo", "tls_echo"] {
        run(program(example).arg("demo"), LIMIT)?;
    }
    // With the adapters' features, which come with the examples; machnet-async's other tests need none of them.
    let packages = ["--release", "--locked", "--package", "machnet-examples", "--package", "machnet-async"];
    let tests = |kinds: &[&str]| run(cargo("test").args(packages).args(kinds), BUILD);
    tests(&["--lib", "--test", "faults", "--test", "utilities"])?;
    tests(&["--doc"])?;
    gateway(&[])?;
    gateway(&["--one-thread"])?;
    http()?;
    redis()?;
    postgres()
}

/// Connections through a pair of gateways: many at once, each half-closed by its client, and all bytes there and back.
fn gateway(options: &[&str]) -> Result<()> {
    const CONNECTIONS: usize = 50;
    const LEN: usize = 1_000_000;
    let server = TcpListener::bind(("127.0.0.1", 0))?;
    let pair = Gateways::before(server.local_addr()?.port(), options)?;
    println!("{CONNECTIONS} connections through a pair of gateways {options:?}, each half-closed");
    let serving = thread::spawn(move || {
        let serve = |mut stream: TcpStream| -> std::io::Result<()> {
            // Says nothing before the client's end has come through.
            let mut all = Vec::new();
            stream.read_to_end(&mut all)?;
            stream.write_all(&all)
        };
        let accepted: Vec<_> = server.incoming().take(CONNECTIONS).map(|s| thread::spawn(move || serve(s?))).collect();
        accepted.into_iter().try_for_each(|serving| serving.join().unwrap_or_else(|_| Err(panicked())))
    });
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let port = pair.near;
            thread::spawn(move || -> Result<()> {
                let sent: Vec<u8> = (0..LEN).map(|at| ((at * (number + 1)) >> 3) as u8).collect();
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_read_timeout(Some(LIMIT))?;
                stream.write_all(&sent)?;
                stream.shutdown(Shutdown::Write)?;
                let mut got = Vec::new();
                stream.read_to_end(&mut got)?;
                ensure!(got == sent, "connection {number}: {} bytes of {LEN} came back, or others", got.len());
                Ok(())
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap_or_else(|_| bail!("a client panicked"))?;
    }
    serving.join().unwrap_or_else(|_| Err(panicked())).context("the server behind the gateways")
}

fn panicked() -> std::io::Error {
    std::io::Error::other("a thread panicked")
}

/// h2load, HTTP/1.1 and HTTP/2, against axum on a `FlowListener`.
fn http() -> Result<()> {
    const REQUESTS: &str = "20000";
    let at = free_udp_port()?;
    let mut server = Running::start(program("axum_hello").args(["serve", &format!("127.0.0.1:{at}")]))?;
    wait_for_udp(&mut server, at)?;
    let (_gateway, port) = gateway_to(&format!("machnet://127.0.0.1:{at}"), &[])?;
    for version in [&["--h1"][..], &[]] {
        let mut load = tools::command("h2load");
        load.args(version).args(["-n", REQUESTS, "-c", "20", "-m", "10"]);
        load.arg(format!("http://127.0.0.1:{port}/hello/h2load"));
        let text = measured(&mut load, "h2load")?;
        let all = format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
        ensure!(text.contains(&all), "h2load does not say \"{all}\":\n{text}");
    }
    Ok(())
}

/// redis-server behind the gateway: redis-benchmark through a pair of them, the `redis` crate through one.
fn redis() -> Result<()> {
    let port = free_tcp_port()?;
    let mut server = tools::command("redis-server");
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    server.args(["--loglevel", "warning", "--dir"]).arg(std::env::temp_dir());
    let mut server = Running::start(&mut server)?;
    wait_for_tcp(&mut server, port)?;
    let pair = Gateways::before(port, &[])?;
    for pipeline in ["1", "16"] {
        let mut load = tools::command("redis-benchmark");
        load.args(["-h", "127.0.0.1", "-p", &pair.near.to_string(), "-n", "20000", "-c", "50", "-d", "1000", "-q"]);
        load.args(["-P", pipeline, "-t", "ping,set,get,lpush,lrange_100"]);
        let text = measured(&mut load, "redis-benchmark")?;
        ensure!(!text.contains("rror"), "redis-benchmark met an error:\n{text}");
        for test in ["PING_INLINE", "SET", "GET", "LPUSH", "LRANGE_100"] {
            ensure!(text.contains(test), "redis-benchmark did not do {test}:\n{text}");
        }
    }
    run(program("redis_client").arg(format!("127.0.0.1:{}", pair.far)), LIMIT)
}

/// PostgreSQL behind the gateway: transactions, and a COPY of 100 MB in and out.
fn postgres() -> Result<()> {
    let cluster = Cluster::new()?;
    let port = free_tcp_port()?;
    let mut server = cluster.command("postgres");
    server.arg("-D").arg(&cluster.dir).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-F"]);
    server.args(["-c", "unix_socket_directories=", "-c", "log_min_messages=fatal"]);
    let mut server = Running::start(&mut server)?;
    // Not when it listens: it does so before it takes anybody, and says to who comes sooner that it is starting up.
    wait_for(&mut server, || cluster.is_ready())?;
    let far = free_udp_port()?;
    let _gateway = gateway_from(&format!("machnet://127.0.0.1:{far}"), far, port, &[])?;
    run(program("postgres_client").arg(format!("127.0.0.1:{far}")).args(["--user", "postgres"]), LIMIT)
}

/// A database cluster of our own, removed when dropped.
struct Cluster {
    dir: PathBuf,
    programs: PathBuf,
}

impl Cluster {
    fn new() -> Result<Self> {
        let programs = tools::postgres_programs().context("there is no initdb in /usr/lib/postgresql/*/bin")?;
        let dir = std::env::temp_dir().join(format!("machnet-postgres-{}", std::process::id()));
        let cluster = Self { dir, programs };
        let mut initdb = cluster.command("initdb");
        initdb.arg("-D").arg(&cluster.dir).args(["-A", "trust", "-U", "postgres", "--no-sync"]);
        measured(&mut initdb, "initdb")?;
        Ok(cluster)
    }

    /// True if its server takes connections: the last line of the file with its process says so.
    fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.dir.join("postmaster.pid")).unwrap_or_default();
        text.lines().last().is_some_and(|line| line.trim() == "ready")
    }

    /// A program of PostgreSQL's, which refuses to run as root.
    fn command(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !tools::is_root() {
            return Command::new(program);
        }
        let mut command = tools::command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command.current_dir("/");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // An error means that it was never made.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Two gateways, one behind the other, before a TCP server.
struct Gateways {
    /// TCP port of the one that clients connect to.
    near: u16,
    /// UDP port of the one before the server.
    far: u16,
    _running: [Running; 2],
}

impl Gateways {
    fn before(server: u16, options: &[&str]) -> Result<Self> {
        let far = free_udp_port()?;
        let to_server = gateway_from(&format!("machnet://127.0.0.1:{far}"), far, server, options)?;
        let (to_far, near) = gateway_to(&format!("machnet://127.0.0.1:{far}"), options)?;
        Ok(Self { near, far, _running: [to_far, to_server] })
    }
}

/// A gateway that listens by TCP and leads to `to`; and its port.
fn gateway_to(to: &str, options: &[&str]) -> Result<(Running, u16)> {
    let port = free_tcp_port()?;
    let mut proxy = program("tcp_proxy");
    proxy.args(["--listen", &format!("tcp://127.0.0.1:{port}"), "--connect", to]).args(options);
    let mut running = Running::start(&mut proxy)?;
    wait_for_tcp(&mut running, port)?;
    Ok((running, port))
}

/// A gateway that listens at `from`, with UDP port `port`, and leads to a TCP server.
fn gateway_from(from: &str, port: u16, server: u16, options: &[&str]) -> Result<Running> {
    let mut proxy = program("tcp_proxy");
    proxy.args(["--listen", from, "--connect", &format!("tcp://127.0.0.1:{server}")]).args(options);
    let mut running = Running::start(&mut proxy)?;
    wait_for_udp(&mut running, port)?;
    Ok(running)
}

/// Runs a program whose output is looked at, and shows it; an error unless it succeeds.
fn measured(command: &mut Command, name: &str) -> Result<String> {
    println!("$ {}", run::describe(command));
    let done = capture(command, LIMIT, &target().join(format!("xtask/rpc-{name}.log")))?;
    ensure!(done.status.success(), "{name} failed ({}):\n{}", done.status, done.text);
    // What tools overwrite as they go shows its last state only.
    for line in done.text.lines().filter_map(|line| line.rsplit('\r').find(|part| !part.trim().is_empty())) {
        println!("  {line}");
    }
    Ok(done.text)
}

fn program(name: &str) -> Command {
    Command::new(target().join("release/examples").join(Path::new(name)))
}

pub(crate) fn free_tcp_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

pub(crate) fn free_udp_port() -> Result<u16> {
    Ok(UdpSocket::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

pub(crate) fn wait_for_tcp(server: &mut Running, port: u16) -> Result<()> {
    // Not by connecting: that would be a connection more.
    let id = server.id();
    wait_for(server, || has_tcp_listener(id, port))
}

pub(crate) fn wait_for_udp(server: &mut Running, port: u16) -> Result<()> {
    let id = server.id();
    wait_for(server, || has_udp_port(id, port))
}

/// True if somebody in the network namespace of a process listens at TCP port `port`.
fn has_tcp_listener(pid: u32, port: u16) -> bool {
    let (end, listening) = (format!(":{port:04X}"), "0A");
    ["tcp", "tcp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        table.lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let (local, state) = (columns.next(), columns.nth(1));
            local.is_some_and(|local| local.ends_with(&end)) && state == Some(listening)
        })
    })
}

fn wait_for(server: &mut Running, mut listens: impl FnMut() -> bool) -> Result<()> {
    let open = run::wait_until(START, || {
        if let Some(status) = server.ended()? {
            bail!("a server ended before it listened: {status}");
        }
        Ok(listens())
    })?;
    ensure!(open, "a server did not listen within {} s", START.as_secs());
    Ok(())
}
