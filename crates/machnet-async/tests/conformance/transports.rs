//! The transports, and where they may differ.

use std::io::ErrorKind;

use machnet_async::{Config, Endpoint, FlowStream, Placement, Udp};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

use crate::support::sidecar::daemon;
use crate::support::{Pair, V4, pair_with};

pub trait Transport: 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// `is_write_vectored`.
    const VECTORED: bool = true;
    /// What a reader may meet after the last byte of a peer that is gone, instead of the end.
    const AFTER_GONE: &'static [ErrorKind] = &[];
    /// What a writer meets whose peer is gone.
    const WRITE_TO_GONE: &'static [ErrorKind] = &[ErrorKind::BrokenPipe];
    /// How much of bulk is sent: all, except where that is no speed.
    const BULK: usize = 64 << 20;

    /// Two ends, and what must live as long as they.
    fn pair() -> impl Future<Output = (Self::Stream, Self::Stream, Box<dyn Send>)>;
}

pub struct Tcp;

impl Transport for Tcp {
    type Stream = TcpStream;
    const AFTER_GONE: &'static [ErrorKind] = &[ErrorKind::ConnectionReset];
    const WRITE_TO_GONE: &'static [ErrorKind] = &[ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];

    async fn pair() -> (TcpStream, TcpStream, Box<dyn Send>) {
        let listener = TcpListener::bind((V4, 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near, far, Box::new(listener))
    }
}

pub struct Duplex;

impl Transport for Duplex {
    type Stream = DuplexStream;

    async fn pair() -> (DuplexStream, DuplexStream, Box<dyn Send>) {
        let (near, far) = tokio::io::duplex(64 << 10);
        (near, far, Box::new(()))
    }
}

/// As applications have it: default configuration, engines on threads.
pub struct Flow;

impl Transport for Flow {
    type Stream = FlowStream;

    async fn pair() -> (FlowStream, FlowStream, Box<dyn Send>) {
        let Pair { near, far, client, server, listener } = pair_with(V4, Config::default()).await;
        (near.into_stream(), far.into_stream(), Box::new((client, server, listener)))
    }
}

/// Both engines on the runtime of the test.
pub struct Inline;

impl Transport for Inline {
    type Stream = FlowStream;
    const BULK: usize = 16 << 20;

    async fn pair() -> (FlowStream, FlowStream, Box<dyn Send>) {
        let start = || {
            let driver = Udp::bind((V4, 0)).unwrap();
            Endpoint::builder().driver(driver).placement(Placement::Inline).start().unwrap()
        };
        let (client, server) = (start(), start());
        let mut listener = server.listen(0).await.unwrap();
        let near = client.connect(listener.local_addr()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near.into_stream(), far.into_stream(), Box::new((client, server, listener)))
    }
}

/// The least that can be configured: there is hardly ever room, so that writes gather.
pub struct TinyFlow;

impl Transport for TinyFlow {
    type Stream = FlowStream;
    const BULK: usize = 4 << 20;

    async fn pair() -> (FlowStream, FlowStream, Box<dyn Send>) {
        let mut config = Config::default();
        config.send_buffer = 2 << 10;
        config.receive_window = 2 << 10;
        let Pair { near, far, client, server, listener } = pair_with(V4, config).await;
        (near.into_stream(), far.into_stream(), Box::new((client, server, listener)))
    }
}

/// Each end in a daemon of its own.
pub struct Sidecar;

impl Transport for Sidecar {
    type Stream = FlowStream;
    const BULK: usize = 16 << 20;

    async fn pair() -> (FlowStream, FlowStream, Box<dyn Send>) {
        let daemons = [daemon(Config::default()), daemon(Config::default())];
        let [client, server] = [0, 1].map(|at: usize| Endpoint::attach(daemons[at].socket()).unwrap());
        let mut listener = server.listen(0).await.unwrap();
        let near = client.connect(listener.local_addr()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        // Dropped last, and asked to end before their applications have ended: they wait for them.
        (near.into_stream(), far.into_stream(), Box::new((client, server, listener, daemons)))
    }
}
