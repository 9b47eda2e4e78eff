//! Ethernet frames as others write and read them: nothing of it is shared with the network layer that it is to test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use machnet_core::net::UdpChecksum;

/// A UDP datagram in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Udp {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// Where in the frame its payload is.
    pub(crate) payload: Range<usize>,
}

/// The UDP datagram of a whole frame; `None` if it carries something else.
pub(crate) fn read(frame: &[u8]) -> Option<Udp> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (from, to, protocol, udp): (IpAddr, IpAddr, u8, usize) = match word(12)? {
        0x0800 => {
            let address = |at: usize| Some(Ipv4Addr::from(*frame.get(at..)?.first_chunk::<4>()?));
            (address(26)?.into(), address(30)?.into(), *frame.get(23)?, 14 + usize::from(frame[14] & 15) * 4)
        }
        0x86dd => {
            let address = |at: usize| Some(Ipv6Addr::from(*frame.get(at..)?.first_chunk::<16>()?));
            (address(22)?.into(), address(38)?.into(), *frame.get(20)?, 54)
        }
        _ => return None,
    };
    let (source, destination, len) = (word(udp)?, word(udp + 2)?, usize::from(word(udp + 4)?));
    let payload = udp + 8..udp + len;
    let fits = protocol == 17 && len >= 8 && payload.end <= frame.len();
    fits.then(|| Udp { from: SocketAddr::new(from, source), to: SocketAddr::new(to, destination), payload })
}

/// What a device does that was asked for the checksum: sums up everything behind the IP header, in whose place for it the
/// sum of the pseudo-header is.
pub(crate) fn complete(frame: &mut [u8], wanted: UdpChecksum) {
    let start = match wanted {
        UdpChecksum::Done => return,
        UdpChecksum::Ipv4 => 34,
        UdpChecksum::Ipv6 => 54,
    };
    let len = usize::from(u16::from_be_bytes([frame[start + 4], frame[start + 5]]));
    let sum = match checksum(&[&frame[start..start + len]]) {
        0 => 0xffff,
        sum => sum,
    };
    frame[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
}

/// The datagram as it would be on an Ethernet.
pub(crate) fn frame(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + 40 + 8 + payload.len());
    frame.extend(mac(to.ip()));
    frame.extend(mac(from.ip()));
    let udp_len = payload.len() as u16 + 8;
    let mut pseudo = Vec::new();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend(0x0800_u16.to_be_bytes());
            let mut ip = [0; 20];
            (ip[0], ip[8], ip[9]) = (0x45, 64, 17);
            ip[2..4].copy_from_slice(&(udp_len + 20).to_be_bytes());
            // Don't fragment.
            ip[6] = 0x40;
            ip[12..16].copy_from_slice(&from.octets());
            ip[16..20].copy_from_slice(&to.octets());
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ip);
            pseudo.extend(&ip[12..20]);
            pseudo.extend([0, 17]);
        }
        (from, to) => {
            frame.extend(0x86dd_u16.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(udp_len.to_be_bytes());
            frame.extend([17, 64]);
            for address in [from, to] {
                let octets = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                };
                frame.extend(octets);
                pseudo.extend(octets);
            }
            pseudo.extend([0, 17]);
        }
    }
    pseudo.extend(udp_len.to_be_bytes());
    let mut udp = [0; 8];
    udp[..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
    let sum = match checksum(&[&pseudo, &udp, payload]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..].copy_from_slice(&sum.to_be_bytes());
    frame.extend(udp);
    frame.extend(payload);
    frame
}

/// A locally administered address that shows the IP address's end.
pub(crate) const fn mac(address: IpAddr) -> [u8; 6] {
    let tail: [u8; 4] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let octets = address.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    [2, 0, tail[0], tail[1], tail[2], tail[3]]
}

/// The Internet checksum (RFC 1071) over pieces of which all but the last are of even length.
pub(crate) fn checksum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|piece| piece.chunks(2));
    let sum: u64 = words.map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
