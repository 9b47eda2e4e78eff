//! The kernel's interface for the same hardware as a port, and what its administrator, or the cloud's agent, told it: addresses,
//! gateways, MTU. Read when a port is opened; what changes later is not followed.
//!
//! Addresses by `getifaddrs`, routes from `/proc/net`, the rest from `/sys/class/net`: what is said there is of the network namespace
//! that this process is in.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use machnet_core::net::NetConfig;
use nix::ifaddrs::getifaddrs;
use nix::libc::{IFF_RUNNING, IFF_UP, SIOCGIFFLAGS, SIOCGIFMTU, ifreq, ioctl};

use crate::Device;
use crate::quirks::Quirks;

const CLASS: &str = "/sys/class/net";

/// A route leads through a gateway, and is used (`RTF_UP`, `RTF_GATEWAY` of `linux/route.h`).
const UP: u32 = 1;
const GATEWAY: u32 = 2;

/// What the kernel knows of a network that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses, with their prefixes, IPv4 first. Without those that hold on one link only (`fe80::`).
    pub addresses: Vec<IpNet>,
    /// The IPv4 gateway of its default route.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The IPv6 gateway of its default route.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Prefixes of routes without a gateway, beyond those of the addresses.
    pub on_link: Vec<IpNet>,
    /// Its MTU, bytes, if that can be read.
    pub mtu: Option<u32>,
}

impl Interface {
    /// The interface called `name`.
    ///
    /// # Errors
    /// `NotFound`: there is none; else what the kernel says.
    pub fn named(name: &str) -> io::Result<Self> {
        let mut addresses = Vec::new();
        let mut is_there = false;
        for one in getifaddrs()?.filter(|one| one.interface_name == name) {
            is_there = true;
            let ip = |storage: &nix::sys::socket::SockaddrStorage| {
                let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            };
            let both = one.address.as_ref().and_then(ip).zip(one.netmask.as_ref().and_then(ip));
            let net = both.and_then(|(address, mask)| IpNet::with_netmask(address, mask).ok());
            addresses.extend(net.filter(|net| !is_link_local(net.addr()) && !net.addr().is_loopback()));
        }
        if !is_there {
            return Err(io::Error::new(ErrorKind::NotFound, format!("there is no interface {name}")));
        }
        addresses.sort_by_key(|net| net.addr().is_ipv6());
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let (gateway_v4, mut on_link) = routes_v4(&read("/proc/net/route"), name);
        let (gateway_v6, on_link_v6) = routes_v6(&read("/proc/net/ipv6_route"), name);
        on_link.extend(on_link_v6);
        on_link.retain(|net| !addresses.iter().any(|own| own.contains(net)));
        on_link.sort();
        on_link.dedup();
        Ok(Self { name: name.to_owned(), addresses, gateway_v4, gateway_v6, on_link, mtu: mtu(name) })
    }

    /// The interface for the hardware of `device`; `None` if the kernel has none, or has given it away.
    pub(crate) fn of(device: &Device) -> io::Result<Option<Self>> {
        let names = match device {
            Device::Vdev { name, arguments } => {
                return Quirks::of(name).interface(arguments).map(Self::named).transpose();
            }
            Device::Pci(address) => entries(Path::new(&format!("/sys/bus/pci/devices/{address}/net"))),
            Device::Mac(mac) => with_mac(Path::new(CLASS), &mac.to_string()),
        };
        // Several: on Azure a virtual function is shown beside the synthetic interface that has the addresses.
        let all: Vec<Self> = names.iter().filter_map(|name| Self::named(name).ok()).collect();
        let with_addresses = all.iter().position(|one| !one.addresses.is_empty());
        Ok(all.into_iter().nth(with_addresses.unwrap_or(0)))
    }

    /// Fills in what `net` does not say.
    pub(crate) fn complete(&self, net: &mut NetConfig) {
        let has_gateway = net.gateway_v4.is_some() || net.gateway_v6.is_some();
        net.addresses.clone_from(&self.addresses);
        if !has_gateway {
            (net.gateway_v4, net.gateway_v6) = (self.gateway_v4, self.gateway_v6);
        }
        // A gateway of a family without address leads nowhere.
        net.gateway_v4 = net.gateway_v4.filter(|_| self.addresses.iter().any(|own| own.addr().is_ipv4()));
        net.gateway_v6 = net.gateway_v6.filter(|_| self.addresses.iter().any(|own| own.addr().is_ipv6()));
        net.on_link.extend(&self.on_link);
    }
}

/// Whether the kernel has an interface called `name`.
///
/// # Errors
/// `NotFound`, with those that it has.
pub(crate) fn is_there(name: &str) -> io::Result<()> {
    let mut names: Vec<_> = getifaddrs()?.map(|one| one.interface_name).collect();
    if names.iter().any(|one| one == name) {
        return Ok(());
    }
    names.sort();
    names.dedup();
    let text = format!("there is no interface {name}: there are {}", names.join(", "));
    Err(io::Error::new(ErrorKind::NotFound, text))
}

/// Whether the kernel's interface `name` is up and has a carrier; `None` if nobody knows.
pub(crate) fn is_running(name: &str) -> Option<bool> {
    let request = ask(name, SIOCGIFFLAGS)?;
    // SAFETY: what this request writes.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    Some(flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING)
}

/// The longest packet of the kernel's interface `name`, bytes. Not from `/sys`, which may be another network namespace's.
pub(crate) fn mtu(name: &str) -> Option<u32> {
    let request = ask(name, SIOCGIFMTU)?;
    // SAFETY: what this request writes.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

/// Asks the kernel about an interface of this process's network namespace.
fn ask(name: &str, about: nix::libc::Ioctl) -> Option<ifreq> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // SAFETY: a structure of numbers, for which zeros are right.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: an open socket, and a structure of the kind that these requests read and write, its name ended by a zero.
    (unsafe { ioctl(socket.as_raw_fd(), about, &raw mut request) } == 0).then_some(request)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The interfaces with an Ethernet address.
fn with_mac(class: &Path, mac: &str) -> Vec<String> {
    let mut names = entries(class);
    names.retain(|name| {
        std::fs::read_to_string(class.join(name).join("address")).is_ok_and(|address| address.trim() == mac)
    });
    names
}

/// Default gateway and prefixes on the link, of the text of `/proc/net/route`: addresses are numbers in hexadecimal, their bytes in
/// the order of the network, as this machine reads them.
fn routes_v4(text: &str, interface: &str) -> (Option<Ipv4Addr>, Vec<IpNet>) {
    let (mut best, mut on_link) = (None::<(u32, Ipv4Addr)>, Vec::new());
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[name, destination, gateway, flags, _, _, metric, mask, ..] = &fields[..] else { continue };
        let address = |text| u32::from_str_radix(text, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()));
        let (Some(destination), Some(gateway), Some(mask)) = (address(destination), address(gateway), address(mask))
        else {
            continue;
        };
        let (Ok(flags), Ok(metric)) = (u32::from_str_radix(flags, 16), metric.parse::<u32>()) else { continue };
        let Ok(net) = Ipv4Net::with_netmask(destination, mask) else { continue };
        if name != interface || flags & UP == 0 {
            continue;
        }
        if flags & GATEWAY == 0 {
            on_link.extend((net.prefix_len() > 0).then_some(IpNet::V4(net)));
        } else if net.prefix_len() == 0 && best.is_none_or(|(least, _)| metric < least) {
            best = Some((metric, gateway));
        }
    }
    (best.map(|(_, gateway)| gateway), on_link)
}

/// The same of `/proc/net/ipv6_route`.
fn routes_v6(text: &str, interface: &str) -> (Option<Ipv6Addr>, Vec<IpNet>) {
    let (mut best, mut on_link) = (None::<(u32, Ipv6Addr)>, Vec::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[destination, length, _, _, gateway, metric, _, _, flags, name] = &fields[..] else { continue };
        let address = |text| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from_bits);
        let (Some(destination), Some(gateway)) = (address(destination), address(gateway)) else { continue };
        let (Ok(length), Ok(metric), Ok(flags)) =
            (u8::from_str_radix(length, 16), u32::from_str_radix(metric, 16), u32::from_str_radix(flags, 16))
        else {
            continue;
        };
        let Ok(net) = Ipv6Net::new(destination, length) else { continue };
        if name != interface || flags & UP == 0 || destination.is_multicast() || destination.is_unicast_link_local() {
            continue;
        }
        if flags & GATEWAY == 0 {
            on_link.extend((length > 0).then_some(IpNet::V6(net)));
        } else if length == 0 && best.is_none_or(|(least, _)| metric < least) {
            best = Some((metric, gateway));
        }
    }
    (best.map(|(_, gateway)| gateway), on_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host on GCP, where addresses are /32.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_gateway_beyond_the_prefix_is_found() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    ens4\t00000000\t0100800A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                    ens4\t00000000\t0200800A\t0003\t0\t0\t50\t00000000\t0\t0\t0\n\
                    ens4\t0100800A\t00000000\t0005\t0\t0\t100\tFFFFFFFF\t0\t0\t0\n\
                    eth9\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let (gateway, on_link) = routes_v4(text, "ens4");
        assert_eq!(gateway, Some([10, 128, 0, 2].into()), "of the smallest metric");
        assert_eq!(on_link, ["10.128.0.1/32".parse().unwrap()]);
        assert_eq!(routes_v4(text, "lo"), (None, Vec::new()));
        assert_eq!(routes_v4("garbage\nens4 zz\n", "ens4"), (None, Vec::new()));
    }

    #[test]
    fn ipv6_routes_are_read() {
        let any = "0".repeat(32);
        let text = format!(
            "{any} 00 {any} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n\
             fd770000000000000000000000000000 40 {any} 00 {any} 00000100 00000001 00000000 00000001 eth0\n\
             fe800000000000000000000000000000 40 {any} 00 {any} 00000100 00000001 00000000 00000001 eth0\n\
             ff000000000000000000000000000000 08 {any} 00 {any} 00000100 00000001 00000000 00000001 eth0\n"
        );
        let (gateway, on_link) = routes_v6(&text, "eth0");
        assert_eq!(gateway, Some("fe80::1".parse().unwrap()));
        assert_eq!(on_link, ["fd77::/64".parse().unwrap()]);
    }

    #[test]
    fn what_the_url_says_stands_and_the_kernel_says_the_rest() {
        let interface = Interface {
            name: "eth0".to_owned(),
            addresses: vec!["10.0.0.5/32".parse().unwrap()],
            gateway_v4: Some([10, 0, 0, 1].into()),
            gateway_v6: Some("fe80::1".parse().unwrap()),
            on_link: vec!["10.0.0.1/32".parse().unwrap()],
            mtu: Some(1460),
        };
        let mut net = NetConfig::new("192.0.2.1/24".parse().unwrap());
        net.addresses.clear();
        interface.complete(&mut net);
        assert_eq!((net.addresses[0].to_string(), net.gateway_v4), ("10.0.0.5/32".to_owned(), interface.gateway_v4));
        assert_eq!((net.gateway_v6, net.on_link.len()), (None, 1), "there is no IPv6 address");
        net.gateway_v4 = Some([10, 0, 0, 9].into());
        interface.complete(&mut net);
        assert_eq!(net.gateway_v4, Some([10, 0, 0, 9].into()));
    }

    #[test]
    fn the_loopback_interface_is_there_and_has_nothing_to_take_over() {
        let lo = Interface::named("lo").unwrap();
        assert_eq!((lo.addresses.len(), lo.gateway_v4), (0, None));
        assert_eq!(Interface::named("nonesuch0").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(with_mac(Path::new(CLASS), "00:00:00:00:00:00").contains(&"lo".to_owned()));
        assert_eq!((is_running("nonesuch0"), is_running("a-name-that-is-too-long")), (None, None));
        assert!(is_running("lo").is_some());
        assert_eq!((mtu("lo"), mtu("nonesuch0")), (Some(65536), None));
        is_there("lo").unwrap();
        let error = is_there("nonesuch0").unwrap_err();
        assert!(error.to_string().contains("there are ") && error.to_string().contains("lo"), "{error}");
        let memif: Device = "vdev:net_memif0,role=client".parse().unwrap();
        assert_eq!(Interface::of(&memif).unwrap(), None);
        let lo: Device = "vdev:net_af_packet0,iface=lo".parse().unwrap();
        assert_eq!(Interface::of(&lo).unwrap().unwrap().name, "lo");
    }
}
