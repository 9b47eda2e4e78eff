//! Hosts with several engines behind an opaque hash (`docs/spec/wire.md#several-engines`).
//!
//! ```text
//!   cluster.rs   two hosts with engines, and flows between them that echo and verify
//!   handover.rs  whatever the hash does, every message arrives once and in order
//!   hostile.rs   liars and forgers
//!   mix.rs       everything at once, drawn from the seed
//!   probes.rs    RSS--: what finding good pairs costs, and that it pays
//!   restarts.rs  hosts that die and start again
//! ```

mod cluster;
mod handover;
mod hostile;
mod mix;
mod probes;
mod restarts;

use super::Scenario;

pub(super) const SCENARIOS: [&[Scenario]; 5] =
    [handover::SCENARIOS, probes::SCENARIOS, hostile::SCENARIOS, mix::SCENARIOS, restarts::SCENARIOS];
