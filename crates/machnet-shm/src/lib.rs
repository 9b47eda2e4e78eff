//! Machnet over shared memory: a wire between engines in several processes of one host, unprivileged.
//!
//! ```text
//!   client 127.0.0.2 ══ region: two rings, two data areas ══╗
//!                    ── socket: bell and life line ──────── hub 127.0.0.1    shm://name
//!   client 127.0.0.3 ══ region ════════════════════════════╝
//! ```
//!
//! The first process that binds a name is its **hub**, the others are **clients** of it, each with a wire and an address
//! of its own: a name is a little network, whose addresses are those of loopback and mean nothing outside of it. The
//! hub is always 127.0.0.1. Clients reach the hub and themselves, not each other.
//!
//! What holds:
//! - A wire loses nothing: what finds no frame stays in shared memory, and what finds no room there waits at its sender
//!   (of a hub with several clients, up to a limit: one that stands still must not stop the others).
//! - The other process is not trusted. What it can write is copied to a private frame, once, before it is parsed; each
//!   index and descriptor is read once and checked. One that is impossible ends the wire, with a warning that says what
//!   it was, and its packet is counted as [`Malformed`](machnet_core::DropReason::Malformed).
//! - A process that dies at any instruction leaves a closed socket behind, and its wire ends. Its memory is freed, its
//!   address not given again soon. Flows over it end as dead peers do.
//! - No system call per packet while both sides are awake: one rings the other's socket only if it sleeps. Whatever the
//!   other side does, ringing does not block.
//! - Only processes of the same user are admitted.
//!
//! What it does not do: wires between users or hosts, attaching again by itself after the hub is gone.
//!
//! Reference: `docs/spec/shm.md`.
#![forbid(unsafe_code)]

mod config;
mod geometry;
mod handshake;
mod porter;
mod ports;
mod rendezvous;
mod shm;
mod slots;
mod wire;
mod wires;

pub use config::ShmBuilder;
pub use shm::{Shm, ShmStats};
