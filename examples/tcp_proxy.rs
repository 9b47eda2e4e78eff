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
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use machnet::transport::{Address, ByteStream};
use tokio::io::copy_bidirectional_with_sizes;
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
}

/// What a direction holds at most, bytes: the longest message that a stream makes of a write.
const BUFFER: usize = 64 << 10;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let args = Args::parse();
    tokio::select! {
        result = run(&args) => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => ExitCode::SUCCESS,
    }
}

async fn run(args: &Args) -> io::Result<()> {
    let acceptor = args.listen.listen().await?;
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
        let to = args.connect.clone();
        tokio::spawn(async move {
            if let Err(error) = pass(stream, &to).await {
                eprintln!("{peer}: {error}");
            }
            drop(place);
        });
    }
}

async fn pass(mut near: Box<dyn ByteStream>, to: &Address) -> io::Result<()> {
    let mut far = to.connect().await?;
    copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await?;
    Ok(())
}
