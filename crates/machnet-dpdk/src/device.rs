//! Which port is meant.

use std::fmt;
use std::str::FromStr;

use machnet_core::net::MacAddr;

/// A port's name: `pci:0000:00:06.0` (or the address alone), `mac:02:00:0a:00:00:05`, or `vdev:` with a virtual device and
/// its arguments, as DPDK's `--vdev` takes them.
///
/// ```
/// use machnet_dpdk::Device;
///
/// let device: Device = "vdev:net_memif0,role=client,socket=/run/m.sock".parse()?;
/// assert_eq!(device.to_string(), "vdev:net_memif0,role=client,socket=/run/m.sock");
/// assert_eq!("00:06.0".parse::<Device>()?.to_string(), "pci:0000:00:06.0");
/// # Ok::<(), machnet_dpdk::NoDevice>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// By PCI address, in full.
    Pci(String),
    /// By Ethernet address.
    Mac(MacAddr),
    /// A virtual device, made when it is opened.
    Vdev {
        /// The driver's name and a number: `net_memif0`.
        name: String,
        /// The rest, without the comma before it.
        arguments: String,
    },
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" names no DPDK port: it is pci:0000:00:06.0, mac:02:00:0a:00:00:05 or vdev:net_memif0,role=client,… ({why})", .text.escape_debug())]
pub struct NoDevice {
    text: String,
    why: &'static str,
}

impl FromStr for Device {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        let no = |why| NoDevice { text: text.to_owned(), why };
        if let Some(mac) = text.strip_prefix("mac:") {
            return mac.parse().map(Self::Mac).map_err(|_| no("an Ethernet address is six bytes in hexadecimal"));
        }
        if let Some(vdev) = text.strip_prefix("vdev:") {
            let (name, arguments) = vdev.split_once(',').unwrap_or((vdev, ""));
            if !(name.starts_with("net_") || name.starts_with("eth_") || name.starts_with("virtio_user")) {
                return Err(no("a virtual network device's name begins with net_ or virtio_user"));
            }
            if !name.ends_with(|c: char| c.is_ascii_digit()) {
                return Err(no("a virtual device's name ends with a number"));
            }
            return Ok(Self::Vdev { name: name.to_owned(), arguments: arguments.to_owned() });
        }
        let address = text.strip_prefix("pci:").unwrap_or(text);
        pci(address).map(Self::Pci).ok_or_else(|| no("a PCI address is domain:bus:device.function in hexadecimal"))
    }
}

/// `00:06.0` and `0000:00:06.0`, in full and in lower case.
fn pci(address: &str) -> Option<String> {
    let (rest, function) = address.split_once('.')?;
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0000"));
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let right = parts.next().is_none() && hex(domain, 4) && hex(bus, 2) && hex(device, 2);
    (right && hex(function, 1)).then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "pci:{address}"),
            Self::Mac(mac) => write!(f, "mac:{mac}"),
            Self::Vdev { name, arguments } if arguments.is_empty() => write!(f, "vdev:{name}"),
            Self::Vdev { name, arguments } => write!(f, "vdev:{name},{arguments}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind() {
        for (text, shown) in [
            ("0000:00:06.0", "pci:0000:00:06.0"),
            ("pci:00:1F.7", "pci:0000:00:1f.7"),
            ("mac:02:00:0a:00:00:05", "mac:02:00:0a:00:00:05"),
            ("vdev:net_null0", "vdev:net_null0"),
            ("vdev:virtio_user1,path=/a,queues=1", "vdev:virtio_user1,path=/a,queues=1"),
        ] {
            let device: Device = text.parse().unwrap();
            assert_eq!(device.to_string(), shown);
            assert_eq!(shown.parse(), Ok(device));
        }
    }

    #[test]
    fn what_names_none_is_said() {
        for (text, part) in [
            ("", "a PCI address is"),
            ("0000:00:06", "a PCI address is"),
            ("1:0000:00:06.0", "a PCI address is"),
            ("eth0", "a PCI address is"),
            ("mac:02:00", "six bytes"),
            ("vdev:crypto_null0", "begins with net_"),
            ("vdev:net_memif", "ends with a number"),
        ] {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
    }
}
