//! What a stream and its halves have in common: the methods of each direction, written once.

/// Where it leads: asked of the part named.
macro_rules! address_methods {
    ($part:ident) => {
        /// The other side's address.
        ///
        /// # Errors
        /// None; a `Result` because `TcpStream`'s is.
        pub fn peer_addr(&self) -> io::Result<SocketAddr> {
            Ok(self.$part.peer_addr())
        }

        /// The address that the stream uses on this side.
        ///
        /// # Errors
        /// None; a `Result` because `TcpStream`'s is.
        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(self.$part.local_addr())
        }
    };
}

/// The methods of whoever has a `reader`.
macro_rules! read_methods {
    () => {
        /// Waits until something can be read, the stream is at its end, or it failed: until `try_read` would not say
        /// `WouldBlock`. Any number of tasks may wait; of those only some may find something.
        ///
        /// # Errors
        /// None: the read tells them.
        ///
        /// # Cancel safety
        /// Dropping the future has no effect.
        pub async fn readable(&self) -> io::Result<()> {
            self.reader.readable().await
        }

        /// Reads what is there, up to the length of `buf`; 0 at the end of the stream.
        ///
        /// # Errors
        /// `WouldBlock` if nothing is there; else as [`Flow::recv`](crate::Flow::recv).
        pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
            self.reader.try_read(buf)
        }

        /// `try_read` into several buffers, one after the other.
        ///
        /// # Errors
        /// As `try_read`.
        pub fn try_read_vectored(&self, bufs: &mut [std::io::IoSliceMut<'_>]) -> io::Result<usize> {
            self.reader.try_read_vectored(bufs)
        }

        /// `try_read` into the room that `buf` has; a `Vec` or `BytesMut` always has some, and takes what is there.
        ///
        /// # Errors
        /// As `try_read`.
        pub fn try_read_buf<B: bytes::BufMut>(&self, buf: &mut B) -> io::Result<usize> {
            self.reader.try_read_buf(buf)
        }

        /// Waits for bytes and copies them, up to the length of `buf`, without taking them; 0 at the end of the stream.
        ///
        /// # Errors
        /// As [`Flow::recv`](crate::Flow::recv).
        ///
        /// # Cancel safety
        /// Dropping the future has no effect.
        pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
            self.reader.peek(buf).await
        }

        /// `peek` for hand-written futures. Registers the task that `poll_read` registers: the last one is woken.
        ///
        /// # Errors
        /// As `peek`.
        pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
            self.reader.poll_peek(cx, &mut Place::Reserved, buf)
        }

        /// Waits for bytes and takes those that lie in one piece, without a copy: the rest of a message of the
        /// peer's, or over DPDK of one of its packets. `None` at the end of the stream.
        ///
        /// The bytes may lie in a frame of the engine's memory, which goes home when they are dropped.
        ///
        /// # Errors
        /// As [`Flow::recv`](crate::Flow::recv).
        ///
        /// # Cancel safety
        /// Dropping the future loses nothing.
        pub async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
            std::future::poll_fn(|cx| self.reader.poll_chunk(cx)).await
        }
    };
}

/// The methods of whoever has a `writer`.
macro_rules! write_methods {
    () => {
        /// Waits until something can be written, or the direction ended: until `try_write` would not say `WouldBlock`. Any
        /// number of tasks may wait; of those only some may find room.
        ///
        /// # Errors
        /// None: the write tells them.
        ///
        /// # Cancel safety
        /// Dropping the future has no effect.
        pub async fn writable(&self) -> io::Result<()> {
            self.writer.writable().await
        }

        /// Writes what can be written now, at least a byte.
        ///
        /// # Errors
        /// `WouldBlock` if that is nothing, `BrokenPipe` if the peer reads no more or this direction was shut down; else as
        /// [`Flow::recv`](crate::Flow::recv).
        pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
            self.writer.try_write(&[IoSlice::new(buf)])
        }

        /// `try_write` of several buffers, as if they were one.
        ///
        /// # Errors
        /// As `try_write`.
        pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            self.writer.try_write(bufs)
        }

        /// Writes all of `chunk`, without a copy: as one message, if it is not longer than the flow takes.
        ///
        /// # Errors
        /// As `write`: `BrokenPipe` if the peer reads no more or this direction was shut down; else as
        /// [`Flow::recv`](crate::Flow::recv).
        ///
        /// # Cancel safety
        /// A chunk up to [`Flow::max_message_size`](crate::Flow::max_message_size) is written whole or not at all. Of a
        /// longer one some may have been written.
        pub async fn write_chunk(&mut self, mut chunk: Bytes) -> io::Result<()> {
            std::future::poll_fn(|cx| self.writer.poll_write_chunk(cx, &mut chunk)).await
        }

        /// Resolves when the peer's transport has acknowledged everything written so far, which `flush` does not wait for.
        /// What the peer's *application* has read of it only the application can say.
        ///
        /// # Errors
        /// That will not happen: as [`Flow::acked`](crate::Flow::acked).
        ///
        /// # Cancel safety
        /// Dropping the future has no effect.
        pub async fn acked(&mut self) -> io::Result<()> {
            std::future::poll_fn(|cx| self.writer.poll_acked(cx)).await
        }
    };
}

pub(super) use {address_methods, read_methods, write_methods};
