//! Ethernet, IP and UDP headers: total parsing, and writing in front of a payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MacAddr;
use super::checksum::Sum;
use crate::DropReason;

pub(crate) const ETHERNET_LEN: usize = 14;
pub(crate) const IPV4_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;
pub(crate) const UDP_LEN: usize = 8;
/// The shortest Ethernet frame, without frame check sequence (IEEE 802.3).
pub(crate) const MIN_FRAME: usize = 60;

pub(crate) const ICMP: u8 = 1;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

const ETHER_IPV4: u16 = 0x0800;
pub(crate) const ETHER_ARP: u16 = 0x0806;
const ETHER_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const ETHER_VLAN: [u16; 2] = [0x8100, 0x88a8];

/// RFC 1122 §3.2.1.7 as amended by RFC 1700: the recommended default.
pub(crate) const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, and the offset.
const FRAGMENT_BITS: u16 = 0x3fff;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEthernet {
    to: MacAddr,
    from: MacAddr,
    ethertype: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawIpv4 {
    version_len: u8,
    tos: u8,
    len: U16,
    id: U16,
    fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    from: [u8; 4],
    to: [u8; 4],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawIpv6 {
    version: u8,
    class_label: [u8; 3],
    len: U16,
    next: u8,
    hops: u8,
    from: [u8; 16],
    to: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawUdp {
    from: U16,
    to: U16,
    len: U16,
    checksum: [u8; 2],
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EtherPayload<'a> {
    Arp(&'a [u8]),
    Ip(IpPacket<'a>),
}

/// An Ethernet frame, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EthernetFrame<'a> {
    pub(crate) to: MacAddr,
    pub(crate) from: MacAddr,
    pub(crate) payload: EtherPayload<'a>,
}

/// An IP packet that is whole, read: padding behind it is gone, IPv4's header checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpPacket<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// Header and all.
    pub(crate) whole: &'a [u8],
    /// What is behind the header.
    pub(crate) payload: &'a [u8],
}

/// Splits a header off.
fn split<T: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8]) -> Result<(&T, &[u8]), DropReason> {
    T::ref_from_prefix(bytes).map_err(|_| DropReason::Truncated)
}

impl<'a> EthernetFrame<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (raw, rest) = split::<RawEthernet>(bytes)?;
        let payload = match raw.ethertype.get() {
            ETHER_IPV4 => EtherPayload::Ip(IpPacket::parse_v4(rest)?),
            ETHER_IPV6 => EtherPayload::Ip(IpPacket::parse_v6(rest)?),
            ETHER_ARP => EtherPayload::Arp(rest),
            tag if ETHER_VLAN.contains(&tag) => return Err(DropReason::Vlan),
            _ => return Err(DropReason::UnknownProtocol),
        };
        Ok(Self { to: raw.to, from: raw.from, payload })
    }
}

impl<'a> IpPacket<'a> {
    fn parse_v4(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (raw, _) = split::<RawIpv4>(bytes)?;
        let header_len = usize::from(raw.version_len & 0xf) * 4;
        let len = usize::from(raw.len.get());
        if raw.version_len >> 4 != 4 || header_len < IPV4_LEN || len < header_len {
            return Err(DropReason::Malformed);
        }
        let whole = bytes.get(..len).ok_or(DropReason::Truncated)?;
        let (header, payload) = whole.split_at(header_len);
        if !Sum::default().add(header).is_good() {
            return Err(DropReason::Checksum);
        }
        if raw.fragment.get() & FRAGMENT_BITS != 0 {
            return Err(DropReason::Fragment);
        }
        let (from, to) = (IpAddr::from(raw.from), IpAddr::from(raw.to));
        Ok(Self { from, to, protocol: raw.protocol, hops: raw.ttl, whole, payload })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (raw, rest) = split::<RawIpv6>(bytes)?;
        if raw.version >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        let len = usize::from(raw.len.get());
        let payload = rest.get(..len).ok_or(DropReason::Truncated)?;
        if raw.next == FRAGMENT {
            return Err(DropReason::Fragment);
        }
        let (from, to) = (IpAddr::from(raw.from), IpAddr::from(raw.to));
        Ok(Self { from, to, protocol: raw.next, hops: raw.hops, whole: &bytes[..IPV6_LEN + len], payload })
    }

    /// True if the checksum over pseudo-header and payload is right.
    pub(crate) fn is_sum_good(&self) -> bool {
        Sum::default().pseudo(self.from, self.to, self.protocol, self.payload.len()).add(self.payload).is_good()
    }

    /// The UDP datagram that the packet carries: both ports, and the length of what is behind the UDP header.
    pub(crate) fn udp(&self, verified: bool) -> Result<Udp<'a>, DropReason> {
        let (raw, rest) = split::<RawUdp>(self.payload)?;
        let len = usize::from(raw.len.get());
        let payload_len = len.checked_sub(UDP_LEN).ok_or(DropReason::Malformed)?;
        let payload = rest.get(..payload_len).ok_or(DropReason::Truncated)?;
        // Where the device vouches for it, the field may still hold what the device was to complete.
        if !verified {
            let sum = Sum::default().pseudo(self.from, self.to, UDP, len).add(&self.payload[..len]);
            if raw.checksum == [0, 0] || !sum.is_good() {
                return Err(DropReason::Checksum);
            }
        }
        if raw.from.get() == 0 {
            return Err(DropReason::Malformed);
        }
        Ok(Udp { from: raw.from.get(), to: raw.to.get(), payload })
    }

    /// Ports and the first bytes of the payload of a datagram that an ICMP message quotes, perhaps cut short.
    pub(crate) fn quoted_udp(bytes: &'a [u8]) -> Result<(SocketAddr, SocketAddr, &'a [u8]), DropReason> {
        let (from, to, rest) = match bytes.first().map(|byte| byte >> 4) {
            Some(4) => {
                let (raw, _) = split::<RawIpv4>(bytes)?;
                let header_len = usize::from(raw.version_len & 0xf) * 4;
                if raw.protocol != UDP || header_len < IPV4_LEN || raw.fragment.get() & FRAGMENT_BITS != 0 {
                    return Err(DropReason::UnknownProtocol);
                }
                (IpAddr::from(raw.from), IpAddr::from(raw.to), bytes.get(header_len..).ok_or(DropReason::Truncated)?)
            }
            Some(6) => {
                let (raw, rest) = split::<RawIpv6>(bytes)?;
                if raw.next != UDP {
                    return Err(DropReason::UnknownProtocol);
                }
                (IpAddr::from(raw.from), IpAddr::from(raw.to), rest)
            }
            _ => return Err(DropReason::Malformed),
        };
        let (udp, payload) = split::<RawUdp>(rest)?;
        Ok((SocketAddr::new(from, udp.from.get()), SocketAddr::new(to, udp.to.get()), payload))
    }
}

/// A UDP datagram, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Udp<'a> {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) payload: &'a [u8],
}

/// Where `inner` lies in `outer`, of which it is a part.
pub(crate) fn place(outer: &[u8], inner: &[u8]) -> Range<usize> {
    let start = inner.as_ptr().addr() - outer.as_ptr().addr();
    start..start + inner.len()
}

/// Bytes of the headers that [`write_ip`] puts in front of an IP payload to `to`.
pub(crate) const fn ip_headers(to: IpAddr) -> usize {
    ETHERNET_LEN + if to.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
}

/// Writes an Ethernet header at the beginning of `bytes`.
pub(crate) fn write_ethernet(bytes: &mut [u8], to: MacAddr, from: MacAddr, ethertype: u16) {
    let raw = RawEthernet { to, from, ethertype: U16::new(ethertype) };
    bytes[..ETHERNET_LEN].copy_from_slice(raw.as_bytes());
}

/// Writes the destination of a frame again.
pub(crate) fn set_destination(bytes: &mut [u8], to: MacAddr) {
    bytes[..6].copy_from_slice(&to.0);
}

/// Writes Ethernet and IP headers in front of an IP payload of `len` bytes. `from` and `to` are of one family.
pub(crate) fn write_ip(bytes: &mut [u8], macs: Macs, from: IpAddr, to: IpAddr, protocol: u8, hops: u8, len: usize) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            write_ethernet(bytes, macs.to, macs.from, ETHER_IPV4);
            write_ipv4(&mut bytes[ETHERNET_LEN..], from, to, protocol, hops, len);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            write_ethernet(bytes, macs.to, macs.from, ETHER_IPV6);
            let raw = RawIpv6 {
                version: 6 << 4,
                class_label: [0; 3],
                len: U16::new(len as u16),
                next: protocol,
                hops,
                from: from.octets(),
                to: to.octets(),
            };
            bytes[ETHERNET_LEN..ETHERNET_LEN + IPV6_LEN].copy_from_slice(raw.as_bytes());
        }
        _ => debug_assert!(false, "one family"),
    }
}

fn write_ipv4(bytes: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, protocol: u8, hops: u8, len: usize) {
    let mut raw = RawIpv4 {
        version_len: 0x45,
        tos: 0,
        len: U16::new((IPV4_LEN + len) as u16),
        // A datagram that is not to be fragmented needs no identification (RFC 6864 §4.1).
        id: U16::ZERO,
        fragment: U16::new(DONT_FRAGMENT),
        ttl: hops,
        protocol,
        checksum: [0; 2],
        from: from.octets(),
        to: to.octets(),
    };
    raw.checksum = Sum::default().add(raw.as_bytes()).checksum();
    bytes[..IPV4_LEN].copy_from_slice(raw.as_bytes());
}

/// Who sends a frame to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Macs {
    pub(crate) to: MacAddr,
    pub(crate) from: MacAddr,
}

/// Writes a UDP header with ports, and without length and checksum.
pub(crate) fn write_ports(bytes: &mut [u8], from: u16, to: u16) {
    let raw = RawUdp { from: U16::new(from), to: U16::new(to), len: U16::ZERO, checksum: [0; 2] };
    bytes[..UDP_LEN].copy_from_slice(raw.as_bytes());
}

/// The group that everybody with an address like `address` listens to (RFC 4291 §2.7.1).
pub(crate) const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16)
}
