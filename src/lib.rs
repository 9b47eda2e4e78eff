//! Machnet: fast userspace networking for tokio services on public-cloud VMs.
//!
//! This package is a façade: what applications use, under one name. The documentation is [`machnet_async`]'s.
#![forbid(unsafe_code)]

pub use machnet_async::{
    CloseReason, Config, ConfigError, Driver, DropReason, Drops, Endpoint, EndpointBuilder, EngineStats, Flow,
    FlowError, FlowStats, IdlePolicy, Listener, Message, NoDriver, RecvHalf, ReuniteError, SendError, SendErrorReason,
    SendHalf, Udp, UdpBuilder, future,
};
