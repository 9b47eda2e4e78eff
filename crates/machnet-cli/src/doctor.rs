//! `machnet doctor`: what would work on this machine, what is missing, and the command that mends it.
//!
//! Each check tries what it is about, where that is possible without changing anything: it opens a socket, shared memory,
//! or, with a `dpdk://` URL, the very port.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(feature = "dpdk")]
use anyhow::Context as _;
use clap::Args;
use machnet::{Shm, Udp};
use rustix::net::{AddressFamily, SocketType, socket};
use serde::Serialize;

#[derive(Args)]
pub(crate) struct Options {
    /// A port to open and look at, such as `dpdk://0000:00:06.0?ip=10.0.0.5/24`; it is closed again
    #[arg(value_name = "URL")]
    #[cfg(feature = "dpdk")]
    port: Option<machnet::dpdk::DpdkUrl>,

    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
    interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<Port>,
    /// Why the port cannot be opened, and what would mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    port_error: Option<String>,
}

/// Whether something works here.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    works: bool,
    found: String,
    /// What would mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// One of the kernel's network interfaces.
#[derive(Serialize)]
struct Interface {
    name: String,
    /// The kernel's driver; none for virtual ones.
    driver: Option<String>,
    /// The device on its bus.
    device: Option<String>,
    state: String,
    mtu: u32,
    rx_queues: usize,
    tx_queues: usize,
    numa_node: Option<u32>,
    /// What a DPDK port on the same hardware takes over (`ip=kernel`).
    #[cfg(feature = "dpdk")]
    addresses: Vec<String>,
    #[cfg(feature = "dpdk")]
    gateways: Vec<String>,
}

/// What an opened port can do.
#[derive(Serialize)]
struct Port {
    name: String,
    driver: String,
    mac: String,
    tier: String,
    mtu: u32,
    max_mtu: u16,
    rx_descriptors: u16,
    tx_descriptors: u16,
    queues: u16,
    max_queues: u16,
    rx_checksum: bool,
    tx_checksum: bool,
    gathers: bool,
    rss: bool,
    rss_table: u16,
    link_events: bool,
    /// What is known of its driver, and from where.
    notes: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let (checks, interfaces) = (checks(), interfaces(Path::new("/sys/class/net")));
    // Whoever asks for a port that does not open wants to know the rest all the more.
    let (port, port_error) = match port(options) {
        Ok(port) => (port, None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let report = Report { checks, interfaces, port, port_error };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(if report.port_error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "dpdk")]
fn port(options: &Options) -> anyhow::Result<Option<Port>> {
    let Some(url) = &options.port else { return Ok(None) };
    let port = url.port().open().with_context(|| format!("cannot open {url}"))?;
    let facts = port.facts();
    Ok(Some(Port {
        name: facts.name.clone(),
        driver: facts.driver.clone(),
        mac: facts.mac.to_string(),
        tier: format!("{:?}", facts.tier()).to_lowercase(),
        mtu: facts.mtu,
        max_mtu: facts.max_mtu,
        rx_descriptors: facts.rx_descriptors,
        tx_descriptors: facts.tx_descriptors,
        queues: facts.queues,
        max_queues: facts.max_queues,
        rx_checksum: facts.rx_checksum,
        tx_checksum: facts.tx_checksum,
        gathers: facts.gathers,
        rss: facts.rss,
        rss_table: facts.rss_table,
        link_events: facts.link_events,
        notes: facts.notes.clone(),
    }))
}

#[cfg(not(feature = "dpdk"))]
#[allow(clippy::unnecessary_wraps, reason = "as with the feature")]
fn port(_options: &Options) -> anyhow::Result<Option<Port>> {
    Ok(None)
}

fn checks() -> Vec<Check> {
    let name = format!("doctor-{}", std::process::id());
    let raw = "run it as root, or give it the capability: setcap cap_net_raw+ep PROGRAM";
    let sys = |path: &str| Path::new("/sys").join(path);
    vec![
        tried("UDP sockets", Udp::bind("127.0.0.1:0"), "see the error"),
        tried("shared memory", Shm::bind(&name), "see the error"),
        tried("AF_PACKET", open(AddressFamily::PACKET), raw),
        tried("AF_XDP", open(AddressFamily::XDP), "run it as root: it loads a program into the kernel, too"),
        dpdk_in_this_program(),
        libdpdk(),
        huge_pages(&sys("kernel/mm/hugepages")),
        iommu(&sys("kernel/iommu_groups"), &sys("module/vfio/parameters/enable_unsafe_noiommu_mode")),
        vfio(&sys("bus/pci/drivers/vfio-pci")),
    ]
}

fn open(family: AddressFamily) -> io::Result<()> {
    Ok(socket(family, SocketType::RAW, None).map(drop)?)
}

fn tried<T>(name: &'static str, result: io::Result<T>, mend: &str) -> Check {
    match result {
        Ok(_) => Check { name, works: true, found: "opened one".to_owned(), mend: None },
        Err(error) => Check { name, works: false, found: error.to_string(), mend: Some(mend.to_owned()) },
    }
}

fn dpdk_in_this_program() -> Check {
    #[cfg(feature = "dpdk")]
    let (works, found) = (true, format!("built with it: {}", machnet::dpdk::Eal::version()));
    #[cfg(not(feature = "dpdk"))]
    let (works, found) = (false, "built without it".to_owned());
    let mend = "cargo install --path crates/machnet-cli --features dpdk";
    Check { name: "DPDK here", works, found, mend: (!works).then(|| mend.to_owned()) }
}

/// The library, and the drivers that it would load.
fn libdpdk() -> Check {
    let mut places = vec![PathBuf::from("/usr/lib64"), PathBuf::from("/usr/local/lib64")];
    for lib in ["/usr/lib", "/usr/local/lib"] {
        places.push(PathBuf::from(lib));
        places.extend(["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|machine| Path::new(lib).join(machine)));
    }
    let there: Vec<_> = places.iter().filter(|place| begins(place, "librte_eal.so.").next().is_some()).collect();
    let plugins = there.iter().flat_map(|place| begins(&place.join("dpdk"), "pmds-"));
    let mut drivers: Vec<_> = plugins
        .flat_map(|directory| begins(&directory, "librte_net_"))
        .filter_map(|file| {
            Some(file.file_name()?.to_str()?.strip_prefix("librte_net_")?.strip_suffix(".so")?.to_owned())
        })
        .collect();
    drivers.sort();
    drivers.dedup();
    let works = !there.is_empty();
    let found = match (works, drivers.is_empty()) {
        (false, _) => "not installed".to_owned(),
        (true, true) => "installed, without drivers as plugins".to_owned(),
        (true, false) => format!("installed, drivers: {}", drivers.join(" ")),
    };
    let mend = "apt-get install libdpdk-dev (Fedora: dnf install dpdk-devel)";
    Check { name: "libdpdk", works, found, mend: (!works).then(|| mend.to_owned()) }
}

/// What in `directory` has a name that begins with `prefix`.
fn begins(directory: &Path, prefix: &'static str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path())
}

fn huge_pages(directory: &Path) -> Check {
    let mut sizes: Vec<_> = begins(directory, "hugepages-")
        .filter_map(|size| {
            let name = size.file_name()?.to_str()?.strip_prefix("hugepages-")?.to_owned();
            Some((name, number(&size.join("free_hugepages"))?, number(&size.join("nr_hugepages"))?))
        })
        .collect();
    sizes.sort();
    let works = sizes.iter().any(|(_, free, _)| *free > 0);
    let texts: Vec<_> = sizes.iter().map(|(name, free, all)| format!("{free} of {all} of {name} free")).collect();
    let found = if texts.is_empty() { "the kernel has none".to_owned() } else { texts.join(", ") };
    let mend =
        "echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages (virtual devices do without: huge=no)";
    Check { name: "huge pages", works, found, mend: (!works).then(|| mend.to_owned()) }
}

fn iommu(groups: &Path, without: &Path) -> Check {
    let groups = begins(groups, "").count();
    let does_without = text(without).as_deref() == Some("Y");
    let works = groups > 0 || does_without;
    let and = if does_without { ", vfio does without" } else { "" };
    let mend = "boot with intel_iommu=on or amd_iommu=on; in a VM without one: \
                modprobe vfio, then echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    Check { name: "IOMMU", works, found: format!("{groups} groups{and}"), mend: (!works).then(|| mend.to_owned()) }
}

fn vfio(directory: &Path) -> Check {
    let works = directory.exists();
    let addresses = begins(directory, "").filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let mut devices: Vec<_> = addresses.filter(|name| name.contains(':')).collect();
    devices.sort();
    let found = match (works, devices.is_empty()) {
        (false, _) => "not loaded".to_owned(),
        (true, true) => "loaded, has no device".to_owned(),
        (true, false) => format!("loaded, has {}", devices.join(" ")),
    };
    let mend = "modprobe vfio-pci, then dpdk-devbind.py -b vfio-pci ADDRESS for the NIC";
    Check { name: "vfio-pci", works, found, mend: (!works).then(|| mend.to_owned()) }
}

fn interfaces(directory: &Path) -> Vec<Interface> {
    let mut interfaces: Vec<_> = begins(directory, "").filter_map(|path| interface(&path)).collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    interfaces
}

fn interface(path: &Path) -> Option<Interface> {
    let last = |link: &str| {
        let target = fs::canonicalize(path.join(link)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    };
    let queues = |kind| begins(&path.join("queues"), kind).count();
    let name = path.file_name()?.to_str()?.to_owned();
    #[cfg(feature = "dpdk")]
    let known = machnet::dpdk::Interface::named(&name).ok();
    #[cfg(feature = "dpdk")]
    let gateways = |one: &machnet::dpdk::Interface| {
        let v6 = one.gateway_v6.map(|v6| v6.to_string());
        one.gateway_v4.map(|v4| v4.to_string()).into_iter().chain(v6).collect()
    };
    Some(Interface {
        #[cfg(feature = "dpdk")]
        addresses: known.iter().flat_map(|one| &one.addresses).map(ToString::to_string).collect(),
        #[cfg(feature = "dpdk")]
        gateways: known.as_ref().map(gateways).unwrap_or_default(),
        name,
        driver: last("device/driver"),
        device: last("device"),
        state: text(&path.join("operstate"))?,
        mtu: number(&path.join("mtu"))?,
        rx_queues: queues("rx-"),
        tx_queues: queues("tx-"),
        numa_node: number(&path.join("device/numa_node")),
    })
}

fn text(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

/// `None` also for -1, which is how the kernel says that it does not know.
fn number(file: &Path) -> Option<u32> {
    text(file)?.parse().ok()
}

impl Report {
    fn print(&self) {
        for Check { name, works, found, mend } in &self.checks {
            println!("{} {name:<14}{found}", if *works { "yes" } else { "no " });
            if let Some(mend) = mend {
                println!("    {:<14}mend: {mend}", "");
            }
        }
        println!();
        for one in &self.interfaces {
            let Interface { name, state, mtu, rx_queues, tx_queues, .. } = one;
            let driver = one.driver.as_deref().unwrap_or("virtual");
            let device = one.device.as_deref().unwrap_or("");
            println!("{name:<14}{state:<8} MTU {mtu}, queues {rx_queues}/{tx_queues}, {driver} {device}");
            #[cfg(feature = "dpdk")]
            if !one.addresses.is_empty() {
                let via =
                    if one.gateways.is_empty() { String::new() } else { format!(", via {}", one.gateways.join(" ")) };
                println!("{:<14}{}{via}", "", one.addresses.join(" "));
            }
        }
        if let Some(port) = &self.port {
            println!("\n{} ({}, {}): tier {}", port.name, port.driver, port.mac, port.tier);
            println!("MTU {} of {}, queue pairs {} of {}", port.mtu, port.max_mtu, port.queues, port.max_queues);
            println!("descriptors {} and {}", port.rx_descriptors, port.tx_descriptors);
            let Port { rx_checksum, tx_checksum, gathers, rss, rss_table, link_events, .. } = port;
            println!(
                "checksums: verified {rx_checksum}, computed {tx_checksum}; gathers {gathers}; RSS {rss}, table {rss_table}; link events {link_events}"
            );
            for note in &port.notes {
                println!("- {note}");
            }
        }
        if let Some(error) = &self.port_error {
            println!("\n{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_work_says_what_mends_it() {
        let checks = checks();
        assert!(checks.iter().all(|check| check.works != check.mend.is_some() && !check.found.is_empty()));
        let udp = checks.iter().find(|check| check.name == "UDP sockets").unwrap();
        assert!(udp.works);
    }

    #[test]
    fn huge_pages_and_interfaces_are_read_from_the_kernels_files() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("huge/hugepages-2048kB/free_hugepages", "3\n");
        write("huge/hugepages-2048kB/nr_hugepages", "8\n");
        let pages = huge_pages(&root.path().join("huge"));
        assert!(pages.works && pages.found == "3 of 8 of 2048kB free");
        assert!(!huge_pages(&root.path().join("none")).works);

        let (groups, without) = (root.path().join("groups"), root.path().join("noiommu"));
        assert!(!iommu(&groups, &without).works);
        write("noiommu", "N\n");
        assert!(!iommu(&groups, &without).works);
        write("noiommu", "Y\n");
        let check = iommu(&groups, &without);
        assert!(check.works && check.mend.is_none(), "who did as was said is told so: {}", check.found);
        write("groups/0/type", "DMA\n");
        assert_eq!(iommu(&groups, &root.path().join("none")).found, "1 groups");

        assert!(!vfio(&root.path().join("vfio")).works);
        write("vfio/new_id", "");
        assert_eq!(vfio(&root.path().join("vfio")).found, "loaded, has no device");
        write("vfio/0000:00:06.0/class", "");
        assert_eq!(vfio(&root.path().join("vfio")).found, "loaded, has 0000:00:06.0");

        write("net/eth7/operstate", "up\n");
        write("net/eth7/mtu", "9001\n");
        write("net/eth7/device/numa_node", "-1\n");
        for queue in ["rx-0", "rx-1", "tx-0"] {
            write(&format!("net/eth7/queues/{queue}/x"), "");
        }
        let found = interfaces(&root.path().join("net"));
        let one = &found[0];
        assert_eq!((found.len(), one.name.as_str(), one.mtu, one.rx_queues, one.tx_queues), (1, "eth7", 9001, 2, 1));
        assert_eq!((one.numa_node, one.driver.as_deref()), (None, None));
    }
}
