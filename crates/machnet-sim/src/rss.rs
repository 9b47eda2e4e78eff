//! How a NIC with several queues chooses one: opaque to the engines behind it (`docs/spec/wire.md#several-engines`).

use std::net::SocketAddr;

use machnet_core::wire::{Addressee, addressee};

use crate::SimRng;

/// What a NIC does with what it receives. The keys and tables are drawn from the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rss {
    /// Microsoft's hash over the 4-tuple, and a table of 128 entries that spreads it over the queues.
    Toeplitz,
    /// Any function of the 4-tuple, as a kernel's.
    Random,
    /// Always a wrong queue: whoever owns the packet does not get it.
    Wrong,
    /// Another queue for each packet: no NIC does that.
    Spray,
    /// Queue 0, as a single socket does.
    First,
}

/// The entries of an RSS table on most NICs.
const TABLE: usize = 128;

/// The queues of one NIC.
pub(crate) struct Queues {
    /// The fabric's numbers of them.
    pub(crate) nics: Vec<usize>,
    rss: Rss,
    key: [u8; 40],
    table: [u8; TABLE],
    rng: SimRng,
}

impl Queues {
    pub(crate) fn new(nics: Vec<usize>, rss: Rss, rng: SimRng) -> Self {
        let mut queues = Self { nics, rss, key: [0; 40], table: [0; TABLE], rng };
        queues.redraw();
        queues
    }

    /// Another key and another table.
    pub(crate) fn redraw(&mut self) {
        self.rng.fill(&mut self.key);
        let n = self.nics.len().max(1);
        // As drivers fill it, and then shuffled.
        self.table = std::array::from_fn(|i| (i % n) as u8);
        for i in (1..TABLE).rev() {
            self.table.swap(i, self.rng.below(i as u64 + 1) as usize);
        }
    }

    pub(crate) const fn set(&mut self, rss: Rss) {
        self.rss = rss;
    }

    /// The fabric's number of a queue, for what has nothing to hash.
    pub(crate) fn any(&mut self) -> usize {
        self.nics[self.rng.below(self.nics.len() as u64) as usize]
    }

    /// The fabric's number of the queue that a packet goes to.
    pub(crate) fn choose(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> usize {
        let n = self.nics.len() as u64;
        if n == 1 {
            return self.nics[0];
        }
        let queue = match self.rss {
            Rss::Toeplitz => u64::from(self.table[toeplitz(&self.key, &tuple(from, to)) as usize % TABLE]),
            Rss::Random => mix(&self.key, &tuple(from, to)) % n,
            Rss::Wrong => match addressee(payload) {
                Some(Addressee::Flow(id)) => ((id >> 56) + 1 + self.rng.below(n - 1)) % n,
                _ => self.rng.below(n),
            },
            Rss::Spray => self.rng.below(n),
            Rss::First => 0,
        };
        self.nics[queue as usize]
    }
}

/// Source and destination, addresses and ports, as RSS hashes them.
fn tuple(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(36);
    for ip in [from.ip(), to.ip()] {
        match ip {
            std::net::IpAddr::V4(ip) => bytes.extend(ip.octets()),
            std::net::IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes
}

/// For each bit set in `input` the 32 bits of the key that begin there, all of them exclusive-or.
fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let word = |at: usize| (0..32).fold(0, |word, i| word << 1 | u32::from(bit(key, at + i)));
    (0..input.len() * 8).filter(|&at| bit(input, at)).fold(0, |hash, at| hash ^ word(at))
}

fn mix(key: &[u8; 40], input: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.iter().chain(input) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verification suite of Microsoft's RSS documentation, IPv4 with ports.
    #[test]
    fn toeplitz_is_microsofts() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        for (from, to, hash) in [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
        ] {
            assert_eq!(toeplitz(&key, &tuple(from.parse().unwrap(), to.parse().unwrap())), hash);
        }
    }

    #[test]
    fn each_spreads_evenly() {
        let at = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        for rss in [Rss::Toeplitz, Rss::Random, Rss::Spray] {
            let mut counts = [0; 5];
            for seed in 0..20 {
                let mut queues = Queues::new((0..5).collect(), rss, SimRng::new(seed, 0));
                (0..500).for_each(|n| counts[queues.choose(at(7000 + n / 20), at(8000 + n % 20), &[])] += 1);
            }
            assert!(counts.iter().all(|&count| (1500..2500).contains(&count)), "{rss:?}: {counts:?}");
        }
    }
}
