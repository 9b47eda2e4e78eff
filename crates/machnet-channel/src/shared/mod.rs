//! The channel between an application and a daemon that do not trust each other: words and pipes in one piece of shared
//! memory (`docs/spec/sidecar.md`).
//!
//! ```text
//!   application                    region                                   daemon
//!   AppSide ── claims, intent ──▶ flows, listeners ──┐
//!           ── messages ────────▶ pipe               ├─ marks: look there ─▶ DaemonSide
//!           ◀─ state, progress ── flows, listeners ──┤
//!           ◀─ messages ───────── pipe             ──┘
//!                    wants: who sleeps, and what for; the bell is a socket beside the region
//! ```
//!
//! Both sides run on any [`Words`](crate::Words): a [`ForeignRegion`](crate::ForeignRegion) in the product, plain or
//! loom's atomics in tests. Neither believes the other: each word is read once and checked, and what cannot be is a
//! [`Malformed`], after which the channel is over. State lies in words that are written over; what travels in pipes is
//! payload; a mark only says "look there", so it may be early or superfluous, never lost.

mod app;
mod attachment;
#[cfg(all(test, not(machnet_loom)))]
mod attachment_tests;
mod daemon;
mod ends;
mod geometry;
mod hello;
#[cfg(all(test, machnet_loom))]
pub(crate) mod loom;
mod malformed;
mod marks;
mod served;
mod status;
mod table;
mod tag;
#[cfg(all(test, not(machnet_loom)))]
mod tests;
mod values;
mod wants;

pub use app::{AcceptedView, AppSide, FlowView, Incoming, ListenerView, Note};
pub use attachment::{Afterwards, Attachment, Line, Over};
pub use daemon::{DaemonSide, Event};
pub use geometry::Geometry;
pub use hello::{
    Attach, Call, FEATURES, HelloError, MAX_CHANNELS, Refusal, Refused, Reply, SEVERAL, STATUS, VERSIONS, Welcome,
};
pub use malformed::{Malformed, Word};
pub use status::{STATUS_BYTES, STATUS_COUNTERS};
pub use tag::Piece;

/// Units beyond *room* that may be posted on a flow by who finishes it: what a stream gathered while there was no room
/// (64 KiB), and has promised to send.
pub const TAIL: u64 = 2 * crate::cost_in_units(64 << 10);
