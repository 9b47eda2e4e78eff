//! Machnet over DPDK: a vNIC's queue pair, driven from user space.
//!
//! ```text
//! config.rs   DpdkBuilder: what a port and its host are to be      url.rs     the same as a URL
//! eal.rs      DPDK's environment: once per process                 log.rs     what it says
//! device.rs   which port is meant                                  facts.rs   what a port can do: its tier
//! port.rs     an engine's part of it, as a FrameDriver                 pool.rs    mbufs as frames of a region
//! attach.rs   devices come and go                              link.rs    what the queues of a port share
//! quirks.rs   what single drivers want                             ffi.rs     every call into DPDK
//! gate.rs     who keeps out while memory goes
//! interface.rs  what the kernel knows of a port's network
//! ```
//!
//! What holds:
//! - Nothing beyond the least common denominator is needed: one queue pair, 256 descriptors, no offload, no interrupts, no
//!   link events. What a device has beyond that is discovered, reported (`Facts`), and not relied on.
//! - Frames *are* mbufs: payloads leave the application's hands in the memory that the device reads, and arrive in the
//!   memory that it wrote.
//! - A device may keep what it transmitted for ever, as virtio does when it is idle: such frames are not counted among
//!   those that can be used, so none is lacking.
//! - Only threads that poll the port call into DPDK, each for its queues, and those that bring it back. Dropping a message, on any thread, touches a list.
//! - Memory outlives its port as long as a message lies in it.
//!
//! What it does not do: receiving frames in several segments, VLANs, secondary processes.
//!
//! Everything is behind the feature `dpdk`; without it the crate is empty and needs no DPDK. Reference: `docs/drivers.md`.
#![cfg(feature = "dpdk")]

mod attach;
mod config;
mod device;
mod eal;
mod facts;
mod ffi;
mod gate;
mod gather;
mod interface;
mod lent;
mod link;
mod log;
mod pool;
mod port;
mod quirks;
mod refusal;
mod url;

pub use config::{Dpdk, PortBuilder};
pub use device::{Device, NoDevice};
pub use eal::{Eal, HugePages};
pub use facts::{Facts, Tier};
pub use interface::Interface;
pub use port::{Port, PortStats};
pub use url::{DpdkUrl, UrlError};
