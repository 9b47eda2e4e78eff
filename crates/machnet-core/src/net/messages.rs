//! ARP, neighbour discovery and ICMP: total parsing and writing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MacAddr;
use super::checksum::Sum;
use super::headers::{ETHER_ARP, ETHERNET_LEN, ICMP, ICMPV6, IpPacket, Macs, ip_headers, write_ethernet, write_ip};
use crate::DropReason;

/// RFC 4861 §7.1: neighbour discovery never crosses a router, which the hop limit proves.
const ND_HOPS: u8 = 255;
const HOPS: u8 = 64;

const ECHO_REPLY_V4: u8 = 0;
const UNREACHABLE_V4: u8 = 3;
const ECHO_REQUEST_V4: u8 = 8;
const UNREACHABLE_V6: u8 = 1;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// "Port unreachable" among the codes of "destination unreachable" (RFC 792, RFC 4443 §3.1).
const PORT_V4: u8 = 3;
const PORT_V6: u8 = 4;

/// Flags of an advertisement (RFC 4861 §4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;

/// ICMP header: type, code, checksum, and four bytes whose meaning depends on the type.
const ICMP_LEN: usize = 8;
/// A solicitation or advertisement with one option of an Ethernet address.
const ND_LEN: usize = 8 + 16 + 8;

/// How much of a datagram an ICMP error quotes: with its headers it stays below 576 bytes (RFC 1812 §4.3.2.3).
const MAX_QUOTE: usize = 548;

/// Ethernet, IPv4, 6 and 4 bytes of address (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
pub(crate) const ARP_LEN: usize = 28;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawArp {
    kind: [u8; 6],
    operation: U16,
    sender_mac: MacAddr,
    sender: [u8; 4],
    target_mac: MacAddr,
    target: [u8; 4],
}

/// An ARP message or a neighbour solicitation or advertisement: the same in two dresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeighbourMessage {
    /// True if it asks, false if it answers.
    pub(crate) asks: bool,
    /// Who says it, and what he says his Ethernet address is. `None`: a probe for duplicate addresses.
    pub(crate) sender: Option<(IpAddr, MacAddr)>,
    /// Who asks without saying his Ethernet address, as neighbour discovery allows if only one is asked.
    pub(crate) terse: Option<IpAddr>,
    /// Whose address is asked for; the answer's recipient in ARP, and again the sender in IPv6.
    pub(crate) target: IpAddr,
    /// The answer says that it was asked for.
    pub(crate) solicited: bool,
}

/// Reads ARP.
pub(crate) fn parse_arp(bytes: &[u8]) -> Result<NeighbourMessage, DropReason> {
    let (raw, _) = RawArp::ref_from_prefix(bytes).map_err(|_| DropReason::Truncated)?;
    if raw.kind != ARP_KIND {
        return Err(DropReason::UnknownProtocol);
    }
    let asks = match raw.operation.get() {
        1 => true,
        2 => false,
        _ => return Err(DropReason::UnknownProtocol),
    };
    if raw.sender_mac.is_group() || raw.sender_mac == MacAddr::ZERO {
        return Err(DropReason::Malformed);
    }
    let sender = Ipv4Addr::from(raw.sender);
    let sender = (!sender.is_unspecified()).then_some((IpAddr::V4(sender), raw.sender_mac));
    Ok(NeighbourMessage { asks, sender, terse: None, target: IpAddr::from(raw.target), solicited: !asks })
}

/// What an ICMP message says, as far as a host cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpMessage<'a> {
    /// Somebody pings: everything behind type, code and checksum goes back.
    Echo(&'a [u8]),
    /// A port is closed; what is quoted begins with the IP header of a datagram of ours.
    PortUnreachable(&'a [u8]),
    Neighbour(NeighbourMessage),
    /// Anything else: routers' business, or hints that change nothing (`docs/spec/wire.md#encapsulation`).
    Other,
}

/// Reads ICMP or ICMPv6.
pub(crate) fn parse_icmp<'a>(packet: &IpPacket<'a>) -> Result<IcmpMessage<'a>, DropReason> {
    let bytes = packet.payload;
    let good = if packet.protocol == ICMP { Sum::default().add(bytes).is_good() } else { packet.is_sum_good() };
    if !good {
        return Err(DropReason::Checksum);
    }
    let (&[kind, code, ..], rest) = bytes.split_first_chunk::<ICMP_LEN>().ok_or(DropReason::Truncated)?;
    Ok(match (packet.protocol, kind) {
        (ICMP, ECHO_REQUEST_V4) | (ICMPV6, ECHO_REQUEST_V6) => IcmpMessage::Echo(&bytes[4..]),
        (ICMP, UNREACHABLE_V4) if code == PORT_V4 => IcmpMessage::PortUnreachable(rest),
        (ICMPV6, UNREACHABLE_V6) if code == PORT_V6 => IcmpMessage::PortUnreachable(rest),
        (ICMPV6, SOLICITATION | ADVERTISEMENT) => {
            if packet.hops != ND_HOPS || code != 0 {
                return Err(DropReason::Malformed);
            }
            IcmpMessage::Neighbour(parse_neighbour(kind == SOLICITATION, packet.from, bytes)?)
        }
        _ => IcmpMessage::Other,
    })
}

fn parse_neighbour(asks: bool, from: IpAddr, bytes: &[u8]) -> Result<NeighbourMessage, DropReason> {
    let flags = bytes[4];
    let (target, mut options) = bytes[ICMP_LEN..].split_first_chunk::<16>().ok_or(DropReason::Truncated)?;
    let target = Ipv6Addr::from(*target);
    if target.is_multicast() {
        return Err(DropReason::Malformed);
    }
    let wanted = if asks { SOURCE_ADDRESS } else { TARGET_ADDRESS };
    let mut mac = None;
    while let Some(&[kind, units]) = options.first_chunk::<2>() {
        // RFC 4861 §4.6: an option of length zero discards the message.
        let len = usize::from(units) * 8;
        if len == 0 {
            return Err(DropReason::Malformed);
        }
        let option = options.get(..len).ok_or(DropReason::Truncated)?;
        if kind == wanted && len == 8 {
            mac = option[2..].first_chunk().map(|&bytes| MacAddr(bytes)).filter(|mac| !mac.is_group());
        }
        options = &options[len..];
    }
    let target = IpAddr::V6(target);
    let who = if asks { from } else { target };
    let somebody = Some(who).filter(|who| !who.is_unspecified());
    let sender = somebody.zip(mac);
    let terse = somebody.filter(|_| asks && mac.is_none());
    Ok(NeighbourMessage { asks, sender, terse, target, solicited: flags & SOLICITED != 0 })
}

/// Writes a frame that asks for the Ethernet address of `target`, or answers `to` that `sender` is at `macs.from`.
/// Returns its length.
pub(crate) fn write_neighbour(
    bytes: &mut [u8],
    macs: Macs,
    asks: bool,
    sender: IpAddr,
    to: IpAddr,
    target: IpAddr,
) -> usize {
    match (sender, target) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => {
            write_ethernet(bytes, macs.to, macs.from, ETHER_ARP);
            let raw = RawArp {
                kind: ARP_KIND,
                operation: U16::new(if asks { 1 } else { 2 }),
                sender_mac: macs.from,
                sender: sender.octets(),
                target_mac: if asks { MacAddr::ZERO } else { macs.to },
                target: target.octets(),
            };
            bytes[ETHERNET_LEN..ETHERNET_LEN + ARP_LEN].copy_from_slice(raw.as_bytes());
            ETHERNET_LEN + ARP_LEN
        }
        (_, IpAddr::V6(target)) => {
            let start = ip_headers(to);
            let body = &mut bytes[start..start + ND_LEN];
            body.fill(0);
            // An answer to nobody in particular was not asked for (RFC 4861 §7.2.4).
            let is_solicited = matches!(to, IpAddr::V6(to) if !to.is_multicast());
            (body[0], body[4]) = match asks {
                true => (SOLICITATION, 0),
                false => (ADVERTISEMENT, if is_solicited { SOLICITED | OVERRIDE } else { OVERRIDE }),
            };
            body[8..24].copy_from_slice(&target.octets());
            (body[24], body[25]) = (if asks { SOURCE_ADDRESS } else { TARGET_ADDRESS }, 1);
            body[26..32].copy_from_slice(&macs.from.0);
            finish_icmp(bytes, macs, sender, to, ND_HOPS, ND_LEN)
        }
        _ => 0,
    }
}

/// Writes the frame that answers a ping with `rest`, what was behind its checksum. Returns its length.
pub(crate) fn write_echo_reply(bytes: &mut [u8], macs: Macs, from: IpAddr, to: IpAddr, rest: &[u8]) -> usize {
    let body = &mut bytes[ip_headers(to)..];
    body[..4].copy_from_slice(&[if to.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 }, 0, 0, 0]);
    body[4..4 + rest.len()].copy_from_slice(rest);
    finish_icmp(bytes, macs, from, to, HOPS, 4 + rest.len())
}

/// Writes the frame that says to the sender of `packet` that its port is closed. Returns its length.
pub(crate) fn write_port_unreachable(bytes: &mut [u8], macs: Macs, packet: &IpPacket<'_>) -> usize {
    let (from, to) = (packet.to, packet.from);
    let quote = &packet.whole[..packet.whole.len().min(MAX_QUOTE - ip_headers(to) - ICMP_LEN)];
    let body = &mut bytes[ip_headers(to)..];
    body[..ICMP_LEN].fill(0);
    (body[0], body[1]) = if to.is_ipv4() { (UNREACHABLE_V4, PORT_V4) } else { (UNREACHABLE_V6, PORT_V6) };
    body[ICMP_LEN..ICMP_LEN + quote.len()].copy_from_slice(quote);
    finish_icmp(bytes, macs, from, to, HOPS, ICMP_LEN + quote.len())
}

/// Writes headers in front of an ICMP message of `len` bytes, and its checksum. Returns the frame's length.
fn finish_icmp(bytes: &mut [u8], macs: Macs, from: IpAddr, to: IpAddr, hops: u8, len: usize) -> usize {
    let protocol = if to.is_ipv4() { ICMP } else { ICMPV6 };
    let start = ip_headers(to);
    write_ip(bytes, macs, from, to, protocol, hops, len);
    let body = &mut bytes[start..start + len];
    let sum = if protocol == ICMP { Sum::default() } else { Sum::default().pseudo(from, to, protocol, len) };
    let checksum = sum.add(body).checksum();
    body[2..4].copy_from_slice(&checksum);
    start + len
}
