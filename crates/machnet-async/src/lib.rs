//! Machnet for async applications: flows are awaited, on tokio or any other executor.
//!
//! It is not TLS: a flow carries messages, in the clear, between hosts of one trusted network. [`FlowStream`] makes a byte
//! stream of it.
//!
//! ```
//! use machnet_async::{Endpoint, Udp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let server = Endpoint::builder().driver(Udp::bind("127.0.0.1:0")?).start()?;
//! let mut listener = server.listen(0).await?;
//! let address = listener.local_addr();
//! let serving = tokio::spawn(async move {
//!     let (mut flow, _peer) = listener.accept().await?;
//!     while let Some(message) = flow.recv().await? {
//!         flow.send(message).await?;
//!     }
//!     flow.close().await
//! });
//!
//! let client = Endpoint::builder().driver(Udp::bind("127.0.0.1:0")?).start()?;
//! let mut flow = client.connect(address).await?;
//! flow.send("hello").await?;
//! assert_eq!(flow.recv().await?.unwrap(), "hello");
//! flow.close().await?;
//! serving.await??;
//! # client.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Model
//!
//! An [`Endpoint`] is an address with an *engine* behind it, which owns a vNIC queue (the [`Driver`]; [`Udp`] is the one
//! that runs anywhere, [`Shm`] the fastest between processes of one host) and does everything about the network: packets, acknowledgements, retransmission,
//! timers. An endpoint connects [`Flow`]s and [listens](Endpoint::listen) for them. A flow is a reliable, ordered,
//! bidirectional connection that preserves messages: one `send`, one `recv`, also of 0 bytes. It delivers in order; who
//! wants no waiting behind a large message opens another flow, they are cheap.
//!
//! Applications and engine share queues and words in memory, nothing else. Sending is a push to a queue; the engine is
//! rung only if it sleeps ([`IdlePolicy`]). No call blocks a thread, and none needs a runtime: the futures are plain
//! ones, and may be moved between executors, polled by several, or dropped.
//!
//! # Placements
//!
//! | [`Placement`] | who polls the engine | use it |
//! |---|---|---|
//! | `Thread` (default) | a thread of its own | with any executor; if tasks compute for long; with a core to spare |
//! | `Inline` | a task of the current-thread tokio runtime that `start` is called in | for the shortest round trips; one runtime per core |
//!
//! Inline, nothing crosses threads and nobody is woken from outside: two processes exchange 1 KiB over loopback UDP in
//! 10 µs there and back, 16 µs with threads, 50 µs over TCP (`echo --two-process`). In exchange the engine shares its
//! core: it lets everybody else run between its rounds, which it keeps below 50 µs, but makes **no progress outside of
//! `block_on`, nor while a task computes without awaiting**: peers are not answered, and end their flows if that lasts for
//! [`Config::dead_peer_timeout`]. It ends with its runtime, and its flows with it. The future of `block_on` is polled a
//! little later than tasks are: spawn what is in a hurry.
//!
//! ```
//! use machnet_async::{Endpoint, Placement, Udp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let endpoint = Endpoint::builder().driver(Udp::bind("127.0.0.1:0")?).placement(Placement::Inline).start()?;
//! # endpoint.shutdown().await
//! # }
//! ```
//!
//! Or the engine is in a daemon, one for all applications of a host: [`Endpoint::attach`]. Everything here is the same then; no
//! thread is added on the way of a message, for whoever sends or waits moves messages to and from the daemon's memory. When the daemon is gone, or does not answer
//! for [5 s](AttachBuilder::daemon_timeout), every flow ends with [`CloseReason::DaemonGone`] or `DaemonSilent`, and listeners with an error of kind `NetworkDown`, unless [`Reconnect`] says otherwise.
//!
//! When there is nothing to do, an engine goes down a ladder, [`IdlePolicy`]: spin, yield, park.
//!
//! | policy | use it |
//! |---|---|
//! | `YieldThenPark`, 100 µs (default) | always good: gives the core away at once, and sleeps soon |
//! | `Ladder` | if the engine has a core to itself most of the time, and microseconds count |
//! | `Spin` | on a core reserved for the engine; it never sleeps |
//! | `Park` | if work is rare, and its latency does not matter: each message costs a wake-up |
//!
//! # Waking
//!
//! The engine collects whom a round of work concerns and wakes each once at its end, so a burst of messages to one flow is
//! one wake-up. There is one waiter per flow and direction: the task that polled last, which `&mut self` ensures.
//!
//! To wake a task from another thread is a system call, and on a virtual machine costs the engine 10–20 µs and the task
//! 25–40 µs if its thread sleeps. A current-thread runtime built with the [`park_hook`] waits awake for its flows, up to
//! 100 µs at a time, and engines leave the waking to it. On runtimes with several workers,
//! [`recv_spin`](EndpointBuilder::recv_spin) looks for messages inside `recv`. Both are for applications whose engine has a
//! thread; inline engines need neither. What was called, rung and slept is counted: [`Endpoint::wake_stats`].
//!
//! # Back-pressure
//!
//! [`Flow::send`] waits while [`Config::send_buffer`] is underway and unacknowledged; a peer sends at most
//! [`Config::receive_window`] beyond what its application has received. An application that stops receiving thereby
//! stops its peer's sender, and only that flow. Both are counted in units of 64 bytes, of which each message costs one
//! more than its payload needs, so that empty messages are not free.
//!
//! Who would rather not wait asks with [`Flow::try_send`], which gives the message back when there is no room. Who wants
//! to build a message only when it can go, in place, takes a permit first:
//!
//! ```
//! # use machnet_async::{Endpoint, TrySendError, Udp};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let net = Endpoint::builder().driver(Udp::bind("127.0.0.1:0")?).start()?;
//! # let mut listener = net.listen(0).await?;
//! # let mut flow = net.connect(listener.local_addr()).await?;
//! use bytes::BufMut;
//!
//! let mut message = flow.reserve(16).await?; // waits for room
//! message.put_u64(7);
//! message.send(); // sends 8 bytes, and cannot wait or fail
//!
//! if let Err(TrySendError::Full(message)) = flow.try_send("not urgent") {
//!     drop(message);
//! }
//! flow.acked().await?; // the peer's transport has everything
//! # let (mut other, _) = listener.accept().await?;
//! # assert_eq!(other.recv().await?.unwrap().len(), 8);
//! # assert_eq!(other.recv().await?.unwrap(), "not urgent");
//! # Ok(())
//! # }
//! ```
//!
//! # Congestion
//!
//! Each side chooses how its own sending finds out what the path takes: [`Config::congestion`] for all flows of an
//! endpoint, [`FlowOptions`] for one. By default it is CUBIC over sockets, which is fair to TCP, and Swift over drivers
//! that are polled, which keeps queues short.
//!
//! ```
//! # use machnet_async::{Endpoint, Udp};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let net = Endpoint::builder().driver(Udp::bind("127.0.0.1:0")?).start()?;
//! use machnet_async::{Congestion, FlowOptions};
//!
//! let swift = FlowOptions::new().congestion(Congestion::Swift);
//! let listener = net.listen(0).options(swift).await?; // of what accepted flows send
//! let flow = net.connect(listener.local_addr()).options(swift).await?; // of what this one sends
//! # drop(flow);
//! # Ok(())
//! # }
//! ```
//!
//! # Streams and sinks
//!
//! [`Flow::into_messages`] makes a `Stream` and a `Sink` of a flow, and [`Listener::incoming`] a `Stream` of a listener.
//! They are types of their own: a `Flow` that were a `Sink` would have its `send` and `close` hidden by `SinkExt`'s.
//!
//! ```
//! # use machnet_async::{Endpoint, Udp};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let net = Endpoint::builder().driver(Udp::bind("127.0.0.1:0")?).start()?;
//! # let mut listener = net.listen(0).await?;
//! # let address = listener.local_addr();
//! use futures::{SinkExt, StreamExt};
//!
//! tokio::spawn(async move {
//!     while let Some(Ok(flow)) = listener.incoming().next().await {
//!         let (sink, stream) = flow.into_messages().split();
//!         tokio::spawn(stream.forward(sink)); // an echo server
//!     }
//! });
//! let mut messages = net.connect(address).await?.into_messages();
//! messages.send("hello".into()).await?;
//! assert_eq!(messages.next().await.unwrap()?, "hello");
//! messages.close().await
//! # }
//! ```
//!
//! # In the place of TCP
//!
//! [`FlowStream`] is a flow as a byte stream, with tokio's `AsyncRead` and `AsyncWrite`, and [`FlowListener`] listens for
//! them: what is different from `TcpStream` is [a table](FlowStream#what-is-different-from-tcpstream).
//!
//! ```
//! use machnet_async::{FlowListener, FlowStream};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let listener = FlowListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! tokio::spawn(async move {
//!     let (mut stream, _peer) = listener.accept().await?;
//!     let (mut read, mut write) = stream.split();
//!     tokio::io::copy(&mut read, &mut write).await?;
//!     stream.shutdown().await
//! });
//!
//! let mut stream = FlowStream::connect(address).await?;
//! stream.write_all(b"hello").await?;
//! stream.shutdown().await?;
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! assert_eq!(answer, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # The default endpoint
//!
//! [`Flow::connect`] and [`Listener::bind`] need no endpoint at hand: they use the process's own, which is started when
//! it is first needed and which `MACHNET_ENDPOINT` chooses; see [`Endpoint::default_for`].
//!
//! # Fairness
//!
//! On tokio, flows and listeners take part in the budget that makes a task yield now and then though all it awaits is
//! ready (`tokio::task::coop`). On other executors nothing is done about it.
//!
//! # Cancel safety
//!
//! Every future of this crate may be dropped at any await, in `select!` for example.
//!
//! | dropped | has done |
//! |---|---|
//! | [`Flow::send`] | nothing: its one wait is for room, and committing the whole message is a single step after it |
//! | [`Flow::reserve`], and the permit | nothing; the room is anybody's |
//! | [`Flow::recv`], [`Listener::accept`], a stream's `next` | nothing: they take what they return in the step that returns it |
//! | [`Flow::acked`], [`Flow::closed`] | nothing |
//! | what tokio calls cancel safe, on a [`FlowStream`] | nothing; what it does not (`write_all`, `read_exact`), a part |
//! | [`Endpoint::connect`] | given the flow up; a peer that accepted it meanwhile sees it end |
//! | [`Flow::close`], [`Endpoint::shutdown`] | begun what goes on in the background, as does a dropped flow |
//!
//! The waker of a future dropped while it waited stays with its flow until the flow has something to wake it for, another
//! future waits in its place, or the half is dropped: at most three wakers per flow, as small as tasks are, and one call
//! that is for nothing. (tokio's `mpsc` does so, too.)
//!
//! # Endings
//!
//! | to | use |
//! |---|---|
//! | say that no more follows, and go on receiving | [`Flow::finish`] |
//! | know that everything has arrived, and go on | [`Flow::acked`] |
//! | know that everything has arrived, and end | [`Flow::close`] |
//! | know when, and why, the flow is over | [`Flow::closed`] |
//! | let go, everything sent being delivered meanwhile | drop the flow |
//! | end at once | [`Flow::abort`] |
//! | wait for all flows before the process exits | [`Endpoint::shutdown`] |
//!
//! A process that exits right after `send` or a drop takes the engine with it, and what was underway.
//!
//! # Errors
//!
//! Kinds are those a user of `TcpStream` expects. The source is a [`FlowError`] with the [`CloseReason`], or for `send`
//! a [`SendError`] with the message. Messages that arrived before a flow failed are received before its error.
//!
//! | what happened | [`CloseReason`] | [`io::ErrorKind`](std::io::ErrorKind) |
//! |---|---|---|
//! | nobody listens at the peer's port | `Refused` | `ConnectionRefused` |
//! | the handshake was not answered in [`Config::connect_timeout`] | `ConnectTimeout` | `TimedOut` |
//! | the peer acknowledged nothing for [`Config::dead_peer_timeout`] | `PeerDead` | `TimedOut` |
//! | the peer ended the flow, or knows it no longer | `Reset` | `ConnectionReset` |
//! | a message was larger than its receiver takes | `TooLarge` | `ConnectionReset` |
//! | this side aborted the flow, or its linger was over | `Aborted` | `ConnectionAborted` |
//! | the peer broke the protocol | `Protocol` | `InvalidData` |
//! | no common version | `Version` | `Unsupported` |
//! | the endpoint was shut down, or its engine failed | `Shutdown` | `NotConnected` |
//! | [`Config::max_flows`] flows exist | `NoRoom` | `ResourceBusy` |
//! | the address cannot be reached from the endpoint's: another family, or no route leads there | `Unreachable` | `HostUnreachable` |
//! | the daemon that the endpoint is attached to is gone | `DaemonGone` | `NetworkDown` |
//! | it does not answer for [so long](AttachBuilder::daemon_timeout) | `DaemonSilent` | `NetworkDown` |
//! | `send` to a peer that reads no more, or after `finish` | | `BrokenPipe` |
//! | `send` of more than [`Flow::max_message_size`] | | `InvalidInput` |
//! | `try_send` without room, `try_recv` without a message | | `WouldBlock` |
//! | `acked` or `close`, of what the peer discarded because it reads no more | | `BrokenPipe` |
//! | `MACHNET_ENDPOINT` is malformed; names what this version does not have | | `InvalidInput`; `Unsupported` |
//!
//! Which call returns what in which state is a table in the specification, `docs/spec/flow.md`.
//!
//! # Limits
//!
//! [`Config`] has them all, with their defaults; among them messages of 64 MiB, 65 536 flows per endpoint, 2 MiB underway
//! per flow and direction. A listener keeps 128 flows that wait to be accepted, or what [`Endpoint::listen_with`] says.
//!
//! # Logs
//!
//! The life of endpoints, listeners and flows goes to `tracing` at debug; nothing is logged per message.
#![forbid(unsafe_code)]

pub mod adapters;
mod attach;
mod coop;
mod datapath;
mod default;
mod endpoint;
mod error;
mod flow;
mod hook;
mod idle;
mod inline;
mod listener;
mod messages;
mod pace;
mod parker;
mod reserve;
mod runner;
mod spin;
mod stream;
#[cfg(test)]
mod tests;
pub mod transport;
mod wait;

/// An engine thread for applications of another kind: the daemon's.
#[doc(hidden)]
pub mod engine {
    pub use crate::datapath::{Ended, EngineThread, Outcome, Status, seed};
}

/// The futures that endpoints, listeners and flows return.
pub mod future {
    pub use crate::endpoint::Shutdown;
    pub use crate::flow::{Close, Connect, Recv, RecvChunks, Send};
    pub use crate::listener::{Accept, Listen};
    pub use crate::reserve::Reserve;
    pub use crate::wait::{Acked, Closed};
}

/// The halves of a [`FlowStream`].
pub mod halves {
    pub use crate::stream::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
}

pub use attach::{AttachBuilder, Reconnect};
pub use endpoint::{Endpoint, EndpointBuilder, NoDriver, Placement, WakeStats};
pub use error::{FlowError, SendError, SendErrorReason, TrySendError};
pub use flow::{Flow, RecvHalf, ReuniteError, SendHalf};
pub use hook::{ParkHook, park_hook};
pub use idle::IdlePolicy;
pub use listener::{Incoming, Listener};
pub use machnet_channel::{Chunks, CloseReason, Congestion, FlowOptions, FlowStats, IntoChunks, Message, Reserved};
pub use machnet_core::{Config, ConfigError, Driver, DropReason, Drops, EngineStats};
#[cfg(feature = "dpdk")]
#[doc(inline)]
pub use machnet_dpdk as dpdk;
pub use machnet_shm::{Shm, ShmBuilder, ShmStats};
pub use machnet_udp::{Udp, UdpBuilder};
pub use messages::Messages;
pub use stream::{FlowIncoming, FlowListener, FlowStream};
