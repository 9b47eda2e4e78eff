//! Machnet's core: wire formats, flows and the engine, sans-IO.
//!
//! It reads no clock, opens no socket, starts no thread and draws no randomness: time and a seed come in as arguments.
//! That makes simulations deterministic, and the engine usable in a thread, in a daemon, or polled by a runtime.
#![forbid(unsafe_code)]

pub mod cc;
mod channel;
mod config;
mod driver;
mod drops;
mod engine;
mod flow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod group;
mod hairpin;
pub mod net;
mod placement;
mod ports;
mod seq;
mod time;

pub use channel::{
    Account, AppChannel, Arrival, Building, Claims, Counters, Ended, FlowReport, Gate, Hint, ListenSlot, LocalChannel,
    News, Ports, Quota, Report, Slot, TenantReport, Tenants,
};
pub use config::{Config, ConfigError, MAX_MESSAGE};
pub use driver::{Capabilities, Driver, LONG_FRAME, Meta, RxPacket, TxPacket, Unreachable};
pub use drops::{DropReason, Drops};
pub use engine::{Engine, EngineStats, Progress};
pub use group::{MAX_ENGINES, Member};
pub use hairpin::Hairpin;
pub use machnet_channel::{Congestion, FlowOptions};
pub use time::{Instant, Span};
pub mod wire;
