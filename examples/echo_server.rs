//! Sends every message of every flow back. The other half is `echo_client`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Parser;
use machnet::{Endpoint, Flow, Udp};

/// Echoes messages: every message of every flow comes back to its sender, in order.
#[derive(Debug, Parser)]
struct Args {
    /// Address of this host to listen on, with UDP sockets. Default: the endpoint that MACHNET_ENDPOINT names; without it, any.
    #[arg(long)]
    bind: Option<IpAddr>,

    /// UDP port to listen on; 0 takes any free one.
    #[arg(long, default_value_t = 9000)]
    port: u16,

    /// Ends after the first flow: successfully if the flow ended in order.
    #[arg(long)]
    once: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let endpoint = match args.bind {
        Some(ip) => Endpoint::builder().driver(Udp::bind((ip, 0))?).start()?,
        None => Endpoint::default_for(IpAddr::from([0; 4]))?,
    };
    let mut listener = endpoint.listen(args.port).await?;
    println!("listening on {}", listener.local_addr());
    std::io::stdout().flush()?;

    loop {
        let (flow, peer) = listener.accept().await?;
        println!("{peer}: accepted");
        if args.once {
            drop(listener);
            let (messages, bytes) = echo(flow).await.map_err(|error| format!("{peer}: {error}"))?;
            println!("{peer}: ended after {messages} messages, {bytes} bytes");
            // The engine may still have to answer the peer's last packets.
            return Ok(endpoint.shutdown().await?);
        }
        tokio::spawn(async move {
            match echo(flow).await {
                Ok((messages, bytes)) => println!("{peer}: ended after {messages} messages, {bytes} bytes"),
                Err(error) => eprintln!("{peer}: {error}"),
            }
        });
    }
}

/// Echoes until the peer finishes; returns the number of messages and bytes.
async fn echo(mut flow: Flow) -> std::io::Result<(u64, u64)> {
    let (mut messages, mut bytes) = (0, 0);
    while let Some(message) = flow.recv().await? {
        messages += 1;
        bytes += message.len() as u64;
        flow.send(message).await?;
    }
    flow.close().await?;
    Ok((messages, bytes))
}
