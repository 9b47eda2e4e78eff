//! Addresses, routes and limits of the layer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::FrameCapabilities;

/// What a host has to know of its network. Nothing is discovered: clouds assign addresses, and say so.
///
/// ```
/// use machnet_core::net::NetConfig;
///
/// let mut net = NetConfig::new("10.128.0.5/32".parse()?);
/// net.gateway_v4 = Some("10.128.0.1".parse()?);
/// net.port = 9000;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetConfig {
    /// Own addresses, with their prefixes: whoever is inside one is on the link. The first is home. At least one, unicast. A
    /// prefix of /32 or /128, as on GCP, has nobody else inside: everything then goes through the gateway.
    pub addresses: Vec<IpNet>,
    /// The home port; 0: any free one.
    pub port: u16,
    /// Where IPv4 datagrams go that are for nobody on the link. The gateway itself is on the link, inside a prefix or not.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Further prefixes that are on the link.
    pub on_link: Vec<IpNet>,
    /// Neighbours remembered. Who is longest unheard of makes room. From 1; default 1 024.
    pub max_neighbours: usize,
    /// Frames that wait for one neighbour's address; the oldest makes room. Eight times as many wait for all together. From 1; default 16.
    pub max_pending: usize,
    /// Echo replies and "port unreachable" per second, with a tenth of that at once. Default 1 000, 0 for none.
    pub answers_per_second: u32,
    /// Whether datagrams to closed ports are answered by ICMP "port unreachable", on which peers' `connect` is refused. To
    /// be switched off where the kernel shares the address and answers itself. Default on.
    pub answer_closed_ports: bool,
}

impl NetConfig {
    /// One address, no gateway, and defaults for the rest.
    #[must_use]
    pub fn new(address: IpNet) -> Self {
        Self {
            addresses: vec![address],
            port: 0,
            gateway_v4: None,
            gateway_v6: None,
            on_link: Vec::new(),
            max_neighbours: 1024,
            max_pending: 16,
            answers_per_second: 1000,
            answer_closed_ports: true,
        }
    }

    pub(super) fn check(&self, device: &FrameCapabilities) -> Result<(), NetError> {
        if device.mac.is_group() || device.mac == super::MacAddr::ZERO {
            return Err(NetError::Mac(device.mac));
        }
        if self.addresses.is_empty() {
            return Err(NetError::NoAddress);
        }
        let own = || self.addresses.iter().map(IpNet::addr);
        let gateways = [self.gateway_v4.map(IpAddr::V4), self.gateway_v6.map(IpAddr::V6)];
        for address in own().chain(gateways.into_iter().flatten()) {
            if !is_host(address) {
                return Err(NetError::NotAHost(address));
            }
        }
        for net in &self.addresses {
            if is_edge(*net, net.addr()) {
                return Err(NetError::NotAHost(net.addr()));
            }
        }
        for (i, address) in own().enumerate() {
            if own().skip(i + 1).any(|other| other == address) {
                return Err(NetError::Twice(address));
            }
        }
        if let Some(gateway) = gateways.into_iter().flatten().find(|&gateway| own().any(|address| address == gateway)) {
            return Err(NetError::OwnGateway(gateway));
        }
        let min = if self.has_v6() { 1280 } else { 1260 };
        if device.mtu < min {
            return Err(NetError::Mtu { mtu: device.mtu, min });
        }
        if self.max_neighbours == 0 {
            return Err(NetError::Zero("max_neighbours"));
        }
        if self.max_pending == 0 {
            return Err(NetError::Zero("max_pending"));
        }
        Ok(())
    }

    pub(super) fn has_v6(&self) -> bool {
        self.addresses.iter().any(|net| net.addr().is_ipv6())
    }
}

/// True if `address` can be one host's.
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.octets()[0] == 0 || v4.is_loopback() || v4.is_multicast() || v4.octets()[0] >= 240),
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// True for the first and last address of an IPv4 prefix that has such: the network's own and its broadcast address.
pub(super) fn is_edge(net: IpNet, address: IpAddr) -> bool {
    match net {
        IpNet::V4(v4) => v4.prefix_len() < 31 && (address == v4.network() || address == v4.broadcast()),
        IpNet::V6(_) => false,
    }
}

/// Why a device and a configuration make no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// No own address.
    #[error("no own address: give at least one with its prefix, such as 10.0.0.5/24")]
    NoAddress,
    /// An own address or a gateway that no single host can have.
    #[error("{0} is no host's address: it must be unicast, and neither loopback nor the edge of its prefix")]
    NotAHost(IpAddr),
    /// An own address that is there twice.
    #[error("{0} is configured twice")]
    Twice(IpAddr),
    /// The gateway is this host.
    #[error("the gateway {0} is one of the host's own addresses: name the router")]
    OwnGateway(IpAddr),
    /// The device's address is none.
    #[error("the device's Ethernet address {0} is not one of a single device")]
    Mac(super::MacAddr),
    /// The MTU does not carry the packets that open a flow.
    #[error("the device's MTU is {mtu}; it must be at least {min}")]
    Mtu {
        /// What it is, bytes of IP packet.
        mtu: u32,
        /// What it must be.
        min: u32,
    },
    /// The device's frames do not hold what its MTU allows.
    #[error("the device's frames have {size} bytes; headers and an MTU of {mtu} need {need}")]
    Frames {
        /// Bytes per frame.
        size: usize,
        /// The device's MTU.
        mtu: u32,
        /// Bytes needed.
        need: usize,
    },
    /// The device has no frame at all.
    #[error("the device has no free frame")]
    NoFrame,
    /// A limit of zero.
    #[error("{0} is 0; it must be at least 1")]
    Zero(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::MacAddr;

    const DEVICE: FrameCapabilities = FrameCapabilities::minimal(MacAddr([2, 0, 0, 0, 0, 1]), 1500);

    fn config(addresses: &[&str]) -> NetConfig {
        let mut config = NetConfig::new("10.0.0.5/24".parse().unwrap());
        config.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        config
    }

    #[test]
    fn addresses_are_checked() {
        let check = |addresses: &[&str]| config(addresses).check(&DEVICE);
        assert_eq!(check(&["10.0.0.5/24", "10.0.1.5/32", "2001:db8::5/64", "fe80::5/128", "10.2.0.0/31"]), Ok(()));
        assert_eq!(check(&[]), Err(NetError::NoAddress));
        for bad in [
            "0.0.0.0/0",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "255.255.255.255/32",
            "10.0.0.0/24",
            "10.0.0.255/24",
            "::/0",
            "::1/128",
            "ff02::1/16",
        ] {
            let net: IpNet = bad.parse().unwrap();
            assert_eq!(check(&["10.0.0.5/24", bad]), Err(NetError::NotAHost(net.addr())), "{bad}");
        }
        assert_eq!(check(&["10.0.0.5/24", "10.0.0.5/32"]), Err(NetError::Twice(IpAddr::from([10, 0, 0, 5]))));
    }

    #[test]
    fn gateways_mtu_and_limits_are_checked() {
        let with = |change: fn(&mut NetConfig, &mut FrameCapabilities)| {
            let (mut config, mut device) = (config(&["10.0.0.5/32"]), DEVICE);
            change(&mut config, &mut device);
            config.check(&device)
        };
        assert_eq!(with(|config, _| config.gateway_v4 = Some([10, 0, 0, 1].into())), Ok(()));
        let own = IpAddr::from([10, 0, 0, 5]);
        assert_eq!(with(|config, _| config.gateway_v4 = Some([10, 0, 0, 5].into())), Err(NetError::OwnGateway(own)));
        assert_eq!(with(|_, device| device.mtu = 1260), Ok(()));
        assert_eq!(with(|_, device| device.mtu = 1259), Err(NetError::Mtu { mtu: 1259, min: 1260 }));
        let v6 = |config: &mut NetConfig, device: &mut FrameCapabilities| {
            config.addresses.push("2001:db8::5/64".parse().unwrap());
            device.mtu = 1279;
        };
        assert_eq!(with(v6), Err(NetError::Mtu { mtu: 1279, min: 1280 }));
        assert_eq!(with(|_, device| device.mac = MacAddr::BROADCAST), Err(NetError::Mac(MacAddr::BROADCAST)));
        assert_eq!(with(|config, _| config.max_neighbours = 0), Err(NetError::Zero("max_neighbours")));
        assert_eq!(with(|config, _| config.max_pending = 0), Err(NetError::Zero("max_pending")));
    }
}
