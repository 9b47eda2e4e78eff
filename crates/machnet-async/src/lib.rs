//! Machnet for async applications (documentation follows).
#![forbid(unsafe_code)]

mod datapath;
mod endpoint;
mod error;
mod flow;
mod idle;
mod listener;
mod parker;
#[cfg(test)]
mod tests;

/// The futures that endpoints, listeners and flows return.
pub mod future {
    pub use crate::endpoint::Shutdown;
    pub use crate::flow::{Close, Connect, Recv, Send};
    pub use crate::listener::{Accept, Listen};
}

pub use endpoint::{Endpoint, EndpointBuilder, NoDriver};
pub use error::{FlowError, SendError, SendErrorReason};
pub use flow::{Flow, RecvHalf, ReuniteError, SendHalf};
pub use idle::IdlePolicy;
pub use listener::Listener;
pub use machnet_channel::{CloseReason, FlowStats, Message};
pub use machnet_core::{Config, ConfigError, Driver, DropReason, Drops, EngineStats};
pub use machnet_udp::{Udp, UdpBuilder};
