//! tarpc over Machnet: one message of the flow is one of tarpc's, without a length codec.
//!
//! ```sh
//! cargo run --release -p machnet-examples --example tarpc_echo -- serve 127.0.0.1:9002
//! cargo run --release -p machnet-examples --example tarpc_echo -- call 127.0.0.1:9002
//! cargo run --release -p machnet-examples --example tarpc_echo -- demo
//! ```
#![allow(clippy::print_stdout, missing_docs, reason = "a program; tarpc's macro makes public items")]

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use machnet_async::adapters::tarpc::transport;
use machnet_async::{Flow, FlowListener};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context};

#[tarpc::service]
pub trait Echo {
    /// What was said.
    async fn echo(text: String) -> String;
}

#[derive(Clone)]
struct Server;

impl Echo for Server {
    async fn echo(self, _: context::Context, text: String) -> String {
        text
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    machnet_examples::run(serve, call).await
}

async fn serve(listener: FlowListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Messages, not bytes: nothing was read yet.
        let (flow, _) = stream.into_flow();
        let channel = BaseChannel::with_defaults(transport(flow, Bincode::default()));
        tokio::spawn(channel.execute(Server.serve()).for_each_concurrent(None, |response| response));
    }
}

async fn call(at: SocketAddr) -> Result<()> {
    let flow = Flow::connect(at).await?;
    let client = EchoClient::new(client::Config::default(), transport(flow, Bincode::default())).spawn();
    // Many at once; a long one among them.
    let texts: Vec<String> = (0..100).map(|number| "x".repeat(if number == 50 { 300_000 } else { number })).collect();
    let answers = try_join_all(texts.iter().map(|text| client.echo(context::current(), text.clone()))).await?;
    ensure!(answers == texts, "an answer differs from what was said");
    println!("{} calls answered", answers.len());
    Ok(())
}
