//! Those who have connected and not said what they want yet.
//!
//! Who connects, says nothing and connects again could fill any number of places, for ever. So nobody waits for one: whoever speaks needs
//! none, and of those who do not the oldest goes, of the process that has most, of the user that has most.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use machnet_channel::shared::{Attach, Call};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use super::peers::{Who, who};
use crate::socket::Listener;

/// At a time.
const MOST: usize = 32;
/// Let in in one look: the thread has others to look after.
const EACH_LOOK: usize = 256;
/// For the first message, which an application sends as soon as it is connected.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest message that is read whole. A longer one, of a later version, begins alike and is cut.
const LONGEST: usize = 4096;

#[derive(Debug)]
struct Caller {
    socket: OwnedFd,
    who: Who,
    until: Instant,
}

/// What a caller said.
pub(super) enum Heard {
    Attach(OwnedFd, Attach),
    Stat(OwnedFd),
    Nonsense(OwnedFd, String),
}

#[derive(Debug, Default)]
pub(super) struct Callers {
    /// The oldest first.
    callers: Vec<Caller>,
    /// The system had no descriptor for one.
    paused: bool,
    /// Those who said nothing in time, and who went away without a word.
    pub(super) silent: u64,
}

impl Callers {
    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.callers.iter().map(|caller| &caller.socket)
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// When the first of them has taken too long.
    pub(super) fn nearest(&self) -> Option<Instant> {
        self.callers.iter().map(|caller| caller.until).min()
    }

    /// Lets in who has called, and returns those who have said something. What the system says if it lets nobody in.
    pub(super) fn look(&mut self, listener: &Listener, now: Instant) -> (Vec<Heard>, Option<Errno>) {
        let mut heard = Vec::new();
        for caller in std::mem::take(&mut self.callers) {
            self.hear(caller, now, &mut heard);
        }
        self.paused = false;
        for _ in 0..EACH_LOOK {
            let socket = match accept_with(listener.socket(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => {
                    self.paused = true;
                    return (heard, Some(error));
                }
            };
            let who = who(&socket);
            self.hear(Caller { socket, who, until: now + PATIENCE }, now, &mut heard);
            if self.callers.len() > MOST {
                let first = self.callers.remove(most_of(self.callers.iter().map(|caller| caller.who)));
                // For the last time.
                self.hear(Caller { until: now, ..first }, now, &mut heard);
            }
        }
        (heard, None)
    }

    /// What a caller has said, or he goes on waiting.
    fn hear(&mut self, caller: Caller, now: Instant, heard: &mut Vec<Heard>) {
        let mut buffer = [0; LONGEST];
        // Without room for descriptors: the kernel closes those that come along.
        match recv(&caller.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) if now < caller.until => self.callers.push(caller),
            Ok((0, _)) | Err(_) => self.silent += 1,
            Ok((len, _)) => heard.push(match Call::parse(&buffer[..len]) {
                Ok(Call::Attach(attach)) => Heard::Attach(caller.socket, attach),
                Ok(Call::Stat) => Heard::Stat(caller.socket),
                Err(error) => Heard::Nonsense(caller.socket, error.to_string()),
            }),
        }
    }
}

/// The first of the process that is there most often, of the user who is.
fn most_of(callers: impl Iterator<Item = Who> + Clone) -> usize {
    let (mut users, mut processes) = (BTreeMap::<u32, u32>::new(), BTreeMap::<Who, u32>::new());
    for who in callers.clone() {
        *users.entry(who.0).or_default() += 1;
        *processes.entry(who).or_default() += 1;
    }
    // Of equal ones the last maximum counts: the first, from behind.
    let all: Vec<_> = callers.map(|who| (users[&who.0], processes[&who])).collect();
    (0..all.len()).rev().max_by_key(|&at| all[at]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::net::{
        AddressFamily, SendFlags, Shutdown, SocketAddrUnix, SocketType, connect, send, shutdown, socket_with,
    };

    use super::*;

    fn call(path: &Path) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        socket
    }

    fn say(socket: &OwnedFd, what: &[u8]) {
        send(socket, what, SendFlags::NOSIGNAL).unwrap();
    }

    fn is_closed(socket: &OwnedFd) -> bool {
        !matches!(recv(socket, &mut [0; 1][..], RecvFlags::DONTWAIT), Err(Errno::AGAIN))
    }

    /// However many have connected and say nothing, and however often: who speaks is heard in the same look.
    #[test]
    fn silent_callers_without_end_keep_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let listener = Listener::bind(&path, 0o600, None).unwrap();
        let (mut callers, now) = (Callers::default(), Instant::now());
        let attach = Call::Attach(Attach::new("honest".to_owned(), 0)).emit();
        let mut silent = Vec::new();
        for _ in 0..10 {
            silent.extend((0..100).map(|_| call(&path)));
            let honest = call(&path);
            say(&honest, &attach);
            let (heard, error) = callers.look(&listener, now);
            assert!(matches!(heard[..], [Heard::Attach(..)]) && error.is_none());
            assert_eq!(callers.sockets().count(), MOST);
        }
        assert_eq!(callers.silent, 1000 - MOST as u64);
        assert_eq!(silent.iter().filter(|socket| is_closed(socket)).count(), 1000 - MOST);
        // One of them who speaks while others come is heard.
        say(&silent[1000 - MOST], &attach);
        silent.extend((0..100).map(|_| call(&path)));
        assert!(matches!(callers.look(&listener, now).0[..], [Heard::Attach(..)]));
        assert!(callers.look(&listener, now + PATIENCE).0.is_empty());
        assert_eq!((callers.sockets().count(), callers.silent), (0, 1099), "their time is over");
    }

    #[test]
    fn who_leaves_or_says_nonsense_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let listener = Listener::bind(&path, 0o600, None).unwrap();
        let (mut callers, now) = (Callers::default(), Instant::now());
        let left = call(&path);
        shutdown(&left, Shutdown::Write).unwrap();
        let other = call(&path);
        say(&other, b"hello");
        let (heard, _) = callers.look(&listener, now);
        assert!(matches!(heard[..], [Heard::Nonsense(..)]));
        assert_eq!((callers.sockets().count(), callers.silent), (0, 1));
    }

    #[test]
    fn the_oldest_of_who_is_there_most_often_goes() {
        for (callers, goes) in [
            (&[(1, 10), (2, 20), (2, 20), (1, 11)][..], 1),
            // One user with two processes, and one with one.
            (&[(3, 30), (1, 10), (1, 11), (1, 11), (3, 30)], 2),
            (&[(1, 10), (1, 11), (2, 20)], 0),
            (&[(1, 10)], 0),
        ] {
            assert_eq!(most_of(callers.iter().copied()), goes, "{callers:?}");
        }
    }
}
