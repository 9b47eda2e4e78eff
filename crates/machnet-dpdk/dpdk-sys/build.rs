//! Finds libdpdk, compiles the shim, generates the bindings, all with the flags that DPDK itself was built with.

fn main() {
    #[cfg(feature = "dpdk")]
    found::build();
}

#[cfg(feature = "dpdk")]
mod found {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, process};

    /// The oldest release that has all that is used.
    const OLDEST: &str = "22.11";

    /// What is called directly. The drivers are plugins, which EAL loads by itself.
    const LIBRARIES: [&str; 5] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"];

    /// Of its own since 24.03.
    const LOG: &str = "rte_log";

    const FUNCTIONS: &str = "dpdk_.*|rte_eal_(init|cleanup|has_hugepages|iova_mode)|rte_(strerror|log_set_global_level|openlog_stream)|\
        rte_dev_(probe|remove|name)|rte_thread_(register|unregister)|rte_socket_id|\
        rte_eth_dev_(info_get|configure|start|stop|close|count_avail|get_port_by_name|get_name_by_port|adjust_nb_rx_tx_desc|get_mtu|set_mtu|is_valid_port|socket_id)|\
        rte_eth_(find_next|rx_queue_setup|tx_queue_setup|macaddr_get|link_get_nowait|stats_get|promiscuous_enable|allmulticast_enable|tx_done_cleanup)|\
        rte_pktmbuf_(pool_create|free_bulk)|rte_mempool_(obj_iter|free|avail_count|in_use_count)|rte_version.*";

    const CONSTANTS: &str =
        "DPDK_.*|RTE_MAX_ETHPORTS|RTE_PKTMBUF_HEADROOM|RTE_ETH_NAME_MAX_LEN|RTE_MEMPOOL_CACHE_MAX_SIZE|RTE_LOG_.*";

    pub(super) fn build() {
        println!("cargo::rerun-if-changed=src/shim.h");
        println!("cargo::rerun-if-changed=src/shim.c");
        println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
        let library = match pkg_config::Config::new().cargo_metadata(false).atleast_version(OLDEST).probe("libdpdk") {
            Ok(library) => library,
            Err(error) => missing(&error.to_string()),
        };
        link(&library.link_paths);
        let flags = flags();
        cc::Build::new().file("src/shim.c").flags(&flags).opt_level(3).warnings(false).compile("machnet_dpdk_shim");
        bind(&flags);
        println!("cargo::metadata=version={}", library.version);
    }

    fn missing(why: &str) -> ! {
        eprintln!(
            "\nThe feature `dpdk` needs DPDK {OLDEST} or later with its headers, pkg-config, and libclang:\n  \
             Debian, Ubuntu:  apt-get install libdpdk-dev libclang-dev pkg-config\n  \
             Fedora:          dnf install dpdk-devel clang-devel pkgconf-pkg-config\n\
             If DPDK is elsewhere, let PKG_CONFIG_PATH name the directory of its libdpdk.pc.\n\n{why}"
        );
        process::exit(1)
    }

    /// Only what is called: `pkg-config --libs` names a hundred libraries.
    fn link(paths: &[PathBuf]) {
        for path in paths {
            println!("cargo::rustc-link-search=native={}", path.display());
        }
        let system =
            ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"].map(Path::new);
        let places = || paths.iter().map(PathBuf::as_path).chain(system);
        let log = places().any(|path| path.join(format!("lib{LOG}.so")).exists()).then_some(LOG);
        for name in LIBRARIES.into_iter().chain(log) {
            println!("cargo::rustc-link-lib=dylib={name}");
        }
    }

    /// The compiler's flags, whole: the crate `pkg-config` leaves out `-march` and `-include`, and a structure's layout
    /// depends on both.
    fn flags() -> Vec<String> {
        let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        let output = match Command::new(program).args(["--cflags", "libdpdk"]).output() {
            Ok(output) if output.status.success() => output,
            Ok(output) => missing(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => missing(&format!("cannot start pkg-config: {error}")),
        };
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }

    fn bind(flags: &[String]) {
        let bindings = bindgen::Builder::default()
            .header("src/shim.h")
            .clang_args(flags)
            .allowlist_function(FUNCTIONS)
            .allowlist_var(CONSTANTS)
            .allowlist_type("rte_eth_(conf|dev_info|rxconf|txconf|link|stats)|rte_mbuf|rte_mempool|rte_ether_addr|rte_iova_mode|dpdk_.*")
            .default_enum_style(bindgen::EnumVariation::Consts)
            .prepend_enum_name(false)
            .derive_default(true)
            .layout_tests(true)
            .generate_comments(false)
            .generate();
        let bindings = match bindings {
            Ok(bindings) => bindings,
            Err(error) => missing(&format!("cannot generate bindings: {error}")),
        };
        let out = env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
        bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR can be written");
    }
}
