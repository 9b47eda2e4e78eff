//! What an application may choose for a flow.

/// How a flow finds out how much the path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// CUBIC (RFC 9438): fair to TCP, for paths shared with the world.
    Cubic,
    /// Swift (SIGCOMM 2020): keeps queues short by delay, for datacentre paths.
    Swift,
    /// A window that never changes, whatever is lost: for measurements, not for networks that others use.
    Fixed {
        /// Bytes in flight, at least one packet and at most 16 MiB.
        bytes: u32,
    },
}

/// Options of a flow. What is not chosen is as the endpoint has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowOptions {
    /// Congestion control of this side's sending direction.
    pub congestion: Option<Congestion>,
}

impl FlowOptions {
    /// Nothing chosen.
    #[must_use]
    pub const fn new() -> Self {
        Self { congestion: None }
    }

    /// Chooses the congestion control of this side's sending direction.
    #[must_use]
    pub const fn congestion(mut self, congestion: Congestion) -> Self {
        self.congestion = Some(congestion);
        self
    }
}
