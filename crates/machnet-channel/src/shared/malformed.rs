//! What one side may not write.

use std::fmt;

use crate::{PipeError, RingError};

/// A word that cannot be. The channel is of no more use: its owner ends it, and counts why ([`Malformed::label`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// An index or a descriptor of a pipe.
    Pipe(PipeError),
    /// A piece for a slot that does not exist.
    Slot {
        /// The slot named.
        found: u32,
        /// How many there are.
        slots: u32,
    },
    /// A generation that is neither the last nor the next, of a flow.
    Generation {
        /// The flow's slot.
        slot: u32,
        /// What was found; of a piece 16 bits.
        found: u32,
        /// The last one.
        last: u32,
    },
    /// A word with bits or values that mean nothing, or that went back.
    Word {
        /// The flow's slot, or the listener's.
        slot: u32,
        /// Which word.
        word: Word,
        /// What was found.
        found: u64,
    },
    /// An empty piece that says MORE, or a message beyond the longest.
    Message {
        /// The flow's slot.
        slot: u32,
        /// Bytes so far.
        len: u64,
    },
}

/// A word of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Word {
    /// claim or grant of a flow
    Opening,
    /// posted
    Posted,
    /// consumed
    Consumed,
    /// intent
    Intent,
    /// an address
    Address,
    /// options
    Options,
    /// state
    State,
    /// listener of an accepted flow
    Listener,
    /// claim or grant of a listener
    ListenerOpening,
    /// taken
    Taken,
    /// port and backlog
    Port,
    /// status of a listener
    Status,
}

impl Malformed {
    /// A short name, for counters.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Pipe(PipeError::Ring(_)) => "ring index",
            Self::Pipe(PipeError::Descriptor { .. }) => "descriptor",
            Self::Slot { .. } => "slot",
            Self::Generation { .. } => "generation",
            Self::Message { .. } => "message",
            Self::Word { word, .. } => word.name(),
        }
    }
}

impl Word {
    const fn name(self) -> &'static str {
        match self {
            Self::Opening => "flow opening",
            Self::Posted => "posted",
            Self::Consumed => "consumed",
            Self::Intent => "intent",
            Self::Address => "address",
            Self::Options => "options",
            Self::State => "state",
            Self::Listener => "listener of a flow",
            Self::ListenerOpening => "listener opening",
            Self::Taken => "taken",
            Self::Port => "port",
            Self::Status => "listener status",
        }
    }
}

impl From<PipeError> for Malformed {
    fn from(error: PipeError) -> Self {
        Self::Pipe(error)
    }
}

impl From<RingError> for Malformed {
    fn from(error: RingError) -> Self {
        Self::Pipe(error.into())
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pipe(error) => error.fmt(f),
            Self::Slot { found, slots } => write!(f, "a piece for slot {found} of {slots}"),
            Self::Generation { slot, found, last } => {
                write!(f, "generation {found} in slot {slot}, whose last one is {last}")
            }
            Self::Word { slot, word, found } => write!(f, "{} of slot {slot} is {found:#x}", word.name()),
            Self::Message { slot, len } => write!(f, "a message of {len} bytes in slot {slot}"),
        }
    }
}

impl std::error::Error for Malformed {}
