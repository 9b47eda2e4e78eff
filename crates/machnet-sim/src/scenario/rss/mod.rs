//! Hosts with several engines behind an opaque hash (`docs/spec/wire.md#several-engines`).
//!
//! ```text
//!   cluster.rs   two hosts with engines, and flows between them that echo and verify
//!   handover.rs  whatever the hash does, every message arrives once and in order
//!   hostile.rs   liars and forgers
//!   probes.rs    RSS--: what finding good pairs costs, and that it pays
//! ```

mod cluster;
mod handover;
mod hostile;
mod probes;

use super::Scenario;

pub(super) const SCENARIOS: [&[Scenario]; 3] = [handover::SCENARIOS, probes::SCENARIOS, hostile::SCENARIOS];
