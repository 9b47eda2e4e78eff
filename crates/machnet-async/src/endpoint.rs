//! Endpoints: what flows leave from and arrive at.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use machnet_core::{Config, Driver, EngineStats, MAX_ENGINES};

use crate::IdlePolicy;
use crate::datapath::{Datapath, Ended, EngineHandle, Outcome};
use crate::future::{Connect, Listen};

/// Flows that may wait to be accepted, unless [`Endpoint::listen_with`] says otherwise.
const DEFAULT_BACKLOG: u32 = 128;

/// An address of this host with an engine behind it, from which flows are connected and at which they are accepted.
///
/// Clones are cheap and mean the same endpoint. The engine lives as long as any endpoint, listener or flow of it; after
/// the last one it finishes what was sent, bounded by [`Config::linger`], and its thread ends. Dropping never blocks.
/// Use [`Endpoint::shutdown`] to wait for that, above all before the process exits.
#[derive(Clone, Debug)]
pub struct Endpoint {
    engines: Arc<[Arc<EngineHandle>]>,
}

impl Endpoint {
    /// Describes an endpoint. It needs a driver: see [`EndpointBuilder::driver`].
    pub fn builder() -> EndpointBuilder {
        EndpointBuilder {
            driver: NoDriver(()),
            config: Config::default(),
            idle: IdlePolicy::default(),
            thread_name: "machnet".to_owned(),
            core: None,
            placement: Placement::default(),
            recv_spin: Duration::ZERO,
            engines: 1,
        }
    }

    pub(crate) fn on(engines: Vec<Arc<EngineHandle>>) -> Self {
        Self { engines: engines.into() }
    }

    /// True once it was shut down, or an engine of it is gone.
    pub(crate) fn is_closing(&self) -> bool {
        self.engines.iter().any(|engine| engine.is_closing() || engine.status().is_gone())
    }

    /// The address that connected flows leave from.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.engines[0].local()
    }

    /// Listens on UDP port `port` of the endpoint's address; 0 takes any free one, which
    /// [`Listener::local_addr`](crate::Listener::local_addr) tells. Up to 128 flows may wait to be accepted.
    ///
    /// # Errors
    /// Names address and port. `AddrInUse`: somebody listens there, in this process or another. `PermissionDenied`: a
    /// port below 1 024. `NotConnected`: the endpoint was shut down.
    ///
    /// # Cancel safety
    /// Dropping the future gives the port up again.
    pub fn listen(&self, port: u16) -> Listen {
        self.listen_with(port, DEFAULT_BACKLOG)
    }

    /// [`Endpoint::listen`] with room for `backlog` flows that wait to be accepted. Further ones are not answered until
    /// there is room.
    ///
    /// # Errors
    /// As [`Endpoint::listen`].
    ///
    /// # Cancel safety
    /// As [`Endpoint::listen`].
    pub fn listen_with(&self, port: u16, backlog: u32) -> Listen {
        Listen::new(&self.engines, port, backlog)
    }

    /// Connects a flow to whoever listens at `peer`, within [`Config::connect_timeout`].
    ///
    /// # Errors
    /// A [`FlowError`](crate::FlowError) as source; its kind is `ConnectionRefused` if nobody listens there, `TimedOut`
    /// if nothing answers, `HostUnreachable` if it is of another family than this endpoint's or no route leads there, `InvalidInput` for
    /// port 0, `ResourceBusy` if the engine has [`Config::max_flows`] already, `NotConnected` if the endpoint was shut
    /// down, or an engine of it is gone.
    ///
    /// # Cancel safety
    /// Dropping the future gives the flow up; a peer that accepted it meanwhile sees it end.
    pub fn connect(&self, peer: SocketAddr) -> Connect {
        // An endpoint that lost an engine says so at once, not to whom chance leads to that engine. Each half of a flow holds
        // its engine: the one that is held least has least to do.
        let lost = self.engines.iter().find(|engine| engine.is_closing());
        let engine = lost.or_else(|| {
            // One whose daemon is away only if all are.
            let load = |engine: &&Arc<EngineHandle>| (engine.status().is_detached(), Arc::strong_count(engine));
            self.engines.iter().min_by_key(load)
        });
        Connect::new(engine.unwrap_or(&self.engines[0]), peer)
    }

    /// The engine's counters; published when it becomes idle, and every few hundred rounds while it is busy. Of several
    /// engines the sums. Of an attached endpoint those of the daemon's engines, as of their last answer: a call asks for the next.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut sum = EngineStats::default();
        self.engines.iter().for_each(|engine| sum.add(&engine.stats()));
        sum
    }

    /// The counters of each engine.
    #[must_use]
    pub fn engine_stats(&self) -> Vec<EngineStats> {
        self.engines.iter().map(|engine| engine.stats()).collect()
    }

    /// What waking cost so far, on both sides.
    #[must_use]
    pub fn wake_stats(&self) -> WakeStats {
        self.engines.iter().fold(WakeStats::default(), |sum, engine| {
            let intake = engine.intake();
            let (rings, parks) = match intake.pump() {
                Some(pump) => pump.rings(),
                None => (intake.bell().rings(), engine.status().parks()),
            };
            WakeStats {
                wakers_called: sum.wakers_called + intake.woken(),
                handed_over: sum.handed_over + intake.handed_over(),
                rings: sum.rings + rings,
                parks: sum.parks + parks,
            }
        })
    }

    /// Ends every flow and listener of the endpoint, also those held elsewhere, and resolves when the engine is gone:
    /// everything that was sent is acknowledged by then, or its linger is over. From the first poll on `connect`,
    /// `listen`, `accept` and `send` fail with `NotConnected`, and `recv` does after what has arrived. A tenth of a
    /// second is usual: the engine stays to answer what peers repeat. Five seconds after a peer did that, and did not show that it
    /// has everything since; ten and more, up to twice [`Config::dead_peer_timeout`], if it goes on.
    ///
    /// # Errors
    /// `Other`: the engine failed, and what was underway is lost. `NetworkDown`: so is the daemon that had it.
    ///
    /// # Cancel safety
    /// Once polled, the end goes on without the future. It may be called again, also on a clone.
    pub fn shutdown(&self) -> Shutdown {
        let ended = self.engines.iter().map(|engine| engine.ended()).collect();
        Shutdown { ended, engines: Arc::clone(&self.engines) }
    }
}

/// Future of [`Endpoint::shutdown`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Shutdown {
    ended: Vec<Ended>,
    engines: Arc<[Arc<EngineHandle>]>,
}

impl Future for Shutdown {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { ended, engines } = &mut *self;
        engines.iter().for_each(|engine| engine.intake().shut_down());
        let mut result = Ok(());
        for engine in ended {
            result = Err(match ready!(Pin::new(engine).poll(cx)) {
                Outcome::Finished => continue,
                Outcome::Panicked => io::Error::other("the engine panicked"),
                Outcome::DaemonGone => io::Error::new(io::ErrorKind::NetworkDown, "the daemon is gone"),
                Outcome::Abandoned => io::Error::other("the runtime that polled the engine was dropped"),
            });
        }
        Poll::Ready(result)
    }
}

/// What waking cost an engine and its applications; see [`Endpoint::wake_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WakeStats {
    /// Wakers that the engine called. Of a task in another thread's runtime, each is a system call, and 10–20 µs of the
    /// engine's time if that thread sleeps. Inline it is a push to the runtime's queue.
    pub wakers_called: u64,
    /// Times that the engine left waking to a runtime that was awake in its [park hook](crate::park_hook), per flow and
    /// round: wakes that cost nothing.
    pub handed_over: u64,
    /// Times that an application found the engine asleep and rang.
    pub rings: u64,
    /// Times that the engine went to sleep. Of an attached endpoint: times that it heard the daemon ring, because nobody was
    /// awake here.
    pub parks: u64,
}

/// Who polls the engine of an endpoint. See [the crate's documentation](crate#placements).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// A thread of its own. Works with every executor, and goes on whatever the application does.
    #[default]
    Thread,
    /// A task of the current-thread tokio runtime that [`EndpointBuilder::start`] is called in. No message crosses
    /// threads, and none costs a wake-up. The engine makes no progress while nobody drives the runtime: outside of
    /// `block_on`, or while a task computes without awaiting. It ends with the runtime, and so do its flows.
    Inline,
}

/// A builder without a driver; it cannot [`start`](EndpointBuilder::start).
#[derive(Clone, Copy, Debug)]
pub struct NoDriver(());

/// Describes an [`Endpoint`]; made by [`Endpoint::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct EndpointBuilder<D = NoDriver> {
    driver: D,
    config: Config,
    idle: IdlePolicy,
    thread_name: String,
    core: Option<usize>,
    placement: Placement,
    recv_spin: Duration,
    engines: usize,
}

impl<D> EndpointBuilder<D> {
    /// The vNIC to use, for example [`Udp`](crate::Udp). The endpoint's address is the driver's.
    pub fn driver<E>(self, driver: E) -> EndpointBuilder<E> {
        let Self { driver: _, config, idle, thread_name, core, placement, recv_spin, engines } = self;
        EndpointBuilder { driver, config, idle, thread_name, core, placement, recv_spin, engines }
    }

    /// Limits and times. Default: [`Config::default`].
    pub const fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How many engines share the endpoint's flows: 1 to 64, each with a thread and a queue of the driver of its own. Default: 1.
    ///
    /// For more traffic than one core carries. Connected flows go to the engine that has fewest of the endpoint's, accepted ones
    /// to the engine that has fewest. Limits are each engine's. With [`Placement::Thread`] only, and drivers that can be
    /// [divided](Driver::split), as [`Udp`](crate::Udp) can: with four ports for each engine beside its own.
    pub const fn engines(mut self, engines: usize) -> Self {
        self.engines = engines;
        self
    }

    /// Who polls the engine. Default: a thread of its own.
    pub const fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// What the engine does when nothing is to be done.
    pub const fn idle(mut self, idle: IdlePolicy) -> Self {
        self.idle = idle;
        self
    }

    /// How long [`Flow::recv`](crate::Flow::recv) looks for a message before it waits to be woken. Default: not at all.
    ///
    /// For runtimes with several workers, where the [park hook](crate::park_hook) is of no use, whose tasks have a worker
    /// each: the worker does nothing else meanwhile, so with fewer workers than waiting tasks the tasks wait for each
    /// other. Up to 100 µs, and only if the engine has a core of its own. Of no use, and refused, with
    /// [`Placement::Inline`]: the engine could not run meanwhile.
    pub const fn recv_spin(mut self, spin: Duration) -> Self {
        self.recv_spin = spin;
        self
    }

    /// The engine thread's name, of which Linux keeps 15 bytes. Default: `machnet`.
    pub fn thread_name(mut self, name: impl Into<String>) -> Self {
        self.thread_name = name.into();
        self
    }

    /// Runs the engine thread on this core only, numbered as Linux does. By default it runs wherever the thread that
    /// calls [`EndpointBuilder::start`] may run. Several engines take this core and those after it.
    pub const fn pin_to_core(mut self, core: usize) -> Self {
        self.core = Some(core);
        self
    }
}

/// The driver for one engine.
fn one<D: Driver>(driver: D) -> io::Result<D> {
    driver.split(1)?.pop().ok_or_else(|| io::Error::other("a driver for one engine is none"))
}

impl<D: Driver + 'static> EndpointBuilder<D> {
    /// Starts the engine. With [`Placement::Thread`] this waits for the thread to be set up, some tens of microseconds.
    ///
    /// # Errors
    /// `InvalidInput`: a limit of the configuration that contradicts another, a core that does not exist or is not
    /// allowed, a thread name with a NUL; the error says which. `Unsupported`: [`Placement::Inline`] outside of a tokio
    /// runtime, or in one that is not a current-thread runtime; several engines on a driver that serves only one. Else what the operating system says if it has no thread
    /// or file descriptor left.
    ///
    /// # Panics
    /// [`Placement::Inline`] in a runtime without IO, as tokio's own sockets do (`Builder::enable_io`).
    pub fn start(self) -> io::Result<Endpoint> {
        let Self { driver, config, idle, thread_name, core, placement, recv_spin, engines } = self;
        // It may have been opened for several.
        let driver = if engines == 1 { one(driver)? } else { driver };
        let datapath = Datapath { driver, config, idle, thread_name, core, recv_spin };
        let bad = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let engines: Arc<[_]> = match (placement, engines) {
            (Placement::Thread, 1) => Arc::new([datapath.start()?]),
            (Placement::Inline, 1) => Arc::new([datapath.start_inline()?]),
            (Placement::Thread, 2..=MAX_ENGINES) => datapath.start_several(engines)?.into(),
            (Placement::Inline, 2..=MAX_ENGINES) => {
                return bad(format!("{engines} inline engines: one runtime polls one engine"));
            }
            _ => return bad(format!("{engines} engines: there may be 1 to {MAX_ENGINES}")),
        };
        Ok(Endpoint { engines })
    }
}
