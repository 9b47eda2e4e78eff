//! Listening for byte streams: what is used where a `TcpListener` was.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use machnet_channel::Poked;
use tokio::net::{ToSocketAddrs, lookup_host};

use super::waits::{OwnPlace, Place, Waits};
use super::{FlowStream, no_address};
use crate::{Listener, coop};

/// A [`Listener`] whose flows are byte streams: in the place of a `TcpListener`. `accept` takes `&self`, and any number of
/// tasks may wait in it.
///
/// Dropped, it stops listening; streams that nobody accepted are closed, accepted ones stay.
#[derive(Debug)]
#[must_use = "dropped, it stops listening"]
pub struct FlowListener {
    listener: Mutex<Listener>,
    local: SocketAddr,
    waits: Arc<Poked<Waits>>,
}

impl From<Listener> for FlowListener {
    fn from(listener: Listener) -> Self {
        let local = listener.local_addr();
        Self { listener: Mutex::new(listener), local, waits: Poked::new(Waits::default()) }
    }
}

impl FlowListener {
    /// Listens at `local` on a default endpoint of the process: see [`Listener::bind`]. Of several addresses that a name
    /// resolves to, the first that can be listened at. On an endpoint of one's own:
    /// [`Endpoint::listen`](crate::Endpoint::listen), and `FlowListener::from`.
    ///
    /// # Errors
    /// The last address's, as [`Listener::bind`]. `InvalidInput` if there is no address; else what the resolver says.
    ///
    /// # Panics
    /// Outside of a tokio runtime if `local` is a name: it is resolved there.
    ///
    /// # Cancel safety
    /// Dropping the future gives the port up again.
    pub async fn bind(local: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = None;
        for local in lookup_host(local).await? {
            match Listener::bind(local).await {
                Ok(listener) => return Ok(listener.into()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(no_address))
    }

    /// The address listened on; its port is the real one if port 0 was asked for.
    ///
    /// # Errors
    /// None; a `Result` because `TcpListener`'s is.
    pub const fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Waits for the next stream; returns it and its peer's address.
    ///
    /// # Errors
    /// `NotConnected`: the endpoint was shut down, or its engine failed. The error is final.
    ///
    /// # Cancel safety
    /// Dropping the future loses no stream.
    pub async fn accept(&self) -> io::Result<(FlowStream, SocketAddr)> {
        let mut waiter = OwnPlace::new(&self.waits);
        poll_fn(|cx| self.poll(cx, &mut waiter)).await
    }

    /// [`FlowListener::accept`] for hand-written futures. Registers one task: the last caller's.
    ///
    /// # Errors
    /// As [`FlowListener::accept`].
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(FlowStream, SocketAddr)>> {
        self.poll(cx, &mut Place::Reserved)
    }

    fn poll(&self, cx: &mut Context<'_>, place: &mut Place) -> Poll<io::Result<(FlowStream, SocketAddr)>> {
        coop::poll(cx, |cx| {
            self.waits.with(|waits| waits.note(cx.waker(), place));
            let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
            let (flow, peer) = ready!(listener.poll_accept(&Context::from_waker(&self.waits.waker())))?;
            Poll::Ready(Ok((flow.into_stream(), peer)))
        })
    }

    /// The accepted streams as a [`Stream`], for `serve_with_incoming` and its like. It ends after an error, which is
    /// final.
    pub const fn incoming(self) -> FlowIncoming {
        FlowIncoming { listener: Some(self) }
    }
}

/// The streams of a [`FlowListener`], as a [`Stream`]; made by [`FlowListener::incoming`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct FlowIncoming {
    /// `None` after the error that ends it.
    listener: Option<FlowListener>,
}

impl Stream for FlowIncoming {
    type Item = io::Result<FlowStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(listener) = &self.listener else { return Poll::Ready(None) };
        let accepted = ready!(listener.poll_accept(cx));
        if accepted.is_err() {
            self.listener = None;
        }
        Poll::Ready(Some(accepted.map(|(stream, _)| stream)))
    }
}

impl FusedStream for FlowIncoming {
    fn is_terminated(&self) -> bool {
        self.listener.is_none()
    }
}
