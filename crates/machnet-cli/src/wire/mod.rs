//! What carries messages between client and server: Machnet, and its rivals behind the same few calls.
//!
//! ```text
//! machnet.rs   udp://, shm://, dpdk://  flows of an endpoint; unix://  of one in a daemon
//! framed.rs                 messages on byte streams, a length in front of each
//! tcp.rs       tcp://       tokio's TcpStream
//! uds.rs       uds://       tokio's UnixStream
//! quic.rs      quic://      quinn: a stream for each flow, all of one connection
//! spin.rs      tcp+spin://  TCP sockets that are polled without ever sleeping
//! udp_spin.rs  udp+spin://  bare datagrams, polled likewise: what the kernel's UDP can do
//! (perf/raw.rs dpdk+raw://  bare frames, which carry no messages: what a DPDK wire can do)
//! url.rs                    which of them a URL means
//! ```
//!
//! Each scheme is used as one who knows it would: batches where it has them, no delay, no needless copy.

mod framed;
mod machnet;
#[cfg(feature = "quic")]
mod quic;
mod spin;
mod tcp;
mod udp_spin;
mod uds;
mod url;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ::machnet::{Congestion, IdlePolicy, Placement};
use bytes::Bytes;
use serde_json::{Map, Value};

pub(crate) use machnet::{HANDED_OVER, RECEIVED};
pub(crate) use url::{Place, Scheme, Url};

/// The longest message of schemes that know no limit of their own: Machnet's.
pub(crate) const MAX_SIZE: usize = 64 << 20;

/// The sending direction of a connection that carries messages.
pub(crate) trait Tx<M>: Send + 'static {
    /// Sends one message, perhaps after a moment in which others may join it: see `flush`.
    fn send(&mut self, message: M) -> impl Future<Output = io::Result<()>> + Send;
    /// Sends a message of `len` bytes that `fill` writes, to where the transport would have it written.
    fn send_filled(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) + Send,
    ) -> impl Future<Output = io::Result<()>> + Send
    where
        M: From<Bytes> + Send,
    {
        async move {
            let mut bytes = vec![0; len];
            fill(&mut bytes);
            self.send(Bytes::from(bytes).into()).await
        }
    }
    /// Sees to it that what was sent is underway. Called before waiting for an answer.
    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Says that nothing follows. What was sent still arrives.
    fn close(self) -> impl Future<Output = io::Result<()>> + Send;
}

/// The receiving direction of a connection that carries messages.
pub(crate) trait Rx<M>: Send + 'static {
    /// The next message; `None` after the last one. Dropped, it has lost none.
    fn recv(&mut self) -> impl Future<Output = io::Result<Option<M>>> + Send;
    /// True if `recv` will not wait; asked by those who flush before they do.
    fn is_ready(&self) -> bool;
    /// Waits without using a core from now on, at the price of some milliseconds.
    fn calm(&mut self) {}
}

/// One end of a connection.
pub(crate) type Link<W> = (<W as Wire>::Tx, <W as Wire>::Rx);

/// A transport, with the address of the server.
pub(crate) trait Wire: Sized + Send + Sync + 'static {
    /// What is sent and received.
    type Message: From<Bytes> + AsRef<[u8]> + Send + 'static;
    /// The sending direction of a connection.
    type Tx: Tx<Self::Message>;
    /// The receiving direction of a connection.
    type Rx: Rx<Self::Message>;
    /// What accepts connections.
    type Listener: Listener<Self>;

    /// Listens at the address.
    fn listen(&self) -> impl Future<Output = io::Result<Self::Listener>> + Send;
    /// Connects to the address.
    fn connect(&self) -> impl Future<Output = io::Result<Link<Self>>> + Send;

    /// Connects to a server that ends the connection at once, and ends it on this side too.
    fn come_and_go(&self) -> impl Future<Output = io::Result<()>> + Send {
        async {
            let (tx, mut rx) = self.connect().await?;
            match rx.recv().await? {
                None => tx.close().await,
                Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the server sends where it should end")),
            }
        }
    }

    /// The longest message, bytes.
    fn max_size(&self) -> usize {
        MAX_SIZE
    }

    /// What else it counts, for the report.
    fn facts(&self) -> Map<String, Value> {
        Map::new()
    }

    /// Ends what is shared by connections; everything sent is delivered first.
    fn shut_down(&self) -> impl Future<Output = io::Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// What accepts connections.
pub(crate) trait Listener<W: Wire>: Send + 'static {
    /// The URL for clients.
    fn url(&self) -> String;
    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Link<W>>> + Send;
}

/// How Machnet endpoints are set up. `None`: not chosen, so the library's default.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Who polls the engine.
    pub(crate) placement: Placement,
    /// What it does when nothing is to be done.
    pub(crate) idle: IdlePolicy,
    /// How long a flow of a daemon's looks for a message before it waits.
    pub(crate) recv_spin: Duration,
    /// The core of the engine's thread.
    pub(crate) engine_core: Option<usize>,
    /// The local address of clients.
    pub(crate) bind: Option<IpAddr>,
    /// Flows that this process may have at a time.
    pub(crate) flows: u32,
    /// Flows that an engine can have.
    pub(crate) max_flows: u32,
    /// The longest UDP payload.
    pub(crate) max_payload: Option<u32>,
    /// How flows find out how much the path takes.
    pub(crate) congestion: Option<Congestion>,
    /// How long a peer may be silent.
    pub(crate) timeout: Duration,
}

/// Which side of connections this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Something to do over a transport, whichever it is.
pub(crate) trait Job {
    /// What comes of it.
    type Output;
    /// Does it.
    fn run<W: Wire>(self, wire: W) -> impl Future<Output = anyhow::Result<Self::Output>>;
}

/// Does `job` over the transport of `url`.
pub(crate) async fn over<J: Job>(job: J, url: &Url, setup: &Setup, side: Side) -> anyhow::Result<J::Output> {
    match url.scheme {
        Scheme::Udp => job.run(machnet::Machnet::udp(url.resolve().await?, url.engines, setup, side)?).await,
        Scheme::Shm => {
            let (name, port) = url.name();
            job.run(machnet::Machnet::shm(name, port, setup, side)?).await
        }
        #[cfg(feature = "dpdk")]
        Scheme::Dpdk => {
            let (port, server) = url.dpdk(side)?;
            job.run(machnet::Machnet::dpdk(port, server, setup)?).await
        }
        #[cfg(feature = "dpdk")]
        Scheme::DpdkRaw => anyhow::bail!("dpdk+raw:// carries no messages: `machnet perf` alone measures it"),
        Scheme::Unix => {
            let (path, server) = url.daemon();
            job.run(machnet::Machnet::unix(path, server, setup)?).await
        }
        Scheme::Tcp => job.run(tcp::Tcp::new(url.resolve().await?, setup.bind)).await,
        Scheme::TcpSpin => job.run(spin::TcpSpin::new(url.resolve().await?, setup.bind)).await,
        Scheme::UdpSpin => job.run(udp_spin::UdpSpin::new(url.resolve().await?, setup.bind)).await,
        Scheme::Uds => job.run(uds::Uds::new(url.path())).await,
        #[cfg(feature = "quic")]
        Scheme::Quic => job.run(quic::Quic::open(url.resolve().await?, setup, side)?).await,
    }
}
