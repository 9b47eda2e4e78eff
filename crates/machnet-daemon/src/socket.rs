//! The daemon's socket: a file, and one daemon at it.
//!
//! A lock beside it (`….lock`) says that a daemon lives, also if two start at once; the kernel gives it up with the
//! process. Whoever has it may replace a socket that was left behind by one that died, unless somebody listens there after all. Nobody can
//! connect before the file has its owner and permissions: it listens only then.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Mode, chmod, chown, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

/// Callers that the kernel keeps while the daemon has not looked.
const BACKLOG: i32 = 128;

/// A socket that listens; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Held for as long as the daemon lives.
    _lock: File,
}

impl Listener {
    pub(crate) fn bind(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let lock = lock(path).map_err(named)?;
        clear(path).map_err(named)?;
        let address = SocketAddrUnix::new(path)?;
        let socket = seqpacket()?;
        let mode = Mode::from_raw_mode(mode);
        // The file has no more permissions than this from its first moment.
        fchmod(&socket, mode)?;
        bind(&socket, &address).map_err(|error| named(error.into()))?;
        let listener = Self { socket, path: path.to_owned(), _lock: lock };
        if let Some(group) = group {
            let text =
                |error: Errno| named(io::Error::new(error.kind(), format!("cannot give it to group {group}: {error}")));
            chown(path, None, Some(Gid::from_raw(group))).map_err(text)?;
        }
        // And no less, whatever the umask.
        chmod(path, mode).map_err(|error| named(error.into()))?;
        listen(&listener.socket, BACKLOG)?;
        Ok(listener)
    }

    pub(crate) const fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Ours, since we have the lock.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&name);
    let file = file.map_err(|error| io::Error::new(error.kind(), format!("cannot open its lock file: {error}")))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(taken()),
        Err(error) => Err(error.into()),
    }
}

fn taken() -> io::Error {
    io::Error::new(ErrorKind::AddrInUse, "a daemon serves this socket already")
}

/// Removes the socket of a daemon that is no more.
fn clear(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file of that name, which is no socket"));
    }
    match connect(&seqpacket()?, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Err(Errno::PROTOTYPE) | Ok(()) | Err(Errno::AGAIN) => Err(taken()),
        Err(error) => Err(error.into()),
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn one_daemon_at_a_socket_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let first = Listener::bind(&path, 0o640, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let error = Listener::bind(&path, 0o640, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("m.sock: a daemon serves this socket already"), "{error}");
        // It dies: the file stays.
        let Listener { socket, _lock, .. } = &*std::mem::ManuallyDrop::new(first);
        // What the kernel does when a process ends.
        rustix::net::shutdown(socket, rustix::net::Shutdown::Both).unwrap();
        flock(_lock, FlockOperation::Unlock).unwrap();
        let second = Listener::bind(&path, 0o600, None);
        assert!(second.is_ok(), "{second:?}");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = Listener::bind(&path, 0o660, None).unwrap_err();
        assert!(error.to_string().contains("which is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        let error = Listener::bind(&dir.path().join("no/such/place"), 0o660, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_group_is_given_before_anybody_can_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        let own = rustix::process::getegid().as_raw();
        let _listener = Listener::bind(&path, 0o660, Some(own)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().gid(), own);
    }
}
