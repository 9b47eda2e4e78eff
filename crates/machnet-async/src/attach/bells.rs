//! Who hears the daemon's bell: every runtime that has somebody who waits, each through a registration of its own, and a
//! thread where a runtime has no IO, or is none.
//!
//! A reactor dies with its runtime, and hears nothing while nobody drives it. So whoever waits has their own runtime
//! listen: it is driven if they are to get on at all. Each registration sees each ring; whoever is first pumps for all, and
//! the others find nothing.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use machnet_channel::ReadableFd;
use machnet_channel::shared::{Line, Over};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::runtime::{self, Handle};

use super::attached::Attached;

/// Rings heard at once: more than the kernel keeps for one socket.
const RINGS: usize = 1024;

/// The socket beside the region.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    /// Unique in the process.
    number: u64,
    over: AtomicBool,
    owner: Weak<Attached>,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, owner: Weak<Attached>) -> Arc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { socket, number, over: AtomicBool::new(false), owner })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// As the pump sees it.
#[derive(Clone, Debug)]
pub(super) struct Bell(pub(super) Arc<Connection>);

impl Line for Bell {
    fn ring(&self) {
        // If the daemon's queue is full it has rings to hear; if it is gone, its socket says so.
        let _ = send(&self.0.socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    fn hear(&self) -> bool {
        let mut ring = [0; 1];
        for _ in 0..RINGS {
            match recv(&self.0.socket, &mut ring[..], RecvFlags::DONTWAIT) {
                Ok((1.., _)) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return false,
                Ok(_) | Err(_) => return true,
            }
        }
        false
    }

    fn over(&self, why: &Over) {
        self.0.over.store(true, Ordering::Release);
        // Whoever listens finds it readable, and goes.
        let _ = shutdown(&self.0.socket, Shutdown::Both);
        if let Some(owner) = self.0.owner.upgrade() {
            owner.on_over(self.0.number, why);
        }
    }
}

thread_local! {
    /// The connection and runtime that this thread last made sure of.
    static SURE: Cell<(u64, Option<runtime::Id>)> = const { Cell::new((0, None)) };
}

/// Who listens.
#[derive(Debug)]
pub(super) struct Bells {
    listening: Mutex<Listening>,
    /// The connection's number, for those who look without the lock.
    number: AtomicU64,
}

#[derive(Debug)]
struct Listening {
    connection: Arc<Connection>,
    runtimes: Vec<Handle>,
    /// Runtimes without IO.
    deaf: Vec<runtime::Id>,
    thread: bool,
}

impl Bells {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let number = AtomicU64::new(connection.number);
        Self {
            listening: Mutex::new(Listening { connection, runtimes: Vec::new(), deaf: Vec::new(), thread: false }),
            number,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody on this thread waits: their runtime listens from now on.
    pub(super) fn listen_here(&self) {
        let Ok(runtime) = Handle::try_current() else { return self.listen_in_thread() };
        let sure = (self.number.load(Ordering::Acquire), Some(runtime.id()));
        if SURE.get() == sure {
            return;
        }
        let mut listening = self.lock();
        if listening.deaf.contains(&runtime.id()) {
            listening.listen_in_thread();
        } else if !listening.runtimes.iter().any(|known| known.id() == runtime.id()) {
            if listening.connection.listen_in(&runtime).is_ok() {
                listening.runtimes.push(runtime);
            } else {
                listening.deaf.push(runtime.id());
                listening.listen_in_thread();
            }
        }
        SURE.set(sure);
    }

    /// True if this is the connection that is listened to.
    pub(super) fn is_current(&self, number: u64) -> bool {
        self.number.load(Ordering::Acquire) == number
    }

    /// The connection is of no more use.
    pub(super) fn hang_up(&self) {
        let _ = shutdown(&self.lock().connection.socket, Shutdown::Both);
    }

    /// A thread listens, whatever runtimes do.
    pub(super) fn listen_in_thread(&self) {
        self.lock().listen_in_thread();
    }

    /// Those who listened to the connection before listen to this one.
    pub(super) fn move_to(&self, connection: Arc<Connection>) {
        let mut listening = self.lock();
        let thread = std::mem::take(&mut listening.thread);
        listening.connection = Arc::clone(&connection);
        // Those that are gone meanwhile cannot.
        listening.runtimes.retain(|runtime| connection.listen_in(runtime).is_ok());
        // At least one hears what is for listeners, though their runtime may be none of these.
        if thread || listening.runtimes.is_empty() {
            listening.listen_in_thread();
        }
        self.number.store(connection.number, Ordering::Release);
    }
}

impl Listening {
    fn listen_in_thread(&mut self) {
        if !std::mem::replace(&mut self.thread, true) {
            let connection = Arc::clone(&self.connection);
            let thread = std::thread::Builder::new().name("machnet-bell".to_owned());
            if let Err(error) = thread.spawn(move || connection.listen_in_this_thread()) {
                tracing::warn!(%error, "no thread to hear the daemon");
                self.thread = false;
            }
        }
    }
}

impl Connection {
    fn listen_in(self: &Arc<Self>, runtime: &Handle) -> io::Result<()> {
        let fd = self.socket.try_clone()?;
        let entered = runtime.enter();
        // A runtime without IO panics, and cannot be asked. Nothing is left behind.
        let registered = catch_unwind(AssertUnwindSafe(|| ReadableFd::register(fd)));
        drop(entered);
        let fd = registered.map_err(|_| io::Error::from(io::ErrorKind::Unsupported))??;
        let connection = Arc::clone(self);
        runtime.spawn(async move {
            // An error: the runtime is being dropped.
            while poll_fn(|cx| fd.poll_readable(cx)).await.is_ok() && connection.was_rung() {}
        });
        Ok(())
    }

    fn listen_in_this_thread(&self) {
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)], None) {
                Ok(_) if !self.was_rung() => return,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot hear the daemon");
                    return;
                }
            }
        }
    }

    /// False once nothing more will come.
    fn was_rung(&self) -> bool {
        if let Some(owner) = self.owner.upgrade().filter(|_| !self.is_over()) {
            owner.was_rung();
        }
        !self.is_over() && self.owner.strong_count() > 0
    }
}
