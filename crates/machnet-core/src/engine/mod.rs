//! The engine (being written): one driver queue, its flows, timers and applications; `poll(now)`.

use crate::{AppChannel, Config, ConfigError, Driver, Drops, Instant};

/// What a round did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Progress {
    /// True if the round moved anything: poll again at once.
    pub busy: bool,
    /// When to poll again at the latest, if nothing happens before.
    pub next_deadline: Option<Instant>,
}

/// Counters of an engine.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EngineStats {
    /// Datagrams received.
    pub packets_received: u64,
    /// Datagrams handed to the driver.
    pub packets_sent: u64,
    /// Flows that exist, half-open and closing ones included.
    pub flows: u64,
    /// Reassembly buffers in use.
    pub buffers_in_use: u64,
    /// Drops by reason, the driver's included.
    pub drops: Drops,
}

/// The datapath.
#[derive(Debug)]
pub struct Engine<D, C> {
    driver: D,
    channel: C,
}

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// An engine on `driver`, serving `channel`. `seed` feeds the generator of flow ids and must be unpredictable
    /// outside of simulations.
    ///
    /// # Errors
    /// A limit that contradicts another or the driver's capabilities.
    pub fn new(driver: D, channel: C, config: Config, seed: [u8; 32]) -> Result<Self, ConfigError> {
        let _ = (config, seed);
        Ok(Self { driver, channel })
    }

    /// One bounded round: receive, look at applications, timers, send, wake. `now` never goes back.
    pub fn poll(&mut self, now: Instant) -> Progress {
        let _ = now;
        self.channel.end_round();
        Progress { busy: false, next_deadline: None }
    }

    /// Called after the doorbell was armed: true if nothing waits and the engine may sleep until the next deadline,
    /// the doorbell or the driver's file descriptor.
    pub fn may_sleep(&mut self) -> bool {
        !self.channel.has_work() && !self.driver.starve()
    }

    /// True once the application asked to close and every flow has ended: the engine may be dropped.
    pub fn is_finished(&self) -> bool {
        self.channel.is_closing()
    }

    /// The driver.
    pub const fn driver(&self) -> &D {
        &self.driver
    }

    /// The driver, for simulations that steer it.
    pub const fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// The engine's counters.
    pub fn stats(&self) -> EngineStats {
        EngineStats { drops: self.driver.drops(), ..EngineStats::default() }
    }
}
