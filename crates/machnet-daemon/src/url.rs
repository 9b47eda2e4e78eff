//! Which vNIC a URL means.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use machnet_shm::Shm;

/// A vNIC, as configurations name it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverUrl {
    /// `udp://10.0.0.1` or `udp://10.0.0.1:7000`: UDP sockets at an address.
    Udp(SocketAddr),
    /// `shm://name`: memory shared with other endpoints of this host and user.
    Shm(String),
    /// `dpdk://…`: a port of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(Box<machnet_dpdk::DpdkUrl>),
}

impl DriverUrl {
    /// How many engines a daemon on it must have; `None`: as many as it likes.
    #[must_use]
    pub const fn engines(&self) -> Option<usize> {
        match self {
            Self::Udp(_) => None,
            Self::Shm(_) => Some(1),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(url) => match url.engines() {
                1 => None,
                several => Some(several),
            },
        }
    }
}

impl FromStr for DriverUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "wanted is for example \"udp://0.0.0.0\", \"udp://[::]:7000\", \"shm://name\" or \"dpdk://0000:00:06.0?ip=10.0.0.5/24\"";
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wanted.to_owned())?;
        match scheme {
            "udp" => {
                let rest = rest.trim_end_matches('/');
                let bare = rest.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(rest);
                let address = rest.parse::<SocketAddr>().ok();
                let address = address.or_else(|| Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, 0)));
                address
                    .map(Self::Udp)
                    .ok_or_else(|| format!("{rest:?} is no IP address with or without a port; {wanted}"))
            }
            "shm" => match rest.trim_end_matches('/') {
                "" => Err(format!("the name is missing; {wanted}")),
                name => {
                    Shm::check_name(name).map_err(|error| error.to_string())?;
                    Ok(Self::Shm(name.to_owned()))
                }
            },
            #[cfg(feature = "dpdk")]
            "dpdk" => text.parse().map(|url| Self::Dpdk(Box::new(url))).map_err(|error| format!("{error}")),
            #[cfg(not(feature = "dpdk"))]
            "dpdk" => Err("\"dpdk\" is not in this build: its feature `dpdk` is off".to_owned()),
            "unix" => Err("a daemon drives a vNIC, not another daemon".to_owned()),
            _ => Err(format!("unknown scheme {scheme:?}; {wanted}")),
        }
    }
}

impl fmt::Display for DriverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Shm(name) => write!(f, "shm://{name}"),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(url) => url.fmt(f),
        }
    }
}
