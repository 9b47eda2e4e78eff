//! The seam between one engine and one application: all that the two share, and nothing else.
//!
//! ```text
//!   application                                     engine
//!   SendEnd ──outbox (SPSC)──────────────────────▶ EngineEnd
//!   RecvEnd ◀─inbox (SPSC)──────────────────────── EngineEnd
//!      │ consumed, intent                              │ room, acknowledged, tell_at, state
//!      └── hint ──▶ Intake { flows, listeners, bell } ─┘ wakers rx / tx / state
//! ```
//!
//! Empty frames to build messages in wait in a [`Stock`]; a message lies in one, in other memory, or in the frame it arrived in.
//!
//! Every piece of state lives in its [`Mailbox`] (per flow) or [`Backlog`] (per listener); what travels through a
//! [`HintQueue`] is only a hint to look there. A hint may therefore be early, late or superfluous, but never lost.
//!
//! This crate holds the project's unsafe code for shared state. Atomics come through `crate::sync`, so that loom
//! (`RUSTFLAGS="--cfg machnet_loom"`) checks the very code that ships. It does not know packets, sockets or time.

mod backlog;
mod chain;
mod chunks;
mod doorbell;
#[cfg(not(machnet_loom))]
mod fd;
#[cfg(not(machnet_loom))]
mod foreign;
mod frame;
mod front;
mod hint_queue;
mod inbox;
mod intake;
mod lent;
mod mailbox;
mod message;
mod options;
mod pipe;
mod poked;
mod reserved;
mod ring;
#[cfg(all(test, not(machnet_loom)))]
mod ring_tests;
pub mod shared;
mod spinner;
mod spsc;
mod state;
mod stock;
mod sync;
mod tried;
mod words;

#[cfg(all(test, machnet_loom))]
mod loom_tests;
#[cfg(all(test, not(machnet_loom)))]
mod stress_tests;

pub use backlog::{Accepted, Backlog, BacklogConsumer, BacklogProducer};
pub use chain::{Chain, Joined};
pub use chunks::{Chunks, IntoChunks};
pub use doorbell::Doorbell;
#[cfg(not(machnet_loom))]
pub use fd::ReadableFd;
#[cfg(not(machnet_loom))]
pub use foreign::ForeignRegion;
pub use frame::{Frame, FramePool, FrameRef, Private, Region};
pub use hint_queue::{Drain, HintQueue, Link, Linked};
pub use inbox::{Inbox, InboxReceiver};
pub use intake::{Intake, Pump};
pub use mailbox::{Asks, EngineEnd, FlowStats, Mailbox, RecvEnd, SendEnd, Wakes, Waking};
pub use message::Message;
pub use options::{Congestion, FlowOptions};
pub use pipe::{Descriptor, PipeError, PipePlace, PipeReceiver, PipeSender};
pub use poked::{Poked, Work};
pub use reserved::Reserved;
pub use ring::{RingConsumer, RingError, RingProducer, RingSide, ring_words};
#[cfg(not(machnet_loom))]
pub use spinner::current;
pub use spinner::{Due, Spinner, Spinning};
pub use state::{CloseReason, FlowState, Intent};
pub use stock::{BUILD_FROM, Stock, Stocker};
pub use tried::Tried;
pub use words::Words;

/// Granularity of flow control and of reassembly, in bytes (`docs/spec/wire.md#credit`).
pub const UNIT: u64 = 64;

/// What a message of `len` bytes costs in units: one for the message itself, and one per started 64 bytes of payload
/// (`docs/spec/wire.md#credit`). An empty message costs 1, so a peer cannot send infinitely many of them for nothing.
#[must_use]
pub const fn cost_in_units(len: usize) -> u64 {
    1 + (len as u64).div_ceil(UNIT)
}
