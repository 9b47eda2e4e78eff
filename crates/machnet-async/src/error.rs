//! Errors of flows, and the [`io::ErrorKind`]s that a user of `TcpStream` expects of them.

use std::io;
use std::net::SocketAddr;

use machnet_channel::{CloseReason, Message};

/// A flow is over, and not in order. The source of the [`io::Error`]s that `connect`, `recv` and `close` return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flow to {peer}: {}", describe(*reason))]
pub struct FlowError {
    peer: SocketAddr,
    reason: CloseReason,
}

impl FlowError {
    pub(crate) const fn new(peer: SocketAddr, reason: CloseReason) -> Self {
        Self { peer, reason }
    }

    /// The other side of the flow.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Why the flow is over.
    #[must_use]
    pub const fn reason(&self) -> CloseReason {
        self.reason
    }

    /// The kind that the error has as an [`io::Error`].
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        kind_of(self.reason)
    }
}

impl From<FlowError> for io::Error {
    fn from(error: FlowError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorReason {
    /// The message is longer than the flow takes.
    #[error("a message of {len} bytes is over the flow's limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the message.
        len: usize,
        /// The flow's limit, bytes.
        limit: usize,
    },
    /// This side said before that it sends no more.
    #[error("the sending direction was finished by this side")]
    Finished,
    /// The peer reads no more.
    #[error("the peer reads no more")]
    Stopped,
    /// The flow is over.
    #[error("{}", describe(*.0))]
    Closed(CloseReason),
}

impl SendErrorReason {
    /// The kind that the error has as an [`io::Error`].
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::TooLarge { .. } => io::ErrorKind::InvalidInput,
            Self::Finished | Self::Stopped => io::ErrorKind::BrokenPipe,
            Self::Closed(reason) => kind_of(*reason),
        }
    }
}

impl From<SendErrorReason> for io::Error {
    fn from(reason: SendErrorReason) -> Self {
        Self::new(reason.kind(), reason)
    }
}

/// A message that was not sent, and why. Nothing of it was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not sent: {reason}")]
pub struct SendError {
    message: Message,
    reason: SendErrorReason,
}

impl SendError {
    pub(crate) const fn new(message: Message, reason: SendErrorReason) -> Self {
        Self { message, reason }
    }

    /// The message, whole.
    #[must_use]
    pub fn into_message(self) -> Message {
        self.message
    }

    /// Why it was not sent.
    #[must_use]
    pub const fn reason(&self) -> SendErrorReason {
        self.reason
    }

    /// The kind that the error has as an [`io::Error`].
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        self.reason.kind()
    }
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// A message that [`Flow::try_send`](crate::Flow::try_send) did not send. Nothing of it was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TrySendError {
    /// There is no room now. Kind: `WouldBlock`.
    #[error("not sent: there is no room now")]
    Full(Message),
    /// `send` would not send it either.
    #[error(transparent)]
    Failed(#[from] SendError),
}

impl TrySendError {
    /// The message, whole.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message) => message,
            Self::Failed(error) => error.into_message(),
        }
    }

    /// The kind that the error has as an [`io::Error`].
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Full(_) => io::ErrorKind::WouldBlock,
            Self::Failed(error) => error.kind(),
        }
    }
}

impl From<TrySendError> for io::Error {
    fn from(error: TrySendError) -> Self {
        match error {
            TrySendError::Full(_) => Self::new(io::ErrorKind::WouldBlock, error),
            TrySendError::Failed(error) => error.into(),
        }
    }
}

/// `docs/spec/flow.md#published-state`.
const fn kind_of(reason: CloseReason) -> io::ErrorKind {
    match reason {
        CloseReason::Finished => io::ErrorKind::BrokenPipe,
        CloseReason::Refused => io::ErrorKind::ConnectionRefused,
        CloseReason::ConnectTimeout | CloseReason::PeerDead => io::ErrorKind::TimedOut,
        CloseReason::Reset | CloseReason::TooLarge => io::ErrorKind::ConnectionReset,
        CloseReason::Aborted => io::ErrorKind::ConnectionAborted,
        CloseReason::Protocol => io::ErrorKind::InvalidData,
        CloseReason::Version => io::ErrorKind::Unsupported,
        CloseReason::Shutdown => io::ErrorKind::NotConnected,
        CloseReason::NoRoom => io::ErrorKind::ResourceBusy,
        CloseReason::Unreachable => io::ErrorKind::HostUnreachable,
        CloseReason::DaemonGone | CloseReason::DaemonSilent => io::ErrorKind::NetworkDown,
        _ => io::ErrorKind::Other,
    }
}

const fn describe(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Finished => "the flow has ended",
        CloseReason::Refused => "refused: nobody listens there",
        CloseReason::ConnectTimeout => "the peer did not answer in time",
        CloseReason::PeerDead => "the peer stopped acknowledging",
        CloseReason::Reset => "reset by the peer",
        CloseReason::Aborted => "aborted by this side",
        CloseReason::Version => "the peer speaks no common version of the protocol",
        CloseReason::Shutdown => "the endpoint was shut down",
        CloseReason::Protocol => "the peer broke the protocol",
        CloseReason::NoRoom => "the endpoint has no room for another flow",
        CloseReason::TooLarge => "a message was larger than its receiver takes",
        CloseReason::Unreachable => {
            "the peer cannot be reached from this endpoint's address: it is of another family, or no route leads there"
        }
        CloseReason::DaemonGone => "the daemon is gone",
        CloseReason::DaemonSilent => "the daemon does not answer",
        _ => "the flow is over",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_over_the_limit_comes_back_and_the_limit_is_named() {
        let reason = SendErrorReason::TooLarge { len: 5, limit: 4 };
        let error = SendError::new(Message::from("12345"), reason);
        assert_eq!(error.to_string(), "not sent: a message of 5 bytes is over the flow's limit of 4 bytes");
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let inner = error.into_inner().unwrap().downcast::<SendError>().unwrap();
        assert_eq!(inner.reason(), reason);
        assert_eq!(inner.into_message(), "12345");
    }

    #[test]
    fn a_flow_error_names_peer_and_reason() {
        let peer = "192.0.2.1:9".parse().unwrap();
        let error = io::Error::from(FlowError::new(peer, CloseReason::Refused));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), "flow to 192.0.2.1:9: refused: nobody listens there");
        let inner = error.get_ref().unwrap().downcast_ref::<FlowError>().unwrap();
        assert_eq!((inner.peer(), inner.reason()), (peer, CloseReason::Refused));
    }
}
