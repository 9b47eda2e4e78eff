//! Why packets were dropped. Drops are not errors: each has a reason and a counter, and nothing else happens.

/// Why a packet (or part of its effect) was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than what its type needs, or a length inside it points past its end.
    Truncated,
    /// A version we do not speak.
    Version,
    /// A packet type we do not know, or one reserved for later.
    PacketType,
    /// A field with a value that the specification forbids.
    Malformed,
    /// No flow has the id it names.
    UnknownFlow,
    /// The flow exists, but belongs to another peer address.
    WrongPeer,
    /// The packet's type is not allowed in the flow's state.
    WrongState,
    /// Its packet number was received before.
    Duplicate,
    /// Its packet number is too old or too far ahead to be recorded.
    OutOfWindow,
    /// It acknowledges a packet that was never sent.
    AckOfUnsent,
    /// An INIT to a port nobody listens on.
    NotListening,
    /// An INIT or a handshake's end that found the listener's backlog full.
    BacklogFull,
    /// No room for another flow.
    TooManyFlows,
    /// An INIT shorter than the minimum, which could be used to amplify.
    ShortInit,
    /// No frame was free to keep or build it.
    NoFrames,
    /// Its payload found no reassembly buffer; it was not acknowledged and will come again.
    NoBuffers,
    /// A RESET that does not answer a packet we have outstanding.
    ForgedReset,
    /// A datagram longer than a frame.
    Oversized,
    /// The network layer said that the checksum is wrong.
    Checksum,
    /// A RESET that was due but over the rate limit.
    ResetLimited,
    /// An answer (ACCEPT, RESET) that was due while the device took nothing; or a datagram to a peer that stands still, whose
    /// wire and backlog are full, on a device with several (`docs/spec/shm.md`).
    Congested,
    /// The peer sent more than its credit, or contradicted itself; the flow was aborted.
    Protocol,
    /// The device refused to send it: no route, longer than the MTU, forbidden.
    Unsendable,
    /// An Ethernet frame with a VLAN tag.
    Vlan,
    /// A fragment of an IP packet: nobody who speaks Machnet makes any.
    Fragment,
    /// An Ethernet, IP or ARP type that the network layer does not speak.
    UnknownProtocol,
    /// An Ethernet frame for another host, or one for everybody that carries what is for one host.
    WrongMac,
    /// An IP packet or a question for an address that is not ours.
    WrongAddress,
    /// A source address that no other host can have.
    BadSource,
    /// A datagram, or a quoted one, of a UDP port that is not open.
    ClosedPort,
    /// A datagram to a neighbour that does not say its Ethernet address, or one of too many that wait for it.
    NoNeighbour,
    /// An ICMP answer that was due but over the rate limit.
    AnswerLimited,
    /// A packet for another engine of the endpoint, whose inbox was full; it was not acknowledged and will come again.
    HandoverFull,
    /// A PROBE_REPLY that answers no PROBE that is outstanding: forged, late, or of a search that found another pair meanwhile.
    ForgedProbe,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 34] = [
        Self::Truncated,
        Self::Version,
        Self::PacketType,
        Self::Malformed,
        Self::UnknownFlow,
        Self::WrongPeer,
        Self::WrongState,
        Self::Duplicate,
        Self::OutOfWindow,
        Self::AckOfUnsent,
        Self::NotListening,
        Self::BacklogFull,
        Self::TooManyFlows,
        Self::ShortInit,
        Self::NoFrames,
        Self::NoBuffers,
        Self::ForgedReset,
        Self::Oversized,
        Self::Checksum,
        Self::ResetLimited,
        Self::Congested,
        Self::Protocol,
        Self::Unsendable,
        Self::Vlan,
        Self::Fragment,
        Self::UnknownProtocol,
        Self::WrongMac,
        Self::WrongAddress,
        Self::BadSource,
        Self::ClosedPort,
        Self::NoNeighbour,
        Self::AnswerLimited,
        Self::HandoverFull,
        Self::ForgedProbe,
    ];
}

/// A counter per [`DropReason`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// Counts one drop.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
        tracing::trace!(target: "machnet::drop", ?reason);
    }

    /// Counts `n` drops.
    pub const fn add_n(&mut self, reason: DropReason, n: u64) {
        self.0[reason as usize] += n;
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub const fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many were dropped in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds the counters of `other`.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.0).filter(|(_, n)| *n > 0)
    }
}

/// The reasons that occurred, with their counts.
impl std::fmt::Debug for Drops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
        }
    }
}
