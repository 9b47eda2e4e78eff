//! How a client finds its hub: an abstract UNIX socket, named for the user and the wire.
//!
//! It vanishes with the process that holds it: there is nothing to clean up after a crash. Datagram boundaries are kept
//! (SEQPACKET), and who is at the other end the kernel tells (SO_PEERCRED).

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use machnet_channel::ForeignRegion;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg, send, sendmsg, socket_with,
    sockopt,
};
use rustix::process::geteuid;

use crate::handshake::{Hello, Refusal, Reply, VERSIONS, Welcome};

/// Longest name.
const MAX_NAME: usize = 64;
/// Clients that the kernel keeps while the hub has not looked.
const BACKLOG: i32 = 64;
/// How long to wait before calling again where a hub comes or goes.
const AGAIN: Duration = Duration::from_millis(1);

/// A wire's name.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shm://{}", self.0)
    }
}

impl Name {
    pub(crate) fn new(text: &str) -> io::Result<Self> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(good) {
            let text = format!(
                "no name for shared memory: \"{}\"; it must be 1 to {MAX_NAME} letters, digits, \"-\", \"_\" and \".\"",
                text.escape_debug()
            );
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(Self(text.to_owned()))
    }

    fn address(&self) -> io::Result<SocketAddrUnix> {
        // With the user, because the names are everybody's: others cannot be in the way by accident.
        let path = format!("machnet-shm/{}/{}", geteuid().as_raw(), self.0);
        Ok(SocketAddrUnix::new_abstract_name(path.as_bytes())?)
    }

    fn error(&self, kind: ErrorKind, text: &str) -> io::Error {
        io::Error::new(kind, format!("{self}: {text}"))
    }

    /// Becomes the hub's socket.
    ///
    /// # Errors
    /// `AddrInUse` if there is a hub.
    pub(crate) fn listen(&self) -> io::Result<OwnedFd> {
        let socket = seqpacket()?;
        bind(&socket, &self.address()?).map_err(|error| match error {
            Errno::ADDRINUSE => self.error(ErrorKind::AddrInUse, "it has a hub already"),
            other => self.error(other.kind(), &format!("cannot bind its socket: {other}")),
        })?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// Attaches to the hub, within `patience`.
    ///
    /// # Errors
    /// `ConnectionRefused` if there is none, `TimedOut` if it does not answer, or why it does not want us.
    pub(crate) fn call(&self, patience: Duration) -> io::Result<Line> {
        let deadline = Instant::now() + patience;
        let socket = seqpacket()?;
        loop {
            match connect(&socket, &self.address()?) {
                Ok(()) => break,
                // The kernel keeps no more callers: the hub is busy.
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(AGAIN),
                Err(Errno::AGAIN) => return Err(self.silent(&socket)),
                Err(Errno::CONNREFUSED) => return Err(self.error(ErrorKind::ConnectionRefused, "it has no hub")),
                Err(other) => return Err(self.error(other.kind(), &format!("cannot connect to its hub: {other}"))),
            }
        }
        if !is_same_user(&socket)? {
            return Err(self.error(ErrorKind::PermissionDenied, "its hub belongs to another user"));
        }
        let gone = |_| self.error(ErrorKind::ConnectionReset, "its hub went away");
        send(&socket, &Hello::ours().emit(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(gone)?;
        if !wait_readable(socket.as_fd(), deadline)? {
            return Err(self.silent(&socket));
        }
        let (reply, region) = receive_reply(&socket).map_err(gone)?;
        if reply.is_empty() {
            return Err(gone(Errno::CONNRESET));
        }
        let nonsense = |text: String| self.error(ErrorKind::InvalidData, &format!("its hub sent {text}"));
        match Reply::parse(&reply).map_err(nonsense)? {
            Reply::Refused { why, versions, clients } => Err(self.refused(why, versions, clients)),
            Reply::Welcome(welcome) => {
                let region = region.ok_or_else(|| nonsense("no memory".to_owned()))?;
                let region = ForeignRegion::open(region, welcome.geometry.bytes())
                    .map_err(|error| self.error(error.kind(), &format!("its hub sent {error}")))?;
                Ok(Line { socket, welcome, region })
            }
        }
    }

    fn refused(&self, why: Refusal, (oldest, newest): (u16, u16), clients: u32) -> io::Error {
        match why {
            Refusal::Version => {
                let (from, to) = VERSIONS;
                let text = format!("its hub speaks versions {oldest} to {newest}, this side {from} to {to}");
                self.error(ErrorKind::Unsupported, &text)
            }
            Refusal::Full => {
                self.error(ErrorKind::ResourceBusy, &format!("its hub has all the clients it takes: {clients}"))
            }
            Refusal::User => self.error(ErrorKind::PermissionDenied, "its hub belongs to another user"),
            Refusal::NoMemory => self.error(ErrorKind::OutOfMemory, "its hub has no memory or descriptors left"),
        }
    }

    fn silent(&self, socket: &OwnedFd) -> io::Error {
        let hub = sockopt::socket_peercred(socket)
            .map_or_else(|_| String::new(), |peer| format!(" (process {})", peer.pid.as_raw_nonzero()));
        self.error(ErrorKind::TimedOut, &format!("its hub{hub} does not answer"))
    }
}

/// A client's end of a fresh wire.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) socket: OwnedFd,
    pub(crate) welcome: Welcome,
    pub(crate) region: ForeignRegion,
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// True if the process at the other end runs as the user that we run as.
pub(crate) fn is_same_user(socket: &OwnedFd) -> io::Result<bool> {
    Ok(sockopt::socket_peercred(socket)?.uid == geteuid())
}

/// Waits until something can be read, or `deadline`: false then.
fn wait_readable(socket: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The hub's answer, and the descriptor that came with it.
fn receive_reply(socket: &OwnedFd) -> rustix::io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; Reply::LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let len = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes;
    bytes.truncate(len);
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((bytes, fds.flatten().next()))
}

/// The hub's answer to a client, with the region's descriptor in it. Does not block.
pub(crate) fn send_reply(socket: &OwnedFd, reply: &Reply, region: Option<&OwnedFd>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = region.iter().map(|fd| fd.as_fd()).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(&reply.emit())], &mut control, flags).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["x", "perf-1", "A_b.c", &"n".repeat(MAX_NAME)] {
            assert_eq!(Name::new(good).unwrap().to_string(), format!("shm://{good}"));
        }
        for bad in ["", "a b", "a/b", "ä", "a\0", "a?x=1", &"n".repeat(MAX_NAME + 1)] {
            let error = Name::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("1 to 64 letters"), "{error}");
        }
    }
}
