//! The internet checksum (RFC 1071), and the pseudo-headers it covers (RFC 768, RFC 8200 §8.1).

use std::net::IpAddr;

/// A sum under way: of 16-bit words in the machine's own order, four at once, which the ones' complement allows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds `bytes`, which begin at an even place; an odd last one is padded by a zero.
    #[must_use]
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<32>();
        // Four sums, so that no addition waits for the one before it.
        let mut lanes = [self, Self(0), Self(0), Self(0)];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane = lane.plus(u64::from_ne_bytes(*word));
            }
        }
        let [sum, others @ ..] = lanes;
        let sum = others.into_iter().fold(sum, |sum, lane| sum.plus(lane.0));
        let (words, rest) = rest.as_chunks::<8>();
        let sum = words.iter().fold(sum, |sum, &word| sum.plus(u64::from_ne_bytes(word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        sum.plus(u64::from_ne_bytes(last))
    }

    /// The carry comes in again at the lower end, as in 16 bits: 2⁶⁴ is 1 modulo 2¹⁶ − 1.
    const fn plus(self, word: u64) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        Self(sum + carry as u64)
    }

    /// Adds `bytes`, in front of which there are `before`: the sum of those at an odd place is that of the same at an even one, its two bytes
    /// swapped (RFC 1071 §2).
    #[must_use]
    pub(crate) fn add_behind(self, before: usize, bytes: &[u8]) -> Self {
        if before.is_multiple_of(2) {
            return self.add(bytes);
        }
        let [a, b] = Self::default().add(bytes).folded();
        self.add_word([b, a])
    }

    /// Adds the sum of bytes that begin at an even place.
    #[must_use]
    pub(crate) const fn add_sum(self, other: Self) -> Self {
        self.plus(other.0)
    }

    /// Adds the pseudo-header of `len` bytes of `protocol`.
    #[must_use]
    pub(crate) fn pseudo(self, from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Self {
        let sum = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.add_words([from, to].map(|ip| u32::from_ne_bytes(ip.octets()))),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.add(&from.octets()).add(&to.octets()),
            _ => self,
        };
        sum.add_words([(len as u32).to_be(), u32::from(protocol).to_be()])
    }

    /// Adds a word of 16 bits, as it stands in memory.
    pub(crate) const fn add_word(self, word: [u8; 2]) -> Self {
        self.plus(u16::from_ne_bytes(word) as u64)
    }

    /// Adds two words as they stand in memory: their sum has 33 bits.
    const fn add_words(self, [a, b]: [u32; 2]) -> Self {
        self.plus(a as u64 + b as u64)
    }

    /// The sum in 16 bits, as it stands in memory, not inverted.
    pub(crate) const fn folded(self) -> [u8; 2] {
        // Of the halves of 64 bits, of 33 and of 18; the last sum's carry is the last there is.
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum as u16).to_ne_bytes()
    }

    /// The checksum, as it stands in memory.
    pub(crate) const fn checksum(self) -> [u8; 2] {
        let [a, b] = self.folded();
        [!a, !b]
    }

    /// The checksum of UDP, which is never zero: that would say that there is none.
    pub(crate) const fn udp_checksum(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            sum => sum,
        }
    }

    /// True if the sum is that of bytes which contain their right checksum.
    pub(crate) fn is_good(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §3: the words 0001 f203 f4f5 f6f7 sum up to ddf2.
    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).folded(), [0xdd, 0xf2]);
        assert_eq!(Sum::default().add(&bytes).checksum(), [0x22, 0x0d]);
    }

    fn naive(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    proptest! {
        #[test]
        fn pieces_sum_up_to_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..3000), at in any::<prop::sample::Index>()) {
            let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(Sum::default().add(head).add_behind(head.len(), tail).checksum(), naive(&bytes));
        }

        #[test]
        fn is_the_sum_of_words(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().add(&bytes).checksum(), naive(&bytes));
        }

        /// A checksum put into place makes the whole good, and no flipped bit goes unnoticed.
        #[test]
        fn one_flipped_bit_is_noticed(mut bytes in prop::collection::vec(any::<u8>(), 8..200), bit in any::<prop::sample::Index>()) {
            let (from, to) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
            bytes[6..8].fill(0);
            let sum = Sum::default().pseudo(from, to, 17, bytes.len()).add(&bytes).udp_checksum();
            prop_assert_ne!(sum, [0, 0]);
            bytes[6..8].copy_from_slice(&sum);
            let whole = |bytes: &[u8]| Sum::default().pseudo(from, to, 17, bytes.len()).add(bytes);
            prop_assert!(whole(&bytes).is_good());
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!whole(&bytes).is_good());
        }
    }
}
