//! Those who have connected and not said what they want yet.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use machnet_channel::shared::{Attach, Call};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use crate::socket::Listener;

/// At a time; more wait in the kernel.
const MOST: usize = 32;
/// For the first message, which an application sends as soon as it is connected.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest message that is read whole. A longer one, of a later version, begins alike and is cut.
const LONGEST: usize = 4096;

#[derive(Debug)]
struct Caller {
    socket: OwnedFd,
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

    /// True if others may be let in.
    pub(super) const fn take_more(&self) -> bool {
        self.callers.len() < MOST && !self.paused
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// When the first of them has taken too long.
    pub(super) fn nearest(&self) -> Option<Instant> {
        self.callers.iter().map(|caller| caller.until).min()
    }

    pub(super) fn accept(&mut self, listener: &Listener, now: Instant) {
        self.paused = false;
        while self.callers.len() < MOST {
            match accept_with(listener.socket(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.callers.push(Caller { socket, until: now + PATIENCE }),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a caller");
                    self.paused = true;
                    break;
                }
            }
        }
    }

    /// Those who have said something.
    pub(super) fn hear(&mut self, now: Instant) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut buffer = [0; LONGEST];
        for caller in std::mem::take(&mut self.callers) {
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
        heard
    }
}
