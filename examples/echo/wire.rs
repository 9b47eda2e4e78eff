//! The two transports that are compared, behind one pair of traits.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use machnet::{Endpoint, Flow, Message, RecvHalf, SendHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The sending direction of a connection that carries messages.
pub(crate) trait Tx<M> {
    async fn send(&mut self, message: M) -> io::Result<()>;
    /// Makes sure that what was sent is underway. Called before waiting for an answer.
    async fn flush(&mut self) -> io::Result<()>;
}

/// The receiving direction of a connection that carries messages.
pub(crate) trait Rx<M> {
    async fn recv(&mut self) -> io::Result<Option<M>>;
    /// True if `recv` will not wait; for those who want to flush before they do.
    fn is_ready(&self) -> bool;
}

impl Tx<Message> for SendHalf {
    async fn send(&mut self, message: Message) -> io::Result<()> {
        Ok(Self::send(self, message).await?)
    }
    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Rx<Message> for RecvHalf {
    async fn recv(&mut self) -> io::Result<Option<Message>> {
        Self::recv(self).await
    }
    fn is_ready(&self) -> bool {
        true // there is nothing to flush
    }
}

pub(crate) async fn connect_machnet(endpoint: &Endpoint, to: SocketAddr) -> io::Result<(SendHalf, RecvHalf)> {
    endpoint.connect(to).await.map(Flow::into_split)
}

/// TCP at its best: no delay, small messages gathered into one write, large ones written without a copy, and a
/// recycled buffer that takes all there is in one read.
pub(crate) fn frame_tcp(stream: TcpStream) -> io::Result<(TcpTx, TcpRx)> {
    stream.set_nodelay(true)?;
    let (rx, tx) = stream.into_split();
    Ok((
        TcpTx { stream: tx, pending: BytesMut::new() },
        TcpRx { stream: rx, buffer: BytesMut::with_capacity(READ_AT_LEAST) },
    ))
}

/// Bytes of the length in front of each message.
const PREFIX: usize = 4;
/// Messages up to this size are copied next to each other.
const SMALL: usize = 16 << 10;
const WRITE_AT: usize = 64 << 10;
const READ_AT_LEAST: usize = 64 << 10;

pub(crate) struct TcpTx {
    stream: OwnedWriteHalf,
    pending: BytesMut,
}

impl Tx<Bytes> for TcpTx {
    async fn send(&mut self, message: Bytes) -> io::Result<()> {
        self.pending.put_u32(u32::try_from(message.len()).map_err(io::Error::other)?);
        if message.len() > SMALL {
            return self.stream.write_all_buf(&mut (&mut self.pending).chain(message)).await;
        }
        self.pending.put_slice(&message);
        if self.pending.len() >= WRITE_AT { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.pending).await
    }
}

pub(crate) struct TcpRx {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

impl TcpRx {
    /// Length of the next message, once that much is known.
    fn next_len(&self) -> Option<usize> {
        self.buffer.first_chunk().map(|len| u32::from_be_bytes(*len) as usize)
    }
}

impl Rx<Bytes> for TcpRx {
    async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        while !self.is_ready() {
            let missing = self.next_len().map_or(0, |len| PREFIX + len - self.buffer.len());
            self.buffer.reserve(missing.max(READ_AT_LEAST));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        let len = self.buffer.get_u32() as usize;
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    fn is_ready(&self) -> bool {
        self.next_len().is_some_and(|len| self.buffer.len() >= PREFIX + len)
    }
}
