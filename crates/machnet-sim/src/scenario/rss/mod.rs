//! Hosts with several engines behind an opaque hash (`docs/spec/wire.md#several-engines`).
//!
//! ```text
//!   cluster.rs   two hosts with engines, and flows between them that echo and verify
//!   handover.rs  whatever the hash does, every message arrives once and in order
//! ```

mod cluster;
mod handover;

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = handover::SCENARIOS;
