//! Listening for flows.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use machnet_channel::{Accepted, Backlog, BacklogConsumer, FlowOptions};

use crate::Flow;
use crate::coop;
use crate::datapath::EngineHandle;

/// Accepts flows on one UDP port of an [`Endpoint`](crate::Endpoint).
///
/// Dropped, it stops listening; flows that nobody accepted are closed, accepted ones stay.
#[derive(Debug)]
#[must_use = "dropped, it stops listening"]
pub struct Listener {
    /// At each engine of the endpoint.
    ears: Vec<Ear>,
    /// Who is asked first, in turn.
    next: usize,
    local: SocketAddr,
}

/// A listener at one engine.
#[derive(Debug)]
struct Ear {
    backlog: BacklogConsumer,
    /// Last, so that the engine hears of the end of `backlog` first.
    engine: Arc<EngineHandle>,
}

impl Listener {
    /// The address listened on; its port is the real one if port 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for the next flow; returns it and its peer's address. The handshake is over by then.
    ///
    /// # Errors
    /// `NotConnected`: the endpoint was shut down, or its engine failed. `NetworkDown`: it was attached to a daemon, which is
    /// gone. The error is final.
    ///
    /// # Cancel safety
    /// Dropping the future loses no flow.
    pub const fn accept(&mut self) -> Accept<'_> {
        Accept { listener: self }
    }

    /// The accepted flows as a [`Stream`]. It ends after an error: [`Listener::accept`]'s, which is final. Dropping it
    /// loses no flow.
    pub const fn incoming(&mut self) -> Incoming<'_> {
        Incoming { listener: Some(self) }
    }

    /// [`Listener::accept`] for hand-written futures. Registers one task: the last caller's.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub fn poll_accept(&mut self, cx: &Context<'_>) -> Poll<io::Result<(Flow, SocketAddr)>> {
        let Some((accepted, at)) = ready!(self.poll_ears(cx)) else {
            return Poll::Ready(Err(self.ended()));
        };
        let flow = Flow::new(accepted.send, accepted.recv, &self.ears[at].engine);
        let peer = flow.peer_addr();
        tracing::debug!(local = %flow.local_addr(), %peer, "flow accepted");
        Poll::Ready(Ok((flow, peer)))
    }

    /// What was accepted by the first engine that has something, and which one that is. With none, all of them wake the task.
    fn poll_ears(&mut self, cx: &Context<'_>) -> Poll<Option<(Accepted, usize)>> {
        let mut turn = 0;
        while turn < self.ears.len() {
            let at = (self.next + turn) % self.ears.len();
            match self.ears[at].backlog.poll_accept(cx) {
                Poll::Pending => turn += 1,
                // An engine that was given up alone.
                Poll::Ready(None) if self.ears.len() > 1 && self.ears[at].engine.status().is_detached() => {
                    self.ears.remove(at);
                    (self.next, turn) = (0, 0);
                }
                Poll::Ready(accepted) => {
                    self.next = (at + 1) % self.ears.len();
                    return Poll::Ready(accepted.map(|accepted| (accepted, at)));
                }
            }
        }
        Poll::Pending
    }

    fn ended(&self) -> io::Error {
        let engines = || self.ears.iter().map(|ear| &ear.engine);
        if engines().any(|engine| engine.is_closing()) {
            io::Error::new(io::ErrorKind::NotConnected, "the endpoint was shut down")
        } else if engines().any(|engine| engine.intake().pump().is_some()) {
            io::Error::new(io::ErrorKind::NetworkDown, "the daemon is gone, or no longer listens there")
        } else {
            io::Error::new(io::ErrorKind::NotConnected, "the engine is gone")
        }
    }
}

/// The flows of a [`Listener`], as a [`Stream`]; made by [`Listener::incoming`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Incoming<'a> {
    /// `None` after the error that ends it.
    listener: Option<&'a mut Listener>,
}

impl Stream for Incoming<'_> {
    type Item = io::Result<Flow>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(listener) = &mut self.listener else { return Poll::Ready(None) };
        let accepted = ready!(coop::poll(cx, |cx| listener.poll_accept(cx)));
        if accepted.is_err() {
            self.listener = None;
        }
        Poll::Ready(Some(accepted.map(|(flow, _)| flow)))
    }
}

impl FusedStream for Incoming<'_> {
    fn is_terminated(&self) -> bool {
        self.listener.is_none()
    }
}

/// Future of [`Listener::accept`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Accept<'a> {
    listener: &'a mut Listener,
}

impl Future for Accept<'_> {
    type Output = io::Result<(Flow, SocketAddr)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        coop::poll(cx, |cx| self.listener.poll_accept(cx))
    }
}

/// Future of [`Endpoint::listen`](crate::Endpoint::listen).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Listen {
    port: u16,
    limit: u32,
    options: FlowOptions,
    /// At the engines that opened the port already, and at the next.
    ears: Vec<Ear>,
    opening: Option<BacklogConsumer>,
    /// Last, so that the engine hears of the end of `opening` first.
    engines: Arc<[Arc<EngineHandle>]>,
}

impl Listen {
    pub(crate) fn new(engines: &Arc<[Arc<EngineHandle>]>, port: u16, limit: u32) -> Self {
        // Not at those whose daemon came back with fewer engines, unless it is away altogether.
        let attached: Arc<[_]> = engines.iter().filter(|engine| !engine.status().is_detached()).cloned().collect();
        let (ears, engines) = (Vec::new(), if attached.is_empty() { Arc::clone(engines) } else { attached });
        // Between them.
        let limit = limit.div_ceil(engines.len() as u32);
        Self { port, limit, options: FlowOptions::new(), ears, opening: None, engines }
    }

    /// Chooses something for the flows to be accepted that the endpoint has otherwise. Of no effect once the future was
    /// polled.
    pub const fn options(mut self, options: FlowOptions) -> Self {
        self.options = options;
        self
    }
}

impl Future for Listen {
    type Output = io::Result<Listener>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { port, limit, options, ears, opening, engines } = &mut *self;
        // The first chooses the port if it was 0; the others join it.
        for engine in &engines[ears.len()..] {
            let mut next =
                opening.take().unwrap_or_else(|| Backlog::listen_with(engine.intake(), *port, *limit, *options));
            match next.poll_opened(cx) {
                Poll::Pending => {
                    *opening = Some(next);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(local)) => {
                    *port = local.port();
                    ears.push(Ear { backlog: next, engine: Arc::clone(engine) });
                }
                Poll::Ready(Err(error)) => {
                    let asked = SocketAddr::new(engine.local().ip(), *port);
                    let text = format!("cannot listen on {asked}: {error}");
                    return Poll::Ready(Err(io::Error::new(error.kind(), text)));
                }
            }
        }
        let mut local = engines[0].local();
        local.set_port(*port);
        tracing::debug!(%local, "listening");
        Poll::Ready(Ok(Listener { ears: std::mem::take(ears), next: 0, local }))
    }
}
