//! Ports of virtual devices, without huge pages, as one types them.

use crate::process::{Running, machnet};

/// A word that other processes do not have in the names of their sockets.
fn word() -> String {
    format!("machnet-cli-{}", std::process::id())
}

#[test]
fn a_port_that_opens_is_described() {
    let url = format!("dpdk://vdev:net_memif0,role=server,socket=/{}-doctor?huge=no", word());
    let report = machnet(&format!("doctor --json {url}")).json();
    let port = &report["port"];
    assert_eq!((&port["driver"], &port["tier"], &port["mtu"]), (&"net_memif".into(), &"least".into(), &1500.into()));
    assert_eq!((&port["queues"], &report["port_error"]), (&1.into(), &serde_json::Value::Null));
    let text = machnet(&format!("doctor {url}"));
    assert!(text.status.success() && text.out.contains("(net_memif, "), "{text:?}");
}

/// A machine on which a port does not open is why one asks.
#[test]
fn of_a_port_that_does_not_open_the_rest_is_told_too() {
    let url = "dpdk://vdev:net_memif0,role=emperor?huge=no";
    let ended = machnet(&format!("doctor --json {url}"));
    let report = ended.json();
    assert_eq!((ended.status.code(), &report["port"]), (Some(1), &serde_json::Value::Null));
    assert!(report["port_error"].as_str().unwrap().contains("Unknown role: emperor"), "{report}");
    assert_eq!(report["checks"][0]["works"], true);
    let text = machnet(&format!("doctor {url}"));
    assert!(text.status.code() == Some(1) && text.out.starts_with("yes UDP"), "{text:?}");
    assert!(text.out.contains("Unknown role: emperor"), "{text:?}");
}

#[test]
fn a_server_elsewhere_and_one_that_is_not_said() {
    let url = format!("dpdk://vdev:net_memif0,role=server,socket=/{}-own?huge=no&ip=10.9.0.1/24", word());
    let refused = machnet(&format!("perf server {url}&server=10.9.0.9:7000"));
    refused.refused(1, &["server=10.9.0.9:7000: a server listens at one of its host's own addresses, [10.9.0.1]"]);
    machnet(&format!("perf client {url}")).refused(1, &["add its address, such as server=10.0.0.1:7000"]);
}

/// Such a link never comes up, and only the peer's refusal says why.
#[test]
fn another_number_of_queues_than_the_peers() {
    let device = |role| format!("dpdk://vdev:net_memif0,role={role},socket=/{}-queues?huge=no", word());
    let mut server = Running::start(&format!("perf server {}&ip=10.9.0.1/24", device("server")));
    assert!(server.line().starts_with("listening on"));
    let client = format!("{}&ip=10.9.0.2/24&engines=2&server=10.9.0.1:7000", device("client"));
    let ended = machnet(&format!("perf client {client} --count 10"));
    let mend = "another number of queue pairs, or secret=: give both sides the same (queues=)";
    ended.refused(1, &[mend]);
    assert_eq!(ended.err.matches(mend).count(), 1, "{ended:?}");
}

/// Both wires that need neither a kernel nor rights, the one that listens first.
#[test]
fn two_processes_are_measured() {
    let socket = std::env::temp_dir().join(word());
    let path = socket.display();
    let wires = [
        (format!("net_memif0,role=server,socket=/{path}"), format!("net_memif0,role=client,socket=/{path}")),
        (format!("net_vhost0,iface={path}"), format!("net_virtio_user0,path={path}")),
    ];
    for (here, there) in wires {
        let mut server = Running::start(&format!("perf server dpdk://vdev:{here}?huge=no&ip=10.9.0.1/24"));
        let line = server.line();
        assert!(line.starts_with("listening on dpdk://") && line.ends_with("&server=10.9.0.1:7000"), "{line}");
        let client = format!("dpdk://vdev:{there}?huge=no&ip=10.9.0.2/24&server=10.9.0.1:7000");
        for size in ["1KiB", "20KiB"] {
            let ended = machnet(&format!("perf client {client} --verify --json --warmup 10 --count 100 --size {size}"));
            let report = ended.json();
            assert_eq!((&report["operations"], &report["errors"]), (&100.into(), &0.into()), "{ended:?}");
        }
    }
    let _ = std::fs::remove_file(&socket);
}
