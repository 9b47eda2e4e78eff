//! Which addresses are ours, who is on the link, and who is reached through a gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::NetConfig;
use super::config::{is_edge, is_host};
use crate::DropReason;

/// See the module.
#[derive(Debug)]
pub(crate) struct Routes {
    own: Vec<IpNet>,
    on_link: Vec<IpNet>,
    gateway_v4: Option<Ipv4Addr>,
    gateway_v6: Option<Ipv6Addr>,
}

impl Routes {
    pub(crate) fn new(config: &NetConfig) -> Self {
        let NetConfig { addresses, on_link, gateway_v4, gateway_v6, .. } = config;
        let (gateway_v4, gateway_v6) = (*gateway_v4, *gateway_v6);
        Self { own: addresses.clone(), on_link: on_link.clone(), gateway_v4, gateway_v6 }
    }

    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.own.iter().any(|net| net.addr() == address)
    }

    /// True if `address` may be another host's.
    pub(crate) fn is_peer(&self, address: IpAddr) -> bool {
        is_host(address) && !self.own.iter().any(|&net| net.addr() == address || is_edge(net, address))
    }

    /// True if `address` may be another host's on the link.
    pub(crate) fn is_neighbour(&self, address: IpAddr) -> bool {
        self.is_peer(address) && (self.is_on_link(address) || self.gateway(address) == Some(address))
    }

    /// The neighbour to which a datagram to `to` goes.
    pub(crate) fn next_hop(&self, to: IpAddr) -> Result<IpAddr, DropReason> {
        if !self.is_peer(to) {
            return Err(DropReason::Unsendable);
        }
        if self.is_on_link(to) { Ok(to) } else { self.gateway(to).ok_or(DropReason::Unsendable) }
    }

    /// The address of ours from which `to` is spoken to: one that shares its link, else the first of its family.
    pub(crate) fn source(&self, to: IpAddr) -> Option<IpAddr> {
        let family = || self.own.iter().filter(|net| net.addr().is_ipv4() == to.is_ipv4());
        family().find(|net| net.contains(&to)).or_else(|| family().next()).map(IpNet::addr)
    }

    fn is_on_link(&self, address: IpAddr) -> bool {
        let is_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        is_local || self.own.iter().chain(&self.on_link).any(|net| net.contains(&address))
    }

    fn gateway(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.gateway_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.gateway_v6.map(IpAddr::V6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn routes(addresses: &[&str], gateways: [Option<&str>; 2]) -> Routes {
        let mut config = NetConfig::new(addresses[0].parse().unwrap());
        config.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        config.gateway_v4 = gateways[0].map(|text| text.parse().unwrap());
        config.gateway_v6 = gateways[1].map(|text| text.parse().unwrap());
        Routes::new(&config)
    }

    #[test]
    fn neighbours_are_inside_a_prefix_and_others_behind_the_gateway() {
        let routes = routes(&["10.0.0.5/24", "192.168.7.5/16", "2001:db8::5/64"], [Some("10.0.0.1"), Some("fe80::1")]);
        for (to, hop) in [
            ("10.0.0.9", "10.0.0.9"),
            ("192.168.9.9", "192.168.9.9"),
            ("10.0.1.9", "10.0.0.1"),
            ("8.8.8.8", "10.0.0.1"),
            ("2001:db8::9", "2001:db8::9"),
            ("fe80::9", "fe80::9"),
            ("2001:db8:1::9", "fe80::1"),
        ] {
            assert_eq!(routes.next_hop(ip(to)), Ok(ip(hop)), "{to}");
        }
        for to in [
            "10.0.0.5",
            "10.0.0.255",
            "10.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.1",
            "ff02::1",
            "::1",
            "0.0.0.0",
        ] {
            assert_eq!(routes.next_hop(ip(to)), Err(DropReason::Unsendable), "{to}");
        }
        assert_eq!(routes.source(ip("192.168.1.1")), Some(ip("192.168.7.5")));
        assert_eq!(routes.source(ip("8.8.8.8")), Some(ip("10.0.0.5")));
        assert_eq!(routes.source(ip("fe80::1")), Some(ip("2001:db8::5")));
    }

    /// GCP: the address is a /32, and even neighbours are reached through the gateway, which is in no prefix.
    #[test]
    fn alone_in_a_prefix_of_32_bits() {
        let gcp = routes(&["10.128.0.5/32"], [Some("10.128.0.1"), None]);
        for to in ["10.128.0.6", "10.128.0.1", "8.8.8.8"] {
            assert_eq!(gcp.next_hop(ip(to)), Ok(ip("10.128.0.1")), "{to}");
        }
        assert!(gcp.is_neighbour(ip("10.128.0.1")) && !gcp.is_neighbour(ip("10.128.0.6")));
        assert_eq!(gcp.source(ip("10.128.0.1")), Some(ip("10.128.0.5")));
        assert_eq!(
            (gcp.next_hop(ip("2001:db8::1")), gcp.source(ip("2001:db8::1"))),
            (Err(DropReason::Unsendable), None)
        );
        let alone = routes(&["10.128.0.5/32"], [None, None]);
        assert_eq!(alone.next_hop(ip("10.128.0.6")), Err(DropReason::Unsendable));
    }

    #[test]
    fn further_prefixes_are_on_the_link() {
        let mut config = NetConfig::new("10.128.0.5/32".parse().unwrap());
        config.on_link = vec!["10.128.0.0/20".parse().unwrap()];
        assert_eq!(Routes::new(&config).next_hop(ip("10.128.15.1")), Ok(ip("10.128.15.1")));
        assert_eq!(Routes::new(&config).next_hop(ip("10.128.16.1")), Err(DropReason::Unsendable));
    }
}
