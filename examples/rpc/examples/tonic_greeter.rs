//! gRPC by tonic over Machnet: a unary call, a bidirectional stream, the health service.
//!
//! ```sh
//! cargo run --release -p machnet-examples --example tonic_greeter -- serve 127.0.0.1:9002
//! cargo run --release -p machnet-examples --example tonic_greeter -- call 127.0.0.1:9002
//! cargo run --release -p machnet-examples --example tonic_greeter -- demo
//! ```
//!
//! What differs from tonic over TCP: `serve_with_incoming` instead of `serve`, `connect_with_connector` instead of
//! `connect`.
#![allow(clippy::print_stdout, reason = "a program")]

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use machnet_async::FlowListener;
use machnet_async::adapters::hyper_util01::MachnetConnector;
use machnet_examples::greeter::generated::greeter_client::GreeterClient;
use machnet_examples::greeter::generated::greeter_server::GreeterServer;
use machnet_examples::greeter::{Greeter, HelloRequest};
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const MESSAGES: usize = 1000;
const AT_ONCE: usize = 32;

#[tokio::main]
async fn main() -> ExitCode {
    machnet_examples::run(serve, call).await
}

async fn serve(listener: FlowListener) -> Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<GreeterServer<Greeter>>().await;
    let server = Server::builder().add_service(health).add_service(GreeterServer::new(Greeter));
    Ok(server.serve_with_incoming(listener.incoming()).await?)
}

async fn call(at: SocketAddr) -> Result<()> {
    let channel = Endpoint::try_from(format!("http://{at}"))?.connect_with_connector(MachnetConnector::new()).await?;

    let service = HealthCheckRequest { service: "machnet.greeter.Greeter".to_owned() };
    let health = HealthClient::new(channel.clone()).check(service).await?.into_inner();
    ensure!(health.status() == ServingStatus::Serving, "the service is {:?}", health.status());

    let mut client = GreeterClient::new(channel);
    let reply = client.say_hello(HelloRequest { name: "unary".to_owned() }).await?.into_inner();
    println!("{}", reply.message);
    ensure!(reply.message.starts_with("Hello unary at "), "wrong answer");

    // Some at once; hundreds of short frames that it has not read yet, h2 takes for an attack.
    let (mut requests, outgoing) = futures::channel::mpsc::channel(AT_ONCE);
    let mut replies = client.chat(outgoing).await?.into_inner();
    let (mut sent, mut count) = (0, 0);
    while count < MESSAGES {
        while sent < MESSAGES && sent < count + AT_ONCE {
            sent += 1;
            requests.send(HelloRequest { name: format!("number {sent}") }).await?;
        }
        let reply = replies.next().await.context("an answer is missing")??;
        count += 1;
        ensure!(reply.message == format!("Hello number {count}!"), "wrong answer: {}", reply.message);
    }
    drop(requests);
    ensure!(replies.next().await.is_none(), "an answer too many");
    println!("{count} messages there and back on one stream");
    Ok(())
}
