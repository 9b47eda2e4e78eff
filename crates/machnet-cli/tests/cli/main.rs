//! The program as people run it: real processes, over loopback.
#![allow(unused_crate_dependencies, reason = "a test")]

mod daemon;
mod doctor;
#[cfg(feature = "dpdk")]
mod dpdk;
mod measuring;
mod ping;
mod process;
mod refusals;
