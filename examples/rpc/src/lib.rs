//! What the examples have in common. Each is a client and a server over Machnet; see `examples/`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for programs")]

pub mod greeter;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use machnet_async::FlowListener;

/// `MACHNET_ENDPOINT` chooses the endpoint, for example `udp://192.0.2.1`.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The server.
    Serve(At),
    /// The client: does its work, checks the answers, and ends.
    Call(At),
    /// Both in one process.
    Demo,
}

#[derive(Debug, Args)]
struct At {
    /// Address and UDP port of the server.
    #[arg(default_value = "127.0.0.1:9002")]
    at: SocketAddr,
}

/// The `main` of an example: a server, a client, or both.
pub async fn run<S, C>(serve: impl FnOnce(FlowListener) -> S, call: impl FnOnce(SocketAddr) -> C) -> ExitCode
where
    S: Future<Output = Result<()>>,
    C: Future<Output = Result<()>>,
{
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let done = async {
        match Cli::parse().role {
            Role::Serve(At { at }) => {
                let listener = FlowListener::bind(at).await?;
                println!("listening at {}", listener.local_addr()?);
                serve(listener).await
            }
            Role::Call(At { at }) => call(at).await,
            Role::Demo => {
                let listener = FlowListener::bind("127.0.0.1:0").await?;
                let at = listener.local_addr()?;
                tokio::select! {
                    done = serve(listener) => done,
                    done = call(at) => done,
                }
            }
        }
    };
    match done.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
