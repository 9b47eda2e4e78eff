//! Endpoints whose engine is in a daemon (`docs/spec/sidecar.md`).
//!
//! ```text
//!   mod.rs       what is asked for: path, name, flows, what to do when the daemon is gone
//!   dial.rs      the handshake on the daemon's socket
//!   link.rs      what the channels to its engines share: they are lost together, and attached again
//!   attached.rs  what stands in an engine's place: the pump, and the end of it
//!   beats.rs     whether the daemon still answers
//!   bells.rs     who hears the daemon: each runtime that has waiters, or a thread
//! ```
//!
//! The pump itself, which any task may run, is [`machnet_channel::shared::Attachment`].

mod attached;
mod beats;
mod bells;
mod dial;
mod link;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machnet_channel::shared::Attach;

use crate::Endpoint;

/// What becomes of an attached endpoint when its daemon is gone.
///
/// In any case every flow ends at once, with [`CloseReason::DaemonGone`](crate::CloseReason), or `DaemonSilent` if it is there and
/// does not answer: what was underway is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reconnect {
    /// It is of no more use: listeners end, and connecting fails.
    #[default]
    Never,
    /// It attaches again, to whoever is behind the path by then. Listeners go on, at the ports they had. Meanwhile
    /// connecting fails. [`Endpoint::local_addr`] is the daemon's that was attached to last.
    BackingOff {
        /// How long after the loss the first attempt is made.
        first: Duration,
        /// The waits after failed attempts double, up to this.
        most: Duration,
    },
}

impl Reconnect {
    /// [`Reconnect::BackingOff`] from 50 ms to 5 s.
    #[must_use]
    pub const fn new() -> Self {
        Self::BackingOff { first: Duration::from_millis(50), most: Duration::from_secs(5) }
    }
}

/// Describes an endpoint attached to a daemon: [`Endpoint::attach`] with options.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `attach`"]
pub struct AttachBuilder {
    path: PathBuf,
    name: String,
    flows: u32,
    recv_spin: Duration,
    reconnect: Reconnect,
    daemon_timeout: Duration,
}

impl AttachBuilder {
    /// An endpoint of the daemon that listens on the socket at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            name: own_name(),
            flows: 0,
            recv_spin: Duration::ZERO,
            reconnect: Reconnect::Never,
            daemon_timeout: Duration::from_secs(5),
        }
    }

    /// After how long a daemon that does not answer is given up: every flow ends with
    /// [`CloseReason::DaemonSilent`](crate::CloseReason), and what [`AttachBuilder::reconnect`] says happens. Time in which this process
    /// stood still does not count. Default: 5 s, as [`Config::dead_peer_timeout`](crate::Config). Rather more than less: a daemon
    /// that was busy for that long is a daemon lost. From 4 ms on.
    ///
    /// Its engines are asked four times in that time, by one thread for all attached endpoints of the process.
    pub const fn daemon_timeout(mut self, timeout: Duration) -> Self {
        self.daemon_timeout = timeout;
        self
    }

    /// What the daemon's operators see of this application: up to 64 bytes. Default: the name of the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many flows this application may want to connect at a time; as many again may be accepted. The daemon gives what
    /// its configuration allows. Default: what the daemon gives by default.
    pub const fn flows(mut self, flows: u32) -> Self {
        self.flows = flows;
        self
    }

    /// How long [`Flow::recv`](crate::Flow::recv) looks for a message before it waits to be woken, as
    /// [`EndpointBuilder::recv_spin`](crate::EndpointBuilder::recv_spin). Default: not at all.
    pub const fn recv_spin(mut self, spin: Duration) -> Self {
        self.recv_spin = spin;
        self
    }

    /// What happens when the daemon is gone. Default: [`Reconnect::Never`].
    pub const fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Attaches. This waits for the daemon to answer, some hundred microseconds, 3 s at most.
    ///
    /// # Errors
    /// Each names the socket, and what would be right. `NotFound`: there is no such socket. `ConnectionRefused`: nobody
    /// listens there, or the daemon is ending. `PermissionDenied`: the socket's mode, or the daemon's configuration, do not
    /// admit this process. `ResourceBusy`: a quota of the daemon is used up. `Unsupported`: no common version. `TimedOut`: no
    /// answer. `InvalidData`: an answer that cannot be. Else what the system says.
    pub fn attach(self) -> io::Result<Endpoint> {
        attached::start(self).map(Endpoint::on)
    }

    /// Wants so many channels; 0: one to each engine.
    fn greeting(&self, channels: u32) -> Attach {
        Attach { channels, ..Attach::new(self.name.clone(), self.flows) }
    }
}

impl Endpoint {
    /// An endpoint whose engines are in the daemon that listens on the socket at `path` (`machnet daemon`). It is used as any
    /// other: see [`AttachBuilder`] for what can be chosen.
    ///
    /// Flows and listeners of applications of one daemon, and those of other hosts, reach each other through its one
    /// address: [`Endpoint::local_addr`]. [`Endpoint::stats`] are the counters of the daemon's engines, for all its applications: as they were
    /// when they last answered, which a call of it asks them to do.
    ///
    /// # Errors
    /// As [`AttachBuilder::attach`].
    pub fn attach(path: impl AsRef<Path>) -> io::Result<Self> {
        AttachBuilder::new(path).attach()
    }
}

fn own_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_default()
}
