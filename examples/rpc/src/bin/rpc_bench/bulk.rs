//! Bytes in one direction, by `AsyncWrite` and `AsyncRead`. They count when the server has said that it read them.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use machnet_async::FlowListener;
use machnet_async::transport::{Acceptor, ByteStream, Connector, FlowConnector, Kind, TcpConnector};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Common, Load, listening, something};

/// Bytes of a read.
const READ: usize = 64 << 10;

pub(super) async fn serve(common: &Common) -> Result<()> {
    let at = common.resolved().await?;
    let acceptor: Arc<dyn Acceptor> = match common.address.kind() {
        Kind::Tcp => Arc::new(TcpListener::bind(at).await?),
        Kind::Machnet => Arc::new(FlowListener::from(common.endpoint(at.ip())?.listen(at.port()).await?)),
    };
    listening(acceptor.local_addr())?;
    loop {
        let (stream, peer) = acceptor.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = count(stream).await {
                eprintln!("{peer}: {error:#}");
            }
        });
    }
}

/// Reads to the end, and answers how much there was.
async fn count(mut stream: Box<dyn ByteStream>) -> Result<()> {
    let mut buffer = vec![0; READ];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            len => total += len as u64,
        }
    }
    stream.write_u64(total).await?;
    Ok(stream.shutdown().await?)
}

pub(super) async fn measure(common: &Common, load: Load) -> Result<Value> {
    let connector: Box<dyn Connector> = match common.address.kind() {
        Kind::Tcp => Box::new(TcpConnector),
        Kind::Machnet => Box::new(FlowConnector::on(common.client()?)),
    };
    let mut stream = connector.connect(common.address.at()).await?;
    let piece = vec![7; load.size];
    let (began, mut sent) = (Instant::now(), 0_u64);
    while began.elapsed() < load.duration {
        stream.write_all(&piece).await?;
        sent += piece.len() as u64;
    }
    stream.shutdown().await?;
    let read = stream.read_u64().await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(read == sent, "{sent} bytes were written, {read} were read");
    Ok(json!({
        "operations": sent / load.size as u64,
        "seconds": seconds,
        "rate_per_s": something(sent)? as f64 / load.size as f64 / seconds,
        "gbit_per_s": sent as f64 * 8.0 / 1e9 / seconds,
    }))
}
