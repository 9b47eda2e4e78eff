//! The part of DPDK that Machnet uses, bound to the libdpdk that is installed: 22.11 or later.
//!
//! With the feature `dpdk` the build asks pkg-config for libdpdk and generates what is here from its headers, so
//! structures have the layout that this libdpdk has; each size and offset is asserted when the crate is compiled. What
//! DPDK has as static inlines is in a shim (`shim.h`, functions `dpdk_*`). Without the feature the crate is empty.
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
    clippy::pedantic,
    clippy::all,
    reason = "generated"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn the_library_is_the_one_whose_headers_were_read() {
        // SAFETY: a constant string.
        let name = unsafe { CStr::from_ptr(rte_version()) };
        assert!(name.to_str().unwrap().starts_with("DPDK 2"), "{name:?}");
    }

    #[test]
    fn an_mbuf_is_two_cache_lines() {
        assert_eq!((size_of::<rte_mbuf>(), align_of::<rte_mbuf>()), (128, 64));
    }

    #[test]
    fn the_shim_reads_what_rust_writes() {
        let mut mbuf = rte_mbuf { buf_addr: std::ptr::dangling_mut::<u64>().cast(), ..rte_mbuf::default() };
        let buffer = mbuf.buf_addr;
        // SAFETY: an mbuf of this test's own.
        unsafe { dpdk_prepare(&raw mut mbuf, 3, 5) };
        // SAFETY: as above.
        assert_eq!(unsafe { dpdk_buffer(&raw const mbuf) }, buffer);
        let one = &raw mut mbuf;
        // SAFETY: as above.
        assert_eq!(unsafe { dpdk_done(&raw const one, 1) }, 0, "the device has it");
        // SAFETY: as above.
        unsafe { dpdk_unprepare(one) };
        // SAFETY: as above.
        assert_eq!(unsafe { dpdk_done(&raw const one, 1) }, 1);
    }
}
