//! Attaching: two messages on the daemon's socket, and a region.

use std::fmt::Display;
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use machnet_channel::ForeignRegion;
use machnet_channel::shared::{Attach, Call, MAX_CHANNELS, Refusal, Refused, Reply, VERSIONS, Welcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with,
};

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait before calling again where the kernel keeps no more callers.
const AGAIN: Duration = Duration::from_millis(1);

/// Fresh channels.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) welcome: Welcome,
    /// To each engine: never none.
    pub(super) channels: Vec<(OwnedFd, ForeignRegion)>,
}

/// Attaches to the daemon at `path`.
pub(super) fn dial(path: &Path, greeting: &Attach) -> io::Result<Dialled> {
    let deadline = Instant::now() + PATIENCE;
    let error = |kind, text: &dyn Display| io::Error::new(kind, format!("unix://{}: {text}", path.display()));
    let address = SocketAddrUnix::new(path)
        .map_err(|_| error(ErrorKind::InvalidInput, &"a socket's path has 1 to 107 bytes, and no NUL"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let silent = || error(ErrorKind::TimedOut, &format_args!("the daemon did not answer within {PATIENCE:?}"));
    loop {
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::park_timeout(AGAIN),
            Err(Errno::AGAIN) => return Err(silent()),
            Err(errno) => return Err(error(errno.kind(), &unconnected(errno))),
        }
    }
    let gone = |_| error(ErrorKind::ConnectionReset, &"the daemon closed the connection without an answer");
    send(&socket, &Call::Attach(greeting.clone()).emit(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(gone)?;
    if !wait_readable(&socket, deadline)? {
        return Err(silent());
    }
    let (reply, fds) = receive_reply(&socket).map_err(gone)?;
    if reply.is_empty() {
        return Err(gone(Errno::CONNRESET));
    }
    let nonsense = |text: &dyn Display| error(ErrorKind::InvalidData, &format_args!("the daemon sent {text}"));
    match Reply::parse(&reply).map_err(|why| nonsense(&why))? {
        Reply::Refused(refused) => Err(error(kind_of(refused.why), &describe(&refused))),
        Reply::Welcome(welcome) => {
            let count = welcome.channels as usize;
            if fds.len() != 2 * count - 1 {
                let text = format_args!("{} of {} descriptors: may this process have more?", fds.len(), 2 * count - 1);
                return Err(nonsense(&text));
            }
            let mut fds = fds.into_iter();
            let regions = fds.by_ref().take(count).map(|fd| {
                ForeignRegion::open(fd, welcome.region_bytes())
                    .map_err(|why| error(why.kind(), &format_args!("the daemon sent {why}")))
            });
            let regions = regions.collect::<io::Result<Vec<_>>>()?;
            let channels = std::iter::once(socket).chain(fds).zip(regions).collect();
            Ok(Dialled { welcome, channels })
        }
    }
}

/// Why there is no connection, and what would help.
fn unconnected(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "there is no such socket: is the daemon running, and is this its path?".to_owned(),
        Errno::CONNREFUSED => "nobody listens there: the daemon is not running".to_owned(),
        Errno::ACCESS | Errno::PERM => {
            "no permission: this process must be of the socket's owner or group, as the daemon's configuration has it"
                .to_owned()
        }
        Errno::PROTOTYPE | Errno::NOTSOCK => "it is not the socket of a daemon".to_owned(),
        other => format!("cannot connect: {other}"),
    }
}

const fn kind_of(why: Refusal) -> ErrorKind {
    match why {
        Refusal::Version => ErrorKind::Unsupported,
        Refusal::NotPermitted => ErrorKind::PermissionDenied,
        Refusal::Quota => ErrorKind::ResourceBusy,
        Refusal::NoMemory => ErrorKind::OutOfMemory,
        Refusal::ShuttingDown => ErrorKind::ConnectionRefused,
        _ => ErrorKind::InvalidData,
    }
}

fn describe(refused: &Refused) -> String {
    let Refused { why, versions: (oldest, newest), text } = refused;
    let why = match why {
        Refusal::Version => {
            let (from, to) = VERSIONS;
            format!(
                "the daemon speaks versions {oldest} to {newest} of the channel, this program {from} to {to}: update the older of the two"
            )
        }
        Refusal::NotPermitted => "the daemon does not admit this process".to_owned(),
        Refusal::Quota => "the daemon has no room for another application".to_owned(),
        Refusal::NoMemory => "the daemon has no memory or descriptors left".to_owned(),
        Refusal::ShuttingDown => "the daemon is ending".to_owned(),
        _ => "the daemon did not understand".to_owned(),
    };
    if text.is_empty() { why } else { format!("{why}: {text}") }
}

/// Waits until something can be read, or `deadline`: false then.
fn wait_readable(socket: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The daemon's answer, and the descriptors that came with it.
fn receive_reply(socket: &OwnedFd) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    const MOST: usize = 2 * MAX_CHANNELS as usize;
    let mut bytes = vec![0; Reply::MAX_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let len = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes;
    bytes.truncate(len);
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((bytes, fds.flatten().collect()))
}
