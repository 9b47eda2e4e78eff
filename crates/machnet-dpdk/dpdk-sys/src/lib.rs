//! The part of DPDK that Machnet uses, bound to the libdpdk that is installed: 22.11 or later.
//!
//! With the feature `dpdk` the build asks pkg-config for libdpdk, compiles the shim (`shim.h`, functions `dpdk_*`) and
//! generates what is here from its header; sizes and offsets of the structures are asserted when the crate is compiled.
//! DPDK's own structures, which differ between releases, are opaque here. Without the feature the crate is empty.
//!
//! It links the libraries that are called, not the drivers: those are plugins that EAL loads.
#![cfg(feature = "dpdk")]
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::all,
    reason = "generated"
)]

/// A packet buffer of DPDK's. Reached through pointers alone.
#[repr(C)]
pub struct rte_mbuf {
    _opaque: [u8; 0],
}

/// A pool of packet buffers. Reached through pointers alone.
#[repr(C)]
pub struct rte_mempool {
    _opaque: [u8; 0],
}

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn the_library_is_a_release_that_is_supported() {
        let name = unsafe { CStr::from_ptr(rte_version()) }.to_str().unwrap();
        let year: u32 = name.strip_prefix("DPDK ").and_then(|version| version.get(..2)).unwrap().parse().unwrap();
        assert!(year >= 22, "{name}");
    }

    #[test]
    fn a_port_that_is_not_there_is_an_error() {
        assert_eq!(u32::from(unsafe { dpdk_next_port(0) }), DPDK_PORTS, "EAL has not been started");
        let mut facts = dpdk_facts::default();
        assert_eq!(unsafe { self::dpdk_facts(7, &raw mut facts) }, -19, "ENODEV");
    }
}
