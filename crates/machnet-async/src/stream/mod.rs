//! A flow as a byte stream: what is used where a `TcpStream` was.
//!
//! ```text
//! mod.rs       FlowStream
//! reader.rs    bytes out of messages          writer.rs    messages out of bytes
//! split.rs     the halves, AsyncRead and AsyncWrite        methods.rs   what a stream and its halves have in common
//! waits.rs     tasks that wait                listener.rs  FlowListener
//! ```

mod listener;
mod methods;
mod reader;
mod split;
mod waits;
mod writer;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use machnet_channel::FlowStats;
use tokio::io::{Interest, ReadBuf, Ready};
use tokio::net::{ToSocketAddrs, lookup_host};

pub use listener::{FlowIncoming, FlowListener};
pub use split::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};

use crate::{Endpoint, Flow};
use methods::{address_methods, read_methods, write_methods};
use reader::Reader;
use waits::Place;
use writer::Writer;

/// A [`Flow`] as a byte stream, with tokio's `AsyncRead` and `AsyncWrite`: in the place of a `TcpStream`.
///
/// Both sides must use the flow as a stream: message boundaries are not kept, and empty messages are not seen.
///
/// Dropped, it sends what was written, in the background and for as long as the configured linger allows, and tells the
/// peer that nothing more will be read. Use `shutdown().await` to know that everything arrived, above all before the
/// process exits.
///
/// # What is different from `TcpStream`
///
/// | | `TcpStream` | `FlowStream` |
/// |---|---|---|
/// | `shutdown` | returns at once | half-closes, and resolves when the peer's transport has everything: `TimedOut` after [`Config::linger`](crate::Config::linger), while it goes on being sent |
/// | `shutdown` of a stream that failed | `NotConnected` | the failure, unless everything had arrived before it |
/// | `shutdown` when the peer reads no more, and discarded what was underway | as above, or `Ok` | `BrokenPipe` |
/// | the peer is dropped while it has unread bytes | reads fail with `ConnectionReset` | reads get what the peer wrote, then `Ok(0)`; writes fail with `BrokenPipe` |
/// | the peer is dropped: the first write after it | `Ok`, the next one fails | fails as soon as the peer has said so, with `BrokenPipe` |
/// | the peer's process is killed | the kernel ends the stream, `Ok(0)` or `ConnectionReset`, at once | its engine is gone, too: reads and writes fail with `TimedOut` after [`Config::dead_peer_timeout`](crate::Config::dead_peer_timeout), or `ConnectionReset` once the peer was restarted |
/// | a peer that vanished, nothing being sent | never noticed, unless keepalives are set | as above |
/// | a read into an empty buffer | waits for bytes first | `Ok(0)` at once |
/// | a write of nothing to a stream that was shut down | `Ok(0)` | `BrokenPipe` |
/// | `set_nodelay` | without it small writes may wait | has no effect: no write ever waits for company |
/// | a file descriptor (`AsRawFd`, `into_std`, `socket2::SockRef`), `try_io`, `ttl`, `linger` | yes | none |
///
/// # Writing
///
/// While the flow has room each write is a message, sent at once, of up to 64 KiB; vectored writes are gathered into one.
/// Writing a little at a time costs a message each, of some 20 bytes on the wire and one allocation: buffer, as with
/// TCP (`BufWriter`). Without room, because [`Config::send_buffer`](crate::Config::send_buffer) bytes are unacknowledged,
/// up to 64 KiB more gather and go as one message as soon as there is room, by themselves; writers wait after that.
///
/// `flush` resolves when the engine has everything: with no room, it waits for room. That is not the peer's
/// acknowledgement, for which there is [`FlowStream::acked`].
///
/// # Reading
///
/// Over DPDK, what the peer wrote stays in the packets that brought it, as far as the driver has enough of them
/// ([`Flow::recv_chunks`](crate::Flow::recv_chunks)), until a read copies it to its buffer or [`FlowStream::read_chunk`] takes it.
///
/// # Waiting
///
/// Each direction wakes the task that polled `AsyncRead` or `AsyncWrite` last, and all tasks that wait in `readable`,
/// `writable` or `peek`. On tokio all of them take part in its budget ([fairness](crate#fairness)).
///
/// # Cancel safety
///
/// As tokio's: `read` and `write` dropped before they resolved have read or written nothing; `write_all` and
/// `read_exact` may have done some.
///
/// # Errors
///
/// Those of the [flow](crate#errors), of the same kinds as a `TcpStream`'s.
#[derive(Debug)]
#[must_use = "dropped, it is closed"]
pub struct FlowStream {
    reader: Reader,
    writer: Writer,
}

impl Flow {
    /// The flow as a byte stream, for [`FlowStream`] on both sides.
    pub fn into_stream(self) -> FlowStream {
        let (send, recv) = self.into_split();
        FlowStream { reader: Reader::new(recv), writer: Writer::new(send) }
    }
}

impl FlowStream {
    /// Connects to whoever listens at `peer`, from the process's default endpoint: see
    /// [`Endpoint::default_for`](crate::Endpoint::default_for). Of several addresses that a name resolves to, the first
    /// that answers. From an endpoint of one's own: [`Endpoint::connect`](crate::Endpoint::connect) and
    /// [`Flow::into_stream`].
    ///
    /// # Errors
    /// The last address's, as [`Flow::connect`]. `InvalidInput` if there is no address; else what the resolver says.
    ///
    /// # Panics
    /// Outside of a tokio runtime if `peer` is a name: it is resolved there.
    ///
    /// # Cancel safety
    /// As [`Endpoint::connect`](crate::Endpoint::connect).
    pub async fn connect(peer: impl ToSocketAddrs) -> io::Result<Self> {
        Self::connect_from(None, peer).await
    }

    /// From `endpoint`, or a default one.
    pub(crate) async fn connect_from(endpoint: Option<&Endpoint>, peer: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = None;
        for peer in lookup_host(peer).await? {
            let flow = match endpoint {
                Some(endpoint) => endpoint.connect(peer).await,
                None => Flow::connect(peer).await,
            };
            match flow {
                Ok(flow) => return Ok(flow.into_stream()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(no_address))
    }

    /// The flow again, and what had arrived and was not read: the rest of a message, copied if it lies in several packets. What was
    /// written is sent.
    pub fn into_flow(self) -> (Flow, Bytes) {
        let Self { reader, writer } = self;
        let (recv, rest) = reader.into_parts();
        (Flow { send: writer.into_half(), recv }, rest.into_bytes())
    }

    /// The flow's counters, at most one round of the engine old.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        self.reader.stats()
    }

    /// Waits for what `interest` names, and says which of it there is. Other interests than reading and writing are never
    /// met.
    ///
    /// # Errors
    /// None: the read or write tells them.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        let mut reading = self.reader.own_place();
        let mut writing = self.writer.own_place();
        std::future::poll_fn(|cx| {
            let mut found = Ready::EMPTY;
            if interest.is_readable() && self.reader.poll_ready(cx, &mut reading)?.is_ready() {
                found |= Ready::READABLE;
            }
            if interest.is_writable() && self.writer.poll_ready(cx, &mut writing)?.is_ready() {
                found |= Ready::WRITABLE;
            }
            if found.is_empty() { Poll::Pending } else { Poll::Ready(Ok(found)) }
        })
        .await
    }

    /// [`FlowStream::readable`] for hand-written futures. Registers the task that `poll_read` registers: the last one is
    /// woken.
    ///
    /// # Errors
    /// None: the read tells them.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader.poll_ready(cx, &mut Place::Reserved)
    }

    /// [`FlowStream::writable`] for hand-written futures. Registers the task that `poll_write` registers: the last one is
    /// woken.
    ///
    /// # Errors
    /// None: the write tells them.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_ready(cx, &mut Place::Reserved)
    }

    /// True: no write ever waits for company.
    ///
    /// # Errors
    /// None; a `Result` because `TcpStream`'s is.
    pub const fn nodelay(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Has no effect: a stream always behaves as if it were set. Exists so that code written for `TcpStream` compiles.
    ///
    /// # Errors
    /// None; a `Result` because `TcpStream`'s is.
    pub const fn set_nodelay(&self, _nodelay: bool) -> io::Result<()> {
        Ok(())
    }

    /// `None`: errors are told by the calls that meet them.
    ///
    /// # Errors
    /// None; a `Result` because `TcpStream`'s is.
    pub const fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    address_methods!(reader);
    read_methods!();
    write_methods!();
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to: the name resolves to none")
}
