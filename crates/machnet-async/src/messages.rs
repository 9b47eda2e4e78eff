//! A flow as a `Stream` and a `Sink`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use futures_sink::Sink;
use machnet_channel::{FlowState, Message};

use crate::{Flow, TrySendError, coop};

/// A [`Flow`] as a [`Stream`] of the messages received and a [`Sink`] of messages to send; made by
/// [`Flow::into_messages`].
///
/// - The stream ends after the last message, or after an error, which is [`Flow::recv`]'s.
/// - The sink is ready while [`Flow::send`] would not wait. What it took is the engine's: *flushed* means that, and not
///   that the peer has it; flushing fails if the flow failed before everything was acknowledged. It waits only if the sink
///   was not ready when last asked, and then for what that waits for: whoever flushes a sink to make it ready, and asks
///   again, goes to sleep. *Closed* means that the peer's transport has everything, as after [`Flow::finish`]; receiving
///   goes on.
/// - The sink's error is an [`io::Error`], as the stream's, so that one can be forwarded to the other. Its source is a
///   [`SendError`](crate::SendError), or a [`TrySendError`], with the message, where there is one.
///
/// Futures and streams are polled by the tasks that use them, at most one per direction.
#[derive(Debug)]
#[must_use = "dropped, the flow is closed"]
pub struct Messages {
    flow: Flow,
    /// The stream gave its `None`, or its error.
    done: bool,
    /// The sink was not ready when it was last asked.
    crowded: bool,
}

impl Flow {
    /// The flow as a [`Stream`] and a [`Sink`] of messages. A flow itself is neither: what `StreamExt` and `SinkExt`
    /// bring would hide `send`, `close` and others.
    pub const fn into_messages(self) -> Messages {
        Messages { flow: self, done: false, crowded: false }
    }
}

impl Messages {
    /// The flow again.
    pub fn into_flow(self) -> Flow {
        self.flow
    }

    /// The flow, for its addresses and counters.
    pub const fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.flow.peer_addr()
    }
}

impl Stream for Messages {
    type Item = io::Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        let next = ready!(coop::poll(cx, |cx| self.flow.recv.poll_recv(cx))).transpose();
        self.done = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

impl FusedStream for Messages {
    fn is_terminated(&self) -> bool {
        self.done
    }
}

impl Sink<Message> for Messages {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let permit = coop::poll(cx, |cx| self.flow.send.poll_permit(cx, 0));
        self.crowded = permit.is_pending();
        permit.map_err(io::Error::from)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> io::Result<()> {
        // Ready stays ready: there is room until a message takes it. Who did not ask may find none.
        self.flow.send.try_send(message).map_err(TrySendError::into)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.crowded {
            // Room, and budget: without either, whoever flushes until the sink is ready would never let its task yield.
            // An error is told below, if it concerns what was sent.
            let _ = ready!(coop::poll(cx, |cx| self.flow.send.poll_permit(cx, 0)));
            self.crowded = false;
        }
        let send = &self.flow.send;
        // The state before the count: the engine publishes what was acknowledged before the end.
        let failed = send.end.mailbox().state().has(FlowState::WRITE_ENDED).then(|| send.write_ended()).flatten();
        let acked = send.end.acknowledged() >= send.end.posted();
        Poll::Ready(failed.filter(|_| !acked).map_or(Ok(()), |reason| Err(reason.into())))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flow.send.finish();
        self.flow.send.poll_finished(cx)
    }
}
