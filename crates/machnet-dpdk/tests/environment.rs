//! DPDK's environment, which is started once in each process: so each of these has processes of its own, this binary once
//! more.
#![cfg(feature = "dpdk")]

use std::io::{BufRead, BufReader};
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
        refuses(&format!("vdev:net_null0?ip=10.0.0.1/24&huge=no&cores={cores}"), "InvalidInput", "names no cores");
    }
}

#[test]
fn devices_that_are_not_there() {
    let pci = says("0000:ff:1f.7?ip=10.0.0.1/24&huge=no");
    assert!(pci.starts_with("NotFound") && pci.contains("vfio-pci"), "{pci}");
    refuses("mac:02:00:00:00:00:77?ip=10.0.0.1/24&huge=no", "NotFound", "no port has the address 02:00:00:00:00:77");
    refuses("vdev:net_af_packet0,iface=nosuch9?ip=10.0.0.1/24&huge=no", "", "nosuch9");
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
}
