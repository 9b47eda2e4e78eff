//! Every driver that needs no hardware, through every check. `cargo xtask test --only conformance` runs it.
//!
//! `machnet-sim` moves datagrams, `ethernet` and `ethernet6` frames under core's network layer, over the simulated wire;
//! `hairpin` is the first behind core's hairpin, which must not show;
//! `udp` is kernel sockets on loopback, `shm` memory between two endpoints of this process; `memif` and `virtio` are DPDK's, with
//! the feature `dpdk`.

#[cfg(feature = "dpdk")]
mod dpdk;
mod shm;
mod sim;
mod udp;

use std::process::ExitCode;
use std::sync::Arc;

use machnet_conformance::{Subject, run};

fn main() -> ExitCode {
    let subjects: Vec<Arc<dyn Subject>> = vec![
        Arc::new(sim::Datagrams),
        Arc::new(sim::Turned),
        Arc::new(sim::Frames::V4),
        Arc::new(sim::Frames::V6),
        Arc::new(udp::Loopback),
        Arc::new(shm::Memory),
        #[cfg(feature = "dpdk")]
        Arc::new(dpdk::Ports::Memif),
        #[cfg(feature = "dpdk")]
        Arc::new(dpdk::Ports::Virtio),
    ];
    run(subjects)
}
