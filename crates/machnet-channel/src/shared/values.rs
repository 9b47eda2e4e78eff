//! What some words hold: addresses, options. Reading is total.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::{Congestion, FlowOptions};

/// An address as three words (`docs/spec/sidecar.md#addresses`); `None` is all zeros.
pub(super) fn address_to_words(address: Option<SocketAddr>) -> [u64; 3] {
    let Some(address) = address else { return [0; 3] };
    let (ip, family, scope) = match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 4, 0),
        SocketAddr::V6(v6) => (*v6.ip(), 6, v6.scope_id()),
    };
    let octets = ip.octets();
    let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| octets[at + i]));
    [half(0), half(8), u64::from(address.port()) | family << 16 | u64::from(scope) << 32]
}

/// `Ok(None)` for no address; the offending word if it is none that can be.
pub(super) fn address_from_words(words: [u64; 3]) -> Result<Option<SocketAddr>, u64> {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&words[0].to_ne_bytes());
    octets[8..].copy_from_slice(&words[1].to_ne_bytes());
    let (ip, port, scope) = (Ipv6Addr::from(octets), words[2] as u16, (words[2] >> 32) as u32);
    match (words[2] >> 16) as u16 {
        0 if words == [0; 3] => Ok(None),
        4 if scope == 0 => match ip.to_ipv4_mapped() {
            Some(v4) => Ok(Some(SocketAddr::new(IpAddr::V4(v4), port))),
            None => Err(words[0]),
        },
        6 => Ok(Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))),
        _ => Err(words[2]),
    }
}

/// Options as one word: kind 8 (0 default, 1 CUBIC, 2 Swift, 3 fixed) · 0 24 · bytes 32.
pub(super) fn options_to_word(options: FlowOptions) -> u64 {
    match options.congestion {
        None => 0,
        Some(Congestion::Cubic) => 1,
        Some(Congestion::Swift) => 2,
        Some(Congestion::Fixed { bytes }) => 3 | u64::from(bytes) << 32,
    }
}

/// `None` if the word means nothing.
pub(super) fn options_from_word(word: u64) -> Option<FlowOptions> {
    let options = FlowOptions::new();
    match (word as u32, (word >> 32) as u32) {
        (0, 0) => Some(options),
        (1, 0) => Some(options.congestion(Congestion::Cubic)),
        (2, 0) => Some(options.congestion(Congestion::Swift)),
        (3, bytes) => Some(options.congestion(Congestion::Fixed { bytes })),
        _ => None,
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(octets: [u8; 16], v4: [u8; 4], port: u16, scope: u32, bytes: u32) {
            let v6 = SocketAddr::V6(SocketAddrV6::new(octets.into(), port, 0, scope));
            for address in [None, Some((v4, port).into()), Some(v6)] {
                prop_assert_eq!(address_from_words(address_to_words(address)), Ok(address));
            }
            let none = FlowOptions::new();
            let each = [Congestion::Cubic, Congestion::Swift, Congestion::Fixed { bytes }];
            for options in each.map(|congestion| none.congestion(congestion)).into_iter().chain([none]) {
                prop_assert_eq!(options_from_word(options_to_word(options)), Some(options));
            }
        }

        #[test]
        fn any_words_are_read(words: [u64; 3], family in 0..8_u64) {
            for words in [words, [words[0], words[1], words[2] & !0xffff_0000 | family << 16]] {
                if let Ok(address) = address_from_words(words) {
                    prop_assert_eq!(address_to_words(address), words);
                }
            }
            if let Some(options) = options_from_word(words[0] & 0xffff_ffff_0000_0003) {
                prop_assert_eq!(options_from_word(options_to_word(options)), Some(options));
            }
        }
    }
}
