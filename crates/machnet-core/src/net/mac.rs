//! Ethernet addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An Ethernet address. Reads and writes as `02:00:0a:00:00:05`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// Nobody: what ARP asks for.
    pub const ZERO: Self = Self([0; 6]);

    /// True for group addresses, the broadcast one included.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The group address of an IPv6 multicast address (RFC 2464 §7).
    #[must_use]
    pub(crate) const fn of_multicast(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an Ethernet address is six bytes in hexadecimal, such as 02:00:0a:00:00:05")]
pub struct NotMac;

impl FromStr for MacAddr {
    type Err = NotMac;

    fn from_str(text: &str) -> Result<Self, NotMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(NotMac)?;
            // `from_str_radix` takes a sign.
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotMac)?;
        }
        if parts.next().is_some() { Err(NotMac) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mac = MacAddr([2, 0, 0x0a, 0, 0xfe, 5]);
        assert_eq!(mac.to_string(), "02:00:0a:00:fe:05");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in
            ["", "02:00:0a:00:fe", "02:00:0a:00:fe:05:06", "2:0:a:0:fe:5", "02:00:0a:00:fe:+5", "02-00-0a-00-fe-05"]
        {
            assert_eq!(bad.parse::<MacAddr>(), Err(NotMac), "{bad}");
        }
    }

    #[test]
    fn groups_are_told_apart() {
        assert!(MacAddr::BROADCAST.is_group() && !MacAddr::ZERO.is_group());
        let group = MacAddr::of_multicast("ff02::1:ff00:17".parse().unwrap());
        assert_eq!(group.to_string(), "33:33:ff:00:00:17");
        assert!(group.is_group());
    }
}
