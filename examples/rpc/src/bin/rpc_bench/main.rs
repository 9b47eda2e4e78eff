//! Measures what a service notices of its transport: gRPC calls, and bytes in one direction. For `cargo xtask bench --rpc`,
//! which pins both sides and puts TCP and Machnet side by side.
//!
//! ```sh
//! rpc_bench server unary machnet://127.0.0.1:0
//! rpc_bench client unary machnet://127.0.0.1:45678 --outstanding 32 --millis 2000
//! ```
//!
//! The code is the same for both transports but for what connects and accepts. A side has a tokio runtime of one thread.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod bulk;
mod unary;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use machnet_async::transport::{Address, Kind};
use machnet_async::{Endpoint, Placement, Udp, park_hook};
use tokio::net::lookup_host;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serves, and prints where.
    Server {
        #[command(flatten)]
        common: Common,
    },
    /// Measures, and prints a JSON report.
    Client {
        #[command(flatten)]
        common: Common,
        /// How long, milliseconds.
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
        millis: u64,
        /// Calls underway at once.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        outstanding: u32,
        /// Bytes of a request, and about those of its reply; for `bulk`: of a write.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
        size: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// What is done.
    work: Work,
    /// The server's address: tcp://10.0.0.2:7000 or machnet://10.0.0.2:7000; port 0 is any.
    address: Address,
    /// On Machnet, who polls the engine.
    #[arg(long, default_value = "thread")]
    placement: Where,
    /// With `bulk` on Machnet: without copies, by `write_chunk` and `read_chunk`, which TCP does not have.
    #[arg(long)]
    chunks: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Work {
    /// gRPC calls by tonic, all on one HTTP/2 connection.
    Unary,
    /// Bytes from client to server.
    Bulk,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Where {
    /// A thread; the runtime waits awake for it, as engines do by default.
    Thread,
    /// The runtime.
    Inline,
}

/// How long and how much a client measures.
#[derive(Clone, Copy, Debug)]
struct Load {
    duration: Duration,
    outstanding: u32,
    size: usize,
}

fn main() -> ExitCode {
    let Cli { role } = Cli::parse();
    let (Role::Server { common } | Role::Client { common, .. }) = &role;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all();
    if matches!((common.address.kind(), common.placement), (Kind::Machnet, Where::Thread)) {
        builder.on_thread_park(park_hook());
    }
    let done = builder.build().context("cannot make a runtime").and_then(|runtime| runtime.block_on(run(&role)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(role: &Role) -> Result<()> {
    match *role {
        Role::Server { ref common } | Role::Client { ref common, .. } if common.chunks && !common.can_chunk() => {
            bail!("--chunks is for bulk over machnet://")
        }
        Role::Server { ref common } => match common.work {
            Work::Unary => unary::serve(common).await,
            Work::Bulk => bulk::serve(common).await,
        },
        Role::Client { ref common, millis, outstanding, size } => {
            let load = Load { duration: Duration::from_millis(millis), outstanding, size: size as usize };
            let report = match common.work {
                Work::Unary => unary::measure(common, load).await?,
                Work::Bulk => bulk::measure(common, load).await?,
            };
            println!("{report}");
            Ok(())
        }
    }
}

impl Common {
    const fn can_chunk(&self) -> bool {
        matches!((self.work, self.address.kind()), (Work::Bulk, Kind::Machnet))
    }

    /// An address to listen at or connect to, resolved.
    async fn resolved(&self) -> Result<SocketAddr> {
        let at = self.address.at();
        let mut found = lookup_host(at).await.with_context(|| format!("cannot resolve {at}"))?;
        found.next().with_context(|| format!("{at} resolves to no address"))
    }

    /// An endpoint at `ip`, with its engine where it was asked for.
    fn endpoint(&self, ip: IpAddr) -> Result<Endpoint> {
        let placement = match self.placement {
            Where::Thread => Placement::default(),
            Where::Inline => Placement::Inline,
        };
        let udp = Udp::bind((ip, 0)).with_context(|| format!("cannot open an endpoint at {ip}"))?;
        Ok(Endpoint::builder().driver(udp).placement(placement).start()?)
    }

    /// A client's endpoint.
    fn client(&self) -> Result<Endpoint> {
        self.endpoint(Ipv4Addr::UNSPECIFIED.into())
    }
}

/// Says where a server listens.
fn listening(at: io::Result<SocketAddr>) -> Result<()> {
    println!("listening on {}", at?);
    Ok(())
}

/// Nothing that was measured: an error, not a report.
fn something(count: u64) -> Result<u64> {
    if count == 0 {
        bail!("nothing was done in the time given");
    }
    Ok(count)
}
