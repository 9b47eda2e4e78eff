//! DPDK's environment (EAL): memory, cores, buses. There is one per process, and it stays.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::{ffi, gate, log};

/// Where the kernel says how many huge pages there are.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

/// Where it says which cores there are.
const CORES: &str = "/sys/devices/system/cpu";

/// MiB that EAL may take if nothing is said, without huge pages: address space, of which only what is used costs memory.
const MEMORY: u32 = 512;

/// MiB of huge pages that a port with what is usual gets along with.
const ENOUGH: u32 = 128;

/// Whether DPDK's memory comes from huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// If as many are free as [`Eal::memory`] says, or 128 MiB; for devices on PCI if any are.
    #[default]
    Auto,
    /// Yes, or fail. NICs on PCI need them unless an IOMMU is there.
    Always,
    /// No. Enough for virtual devices.
    Never,
}

/// How DPDK's environment is set up, once per process.
///
/// The first port that is opened starts it, so this is for those who want something else than the defaults, which are:
/// the first core this process may use, huge pages if there are enough, no PCI devices but those that are named, nothing
/// shared with other processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eal {
    cores: Option<String>,
    memory: Option<u32>,
    prefix: Option<String>,
    huge_pages: HugePages,
    allowed: Vec<String>,
    any_pci: bool,
    vdevs: Vec<String>,
    plugins: Vec<PathBuf>,
}

/// What this process's EAL was started with, once it is.
static RUNNING: Mutex<Option<Eal>> = Mutex::new(None);

impl Eal {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The cores that are DPDK's, as its `-l` takes them: `0`, `1-3`, `0,2`. Its housekeeping threads run on the others.
    /// Engines are not bound to them.
    #[must_use]
    pub fn cores(mut self, cores: impl Into<String>) -> Self {
        self.cores = Some(cores.into());
        self
    }

    /// MiB of memory. Default: with huge pages what is needed, as it is needed; without, 512, which is address space.
    #[must_use]
    pub const fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = Some(mebibytes);
        self
    }

    /// The name under which this process's DPDK files are, which no other running process may use. Default: no files.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Whether memory comes from huge pages.
    #[must_use]
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// A device on a bus that DPDK may take, such as `0000:00:06.0`; may be called several times. A port that is opened
    /// by its PCI address is allowed without this if it is the first.
    #[must_use]
    pub fn allow(mut self, device: impl Into<String>) -> Self {
        self.allowed.push(device.into());
        self
    }

    /// DPDK may take every PCI device that is bound to a driver of its kind (vfio-pci, uio), or shared with the kernel (mlx5,
    /// MANA). What a port is found by its Ethernet address among.
    #[must_use]
    pub const fn any_pci(mut self) -> Self {
        self.any_pci = true;
        self
    }

    /// A virtual device that is there from the start, as `--vdev` takes it; may be called several times. Ports that are
    /// opened as virtual devices need no such.
    #[must_use]
    pub fn vdev(mut self, vdev: impl Into<String>) -> Self {
        self.vdevs.push(vdev.into());
        self
    }

    /// A driver, or a directory of them, beyond those of the installation; may be called several times.
    #[must_use]
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.push(path.into());
        self
    }

    /// Starts DPDK in this process. Does nothing if it runs with the same settings already.
    ///
    /// # Errors
    /// `AlreadyExists`: it runs with other settings. `InvalidInput`: a setting that cannot be. Else the reason that DPDK
    /// gives, with what would mend it: no huge pages, no permission, a prefix that another process has.
    pub fn start(&self) -> io::Result<()> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        match &*running {
            Some(other) if other == self => Ok(()),
            Some(other) => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "DPDK runs in this process already, with {}: settings of its environment are made once, before the first port",
                    other.arguments()?.join(" ")
                ),
            )),
            None => {
                self.init()?;
                *running = Some(self.clone());
                Ok(())
            }
        }
    }

    /// True if DPDK runs in this process.
    #[must_use]
    pub fn is_running() -> bool {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The release of the DPDK in use, such as `DPDK 22.11.11`.
    #[must_use]
    pub fn version() -> String {
        ffi::version()
    }

    fn init(&self) -> io::Result<()> {
        let arguments = self.arguments()?;
        tracing::debug!(?arguments, version = ffi::version(), "starting DPDK");
        ffi::log_to(log::sink)?;
        log::forget();
        // EAL binds the thread that starts it to a core, so that is one of its own.
        let thread = std::thread::Builder::new().name("dpdk-init".to_owned());
        let result = thread.spawn(move || ffi::eal_init(&arguments))?.join();
        // Which nobody else has, nor needs any more: it is empty, and would stay for ever.
        let directory = ffi::runtime_directory();
        if directory.ends_with(own_prefix()) {
            let _ = std::fs::remove_dir(directory);
        }
        let result = result.unwrap_or_else(|_| Err(io::Error::other("starting DPDK panicked")));
        result.map_err(|error| self.explain(&error))?;
        // Whose gates close by what it logs.
        ffi::log_all_of(gate::DRIVER)
    }

    /// What DPDK is started with.
    fn arguments(&self) -> io::Result<Vec<String>> {
        let mut arguments = vec!["machnet".to_owned(), "--no-telemetry".to_owned()];
        if let Some(cores) = self.cores.as_deref().filter(|cores| !are_cores(cores, Path::new(CORES))) {
            return Err(no_cores(cores));
        }
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        let core;
        add(&[
            "-l",
            match &self.cores {
                Some(cores) => cores,
                None => {
                    core = first_core()?.to_string();
                    &core
                }
            },
        ]);
        let huge = self.has_huge_pages()?;
        let own;
        match (&self.prefix, huge) {
            (Some(prefix), _) => {
                if prefix.is_empty() || prefix.contains(['/', '%', '\0']) {
                    return Err(bad(format!(
                        "\"{}\" is no file prefix: it must be a plain name",
                        prefix.escape_debug()
                    )));
                }
                add(&["--file-prefix", prefix]);
            }
            (None, true) => add(&["--in-memory"]),
            (None, false) => {
                own = own_prefix();
                add(&["--no-shconf", "--file-prefix", &own]);
            }
        }
        if huge {
            // Few descriptors for vhost-user, whatever there is of memory.
            add(&["--single-file-segments"]);
        } else {
            add(&["--no-huge"]);
        }
        if self.memory == Some(0) {
            return Err(bad("0 MiB of memory for DPDK: leave it out, or give some".to_owned()));
        }
        if let Some(mebibytes) = self.memory.or((!huge).then_some(MEMORY)) {
            add(&["-m", &mebibytes.to_string()]);
        }
        if !self.any_pci && self.allowed.is_empty() {
            add(&["--no-pci", "--iova-mode=va"]);
        }
        for device in &self.allowed {
            add(&["-a", device]);
        }
        for vdev in &self.vdevs {
            add(&["--vdev", vdev]);
        }
        for plugin in &self.plugins {
            add(&["-d", &plugin.to_string_lossy()]);
        }
        Ok(arguments)
    }

    fn has_huge_pages(&self) -> io::Result<bool> {
        let free = huge_memory_free(Path::new(HUGE_PAGES));
        match self.huge_pages {
            HugePages::Never => Ok(false),
            HugePages::Auto => Ok(self.are_enough(free) && (self.prefix.is_none() || has_hugetlbfs())),
            HugePages::Always if free > 0 => Ok(true),
            HugePages::Always => Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("no huge pages are free: {}", more_huge_pages(MEMORY.into())),
            )),
        }
    }

    /// Whether so many MiB of huge pages do, for who could do without: devices on PCI could not.
    fn are_enough(&self, free: u64) -> bool {
        let wanted = if self.any_pci || !self.allowed.is_empty() { 1 } else { self.memory.unwrap_or(ENOUGH) };
        free >= wanted.into()
    }

    /// Why it did not start, and what would mend that.
    fn explain(&self, error: &io::Error) -> io::Error {
        let said = log::said();
        let about = |part: &str| said.iter().any(|line| line.contains(part));
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let (kind, mend) = if about("Cannot create lock") || about("Is another primary process running") {
            (
                io::ErrorKind::AddrInUse,
                format!("another process runs DPDK with the prefix \"{prefix}\": each needs its own"),
            )
        } else if about("invalid core")
            || about("invalid parameters for -l")
            || about("unavailable on this system")
            || about("lcore") && about("unavailable")
        {
            let cores = self.cores.as_deref().unwrap_or_default();
            (io::ErrorKind::InvalidInput, no_cores(cores).to_string())
        } else if about("cannot open shared object file") {
            (io::ErrorKind::NotFound, "there is no such plugin".to_owned())
        } else if about("Unable to parse device") {
            (io::ErrorKind::InvalidInput, "allow= names no device, as 0000:00:06.0 does".to_owned())
        } else if about("Not enough memory available") {
            let wanted = self.memory.unwrap_or_default();
            (
                io::ErrorKind::OutOfMemory,
                format!("fewer are free than memory={wanted} says: {}", more_huge_pages(wanted.into())),
            )
        } else if self.prefix.is_some() && about("no mounted hugetlbfs") {
            let mend = format!(
                "with a prefix (\"{prefix}\") huge pages come from a hugetlbfs, and none is mounted: `mount -t hugetlbfs none /dev/hugepages`; \
                 or leave out the prefix, or do without them (huge=no)"
            );
            (io::ErrorKind::NotFound, mend)
        } else if about("hugepage") {
            (
                error.kind(),
                format!(
                    "huge pages can be had by `echo 256 > {HUGE_PAGES}/hugepages-2048kB/nr_hugepages` as root, or be done without (huge=no)"
                ),
            )
        } else if about("permission") || about("Permission denied") || error.kind() == io::ErrorKind::PermissionDenied {
            (
                io::ErrorKind::PermissionDenied,
                "run as root, or give this user the device's files (/dev/vfio) and huge pages".to_owned(),
            )
        } else if about("VFIO") || about("vfio") {
            (
                error.kind(),
                "bind the device to vfio-pci (dpdk-devbind.py -b vfio-pci ADDRESS), with an IOMMU switched on"
                    .to_owned(),
            )
        } else {
            (error.kind(), "its log is below".to_owned())
        };
        io::Error::new(kind, format!("DPDK does not start ({error}): {mend}\n  {}", said.join("\n  ")))
    }
}

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn no_cores(cores: &str) -> io::Error {
    bad(format!("\"{}\" names no cores of this machine, as 0 or 0-1 do", cores.escape_debug()))
}

/// The prefix of who says none, and has no huge pages.
fn own_prefix() -> String {
    format!("machnet-{}", std::process::id())
}

/// True if `text` names cores, as EAL's `-l` takes them, that are in `directory`. EAL says what is wrong with others on four screens.
fn are_cores(text: &str, directory: &Path) -> bool {
    let is_there = |core: u32| directory.join(format!("cpu{core}")).exists();
    text.split(',').all(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => first <= last && (first..=last).all(is_there),
            _ => false,
        }
    })
}

/// The first core that this process may run on.
fn first_core() -> io::Result<usize> {
    let set = rustix::thread::sched_getaffinity(None)?;
    (0..rustix::thread::CpuSet::MAX_CPU)
        .find(|&core| set.is_set(core))
        .ok_or_else(|| io::Error::other("this process may run on no core"))
}

/// What makes so many MiB of huge pages.
pub(crate) fn more_huge_pages(mebibytes: u64) -> String {
    format!(
        "`echo {} > {HUGE_PAGES}/hugepages-2048kB/nr_hugepages` as root makes {mebibytes} MiB of huge pages; virtual devices do without (huge=no)",
        mebibytes.div_ceil(2)
    )
}

/// MiB of huge pages of any size that are free.
fn huge_memory_free(directory: &Path) -> u64 {
    let sizes = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let free = |size: OsString| {
        let kibibytes: u64 = size.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = std::fs::read_to_string(directory.join(&size).join("free_hugepages")).ok()?;
        Some(count.trim().parse::<u64>().ok()? * kibibytes)
    };
    sizes.filter_map(|size| free(size.file_name())).sum::<u64>() >> 10
}

/// True if a file system of huge pages is mounted: who has a prefix has files in it.
fn has_hugetlbfs() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|mount| mount.split(' ').nth(2) == Some("hugetlbfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(eal: &Eal) -> String {
        eal.arguments().unwrap().join(" ")
    }

    #[test]
    fn settings_become_arguments() {
        let eal = Eal::new().huge_pages(HugePages::Never).cores("0-1").memory(64).vdev("net_null0");
        let own = format!("--no-shconf --file-prefix machnet-{}", std::process::id());
        assert_eq!(
            arguments(&eal),
            format!("machnet --no-telemetry -l 0-1 {own} --no-huge -m 64 --no-pci --iova-mode=va --vdev net_null0")
        );
        let eal = Eal::new().huge_pages(HugePages::Never).prefix("x").allow("0000:00:06.0").plugin("/lib/x.so");
        let text = arguments(&eal);
        assert!(text.ends_with("--file-prefix x --no-huge -m 512 -a 0000:00:06.0 -d /lib/x.so"), "{text}");
        assert!(!arguments(&Eal::new().huge_pages(HugePages::Never).any_pci()).contains("--no-pci"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for prefix in ["", "a/b", "%s"] {
            let error = Eal::new().prefix(prefix).arguments().unwrap_err();
            assert!(error.to_string().contains("is no file prefix"), "{error}");
        }
        let error = Eal::new().huge_pages(HugePages::Never).memory(0).arguments().unwrap_err();
        assert!(error.to_string().contains("0 MiB"), "{error}");
    }

    #[test]
    fn cores_are_those_of_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        for core in [0, 1, 3] {
            std::fs::create_dir(directory.path().join(format!("cpu{core}"))).unwrap();
        }
        for text in ["0", "0,1", "0-1", "3,0-1"] {
            assert!(are_cores(text, directory.path()), "{text}");
        }
        for text in ["", "2", "0-3", "1-0", "x", "0,", "-1", "1-", "4294967295", "0-4294967295", "(0)"] {
            assert!(!are_cores(text, directory.path()), "{text}");
        }
    }

    #[test]
    fn huge_pages_are_counted() {
        assert_eq!(huge_memory_free(Path::new("/nonexistent")), 0);
        let directory = tempfile::tempdir().unwrap();
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "2\n"), ("else", "7\n")] {
            std::fs::create_dir(directory.path().join(size)).unwrap();
            std::fs::write(directory.path().join(size).join("free_hugepages"), free).unwrap();
        }
        assert_eq!(huge_memory_free(directory.path()), 2054);
    }

    #[test]
    fn who_can_do_without_huge_pages_does_not_take_too_few() {
        assert_eq!([127, 128].map(|free| Eal::new().are_enough(free)), [false, true]);
        assert_eq!([511, 512].map(|free| Eal::new().memory(512).are_enough(free)), [false, true]);
        assert_eq!([0, 2].map(|free| Eal::new().allow("0000:00:06.0").are_enough(free)), [false, true]);
        assert_eq!([0, 2].map(|free| Eal::new().any_pci().are_enough(free)), [false, true]);
    }
}
