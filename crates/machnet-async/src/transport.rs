//! The transport chosen when the program runs: TCP or Machnet, behind one code path.
//!
//! ```no_run
//! use machnet_async::transport::Address;
//! use tokio::io::AsyncWriteExt;
//!
//! # async fn example() -> std::io::Result<()> {
//! // From a flag or a file: "tcp://10.0.0.2:6379" or "machnet://10.0.0.2:6379".
//! let address: Address = std::env::args().nth(1).unwrap_or_default().parse()?;
//! let mut stream = address.connect().await?;
//! stream.write_all(b"PING\r\n").await
//! # }
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::{Endpoint, FlowListener, FlowStream};

/// A byte stream of either transport.
pub trait ByteStream: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {
    /// The other side's address.
    ///
    /// # Errors
    /// The operating system's.
    fn peer_addr(&self) -> io::Result<SocketAddr>;

    /// This side's address.
    ///
    /// # Errors
    /// The operating system's.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// What connects. Object-safe: `Arc<dyn Connector>` is what a service keeps.
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync {
    /// Connects to `to`, a host and a port: `10.0.0.2:80`, `[::1]:80`, `name:80`.
    ///
    /// # Errors
    /// Of the same kinds on either transport; the text names `to`.
    async fn connect(&self, to: &str) -> io::Result<Box<dyn ByteStream>>;
}

/// What accepts. Object-safe.
#[async_trait]
pub trait Acceptor: fmt::Debug + Send + Sync {
    /// Waits for the next stream; returns it and its peer's address.
    ///
    /// # Errors
    /// The transport's. TCP's may pass (too many open files); Machnet's is final.
    ///
    /// # Cancel safety
    /// Dropping the future loses no stream.
    async fn accept(&self) -> io::Result<(Box<dyn ByteStream>, SocketAddr)>;

    /// The address listened on.
    ///
    /// # Errors
    /// The operating system's.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Connects by TCP. Small writes do not wait for company (`TCP_NODELAY`), as they do not with Machnet.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

/// Connects by Machnet.
#[derive(Clone, Debug, Default)]
pub struct FlowConnector {
    endpoint: Option<Endpoint>,
}

impl FlowConnector {
    /// One that connects from the process's default endpoint: see [`Endpoint::default_for`].
    #[must_use]
    pub const fn new() -> Self {
        Self { endpoint: None }
    }

    /// One that connects from `endpoint`.
    #[must_use]
    pub const fn on(endpoint: Endpoint) -> Self {
        Self { endpoint: Some(endpoint) }
    }
}

#[async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, to: &str) -> io::Result<Box<dyn ByteStream>> {
        let stream = TcpStream::connect(to).await.map_err(|error| naming("connect to", to, &error))?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Connector for FlowConnector {
    async fn connect(&self, to: &str) -> io::Result<Box<dyn ByteStream>> {
        let stream = FlowStream::connect_from(self.endpoint.as_ref(), to).await;
        Ok(Box::new(stream.map_err(|error| naming("connect to", to, &error))?))
    }
}

#[async_trait]
impl Acceptor for TcpListener {
    async fn accept(&self) -> io::Result<(Box<dyn ByteStream>, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

#[async_trait]
impl Acceptor for FlowListener {
    async fn accept(&self) -> io::Result<(Box<dyn ByteStream>, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

macro_rules! byte_stream {
    ($($stream:ty),*) => { $(
        impl ByteStream for $stream {
            fn peer_addr(&self) -> io::Result<SocketAddr> {
                Self::peer_addr(self)
            }

            fn local_addr(&self) -> io::Result<SocketAddr> {
                Self::local_addr(self)
            }
        }
    )* };
}

byte_stream!(TcpStream, FlowStream);

/// Which transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The kernel's TCP.
    Tcp,
    /// Machnet, from and at the process's default endpoints.
    Machnet,
}

impl Kind {
    /// What connects by it.
    #[must_use]
    pub fn connector(self) -> Arc<dyn Connector> {
        match self {
            Self::Tcp => Arc::new(TcpConnector),
            Self::Machnet => Arc::new(FlowConnector::new()),
        }
    }
}

/// A transport, and a host and port there: `tcp://10.0.0.2:6379`, `machnet://10.0.0.2:6379`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    kind: Kind,
    at: String,
}

impl Address {
    /// The transport.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Host and port.
    #[must_use]
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Connects to it.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        self.kind.connector().connect(&self.at).await
    }

    /// Listens at it.
    ///
    /// # Errors
    /// Names the address: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, or what the resolver says.
    pub async fn listen(&self) -> io::Result<Arc<dyn Acceptor>> {
        let at = &self.at;
        let listener: io::Result<Arc<dyn Acceptor>> = match self.kind {
            Kind::Tcp => TcpListener::bind(at).await.map(|listener| Arc::new(listener) as _),
            Kind::Machnet => FlowListener::bind(at).await.map(|listener| Arc::new(listener) as _),
        };
        listener.map_err(|error| naming("listen at", at, &error))
    }
}

impl FromStr for Address {
    type Err = io::Error;

    /// # Errors
    /// `InvalidInput`; the text says what is wrong and what would be right.
    fn from_str(text: &str) -> io::Result<Self> {
        let bad = |what: &str| {
            let text = format!("\"{text}\": {what}; wanted is for example tcp://10.0.0.2:80 or machnet://10.0.0.2:80");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let (scheme, at) = text.split_once("://").ok_or_else(|| bad("no \"://\" after the transport"))?;
        let kind = match scheme {
            "tcp" => Kind::Tcp,
            "machnet" => Kind::Machnet,
            _ => return Err(bad("the transport is neither tcp nor machnet")),
        };
        let at = at.strip_suffix('/').unwrap_or(at);
        let (host, port) = at.rsplit_once(':').filter(|(_, port)| !port.contains(']')).ok_or_else(|| bad("no port"))?;
        port.parse::<u16>().map_err(|_| bad("the port is no number up to 65535"))?;
        if host.is_empty() {
            return Err(bad("no host"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(bad("an IPv6 address goes in brackets"));
        }
        Ok(Self { kind, at: at.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Tcp => "tcp",
            Kind::Machnet => "machnet",
        };
        write!(f, "{scheme}://{}", self.at)
    }
}

fn naming(what: &str, at: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {at}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["tcp://127.0.0.1:80", "machnet://[::1]:0", "machnet://name.example:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("tcp://a:1/".parse::<Address>().unwrap().at(), "a:1");
        for (text, what) in [
            ("", "no \"://\""),
            ("127.0.0.1:80", "no \"://\""),
            ("udp://127.0.0.1:80", "neither tcp nor machnet"),
            ("tcp://127.0.0.1", "no port"),
            ("machnet://[::1]", "no port"),
            ("machnet://::1:80", "in brackets"),
            ("tcp://a:65536", "no number up to 65535"),
            ("tcp://a:", "no number"),
            ("tcp://:80", "no host"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
    }
}
