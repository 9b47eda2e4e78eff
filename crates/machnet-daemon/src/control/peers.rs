//! Who is at the other end of a connection, as the kernel says.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// A process whose number this one's namespace does not know: that of another container. It may be any.
pub(super) const ELSEWHERE: i32 = 0;

/// User and process.
pub(super) type Who = (u32, i32);

/// What the daemon's configuration is held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credentials {
    /// Or [`ELSEWHERE`].
    pub(super) process: i32,
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Credentials {
    /// Of who connected. (rustix's type has no word for a process elsewhere.)
    pub(super) fn of(caller: &OwnedFd) -> io::Result<Self> {
        let peer = getsockopt(caller, PeerCredentials)?;
        Ok(Self { process: peer.pid(), user: peer.uid(), group: peer.gid() })
    }

    pub(super) const fn who(&self) -> Who {
        (self.user, self.process)
    }
}

/// Who connected. Whose credentials cannot be had is let in by nobody.
pub(super) fn who(caller: &OwnedFd) -> Who {
    Credentials::of(caller).map_or((u32::MAX, -1), |peer| peer.who())
}
