//! Listening for flows.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use machnet_channel::{Backlog, BacklogConsumer, FlowOptions};

use crate::Flow;
use crate::coop;
use crate::datapath::EngineHandle;

/// Accepts flows on one UDP port of an [`Endpoint`](crate::Endpoint).
///
/// Dropped, it stops listening; flows that nobody accepted are closed, accepted ones stay.
#[derive(Debug)]
#[must_use = "dropped, it stops listening"]
pub struct Listener {
    backlog: BacklogConsumer,
    local: SocketAddr,
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
        let Some(accepted) = ready!(self.backlog.poll_accept(cx)) else {
            return Poll::Ready(Err(self.ended()));
        };
        let flow = Flow::new(accepted.send, accepted.recv, &self.engine);
        let peer = flow.peer_addr();
        tracing::debug!(local = %flow.local_addr(), %peer, "flow accepted");
        Poll::Ready(Ok((flow, peer)))
    }

    fn ended(&self) -> io::Error {
        if self.engine.is_closing() {
            io::Error::new(io::ErrorKind::NotConnected, "the endpoint was shut down")
        } else if self.engine.intake().pump().is_some() {
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
    backlog: Option<BacklogConsumer>,
    /// Last, so that the engine hears of the end of `backlog` first.
    engine: Arc<EngineHandle>,
}

impl Listen {
    pub(crate) fn new(engine: &Arc<EngineHandle>, port: u16, limit: u32) -> Self {
        Self { port, limit, options: FlowOptions::new(), backlog: None, engine: Arc::clone(engine) }
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
        let Self { port, limit, options, backlog, engine } = &mut *self;
        let mut opening =
            backlog.take().unwrap_or_else(|| Backlog::listen_with(engine.intake(), *port, *limit, *options));
        Poll::Ready(match opening.poll_opened(cx) {
            Poll::Pending => {
                *backlog = Some(opening);
                return Poll::Pending;
            }
            Poll::Ready(Ok(local)) => {
                tracing::debug!(%local, "listening");
                Ok(Listener { backlog: opening, local, engine: Arc::clone(engine) })
            }
            Poll::Ready(Err(error)) => {
                let asked = SocketAddr::new(engine.local().ip(), *port);
                Err(io::Error::new(error.kind(), format!("cannot listen on {asked}: {error}")))
            }
        })
    }
}
