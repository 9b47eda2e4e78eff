//! Hosts with several engines behind an opaque hash (`docs/spec/wire.md#several-engines`).
//!
//! ```text
//!   cluster.rs   two hosts with engines, and flows between them that echo and verify
//!   handover.rs  whatever the hash does, every message arrives once and in order
//!   probes.rs    RSS--: what finding good pairs costs, and that it pays
//! ```

mod cluster;
mod handover;
mod probes;

use super::Scenario;

pub(super) const SCENARIOS: [&[Scenario]; 2] = [handover::SCENARIOS, probes::SCENARIOS];
