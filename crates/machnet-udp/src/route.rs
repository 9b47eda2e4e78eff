//! Whether the kernel knows a way.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// Any port but 0: a way does not depend on it.
const DISCARD: u16 = 9;

/// False if the kernel would refuse each datagram from `home` to `remote`: no route, one that forbids, or a source that may not
/// go there (loopback to another host). Nothing is sent: a UDP socket that connects only looks for its route.
///
/// A socket is made for each question: the source address that the first answer chose would stay with it.
pub(crate) fn leads(home: IpAddr, remote: IpAddr) -> bool {
    // Which link it is on is not in the address.
    if let IpAddr::V6(v6) = remote
        && (v6.is_unicast_link_local() || v6.is_multicast())
    {
        return true;
    }
    match ask(SocketAddr::new(home, 0), SocketAddr::new(remote, DISCARD)) {
        Ok(()) => true,
        // Of others (no descriptor is left, no port is free) the datagrams may know nothing.
        Err(error) => {
            !matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL))
        }
    }
}

fn ask(home: SocketAddr, remote: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(home), Type::DGRAM, Some(Protocol::UDP))?;
    if home.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if !home.ip().is_unspecified() {
        socket.bind(&home.into())?;
    }
    socket.connect(&remote.into())
}

#[cfg(test)]
mod tests {
    fn leads(home: &str, remote: &str) -> bool {
        super::leads(home.parse().unwrap(), remote.parse().unwrap())
    }

    #[test]
    fn loopback_leads_to_this_host_only() {
        for home in ["127.0.0.1", "0.0.0.0"] {
            assert!(leads(home, "127.0.0.1") && leads(home, "127.3.2.1"), "{home}");
        }
        for home in ["::1", "::"] {
            assert!(leads(home, "::1"), "{home}");
        }
        assert!(!leads("127.0.0.1", "203.0.113.1"), "a loopback source does not leave the host");
        assert!(!leads("127.0.0.1", "255.255.255.255"), "nobody broadcasts unasked");
    }

    #[test]
    fn an_address_that_does_not_say_its_link_may_be_there() {
        assert!(leads("::1", "fe80::1") && leads("::1", "ff02::1"));
    }
}
