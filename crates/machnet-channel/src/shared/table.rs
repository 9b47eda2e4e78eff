//! Which word of a flow's or listener's line is what (`docs/spec/sidecar.md#flows`), and how a word says more than one thing.

use std::io::ErrorKind;

use crate::Words;
use crate::sync::atomic::Ordering;

/// The application's words of a flow.
pub(super) mod app {
    pub(in crate::shared) const CLAIM: usize = 0;
    pub(in crate::shared) const POSTED: usize = 1;
    pub(in crate::shared) const CONSUMED: usize = 2;
    pub(in crate::shared) const INTENT: usize = 3;
    pub(in crate::shared) const PEER: usize = 4;
    pub(in crate::shared) const OPTIONS: usize = 7;
    pub(in crate::shared) const WAITS: usize = 8;
}

/// The daemon's words of a flow.
pub(super) mod daemon {
    pub(in crate::shared) const GRANT: usize = 0;
    pub(in crate::shared) const DELIVERED: usize = 1;
    pub(in crate::shared) const ROOM: usize = 2;
    pub(in crate::shared) const ACKNOWLEDGED: usize = 3;
    pub(in crate::shared) const TELL_AT: usize = 4;
    pub(in crate::shared) const STATE: usize = 5;
    pub(in crate::shared) const LOCAL: usize = 6;
    pub(in crate::shared) const PEER: usize = 9;
    pub(in crate::shared) const LISTENER: usize = 12;
    pub(in crate::shared) const STATS: usize = 13;
}

/// The application's words of a listener.
pub(super) mod app_listener {
    pub(in crate::shared) const CLAIM: usize = 0;
    pub(in crate::shared) const PORT: usize = 1;
    pub(in crate::shared) const OPTIONS: usize = 2;
    pub(in crate::shared) const TAKEN: usize = 3;
}

/// The daemon's words of a listener.
pub(super) mod daemon_listener {
    pub(in crate::shared) const GRANT: usize = 0;
    pub(in crate::shared) const STATUS: usize = 1;
    pub(in crate::shared) const ADDRESS: usize = 2;
    pub(in crate::shared) const TEXT: usize = 5;
}

/// In a claim: the application is done with it.
pub(super) const DONE: u64 = 1 << 32;
/// In a grant: the daemon is.
pub(super) const RELEASED: u64 = 1 << 32;
/// Of a refusal to listen, bytes.
pub(super) const MAX_TEXT: usize = 256;

/// Status of a listener.
pub(super) const OPENING: u8 = 0;
pub(super) const LISTENING: u8 = 1;
pub(super) const REFUSED: u8 = 2;

/// Intents that exist.
pub(super) const INTENTS: u32 = 0b111;
/// States that exist, without the reason.
pub(super) const STATES: u32 = 0b11_1111;

/// Why a port was not opened; the place in the list is the number.
const KINDS: [ErrorKind; 10] = [
    ErrorKind::Other,
    ErrorKind::AddrInUse,
    ErrorKind::AddrNotAvailable,
    ErrorKind::PermissionDenied,
    ErrorKind::InvalidInput,
    ErrorKind::ResourceBusy,
    ErrorKind::NotConnected,
    ErrorKind::OutOfMemory,
    ErrorKind::Unsupported,
    ErrorKind::QuotaExceeded,
];

pub(super) fn kind_to_bits(kind: ErrorKind) -> u8 {
    KINDS.iter().position(|known| *known == kind).unwrap_or(0) as u8
}

pub(super) fn kind_from_bits(bits: u8) -> ErrorKind {
    KINDS.get(usize::from(bits)).copied().unwrap_or(ErrorKind::Other)
}

/// Loads three words that follow each other.
pub(super) fn load3<W: Words>(words: &W, at: usize) -> [u64; 3] {
    std::array::from_fn(|i| words.words()[at + i].load(Ordering::Relaxed))
}

/// Stores three.
pub(super) fn store3<W: Words>(words: &W, at: usize, values: [u64; 3]) {
    for (word, value) in words.words()[at..].iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
}
