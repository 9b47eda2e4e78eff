//! Round trips and message rates of a machnet flow over loopback UDP, beside tokio's `TcpStream` in the same run.
//!
//! Two nodes in one process: a client and a server, each a thread with a current-thread runtime. A node's machnet
//! endpoint adds an engine thread to it; TCP's work is done by the kernel, in the same threads. By default each node,
//! its engine thread included, is pinned to a core of its own: both transports get the same two cores. TCP is fastest
//! with everything on one core, where no wake-up crosses cores (`--placement one-core`); no two hosts are like that.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod measure;
mod wire;

use std::error::Error;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use machnet::{Endpoint, IdlePolicy, Udp};
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

    /// How long an engine without work yields before it parks, microseconds.
    #[arg(long, default_value_t = IdlePolicy::DEFAULT_YIELD.as_micros() as u64)]
    yield_us: u64,
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

    /// An endpoint whose engine thread runs where this thread may run.
    fn endpoint(&self, thread_name: &str) -> io::Result<Endpoint> {
        let idle = IdlePolicy::YieldThenPark { yield_for: Duration::from_micros(self.yield_us) };
        Endpoint::builder().driver(Udp::bind((self.bind, 0))?).idle(idle).thread_name(thread_name).start()
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
    let (tell, told) = mpsc::channel();
    let for_server = args.clone();
    let server = thread::Builder::new().name("server".to_owned()).spawn(move || {
        pin(cores.map(|(_, core)| core))?;
        runtime()?.block_on(serve(&for_server, &tell))
    })?;
    pin(cores.map(|(core, _)| core))?;

    // A server that fails before it has addresses to tell says why when joined.
    let measured = match told.recv() {
        Ok((machnet, tcp)) => runtime()?.block_on(measure(args, machnet, tcp)).map(Some)?,
        Err(_) => None,
    };
    server.join().map_err(|_| "the server panicked")?.map_err(|error| format!("server: {error}"))?;
    if let Some(rows) = measured {
        print(args, &rows, cores);
    }
    Ok(())
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Pins this thread, and so the engine thread that it starts.
fn pin(core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// Serves one flow and one TCP connection, until the client finishes them.
async fn serve(args: &Args, tell: &mpsc::Sender<(SocketAddr, SocketAddr)>) -> io::Result<()> {
    let endpoint = args.endpoint("server engine")?;
    let mut flows = endpoint.listen(0).await?;
    let streams = TcpListener::bind((args.bind, 0)).await?;
    let addresses = (flows.local_addr(), streams.local_addr()?);
    tell.send(addresses).map_err(io::Error::other)?;

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

struct Row {
    plan: Plan,
    machnet: Measured,
    tcp: Measured,
}

async fn measure(args: &Args, machnet: SocketAddr, tcp: SocketAddr) -> io::Result<Vec<Row>> {
    let endpoint = args.endpoint("client engine")?;
    let (mut machnet_tx, mut machnet_rx) = connect_machnet(&endpoint, machnet).await?;
    let (mut tcp_tx, mut tcp_rx) = frame_tcp(TcpStream::connect(tcp).await?)?;

    let progress = progress_bar(BLOCKS * PLANS.len() as u64 * 2);
    let mut rows = Vec::new();
    for mut plan in PLANS {
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
    endpoint.shutdown().await?;
    Ok(rows)
}

/// Shown only on a terminal.
fn progress_bar(blocks: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}");
    ProgressBar::with_draw_target(Some(blocks), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(args: &Args, rows: &[Row], cores: Option<(usize, usize)>) {
    println!("Echo over loopback, two nodes in one process, each a thread with a tokio current-thread runtime.");
    println!("machnet: over UDP; a node has an engine thread, which yields for {} us before it parks.", args.yield_us);
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
    }
}
