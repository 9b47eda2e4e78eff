//! The simulation suite: what the fabric does, and what engines on it must and must not do.
//!
//! A scenario that fails names its seed and the command that repeats it. `MACHNET_SIM_SEED=n` runs that seed alone,
//! `MACHNET_SIM_SEEDS=n` raises the number of seeds (of a test that runs 200 by default; others in proportion),
//! `MACHNET_SIM_TRACE=n` shows the newest n events of the fabric with a failure.

mod built;
mod chunks;
mod common;
mod cookies;
mod ending;
mod fabric;
mod fairness;
mod gathered;
mod handshake;
mod hostile;
mod limits;
mod loss;
mod mtu;
mod regressions;
mod seeds;
mod tombstones;
mod transfer;
