//! The hub's porter: a thread that lets clients in.
//!
//! Attaching takes memory, system calls and a conversation, which are nothing for an engine between two packets; and it
//! must work while the engine is not polled (inline, in the very runtime that attaches). So a thread waits at the
//! socket, and hands finished wires to the driver over a desk, whose bell is a flag and an eventfd.
//!
//! A client that says nothing is sent away after a while; it delays nobody meanwhile.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use machnet_channel::ForeignRegion;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use crate::geometry::Geometry;
use crate::handshake::{Hello, Refusal, Reply, VERSIONS, Welcome};
use crate::rendezvous::{Name, is_same_user, send_reply};
use crate::slots::{HUB, Slots};

/// Clients in the middle of their handshake; more wait in the kernel.
const CALLERS: usize = 16;
/// How long a client may take for its HELLO, which it sends as soon as it is connected.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to leave the socket alone after the system had no descriptor for a caller.
const PAUSE: Duration = Duration::from_millis(10);

/// What porter and driver share.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Set when something lies in `arrivals`.
    news: AtomicBool,
    arrivals: Mutex<Vec<Arrival>>,
    slots: Mutex<Slots>,
    /// Readable when there is news. Given to nobody else.
    bell: OwnedFd,
    refused: AtomicU64,
}

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) address: Ipv4Addr,
    pub(crate) socket: OwnedFd,
    pub(crate) region: ForeignRegion,
}

/// Neither lock guards anything that a panic could leave half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Driver: who came since the last look. Costs a load if nobody did.
    #[inline]
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        if !self.has_news() {
            return Vec::new();
        }
        let mut arrivals = match self.arrivals.try_lock() {
            Ok(arrivals) => arrivals,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is coming this moment: the next look finds them.
            Err(TryLockError::WouldBlock) => return Vec::new(),
        };
        self.news.store(false, Ordering::Relaxed);
        let mut count = [0; 8];
        // It was rung for each of them.
        let _ = rustix::io::read(&self.bell, &mut count);
        std::mem::take(&mut *arrivals)
    }

    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        // The lock orders what lies there.
        self.news.load(Ordering::Relaxed)
    }

    /// Driver: a client is gone.
    pub(crate) fn leave(&self, address: Ipv4Addr) {
        lock(&self.slots).free(address);
    }

    pub(crate) const fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Callers that were not let in.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn put(&self, arrival: Arrival) {
        // Under the lock all three: a bell that is rung after somebody took what lies here would stay rung, and the hub awake.
        let mut arrivals = lock(&self.arrivals);
        arrivals.push(arrival);
        // Fails only if the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        self.news.store(true, Ordering::Relaxed);
    }
}

/// The thread's handle. Dropped, it ends the thread and waits for that, which takes microseconds: the name is free then.
#[derive(Debug)]
pub(crate) struct Porter {
    desk: Arc<Desk>,
    quit: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Porter {
    pub(crate) fn start(name: &Name, geometry: Geometry, clients: usize) -> io::Result<Self> {
        let listener = name.listen()?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let desk = Arc::new(Desk {
            news: AtomicBool::new(false),
            arrivals: Mutex::new(Vec::new()),
            slots: Mutex::new(Slots::new(clients)),
            bell: eventfd(0, flags)?,
            refused: AtomicU64::new(0),
        });
        let quit = Arc::new(eventfd(0, flags)?);
        let gate = Gate {
            name: name.clone(),
            geometry,
            desk: Arc::clone(&desk),
            listener,
            quit: Arc::clone(&quit),
            callers: Vec::new(),
            paused: false,
        };
        let thread = std::thread::Builder::new().name("machnet-shm".to_owned()).spawn(move || gate.keep())?;
        Ok(Self { desk, quit, thread: Some(thread) })
    }

    pub(crate) const fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.quit, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // If it panicked, the panic hook has said so; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Somebody who has connected and not said HELLO yet.
#[derive(Debug)]
struct Caller {
    socket: OwnedFd,
    until: Instant,
}

/// The thread's own.
#[derive(Debug)]
struct Gate {
    name: Name,
    geometry: Geometry,
    desk: Arc<Desk>,
    listener: OwnedFd,
    quit: Arc<OwnedFd>,
    callers: Vec<Caller>,
    /// The system had no descriptor for a caller.
    paused: bool,
}

impl Gate {
    fn keep(mut self) {
        while self.wait() {
            self.accept();
            let now = Instant::now();
            for caller in std::mem::take(&mut self.callers) {
                match self.hear(caller, now) {
                    Ok(Some(patient)) => self.callers.push(patient),
                    Ok(None) => {}
                    // Counted first: it finds its socket closed when this is over.
                    Err((_closed, why)) => {
                        self.desk.refused.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(name = %self.name, why, "a client was not let in");
                    }
                }
            }
        }
    }

    /// Sleeps until there is something to do; false if that is to end.
    fn wait(&self) -> bool {
        let listen = self.callers.len() < CALLERS && !self.paused;
        let mut fds = vec![PollFd::new(&*self.quit, PollFlags::IN)];
        fds.extend(self.callers.iter().map(|caller| PollFd::new(&caller.socket, PollFlags::IN)));
        if listen {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let now = Instant::now();
        let nearest = self.callers.iter().map(|caller| caller.until.saturating_duration_since(now)).min();
        let timeout = if self.paused { Some(nearest.map_or(PAUSE, |at| at.min(PAUSE))) } else { nearest };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An error cannot be but EINTR: another look does no harm.
        let _ = poll(&mut fds, timeout.as_ref());
        fds[0].revents().is_empty()
    }

    fn accept(&mut self) {
        self.paused = false;
        while self.callers.len() < CALLERS {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.callers.push(Caller { socket, until: Instant::now() + PATIENCE }),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::debug!(name = %self.name, %error, "cannot accept a client");
                    self.paused = true;
                    break;
                }
            }
        }
    }

    /// Goes on with a caller: gives it back if it has said nothing yet, or says why it is not let in.
    fn hear(&self, caller: Caller, now: Instant) -> Result<Option<Caller>, (OwnedFd, &'static str)> {
        // One byte more than expected: a longer HELLO, of a later version, is as good.
        let mut bytes = [0; Hello::LEN + 1];
        let len = match recv(&caller.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((len, _)) => len,
            Err(Errno::AGAIN | Errno::INTR) if now < caller.until => return Ok(Some(caller)),
            Err(Errno::AGAIN | Errno::INTR) => return Err((caller.socket, "it said nothing")),
            Err(_) => return Err((caller.socket, "it went away")),
        };
        let Some(hello) = Hello::parse(&bytes[..len]) else { return Err((caller.socket, "it did not say HELLO")) };
        match self.admit(&hello, &caller.socket) {
            Ok((welcome, region, fd)) => {
                let sent = send_reply(&caller.socket, &Reply::Welcome(welcome), Some(&fd));
                if sent.is_err() {
                    self.desk.leave(welcome.client);
                    return Err((caller.socket, "it went away"));
                }
                tracing::debug!(name = %self.name, address = %welcome.client, "client attached");
                self.desk.put(Arrival { address: welcome.client, socket: caller.socket, region });
                Ok(None)
            }
            Err(why) => {
                let clients = lock(&self.desk.slots).clients() as u32;
                let reply = Reply::Refused { why, versions: VERSIONS, clients };
                // If it cannot be told, it finds the socket closed.
                let _ = send_reply(&caller.socket, &reply, None);
                let why = match why {
                    Refusal::Version => "no common version",
                    Refusal::Full => "there are as many clients as may be",
                    Refusal::User => "it is another user's",
                    Refusal::NoMemory => "no memory or descriptors",
                };
                Err((caller.socket, why))
            }
        }
    }

    fn admit(&self, hello: &Hello, socket: &OwnedFd) -> Result<(Welcome, ForeignRegion, OwnedFd), Refusal> {
        if !is_same_user(socket).unwrap_or(false) {
            return Err(Refusal::User);
        }
        let version = hello.common_version().ok_or(Refusal::Version)?;
        let client = lock(&self.desk.slots).take().ok_or(Refusal::Full)?;
        let made = ForeignRegion::create("machnet-shm", self.geometry.bytes());
        let (region, fd) = made.map_err(|error| {
            tracing::warn!(name = %self.name, %error, "no memory for a client");
            self.desk.leave(client);
            Refusal::NoMemory
        })?;
        let features = 0;
        Ok((Welcome { version, features, hub: HUB, client, geometry: self.geometry }, region, fd))
    }
}
