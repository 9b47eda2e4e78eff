//! Finds libdpdk, compiles the shim, generates the bindings, all with the flags that DPDK itself was built with.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "dpdk")]
    if let Err(error) = found::build() {
        #[allow(clippy::print_stderr, reason = "cargo shows what a failed build script prints")]
        {
            eprintln!("\n{error}");
        }
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(feature = "dpdk")]
mod found {
    use std::env;
    use std::fmt::Display;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// The oldest release that has all that is used.
    const OLDEST: &str = "22.11";

    /// What is called directly. The drivers are plugins, which EAL loads by itself.
    const LIBRARIES: [&str; 5] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"];

    /// Of its own since 24.03.
    const LOG: &str = "rte_log";

    /// What is bound: the shim's, and what is called as it is.
    const FUNCTIONS: &str = "dpdk_.*|rte_eal_(init|has_hugepages|get_runtime_dir)|rte_(strerror|log_set_global_level|version)|rte_dev_probe|\
        rte_thread_(un)?register|rte_eth_dev_(get_port_by_name|adjust_nb_rx_tx_desc)|\
        rte_eth_(tx_done_cleanup|promiscuous_enable|allmulticast_enable)|rte_pktmbuf_free_bulk|rte_mempool_(free|avail_count|in_use_count)";

    pub(super) fn build() -> Result<(), String> {
        println!("cargo::rerun-if-changed=src/shim.h");
        println!("cargo::rerun-if-changed=src/shim.c");
        println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
        let mut probe = pkg_config::Config::new();
        let library = probe.cargo_metadata(false).atleast_version(OLDEST).probe("libdpdk").map_err(missing)?;
        link(&library.link_paths);
        let flags = flags()?;
        cc::Build::new().file("src/shim.c").flags(&flags).opt_level(3).warnings(false).compile("machnet_dpdk_shim");
        bind(&flags)?;
        println!("cargo::metadata=version={}", library.version);
        Ok(())
    }

    fn missing(why: impl Display) -> String {
        format!(
            "The feature `dpdk` needs DPDK {OLDEST} or later with its headers, pkg-config, and libclang:\n  \
             Debian, Ubuntu:  apt-get install libdpdk-dev libclang-dev pkg-config\n  \
             Fedora:          dnf install dpdk-devel clang-devel pkgconf-pkg-config\n\
             If DPDK is elsewhere, let PKG_CONFIG_PATH name the directory of its libdpdk.pc.\n\n{why}"
        )
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
    fn flags() -> Result<Vec<String>, String> {
        let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        let output = Command::new(program).args(["--cflags", "libdpdk"]).output().map_err(missing)?;
        if !output.status.success() {
            return Err(missing(String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
    }

    fn bind(flags: &[String]) -> Result<(), String> {
        let bindings = bindgen::Builder::default()
            .header("src/shim.h")
            .clang_args(flags)
            .allowlist_function(FUNCTIONS)
            .allowlist_var("DPDK_.*|RTE_LOG_(ERR|WARNING|NOTICE|INFO|DEBUG)")
            .allowlist_type("dpdk_.*")
            .allowlist_recursively(false)
            .blocklist_type("rte_mbuf|rte_mempool")
            .default_enum_style(bindgen::EnumVariation::Consts)
            .prepend_enum_name(false)
            .derive_default(true)
            .layout_tests(true)
            .generate_comments(false)
            .generate()
            .map_err(missing)?;
        let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or("cargo did not set OUT_DIR")?;
        bindings.write_to_file(out.join("bindings.rs")).map_err(|error| format!("cannot write the bindings: {error}"))
    }
}
