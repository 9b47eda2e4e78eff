//! The same tests with engines in daemons.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, OnceLock};

use machnet_async::{AttachBuilder, Config, Endpoint, EngineStats, Udp};
use machnet_daemon::{Allowance, Daemon, DriverUrl, Settings};

/// In a test binary whose endpoints are attached to daemons: which ones.
pub const OVER_SIDECAR: &str = "MACHNET_TEST_OVER_SIDECAR";

/// The sockets of two daemons that run, joined by whatever, with the default configuration: `PATH,PATH`. Set by `cargo xtask test`.
const JOINED: &str = "MACHNET_TEST_DAEMONS";

/// A directory of this process for sockets.
static SOCKETS: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Daemons that live as long as the process.
static DAEMONS: Mutex<Vec<Daemon>> = Mutex::new(Vec::new());

/// Runs every test of this binary once more, but those in `except`, with two daemons: one for each endpoint, every second of
/// which has two engines.
pub fn again_over_two_daemons(except: &[&str]) {
    if std::env::var(JOINED).is_err() {
        super::again("over two daemons", except, OVER_SIDECAR, |_| "two".to_owned());
    }
}

/// The same with the two daemons that run, if there are any: endpoints are attached to one and the other in turn. Not for those in
/// `except`, which need daemons of their own, or are about addresses of this host.
pub fn again_over_joined_daemons(except: &[&str]) {
    if std::env::var(JOINED).is_ok() {
        super::again("over joined daemons", except, OVER_SIDECAR, |_| "joined".to_owned());
    }
}

/// The same with one daemon of two engines, which endpoints of the default configuration share: their flows never leave it.
pub fn again_over_one_daemon(except: &[&str]) {
    if std::env::var(JOINED).is_ok() {
        return;
    }
    super::again("over one daemon", except, OVER_SIDECAR, |_| "one".to_owned());
}

/// A socket that nobody has.
pub fn socket() -> PathBuf {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    SOCKETS.path().join(format!("{number}.sock"))
}

pub fn settings(config: Config) -> Settings {
    let mut many = Allowance::everybody();
    (many.quota.flows, many.geometry.flows) = (1024, 1024);
    many.quota.memory = many.quota.memory.max(1024 * u64::from(config.receive_window));
    let mut settings = Settings::new(socket(), vec![many]);
    settings.memory = 1 << 40;
    settings.engine = config;
    settings
}

/// A daemon on loopback.
pub fn daemon(config: Config) -> Daemon {
    Daemon::start(Udp::bind((super::V4, 0)).unwrap(), settings(config)).unwrap()
}

/// In a test binary whose endpoints are attached to daemons: one.
pub fn endpoint_at(ip: IpAddr, config: Config) -> Option<Endpoint> {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let which = std::env::var(OVER_SIDECAR).ok()?;
    if which == "joined" {
        assert!(config == Config::default() && ip == super::V4, "a test that needs daemons of its own");
        let sockets = std::env::var(JOINED).unwrap();
        let sockets: Vec<_> = sockets.split(',').collect();
        return Some(AttachBuilder::new(sockets[NUMBER.fetch_add(1, Relaxed) % 2]).attach().unwrap());
    }
    let path = if which == "one" && config == Config::default() && ip == super::V4 {
        SHARED
            .get_or_init(|| {
                let driver: DriverUrl = "udp://127.0.0.1:0".parse().unwrap();
                let mut settings = settings(config);
                settings.engines = 2;
                keep(Daemon::open(machnet_daemon::Config { driver, settings }).unwrap())
            })
            .clone()
    } else {
        let mut settings = settings(config);
        settings.engines = 1 + NUMBER.fetch_add(1, Relaxed) % 2;
        keep(Daemon::start(Udp::bind((ip, 0)).unwrap(), settings).unwrap())
    };
    Some(AttachBuilder::new(path).attach().unwrap())
}

/// The counters of the daemon that an endpoint is attached to.
pub fn stats(endpoint: &Endpoint) -> Option<EngineStats> {
    let daemons = DAEMONS.lock().unwrap();
    daemons.iter().find(|daemon| daemon.home() == endpoint.local_addr()).map(Daemon::stats)
}

fn keep(daemon: Daemon) -> PathBuf {
    let path = daemon.socket().to_owned();
    DAEMONS.lock().unwrap().push(daemon);
    path
}
