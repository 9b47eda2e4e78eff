//! DPDK's environment, which is started once in each process: so each of these has processes of its own, this binary once
//! more.
#![cfg(feature = "dpdk")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use machnet_dpdk::DpdkUrl;

const URL: &str = "MACHNET_DPDK_TEST_URL";
const STAY: &str = "MACHNET_DPDK_TEST_STAY";

/// Not a test: what a child does. It says `open` or `kind: error`.
#[test]
#[allow(clippy::print_stdout, reason = "how a child talks to its parent")]
fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    match url.parse::<DpdkUrl>().unwrap().open() {
        Ok(_host) => {
            println!("\n@ open");
            if std::env::var(STAY).is_ok() {
                std::thread::sleep(Duration::from_secs(60));
            }
        }
        Err(error) => println!("\n@ {:?}: {}", error.kind(), error.to_string().replace('\n', " ")),
    }
}

fn command(rest: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(URL, format!("dpdk://{rest}"));
    command
}

/// This program where everybody may run it.
struct Program(PathBuf);

impl Program {
    fn for_everybody() -> Self {
        let path = std::env::temp_dir().join(format!("machnet-environment-{}", std::process::id()));
        std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        Self(path)
    }

    fn as_nobody(&self, rest: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.args(["--exact", "child", "--nocapture"]).env(URL, format!("dpdk://{rest}"));
        command.current_dir("/").uid(65534).gid(65534);
        command
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a process says that opens the port.
fn says(rest: &str) -> String {
    said(&command(rest).output().unwrap())
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("@ "));
    line.unwrap_or_else(|| panic!("nothing said: {text}{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

fn refuses(rest: &str, kind: &str, part: &str) {
    let said = says(rest);
    assert!(said.starts_with(kind) && said.contains(part), "{rest}: {said}");
}

#[test]
fn a_port_opens_without_huge_pages() {
    assert_eq!(says("vdev:net_null0?ip=10.0.0.1/24&huge=no"), "open");
    assert_eq!(says("vdev:net_null0?ip=10.0.0.1/24&huge=no&memory=128&cores=0&frames=1024&descriptors=64"), "open");
}

#[test]
fn huge_pages_that_are_not_there_are_named_with_the_mend() {
    let free = |size: std::fs::DirEntry| std::fs::read_to_string(size.path().join("free_hugepages")).ok();
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    if sizes.filter_map(free).any(|count| count.trim() != "0") {
        assert_eq!(says("vdev:net_null0?ip=10.0.0.1/24&huge=yes"), "open", "this machine has some");
    } else {
        refuses("vdev:net_null0?ip=10.0.0.1/24&huge=yes", "OutOfMemory", "nr_hugepages");
    }
}

#[test]
fn cores_that_are_not_there() {
    for cores in ["4000", "x", "1-"] {
        let output = command(&format!("vdev:net_null0?ip=10.0.0.1/24&huge=no&cores={cores}")).output().unwrap();
        let said = said(&output);
        assert!(said.starts_with("InvalidInput") && said.contains("names no cores"), "{said}");
        let all = String::from_utf8_lossy(&output.stdout);
        assert!(!all.contains("Usage"), "DPDK explains its options: {all}");
    }
}

#[test]
fn plugins_and_devices_to_allow_that_are_not_there() {
    let url = "vdev:net_null0?ip=10.0.0.1/24&huge=no";
    refuses(&format!("{url}&plugin=/nowhere.so"), "NotFound", "there is no such plugin");
    refuses(&format!("{url}&allow=zz"), "InvalidInput", "allow= names no device");
}

#[test]
fn devices_that_are_not_there() {
    refuses("0000:ff:1f.7?ip=10.0.0.1/24&huge=no", "NotFound", "there is no PCI device 0000:ff:1f.7");
    refuses("mac:02:00:00:00:00:77?ip=10.0.0.1/24&huge=no", "NotFound", "no port has the address 02:00:00:00:00:77");
    for driver in ["net_af_packet", "net_af_xdp"] {
        let url = format!("vdev:{driver}0,iface=nosuch9?ip=10.0.0.1/24&huge=no");
        refuses(&url, "NotFound", "there is no interface nosuch9: there are ");
    }
}

/// The network namespace says what there is, not `/sys`, which may be another's.
#[test]
fn interfaces_are_those_of_the_network_namespace() {
    let inside = |rest: &str| {
        let mut command = Command::new("unshare");
        if !rustix::process::getuid().is_root() {
            command.arg("--map-root-user");
        }
        let make = "ip link add machnet-v0 mtu 1400 type veth peer name machnet-v1 && exec \"$@\"";
        command.args(["--net", "sh", "-c", make, "sh"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).env(URL, format!("dpdk://vdev:net_af_packet0,iface={rest}"));
        said(&command.output().unwrap())
    };
    let url = |name: &str| format!("{name}?ip=10.0.0.1/24&huge=no");
    assert_eq!(inside(&url("machnet-v0")), "open");
    let missing = inside(&url("machnet-v7"));
    assert!(missing.contains("there are lo, machnet-v0, machnet-v1"), "{missing}");
    let too_long = inside(&format!("{}&mtu=1450", url("machnet-v0")));
    let mend = "machnet-v0 takes at most 1400: ip link set dev machnet-v0 mtu 1450";
    assert!(too_long.starts_with("InvalidInput") && too_long.contains(mend), "{too_long}");
}

/// No NIC that carries somebody's traffic is taken away: a machine in whose PCI devices the kernel has none for a network is left out.
#[test]
fn devices_that_the_kernel_has() {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    for interface in entries {
        let device = std::fs::canonicalize(interface.path().join("device")).unwrap_or_default();
        let names = device.ancestors().filter_map(|path| path.file_name()?.to_str());
        let Some(pci) = { names }.find(|name| Path::new("/sys/bus/pci/devices").join(name).exists()) else { continue };
        let driver = std::fs::canonicalize(format!("/sys/bus/pci/devices/{pci}/driver")).unwrap();
        if ["mlx4_core", "mlx5_core", "mana"].iter().any(|shared| driver.ends_with(shared)) {
            continue;
        }
        let mac = std::fs::read_to_string(interface.path().join("address")).unwrap();
        for device in [pci.to_owned(), format!("mac:{}", mac.trim())] {
            let url = format!("{device}?ip=10.0.0.1/24&huge=no");
            refuses(&url, "AddrInUse", &format!("dpdk-devbind.py -b vfio-pci {pci}"));
        }
    }
}

/// A driver returns -1 for whatever it does not like, which is not the number of a missing right.
#[test]
fn what_a_driver_does_not_like_is_not_taken_for_a_missing_right() {
    let url = |device: &str| format!("vdev:{device}?ip=10.0.0.1/24&huge=no");
    refuses(&url("net_memif0,role=emperor"), "Other", "Unknown role: emperor");
    refuses(&url("net_memif0,roll=server"), "InvalidInput", "takes no argument \"roll\"");
    refuses(&url("net_virtio_user0,path=/nowhere/s"), "ConnectionRefused", "start the server first");
    refuses(&url("net_virtio_user0"), "InvalidInput", "needs path=");
    refuses(&url("net_vhost0"), "InvalidInput", "needs iface=");
    refuses(&url("net_vhost0,iface=/nowhere/s"), "NotFound", "a directory that its arguments name is not there");
}

/// The rights of nobody, in this process's stead.
#[test]
fn who_has_no_right_is_told_so() {
    if !rustix::process::getuid().is_root() {
        refuses("vdev:net_af_packet0,iface=lo?ip=10.0.0.1/24&huge=no", "PermissionDenied", "cap_net_raw");
        return;
    }
    let program = Program::for_everybody();
    for (device, part) in [
        ("net_af_packet0,iface=lo", "setcap cap_net_raw+ep"),
        ("net_af_xdp0,iface=lo", "AF_XDP takes root"),
        ("net_vhost0,iface=/etc/machnet-s", "the right to its files"),
    ] {
        let said = said(&program.as_nobody(&format!("vdev:{device}?ip=10.0.0.1/24&huge=no")).output().unwrap());
        assert!(said.starts_with("PermissionDenied") && said.contains(part), "{device}: {said}");
    }
    let memif =
        format!("vdev:net_memif0,role=server,socket=/machnet-nobody-{}?ip=10.0.0.1/24&huge=no", std::process::id());
    let said = said(&program.as_nobody(&memif).output().unwrap());
    assert_eq!(said, "open", "memif takes no right");
}

/// Each process has a directory for as long as it starts: thousands of them are memory, too.
#[test]
fn no_directory_is_left_behind() {
    let url = "vdev:net_null0?ip=10.0.0.1/24&huge=no";
    for url in [url.to_owned(), format!("{url}&plugin=/nowhere.so")] {
        let child = command(&url).stdout(Stdio::piped()).spawn().unwrap();
        let name = format!("machnet-{}", child.id());
        let output = child.wait_with_output().unwrap();
        said(&output);
        let places = [Some("/var/run".to_owned()), std::env::var("XDG_RUNTIME_DIR").ok(), Some("/tmp".to_owned())];
        for place in places.into_iter().flatten() {
            let left = Path::new(&place).join("dpdk").join(&name);
            assert!(!left.exists(), "{} is left", left.display());
        }
    }
}

#[test]
fn addresses_that_no_host_can_have() {
    refuses("vdev:net_null0?ip=10.0.0.0/24&huge=no", "InvalidInput", "10.0.0.0");
    refuses("vdev:net_null0?ip=10.0.0.1/24&mtu=1000&huge=no", "InvalidInput", "MTU is 1000");
}

#[test]
fn two_processes_with_one_prefix_and_the_prefix_of_one_that_was_killed() {
    let url = format!("vdev:net_null0?ip=10.0.0.1/24&huge=no&prefix=machnet-test-{}", std::process::id());
    let mut first = command(&url).env(STAY, "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.find(|line| line.starts_with("@ ")).as_deref(), Some("@ open"));
    let refused = says(&url);
    assert!(refused.starts_with("AddrInUse") && refused.contains("each needs its own"), "{refused}");
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(says(&url), "open", "nothing stays locked");
    // What a prefix names is kept for who comes next, and nobody will.
    let _ = std::fs::remove_dir_all(format!("/var/run/dpdk/machnet-test-{}", std::process::id()));
}
