//! What cannot be is said, with what would be right; and nothing stays behind.

use std::io::ErrorKind;

use super::*;

fn refused(port: &PortBuilder, kind: ErrorKind, part: &str) {
    let error = port.open().unwrap_err();
    assert!(error.to_string().contains(part), "{error}");
    assert_eq!(error.kind(), kind, "{error}");
}

#[test]
fn settings_outside_their_limits() {
    let port = || vdev("net_null7", "");
    refused(&port().frames(63), ErrorKind::InvalidInput, "64 to 1000000");
    refused(&port().frames(1_000_001), ErrorKind::InvalidInput, "64 to 1000000");
    refused(&port().descriptors(0), ErrorKind::InvalidInput, "0 descriptors");
    refused(&port().mtu(16_001), ErrorKind::InvalidInput, "at most 16000");
}

#[test]
fn engines_and_queues_that_cannot_be() {
    let arguments = format!("role=server,socket=/machnet-engines-{}", std::process::id());
    let port = || vdev(&format!("net_memif{}", number()), &arguments);
    for engines in [0, 65] {
        refused(
            &port().engines(engines),
            ErrorKind::InvalidInput,
            &format!("{engines} engines: there must be 1 to 64"),
        );
    }
    refused(&port().engines(2).queues(1), ErrorKind::InvalidInput, "each needs one, so at least 2");
    refused(&port().queues(0), ErrorKind::InvalidInput, "each needs one, so at least 1");
    refused(&port().queues(256), ErrorKind::InvalidInput, "256 queue pairs, for engines=1: it has 255");
    let path = std::env::temp_dir().join(format!("machnet-given-{}", std::process::id()));
    let given = format!("iface={},queues=1", path.display());
    let host = vdev(&format!("net_vhost{}", number()), &given);
    refused(&host.engines(3), ErrorKind::InvalidInput, "say queues=3, or leave it out");
}

#[test]
fn a_port_that_serves_another_number_of_engines_than_it_was_opened_for() {
    let socket = || format!("role=server,socket=/machnet-split-{}-{}", std::process::id(), number());
    let port = || vdev(&format!("net_memif{}", number()), &socket());
    for (opened, wanted, said) in
        [(1, 2, "for one engine and is to serve 2"), (3, 1, "for 3 engines"), (2, 3, "engines=3")]
    {
        let error = port().engines(opened).open().unwrap().split(wanted).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(said), "{error}");
    }
    assert_eq!(port().engines(2).open().unwrap().split(2).unwrap().len(), 2);
}

#[test]
fn an_mtu_above_the_ports_and_the_port_is_free_again() {
    let path = std::env::temp_dir().join(format!("machnet-mtu-{}", std::process::id()));
    let arguments = format!("role=server,socket-abstract=no,socket={}", path.display());
    let port = vdev(&format!("net_memif{}", number()), &arguments);
    refused(&port.clone().mtu(2035), ErrorKind::InvalidInput, "the port takes at most 2034");
    assert_eq!(port.clone().mtu(2034).open().unwrap().facts().mtu, 2034);
    assert_eq!(port.open().unwrap().facts().mtu, 1500);
    assert!(!path.exists(), "no socket is left");
}

/// What nobody serves at a path of that name is nobody's to remove; and memif's sockets are no files, unless they are told so.
#[test]
fn a_file_where_a_socket_is_to_be_stays() {
    let path = std::env::temp_dir().join(format!("machnet-precious-{}", std::process::id()));
    std::fs::write(&path, "precious").unwrap();
    let memif =
        |more: &str| vdev(&format!("net_memif{}", number()), &format!("role=server,socket={}{more}", path.display()));
    drop(memif("").open().unwrap());
    refused(&memif(",socket-abstract=no"), ErrorKind::AddrInUse, "is there, and is no socket: take another path");
    let vhost = vdev(&format!("net_vhost{}", number()), &format!("iface={}", path.display()));
    refused(&vhost, ErrorKind::AddrInUse, "is there, and is no socket: take another path");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_memif_socket_that_somebody_serves() {
    let socket = format!("role=server,socket=/machnet-served-{}", std::process::id());
    let _first = vdev(&format!("net_memif{}", number()), &socket).open().unwrap();
    let again = vdev(&format!("net_memif{}", number()), &socket).open();
    // In one process a socket serves several devices, with ids of their own.
    assert!(again.is_err_and(|error| error.to_string().contains("id")));
}

#[test]
fn a_memif_socket_that_nobody_serves() {
    let arguments = format!("role=client,socket=/machnet-nobody-{}", std::process::id());
    refused(
        &vdev(&format!("net_memif{}", number()), &arguments),
        ErrorKind::ConnectionRefused,
        "start the server first",
    );
}

#[test]
fn unknown_devices() {
    refused(&vdev("net_nonsense0", ""), ErrorKind::NotFound, "no driver for it is installed");
    let mac = Port::builder("mac:02:00:00:00:00:01".parse().unwrap()).eal(eal());
    let error = mac.open().unwrap_err();
    // This process's DPDK was started without PCI by another test, or by this one with.
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists), "{error}");
}

#[test]
fn arguments_that_the_driver_does_not_take() {
    let port = vdev(&format!("net_memif{}", number()), "role=emperor");
    let error = port.open().unwrap_err();
    assert!(error.to_string().contains("role"), "{error}");
}

#[test]
fn a_device_that_is_open() {
    let name = format!("net_null{}", 100 + number());
    let first = vdev(&name, "").open().unwrap();
    refused(&vdev(&name, ""), ErrorKind::AddrInUse, "is open in this process already");
    drop(first);
    vdev(&name, "").open().unwrap();
}

#[test]
fn another_environment() {
    eal().start().unwrap();
    let error = eal().cores("0").start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("--no-huge"), "{error}");
}

#[test]
fn a_socket_that_somebody_serves_and_one_that_nobody_does() {
    let path = std::env::temp_dir().join(format!("machnet-vhost-{}", std::process::id()));
    let port = || vdev(&format!("net_vhost{}", number()), &format!("iface={}", path.display()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    refused(&port(), ErrorKind::AddrInUse, "in use by another process");
    drop(listener);
    // As a killed process leaves it.
    assert!(path.exists());
    drop(port().open().unwrap());
    let _ = std::fs::remove_file(&path);
}
