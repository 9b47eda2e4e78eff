//! A file descriptor that a tokio runtime watches: the one place of the project that needs `AsyncFd`, whose safe
//! constructors are deprecated.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owned file descriptor, registered with the tokio runtime it was made in for becoming readable.
///
/// Registration is edge-triggered: [`ReadableFd::poll_readable`] registers the task, and a descriptor that was readable
/// before and still is causes no further wake-up. So whoever is about to sleep looks at the descriptor itself once more.
#[derive(Debug)]
pub struct ReadableFd {
    fd: AsyncFd<OwnedFd>,
}

impl ReadableFd {
    /// Registers `fd` with the current runtime.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and in one without IO, as tokio's own sockets do.
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open and the same until it is dropped. It is dropped by the `AsyncFd`, and no reference
        // to it that could exchange it is given out.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self { fd: fd.map_err(io::Error::from)? })
    }

    /// Ready, once, if an edge was seen since the last call; else the task of `cx` is woken by the next.
    ///
    /// # Errors
    /// The runtime is being dropped.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fd.poll_read_ready(cx).map_ok(|mut guard| guard.clear_ready())
    }
}

impl AsFd for ReadableFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}
