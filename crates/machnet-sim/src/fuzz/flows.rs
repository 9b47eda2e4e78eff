//! The applications' ends of the flows, and what must be true of them.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BufMut as _;
use machnet_channel::{
    Accepted, BacklogConsumer, CloseReason, FlowState, Intake, Mailbox, Message, RecvEnd, SendEnd, cost_in_units,
};

/// Flows of a run.
pub(super) const MAX: usize = 4;

/// The length of the first message that a connecting side sends: its bytes name the flow, so that the accepting side knows
/// which one it has.
const TAG: usize = 9;

#[derive(Default)]
pub(super) struct Flows {
    flows: Vec<Pair>,
    /// Accepted, and not named yet.
    nameless: Vec<End>,
}

/// Both ends of a flow; the second once it was accepted and named.
struct Pair {
    ends: [Option<End>; 2],
    /// Lengths of the messages posted by each side.
    sent: [Vec<usize>; 2],
    /// An engine of it died.
    died: bool,
}

struct End {
    send: Option<SendEnd>,
    recv: Option<RecvEnd>,
    mailbox: Arc<Mailbox>,
    received: usize,
    /// Cost of what was received.
    units: u64,
    /// The application said that it reads no more, or aborted.
    gave_up: bool,
}

impl End {
    fn new(send: SendEnd, recv: RecvEnd) -> Self {
        let mailbox = Arc::clone(send.mailbox());
        Self { send: Some(send), recv: Some(recv), mailbox, received: 0, units: 0, gave_up: false }
    }

    fn take(&mut self) -> Option<Message> {
        let message = self.recv.as_mut()?.take()?;
        self.received += 1;
        self.units += cost_in_units(message.len());
        Some(message)
    }
}

fn message(flow: usize, side: usize, index: usize, len: usize) -> Vec<u8> {
    if side == 0 && index == 0 {
        return vec![flow as u8; TAG];
    }
    let seed = (flow * 7 + side * 3 + index) as u8;
    (0..len).map(|i| seed.wrapping_add((i / 5) as u8)).collect()
}

impl Flows {
    /// Another flow, and its first message.
    pub(super) fn connect(&mut self, intake: &Arc<Intake>, to: std::net::SocketAddr) {
        if self.flows.len() < MAX {
            let (send, mut recv) = Mailbox::connect(intake, to);
            // Every other flow in pieces.
            if self.flows.len() % 2 == 1 {
                recv.want_chunks();
            }
            self.flows.push(Pair {
                ends: [Some(End::new(send, recv)), None],
                sent: [Vec::new(), Vec::new()],
                died: false,
            });
        }
    }

    /// Accepts what waits, and names what said who it is.
    pub(super) fn accept(&mut self, listener: &mut BacklogConsumer) {
        let cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Accepted { send, recv })) = listener.poll_accept(&cx) {
            self.nameless.push(End::new(send, recv));
        }
        for mut end in std::mem::take(&mut self.nameless) {
            let Some(message) = end.take() else {
                self.nameless.push(end);
                continue;
            };
            let named = message.as_slice().first().and_then(|&flow| self.flows.get_mut(usize::from(flow)));
            match named {
                Some(pair) if pair.ends[1].is_none() && message.len() == TAG => {
                    let gave_up = pair.died;
                    if let (1, Some(recv)) = (message.as_slice()[0] % 2, &mut end.recv) {
                        recv.want_chunks();
                    }
                    pair.ends[1] = Some(End { gave_up, ..end });
                }
                // A lie of somebody on the path. Whoever it was, he is not read.
                _ => drop(end),
            }
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.flows.len()
    }

    /// A side's engines are dead: its applications have an end, and of these flows nothing is promised.
    pub(super) fn died(&mut self, side: usize) {
        for pair in &mut self.flows {
            let is_over = |end: &Option<End>| end.as_ref().is_none_or(|end| end.mailbox.state().has(FlowState::CLOSED));
            if is_over(&pair.ends[side]) {
                continue;
            }
            pair.ends.iter_mut().flatten().for_each(|end| end.gave_up = true);
            pair.died = true;
        }
    }

    /// Posts a message, if the flow takes any.
    pub(super) fn post(&mut self, flow: usize, side: usize, len: usize) {
        let Some((send, message)) = self.next(flow, side, len) else { return };
        assert!(send.post(message.into()).is_ok(), "room was there");
    }

    /// The same with one that is built where the engine would have it.
    pub(super) fn build(&mut self, flow: usize, side: usize, len: usize) {
        let Some((send, message)) = self.next(flow, side, len) else { return };
        let mut place = send.reserve(message.len());
        place.put_slice(&message);
        place.send();
    }

    /// The next message of a flow that takes one.
    fn next(&mut self, flow: usize, side: usize, len: usize) -> Option<(&mut SendEnd, Vec<u8>)> {
        let Pair { ends, sent, .. } = self.flows.get_mut(flow)?;
        let send = ends[side].as_mut()?.send.as_mut()?;
        if send.is_finished() || !send.has_room() || send.mailbox().state().has(FlowState::WRITE_ENDED) {
            return None;
        }
        let message = message(flow, side, sent[side].len(), len);
        sent[side].push(message.len());
        Some((send, message))
    }

    /// Reads up to `limit` messages.
    pub(super) fn consume(&mut self, flow: usize, side: usize, limit: usize, verify: bool) {
        let Some(pair) = self.flows.get_mut(flow) else { return };
        let Some(end) = &mut pair.ends[side] else { return };
        for _ in 0..limit {
            let index = end.received;
            let Some(got) = end.take() else { return };
            if verify {
                let lengths = &pair.sent[1 - side];
                assert!(index < lengths.len(), "flow {flow} side {side}: message {index} was never sent");
                assert!(
                    got.as_slice() == message(flow, 1 - side, index, lengths[index]),
                    "flow {flow} side {side}: message {index} of {} bytes is not that of {} bytes",
                    got.len(),
                    lengths[index]
                );
            }
        }
    }

    /// FIN, STOP, ABORT, or a handle that goes.
    pub(super) fn intend(&mut self, flow: usize, side: usize, what: u8) {
        let Some(end) = self.flows.get_mut(flow).and_then(|pair| pair.ends[side].as_mut()) else { return };
        match (what, &mut end.send, &mut end.recv) {
            (0, Some(send), _) => return send.finish(),
            (1, _, Some(recv)) => recv.stop(),
            (2, Some(send), _) => send.abort(),
            (3, send, _) => {
                *send = None;
                return;
            }
            (4, _, recv) => *recv = None,
            _ => return,
        }
        end.gave_up = true;
    }

    /// True while an accepted flow has not been looked at.
    pub(super) fn waits(&self) -> bool {
        !self.nameless.is_empty()
    }

    /// Everybody reads everything and has nothing more to say.
    pub(super) fn drain(&mut self, verify: bool) {
        for flow in 0..self.flows.len() {
            for side in [0, 1] {
                self.consume(flow, side, usize::MAX, verify);
                self.intend(flow, side, 0);
            }
        }
        self.nameless.retain_mut(|end| {
            if let Some(send) = &mut end.send {
                send.finish();
            }
            !end.mailbox.state().has(FlowState::CLOSED)
        });
    }

    /// Every handle goes.
    pub(super) fn leave(&mut self) {
        for end in self.flows.iter_mut().flat_map(|pair| pair.ends.iter_mut().flatten()) {
            (end.send, end.recv) = (None, None);
        }
        self.nameless.clear();
    }

    /// Every flow is over, and nobody on the path lied.
    pub(super) fn check(&self) {
        for (flow, pair) in self.flows.iter().enumerate() {
            for (side, end) in pair.ends.iter().enumerate() {
                let Some(end) = end else { continue };
                let state = end.mailbox.state();
                let reason = state.reason();
                assert!(reason.is_some(), "flow {flow} side {side} has no end: {state:?}");
                assert!(
                    !matches!(
                        reason,
                        Some(
                            CloseReason::Protocol | CloseReason::Version | CloseReason::TooLarge | CloseReason::Refused
                        )
                    ),
                    "flow {flow} side {side}: {state:?}, and nobody broke a rule"
                );
                if end.gave_up {
                    continue;
                }
                let (sent, received) = (pair.sent[1 - side].len(), end.received);
                let complete = received == sent;
                assert!(complete || !state.has(FlowState::READ_ENDED), "flow {flow} side {side}: {received} of {sent}");
                let Some(other) = &pair.ends[1 - side] else { continue };
                let acked = other.mailbox.state().has(FlowState::FIN_ACKED);
                assert!(complete || !acked, "flow {flow} side {side}: acknowledged, but {received} of {sent}");
                if let Some(send) = &other.send {
                    assert!(send.acknowledged() <= end.units, "flow {flow}: acknowledged and not received");
                }
            }
        }
    }

    pub(super) fn report(&self) -> String {
        let ends = |pair: &Pair| {
            pair.ends
                .iter()
                .map(|end| end.as_ref().map(|end| (end.mailbox.state(), end.received, end.mailbox.stats())))
                .collect::<Vec<_>>()
        };
        let flows = self.flows.iter().map(|pair| format!("{:?} of {:?}\n", ends(pair), pair.sent));
        format!("{} nameless\n{}", self.nameless.len(), flows.collect::<String>())
    }
}
