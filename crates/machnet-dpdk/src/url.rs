//! A port and the host on it, as a URL.

use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use machnet_core::MAX_ENGINES;
use machnet_core::net::NetConfig;

use crate::config::{FRAMES, MAX_LONG_FRAMES, MAX_MTU};
use crate::quirks::Quirks;
use crate::{Device, Dpdk, Eal, HugePages, Interface, NoDevice, Port, PortBuilder};

/// What a URL names: `dpdk://DEVICE?KEY=VALUE&…`. The device as [`Device`] reads it; the keys:
///
/// | key | meaning | default |
/// |---|---|---|
/// | `ip` | own address with its prefix, `10.0.0.5/24`; may be repeated. `kernel`: those of the kernel's interface for the same hardware, with its gateways, further routes and MTU where the URL says none | `kernel` |
/// | `gateway` | where packets for other networks go; one per family | none |
/// | `route` | a further prefix that is on the link; may be repeated | none |
/// | `port` | the UDP port that flows leave from | any |
/// | `engines` | engines, each with a queue pair and a thread, 1 to 64 | 1 |
/// | `queues` | queue pairs of the device, at least one for each engine | as many as engines |
/// | `mtu` | the longest IP packet, bytes | the device's, up to 1500 |
/// | `frames` | number of frames of each engine | 4096 |
/// | `long_frames` | frames of 64 KiB of each engine, for messages of several packets, where the device sends frames of two pieces; 0: none | half as many as descriptors and 64, up to 256 |
/// | `descriptors` | of each ring | 256 |
/// | `checksums` | who computes UDP checksums: `software`, `device` | `software` |
/// | `huge` | huge pages: `auto`, `yes`, `no` | `auto` |
/// | `memory` | MiB for DPDK | as needed; 512 without huge pages |
/// | `cores` | DPDK's own, as its `-l` takes them | the first |
/// | `prefix` | of DPDK's files | no files |
/// | `allow` | a further device that DPDK may take; may be repeated | none |
/// | `plugin` | a driver that is not where the others are; may be repeated | none |
///
/// The last six are of the process: the first port that is opened says them, and others say the same or none.
///
/// ```
/// use machnet_dpdk::DpdkUrl;
///
/// let url: DpdkUrl = "dpdk://vdev:net_memif0,role=client,socket=/tmp/m.sock?ip=10.0.0.1/24&huge=no".parse()?;
/// assert_eq!(url.address()?.to_string(), "10.0.0.1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DpdkUrl {
    text: String,
    device: Device,
    port: PortBuilder,
    /// Without addresses: the kernel's.
    net: NetConfig,
    /// Which were asked for.
    kernel: bool,
}

/// What is wrong with a `dpdk://` URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme.
    #[error("no \"dpdk://\" at the beginning")]
    Scheme,
    /// What should name the device does not.
    #[error(transparent)]
    Device(#[from] NoDevice),
    /// Own addresses, and the kernel's.
    #[error("ip=kernel and ip= with an address: give one or the other")]
    Both,
    /// A key that does not exist.
    #[error("unknown key \"{}\"; known are ip, gateway, route, port, engines, queues, mtu, frames, long_frames, descriptors, checksums, huge, memory, cores, prefix, allow and plugin", .0.escape_debug())]
    Key(String),
    /// A value that does not fit its key.
    #[error("{key}=\"{}\" cannot be: wanted is {wanted}", .value.escape_debug())]
    Value {
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
        /// What would be right.
        wanted: &'static str,
    },
    /// A key that is there twice and may be once.
    #[error("{0} is there twice")]
    Twice(&'static str),
}

impl DpdkUrl {
    /// Opens the port.
    ///
    /// # Errors
    /// As [`PortBuilder::open_net`] and [`DpdkUrl::net`].
    pub fn open(&self) -> io::Result<Dpdk> {
        let (port, net) = self.resolve()?;
        port.open_net(&net)
    }

    /// The host's home address.
    ///
    /// # Errors
    /// As [`DpdkUrl::net`].
    pub fn address(&self) -> io::Result<IpAddr> {
        // A resolved network has one.
        Ok(self.net()?.addresses[0].addr())
    }

    /// The host's network: as the URL says, or, if it says no address, that of the kernel's interface for the same hardware.
    ///
    /// # Errors
    /// `NotFound`: no address is given, and there is no such interface, or it has none. Else what the kernel says.
    pub fn net(&self) -> io::Result<NetConfig> {
        Ok(self.resolve()?.1)
    }

    /// Port and network, with what the kernel says where the URL does not.
    fn resolve(&self) -> io::Result<(PortBuilder, NetConfig)> {
        let (mut port, mut net) = (self.port.clone(), self.net.clone());
        if net.addresses.is_empty() {
            let none = |why: &str| {
                let mend = "add ip= and an address with its prefix, such as ?ip=10.0.0.5/24";
                io::Error::new(io::ErrorKind::NotFound, format!("no own address for {}: {why}: {mend}", self.device))
            };
            if !self.kernel && Quirks::shares_with_kernel(&self.device) {
                let text = "the kernel receives what it receives, and would answer for its addresses that their ports are closed; \
                            where its firewall keeps it from that, say ip=kernel, else";
                return Err(none(text));
            }
            let interface = Interface::of(&self.device)?.ok_or_else(|| none("the kernel has no interface for it"))?;
            if interface.addresses.is_empty() {
                return Err(none(&format!("the kernel's interface {} has none", interface.name)));
            }
            interface.complete(&mut net);
            // Who shares an interface with the kernel hears its "port unreachable" for what is not the kernel's.
            net.answer_closed_ports = false;
            if let Some(mtu) = interface.mtu {
                port = port.mtu_at_most(mtu);
            }
        }
        Ok((port, net))
    }

    /// How many engines an endpoint on it must have.
    #[must_use]
    pub const fn engines(&self) -> usize {
        self.port.engines_wanted()
    }

    /// The same for an endpoint with so many engines, unless the URL has `engines=`.
    #[must_use]
    pub fn for_engines(mut self, engines: usize) -> Self {
        if self.port.engines_wanted() == 1 {
            self.port = self.port.engines(engines);
        }
        self
    }

    /// The port alone.
    #[must_use]
    pub const fn port(&self) -> &PortBuilder {
        &self.port
    }
}

impl Display for DpdkUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for DpdkUrl {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for DpdkUrl {}

/// The keys that are of the process.
const EAL: [&str; 6] = ["huge", "memory", "cores", "prefix", "allow", "plugin"];

/// Each key with what it wants, and whether it may be repeated.
const KEYS: [(&str, &str, bool); 17] = [
    ("ip", "an address with its prefix, such as 10.0.0.5/24, or kernel", true),
    ("gateway", "an address, such as 10.0.0.1; one per family", true),
    ("route", "a prefix, such as 10.1.0.0/16", true),
    ("port", "a number up to 65535", false),
    ("engines", "a number from 1 to 64", false),
    ("queues", "a number from 1 to 65535, one for each engine at least", false),
    ("mtu", "a number of bytes up to 16000, such as 1500", false),
    ("frames", "a number from 64 to 1000000, such as 2048", false),
    ("long_frames", "a number from 0 to 4096, such as 64", false),
    ("descriptors", "a number from 1 to 65535, such as 256", false),
    ("checksums", "software or device", false),
    ("huge", "auto, yes or no", false),
    ("memory", "a number of MiB, such as 512", false),
    ("cores", "cores, such as 0 or 0-1", false),
    ("prefix", "a plain name", false),
    ("allow", "a device, such as 0000:00:06.0", true),
    ("plugin", "a path", true),
];

impl FromStr for DpdkUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        const SCHEME: &str = "dpdk://";
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(UrlError::Scheme),
        };
        let (device, query) = rest.split_once('?').unwrap_or((rest, ""));
        let device: Device = device.parse()?;
        let pairs = pairs(query)?;
        let (kernel, own): (Vec<_>, Vec<_>) = all(&pairs, "ip").partition(|pair| pair.value == "kernel");
        if !kernel.is_empty() && !own.is_empty() {
            return Err(UrlError::Both);
        }
        let kernel = !kernel.is_empty();
        // The address is a place to put others in.
        let mut net = NetConfig::new(IpNet::from(IpAddr::from([0; 4])));
        net.addresses = own.into_iter().map(Pair::read).collect::<Result<_, _>>()?;
        let (mut port, mut eal, mut any_eal) = (Port::builder(device.clone()), Eal::new(), false);
        for pair in &pairs {
            any_eal |= EAL.contains(&pair.key);
            match pair.key {
                "gateway" => pair.gateway(&mut net)?,
                "route" => net.on_link.push(pair.read()?),
                "port" => net.port = pair.read()?,
                "engines" => port = port.engines(pair.read_within(1..=MAX_ENGINES)?),
                "queues" => port = port.queues(pair.read_within(1..=u16::MAX)?),
                "mtu" => port = port.mtu(pair.read_within(0..=MAX_MTU)?),
                "frames" => port = port.frames(pair.read_within(FRAMES)?),
                "long_frames" => port = port.long_frames(pair.read_within(0..=MAX_LONG_FRAMES)?),
                "descriptors" => port = port.descriptors(pair.read_within(1..=u16::MAX)?),
                "checksums" => port = port.checksum_offload(pair.choice(&[("software", false), ("device", true)])?),
                "huge" => {
                    let pages = [("auto", HugePages::Auto), ("yes", HugePages::Always), ("no", HugePages::Never)];
                    eal = eal.huge_pages(pair.choice(&pages)?);
                }
                "memory" => eal = eal.memory(pair.read()?),
                "cores" => eal = eal.cores(pair.value),
                "prefix" => eal = eal.prefix(pair.value),
                "allow" => eal = eal.allow(pair.value),
                "plugin" => eal = eal.plugin(pair.value),
                _ => {} // `ip`, above
            }
        }
        if any_eal {
            port = port.eal(eal);
        }
        Ok(Self { text: text.to_owned(), device, port, net, kernel })
    }
}

/// A key with its value.
struct Pair<'a> {
    key: &'static str,
    value: &'a str,
    wanted: &'static str,
}

impl Pair<'_> {
    fn wrong(&self) -> UrlError {
        UrlError::Value { key: self.key, value: self.value.to_owned(), wanted: self.wanted }
    }

    fn read<T: FromStr>(&self) -> Result<T, UrlError> {
        self.value.parse().map_err(|_| self.wrong())
    }

    fn read_within<T: FromStr + PartialOrd>(&self, range: RangeInclusive<T>) -> Result<T, UrlError> {
        let value = self.read()?;
        if range.contains(&value) { Ok(value) } else { Err(self.wrong()) }
    }

    fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, UrlError> {
        choices.iter().find(|(name, _)| *name == self.value).map(|&(_, value)| value).ok_or_else(|| self.wrong())
    }

    fn gateway(&self, net: &mut NetConfig) -> Result<(), UrlError> {
        let before = match self.read()? {
            IpAddr::V4(v4) => net.gateway_v4.replace(v4).is_some(),
            IpAddr::V6(v6) => net.gateway_v6.replace(v6).is_some(),
        };
        if before { Err(UrlError::Twice("gateway")) } else { Ok(()) }
    }
}

fn all<'a>(pairs: &'a [Pair<'a>], key: &'static str) -> impl Iterator<Item = &'a Pair<'a>> {
    pairs.iter().filter(move |pair| pair.key == key)
}

fn pairs(query: &str) -> Result<Vec<Pair<'_>>, UrlError> {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let &(key, wanted, repeats) =
            KEYS.iter().find(|known| known.0 == key).ok_or_else(|| UrlError::Key(key.to_owned()))?;
        if !repeats && all(&pairs, key).next().is_some() {
            return Err(UrlError::Twice(key));
        }
        let pair = Pair { key, value, wanted };
        if value.is_empty() {
            return Err(pair.wrong());
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "dpdk://vdev:net_memif0,role=client,socket=/tmp/m.sock";

    #[test]
    fn urls_are_read() {
        let url: DpdkUrl = format!(
            "{DEVICE}?ip=10.0.0.5/32&ip=fd00::5/64&gateway=10.0.0.1&gateway=fd00::1&route=10.1.0.0/16&port=7000&huge=no&mtu=1400"
        )
        .parse()
        .unwrap();
        let net = url.net().unwrap();
        assert_eq!(
            (url.address().unwrap().to_string(), net.addresses.len(), net.port),
            ("10.0.0.5".to_owned(), 2, 7000)
        );
        assert_eq!(net.gateway_v4, Some([10, 0, 0, 1].into()));
        assert_eq!(net.gateway_v6.unwrap().to_string(), "fd00::1");
        assert_eq!(net.on_link[0].to_string(), "10.1.0.0/16");
        assert_eq!(url.to_string().parse(), Ok(url));
        "DPDK://0000:00:06.0?ip=10.0.0.5/24&checksums=device&descriptors=512".parse::<DpdkUrl>().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (rest, part) in [
            ("?ip=10.0.0.5/24&ip=kernel", "give one or the other"),
            ("?ip=10.0.0.5", "ip=\"10.0.0.5\" cannot be: wanted is an address with its prefix"),
            ("?ip=", "ip=\"\""),
            ("?ip", "ip=\"\""),
            ("?ip=10.0.0.5/33", "wanted is an address with its prefix"),
            ("?ip=10.0.0.5/24&huge=maybe", "wanted is auto, yes or no"),
            ("?ip=10.0.0.5/24&mtu=big", "wanted is a number of bytes"),
            ("?ip=10.0.0.5/24&port=1&port=2", "port is there twice"),
            ("?ip=10.0.0.5/24&gateway=10.0.0.1&gateway=10.0.0.2", "gateway is there twice"),
            ("?ip=10.0.0.5/24&color=red", "unknown key \"color\"; known are ip,"),
        ] {
            let error = format!("{DEVICE}{rest}").parse::<DpdkUrl>().unwrap_err().to_string();
            assert!(error.contains(part), "{rest}: {error}");
        }
        assert_eq!("udp://0.0.0.0".parse::<DpdkUrl>(), Err(UrlError::Scheme));
        let error = "dpdk://eth0?ip=10.0.0.5/24".parse::<DpdkUrl>().unwrap_err().to_string();
        assert!(error.contains("vdev:net_memif0"), "{error}");
    }

    #[test]
    fn who_says_no_address_has_the_kernels_or_hears_that_there_is_none() {
        for text in [DEVICE.to_owned(), format!("{DEVICE}?huge=no"), format!("{DEVICE}?ip=kernel")] {
            let error = text.parse::<DpdkUrl>().unwrap().net().unwrap_err();
            assert!(error.to_string().contains("no interface for it: add ip="), "{error}");
        }
        for (text, why) in [
            ("dpdk://vdev:net_af_packet0,iface=lo", "that their ports are closed"),
            ("dpdk://vdev:net_af_packet0,iface=lo?ip=kernel", "interface lo has none"),
            ("dpdk://vdev:net_af_xdp0,iface=lo", "interface lo has none"),
            ("dpdk://vdev:net_af_xdp0,iface=none0", "there is no interface none0"),
        ] {
            let error = text.parse::<DpdkUrl>().unwrap().address().unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_number_beyond_its_limits_is_refused_with_them() {
        let (frames, mtu, long) = (FRAMES, MAX_MTU, MAX_LONG_FRAMES);
        for (key, least, most) in [
            ("frames", *frames.start(), *frames.end()),
            ("long_frames", 0, long),
            ("descriptors", 1, u16::MAX.into()),
            ("mtu", 0, mtu),
            ("engines", 1, MAX_ENGINES as u32),
            ("queues", 1, u16::MAX.into()),
        ] {
            let read = |value: u64| format!("{DEVICE}?{key}={value}").parse::<DpdkUrl>();
            let wrong = |value: u64| read(value).unwrap_err().to_string();
            read(least.into()).unwrap();
            read(most.into()).unwrap();
            let said = wrong(u64::from(most) + 1);
            assert!(said.contains(&format!("{key}=")) && said.contains(&most.to_string()), "{said}");
            if let Some(less) = least.checked_sub(1) {
                let said = wrong(less.into());
                assert!(said.contains(&format!("from {least} to {most}")), "{said}");
            }
        }
    }

    #[test]
    fn every_key_is_told_of_when_one_is_unknown() {
        let text = UrlError::Key("x".to_owned()).to_string();
        assert!(KEYS.iter().all(|(key, ..)| text.contains(key)), "{text}");
    }
}
