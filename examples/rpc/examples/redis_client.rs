//! The `redis` crate's multiplexed connection over Machnet. The server is redis behind the gateway:
//!
//! ```sh
//! redis-server --port 6379 &
//! cargo run --release --example tcp_proxy -- --listen machnet://127.0.0.1:7000 --connect tcp://127.0.0.1:6379 &
//! cargo run --release -p machnet-examples --example redis_client -- 127.0.0.1:7000
//! ```
#![allow(clippy::print_stdout, reason = "a program")]

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::Parser;
use futures::future::try_join_all;
use machnet_async::FlowStream;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig, RedisConnectionInfo};

/// Sets, gets and counts over one connection, from many tasks at once.
#[derive(Debug, Parser)]
struct Args {
    /// The gateway before redis: address and UDP port.
    #[arg(default_value = "127.0.0.1:7000")]
    at: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<()> {
    let stream = FlowStream::connect(Args::parse().at).await?;
    let (info, config) = (RedisConnectionInfo::default(), AsyncConnectionConfig::default());
    let (mut connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    let driver = tokio::spawn(driver);

    let count: i64 = redis::cmd("DEL").arg("machnet:count").query_async(&mut connection).await?;
    println!("connected; {count} old key removed");
    try_join_all((0..200_u32).map(|number| {
        let mut connection = connection.clone();
        async move {
            let (key, value) = (format!("machnet:{number}"), vec![number as u8; 100 * number as usize]);
            let (): () = connection.set_ex(&key, &value, 60).await?;
            let got: Vec<u8> = connection.get(&key).await?;
            ensure!(got == value, "{key} came back changed");
            let _: i64 = connection.incr("machnet:count", 1).await?;
            Ok(())
        }
    }))
    .await?;
    let count: i64 = connection.get("machnet:count").await?;
    ensure!(count == 200, "counted {count}");

    let mut pipeline = redis::pipe();
    for number in 0..1000 {
        pipeline.cmd("ECHO").arg(number);
    }
    let answers: Vec<i32> = pipeline.query_async(&mut connection).await?;
    ensure!(answers.into_iter().eq(0..1000), "a pipeline's answers are out of order");
    println!("200 tasks on one connection, and a pipeline of 1000");
    drop(connection);
    driver.await?;
    Ok(())
}
