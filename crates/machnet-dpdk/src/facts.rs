//! What a port can do.

use std::ffi::{CStr, c_char};

use dpdk_sys::dpdk_facts;
use machnet_core::net::MacAddr;

use crate::quirks::Quirks;

/// What a port says of itself, once it is set up. None of it is relied on beyond a queue pair.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The port's name: a PCI address, or a virtual device's name.
    pub name: String,
    /// Its driver, as that calls itself: `net_ena`, `net_memif`.
    pub driver: String,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The longest IP packet that it is set up for, bytes.
    pub mtu: u32,
    /// The most that it could be set up for; `u16::MAX` where nobody knows.
    pub max_mtu: u16,
    /// Descriptors of the receive ring.
    pub rx_descriptors: u16,
    /// Descriptors of the transmit ring.
    pub tx_descriptors: u16,
    /// Queue pairs that it is set up for.
    pub queues: u16,
    /// Queue pairs that it could have. Some drivers claim more than their device has; of those that are known it is right.
    pub max_queues: u16,
    /// It verifies UDP checksums.
    pub rx_checksum: bool,
    /// It computes UDP checksums.
    pub tx_checksum: bool,
    /// It sends frames of two pieces: headers, and behind them what lies elsewhere.
    pub gathers: bool,
    /// It spreads packets over queues by a hash.
    pub rss: bool,
    /// The table from hash to queue has so many entries; 0 if it cannot be set.
    pub rss_table: u16,
    /// It tells when its link comes and goes; else it is asked.
    pub link_events: bool,
    /// The number of the kernel's interface for the same hardware; 0 if there is none.
    pub interface: u32,
    /// The NUMA node that it is near to, if that is known.
    pub node: Option<u32>,
    /// What else is known of its driver, each with its source; the first says whether it was ever run with Machnet.
    pub notes: Vec<String>,
}

/// How much a port has beyond what every cloud's vNIC has. Machnet works the same on each; it is for choosing machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tier {
    /// The least common denominator: frames in and out. The rest is done in software.
    Least,
    /// Also UDP checksums, both ways.
    Checksums,
    /// Also several queues, with a hash that spreads packets over them and a table that can be set.
    Spreading,
}

impl Facts {
    pub(crate) fn new(raw: &dpdk_facts) -> Self {
        let has = |capabilities: u64, one: u64| capabilities & one != 0;
        let driver = text(&raw.driver);
        let quirks = Quirks::of(&driver);
        Self {
            name: text(&raw.name),
            driver,
            mac: MacAddr(raw.mac),
            mtu: raw.mtu.into(),
            max_mtu: raw.max_mtu,
            queues: 0,
            rx_descriptors: 0,
            tx_descriptors: 0,
            max_queues: raw.max_rx_queues.min(raw.max_tx_queues).min(quirks.queues),
            rx_checksum: has(raw.rx_offloads, dpdk_sys::DPDK_RX_UDP_CKSUM),
            tx_checksum: has(raw.tx_offloads, dpdk_sys::DPDK_TX_UDP_CKSUM),
            gathers: has(raw.tx_offloads, dpdk_sys::DPDK_TX_MULTI_SEGS),
            rss: raw.rss_fields != 0,
            rss_table: raw.reta_size,
            link_events: raw.link_events != 0,
            interface: raw.interface,
            node: u32::try_from(raw.node).ok(),
            notes: quirks.notes(),
        }
    }

    /// The tier that the port is in.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        match (self.rx_checksum && self.tx_checksum, self.rss && self.rss_table > 0 && self.max_queues > 1) {
            (false, _) => Tier::Least,
            (true, false) => Tier::Checksums,
            (true, true) => Tier::Spreading,
        }
    }
}

fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&byte| byte.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_needs_all_below_it() {
        let mut raw = dpdk_facts { max_rx_queues: 4, max_tx_queues: 2, node: -1, ..dpdk_facts::default() };
        raw.driver[..3].copy_from_slice(&[b'e', b'n', b'a'].map(|byte| byte as c_char));
        let facts = Facts::new(&raw);
        assert_eq!((facts.driver.as_str(), facts.max_queues, facts.node, facts.tier()), ("ena", 2, None, Tier::Least));
        let both = Facts { rx_checksum: true, tx_checksum: true, ..facts };
        assert_eq!(both.tier(), Tier::Checksums);
        let table = Facts { rss: true, rss_table: 128, ..both };
        assert_eq!(table.tier(), Tier::Spreading);
        assert_eq!(Facts { tx_checksum: false, ..table }.tier(), Tier::Least);
    }
}
