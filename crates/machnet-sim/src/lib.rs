//! Machnet's simulator: an in-memory fabric in virtual time, and engines stepped deterministically on it.
//!
//! ```text
//!   scenarios (what is promised, and by whom)          scenario/, matrix.rs
//!     │ worlds drawn or built              ▲ figures  attempt.rs, record.rs, topology.rs, fault.rs
//!   tasks (async, ordinary code over mailboxes)        executor.rs, node.rs, workload.rs, dialog.rs, apps.rs
//!     │ SendEnd / RecvEnd / Listener      ▲ wakers
//!   engines (one per host: the real ones)              world.rs, machine.rs: polls them as their runners would
//!     │ SimDriver                         ▲            driver.rs; frames.rs: under core's network layer
//!   fabric: NICs ─ routes of links ─ NICs              fabric.rs, nic.rs, link.rs, queue.rs, trace.rs, pcapng.rs, ethernet.rs
//!     └ oracle: what engines may put on the wire       oracle.rs
//! ```
//!
//! Nothing here reads a clock or draws randomness from the system: a world is a function of its `u64` seed. Two runs
//! with one seed produce the same trace to the byte, which [`Fabric::trace_hash`] lets tests assert.
//!
//! What is modelled: delay, serialisation at a rate, drop-tail queues, loss, duplication, reordering, corruption (seen
//! by a checksum, or not), MTUs, policers, receive rings, what rounds and packets cost an engine, frames that the device keeps, several queues behind a hash (rss.rs), ports, ICMP "port unreachable", and the
//! protocol by which an engine goes to sleep and is woken. NICs move datagrams, or Ethernet frames under core's network layer
//! (frames.rs, [`NicConfig::ethernet`]). What is not modelled: fragmentation, and threads (loom's business, in `machnet-channel`).
#![forbid(unsafe_code)]

mod apps;
mod attempt;
mod dialog;
mod driver;
mod ethernet;
mod executor;
mod fabric;
pub mod fault;
mod frames;
pub mod fuzz;
mod link;
mod machine;
mod matrix;
mod nic;
mod node;
mod oracle;
mod packet;
mod pair;
mod pcapng;
mod queue;
mod record;
mod rng;
mod rss;
pub mod scenario;
pub mod setup;
mod topology;
mod trace;
mod workload;
mod world;

pub use apps::{Bulk, Calls, Latencies, goodput};
pub use attempt::{Outcome, Traced, attempt, keep_panics, trace};
pub use dialog::{Dialog, Ended};
pub use driver::{Ethernet, NicConfig, NoFrame, SimDriver};
pub use executor::{Handle, Sleep, Task};
pub use fabric::{Fabric, HostId, LinkId};
pub use frames::Attached;
pub use link::{Bursts, Corruption, Filter, Link, LinkStats, OVERHEAD, Policer, Sighting, Verdict};
pub use matrix::{CELLS, difference, matrix};
pub use nic::NicStats;
pub use node::{Flow, Listener, Node, reaches, receive, send, send_built};
pub use packet::{Chunk, Seen, describe};
pub use pair::{Pair, listen};
pub use pcapng::write_pcapng;
pub use record::{Recorder, Tally};
pub use rng::SimRng;
pub use rss::Rss;
pub use topology::Port;
pub use trace::{Event, EventKind};
pub use workload::{Pace, Plan};
pub use world::{Failure, MachineId, Trouble, World, WorldConfig};
