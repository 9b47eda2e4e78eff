//! The sockets' error queues: what ICMP says about datagrams of ours.
//!
//! An ICMP error leaves two traces on a socket: an entry in its error queue, and an error that the *next* send or
//! receive returns instead of doing its work. So whoever gets an error drains the queue (else the socket stays readable
//! for ever) and repeats the call.
//!
//! The contents are untrusted, and the host may forge them at will: entries are hints, and few are kept.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use machnet_core::Unreachable;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, SockaddrStorage, recvmsg};

/// How many reports wait for the engine; more are forgotten, as ICMP itself is limited in rate.
const KEPT: usize = 64;

/// How many entries one visit reads at most, so that a flood of ICMP cannot hold the engine.
const PER_VISIT: usize = 256;

/// Room for the extended error with its address, and for the packet information that comes with it.
const CONTROL: usize = 512;

/// ICMPv4 destination unreachable, port unreachable (RFC 792).
const PORT_UNREACHABLE_V4: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP, 3, 3);

/// ICMPv6 destination unreachable, port unreachable (RFC 4443).
const PORT_UNREACHABLE_V6: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP6, 1, 4);

/// What draining an error queue found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Drained {
    /// Entries that came from the network: as many calls may have failed for them.
    pub(crate) remote: usize,
    /// More may be left.
    pub(crate) more: bool,
}

/// Reads error queues and keeps what matters until the engine asks.
#[derive(Debug)]
pub(crate) struct ErrorReader {
    kept: VecDeque<Unreachable>,
    control: Vec<u8>,
}

impl ErrorReader {
    pub(crate) fn new() -> Self {
        Self { kept: VecDeque::with_capacity(KEPT), control: vec![0; CONTROL + align_of::<libc::cmsghdr>()] }
    }

    pub(crate) fn next(&mut self) -> Option<Unreachable> {
        self.kept.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Reads the error queue of `socket` to its end, or as far as one visit goes.
    pub(crate) fn drain(&mut self, socket: &UdpSocket) -> Drained {
        let mut drained = Drained::default();
        // Control messages are read in place, so the buffer must be aligned as they are.
        let start = self.control.as_ptr().align_offset(align_of::<libc::cmsghdr>());
        for _ in 0..PER_VISIT {
            let mut quoted = [0; 16];
            let mut payload = [IoSliceMut::new(&mut quoted)];
            let control = &mut self.control[start..start + CONTROL];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let entry = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut payload, Some(control), flags) {
                Ok(message) => Entry::of(&message),
                Err(Errno::EINTR) => continue,
                Err(_) => return drained,
            };
            drained.remote += usize::from(entry.from_network);
            // A router that quotes less than our header tells us nothing.
            if let Some(remote) = entry.unreachable.filter(|_| entry.quoted == quoted.len())
                && self.kept.len() < KEPT
            {
                self.kept.push_back(Unreachable { remote, quoted });
            }
        }
        drained.more = true;
        drained
    }
}

/// One entry of an error queue.
struct Entry {
    from_network: bool,
    /// Where the datagram was going, if its port is unreachable.
    unreachable: Option<SocketAddr>,
    /// Bytes of its payload.
    quoted: usize,
}

impl Entry {
    fn of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Self {
        let error = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|control| match control {
                ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
                _ => None,
            })
        });
        let Some(error) = error else {
            return Self { from_network: true, unreachable: None, quoted: 0 };
        };
        let what = (error.ee_origin, error.ee_type, error.ee_code);
        let destination = message.address.as_ref().and_then(socket_addr);
        Self {
            from_network: error.ee_origin != libc::SO_EE_ORIGIN_LOCAL,
            unreachable: destination.filter(|_| what == PORT_UNREACHABLE_V4 || what == PORT_UNREACHABLE_V6),
            quoted: message.bytes,
        }
    }
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}
