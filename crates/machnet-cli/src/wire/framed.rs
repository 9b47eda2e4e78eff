//! Messages on byte streams: a length in front of each.
//!
//! Small messages are gathered and written with one call, large ones are written without a copy; one read takes all
//! there is, into a recycled buffer.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{MAX_SIZE, Rx, Tx};

/// Bytes of the length in front of each message.
const PREFIX: usize = 4;
/// Messages up to this size are copied next to each other.
const SMALL: usize = 16 << 10;
const WRITE_AT: usize = 64 << 10;
const READ_AT_LEAST: usize = 64 << 10;

/// Frames both directions of a stream.
pub(crate) fn framed<R, W>(read: R, write: W) -> (FramedTx<W>, FramedRx<R>) {
    (FramedTx { stream: write, pending: BytesMut::new() }, FramedRx { stream: read, buffer: BytesMut::new() })
}

pub(crate) struct FramedTx<W> {
    stream: W,
    pending: BytesMut,
}

impl<W: AsyncWrite + Unpin + Send + 'static> Tx<Bytes> for FramedTx<W> {
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

    async fn close(mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }
}

pub(crate) struct FramedRx<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R> FramedRx<R> {
    /// Length of the next message, once that much is known.
    fn next_len(&self) -> Option<usize> {
        self.buffer.first_chunk().map(|len| u32::from_be_bytes(*len) as usize)
    }

    fn has_next(&self) -> bool {
        self.next_len().is_some_and(|len| self.buffer.len() >= PREFIX + len)
    }
}

/// A stream that may be told that nobody is in a hurry.
pub(crate) trait Calm {
    /// See [`Rx::calm`].
    fn calm(&mut self) {}
}

impl<R: AsyncRead + Calm + Unpin + Send + 'static> Rx<Bytes> for FramedRx<R> {
    async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        while !self.has_next() {
            let len = self.next_len().unwrap_or(0);
            if len > MAX_SIZE {
                let text =
                    format!("the peer announces a message of {len} bytes, more than {MAX_SIZE}: not one of ours");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            let missing = (PREFIX + len).saturating_sub(self.buffer.len());
            self.buffer.reserve(missing.max(READ_AT_LEAST));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        let len = self.buffer.get_u32() as usize;
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    fn is_ready(&self) -> bool {
        self.has_next()
    }

    fn calm(&mut self) {
        self.stream.calm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T> Calm for tokio::io::ReadHalf<T> {}
    impl Calm for &[u8] {}

    #[tokio::test]
    async fn messages_of_any_size_arrive_as_sent() {
        let (near, far) = tokio::io::duplex(1000);
        let (read, write) = tokio::io::split(near);
        let (mut tx, _) = framed(read, write);
        let (read, write) = tokio::io::split(far);
        let (_, mut rx) = framed(read, write);
        let sizes = [0, 1, 3, 1024, SMALL, SMALL + 1, 200_000, 0];
        let sending = tokio::spawn(async move {
            for (i, size) in sizes.into_iter().enumerate() {
                tx.send(vec![i as u8; size].into()).await.unwrap();
            }
            tx.close().await.unwrap();
        });
        for (i, size) in sizes.into_iter().enumerate() {
            assert_eq!(rx.recv().await.unwrap().unwrap(), vec![i as u8; size]);
        }
        assert_eq!(rx.recv().await.unwrap(), None);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_cut_off_or_too_long_is_an_error() {
        for (bytes, kind) in [
            (&[0, 0, 0, 9, 1][..], io::ErrorKind::UnexpectedEof),
            (b"HTTP/1.1 400 Bad Request", io::ErrorKind::InvalidData),
        ] {
            let (_, mut rx) = framed(bytes, tokio::io::sink());
            assert_eq!(rx.recv().await.unwrap_err().kind(), kind);
        }
    }
}
