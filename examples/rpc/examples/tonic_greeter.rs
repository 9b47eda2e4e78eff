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

use anyhow::{Result, ensure};
use futures::StreamExt;
use machnet_async::FlowListener;
use machnet_async::adapters::hyper_util01::MachnetConnector;
use machnet_examples::greeter::generated::greeter_client::GreeterClient;
use machnet_examples::greeter::generated::greeter_server::GreeterServer;
use machnet_examples::greeter::{Greeter, HelloRequest};
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

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

    let requests = futures::stream::iter(1..=1000).map(|number| HelloRequest { name: format!("number {number}") });
    let mut replies = client.chat(requests).await?.into_inner();
    let mut count = 0;
    while let Some(reply) = replies.next().await.transpose()? {
        count += 1;
        ensure!(reply.message == format!("Hello number {count}!"), "wrong answer: {}", reply.message);
    }
    ensure!(count == 1000, "{count} answers");
    println!("{count} messages there and back on one stream");
    Ok(())
}
