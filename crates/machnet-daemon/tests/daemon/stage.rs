//! A daemon of one's own, and what can be known of it from outside.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use machnet_channel::shared::Geometry;
use machnet_daemon::{Allowance, Config, Daemon, Settings};
use machnet_udp::Udp;
use rustix::net::{SendFlags, send};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{connected, hear};

/// Longer than anything takes, on a machine that does much else. It fails tests that would hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Held by whoever has a daemon; alone, by those who count the descriptors of this process.
static DESCRIPTORS: RwLock<()> = RwLock::new(());

/// A daemon on loopback, in a directory of its own.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    dir: TempDir,
    _others: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

pub(crate) fn small() -> Allowance {
    let mut allowance = Allowance::everybody();
    allowance.geometry = Geometry { flows: 64, listeners: 4, descriptors: 64, data: 64 << 10, max_piece: 8192 };
    allowance.quota.flows = 64;
    allowance.quota.listeners = 4;
    allowance.quota.memory = 8 << 20;
    allowance.applications = 64;
    allowance
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With so many engines.
    pub(crate) fn of(engines: usize) -> Self {
        Self::with(|settings| settings.engines = engines)
    }

    /// While no other test opens descriptors.
    pub(crate) fn alone() -> Self {
        Self::alone_with(1)
    }

    /// The same with so many engines.
    pub(crate) fn alone_with(engines: usize) -> Self {
        // Not `write`: while somebody waits there, a test could not have its second daemon.
        let alone = loop {
            match DESCRIPTORS.try_write() {
                Ok(alone) => break alone,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        Self { _alone: Some(alone), ..Self::made(|settings| settings.engines = engines) }
    }

    /// With settings of one's own.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let others = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
        Self { _others: Some(others), ..Self::made(change) }
    }

    /// On the vNIC that a URL names, as `machnet daemon` opens it.
    pub(crate) fn on(url: &str, engines: usize) -> Self {
        let start = |settings| Daemon::open(Config::new(url.parse().unwrap(), settings)).unwrap();
        Self::driven(|settings| settings.engines = engines, start)
    }

    /// With a driver of one's own.
    pub(crate) fn driven(change: impl FnOnce(&mut Settings), start: impl FnOnce(Settings) -> Daemon) -> Self {
        let others = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
        Self { _others: Some(others), ..Self::started(change, start) }
    }

    fn made(change: impl FnOnce(&mut Settings)) -> Self {
        Self::started(change, |settings| Daemon::start(Udp::bind("127.0.0.1:0").unwrap(), settings).unwrap())
    }

    fn started(change: impl FnOnce(&mut Settings), start: impl FnOnce(Settings) -> Daemon) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path().join("m.sock"), vec![small()]);
        settings.engine.linger = Duration::from_millis(200);
        settings.engine.receive_window = 128 << 10;
        // Tests come and go faster than applications.
        (settings.attach_rate, settings.penance) = (100_000, Duration::ZERO);
        change(&mut settings);
        let daemon = start(settings);
        Self { daemon, dir, _others: None, _alone: None }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("m.sock")
    }

    /// What `machnet stat` would show, of all engines: on a busy machine one may be late.
    pub(crate) fn stat(&self) -> Value {
        loop {
            let stat = self.stat_now();
            if stat["engines"].as_array().unwrap().iter().all(|engine| engine["silent"] == false) {
                return stat;
            }
        }
    }

    /// What `machnet stat` would show.
    pub(crate) fn stat_now(&self) -> Value {
        let socket = connected(&self.socket());
        send(&socket, &machnet_channel::shared::Call::Stat.emit(), SendFlags::NOSIGNAL).unwrap();
        serde_json::from_slice(&hear(&socket).0).unwrap()
    }

    /// Waits until the daemon's report is as wanted.
    pub(crate) fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut stat = self.stat();
        until(|| {
            stat = self.stat();
            wanted(&stat)
        });
        stat
    }
}

/// Waits, for a while.
#[track_caller]
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it never happens");
        std::thread::yield_now();
    }
}

/// Descriptors of this process.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
