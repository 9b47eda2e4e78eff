//! hyper-util 0.1: [`MachnetConnector`] for its client, and for whatever takes a `Service<Uri>`, such as tonic's channels.
//!
//! ```no_run
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use machnet_async::adapters::hyper_util01::MachnetConnector;
//!
//! let client: Client<_, String> = Client::builder(TokioExecutor::new()).build(MachnetConnector::new());
//! # let _ = client;
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::{Endpoint, FlowStream};

/// Connects to the host and port of a [`Uri`]. The scheme is not looked at: `http` means what is spoken over the stream.
///
/// The port must be named: there is none that is usual for Machnet. Host names are resolved as for `TcpStream`; of
/// several addresses, the first that answers.
#[derive(Clone, Debug, Default)]
pub struct MachnetConnector {
    endpoint: Option<Endpoint>,
}

impl MachnetConnector {
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

impl Service<Uri> for MachnetConnector {
    type Response = TokioIo<FlowStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<FlowStream>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let endpoint = self.endpoint.clone();
        Box::pin(async move {
            let (host, port) = target(&uri)?;
            FlowStream::connect_from(endpoint.as_ref(), (host, port)).await.map(TokioIo::new).map_err(|error| {
                // The kind is kept: clients tell by it what may be tried again.
                io::Error::new(error.kind(), ConnectError { to: format!("{host}:{port}"), error })
            })
        })
    }
}

/// Host, without the brackets of an IPv6 address, and port.
fn target(uri: &Uri) -> io::Result<(&str, u16)> {
    let bad = |what: &str| {
        let text = format!("\"{uri}\" names no {what}; wanted is for example http://10.0.0.2:8080/");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("host"))?;
    let port = uri.port_u16().ok_or_else(|| bad("port"))?;
    Ok((host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port))
}

/// What could not be connected to.
#[derive(Debug)]
struct ConnectError {
    to: String,
    error: io::Error,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}: {}", self.to, self.error)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The addresses of a stream, in the extensions of the responses that came over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowInfo {
    /// This side's.
    pub local: SocketAddr,
    /// The other side's.
    pub peer: SocketAddr,
}

impl Connection for FlowStream {
    fn connected(&self) -> Connected {
        match (self.local_addr(), self.peer_addr()) {
            (Ok(local), Ok(peer)) => Connected::new().extra(FlowInfo { local, peer }),
            _ => Connected::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_of_uris() {
        for (uri, host, port) in [
            ("http://10.0.0.2:8080/path?query", "10.0.0.2", 8080),
            ("http://[2001:db8::1]:80", "2001:db8::1", 80),
            ("https://name.example:1", "name.example", 1),
            ("machnet://user@name:2", "name", 2),
            ("10.0.0.2:8080", "10.0.0.2", 8080),
        ] {
            assert_eq!(target(&uri.parse().unwrap()).unwrap(), (host, port), "{uri}");
        }
        for (uri, what) in [("http://10.0.0.2/", "port"), ("http://[::1]/", "port"), ("/path", "host"), ("*", "host")] {
            let error = target(&uri.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with(&format!("\"{uri}\" names no {what}")), "{error}");
        }
    }
}
