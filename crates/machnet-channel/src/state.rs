//! The words of a mailbox that are sets of bits: what the application wants, and where the flow stands.

/// What the application wants of a flow; bits are only ever added.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Intent(pub(crate) u32);

impl Intent {
    /// No more messages will be posted: send FIN after the last one.
    pub const FIN: Self = Self(1);
    /// The application reads no more: send STOP, discard what arrives.
    pub const STOP: Self = Self(1 << 1);
    /// End the flow at once, both ways: send ABORT.
    pub const ABORT: Self = Self(1 << 2);
    /// Long messages may stay in the packets that they come in. Nothing that a daemon is told: what it delivers is a copy anyway.
    pub const CHUNKS: Self = Self(1 << 3);

    /// True if every bit of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits that `other` has not.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl std::fmt::Debug for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [(Self::FIN, "FIN"), (Self::STOP, "STOP"), (Self::ABORT, "ABORT"), (Self::CHUNKS, "CHUNKS")];
        f.debug_set().entries(names.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name)).finish()
    }
}

/// Where a flow stands, as its engine last published it; bits are only ever added, except that a connecting flow has
/// none of them. `docs/spec/flow.md#published-state`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowState(pub(crate) u32);

impl FlowState {
    /// The handshake is not over.
    pub const CONNECTING: Self = Self(0);
    /// The handshake succeeded: messages may be posted and received.
    pub const OPEN: Self = Self(1);
    /// The peer's FIN and everything before it is in the inbox: nothing follows.
    pub const READ_ENDED: Self = Self(1 << 1);
    /// The peer reads no more (STOP), or the flow is over: posting is pointless.
    pub const WRITE_ENDED: Self = Self(1 << 2);
    /// Our FIN was acknowledged by the peer's transport, and therefore every message before it that was not discarded
    /// because the peer reads no more: what was acknowledged is counted.
    pub const FIN_ACKED: Self = Self(1 << 3);
    /// The flow is over; [`FlowState::reason`] says why. Published last.
    pub const CLOSED: Self = Self(1 << 4);

    /// Our FIN was not acknowledged for as long as the configured linger. The flow goes on.
    pub const FIN_LATE: Self = Self(1 << 5);

    /// True if every bit of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The state with the flow closed for `reason`.
    #[must_use]
    pub const fn closed(self, reason: CloseReason) -> Self {
        Self(self.0 & 0xffff | Self::CLOSED.0 | Self::WRITE_ENDED.0 | (reason as u32) << 16)
    }

    /// Why the flow is over; `None` while it is not.
    #[must_use]
    pub const fn reason(self) -> Option<CloseReason> {
        if self.has(Self::CLOSED) { Some(CloseReason::from_bits((self.0 >> 16) as u8)) } else { None }
    }
}

impl std::fmt::Debug for FlowState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [
            (Self::OPEN, "OPEN"),
            (Self::READ_ENDED, "READ_ENDED"),
            (Self::WRITE_ENDED, "WRITE_ENDED"),
            (Self::FIN_ACKED, "FIN_ACKED"),
            (Self::FIN_LATE, "FIN_LATE"),
        ];
        let mut set = f.debug_set();
        set.entries(names.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name));
        if let Some(reason) = self.reason() {
            set.entry(&reason);
        }
        set.finish()
    }
}

/// Why a flow is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum CloseReason {
    /// Both directions ended in order.
    Finished = 0,
    /// Nobody listens at the peer's port.
    Refused = 1,
    /// The handshake was not answered in time.
    ConnectTimeout = 2,
    /// The peer stopped acknowledging.
    PeerDead = 3,
    /// The peer ended the flow (ABORT), or no longer knows it (RESET).
    Reset = 4,
    /// The application on this side ended the flow before everything was sent.
    Aborted = 5,
    /// The peer speaks no version of the protocol that we speak.
    Version = 6,
    /// The endpoint was shut down.
    Shutdown = 7,
    /// The peer broke the protocol.
    Protocol = 8,
    /// The engine has no room for another flow.
    NoRoom = 9,
    /// A message was larger than the receiver takes.
    TooLarge = 10,
    /// The peer's address cannot be reached from the endpoint's (other family, no route).
    Unreachable = 11,
    /// The daemon that the endpoint was attached to is gone, or broke the channel.
    DaemonGone = 12,
    /// The daemon that the endpoint was attached to did not answer for too long.
    DaemonSilent = 13,
}

impl CloseReason {
    const ALL: [Self; 14] = [
        Self::Finished,
        Self::Refused,
        Self::ConnectTimeout,
        Self::PeerDead,
        Self::Reset,
        Self::Aborted,
        Self::Version,
        Self::Shutdown,
        Self::Protocol,
        Self::NoRoom,
        Self::TooLarge,
        Self::Unreachable,
        Self::DaemonGone,
        Self::DaemonSilent,
    ];

    const fn from_bits(bits: u8) -> Self {
        if (bits as usize) < Self::ALL.len() { Self::ALL[bits as usize] } else { Self::Reset }
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_word() {
        for (i, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            let state = FlowState::OPEN.with(FlowState::FIN_ACKED).closed(reason);
            assert_eq!(state.reason(), Some(reason));
            assert!(state.has(FlowState::FIN_ACKED) && state.has(FlowState::WRITE_ENDED));
        }
        assert_eq!(FlowState::OPEN.reason(), None);
    }
}
