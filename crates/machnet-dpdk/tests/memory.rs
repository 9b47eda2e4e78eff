//! More memory than there is. Alone in its process, for it takes all of it for a moment.
#![cfg(feature = "dpdk")]

use std::io::ErrorKind;

use machnet_dpdk::{Eal, HugePages, Port};

#[test]
fn more_frames_than_memory_are_refused_and_nothing_is_kept() {
    let eal = Eal::new().huge_pages(HugePages::Never).memory(64);
    let port = Port::builder("vdev:net_null0".parse().unwrap()).eal(eal);
    for _ in 0..3 {
        let error = port.clone().frames(50_000).open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.to_string().contains("give DPDK at least"), "{error}");
        let good = port.clone().frames(4096).open().unwrap();
        assert_eq!(good.free_frames(), 4096);
    }
}
