//! Bytes in one direction, by `AsyncWrite` and `AsyncRead`. They count when the server has said that it read them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use machnet_async::transport::{Acceptor, ByteStream, Connector, FlowConnector, Kind, TcpConnector};
use machnet_async::{FlowListener, FlowStream};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Common, Load, listening, something};

/// Bytes of a read.
const READ: usize = 64 << 10;

pub(super) async fn serve(common: &Common) -> Result<()> {
    let at = common.resolved().await?;
    if common.chunks {
        return serve_chunks(FlowListener::from(common.endpoint(at.ip())?.listen(at.port()).await?)).await;
    }
    let acceptor: Arc<dyn Acceptor> = match common.address.kind() {
        Kind::Tcp => Arc::new(TcpListener::bind(at).await?),
        Kind::Machnet => Arc::new(FlowListener::from(common.endpoint(at.ip())?.listen(at.port()).await?)),
    };
    listening(acceptor.local_addr())?;
    loop {
        let (stream, peer) = acceptor.accept().await?;
        told(peer, read_all(stream));
    }
}

/// The same without copies.
async fn serve_chunks(listener: FlowListener) -> Result<()> {
    listening(listener.local_addr())?;
    loop {
        let (stream, peer) = listener.accept().await?;
        told(peer, read_all_chunks(stream));
    }
}

fn told(peer: SocketAddr, serving: impl Future<Output = Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            eprintln!("{peer}: {error:#}");
        }
    });
}

async fn read_all(mut stream: Box<dyn ByteStream>) -> Result<()> {
    let mut buffer = vec![0; READ];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return answer(stream, total).await,
            len => total += len as u64,
        }
    }
}

async fn read_all_chunks(mut stream: FlowStream) -> Result<()> {
    let mut total = 0_u64;
    while let Some(chunk) = stream.read_chunk().await? {
        total += chunk.len() as u64;
    }
    answer(stream, total).await
}

/// Says how much was read.
async fn answer(mut stream: impl AsyncWrite + Unpin, total: u64) -> Result<()> {
    stream.write_u64(total).await?;
    Ok(stream.shutdown().await?)
}

pub(super) async fn measure(common: &Common, load: Load) -> Result<Value> {
    let goes_on = |began: Instant| began.elapsed() < load.duration;
    let mut sent = 0_u64;
    let (read, seconds) = if common.chunks {
        let mut stream = common.client()?.connect(common.resolved().await?).await?.into_stream();
        let piece = Bytes::from(vec![7; load.size]);
        let began = Instant::now();
        while goes_on(began) {
            stream.write_chunk(piece.clone()).await?;
            sent += piece.len() as u64;
        }
        (answered(stream).await?, began.elapsed())
    } else {
        let connector: Box<dyn Connector> = match common.address.kind() {
            Kind::Tcp => Box::new(TcpConnector),
            Kind::Machnet => Box::new(FlowConnector::on(common.client()?)),
        };
        let mut stream = connector.connect(common.address.at()).await?;
        let piece = vec![7; load.size];
        let began = Instant::now();
        while goes_on(began) {
            stream.write_all(&piece).await?;
            sent += piece.len() as u64;
        }
        (answered(stream).await?, began.elapsed())
    };
    ensure!(read == sent, "{sent} bytes were written, {read} were read");
    let per_s = something(sent)? as f64 / seconds.as_secs_f64();
    Ok(json!({
        "operations": sent / load.size as u64,
        "seconds": seconds.as_secs_f64(),
        "rate_per_s": per_s / load.size as f64,
        "gbit_per_s": per_s * 8.0 / 1e9,
    }))
}

/// Ends the writing, and waits for how much the server read.
async fn answered(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<u64> {
    stream.shutdown().await?;
    Ok(stream.read_u64().await?)
}
