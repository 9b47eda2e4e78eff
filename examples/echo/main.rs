//! Round trips and message rates of a machnet flow over loopback UDP, beside tokio's `TcpStream` in the same run.
//!
//! Two nodes in one process, by default: a client and a server, each a thread with a current-thread runtime. A node's machnet
//! endpoint adds an engine thread to it; TCP's work is done by the kernel, in the same threads. By default each node,
//! its engine thread included, is pinned to a core of its own: both transports get the same two cores. TCP is fastest
//! with everything on one core, where no wake-up crosses cores (`--placement one-core`); no two hosts are like that.
//!
//! `--two-process` makes each node a process, in which the engine is a task of the current-thread runtime (inline) and the
//! runtime has the park hook: nothing crosses threads.
//!
//! With `MACHNET_ENDPOINT=shm://name` machnet's messages go through shared memory instead of UDP, with
//! `unix:///path` through the daemon (`machnet daemon`) that listens there; TCP stays what it is.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod measure;
mod process;
mod wire;

use std::env::VarError;
use std::error::Error;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use machnet::{AttachBuilder, Config, Driver as _, Endpoint, IdlePolicy, ParkHook, Shm, Udp, WakeStats};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::net::{TcpListener, TcpStream};

use measure::{Measured, Plan, echo};
use wire::{connect_machnet, frame_tcp};

/// Measures round trips and message rates of machnet flows over loopback UDP, beside tokio's TCP.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// A tenth of the messages: a few seconds.
    #[arg(long)]
    quick: bool,

    /// Loopback address to use, for example ::1.
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,

    /// Where threads run.
    #[arg(long, value_enum, default_value_t = Placement::TwoCores)]
    placement: Placement,

    /// How long an engine without work (and a runtime with the park hook) spins before it yields, microseconds.
    #[arg(long, default_value_t = 0)]
    spin_us: u64,

    /// How long it yields after that, before it parks, microseconds.
    #[arg(long, default_value_t = IdlePolicy::DEFAULT_YIELD.as_micros() as u64)]
    yield_us: u64,

    /// Who polls the engines. Default: a thread each, inline with --two-process.
    #[arg(long, value_enum)]
    engine: Option<EnginePlace>,

    /// Give the runtimes the park hook. Always with --two-process.
    #[arg(long)]
    park_hook: bool,

    /// Two processes instead of two threads.
    #[arg(long)]
    two_process: bool,

    /// Only messages of this size, as the table calls it: "1 KiB".
    #[arg(long)]
    only: Option<String>,

    /// The server of --two-process: tells its addresses on its standard output.
    #[arg(long, hide = true)]
    serve: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EnginePlace {
    /// A thread of its own.
    Thread,
    /// A task of the node's runtime.
    Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Placement {
    /// Each node on a core of its own, its engine thread included: as if on two hosts with one core each.
    TwoCores,
    /// Everything on one core: no wake-up crosses cores, but nothing happens at the same time.
    OneCore,
    /// Wherever the kernel puts them, which changes while they run.
    Free,
}

impl Args {
    /// The cores of client and server, if they are pinned.
    fn cores(&self) -> io::Result<Option<(usize, usize)>> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let (first, second) = (cores.next(), cores.next());
        Ok(match self.placement {
            Placement::TwoCores => first.zip(second),
            Placement::OneCore => first.zip(first),
            Placement::Free => None,
        })
    }

    fn engine(&self) -> EnginePlace {
        self.engine.unwrap_or(if self.two_process { EnginePlace::Inline } else { EnginePlace::Thread })
    }

    fn has_hook(&self) -> bool {
        self.park_hook || self.two_process
    }

    const fn spin_for(&self) -> Duration {
        Duration::from_micros(self.spin_us)
    }

    const fn yield_for(&self) -> Duration {
        Duration::from_micros(self.yield_us)
    }

    /// An endpoint whose engine runs in this runtime, or in a thread that runs where this thread may run.
    fn endpoint(&self, thread_name: &str) -> io::Result<Endpoint> {
        let idle = IdlePolicy::Ladder { spin_for: self.spin_for(), yield_for: self.yield_for() };
        let placement = match self.engine() {
            EnginePlace::Thread => machnet::Placement::Thread,
            EnginePlace::Inline => machnet::Placement::Inline,
        };
        let endpoint = Endpoint::builder().idle(idle).thread_name(thread_name).placement(placement);
        match Wire::chosen()? {
            Wire::Udp => endpoint.driver(Udp::bind((self.bind, 0))?).start(),
            Wire::Shm(name) => {
                let shm = Shm::attach(&name)?;
                let mut config = Config::default();
                config.max_payload = shm.capabilities().max_payload;
                endpoint.driver(shm).config(config).start()
            }
            Wire::Daemon(path) => AttachBuilder::new(path).name(thread_name.replace("engine", "of echo")).attach(),
        }
    }

    /// Runs `work` as a task of a current-thread runtime.
    fn block_on<T: Send + 'static>(&self, work: impl Future<Output = io::Result<T>> + Send + 'static) -> io::Result<T> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all();
        if self.has_hook() {
            builder.on_thread_park(ParkHook::new().spin_for(self.spin_for()).yield_for(self.yield_for()).build());
        }
        builder.build()?.block_on(async { tokio::spawn(work).await.map_err(io::Error::other)? })
    }
}

/// What machnet's messages go over.
enum Wire {
    Udp,
    Shm(String),
    Daemon(PathBuf),
}

impl Wire {
    /// What `MACHNET_ENDPOINT` says; UDP without it.
    fn chosen() -> io::Result<Self> {
        let url = match std::env::var("MACHNET_ENDPOINT") {
            Err(VarError::NotPresent) => return Ok(Self::Udp),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
            Ok(url) => url,
        };
        match url.split_once("://") {
            Some(("udp", _)) => Ok(Self::Udp),
            Some(("shm", name)) => Ok(Self::Shm(name.to_owned())),
            Some(("unix", path)) => Ok(Self::Daemon(path.into())),
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("MACHNET_ENDPOINT is {url:?}; this example takes shm://name, unix:///path, or UDP without it"),
            )),
        }
    }
}

/// Blocks of the two transports alternate: A B A B A B A B.
const BLOCKS: u64 = 4;

const PLANS: [Plan; 4] = [
    Plan { label: "64 B", size: 64, round_trips: 500, messages: 5_000, outstanding: 64 },
    Plan { label: "1 KiB", size: 1 << 10, round_trips: 500, messages: 5_000, outstanding: 64 },
    Plan { label: "64 KiB", size: 64 << 10, round_trips: 100, messages: 200, outstanding: 8 },
    Plan { label: "1 MiB", size: 1 << 20, round_trips: 15, messages: 20, outstanding: 4 },
];

/// How much more is done without `--quick`.
const THOROUGH: u64 = 10;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let cores = args.cores()?;
    if args.serve {
        pin(cores.map(|(_, core)| core))?;
        let for_server = args.clone();
        return Ok(args.block_on(async move { serve(&for_server, process::tell).await })?);
    }
    let measured = if args.two_process { two_processes(args, cores)? } else { two_threads(args, cores)? };
    if let Some(measured) = measured {
        print(args, &measured, cores);
    }
    Ok(())
}

type Cores = Option<(usize, usize)>;

fn two_threads(args: &Args, cores: Cores) -> Result<Option<Rows>, Box<dyn Error>> {
    let (tell, told) = mpsc::channel();
    let for_server = args.clone();
    let server = thread::Builder::new().name("server".to_owned()).spawn(move || {
        pin(cores.map(|(_, core)| core))?;
        let tell = move |machnet, tcp| tell.send((machnet, tcp)).map_err(io::Error::other);
        for_server.clone().block_on(async move { serve(&for_server, tell).await })
    })?;
    pin(cores.map(|(core, _)| core))?;

    // A server that fails before it has addresses to tell says why when joined.
    let measured = match told.recv() {
        Ok((machnet, tcp)) => Some(run_client(args, machnet, tcp)?),
        Err(_) => None,
    };
    server.join().map_err(|_| "the server panicked")?.map_err(|error| format!("server: {error}"))?;
    Ok(measured)
}

fn two_processes(args: &Args, cores: Cores) -> Result<Option<Rows>, Box<dyn Error>> {
    let mut server = process::Server::start()?;
    pin(cores.map(|(core, _)| core))?;
    let (machnet, tcp) = server.addresses()?;
    let measured = run_client(args, machnet, tcp)?;
    server.wait()?;
    Ok(Some(measured))
}

fn run_client(args: &Args, machnet: SocketAddr, tcp: SocketAddr) -> io::Result<Rows> {
    let for_client = args.clone();
    args.block_on(async move { measure(&for_client, machnet, tcp).await })
}

/// Pins this thread, and so the engine thread that it starts.
fn pin(core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// Serves one flow and one TCP connection, until the client finishes them.
async fn serve(args: &Args, tell: impl FnOnce(SocketAddr, SocketAddr) -> io::Result<()>) -> io::Result<()> {
    let endpoint = args.endpoint("server engine")?;
    let mut flows = endpoint.listen(0).await?;
    let streams = TcpListener::bind((args.bind, 0)).await?;
    // A daemon may be at every address of its host.
    let mut at = flows.local_addr();
    if at.ip().is_unspecified() {
        at.set_ip(args.bind);
    }
    tell(at, streams.local_addr()?)?;

    let machnet = async {
        let (flow, _) = flows.accept().await?;
        let (tx, rx) = flow.into_split();
        echo(tx, rx).await
    };
    let tcp = async {
        let (stream, _) = streams.accept().await?;
        let (tx, rx) = frame_tcp(stream)?;
        echo(tx, rx).await
    };
    tokio::try_join!(machnet, tcp)?;
    endpoint.shutdown().await
}

/// Everything measured, and what waking cost the client's engine.
struct Rows {
    rows: Vec<Row>,
    waking: WakeStats,
}

struct Row {
    plan: Plan,
    machnet: Measured,
    tcp: Measured,
}

async fn measure(args: &Args, machnet: SocketAddr, tcp: SocketAddr) -> io::Result<Rows> {
    let endpoint = args.endpoint("client engine")?;
    let (mut machnet_tx, mut machnet_rx) = connect_machnet(&endpoint, machnet).await?;
    let (mut tcp_tx, mut tcp_rx) = frame_tcp(TcpStream::connect(tcp).await?)?;

    let plans = PLANS.into_iter().filter(|plan| args.only.as_ref().is_none_or(|only| only == plan.label));
    let progress = progress_bar(BLOCKS * plans.clone().count() as u64 * 2);
    let mut rows = Vec::new();
    for mut plan in plans {
        if !args.quick {
            plan.round_trips *= THOROUGH;
            plan.messages *= THOROUGH;
        }
        let payload: Bytes = (0..plan.size).map(|i| (i % 251) as u8).collect();
        let mut row = Row { plan, machnet: Measured::new(), tcp: Measured::new() };
        for _ in 0..BLOCKS {
            progress.set_message(format!("{}, machnet", plan.label));
            row.machnet.block(&plan, &payload, &mut machnet_tx, &mut machnet_rx).await?;
            progress.inc(1);
            progress.set_message(format!("{}, TCP", plan.label));
            row.tcp.block(&plan, &payload, &mut tcp_tx, &mut tcp_rx).await?;
            progress.inc(1);
        }
        rows.push(row);
    }
    progress.finish_and_clear();
    machnet_tx.close().await?;
    drop((machnet_rx, tcp_tx, tcp_rx));
    let waking = endpoint.wake_stats();
    endpoint.shutdown().await?;
    Ok(Rows { rows, waking })
}

/// Shown only on a terminal.
fn progress_bar(blocks: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}");
    ProgressBar::with_draw_target(Some(blocks), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(args: &Args, Rows { rows, waking }: &Rows, cores: Cores) {
    let nodes = if args.two_process { "two processes" } else { "two nodes in one process, each a thread" };
    let hook = if args.has_hook() { ", with the park hook" } else { "" };
    println!("Echo over loopback, {nodes} with one tokio current-thread runtime{hook}.");
    let (wire, is_daemon) = match Wire::chosen() {
        Ok(Wire::Shm(_)) => ("shared memory", false),
        Ok(Wire::Daemon(_)) => ("a daemon, and back by it without a NIC", true),
        Ok(Wire::Udp) | Err(_) => ("UDP", false),
    };
    let engine = match args.engine() {
        _ if is_daemon => "the engine is the daemon's, wherever it runs",
        EnginePlace::Thread => "a node has an engine thread",
        EnginePlace::Inline => "the engine is polled inline, as a task of the node's runtime",
    };
    println!(
        "machnet: over {wire}; {engine}; without work it spins for {} us, then yields for {} us, then parks.",
        args.spin_us, args.yield_us
    );
    println!("TCP: tokio TcpStream, nodelay, length-prefixed, small writes gathered; the kernel works in the threads.");
    match cores {
        Some((client, server)) => {
            println!("Placement, the same for both: client's threads on core {client}, server's on core {server}.");
        }
        None if args.placement == Placement::TwoCores => println!("Placement: not pinned: there is one core only."),
        None => println!("Placement: not pinned; the kernel places and moves the threads."),
    }
    println!(
        "Blocks of both alternate ({BLOCKS} each). Round trips: one message at a time. Rates: messages echoed per"
    );
    println!("second with as many outstanding as the table says.\n");
    println!(
        "{:<8} {:<8} {:>9} {:>9} {:>9} {:>8} {:>12} {:>12} {:>9}",
        "message", "over", "p50 us", "p99 us", "p99.9 us", "of", "outstanding", "messages/s", "MB/s"
    );
    for Row { plan, machnet, tcp } in rows {
        for (name, measured) in [("machnet", machnet), ("TCP", tcp)] {
            let rate = measured.messages_per_second();
            println!(
                "{:<8} {:<8} {:>9.1} {:>9.1} {:>9.1} {:>8} {:>12} {:>12.0} {:>9.1}",
                plan.label,
                name,
                measured.quantile_us(0.5),
                measured.quantile_us(0.99),
                measured.quantile_us(0.999),
                measured.round_trips.len(),
                plan.outstanding,
                rate,
                rate * plan.size as f64 / 1e6,
            );
        }
        println!("{:<8} p50, machnet of TCP: {:.2}", "", machnet.quantile_us(0.5) / tcp.quantile_us(0.5));
    }
    println!(
        "\nThe client's engine called {} wakers, left {} wakes to a runtime that spun, was rung {} times, parked {} times.",
        waking.wakers_called, waking.handed_over, waking.rings, waking.parks
    );
}
