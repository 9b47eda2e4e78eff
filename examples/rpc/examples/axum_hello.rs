//! HTTP over Machnet: an axum server, hyper-util's client.
//!
//! ```sh
//! cargo run --release -p machnet-examples --example axum_hello -- serve 127.0.0.1:9002
//! cargo run --release -p machnet-examples --example axum_hello -- call 127.0.0.1:9002
//! cargo run --release -p machnet-examples --example axum_hello -- demo
//! ```
#![allow(clippy::print_stdout, reason = "a program")]

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::{ConnectInfo, Path};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use machnet_async::FlowListener;
use machnet_async::adapters::axum08::FlowPeer;
use machnet_async::adapters::hyper_util01::{FlowInfo, MachnetConnector};

#[tokio::main]
async fn main() -> ExitCode {
    machnet_examples::run(serve, call).await
}

async fn serve(listener: FlowListener) -> Result<()> {
    let hello = |ConnectInfo(peer): ConnectInfo<FlowPeer>, Path(name): Path<String>| async move {
        format!("Hello {name} at {}!", peer.0)
    };
    let app = Router::new()
        .route("/", get(async || "Hello!"))
        .route("/hello/{name}", get(hello))
        .route("/echo", post(async |body: Bytes| body));
    Ok(axum::serve(listener, app.into_make_service_with_connect_info::<FlowPeer>()).await?)
}

async fn call(at: SocketAddr) -> Result<()> {
    for http2 in [false, true] {
        let client: Client<_, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(http2).build(MachnetConnector::new());

        let response = client.get(format!("http://{at}/hello/hyper").parse()?).await?;
        let version = response.version();
        let info = *response.extensions().get::<FlowInfo>().context("no addresses in the response")?;
        let text = response.into_body().collect().await?.to_bytes();
        ensure!(text == format!("Hello hyper at {}!", info.local), "wrong answer: {text:?}");
        println!("{version:?}: {}", String::from_utf8_lossy(&text));

        let sent = Bytes::from((0..1_000_000).map(|number| number as u8).collect::<Vec<_>>());
        let request = http::Request::post(format!("http://{at}/echo")).body(Full::new(sent.clone()))?;
        let answer = client.request(request).await?.into_body().collect().await?.to_bytes();
        ensure!(answer == sent, "a megabyte came back changed");
        println!("{version:?}: a megabyte there and back");
    }
    Ok(())
}
