//! How long a datagram the local interface takes.
//!
//! The MTU comes from procfs, whose network part shows the reader's own network namespace (sysfs shows that of whoever
//! mounted it), then from sysfs.

use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use crate::config::MAX_DATAGRAM;

/// What nearly every link carries; assumed where nothing is known.
const ETHERNET: u32 = 1_500;

/// The longest UDP payload that leaves unfragmented from `local`. On a wildcard address that is the least of all
/// interfaces that are up.
pub(crate) fn max_payload(local: SocketAddr) -> u32 {
    payload_of(interface_mtu(local.ip()).unwrap_or(ETHERNET), local.is_ipv4())
}

/// `mtu` less the IP and UDP headers.
fn payload_of(mtu: u32, ipv4: bool) -> u32 {
    let headers = if ipv4 { 20 + 8 } else { 40 + 8 };
    mtu.saturating_sub(headers).min(MAX_DATAGRAM as u32)
}

fn interface_mtu(local: IpAddr) -> Option<u32> {
    let interfaces = getifaddrs().ok()?.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    interfaces.filter(|interface| covers(interface, local)).filter_map(|it| mtu_of(&it.interface_name)).min()
}

fn mtu_of(name: &str) -> Option<u32> {
    [format!("/proc/sys/net/ipv6/conf/{name}/mtu"), format!("/sys/class/net/{name}/mtu")]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// True if `local` is in the interface's network (all of 127.0.0.0/8 is on the loopback interface), or is unspecified
/// and of the same family.
fn covers(interface: &InterfaceAddress, local: IpAddr) -> bool {
    let (Some(address), Some(mask)) = (ip_of(interface.address), ip_of(interface.netmask)) else {
        return false;
    };
    match (address, mask, local) {
        (IpAddr::V4(address), IpAddr::V4(mask), IpAddr::V4(local)) => {
            local.is_unspecified() || address.to_bits() & mask.to_bits() == local.to_bits() & mask.to_bits()
        }
        (IpAddr::V6(address), IpAddr::V6(mask), IpAddr::V6(local)) => {
            local.is_unspecified() || address.to_bits() & mask.to_bits() == local.to_bits() & mask.to_bits()
        }
        _ => false,
    }
}

fn ip_of(address: Option<SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    address
        .as_sockaddr_in()
        .map(|v4| IpAddr::V4(v4.ip()))
        .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_subtracted_and_the_protocol_bounds() {
        assert_eq!((payload_of(1500, true), payload_of(1500, false)), (1472, 1452));
        assert_eq!((payload_of(9001, true), payload_of(1460, true)), (8973, 1432));
        assert_eq!((payload_of(65536, true), payload_of(65536, false)), (65507, 65488));
        assert_eq!((payload_of(0, true), payload_of(20, false)), (0, 0));
    }

    #[test]
    fn an_address_of_no_interface_gets_the_ethernet_default() {
        assert_eq!(max_payload("203.0.113.1:1".parse().unwrap()), 1472);
    }

    #[test]
    fn loopback_has_its_own_mtu_for_every_address_of_its_network() {
        let lo = mtu_of("lo").unwrap();
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(max_payload(address), payload_of(lo, address.is_ipv4()), "{address}");
        }
    }
}
