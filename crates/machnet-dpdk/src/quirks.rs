//! What single drivers want done differently. Everything else follows from what a port says of itself.
//!
//! Found by running them (`docs/drivers.md` has what was run), or from the drivers' sources where no such device was at hand.

use std::net::IpAddr;

use machnet_core::net::MacAddr;

/// How a port that is driven by a given driver differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// Its driver, as it calls itself.
    driver: &'static str,
    /// The device is told which MTU it has. memif refuses all but its default, and takes what its buffers hold.
    pub(crate) takes_mtu: bool,
    /// The device argument that says how long a frame may be, how long it is without, and how many of its bytes are not the
    /// frame's.
    pub(crate) buffer: Option<(&'static str, u32, u32)>,
    /// The argument with the path of a Unix socket that the device listens on, if its arguments contain the second. A
    /// socket that a killed process left behind is removed.
    pub(crate) listens: Option<(&'static str, Listens)>,
    /// With this argument it connects when it is started, and not again by itself.
    connects: Option<&'static str>,
    /// It has a random Ethernet address unless it is told one (`mac=`), so that its peers would look for a process that was
    /// started again where it was before.
    pub(crate) wants_mac: bool,
}

/// When a device with a socket is the one that listens on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listens {
    /// If its arguments have this one.
    With(&'static str),
    /// Unless its arguments have this one.
    Without(&'static str),
}

const NONE: Quirks =
    Quirks { driver: "", takes_mtu: true, buffer: None, listens: None, connects: None, wants_mac: false };

const TABLE: [Quirks; 5] = [
    Quirks {
        driver: "net_memif",
        takes_mtu: false,
        buffer: Some(("bsize", 2048, 0)),
        listens: Some(("socket", Listens::Without("role=client"))),
        connects: Some("role=client"),
        wants_mac: true,
    },
    Quirks { driver: "net_vhost", takes_mtu: false, listens: Some(("iface", Listens::Without("client=1"))), ..NONE },
    Quirks { driver: "net_virtio_user", listens: Some(("path", Listens::With("server=1"))), wants_mac: true, ..NONE },
    // Of each slot of its ring, TPACKET2_HDRLEN, rounded up, is the kernel's.
    Quirks { driver: "net_af_packet", takes_mtu: false, buffer: Some(("framesz", 2048, 66)), ..NONE },
    // The kernel's interface has the MTU, and setting it there is not this driver's business.
    Quirks { driver: "net_af_xdp", takes_mtu: false, ..NONE },
];

impl Quirks {
    /// Those of a driver, or of a virtual device by its name.
    pub(crate) fn of(driver: &str) -> Self {
        let driver = driver.trim_end_matches(|c: char| c.is_ascii_digit());
        TABLE
            .into_iter()
            .find(|quirks| quirks.driver == driver || driver == "virtio_user" && quirks.driver == "net_virtio_user")
            .unwrap_or(NONE)
    }

    /// The longest frame that its buffers hold.
    pub(crate) fn longest_frame(&self, arguments: &str) -> Option<u32> {
        let (name, default, overhead) = self.buffer?;
        let size = argument(arguments, name).and_then(|value| value.parse().ok()).unwrap_or(default);
        Some(size.saturating_sub(overhead))
    }

    /// The socket that a virtual device will listen on.
    pub(crate) fn socket<'a>(&self, arguments: &'a str) -> Option<&'a str> {
        let (name, when) = self.listens?;
        let has = |wanted| arguments.split(',').any(|argument| argument == wanted);
        let listens = match when {
            Listens::With(wanted) => has(wanted),
            Listens::Without(unwanted) => !has(unwanted),
        };
        argument(arguments, name).filter(|_| listens)
    }

    /// True if a device whose link is down must be started again.
    pub(crate) fn must_reconnect(&self, arguments: &str) -> bool {
        self.connects.is_some_and(|wanted| arguments.split(',').any(|argument| argument == wanted))
    }

    /// The arguments, with an Ethernet address if one is wanted and `address` says for whom: locally administered, and
    /// always the same.
    pub(crate) fn with_mac(&self, arguments: &str, address: Option<IpAddr>) -> String {
        let Some(address) = address.filter(|_| self.wants_mac && argument(arguments, "mac").is_none()) else {
            return arguments.to_owned();
        };
        let [.., a, b, c, d] = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mac = MacAddr([0x02, 0x4d, a, b, c, d]);
        if arguments.is_empty() { format!("mac={mac}") } else { format!("{arguments},mac={mac}") }
    }
}

/// The value of an argument among `a=1,b=2`.
fn argument<'a>(arguments: &'a str, name: &str) -> Option<&'a str> {
    arguments.split(',').find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_found_by_their_devices_names() {
        for (name, driver) in [("net_memif0", "net_memif"), ("virtio_user12", "net_virtio_user"), ("net_ena", "")] {
            assert_eq!(Quirks::of(name).driver, driver, "{name}");
        }
    }

    #[test]
    fn arguments_say_how_long_a_frame_is() {
        let memif = Quirks::of("net_memif0");
        assert_eq!(memif.longest_frame("role=client"), Some(2048));
        assert_eq!(memif.longest_frame("role=client,bsize=9216,id=0"), Some(9216));
        assert_eq!(Quirks::of("net_af_packet").longest_frame("iface=eth0"), Some(1982));
        assert_eq!(NONE.longest_frame("bsize=9216"), None);
    }

    #[test]
    fn who_is_started_again_has_the_address_it_had() {
        let with = |name: &str, arguments: &str, address: &str| {
            Quirks::of(name).with_mac(arguments, Some(address.parse().unwrap()))
        };
        assert_eq!(with("net_memif0", "id=1", "10.0.0.5"), "id=1,mac=02:4d:0a:00:00:05");
        assert_eq!(with("net_memif0", "", "fd00::1:2"), "mac=02:4d:00:01:00:02");
        assert_eq!(with("net_memif0", "mac=02:00:00:00:00:01", "10.0.0.5"), "mac=02:00:00:00:00:01");
        assert_eq!(with("net_vhost0", "iface=/a", "10.0.0.5"), "iface=/a");
        assert_eq!(Quirks::of("net_memif0").with_mac("id=1", None), "id=1");
    }

    #[test]
    fn only_memifs_client_must_reconnect() {
        let must = |name: &str, arguments: &str| Quirks::of(name).must_reconnect(arguments);
        assert!(must("net_memif0", "role=client,socket=/a"));
        assert!(!must("net_memif0", "role=server,socket=/a") && !must("net_ena", ""));
    }

    #[test]
    fn only_who_listens_has_a_socket() {
        let socket = |name: &str, arguments: &'static str| Quirks::of(name).socket(arguments);
        assert_eq!(socket("net_vhost0", "iface=/a,queues=1"), Some("/a"));
        assert_eq!(socket("net_vhost0", "iface=/a,client=1"), None);
        assert_eq!(socket("virtio_user0", "path=/a"), None);
        assert_eq!(socket("virtio_user0", "path=/a,server=1"), Some("/a"));
        assert_eq!(socket("net_memif0", "role=server,socket=/a"), Some("/a"));
        assert_eq!(socket("net_memif0", "role=client,socket=/a"), None);
    }
}
