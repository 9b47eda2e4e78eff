//! The headers of the datagrams between two addresses: written once, then copied, with length and checksums filled in.
//!
//! What does not change is summed up once, too. Of the checksums of a packet only what does change is added: 16-bit words at even
//! places, which the ones' complement allows in any order (RFC 1071 §2).

use std::net::SocketAddr;

use super::checksum::Sum;
use super::headers::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Macs, UDP, UDP_LEN, ip_headers, write_ip, write_ports};
use super::{MacAddr, UdpChecksum};

/// The longest headers there are.
const LONGEST: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;
/// Where the length and the header checksum of an IPv4 packet, and the length of an IPv6 packet, are in the frame.
const IPV4_TOTAL: usize = ETHERNET_LEN + 2;
const IPV4_CHECKSUM: usize = ETHERNET_LEN + 10;
const IPV6_PAYLOAD: usize = ETHERNET_LEN + 4;

/// See the module. Ethernet, IP and UDP.
#[derive(Debug)]
pub(crate) struct UdpHeaders {
    /// With lengths and checksums of 0.
    bytes: [u8; LONGEST],
    len: usize,
    is_v4: bool,
    /// Of the IPv4 header, of the pseudo-header, and of the ports.
    ip: Sum,
    pseudo: Sum,
    ports: Sum,
}

impl UdpHeaders {
    /// Of datagrams that `mac` sends. The addresses are of one family.
    pub(crate) fn new(mac: MacAddr, from: SocketAddr, to: SocketAddr) -> Self {
        let (mut bytes, start, is_v4) = ([0; LONGEST], ip_headers(to.ip()), to.is_ipv4());
        let macs = Macs { to: MacAddr::ZERO, from: mac };
        write_ip(&mut bytes, macs, from.ip(), to.ip(), UDP, super::headers::TTL, 0);
        if is_v4 {
            bytes[IPV4_TOTAL..IPV4_TOTAL + 2].fill(0);
            bytes[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].fill(0);
        }
        write_ports(&mut bytes[start..], from.port(), to.port());
        Self {
            ip: Sum::default().add(&bytes[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN]),
            pseudo: Sum::default().pseudo(from.ip(), to.ip(), UDP, 0),
            ports: Sum::default().add(&bytes[start..start + UDP_LEN]),
            bytes,
            len: start + UDP_LEN,
            is_v4,
        }
    }

    /// Bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Writes the headers of a datagram of `len` bytes to `mac`; they fill `out`. `payload` is the payload's sum, unless the device computes
    /// the checksum.
    pub(crate) fn write(&self, out: &mut [u8], mac: MacAddr, len: usize, payload: Option<Sum>) -> UdpChecksum {
        out.copy_from_slice(&self.bytes[..self.len]);
        out[..6].copy_from_slice(&mac.0);
        let len = (UDP_LEN + len) as u16;
        if self.is_v4 {
            let total = (IPV4_LEN as u16 + len).to_be_bytes();
            out[IPV4_TOTAL..IPV4_TOTAL + 2].copy_from_slice(&total);
            out[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].copy_from_slice(&self.ip.add_word(total).checksum());
        } else {
            out[IPV6_PAYLOAD..IPV6_PAYLOAD + 2].copy_from_slice(&len.to_be_bytes());
        }
        let udp = &mut out[self.len - UDP_LEN..];
        udp[4..6].copy_from_slice(&len.to_be_bytes());
        let pseudo = self.pseudo.add_word(len.to_be_bytes());
        let (checksum, who) = match payload {
            Some(payload) => {
                let sum = pseudo.add_sum(self.ports).add_word(len.to_be_bytes()).add_sum(payload);
                (sum.udp_checksum(), UdpChecksum::Done)
            }
            None => (pseudo.folded(), if self.is_v4 { UdpChecksum::Ipv4 } else { UdpChecksum::Ipv6 }),
        };
        udp[6..UDP_LEN].copy_from_slice(&checksum);
        who
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::headers::{EtherPayload, EthernetFrame};
    use super::*;

    fn address(v6: bool, octets: [u8; 16], port: u16) -> SocketAddr {
        let short = [octets[0], octets[1], octets[2], octets[3]];
        if v6 { (octets, port).into() } else { (short, port).into() }
    }

    proptest! {
        /// What is written is read as it was meant, with checksums that are right; a device finds what it is to complete.
        #[test]
        fn headers_are_those_of_the_datagram(
            v6: bool,
            from: ([u8; 16], u16),
            to: ([u8; 16], u16),
            payload in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let (from, to) = (address(v6, from.0, from.1.max(1)), address(v6, to.0, to.1));
            let macs = [1, 2].map(|n| MacAddr([2, 0, 0, 0, 0, n]));
            let headers = UdpHeaders::new(macs[0], from, to);
            let mut frame = vec![0xff; headers.len()];
            for offload in [false, true] {
                let sum = (!offload).then(|| Sum::default().add(&payload));
                let who = headers.write(&mut frame[..headers.len()], macs[1], payload.len(), sum);
                frame.truncate(headers.len());
                frame.extend_from_slice(&payload);
                let read = EthernetFrame::parse(&frame).unwrap();
                prop_assert_eq!((read.from, read.to), (macs[0], macs[1]));
                let EtherPayload::Ip(packet) = read.payload else { panic!("no IP packet") };
                prop_assert_eq!((packet.from, packet.to, packet.protocol), (from.ip(), to.ip(), UDP));
                let udp = packet.udp(offload).unwrap();
                prop_assert_eq!((udp.from, udp.to, udp.payload), (from.port(), to.port(), &payload[..]));
                prop_assert_eq!(who == UdpChecksum::Done, !offload);
                if offload {
                    let pseudo = Sum::default().pseudo(from.ip(), to.ip(), UDP, UDP_LEN + payload.len());
                    prop_assert_eq!(&frame[headers.len() - 2..headers.len()], &pseudo.folded());
                }
            }
        }
    }
}
