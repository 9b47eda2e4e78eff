//! A side that stands still between its turns: an inline engine on a runtime that runs only when a test gives it a turn.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use machnet_async::{Config, Endpoint, Flow, IdlePolicy, Listener, Placement, Udp};
use tokio::runtime::Runtime;

use super::V4;

/// Polls of one future, beyond which it has hung.
pub const NEVER: usize = 1_000_000;

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls `future` up to `k` times with a `turn` of others after each, then drops it; its output if it resolved.
pub fn at_most<F: Future>(k: usize, future: F, mut turn: impl FnMut()) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    for _ in 0..k {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        turn();
    }
    None
}

/// Runs `future` to its end, with turns of others.
pub fn finish<F: Future>(future: F, turn: impl FnMut()) -> F::Output {
    at_most(NEVER, future, turn).expect("it never resolves")
}

pub struct Still {
    runtime: Runtime,
    pub endpoint: Endpoint,
}

impl Still {
    pub fn new(config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let udp = Udp::bind((V4, 0)).unwrap();
        let builder = Endpoint::builder().driver(udp).config(config).idle(IdlePolicy::Spin);
        let endpoint = runtime.block_on(async { builder.placement(Placement::Inline).start() }).unwrap();
        Self { runtime, endpoint }
    }

    /// A round or two of its engine; whoever else wants the core has it before.
    pub fn turn(&self) {
        std::thread::yield_now();
        self.runtime.block_on(async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
    }

    pub fn listen(&self) -> Listener {
        self.runtime.block_on(self.endpoint.listen(0)).unwrap()
    }

    /// A flow to here, used once: both ends.
    pub fn flow(&self, client: &Endpoint) -> (Flow, Flow) {
        let mut listener = self.listen();
        let mut near = finish(client.connect(listener.local_addr()), || self.turn()).unwrap();
        near.try_send("first").unwrap();
        let (mut other, _) = finish(listener.accept(), || self.turn()).unwrap();
        assert_eq!(finish(other.recv(), || self.turn()).unwrap().unwrap(), "first");
        finish(near.acked(), || self.turn()).unwrap();
        (near, other)
    }
}
