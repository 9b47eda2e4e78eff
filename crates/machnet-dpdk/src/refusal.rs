//! Why a device cannot be had, and what would mend that. DPDK and its drivers return a number, often -1; the reason is in what they log,
//! or is known to the kernel.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use machnet_core::net::MacAddr;
use rustix::io::Errno;

use crate::ffi::Unsaid;

/// What is logged, and what it means. The first one counts.
const SAID: [(&str, ErrorKind, &str); 9] = [
    (
        "Address already in use",
        ErrorKind::AddrInUse,
        "another process serves its socket, or this one did (memif closes it at the process's end, unless socket-abstract=no): take another path",
    ),
    (
        "larger than combined queue count",
        ErrorKind::InvalidInput,
        "its interface has fewer queues than engines are wanted: ethtool -L INTERFACE combined N, or fewer engines",
    ),
    ("Permission denied", ErrorKind::PermissionDenied, NO_RIGHT),
    // memif's, and virtio-user's.
    ("Failed to connect socket", ErrorKind::ConnectionRefused, NOBODY_SERVES),
    ("connect error", ErrorKind::ConnectionRefused, NOBODY_SERVES),
    ("failed to parse device", ErrorKind::NotFound, NO_DRIVER),
    (
        "Could not open AF_PACKET socket",
        ErrorKind::PermissionDenied,
        "AF_PACKET takes root, or the capability to use it: setcap cap_net_raw+ep PROGRAM",
    ),
    (
        "Failed to create umem",
        ErrorKind::PermissionDenied,
        "AF_XDP takes root, and memory that may be locked (ulimit -l)",
    ),
    ("No such file or directory", ErrorKind::NotFound, "a file or a directory that its arguments name is not there"),
];

const NOBODY_SERVES: &str = "nobody serves its socket yet: start the server first";
const NO_DRIVER: &str = "no driver for it is installed: machnet doctor lists those that are";
const NO_RIGHT: &str = "it takes root, or the right to its files";

/// What DPDK's error means; `None` if it is not DPDK's, or nothing more is known.
pub(crate) fn reason(error: &io::Error, said: &[String]) -> Option<(ErrorKind, &'static str)> {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    if number.is_none() && !error.get_ref().is_some_and(|inner| inner.is::<Unsaid>()) {
        return None;
    }
    let heard = SAID.iter().find(|(part, ..)| said.iter().any(|line| line.contains(part)));
    heard.map(|&(_, kind, mend)| (kind, mend)).or(match number {
        Some(Errno::NODEV | Errno::NOENT) => Some((ErrorKind::NotFound, NO_DRIVER)),
        Some(Errno::PERM | Errno::ACCESS) => Some((ErrorKind::PermissionDenied, NO_RIGHT)),
        _ => None,
    })
}

/// The kernel's drivers that leave a device to DPDK, or share it.
const LEAVE: [&str; 7] = ["vfio-pci", "uio_pci_generic", "igb_uio", "uio_hv_generic", "mlx4_core", "mlx5_core", "mana"];

/// What the kernel has, by its files.
pub(crate) struct Kernels {
    /// `/sys`.
    root: PathBuf,
}

impl Kernels {
    /// This machine's.
    pub(crate) fn here() -> Self {
        Self { root: PathBuf::from("/sys") }
    }

    /// What is in the way of a PCI device; `None` if nothing is that the kernel knows.
    pub(crate) fn of_pci(&self, address: &str) -> Option<io::Error> {
        let device = self.root.join("bus/pci/devices").join(address);
        if !device.exists() {
            let text = format!("there is no PCI device {address}; {}", self.list());
            return Some(io::Error::new(ErrorKind::NotFound, text));
        }
        let give = format!("`modprobe vfio-pci; dpdk-devbind.py -b vfio-pci {address}`");
        let Some(driver) = driver(&device) else {
            let text = format!("no driver has {address}, also none that would leave it to DPDK: {give}");
            return Some(io::Error::new(ErrorKind::NotFound, text));
        };
        if LEAVE.contains(&driver.as_str()) {
            return None;
        }
        let (as_, or) = match interfaces(&device).first() {
            Some(name) => {
                let or = format!(", and ends {name}; vdev:net_af_packet0,iface={name} does without");
                (format!(" as {name}"), or)
            }
            None => Default::default(),
        };
        let text = format!("the kernel has {address}{as_}, by its driver {driver}: {give} gives it to DPDK{or}");
        Some(io::Error::new(ErrorKind::AddrInUse, text))
    }

    /// What is in the way of the device with this Ethernet address.
    pub(crate) fn of_mac(&self, mac: MacAddr) -> Option<io::Error> {
        let class = self.root.join("class/net");
        let has = |name: &String| read(&class.join(name).join("address")) == mac.to_string();
        // Bridges and the like have the addresses of devices.
        let on_pci = |name: &String| {
            let device = fs::canonicalize(class.join(name).join("device")).ok()?;
            let pci = self.root.join("bus/pci/devices");
            device
                .ancestors()
                .find_map(|path| path.file_name().filter(|name| pci.join(name).exists()))?
                .to_str()
                .map(str::to_owned)
        };
        names(&class).iter().filter(|name| has(name)).find_map(on_pci).and_then(|address| self.of_pci(&address))
    }

    /// The network devices on PCI, for who named another.
    fn list(&self) -> String {
        let devices = self.root.join("bus/pci/devices");
        let mut found = names(&devices);
        found.retain(|address| read(&devices.join(address).join("class")).starts_with("0x02"));
        if found.is_empty() {
            return "there is none for networks".to_owned();
        }
        format!("those for networks are {}", found.join(", "))
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn driver(device: &Path) -> Option<String> {
    Some(fs::canonicalize(device.join("driver")).ok()?.file_name()?.to_str()?.to_owned())
}

/// A device's interfaces, or those of the one behind it (virtio).
fn interfaces(device: &Path) -> Vec<String> {
    let behind = names(device).into_iter().map(|name| device.join(name));
    std::iter::once(device.to_owned()).chain(behind).flat_map(|path| names(&path.join("net"))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_logged_says_more_than_a_number() {
        let unsaid = || io::Error::other(Unsaid);
        let said = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        let reason = |error: &io::Error, lines: &[&str]| reason(error, &said(lines));
        assert_eq!(reason(&unsaid(), &["memif_set_role(): Unknown role: emperor."]), None);
        let found = reason(&unsaid(), &["vhost_user_setup(): connect error, No such file or directory"]).unwrap();
        assert_eq!(found, (ErrorKind::ConnectionRefused, NOBODY_SERVES));
        let found = reason(&unsaid(), &["failed to bind: Permission denied; remove it and try again", "x"]).unwrap();
        assert_eq!(found.0, ErrorKind::PermissionDenied);
        let found = reason(&io::Error::from_raw_os_error(14), &["EAL: failed to parse device \"x\""]).unwrap();
        assert_eq!(found.0, ErrorKind::NotFound);
        assert_eq!(reason(&io::Error::from_raw_os_error(19), &[]).unwrap().0, ErrorKind::NotFound);
        let ours = io::Error::new(ErrorKind::InvalidInput, "an MTU of 9000");
        assert_eq!(reason(&ours, &["Permission denied"]), None, "whoever says it says why");
    }

    /// A machine with two NICs and a bridge.
    fn machine() -> (tempfile::TempDir, Kernels) {
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        let write = |file: &str, text: &str| {
            fs::create_dir_all(path(file).parent().unwrap()).unwrap();
            fs::write(path(file), text).unwrap();
        };
        for driver in ["virtio-pci", "vfio-pci"] {
            fs::create_dir_all(path("bus/pci/drivers").join(driver)).unwrap();
        }
        write("bus/pci/devices/0000:00:03.0/class", "0x020000\n");
        write("bus/pci/devices/0000:00:03.0/virtio2/net/eth0/address", "02:fc:00:00:00:01\n");
        write("bus/pci/devices/0000:00:04.0/class", "0x020000\n");
        write("bus/pci/devices/0000:00:05.0/class", "0x018000\n");
        write("class/net/br0/address", "02:fc:00:00:00:01\n");
        let device = |name: &str| path("bus/pci/devices").join(name);
        symlink(path("bus/pci/drivers/virtio-pci"), device("0000:00:03.0").join("driver")).unwrap();
        symlink(path("bus/pci/drivers/vfio-pci"), device("0000:00:04.0").join("driver")).unwrap();
        let eth0 = device("0000:00:03.0").join("virtio2/net/eth0");
        symlink(device("0000:00:03.0").join("virtio2"), eth0.join("device")).unwrap();
        symlink(eth0, path("class/net/eth0")).unwrap();
        let kernels = Kernels { root: root.path().to_owned() };
        (root, kernels)
    }

    #[test]
    fn a_device_that_the_kernel_has_is_named_with_what_gives_it_away() {
        let (_root, kernels) = machine();
        let by_address = kernels.of_pci("0000:00:03.0").unwrap();
        let mac = |text: &str| kernels.of_mac(text.parse().unwrap());
        for error in [&by_address, &mac("02:fc:00:00:00:01").unwrap()] {
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{text}");
            for part in ["0000:00:03.0 as eth0", "virtio-pci", "dpdk-devbind.py -b vfio-pci 0000:00:03.0"] {
                assert!(text.contains(part), "{text}");
            }
        }
        assert!(mac("02:fc:00:00:00:02").is_none());
        assert!(kernels.of_pci("0000:00:04.0").is_none(), "it is DPDK's");
        let unbound = kernels.of_pci("0000:00:05.0").unwrap().to_string();
        assert!(unbound.contains("no driver has") && unbound.contains("-b vfio-pci 0000:00:05.0"), "{unbound}");
        let none = kernels.of_pci("0000:00:09.0").unwrap();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        assert_eq!(
            none.to_string(),
            "there is no PCI device 0000:00:09.0; those for networks are 0000:00:03.0, 0000:00:04.0"
        );
    }
}
