//! What the steps need beyond cargo: found, or installed, or named.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::run;
use crate::target;

/// Something a step needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tool {
    /// What it is called.
    pub(crate) name: &'static str,
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A component of the toolchain, behind a cargo subcommand.
    Component { subcommand: &'static str },
    /// A command from a Debian package.
    Apt { command: &'static str, package: &'static str },
    /// A library that pkg-config knows, from a Debian package.
    Library { name: &'static str, package: &'static str },
    /// libclang with its headers, which pkg-config does not know.
    Libclang,
    /// The right to make network namespaces: root's, or that of an unprivileged user namespace.
    Namespaces,
    /// A toolchain of rustup's.
    Toolchain,
    /// A binary from a crate, built into `target/tools`.
    Crate { name: &'static str, version: &'static str },
}

pub(crate) const RUSTFMT: Tool = Tool { name: "rustfmt", source: Source::Component { subcommand: "fmt" } };
pub(crate) const CLIPPY: Tool = Tool { name: "clippy", source: Source::Component { subcommand: "clippy" } };
pub(crate) const IP: Tool = Tool { name: "ip", source: Source::Apt { command: "ip", package: "iproute2" } };
pub(crate) const REDIS_SERVER: Tool =
    Tool { name: "redis-server", source: Source::Apt { command: "redis-server", package: "redis-server" } };
pub(crate) const REDIS_BENCHMARK: Tool =
    Tool { name: "redis-benchmark", source: Source::Apt { command: "redis-benchmark", package: "redis-tools" } };
pub(crate) const H2LOAD: Tool =
    Tool { name: "h2load", source: Source::Apt { command: "h2load", package: "nghttp2-client" } };
pub(crate) const INITDB: Tool =
    Tool { name: "PostgreSQL", source: Source::Apt { command: "initdb", package: "postgresql" } };
pub(crate) const SETPRIV: Tool =
    Tool { name: "setpriv", source: Source::Apt { command: "setpriv", package: "util-linux" } };
pub(crate) const TASKSET: Tool =
    Tool { name: "taskset", source: Source::Apt { command: "taskset", package: "util-linux" } };
pub(crate) const TC: Tool = Tool { name: "tc", source: Source::Apt { command: "tc", package: "iproute2" } };
pub(crate) const TSHARK: Tool = Tool { name: "tshark", source: Source::Apt { command: "tshark", package: "tshark" } };
pub(crate) const VALGRIND: Tool =
    Tool { name: "valgrind", source: Source::Apt { command: "valgrind", package: "valgrind" } };
pub(crate) const ETHTOOL: Tool =
    Tool { name: "ethtool", source: Source::Apt { command: "ethtool", package: "ethtool" } };
pub(crate) const PING: Tool = Tool { name: "ping", source: Source::Apt { command: "ping", package: "iputils-ping" } };
pub(crate) const PKG_CONFIG: Tool =
    Tool { name: "pkg-config", source: Source::Apt { command: "pkg-config", package: "pkg-config" } };
pub(crate) const LIBDPDK: Tool =
    Tool { name: "libdpdk", source: Source::Library { name: "libdpdk", package: "libdpdk-dev" } };
pub(crate) const LIBCLANG: Tool = Tool { name: "libclang", source: Source::Libclang };
pub(crate) const NAMESPACES: Tool = Tool { name: "network namespaces", source: Source::Namespaces };
pub(crate) const CARGO_DENY: Tool = Tool { name: DENY, source: Source::Crate { name: DENY, version: DENY_VERSION } };

pub(crate) const NIGHTLY: Tool = Tool { name: "nightly", source: Source::Toolchain };
pub(crate) const CARGO_FUZZ: Tool = Tool { name: FUZZ, source: Source::Crate { name: FUZZ, version: FUZZ_VERSION } };

const FUZZ: &str = "cargo-fuzz";
const FUZZ_VERSION: &str = "0.13.2";
const DENY: &str = "cargo-deny";
const DENY_VERSION: &str = "0.20.2";

const LIBCLANG_PACKAGE: &str = "libclang-dev";

const LIMIT: Duration = Duration::from_secs(15 * 60);

impl Tool {
    fn is_there(self) -> bool {
        match self.source {
            Source::Component { subcommand } => succeeds(Command::new("cargo").args([subcommand, "--version"])),
            Source::Apt { command, .. } => find(command).is_some(),
            Source::Library { name, .. } => succeeds(Command::new("pkg-config").args(["--exists", name])),
            Source::Libclang => has_libclang(),
            Source::Namespaces => {
                is_root() || succeeds(Command::new("unshare").args(["--user", "--map-root-user", "--net", "true"]))
            }
            Source::Toolchain => succeeds(Command::new("rustc").env("RUSTUP_TOOLCHAIN", self.name).arg("--version")),
            Source::Crate { name, version } => binary(name, version).is_file(),
        }
    }

    /// How to install it by hand.
    fn hint(self) -> String {
        match self.source {
            Source::Component { .. } => format!("rustup component add {}", self.name),
            Source::Apt { package, .. } | Source::Library { package, .. } => format!("apt-get install {package}"),
            Source::Libclang => format!("apt-get install {LIBCLANG_PACKAGE}"),
            Source::Namespaces => "run as root, or allow unprivileged user namespaces".to_owned(),
            Source::Toolchain => format!("rustup toolchain install {} --profile minimal", self.name),
            Source::Crate { .. } => "run without --no-install: it is built into target/tools".to_owned(),
        }
    }

    fn install(self) -> Result<()> {
        match self.source {
            Source::Component { .. } => run(Command::new("rustup").args(["component", "add", self.name]), LIMIT),
            Source::Apt { package, .. } | Source::Library { package, .. } => self.apt_get(package),
            Source::Libclang => self.apt_get(LIBCLANG_PACKAGE),
            Source::Namespaces => bail!("not permitted"),
            Source::Toolchain => {
                let mut install = Command::new("rustup");
                run(install.args(["toolchain", "install", self.name, "--profile", "minimal"]), LIMIT)
            }
            Source::Crate { name, version } => {
                // Unoptimised: it runs for a second, which does not repay its release profile's link-time optimisation.
                let mut install = Command::new("cargo");
                install.args(["install", "--quiet", "--locked", "--debug", name, "--version", version, "--root"]);
                run(install.arg(crate_root(name, version)), LIMIT)
            }
        }
    }
}

impl Tool {
    fn apt_get(self, package: &str) -> Result<()> {
        if !is_root() {
            bail!("installing the package {package} takes root; install it (sudo {}) and repeat", self.hint());
        }
        run(Command::new("apt-get").args(["update", "--quiet"]), LIMIT)?;
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        run(install.args(["install", "--quiet", "--yes", "--no-install-recommends", package]), LIMIT)
    }
}

/// Where bindgen finds it: beside the other parts of LLVM, or among all libraries.
fn has_libclang() -> bool {
    let versions = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path().join("lib"));
    versions.chain([PathBuf::from("/usr/lib64")]).any(|directory| directory.join("libclang.so").exists())
}

/// Sees to it that every tool is there: installs what is missing, or refuses and names it.
pub(crate) fn provide<'a>(tools: impl Iterator<Item = &'a Tool>, no_install: bool) -> Result<()> {
    let mut missing: Vec<Tool> = Vec::new();
    for &tool in tools {
        if !missing.contains(&tool) && !tool.is_there() {
            missing.push(tool);
        }
    }
    if no_install && !missing.is_empty() {
        let lines: Vec<_> = missing.iter().map(|tool| format!("\n  {:<20}{}", tool.name, tool.hint())).collect();
        bail!("missing, and --no-install was given:{}", lines.concat());
    }
    for tool in missing {
        println!("=== installing {}", tool.name);
        tool.install().with_context(|| format!("cannot install {} ({})", tool.name, tool.hint()))?;
        if !tool.is_there() {
            bail!("{} was installed and is still not found", tool.name);
        }
    }
    Ok(())
}

/// True if we may do what root may; also in a user namespace of our own.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The binary of cargo-deny.
pub(crate) fn cargo_deny() -> PathBuf {
    binary(DENY, DENY_VERSION)
}

/// The binary of cargo-fuzz.
pub(crate) fn cargo_fuzz() -> PathBuf {
    binary(FUZZ, FUZZ_VERSION)
}

fn binary(name: &str, version: &str) -> PathBuf {
    crate_root(name, version).join("bin").join(name)
}

fn crate_root(name: &str, version: &str) -> PathBuf {
    target().join("tools").join(format!("{name}-{version}"))
}

/// A command to run, wherever it is.
pub(crate) fn command(name: &str) -> Command {
    Command::new(path(name))
}

/// Where a command is; if nowhere, its name, for the error of starting it.
pub(crate) fn path(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| name.into())
}

/// Where PostgreSQL's server programs are: on Debian not in `PATH`.
pub(crate) fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    programs.retain(|bin| bin.join("initdb").is_file());
    programs.into_iter().max()
}

/// Where a command is. `/sbin` and its like count even where `PATH` leaves them out, as for users on Debian.
fn find(command: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(postgres_programs())
        .map(|dir| dir.join(command))
        .find(|file| file.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
