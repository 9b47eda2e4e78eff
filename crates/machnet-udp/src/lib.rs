//! Machnet over UDP sockets: the driver that runs anywhere, unprivileged.
//!
//! ```text
//!   rx_burst ◀── frames ◀─copy─ slots (64 KiB each) ◀─ recvmmsg + GRO ─┐
//!                                                                      ├─ one socket per open port ─ epoll ─▶ wait
//!   tx_burst ──▶ staging (64 KiB) ── sendmsg + GSO ────────────────────┘
//!   unreachable ◀── error queue (IP_RECVERR)
//! ```
//!
//! What holds:
//! - Ports are exclusive: no SO_REUSEADDR, no SO_REUSEPORT, IPv6 sockets are IPv6 only.
//! - A received datagram is lost only with a reason in [`Driver::drops`](machnet_core::Driver::drops), or in the
//!   kernel when the socket's buffer is full: what finds no frame waits in its slot.
//! - One copy each way. Nothing is allocated per packet, no clock is read.
//! - An idle engine can sleep on [`Driver::wait`](machnet_core::Driver::wait): it is readable only while there is
//!   something to do.
//!
//! What it does not do: fragmentation (DF is set, an oversized datagram is lost and counted), ECN, steering.
#![forbid(unsafe_code)]

mod config;
mod group;
mod icmp;
mod mtu;
mod route;
mod rx;
mod sockets;
mod tx;
mod udp;

pub use config::UdpBuilder;
pub use udp::Udp;
