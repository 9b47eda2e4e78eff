//! Machnet's sidecar: engines that many applications share, which trust neither them nor each other.
//!
//! ```text
//!   config/    machnet.toml
//!   socket.rs  the file that applications connect to
//!   control/   the thread that lets them in, watches them, and tells about them
//!   desk.rs    between it and the engines' threads
//!   notify.rs  the service manager
//! ```
//!
//! What an engine does for them is [`Tenants`]; what lies in the memory that they share with it, `docs/spec/sidecar.md`;
//! what an operator has to know, `docs/daemon.md`.
//!
//! The daemon trusts the kernel about who an application is (SO_PEERCRED), and nothing that the application says. It creates
//! every descriptor, and takes none.
#![forbid(unsafe_code)]

mod config;
mod control;
mod desk;
mod notify;
mod socket;
mod url;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use machnet_async::engine::{EngineThread, Outcome, Status, seed};
use machnet_core::{Claims, Driver, EngineStats, Hairpin, MAX_ENGINES, Member, Tenants};
use machnet_shm::Shm;
use machnet_udp::Udp;

pub use config::{Allowance, Config, ConfigError, Mistake, Settings};
use control::Control;
use desk::{Desk, Reception};
use socket::Listener;
pub use url::DriverUrl;

/// A daemon that runs. Dropped, it ends, as by [`Daemon::stop`], and that is waited for.
#[derive(Debug)]
pub struct Daemon {
    desk: Arc<Desk>,
    /// Of each engine.
    statuses: Vec<Arc<Status>>,
    home: SocketAddr,
    socket: PathBuf,
    control: Option<JoinHandle<io::Result<Outcome>>>,
}

impl Daemon {
    /// Starts what a configuration describes.
    ///
    /// # Errors
    /// The vNIC cannot be opened, or not for so many engines; `AddrInUse`: another daemon serves the socket; else as [`Daemon::start`].
    pub fn open(config: Config) -> io::Result<Self> {
        let Config { driver, settings } = config;
        let name = driver.to_string();
        match driver {
            DriverUrl::Udp(address) => {
                let driver = Udp::bind(address)?;
                Self::run(Hairpin::shared(driver, own_addresses(address.ip())), settings, name)
            }
            DriverUrl::Shm(wire) => Self::run(Hairpin::alone(Shm::attach(&wire)?), settings, name),
            #[cfg(feature = "dpdk")]
            DriverUrl::Dpdk(port) => {
                let driver = port.for_engines(settings.engines).open()?;
                Self::run(Hairpin::alone(driver), settings, name)
            }
        }
    }

    /// Starts a daemon on a driver of one's own: for tests and simulations. Nothing is turned around that the driver does
    /// not.
    ///
    /// # Errors
    /// `AddrInUse`: another daemon serves the socket. `Unsupported`: several engines on a driver that serves one. `InvalidInput`: the engine's limits contradict each other, the
    /// driver, or an [`Allowance`]. Else what the system says: no such directory, no descriptors, no threads.
    pub fn start<D: Driver + 'static>(driver: D, settings: Settings) -> io::Result<Self> {
        let name = format!("at {}", driver.home());
        Self::run(driver, settings, name)
    }

    fn run<D: Driver + 'static>(driver: D, settings: Settings, name: String) -> io::Result<Self> {
        let started = Instant::now();
        for allowance in &settings.allow {
            let fits = allowance.check(settings.engine.receive_window);
            fits.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        }
        let listener = Listener::bind(&settings.socket, settings.mode, settings.group)?;
        let (count, home) = (settings.engines, driver.home());
        if !(1..=MAX_ENGINES).contains(&count) {
            let text = format!("{count} engines: there may be 1 to {MAX_ENGINES}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (desk, claims) = (Desk::new(count)?, Arc::<Claims>::default());
        let statuses = match start_engines(driver, &settings, &desk, &claims) {
            Ok(statuses) => statuses,
            Err(error) => {
                // Those that run.
                desk.close();
                return Err(error);
            }
        };
        let socket = settings.socket.clone();
        let control = Control {
            settings,
            home,
            driver: name.clone(),
            listener,
            desk: Arc::clone(&desk),
            claims,
            statuses: statuses.clone(),
            started,
        };
        let thread = std::thread::Builder::new().name("machnet-control".to_owned());
        let control = match thread.spawn(move || control.run()) {
            Ok(thread) => thread,
            Err(error) => {
                desk.close();
                return Err(error);
            }
        };
        tracing::info!(driver = name, %home, engines = count, socket = %socket.display(), "serving");
        notify::ready(&format!("serving {} at {}", home, socket.display()));
        Ok(Self { desk, statuses, home, socket, control: Some(control) })
    }

    /// The address that its applications' flows leave from.
    #[must_use]
    pub const fn home(&self) -> SocketAddr {
        self.home
    }

    /// Where applications find it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its engines' counters, as last published: the sums.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut sum = EngineStats::default();
        self.engine_stats().iter().for_each(|stats| sum.add(stats));
        sum
    }

    /// The counters of each engine.
    #[must_use]
    pub fn engine_stats(&self) -> Vec<EngineStats> {
        self.statuses.iter().map(|status| status.stats()).collect()
    }

    /// How often its engines went to sleep.
    #[must_use]
    pub fn sleeps(&self) -> u64 {
        self.statuses.iter().map(|status| status.parks()).sum()
    }

    /// What ends it from another thread, or a signal's.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.desk))
    }

    /// Asks it to end: flows finish what their applications have sent, bounded by [`Settings::drain`].
    pub fn stop(&self) {
        self.desk.close();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// `TimedOut`: flows were cut off. `Other`: an engine failed.
    pub fn join(mut self) -> io::Result<()> {
        self.wait()
    }

    fn wait(&mut self) -> io::Result<()> {
        let Some(control) = self.control.take() else { return Ok(()) };
        match control.join() {
            Ok(Ok(Outcome::Finished)) => Ok(()),
            Ok(Ok(_)) => Err(io::Error::other("an engine panicked")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the control thread panicked")),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if let Err(error) = self.wait() {
            tracing::warn!(%error, "the daemon did not end in order");
        }
    }
}

/// Ends a [`Daemon`].
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Desk>);

impl Stopper {
    /// As [`Daemon::stop`].
    pub fn stop(&self) {
        self.0.close();
    }
}

/// A thread for each engine, on the queues that the driver is divided into.
fn start_engines<D: Driver + 'static>(
    driver: D,
    settings: &Settings,
    desk: &Arc<Desk>,
    claims: &Arc<Claims>,
) -> io::Result<Vec<Arc<Status>>> {
    let Settings { engine: config, idle, engines, cores, nice, .. } = settings;
    let members: Vec<Option<Member>> = match engines {
        1 => vec![None],
        _ => Member::group(&desk.bells(), seed()?).into_iter().map(Some).collect(),
    };
    let start = |(n, (driver, member)): (usize, (D, Option<Member>))| {
        let channel = Tenants::one_of(Reception::new(Arc::clone(desk), n)?, Arc::clone(claims))?;
        let (config, idle, core) = (*config, *idle, cores.get(n).copied());
        let status = Arc::new(Status::default());
        let name = format!("machnet-eng-{n}");
        EngineThread { driver, channel, config, idle, name, core, nice: *nice }.start_as(&status, member)?;
        Ok(status)
    };
    driver.split(*engines)?.into_iter().zip(members).enumerate().map(start).collect()
}

/// The addresses that a driver bound to `ip` is reached at: of a wildcard, those of all interfaces as they are now.
fn own_addresses(ip: IpAddr) -> Vec<IpAddr> {
    if !ip.is_unspecified() {
        return vec![ip];
    }
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    let addresses = interfaces.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    addresses.filter(|address| address.is_ipv4() == ip.is_ipv4()).collect()
}
