//! Applications that go on until they are told to stop, and what they measure.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use machnet_channel::FlowState;
use machnet_core::Instant;

use crate::workload::{message, verify};
use crate::{Flow, MachineId, Task, World, listen, reaches, receive, send};

/// A flow that sends messages of one size as fast as it may. Every message is verified. Clones are the same flow.
#[derive(Clone, Debug)]
pub struct Bulk(Rc<BulkState>);

#[derive(Debug, Default)]
struct BulkState {
    is_stopped: Cell<bool>,
    is_over: Cell<bool>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
    last: Cell<Instant>,
    longest_gap: Cell<Duration>,
    lost: Cell<u64>,
}

impl Bulk {
    /// Connects from `a` to `port` of `b` and begins; `flow` names the content.
    ///
    /// # Panics
    /// If the listener does not come about; its tasks, if the flow does not open, ends early, or a message is wrong.
    pub fn start(world: &mut World, [a, b]: [MachineId; 2], port: u16, flow: u64, size: usize) -> Self {
        let mut listener = listen(world, b, port, 1).expect("a free port");
        let bulk = Self(Rc::default());
        let (node, to, state) = (world.node(a), world.node(b).at(port), bulk.0.clone());
        world.spawn(format!("bulk {flow}"), async move {
            let Flow { send: mut end, recv } = node.connect(to).await.expect("a flow");
            let mut index = 0;
            while !state.is_stopped.get() {
                send(&mut end, message(flow, index, size)).await.expect("an open flow");
                index += 1;
            }
            end.finish();
            let over = reaches(&mut end, FlowState::CLOSED.with(FlowState::FIN_ACKED)).await;
            assert!(over.has(FlowState::FIN_ACKED), "flow {flow}: {over:?}");
            state.lost.set(end.mailbox().stats().packets_lost);
            drop(recv);
        });
        let (handle, state) = (world.handle().clone(), bulk.0.clone());
        world.spawn(format!("sink {flow}"), async move {
            let Flow { send: end, mut recv } = listener.accept().await.expect("a flow");
            let mut index = 0;
            while let Some(got) = receive(&mut recv).await {
                verify(flow, index, size, got.as_slice());
                index += 1;
                state.messages.set(index as u64);
                state.bytes.set(state.bytes.get() + size as u64);
                let gap = handle.now().since(state.last.replace(handle.now()));
                state.longest_gap.set(state.longest_gap.get().max(gap));
            }
            drop(end);
            state.is_over.set(true);
        });
        bulk
    }

    /// Bytes received so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.get()
    }

    /// Messages received so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.0.messages.get()
    }

    /// The longest time between two messages since the last call.
    #[must_use]
    pub fn take_longest_gap(&self) -> Duration {
        self.0.longest_gap.take()
    }

    /// Packets that the flow had declared lost when it was over.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.get()
    }

    /// Nothing more is sent, and the flow ends in order.
    pub fn stop(&self) {
        self.0.is_stopped.set(true);
    }

    /// True once everything was received.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_over.get()
    }
}

/// Bits per second that `flows` receive in the next `window`.
///
/// # Panics
/// If the world fails meanwhile.
pub fn goodput(world: &mut World, flows: &[Bulk], window: Duration) -> Vec<f64> {
    let before: Vec<u64> = flows.iter().map(Bulk::bytes).collect();
    world.run_for(window).unwrap();
    let rate = |(flow, before): (&Bulk, u64)| (flow.bytes() - before) as f64 * 8.0 / window.as_secs_f64();
    flows.iter().zip(before).map(rate).collect()
}

/// Latencies, sorted.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The latency that a share `q` of all does not exceed; zero if there are none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = (self.0.len() as f64 * q).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        let mut sorted: Vec<_> = latencies.into_iter().collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

/// Calls over one flow, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Bytes of a request.
    pub request: usize,
    /// Bytes of a reply.
    pub reply: usize,
    /// How many.
    pub count: usize,
    /// Between a reply and the next request.
    pub think: Duration,
    /// What a call takes at the server.
    pub work: Duration,
}

impl Calls {
    /// `count` calls of `size` bytes both ways, without pauses.
    #[must_use]
    pub const fn of(size: usize, count: usize) -> Self {
        Self { request: size, reply: size, count, think: Duration::ZERO, work: Duration::ZERO }
    }

    /// Connects from `a` to `port` of `b` and calls; the result are the times from request to reply.
    ///
    /// # Panics
    /// If the listener does not come about; its tasks, if the flow does not open, ends early, or a message is wrong.
    pub fn start(self, world: &mut World, [a, b]: [MachineId; 2], port: u16, flow: u64) -> Task<Latencies> {
        let mut listener = listen(world, b, port, 1).expect("a free port");
        let handle = world.handle().clone();
        world.spawn(format!("server {flow}"), async move {
            let mut server = listener.accept().await.expect("a flow");
            let mut index = 0;
            while let Some(request) = server.receive().await {
                verify(flow, index, self.request, request.as_slice());
                if !self.work.is_zero() {
                    handle.sleep(self.work).await;
                }
                server.send(message(!flow, index, self.reply)).await.expect("an open flow");
                index += 1;
            }
        });
        let (node, to) = (world.node(a), world.node(b).at(port));
        world.spawn(format!("client {flow}"), async move {
            let mut client = node.connect(to).await.expect("a flow");
            let mut latencies = Vec::with_capacity(self.count);
            for index in 0..self.count {
                let start = node.now();
                client.send(message(flow, index, self.request)).await.expect("an open flow");
                let reply = client.receive().await.expect("a reply");
                verify(!flow, index, self.reply, reply.as_slice());
                latencies.push(node.now().since(start));
                if !self.think.is_zero() {
                    node.sleep(self.think).await;
                }
            }
            latencies.into_iter().collect()
        })
    }
}
