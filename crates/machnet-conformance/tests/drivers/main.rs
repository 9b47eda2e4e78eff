//! Every driver that needs no hardware, through every check. `cargo xtask test --only conformance` runs it.
//!
//! `machnet-sim` moves datagrams, `ethernet` and `ethernet6` frames under core's network layer, over the simulated wire;
//! `hairpin` is the first behind core's hairpin, which must not show;
//! `udp` is kernel sockets on loopback, `shm` memory between two endpoints of this process. With the feature `dpdk`: `memif` and
//! `virtio`, `memif_2` and `virtio_2`, which are the second of two queues, and on a veth pair `af_packet` and, for root of the machine, `af_xdp`.

#[cfg(feature = "dpdk")]
mod dpdk;
#[cfg(feature = "dpdk")]
mod namespace;
mod shm;
mod sim;
mod udp;

use std::process::ExitCode;
use std::sync::Arc;

use machnet_conformance::{Subject, run};

fn main() -> ExitCode {
    #[cfg(feature = "dpdk")]
    let links = namespace::enter();
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
        #[cfg(feature = "dpdk")]
        Arc::new(dpdk::Ports::MemifQueue),
        #[cfg(feature = "dpdk")]
        Arc::new(dpdk::Ports::VirtioQueue),
    ];
    #[cfg(feature = "dpdk")]
    let subjects = namespace::with_links(subjects, &links);
    run(subjects)
}
