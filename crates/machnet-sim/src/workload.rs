//! Applications whose messages verify themselves: every byte follows from (flow, index), so a receiver needs no copy
//! of what was sent to prove that each message came exactly once, in order and unchanged.

use std::time::Duration;

use machnet_channel::{FlowState, Message, RecvEnd, SendEnd};

use crate::node::{receive, send, send_built};
use crate::{Handle, SimRng};

/// The messages of one direction of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    flow: u64,
    sizes: Vec<u32>,
}

impl Plan {
    /// Messages of the given sizes.
    #[must_use]
    pub const fn new(flow: u64, sizes: Vec<u32>) -> Self {
        Self { flow, sizes }
    }

    /// `count` messages of `size` bytes.
    #[must_use]
    pub fn fixed(flow: u64, count: usize, size: u32) -> Self {
        Self::new(flow, vec![size; count])
    }

    /// `count` messages of log-uniform sizes 0..=`max`.
    #[must_use]
    pub fn log_uniform(flow: u64, count: usize, max: u32, rng: &mut SimRng) -> Self {
        Self::new(flow, (0..count).map(|_| rng.log_uniform(max as usize) as u32).collect())
    }

    /// Number of messages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.sizes.len()
    }

    /// True if there are no messages.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Bytes of all messages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().map(|&size| u64::from(size)).sum()
    }

    /// Message `index`.
    #[must_use]
    pub fn message(&self, index: usize) -> Message {
        message(self.flow, index, self.sizes[index] as usize)
    }

    /// Checks that `bytes` is message `index`.
    ///
    /// # Panics
    /// If it is not, saying what is wrong.
    pub fn verify(&self, index: usize, bytes: &[u8]) {
        let flow = self.flow;
        assert!(index < self.len(), "flow {flow}: message {index} of {} received: one too many", self.len());
        verify(flow, index, self.sizes[index] as usize, bytes);
    }

    /// Sends every message as room allows, every other one built in the engine's memory; returns how many were posted, and the
    /// state if it ended early.
    pub async fn send(&self, end: &mut SendEnd) -> (usize, Option<FlowState>) {
        for index in 0..self.len() {
            let message = self.message(index);
            let sent =
                if index % 2 == 1 { send_built(end, message.as_slice()).await } else { send(end, message).await };
            if let Err(state) = sent {
                return (index, Some(state));
            }
        }
        (self.len(), None)
    }

    /// Receives until the end and returns how many messages came. With `check`, each is verified.
    ///
    /// # Panics
    /// With `check`, if a message is not the next one.
    pub async fn receive(&self, end: &mut RecvEnd, handle: &Handle, pace: Pace, check: bool) -> usize {
        let mut count = 0;
        while let Some(message) = receive(end).await {
            if check {
                self.verify(count, message.as_slice());
            }
            count += 1;
            match pace {
                Pace::Eager => {}
                Pace::Each(pause) => {
                    // Held while the application works on it: a lent frame stays lent.
                    handle.sleep(pause).await;
                }
                Pace::Stop { after, pause } if count == after => {
                    drop(message);
                    handle.sleep(pause).await;
                }
                Pace::Stop { .. } => {}
            }
        }
        count
    }
}

/// Message `index` of flow `flow`, `size` bytes long.
#[must_use]
pub(crate) fn message(flow: u64, index: usize, size: usize) -> Message {
    let mut bytes = Vec::with_capacity(size + 8);
    let mut words = Words::new(flow, index);
    while bytes.len() < size {
        bytes.extend_from_slice(&words.next());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Checks that `bytes` is message `index` of flow `flow`, `size` bytes long.
///
/// # Panics
/// If it is not, saying what is wrong.
pub(crate) fn verify(flow: u64, index: usize, size: usize, bytes: &[u8]) {
    assert_eq!(bytes.len(), size, "flow {flow}: length of message {index}");
    let mut words = Words::new(flow, index);
    let (whole, rest) = bytes.as_chunks::<8>();
    for (i, word) in whole.iter().enumerate() {
        assert!(*word == words.next(), "flow {flow}: message {index} differs at byte {}", 8 * i);
    }
    assert!(rest == &words.next()[..rest.len()], "flow {flow}: message {index} differs in its last bytes");
}

/// How an application reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Eager,
    /// With a pause after each message.
    Each(Duration),
    /// With one long pause.
    Stop {
        /// After so many messages.
        after: usize,
        /// For so long.
        pause: Duration,
    },
}

/// The content of a message, eight bytes at a time: SplitMix64.
struct Words(u64);

impl Words {
    const fn new(flow: u64, index: usize) -> Self {
        Self(flow.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add((index as u64) << 32))
    }

    fn next(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_verify_themselves_and_nothing_else() {
        let plan = Plan::new(3, vec![0, 5, 5, 100]);
        assert_eq!((plan.len(), plan.bytes()), (4, 110));
        for index in 0..plan.len() {
            plan.verify(index, plan.message(index).as_slice());
        }
        assert_ne!(plan.message(1).as_slice(), plan.message(2).as_slice());
    }

    #[test]
    #[should_panic(expected = "differs in its last bytes")]
    fn one_wrong_bit_is_found() {
        let plan = Plan::fixed(1, 1, 100);
        let mut bytes = plan.message(0).to_vec();
        bytes[99] ^= 1;
        plan.verify(0, &bytes);
    }
}
