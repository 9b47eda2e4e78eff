//! Machnet: fast userspace networking for tokio services on public-cloud VMs.
//!
//! This package is a façade: what applications use, under one name. How it works, from waking to errors, is told by
//! [`machnet_async`].
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use machnet::{Endpoint, Udp};
//!
//! let endpoint = Endpoint::builder().driver(Udp::bind("0.0.0.0:0")?).start()?;
//! let mut flow = endpoint.connect("10.0.0.2:9000".parse().unwrap()).await?;
//! flow.send("hello").await?;
//! let reply = flow.recv().await?;
//! # let _ = reply;
//! flow.close().await
//! # }
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "dpdk")]
pub use machnet_async::dpdk;
#[doc(inline)]
pub use machnet_async::{
    AttachBuilder, Chunks, CloseReason, Config, ConfigError, Congestion, Driver, DropReason, Drops, Endpoint,
    EndpointBuilder, EngineStats, Flow, FlowError, FlowIncoming, FlowListener, FlowOptions, FlowStats, FlowStream,
    IdlePolicy, Incoming, IntoChunks, Listener, Message, Messages, NoDriver, ParkHook, Placement, Reconnect, RecvHalf,
    Reserved, ReuniteError, SendError, SendErrorReason, SendHalf, Shm, ShmBuilder, ShmStats, TrySendError, Udp,
    UdpBuilder, WakeStats, adapters, future, halves, park_hook, transport,
};

// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
