//! Machnet over DPDK.
#![cfg(feature = "dpdk")]
