//! A gateway between TCP and Machnet: puts any TCP client or server on either side.
//!
//! ```sh
//! # Before the server, on its host:
//! cargo run --release --example tcp_proxy -- --listen machnet://127.0.0.1:7000 --connect tcp://127.0.0.1:6379
//! # Before the client, on its own:
//! cargo run --release --example tcp_proxy -- --listen tcp://127.0.0.1:6380 --connect machnet://127.0.0.1:7000
//! redis-cli -p 6380 ping
//! ```
//!
//! Each direction ends on its own: a half-close on one side is one on the other.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use machnet::transport::{Acceptor, Address, ByteStream, Connector, FlowConnector, Kind};
use machnet::{Endpoint, FlowListener, Placement, Udp};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::lookup_host;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

/// Passes the bytes of each connection on to another address. `MACHNET_ENDPOINT` chooses the endpoint.
#[derive(Debug, Parser)]
struct Args {
    /// Where connections come from, for example tcp://127.0.0.1:6380 or machnet://127.0.0.1:7000; port 0 is any.
    #[arg(long)]
    listen: Address,
    /// Where they lead.
    #[arg(long)]
    connect: Address,
    /// Connections at once; further ones wait to be accepted.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Do all on one thread, engine included: no thread waits for another, and no second core is used. Endpoints are
    /// then its own, on UDP, whatever
    /// MACHNET_ENDPOINT says; a name means its first address.
    #[arg(long)]
    one_thread: bool,
}

/// What a direction holds at most, bytes: the longest message that a stream makes of a write.
const BUFFER: usize = 64 << 10;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let args = Args::parse();
    let mut builder = if args.one_thread { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let done = builder.enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                done = run(&args) => done,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> io::Result<()> {
    let (acceptor, connector) = if args.one_thread {
        (acceptor_here(&args.listen).await?, connector_here(&args.connect).await?)
    } else {
        (args.listen.listen().await?, args.connect.kind().connector())
    };
    println!("listening at {}", acceptor.local_addr()?);
    let places = Arc::new(Semaphore::new(args.max_connections as usize));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let (stream, peer) = match acceptor.accept().await {
            Ok(accepted) => accepted,
            // The endpoint is gone. All other errors are of a moment, such as too many open files.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Err(error),
            Err(error) => {
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (connector, to) = (Arc::clone(&connector), args.connect.clone());
        tokio::spawn(async move {
            if let Err(error) = pass(stream, &*connector, &to).await {
                eprintln!("{peer}: {error}");
            }
            drop(place);
        });
    }
}

async fn pass(mut near: Box<dyn ByteStream>, connector: &dyn Connector, to: &Address) -> io::Result<()> {
    let mut far = connector.connect(to.at()).await?;
    copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await?;
    Ok(())
}

/// As [`Address::listen`], on an endpoint whose engine runs on this thread.
async fn acceptor_here(at: &Address) -> io::Result<Arc<dyn Acceptor>> {
    if at.kind() == Kind::Tcp {
        return at.listen().await;
    }
    let local = resolved(at).await?;
    Ok(Arc::new(FlowListener::from(endpoint_here(local.ip())?.listen(local.port()).await?)))
}

/// What connects to `to`, from an endpoint whose engine runs on this thread.
async fn connector_here(to: &Address) -> io::Result<Arc<dyn Connector>> {
    if to.kind() == Kind::Tcp {
        return Ok(to.kind().connector());
    }
    let any = if resolved(to).await?.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Ok(Arc::new(FlowConnector::on(endpoint_here(any)?)))
}

fn endpoint_here(ip: IpAddr) -> io::Result<Endpoint> {
    Endpoint::builder().driver(Udp::bind((ip, 0))?).placement(Placement::Inline).start()
}

/// Where `address` leads first.
async fn resolved(address: &Address) -> io::Result<SocketAddr> {
    let named = |error: &str| format!("cannot resolve {address}: {error}");
    let mut found = lookup_host(address.at()).await.map_err(|e| io::Error::new(e.kind(), named(&e.to_string())))?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, named("no address")))
}
