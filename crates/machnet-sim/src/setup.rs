//! What scenarios begin with: addresses, a port, and machines of moderate size.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use machnet_core::Config;

use crate::NicConfig;

/// The service port of every scenario.
pub const PORT: u16 = 7000;

/// Longer than any tombstone lives: twice `dead_peer_timeout` and a little, if the peer goes on asking.
pub const TOMBSTONES: Duration = Duration::from_secs(15);

/// The address of machine `n`.
#[must_use]
pub fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// Engines with little memory: malloc clears what it recycles, and with the defaults that would be most of the run time.
#[must_use]
pub fn config() -> Config {
    let mut config = Config::default();
    config.max_message = 1 << 20;
    config.reassembly_bytes = 7 << 22;
    // Path MTU discovery has scenarios of its own (tests/suite/mtu.rs): elsewhere its probes are not to be counted.
    config.max_payload = 1232;
    config
}

/// NICs likewise.
#[must_use]
pub fn nic() -> NicConfig {
    NicConfig { frames: 1024, ..NicConfig::default() }
}

pub(crate) const fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
