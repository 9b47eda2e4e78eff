//! PostgreSQL over Machnet, by tokio-postgres' `connect_raw`. The server is PostgreSQL behind the gateway:
//!
//! ```sh
//! cargo run --release --example tcp_proxy -- --listen machnet://127.0.0.1:7001 --connect tcp://127.0.0.1:5432 &
//! cargo run --release -p machnet-examples --example postgres_client -- 127.0.0.1:7001 --user postgres
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::net::SocketAddr;
use std::pin::pin;

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::Parser;
use futures::{SinkExt, TryStreamExt};
use machnet_async::FlowStream;
use tokio_postgres::{Client, Config, NoTls};

/// Transactions, and a COPY in and out.
#[derive(Debug, Parser)]
struct Args {
    /// The gateway before PostgreSQL: address and UDP port.
    #[arg(default_value = "127.0.0.1:7001")]
    at: SocketAddr,
    #[arg(long, default_value = "postgres")]
    user: String,
    #[arg(long, default_value = "postgres")]
    database: String,
    /// Megabytes (10⁶ bytes) to copy in, and out again.
    #[arg(long, default_value_t = 100)]
    megabytes: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let stream = FlowStream::connect(args.at).await?;
    let (mut client, connection) =
        Config::new().user(&args.user).dbname(&args.database).connect_raw(stream, NoTls).await?;
    let connection = tokio::spawn(connection);
    transactions(&mut client).await?;
    copy(&client, args.megabytes * 1_000_000).await?;
    drop(client);
    connection.await??;
    Ok(())
}

async fn transactions(client: &mut Client) -> Result<()> {
    client.batch_execute("CREATE TEMPORARY TABLE account (name text PRIMARY KEY, amount int8 NOT NULL)").await?;
    client.execute("INSERT INTO account VALUES ('a', 1000), ('b', 0)", &[]).await?;
    let update = client.prepare("UPDATE account SET amount = amount + $1 WHERE name = $2").await?;
    for number in 0..200_i64 {
        let transaction = client.transaction().await?;
        transaction.execute(&update, &[&-number, &"a"]).await?;
        transaction.execute(&update, &[&number, &"b"]).await?;
        if number % 2 == 0 { transaction.rollback().await? } else { transaction.commit().await? }
    }
    let wrong = client.execute("INSERT INTO account VALUES ('a', 1)", &[]).await;
    ensure!(wrong.is_err_and(|error| error.as_db_error().is_some()), "a duplicate key was taken");
    let moved: i64 = (0..200).filter(|number| number % 2 == 1).sum();
    let rows = client.query("SELECT amount FROM account ORDER BY name", &[]).await?;
    let amounts: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(amounts == [1000 - moved, moved], "{amounts:?} after {moved} were moved");
    println!("200 transactions, every other one rolled back");
    Ok(())
}

async fn copy(client: &Client, len: usize) -> Result<()> {
    client.batch_execute("CREATE TEMPORARY TABLE bulk (number int8 NOT NULL, filler text NOT NULL)").await?;
    let filler = "f".repeat(1000 - 10);
    let rows = len / 1000;
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY bulk FROM STDIN").await?);
    let mut block = BytesMut::new();
    for number in 0..rows {
        block.extend_from_slice(format!("{number:08}\t{filler}\n").as_bytes());
        if block.len() >= 64 << 10 {
            sink.send(block.split().freeze()).await?;
        }
    }
    sink.send(block.freeze()).await?;
    let taken = sink.finish().await?;
    ensure!(taken == rows as u64, "{taken} rows of {rows} taken");
    println!("COPY in: {rows} rows of 1000 bytes");

    let mut stream = pin!(client.copy_out("COPY bulk TO STDOUT").await?);
    let (mut got, mut lines) = (0, 0);
    while let Some(part) = stream.try_next().await? {
        got += part.len();
        lines += part.iter().filter(|byte| **byte == b'\n').count();
    }
    ensure!(lines == rows, "{lines} rows of {rows} came out");
    println!("COPY out: {lines} rows, {got} bytes");
    Ok(())
}
