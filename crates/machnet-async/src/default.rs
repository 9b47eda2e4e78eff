//! The process's own endpoints: what [`Flow::connect`] and [`Listener::bind`] use, as `TcpStream` and `TcpListener` use
//! the kernel.
//!
//! There is one engine per local address in use, usually one in all (over shared memory, always). It is started by the first call that needs it and
//! kept for the life of the process: it belongs to no runtime, and survives them all.

use std::env::{self, VarError};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use machnet_core::MAX_ENGINES;

use crate::{AttachBuilder, Config, Driver as _, Endpoint, Flow, Listener, Reconnect, Shm, Udp};

/// Which endpoint processes use by default.
const VARIABLE: &str = "MACHNET_ENDPOINT";

/// What is meant if the variable is unset.
const FALLBACK: Url = Url::Udp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), 1);

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
        listening_at(url()?, local.ip())?.listen(local.port()).await
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
    /// | `udp://192.0.2.1:7000?engines=4` | the same with so many engines, 1 to 64, each with sockets and a thread of its own |
    /// | `shm://name` | memory shared with processes of this host that use the same name: see [`Shm::attach`] |
    /// | `dpdk://0000:00:06.0?ip=10.0.0.5/24` | a port of DPDK's, with the feature `dpdk`: see `dpdk::DpdkUrl` |
    /// | `dpdk://0000:00:06.0?ip=10.0.0.5/24&engines=4` | the same with so many engines, each with a queue of the port's |
    /// | `unix:///run/machnet/machnet.sock` | the daemon that listens there: see [`Endpoint::attach`] |
    /// | `unix:///run/machnet/machnet.sock?reconnect=yes` | the same; listeners outlive the daemon: see [`Reconnect`] |
    ///
    /// It lives as long as the process, whatever runtimes come and go. Shut down ([`Endpoint::shutdown`], to wait before
    /// the process exits until everything that was sent has arrived), the next call starts another.
    ///
    /// # Errors
    /// `InvalidInput`: `MACHNET_ENDPOINT` is malformed; the error says where. `Unsupported`: it names a kind of endpoint
    /// that this version does not have; the error lists those it has. Else as [`Udp::bind`],
    /// [`Shm::attach`], [`Endpoint::attach`] and [`EndpointBuilder::start`](crate::EndpointBuilder::start).
    pub fn default_for(peer: IpAddr) -> io::Result<Self> {
        match url()? {
            Url::Udp(address, engines) => udp_at(address, *engines, connects_from(address, peer)),
            Url::Shm(name) => shm(name),
            #[cfg(feature = "dpdk")]
            Url::Dpdk(url) => dpdk(url),
            Url::Unix(path, reconnect) => attached(path, *reconnect),
        }
    }
}

/// The environment does not change while a process runs, but an error is worth another look.
fn url() -> io::Result<&'static Url> {
    static SEEN: OnceLock<Url> = OnceLock::new();
    if let Some(url) = SEEN.get() {
        return Ok(url);
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
    Ok(SEEN.get_or_init(|| url))
}

/// The endpoints of this process, by what they were started for.
static ENDPOINTS: Mutex<Vec<(IpAddr, Endpoint)>> = Mutex::new(Vec::new());

/// The endpoint for `key`, started if there is none, or none any more.
fn endpoint(key: IpAddr, start: impl FnOnce() -> io::Result<Endpoint>) -> io::Result<Endpoint> {
    let mut endpoints = ENDPOINTS.lock().unwrap_or_else(PoisonError::into_inner);
    endpoints.retain(|(_, endpoint)| !endpoint.is_closing());
    if let Some((_, endpoint)) = endpoints.iter().find(|(at, _)| *at == key) {
        return Ok(endpoint.clone());
    }
    let endpoint = start()?;
    endpoints.push((key, endpoint.clone()));
    Ok(endpoint)
}

/// UDP sockets at `ip`.
fn udp_at(url: &SocketAddr, engines: usize, ip: IpAddr) -> io::Result<Endpoint> {
    let port = if ip == url.ip() { url.port() } else { 0 };
    endpoint(ip, || Endpoint::builder().driver(Udp::bind((ip, port))?).engines(engines).start())
}

/// The one endpoint over shared memory.
fn shm(name: &str) -> io::Result<Endpoint> {
    endpoint(Ipv4Addr::UNSPECIFIED.into(), || {
        let shm = Shm::attach(name)?;
        let mut config = Config::default();
        // All of the wire: both of its ends have the same.
        config.max_payload = shm.capabilities().max_payload;
        Endpoint::builder().driver(shm).config(config).start()
    })
}

/// The one endpoint on a DPDK port.
#[cfg(feature = "dpdk")]
fn dpdk(url: &crate::dpdk::DpdkUrl) -> io::Result<Endpoint> {
    endpoint(Ipv4Addr::UNSPECIFIED.into(), || {
        let driver = url.open()?;
        let mut config = Config::default();
        // All of what the port's MTU allows.
        config.max_payload = driver.capabilities().max_payload;
        config.congestion = Some(crate::Congestion::Cubic);
        Endpoint::builder().driver(driver).engines(url.engines()).config(config).start()
    })
}

/// The one endpoint of a daemon's.
fn attached(path: &Path, reconnect: Reconnect) -> io::Result<Endpoint> {
    endpoint(Ipv4Addr::UNSPECIFIED.into(), || AttachBuilder::new(path).reconnect(reconnect).attach())
}

/// The endpoint that listens at `asked`.
fn listening_at(url: &Url, asked: IpAddr) -> io::Result<Endpoint> {
    match url {
        Url::Udp(address, engines) => udp_at(address, *engines, listens_at(address.ip(), asked, url)?),
        Url::Shm(name) => {
            let endpoint = shm(name)?;
            listens_at(endpoint.local_addr().ip(), asked, url)?;
            Ok(endpoint)
        }
        #[cfg(feature = "dpdk")]
        Url::Dpdk(port) => {
            let endpoint = dpdk(port)?;
            listens_at(endpoint.local_addr().ip(), asked, url)?;
            Ok(endpoint)
        }
        Url::Unix(path, reconnect) => {
            let endpoint = attached(path, *reconnect)?;
            listens_at(endpoint.local_addr().ip(), asked, url)?;
            Ok(endpoint)
        }
    }
}

/// The address that flows to `peer` leave from. One of another family is refused by the endpoint.
fn connects_from(url: &SocketAddr, peer: IpAddr) -> IpAddr {
    match (url.ip(), peer) {
        (own, _) if !own.is_unspecified() => own,
        (_, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (_, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The address to listen at if `asked` is asked for and `own` is to be had: never more than was asked for.
fn listens_at(own: IpAddr, asked: IpAddr, url: &Url) -> io::Result<IpAddr> {
    if own.is_unspecified() || own == asked {
        Ok(asked)
    } else if asked.is_unspecified() && asked.is_ipv4() == own.is_ipv4() {
        Ok(own)
    } else {
        let at = match url {
            Url::Shm(_) => format!(", and this process is {own} there"),
            Url::Unix(..) => format!(", and the daemon is {own}"),
            _ => String::new(),
        };
        let text = format!("cannot listen at {asked}: {VARIABLE} is {url}{at}");
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text))
    }
}

/// What `MACHNET_ENDPOINT` says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Url {
    /// UDP sockets at an address, and how many engines.
    Udp(SocketAddr, usize),
    /// Shared memory of a name.
    Shm(String),
    /// A port of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(Box<crate::dpdk::DpdkUrl>),
    /// A daemon's socket, and what to do when it is gone.
    Unix(PathBuf, Reconnect),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum UrlError {
    #[error("no \"://\" after the scheme; wanted is for example {FALLBACK}")]
    NoScheme,
    #[error("\"{0}\" is not in this {what}; known schemes: {KNOWN}", what = if *.0 == "dpdk" { "build (its feature `dpdk` is off)" } else { "version" })]
    Planned(&'static str),
    #[error("unknown scheme \"{}\"; known schemes: {KNOWN}", .0.escape_debug())]
    UnknownScheme(String),
    #[error("no address after \"udp://\"; wanted is for example {FALLBACK}")]
    NoAddress,
    #[error("\"{}\" is no IP address (IPv6 ones go in brackets; names are not looked up)", .0.escape_debug())]
    NoIp(String),
    #[error("\"{}\" is no port: a number up to 65535", .0.escape_debug())]
    NoPort(String),
    #[error("\"{}\" is no number of engines: 1 to {MAX_ENGINES}", .0.escape_debug())]
    NoEngines(String),
    #[error("nothing but ?engines=N may follow the address, but \"{}\" does", .0.escape_debug())]
    Trailing(String),
    #[error("no path after \"unix://\"; wanted is for example unix:///run/machnet/machnet.sock")]
    NoPath,
    #[error("\"{}\" is no absolute path, beginning with \"/\"; wanted is for example unix:///run/machnet/machnet.sock", .0.escape_debug())]
    RelativePath(String),
    #[error("nothing but ?reconnect=yes or ?reconnect=no may follow the path, but \"{}\" does", .0.escape_debug())]
    NoReconnect(String),
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Dpdk(#[from] crate::dpdk::UrlError),
}

impl UrlError {
    const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Planned(_) | Self::UnknownScheme(_) => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::InvalidInput,
        }
    }
}

/// Schemes of this build.
const KNOWN: &str = if cfg!(feature = "dpdk") { "udp, shm, unix, dpdk" } else { "udp, shm, unix" };

/// Schemes of other builds or later versions.
const PLANNED: [&str; 2] = ["dpdk", "xdp"];

impl Url {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        #[cfg(feature = "dpdk")]
        if scheme.eq_ignore_ascii_case("dpdk") {
            return Ok(Self::Dpdk(Box::new(text.parse()?)));
        }
        if let Some(planned) = PLANNED.into_iter().find(|planned| scheme.eq_ignore_ascii_case(planned)) {
            return Err(UrlError::Planned(planned));
        }
        if scheme.eq_ignore_ascii_case("unix") {
            return unix(rest);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if scheme.eq_ignore_ascii_case("shm") {
            // What may be in a name is for the driver to say.
            return Ok(Self::Shm(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("udp") {
            return Err(UrlError::UnknownScheme(scheme.to_owned()));
        }
        let (authority, trailing) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let engines = match trailing.strip_prefix("?engines=") {
            Some(number) => engines(number)?,
            None if trailing.is_empty() => 1,
            None => return Err(UrlError::Trailing(trailing.to_owned())),
        };
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
        Ok(Self::Udp(SocketAddr::new(address, port), engines))
    }
}

/// Reads `PATH` and `PATH?reconnect=yes`.
fn unix(rest: &str) -> Result<Url, UrlError> {
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let reconnect = match query {
        None | Some("reconnect=no") => Reconnect::Never,
        Some("reconnect=yes") => Reconnect::new(),
        Some(other) => return Err(UrlError::NoReconnect(format!("?{other}"))),
    };
    if path.is_empty() {
        return Err(UrlError::NoPath);
    }
    if !path.starts_with('/') {
        return Err(UrlError::RelativePath(path.to_owned()));
    }
    Ok(Url::Unix(path.into(), reconnect))
}

/// Reads a number of engines.
fn engines(text: &str) -> Result<usize, UrlError> {
    let number = text.parse().ok().filter(|number| (1..=MAX_ENGINES).contains(number));
    number.ok_or_else(|| UrlError::NoEngines(text.to_owned()))
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
        match self {
            Self::Udp(address, 1) => write!(f, "udp://{address}"),
            Self::Udp(address, engines) => write!(f, "udp://{address}?engines={engines}"),
            Self::Shm(name) => write!(f, "shm://{name}"),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(url) => url.fmt(f),
            Self::Unix(path, Reconnect::Never) => write!(f, "unix://{}", path.display()),
            Self::Unix(path, Reconnect::BackingOff { .. }) => write!(f, "unix://{}?reconnect=yes", path.display()),
        }
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
            assert_eq!(Url::parse(text), Ok(Url::Udp(address.parse().unwrap(), 1)), "{text}");
        }
        let four = Url::parse("udp://127.0.0.1:7400?engines=4").unwrap();
        assert_eq!(four, Url::Udp("127.0.0.1:7400".parse().unwrap(), 4));
        assert_eq!(Url::parse(&four.to_string()), Ok(four));
        for (text, name) in [("shm://x", "x"), ("SHM://perf-1/", "perf-1"), ("shm://", "")] {
            assert_eq!(Url::parse(text), Ok(Url::Shm(name.to_owned())), "{text}");
        }
        for (text, reconnect) in [
            ("unix:///run/m.sock", Reconnect::Never),
            ("UNIX:///run/m.sock?reconnect=no", Reconnect::Never),
            ("unix:///run/m.sock?reconnect=yes", Reconnect::new()),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url, Url::Unix("/run/m.sock".into(), reconnect), "{text}");
            assert_eq!(Url::parse(&url.to_string()), Ok(url));
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
            ("udp://1.2.3.4:1?engines=0", "\"0\" is no number of engines: 1 to 64", io::ErrorKind::InvalidInput),
            ("udp://1.2.3.4:1?engines=", "\"\" is no number of engines", io::ErrorKind::InvalidInput),
            #[cfg(not(feature = "dpdk"))]
            (
                "dpdk://0000:00:06.0",
                "\"dpdk\" is not in this build (its feature `dpdk` is off); known schemes: udp, shm, unix",
                io::ErrorKind::Unsupported,
            ),
            ("xdp://eth1", "\"xdp\" is not in this version", io::ErrorKind::Unsupported),
            ("unix://", "no path after \"unix://\"", io::ErrorKind::InvalidInput),
            ("unix://run/m.sock", "\"run/m.sock\" is no absolute path", io::ErrorKind::InvalidInput),
            ("unix:///m?x=1", "but \"?x=1\" does", io::ErrorKind::InvalidInput),
            ("tcp://0.0.0.0", "unknown scheme \"tcp\"; known schemes: udp, shm", io::ErrorKind::Unsupported),
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
        for any in ["0.0.0.0:5", "[::]:0"] {
            let any: SocketAddr = any.parse().unwrap();
            assert_eq!((connects_from(&any, v4), connects_from(&any, v6)), (ip("0.0.0.0"), ip("::")));
            for asked in [v4, v6, ip("::")] {
                assert_eq!(listens_at(any.ip(), asked, &Url::Udp(any, 1)).unwrap(), asked);
            }
        }
        let one: SocketAddr = "10.0.0.1:0".parse().unwrap();
        assert_eq!((connects_from(&one, v4), connects_from(&one, v6)), (one.ip(), one.ip()));
        for (url, text) in [
            (Url::Udp(one, 1), "MACHNET_ENDPOINT is udp://10.0.0.1:0"),
            (Url::Shm("x".to_owned()), "MACHNET_ENDPOINT is shm://x, and this process is 10.0.0.1 there"),
        ] {
            for asked in [ip("0.0.0.0"), one.ip()] {
                assert_eq!(listens_at(one.ip(), asked, &url).unwrap(), one.ip());
            }
            for other in [v4, ip("::")] {
                let error = listens_at(one.ip(), other, &url).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
                assert!(error.to_string().contains(text), "{error}");
            }
        }
    }
}
