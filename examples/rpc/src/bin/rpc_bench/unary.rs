//! gRPC calls by tonic: each of `outstanding` tasks calls, waits for the answer, and calls again.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use machnet_async::FlowListener;
use machnet_async::adapters::hyper_util01::MachnetConnector;
use machnet_async::transport::Kind;
use machnet_examples::greeter::generated::greeter_client::GreeterClient;
use machnet_examples::greeter::generated::greeter_server::GreeterServer;
use machnet_examples::greeter::{Greeter, HelloRequest};
use serde_json::{Value, json};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use super::{Common, Load, listening, something};

/// Of the time to measure, before anything counts.
const WARM_UP: u32 = 4;

pub(super) async fn serve(common: &Common) -> Result<()> {
    let server = Server::builder().add_service(GreeterServer::new(Greeter));
    let at = common.resolved().await?;
    match common.address.kind() {
        Kind::Tcp => {
            let incoming = TcpIncoming::bind(at).with_context(|| format!("cannot listen at {at}"))?;
            listening(incoming.local_addr())?;
            server.serve_with_incoming(incoming.with_nodelay(Some(true))).await?;
        }
        Kind::Machnet => {
            let listener = FlowListener::from(common.endpoint(at.ip())?.listen(at.port()).await?);
            listening(listener.local_addr())?;
            server.serve_with_incoming(listener.incoming()).await?;
        }
    }
    Ok(())
}

async fn connect(common: &Common) -> Result<Channel> {
    let target = Endpoint::try_from(format!("http://{}", common.address.at()))?.tcp_nodelay(true);
    Ok(match common.address.kind() {
        Kind::Tcp => target.connect().await?,
        Kind::Machnet => target.connect_with_connector(MachnetConnector::on(common.client()?)).await?,
    })
}

pub(super) async fn measure(common: &Common, load: Load) -> Result<Value> {
    let client = GreeterClient::new(connect(common).await?);
    call_for(&client, Load { duration: load.duration / WARM_UP, ..load }).await?;
    let began = Instant::now();
    let took = call_for(&client, load).await?;
    let seconds = began.elapsed().as_secs_f64();
    let count = something(took.len())?;
    let us = |quantile: f64| took.value_at_quantile(quantile) as f64 / 1e3;
    Ok(json!({
        "operations": count,
        "seconds": seconds,
        "rate_per_s": count as f64 / seconds,
        "p50_us": us(0.5),
        "p99_us": us(0.99),
        "p999_us": us(0.999),
        "max_us": took.max() as f64 / 1e3,
    }))
}

/// Calls until the time is up; how long each call took, ns.
async fn call_for(client: &GreeterClient<Channel>, load: Load) -> Result<Histogram<u64>> {
    let until = Instant::now() + load.duration;
    let calls = (0..load.outstanding).map(|_| {
        let mut client = client.clone();
        async move {
            let mut took = Histogram::<u64>::new(3)?;
            let name = "x".repeat(load.size);
            loop {
                let start = Instant::now();
                if start >= until {
                    return anyhow::Ok(took);
                }
                let reply = client.say_hello(HelloRequest { name: name.clone() }).await?.into_inner();
                took.record(u64::try_from(start.elapsed().as_nanos())?)?;
                ensure!(reply.message.len() > load.size, "an answer of {} bytes", reply.message.len());
            }
        }
    });
    let mut all = Histogram::<u64>::new(3)?;
    // In tasks of their own: joined in one, each answer would have all of them looked at.
    for took in try_join_all(calls.map(tokio::spawn)).await? {
        all.add(took?)?;
    }
    Ok(all)
}
