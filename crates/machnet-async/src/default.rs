//! The process's own endpoints: what [`Flow::connect`] and [`Listener::bind`] use, as `TcpStream` and `TcpListener` use
//! the kernel.
//!
//! There is one engine per local address in use, usually one in all. It is started by the first call that needs it and
//! kept for the life of the process: it belongs to no runtime, and survives them all.

use std::env::{self, VarError};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::{Endpoint, Flow, Listener, Udp};

/// Which endpoint processes use by default.
const VARIABLE: &str = "MACHNET_ENDPOINT";

/// What is meant if the variable is unset.
const FALLBACK: Url = Url { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) };

impl Flow {
    /// Connects to whoever listens at `peer`, from the process's default endpoint: see [`Endpoint::default_for`].
    ///
    /// # Errors
    /// As [`Endpoint::connect`], and as [`Endpoint::default_for`].
    ///
    /// # Cancel safety
    /// As [`Endpoint::connect`].
    pub async fn connect(peer: SocketAddr) -> io::Result<Self> {
        Endpoint::default_for(peer.ip())?.connect(peer).await
    }
}

impl Listener {
    /// Listens at `local` on a default endpoint of the process: see [`Endpoint::default_for`]. An IP address of zeros
    /// means the endpoint's, whatever it is; port 0 means any free one. While `MACHNET_ENDPOINT` names no particular
    /// address, each address listened at has an engine of its own.
    ///
    /// # Errors
    /// As [`Endpoint::listen`], and as [`Endpoint::default_for`]; `AddrNotAvailable` if `local` is not this host's, or
    /// not the one that `MACHNET_ENDPOINT` names.
    ///
    /// # Cancel safety
    /// As [`Endpoint::listen`].
    pub async fn bind(local: SocketAddr) -> io::Result<Self> {
        let url = url()?;
        endpoint_at(url, url.listens_at(local.ip())?)?.listen(local.port()).await
    }
}

impl Endpoint {
    /// The process's default endpoint, the one that [`Flow::connect`] uses for peers at an address like `peer`. The
    /// first call starts it, which takes some tens of microseconds.
    ///
    /// Which one it is says the environment variable `MACHNET_ENDPOINT`, a URL:
    ///
    /// | URL | endpoint |
    /// |---|---|
    /// | `udp://0.0.0.0`, or not set | UDP sockets, any local address; for IPv6 peers another one, on `[::]` |
    /// | `udp://[::]` | the same |
    /// | `udp://192.0.2.1:7000` | UDP sockets at this address; flows leave from this port. Without one, or 0: any |
    ///
    /// It lives as long as the process, whatever runtimes come and go. Shut down ([`Endpoint::shutdown`], to wait before
    /// the process exits until everything that was sent has arrived), the next call starts another.
    ///
    /// # Errors
    /// `InvalidInput`: `MACHNET_ENDPOINT` is malformed; the error says where. `Unsupported`: it names a kind of endpoint
    /// that this version does not have; the error lists those it has. Else as [`Udp::bind`] and
    /// [`EndpointBuilder::start`](crate::EndpointBuilder::start).
    pub fn default_for(peer: IpAddr) -> io::Result<Self> {
        let url = url()?;
        endpoint_at(url, url.connects_from(peer))
    }
}

/// The environment does not change while a process runs, but an error is worth another look.
fn url() -> io::Result<Url> {
    static SEEN: OnceLock<Url> = OnceLock::new();
    if let Some(url) = SEEN.get() {
        return Ok(*url);
    }
    let url = match env::var(VARIABLE) {
        Ok(text) => Url::parse(&text).map_err(|error| {
            io::Error::new(error.kind(), format!("{VARIABLE}=\"{}\": {error}", text.escape_debug()))
        })?,
        Err(VarError::NotPresent) => FALLBACK,
        Err(VarError::NotUnicode(_)) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{VARIABLE} is not UTF-8")));
        }
    };
    Ok(*SEEN.get_or_init(|| url))
}

/// The endpoint at `ip`, started if there is none, or none any more.
fn endpoint_at(url: Url, ip: IpAddr) -> io::Result<Endpoint> {
    static ENDPOINTS: Mutex<Vec<(IpAddr, Endpoint)>> = Mutex::new(Vec::new());
    let mut endpoints = ENDPOINTS.lock().unwrap_or_else(PoisonError::into_inner);
    endpoints.retain(|(_, endpoint)| !endpoint.is_closing());
    if let Some((_, endpoint)) = endpoints.iter().find(|(at, _)| *at == ip) {
        return Ok(endpoint.clone());
    }
    let port = if ip == url.address.ip() { url.address.port() } else { 0 };
    let endpoint = Endpoint::builder().driver(Udp::bind((ip, port))?).start()?;
    endpoints.push((ip, endpoint.clone()));
    Ok(endpoint)
}

/// What `MACHNET_ENDPOINT` says. The only kind of this version: UDP sockets at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Url {
    address: SocketAddr,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum UrlError {
    #[error("no \"://\" after the scheme; wanted is for example {FALLBACK}")]
    NoScheme,
    #[error("\"{0}\" is not in this version; known schemes: udp")]
    Planned(&'static str),
    #[error("unknown scheme \"{}\"; known schemes: udp", .0.escape_debug())]
    UnknownScheme(String),
    #[error("no address after \"udp://\"; wanted is for example {FALLBACK}")]
    NoAddress,
    #[error("\"{}\" is no IP address (IPv6 ones go in brackets; names are not looked up)", .0.escape_debug())]
    NoIp(String),
    #[error("\"{}\" is no port: a number up to 65535", .0.escape_debug())]
    NoPort(String),
    #[error("nothing may follow the address, but \"{}\" does", .0.escape_debug())]
    Trailing(String),
}

impl UrlError {
    const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Planned(_) | Self::UnknownScheme(_) => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::InvalidInput,
        }
    }
}

/// Schemes of later versions.
const PLANNED: [&str; 4] = ["dpdk", "xdp", "shm", "unix"];

impl Url {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        if let Some(planned) = PLANNED.into_iter().find(|planned| scheme.eq_ignore_ascii_case(planned)) {
            return Err(UrlError::Planned(planned));
        }
        if !scheme.eq_ignore_ascii_case("udp") {
            return Err(UrlError::UnknownScheme(scheme.to_owned()));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (authority, trailing) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !trailing.is_empty() {
            return Err(UrlError::Trailing(trailing.to_owned()));
        }
        if authority.is_empty() {
            return Err(UrlError::NoAddress);
        }
        let (ip, port) = split_port(authority);
        let no_ip = |_| UrlError::NoIp(ip.to_owned());
        let address = match ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
            Some(ip) => IpAddr::V6(ip.parse::<Ipv6Addr>().map_err(no_ip)?),
            None => IpAddr::V4(ip.parse::<Ipv4Addr>().map_err(no_ip)?),
        };
        let port = port.map_or(Ok(0), |port| port.parse().map_err(|_| UrlError::NoPort(port.to_owned())))?;
        Ok(Self { address: SocketAddr::new(address, port) })
    }

    /// The address that flows to `peer` leave from. One of another family is refused by the endpoint.
    fn connects_from(self, peer: IpAddr) -> IpAddr {
        match (self.address.ip(), peer) {
            (own, _) if !own.is_unspecified() => own,
            (_, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (_, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The address of the endpoint that listens at `asked`: never more than was asked for.
    fn listens_at(self, asked: IpAddr) -> io::Result<IpAddr> {
        let own = self.address.ip();
        if own.is_unspecified() || own == asked {
            Ok(asked)
        } else if asked.is_unspecified() && asked.is_ipv4() == own.is_ipv4() {
            Ok(own)
        } else {
            let text = format!("cannot listen at {asked}: {VARIABLE} is {self}");
            Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text))
        }
    }
}

/// Divides at the colon before the port, not at one within the address.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((ip, port)) if !port.contains(']') && (ip.ends_with(']') || !ip.contains(':')) => (ip, Some(port)),
        _ => (authority, None),
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_every_form() {
        for (text, address) in [
            ("udp://0.0.0.0", "0.0.0.0:0"),
            ("udp://127.0.0.1:0", "127.0.0.1:0"),
            ("UDP://127.0.0.1:7000/", "127.0.0.1:7000"),
            ("udp://[::]:0", "[::]:0"),
            ("udp://[::1]", "[::1]:0"),
            ("udp://[2001:db8::1]:65535", "[2001:db8::1]:65535"),
        ] {
            assert_eq!(Url::parse(text), Ok(Url { address: address.parse().unwrap() }), "{text}");
        }
        assert_eq!(Url::parse(&FALLBACK.to_string()), Ok(FALLBACK));
    }

    #[test]
    fn errors_say_what_is_wrong_and_what_is_known() {
        for (text, part, kind) in [
            ("", "no \"://\"", io::ErrorKind::InvalidInput),
            ("udp:0.0.0.0", "udp://0.0.0.0:0", io::ErrorKind::InvalidInput),
            ("udp://", "no address", io::ErrorKind::InvalidInput),
            ("udp:///", "no address", io::ErrorKind::InvalidInput),
            ("udp://example.com:1", "\"example.com\" is no IP address", io::ErrorKind::InvalidInput),
            ("udp://::1", "\"::1\" is no IP address (IPv6 ones go in brackets", io::ErrorKind::InvalidInput),
            ("udp://[::1", "\"[::1\" is no IP address", io::ErrorKind::InvalidInput),
            ("udp://[1.2.3.4]", "is no IP address", io::ErrorKind::InvalidInput),
            ("udp://1.2.3.4:65536", "\"65536\" is no port", io::ErrorKind::InvalidInput),
            ("udp://1.2.3.4:", "\"\" is no port", io::ErrorKind::InvalidInput),
            ("udp://1.2.3.4:1?x=y", "\"?x=y\"", io::ErrorKind::InvalidInput),
            ("dpdk://0000:00:06.0", "\"dpdk\" is not in this version; known schemes: udp", io::ErrorKind::Unsupported),
            ("xdp://eth1", "\"xdp\" is not in this version", io::ErrorKind::Unsupported),
            ("shm://name", "\"shm\" is not in this version", io::ErrorKind::Unsupported),
            ("unix:///run/machnet.sock", "\"unix\" is not in this version", io::ErrorKind::Unsupported),
            ("tcp://0.0.0.0", "unknown scheme \"tcp\"; known schemes: udp", io::ErrorKind::Unsupported),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert_eq!(error.kind(), kind, "{text}");
        }
    }

    #[test]
    fn what_is_used_for_whom() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (v4, v6) = (ip("10.0.0.9"), ip("2001:db8::9"));
        for any in ["udp://0.0.0.0:5", "udp://[::]"] {
            let any = Url::parse(any).unwrap();
            assert_eq!((any.connects_from(v4), any.connects_from(v6)), (ip("0.0.0.0"), ip("::")));
            assert_eq!((any.listens_at(v4).unwrap(), any.listens_at(v6).unwrap()), (v4, v6));
            assert_eq!(any.listens_at(ip("::")).unwrap(), ip("::"));
        }
        let one = Url::parse("udp://10.0.0.1").unwrap();
        assert_eq!((one.connects_from(v4), one.connects_from(v6)), (ip("10.0.0.1"), ip("10.0.0.1")));
        assert_eq!(one.listens_at(ip("0.0.0.0")).unwrap(), ip("10.0.0.1"));
        assert_eq!(one.listens_at(ip("10.0.0.1")).unwrap(), ip("10.0.0.1"));
        for other in [v4, ip("::")] {
            let error = one.listens_at(other).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
            assert!(error.to_string().contains("MACHNET_ENDPOINT is udp://10.0.0.1:0"), "{error}");
        }
    }
}
