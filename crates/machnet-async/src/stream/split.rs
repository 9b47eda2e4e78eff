//! The halves of a stream. Each has its direction to itself; what they share is touched when one of them ends.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::FlowStream;
use super::methods::{address_methods, read_methods, write_methods};
use super::reader::Reader;
use super::waits::Place;
use super::writer::Writer;

/// The reading half of a [`FlowStream`], borrowed; made by [`FlowStream::split`].
#[derive(Debug)]
pub struct ReadHalf<'a> {
    reader: &'a mut Reader,
}

/// The writing half of a [`FlowStream`], borrowed; made by [`FlowStream::split`].
#[derive(Debug)]
pub struct WriteHalf<'a> {
    writer: &'a mut Writer,
}

/// The reading half of a [`FlowStream`]; made by [`FlowStream::into_split`]. Dropped, it tells the peer that nothing more
/// will be read: its writes fail.
#[derive(Debug)]
pub struct OwnedReadHalf {
    reader: Reader,
    pair: Arc<Pair>,
}

/// The writing half of a [`FlowStream`]; made by [`FlowStream::into_split`]. Dropped, it ends its direction in order,
/// unless [`OwnedWriteHalf::forget`] is called.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    writer: Writer,
    pair: Arc<Pair>,
}

/// What makes two halves a pair.
#[derive(Debug, Default)]
struct Pair {
    /// A writing half that was forgotten: it ends with the reading half.
    forgotten: OnceLock<Writer>,
}

/// Two halves that are not of one stream.
#[derive(Debug, thiserror::Error)]
#[error("the halves are of different streams")]
pub struct ReuniteError(pub OwnedReadHalf, pub OwnedWriteHalf);

impl FlowStream {
    /// Divides the stream into its directions, for one task. Costs nothing.
    pub const fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf { reader: &mut self.reader }, WriteHalf { writer: &mut self.writer })
    }

    /// Divides the stream into its directions, for two tasks. There is no lock between them.
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let Self { reader, writer } = self;
        let pair = Arc::new(Pair::default());
        (OwnedReadHalf { reader, pair: Arc::clone(&pair) }, OwnedWriteHalf { writer, pair })
    }
}

impl OwnedReadHalf {
    /// Makes a stream of the two halves again.
    ///
    /// # Errors
    /// Both halves, if they are not of one stream.
    pub fn reunite(self, other: OwnedWriteHalf) -> Result<FlowStream, ReuniteError> {
        if Arc::ptr_eq(&self.pair, &other.pair) {
            Ok(FlowStream { reader: self.reader, writer: other.writer })
        } else {
            Err(ReuniteError(self, other))
        }
    }
}

impl OwnedWriteHalf {
    /// As [`OwnedReadHalf::reunite`].
    ///
    /// # Errors
    /// As [`OwnedReadHalf::reunite`].
    pub fn reunite(self, other: OwnedReadHalf) -> Result<FlowStream, ReuniteError> {
        other.reunite(self)
    }

    /// Drops the half without ending its direction, which the drop of the reading half does then.
    pub fn forget(self) {
        let Self { writer, pair } = self;
        // There is one writing half per pair.
        let _ = pair.forgotten.set(writer);
    }
}

impl ReadHalf<'_> {
    address_methods!(reader);
    read_methods!();
}
impl OwnedReadHalf {
    address_methods!(reader);
    read_methods!();
}
impl WriteHalf<'_> {
    address_methods!(writer);
    write_methods!();
}
impl OwnedWriteHalf {
    address_methods!(writer);
    write_methods!();
}

macro_rules! async_read {
    ($($half:ty),*) => { $(
        impl AsyncRead for $half {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                self.get_mut().reader.poll_read(cx, buf)
            }
        }
    )* };
}

macro_rules! async_write {
    ($($half:ty),*) => { $(
        impl AsyncWrite for $half {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                self.writer.poll_write(cx, &mut Place::Reserved, &[IoSlice::new(buf)])
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.writer.poll_write(cx, &mut Place::Reserved, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.writer.poll_flush(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.writer.poll_shutdown(cx)
            }
        }
    )* };
}

async_read!(FlowStream, ReadHalf<'_>, OwnedReadHalf);
async_write!(FlowStream, WriteHalf<'_>, OwnedWriteHalf);
