//! tarpc, and whatever else takes `tokio_serde::Framed`: one message of the flow is one of the protocol, without a length
//! codec.
//!
//! `transport(flow, codec)` is a `tarpc::Transport` for every codec of tokio-serde 0.9, which tarpc 0.38 re-exports as
//! `tarpc::tokio_serde::formats`. Servers make a channel of each flow that a [`Listener`](crate::Listener) accepts:
//! `BaseChannel::with_defaults(transport(flow, codec))`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_sink::Sink;

use crate::{Flow, Messages};

/// A transport of `Item`s received and `SinkItem`s sent over `flow`, in the format of `codec`. An item that is longer than
/// [`Flow::max_message_size`] fails with `InvalidInput`.
pub fn transport<Item, SinkItem, Codec>(
    flow: Flow,
    codec: Codec,
) -> tokio_serde::Framed<Frames, Item, SinkItem, Codec> {
    tokio_serde::Framed::new(Frames(flow.into_messages()), codec)
}

/// [`Messages`] of the types that tokio-serde asks for.
#[derive(Debug)]
#[must_use = "dropped, the flow is closed"]
pub struct Frames(Messages);

impl Frames {
    /// The flow, for its addresses and counters.
    pub const fn flow(&self) -> &Flow {
        self.0.flow()
    }
}

impl Stream for Frames {
    type Item = io::Result<BytesMut>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // A copy, if the message lies in a frame: tokio-serde wants memory that can be written.
        Pin::new(&mut self.0).poll_next(cx).map_ok(|message| message.into_bytes().into())
    }
}

impl Sink<Bytes> for Frames {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, item: Bytes) -> io::Result<()> {
        Pin::new(&mut self.0).start_send(item.into())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
