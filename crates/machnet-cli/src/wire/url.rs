//! Which transport a URL means, and where.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[cfg(feature = "dpdk")]
use anyhow::ensure;
use anyhow::{Context, bail};
use machnet_core::MAX_ENGINES;

#[cfg(feature = "dpdk")]
use super::Side;

/// A kind of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Machnet over UDP sockets.
    Udp,
    /// Machnet over shared memory.
    Shm,
    /// Machnet over a DPDK port.
    #[cfg(feature = "dpdk")]
    Dpdk,
    /// Bare frames between two DPDK ports.
    #[cfg(feature = "dpdk")]
    DpdkRaw,
    /// Machnet in a daemon.
    Unix,
    /// tokio's TCP.
    Tcp,
    /// TCP sockets, busily polled.
    TcpSpin,
    /// Bare UDP sockets, busily polled.
    UdpSpin,
    /// quinn.
    #[cfg(feature = "quic")]
    Quic,
    /// tokio's Unix-domain stream sockets.
    Uds,
}

impl Scheme {
    const ALL: &[(&'static str, Self)] = &[
        ("udp", Self::Udp),
        ("shm", Self::Shm),
        #[cfg(feature = "dpdk")]
        ("dpdk", Self::Dpdk),
        #[cfg(feature = "dpdk")]
        ("dpdk+raw", Self::DpdkRaw),
        ("unix", Self::Unix),
        ("tcp", Self::Tcp),
        ("tcp+spin", Self::TcpSpin),
        ("udp+spin", Self::UdpSpin),
        #[cfg(feature = "quic")]
        ("quic", Self::Quic),
        ("uds", Self::Uds),
    ];

    /// As in URLs.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    /// True if what the network loses is lost.
    pub(crate) fn loses(self) -> bool {
        self == Self::UdpSpin
    }

    /// True if it carries frames, and knows of no messages.
    pub(crate) fn is_bare(self) -> bool {
        #[cfg(feature = "dpdk")]
        return self == Self::DpdkRaw;
        #[cfg(not(feature = "dpdk"))]
        false
    }

    /// True if this is Machnet itself, not a rival.
    pub(crate) fn is_machnet(self) -> bool {
        match self {
            Self::Udp | Self::Shm | Self::Unix => true,
            #[cfg(feature = "dpdk")]
            Self::Dpdk => true,
            _ => false,
        }
    }
}

/// Schemes of Machnet endpoints that later versions have.
const PLANNED: [&str; 2] = ["dpdk", "xdp"];

/// The port of `shm://`, `dpdk://` and `unix://` URLs without one.
pub(super) const DEFAULT_PORT: u16 = 7000;

/// Where a server is: a transport and a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// The transport.
    pub(crate) scheme: Scheme,
    place: Place,
    /// How many engines a Machnet endpoint over UDP has.
    pub(crate) engines: usize,
}

/// A place that a server can be at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `host:port`: an address or a name, IPv6 ones in brackets.
    Host { name: String, port: u16 },
    /// A file.
    Path(PathBuf),
    /// A daemon's socket, and the server's address.
    Daemon { socket: PathBuf, server: Option<SocketAddr> },
    /// A port of this machine with the host on it, and the server's address, unless that is this host's.
    #[cfg(feature = "dpdk")]
    Dpdk { port: Box<machnet::dpdk::DpdkUrl>, server: Option<SocketAddr> },
}

impl Place {
    /// Reads `host:port`.
    pub(crate) fn host(text: &str) -> Result<Self, String> {
        let wanted = "wanted is host:port, such as 127.0.0.1:7000, [::1]:7000 or server:7000";
        let (name, port) = text.rsplit_once(':').ok_or_else(|| format!("no port in {text:?}; {wanted}"))?;
        let port = port.parse().map_err(|_| format!("{port:?} is no port: a number up to 65535; {wanted}"))?;
        let name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(v6) => v6,
            None if name.contains(':') => return Err(format!("IPv6 addresses go in brackets; {wanted}")),
            None => name,
        };
        if name.is_empty() {
            return Err(format!("no host in {text:?}; {wanted}"));
        }
        Ok(Self::Host { name: name.to_owned(), port })
    }

    /// The address.
    pub(crate) async fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let Self::Host { name, port } = self else { bail!("{self} is no host") };
        let mut found =
            tokio::net::lookup_host((name.as_str(), *port)).await.with_context(|| format!("unknown host {name:?}"))?;
        found.next().with_context(|| format!("unknown host {name:?}: it has no address"))
    }
}

impl Url {
    /// The address of the host.
    pub(crate) async fn resolve(&self) -> anyhow::Result<SocketAddr> {
        self.place.resolve().await
    }

    /// The name of shared memory, and the port there.
    pub(crate) fn name(&self) -> (&str, u16) {
        match &self.place {
            Place::Host { name, port } => (name, *port),
            _ => ("", DEFAULT_PORT),
        }
    }

    /// The port with the host on it, and the server's address.
    #[cfg(feature = "dpdk")]
    pub(crate) fn dpdk(&self, side: Side) -> anyhow::Result<(&machnet::dpdk::DpdkUrl, SocketAddr)> {
        let (port, server) = self.port()?;
        match (side, server) {
            (Side::Client, Some(server)) => Ok((port, server)),
            (Side::Client, None) => {
                bail!(
                    "{self} does not say where the server is: add its address, such as server=10.0.0.1:{DEFAULT_PORT}"
                )
            }
            (Side::Server, Some(server)) => {
                let own: Vec<_> = port.net()?.addresses.iter().map(|own| own.addr()).collect();
                let is_own = own.contains(&server.ip());
                ensure!(is_own, "server={server}: a server listens at one of its host's own addresses, {own:?}");
                Ok((port, server))
            }
            (Side::Server, None) => Ok((port, SocketAddr::new(port.address()?, DEFAULT_PORT))),
        }
    }

    /// The port, and the server's address if it is said.
    #[cfg(feature = "dpdk")]
    pub(crate) fn port(&self) -> anyhow::Result<(&machnet::dpdk::DpdkUrl, Option<SocketAddr>)> {
        match &self.place {
            Place::Dpdk { port, server } => Ok((port, *server)),
            _ => bail!("{self} is no DPDK port"),
        }
    }

    /// A daemon's socket, and the server's address.
    pub(crate) fn daemon(&self) -> (&Path, Option<SocketAddr>) {
        match &self.place {
            Place::Daemon { socket, server } => (socket, *server),
            _ => (Path::new(""), None),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        match &self.place {
            Place::Path(path) => path,
            _ => Path::new(""),
        }
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Scheme::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let Some((name, rest)) = text.split_once("://") else {
            return Err(format!("no scheme; wanted is for example udp://127.0.0.1:7000 (known schemes: {})", known()));
        };
        let Some(&(_, scheme)) = Scheme::ALL.iter().find(|(scheme, _)| scheme.eq_ignore_ascii_case(name)) else {
            let planned = PLANNED.iter().any(|planned| planned.eq_ignore_ascii_case(name));
            let what = match name {
                _ if !planned => "is unknown",
                "dpdk" => "is not in this build (its feature `dpdk` is off)",
                _ => "is not in this version",
            };
            return Err(format!("the scheme {name:?} {what}; known schemes: {}", known()));
        };
        #[cfg(feature = "dpdk")]
        if matches!(scheme, Scheme::Dpdk | Scheme::DpdkRaw) {
            return Ok(Self { scheme, place: dpdk(rest)?, engines: 1 });
        }
        let (rest, engines) = match rest.split_once("?engines=") {
            Some((rest, number)) if scheme == Scheme::Udp => (rest, engines(number)?),
            _ => (rest, 1),
        };
        let place = if scheme == Scheme::Uds {
            if rest.is_empty() {
                return Err("no path; wanted is for example uds:///tmp/machnet.sock".to_owned());
            }
            Place::Path(PathBuf::from(rest))
        } else if scheme == Scheme::Unix {
            daemon(rest)?
        } else if scheme == Scheme::Shm && !rest.is_empty() && !rest.contains(':') {
            Place::Host { name: rest.to_owned(), port: DEFAULT_PORT }
        } else {
            if let Some((_, more)) = rest.split_once('?') {
                let may = if scheme == Scheme::Udp { "nothing but ?engines=N" } else { "nothing" };
                return Err(format!("{may} may follow the address, but ?{} does", more.escape_debug()));
            }
            Place::host(rest.strip_suffix('/').unwrap_or(rest))?
        };
        Ok(Self { scheme, place, engines })
    }
}

/// Reads a number of engines.
fn engines(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_ENGINES).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of engines: 1 to {MAX_ENGINES}"))
}

/// Reads `PATH` and `PATH?server=ADDRESS:PORT`.
fn daemon(rest: &str) -> Result<Place, String> {
    let wanted = "wanted is for example unix:///run/machnet/machnet.sock?server=10.0.0.1:7000";
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    if path.is_empty() {
        return Err(format!("no path; {wanted}"));
    }
    let server = match query {
        None => None,
        Some(query) => {
            let server = query.strip_prefix("server=").and_then(|server| server.parse().ok());
            Some(server.ok_or_else(|| format!("{query:?} after the path; {wanted}"))?)
        }
    };
    Ok(Place::Daemon { socket: path.into(), server })
}

/// Reads `DEVICE?…&server=ADDRESS:PORT`: all but `server` is the library's. A server without it is this host.
#[cfg(feature = "dpdk")]
fn dpdk(rest: &str) -> Result<Place, String> {
    let (device, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (server, rest): (Vec<_>, Vec<_>) = query.split('&').partition(|pair| pair.starts_with("server="));
    let port: machnet::dpdk::DpdkUrl =
        format!("dpdk://{device}{}{}", if rest.concat().is_empty() { "" } else { "?" }, rest.join("&"))
            .parse()
            .map_err(|error: machnet::dpdk::UrlError| error.to_string())?;
    let server = match server.as_slice() {
        [] => None,
        [one] => Some(one.trim_start_matches("server=").parse().map_err(|_| {
            format!("{one:?}: wanted is the server's address and port, such as server=10.0.0.1:{DEFAULT_PORT}")
        })?),
        _ => return Err("server is there twice".to_owned()),
    };
    Ok(Place::Dpdk { port: Box::new(port), server })
}

/// The URL of a port, with a server's address.
#[cfg(feature = "dpdk")]
pub(crate) fn with_server(port: &str, server: SocketAddr) -> String {
    let sign = if port.contains('?') { '&' } else { '?' };
    format!("{port}{sign}server={server}")
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Path(path) => path.display().fmt(f),
            Self::Daemon { socket, server: None } => socket.display().fmt(f),
            Self::Daemon { socket, server: Some(server) } => write!(f, "{}?server={server}", socket.display()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk { port, server: None } => f.write_str(port.to_string().trim_start_matches("dpdk://")),
            #[cfg(feature = "dpdk")]
            Self::Dpdk { port, server: Some(server) } => {
                f.write_str(with_server(&port.to_string(), *server).trim_start_matches("dpdk://"))
            }
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.place)?;
        if self.engines > 1 { write!(f, "?engines={}", self.engines) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown() {
        for text in [
            "udp://127.0.0.1:0",
            "tcp://[::1]:7000",
            "tcp+spin://host:1",
            "udp+spin://h:2",
            "uds:///tmp/x",
            "shm://n:7",
            "unix:///tmp/m.sock",
            "unix:///tmp/m.sock?server=10.0.0.1:7000",
            "udp://127.0.0.1:7400?engines=4",
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
        }
        let url: Url = "UDP://h:1/".parse().unwrap();
        assert_eq!(url.to_string(), "udp://h:1");
    }

    #[test]
    fn bad_urls_say_what_would_be_right() {
        for (text, part) in [
            ("", "known schemes: udp, shm"),
            ("127.0.0.1:7000", "known schemes: udp"),
            ("http://h:1", "\"http\" is unknown; known schemes: udp"),
            #[cfg(not(feature = "dpdk"))]
            ("dpdk://0", "\"dpdk\" is not in this build"),
            #[cfg(feature = "dpdk")]
            ("dpdk://0", "names no DPDK port"),
            #[cfg(feature = "dpdk")]
            ("dpdk+raw://vdev:net_memif0?color=red", "unknown key"),
            #[cfg(feature = "dpdk")]
            ("dpdk://0000:00:06.0?ip=10.0.0.1/24&server=x", "server=10.0.0.1:7000"),
            ("shm://", "no port"),
            ("udp://", "no port in \"\""),
            ("udp://:7", "no host"),
            ("udp://h", "no port"),
            ("udp://h:70000", "\"70000\" is no port"),
            ("udp://h:7?engines=65", "\"65\" is no number of engines: 1 to 64"),
            ("udp://h:7?queues=2", "nothing but ?engines=N may follow the address, but ?queues=2 does"),
            ("tcp://h:7?engines=2", "nothing may follow the address, but ?engines=2 does"),
            ("udp://::1:70", "brackets"),
            ("uds://", "no path"),
            ("unix://", "no path; wanted is for example unix:///run"),
            ("unix:///m?server=h:1", "\"server=h:1\" after the path"),
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
