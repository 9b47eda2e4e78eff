//! Flows and their halves: what messages are sent and received on.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use machnet_channel::{Chunks, CloseReason, FlowOptions, FlowState, FlowStats, Mailbox, Message, RecvEnd, SendEnd};

use crate::coop;
use crate::datapath::EngineHandle;
use crate::{FlowError, SendError, SendErrorReason};

/// A reliable, ordered, bidirectional connection that preserves messages.
///
/// Dropped, a flow finishes what was sent, in the background and for as long as the configured linger allows, and
/// tells the peer that nothing more will be read. Use [`Flow::close`] to know that everything arrived, above all before
/// the process exits.
///
/// `send` and `recv` need `&mut`: one waiter per direction. To do both at once, or in two tasks, [`Flow::into_split`].
#[derive(Debug)]
#[must_use = "dropped, it is closed"]
pub struct Flow {
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
}

impl Flow {
    pub(crate) fn new(send: SendEnd, recv: RecvEnd, engine: &Arc<EngineHandle>) -> Self {
        Self {
            send: SendHalf { end: send, engine: Arc::clone(engine) },
            recv: RecvHalf { end: recv, engine: Arc::clone(engine) },
        }
    }

    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.recv.peer_addr()
    }

    /// The address the flow uses on this side.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.recv.local_addr()
    }

    /// The flow's counters, at most one round of the engine old.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        self.recv.stats()
    }

    /// The longest message that [`Flow::send`] takes, bytes: the smaller of both sides' limits.
    #[must_use]
    pub fn max_message_size(&self) -> usize {
        self.send.max_message_size()
    }

    /// Sends one message, of any length up to [`Flow::max_message_size`], also empty.
    ///
    /// Waits while the peer, or the network, is slower than the application: while as many bytes are underway as
    /// [`Config::send_buffer`](crate::Config) says. Resolved, the message is the engine's, which sends it for as long
    /// as the flow lives; it does not mean that the peer has it: see [`Flow::close`].
    ///
    /// # Errors
    /// Each gives the message back. As an [`io::Error`] (`?` converts): `InvalidInput` if the message is too long,
    /// `BrokenPipe` if the peer reads no more or [`Flow::finish`] was called, else as [`Flow::recv`].
    ///
    /// # Cancel safety
    /// All or nothing: a future dropped before it resolved has sent nothing, and the message is dropped with it.
    pub fn send(&mut self, message: impl Into<Message>) -> Send<'_> {
        self.send.send(message)
    }

    /// Receives the next message, whole; `None` after the last one, when the peer finished in order.
    ///
    /// A message taken gives the peer room for another. Messages that arrived before the flow failed come before the
    /// error.
    ///
    /// # Errors
    /// A [`FlowError`] as source, and a kind as TCP's: `ConnectionReset` if the peer ended the flow or knows it no
    /// longer, `TimedOut` if it stopped acknowledging, `NotConnected` if the endpoint was shut down. The whole table
    /// is in the [crate's documentation](crate#errors). The error is final.
    ///
    /// # Cancel safety
    /// Dropping the future loses no message.
    pub const fn recv(&mut self) -> Recv<'_> {
        self.recv.recv()
    }

    /// [`Flow::recv`] for who needs no message in one piece: over DPDK, the engine leaves messages of several packets where the device
    /// wrote them, and nothing is copied before the application reads. Other drivers copy them into one piece, which is faster there.
    ///
    /// The first call asks for it; messages that have begun to arrive, and those that are longer than an eighth of the driver's frames hold, or
    /// arrive while less than half of these is free, come in one piece still. Not cheaper for messages of one packet, which `recv` does not copy
    /// either. To read such a flow by [`Flow::recv`] again is allowed, and copies what lies in several pieces.
    ///
    /// ```
    /// # async fn example(flow: &mut machnet_async::Flow, file: &mut std::fs::File) -> std::io::Result<()> {
    /// use std::io::Write;
    ///
    /// while let Some(message) = flow.recv_chunks().await? {
    ///     for piece in message {
    ///         file.write_all(&piece)?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Flow::recv`].
    ///
    /// # Cancel safety
    /// Dropping the future loses no message.
    pub fn recv_chunks(&mut self) -> RecvChunks<'_> {
        self.recv.recv_chunks()
    }

    /// Says that no more messages follow: the peer's `recv` returns `None` after the last one. Receiving goes on.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// Ends the flow in order, in both directions, and resolves when the peer's transport has everything that was
    /// sent. What the peer's *application* has read of it only the application can say.
    ///
    /// Messages from the peer that were not received are dropped, and the peer is told that nothing more will be read.
    ///
    /// # Errors
    /// Not everything was acknowledged: `BrokenPipe` if the peer reads no more and discarded some of it, else as
    /// [`Flow::recv`].
    ///
    /// # Cancel safety
    /// The end begins with the call. Dropping the future is dropping the flow: the engine goes on for the linger.
    pub fn close(self) -> Close {
        // Dropped, the receiving end says STOP.
        drop(self.recv);
        self.send.close()
    }

    /// Ends the flow at once, in both directions: what was not sent, or not acknowledged, may be lost. The peer's
    /// `send` and `recv` fail with `ConnectionReset`.
    pub fn abort(mut self) {
        tracing::debug!(local = %self.local_addr(), peer = %self.peer_addr(), "flow aborted");
        self.send.end.abort();
    }

    /// Divides the flow into its directions, to use them from two tasks. Nothing is allocated or locked.
    #[must_use]
    pub fn into_split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }

    /// Makes a flow of its two halves again.
    ///
    /// # Errors
    /// Both halves, if they are not of one flow.
    pub fn reunite(send: SendHalf, recv: RecvHalf) -> Result<Self, ReuniteError> {
        if Arc::ptr_eq(send.end.mailbox(), recv.end.mailbox()) {
            Ok(Self { send, recv })
        } else {
            Err(ReuniteError(send, recv))
        }
    }
}

/// Two halves that are not of one flow.
#[derive(Debug, thiserror::Error)]
#[error("the halves are of different flows")]
pub struct ReuniteError(pub SendHalf, pub RecvHalf);

/// The sending direction of a [`Flow`]. Dropped, it finishes: the peer's `recv` returns `None` after the last message.
#[derive(Debug)]
pub struct SendHalf {
    pub(crate) end: SendEnd,
    /// Last, so that the engine hears of the end of `end` first.
    pub(crate) engine: Arc<EngineHandle>,
}

impl SendHalf {
    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.end.mailbox().peer()
    }

    /// The address the flow uses on this side.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        local_addr(self.end.mailbox(), &self.engine)
    }

    /// The flow's counters, both directions.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        self.end.stats()
    }

    /// The longest message that [`SendHalf::send`] takes, bytes: the smaller of both sides' limits.
    #[must_use]
    pub fn max_message_size(&self) -> usize {
        match self.end.mailbox().max_message() {
            // An accepted flow that the engine has yet to publish; sending waits for that.
            0 => self.engine.max_message(),
            negotiated => negotiated as usize,
        }
    }

    /// As [`Flow::send`].
    ///
    /// # Errors
    /// As [`Flow::send`].
    ///
    /// # Cancel safety
    /// As [`Flow::send`]: all or nothing.
    pub fn send(&mut self, message: impl Into<Message>) -> Send<'_> {
        Send { half: self, message: Some(message.into()) }
    }

    /// As [`Flow::finish`]. Idempotent.
    pub fn finish(&mut self) {
        self.end.finish();
    }

    /// Finishes, and resolves when the peer's transport has everything that was sent.
    ///
    /// # Errors
    /// As [`Flow::close`].
    ///
    /// # Cancel safety
    /// As [`Flow::close`].
    pub fn close(mut self) -> Close {
        self.end.finish();
        Close { half: self }
    }

    fn poll_send(&mut self, cx: &Context<'_>, message: &mut Option<Message>) -> Poll<Result<(), SendError>> {
        let Some(len) = message.as_ref().map(Message::len) else { panic!("`Send` polled after completion") };
        let permit = ready!(self.poll_permit(cx, len));
        let Some(posting) = message.take() else { unreachable!("it has a length") };
        // Permit and commitment in one step.
        Poll::Ready(match permit {
            Ok(()) => self.post(posting),
            Err(reason) => Err(SendError::new(posting, reason)),
        })
    }

    /// Waits until a message of `len` bytes may be posted: then it may until one is.
    pub(crate) fn poll_permit(&mut self, cx: &Context<'_>, len: usize) -> Poll<Result<(), SendErrorReason>> {
        loop {
            if let Some(reason) = self.too_large(len).or_else(|| self.cannot_send()) {
                return Poll::Ready(Err(reason));
            }
            ready!(self.end.poll_room(cx));
            if self.end.has_room() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// After `finish`: waits until the peer's transport has everything.
    pub(crate) fn poll_finished(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let state =
            ready!(self.end.poll_state(cx, |state| state.has(FlowState::FIN_ACKED) || state.reason().is_some()));
        let (local, peer) = (self.local_addr(), self.peer_addr());
        match self.engine.reason(state) {
            Some(reason) if reason != CloseReason::Finished && !state.has(FlowState::FIN_ACKED) => {
                tracing::debug!(%local, %peer, ?reason, "flow ended before everything was acknowledged");
                Poll::Ready(Err(FlowError::new(peer, reason).into()))
            }
            // In order, and yet not everything: the peer reads no more, and what was underway to it was discarded. The
            // engine publishes what was acknowledged before the end.
            _ if self.end.acknowledged() < self.end.posted() => {
                let reason = self.write_ended().unwrap_or(SendErrorReason::Stopped);
                tracing::debug!(%local, %peer, ?reason, "flow closed before everything was acknowledged");
                Poll::Ready(Err(reason.into()))
            }
            _ => {
                tracing::debug!(%local, %peer, "flow closed");
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Posts what a permit was got for.
    pub(crate) fn post(&mut self, message: Message) -> Result<(), SendError> {
        self.end.post(message).map_err(|back| SendError::new(back, SendErrorReason::Finished))
    }

    pub(crate) fn too_large(&self, len: usize) -> Option<SendErrorReason> {
        let limit = self.max_message_size();
        (len > limit).then_some(SendErrorReason::TooLarge { len, limit })
    }

    /// Why no message can be sent any more, if so.
    pub(crate) fn cannot_send(&self) -> Option<SendErrorReason> {
        if self.end.is_finished() { Some(SendErrorReason::Finished) } else { self.write_ended() }
    }

    /// Why what was sent may not arrive any more, if so; the same whether this side finished or not.
    pub(crate) fn write_ended(&self) -> Option<SendErrorReason> {
        let state = self.end.mailbox().state();
        match self.engine.reason(state) {
            Some(CloseReason::Finished) | None if self.engine.is_closing() => {
                Some(SendErrorReason::Closed(CloseReason::Shutdown))
            }
            Some(CloseReason::Finished) => Some(SendErrorReason::Stopped),
            Some(reason) => Some(SendErrorReason::Closed(reason)),
            None => state.has(FlowState::WRITE_ENDED).then_some(SendErrorReason::Stopped),
        }
    }
}

/// The receiving direction of a [`Flow`]. Dropped, it tells the peer that nothing more will be read.
#[derive(Debug)]
pub struct RecvHalf {
    pub(crate) end: RecvEnd,
    /// Last, so that the engine hears of the end of `end` first.
    pub(crate) engine: Arc<EngineHandle>,
}

impl RecvHalf {
    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.end.mailbox().peer()
    }

    /// The address the flow uses on this side.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        local_addr(self.end.mailbox(), &self.engine)
    }

    /// The flow's counters, both directions.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        self.end.stats()
    }

    /// As [`Flow::recv`].
    ///
    /// # Errors
    /// As [`Flow::recv`].
    ///
    /// # Cancel safety
    /// As [`Flow::recv`]: no message is lost.
    pub const fn recv(&mut self) -> Recv<'_> {
        Recv { half: self }
    }

    /// As [`Flow::recv_chunks`].
    ///
    /// # Errors
    /// As [`Flow::recv`].
    ///
    /// # Cancel safety
    /// As [`Flow::recv`]: no message is lost.
    pub fn recv_chunks(&mut self) -> RecvChunks<'_> {
        self.end.want_chunks();
        RecvChunks { half: self }
    }

    pub(crate) fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<io::Result<Option<Message>>> {
        self.poll_recv_chunks(cx).map_ok(|message| message.map(Chunks::into_message))
    }

    pub(crate) fn poll_recv_chunks(&mut self, cx: &Context<'_>) -> Poll<io::Result<Option<Chunks>>> {
        if let Some(message) = crate::spin::for_message(&mut self.end, self.engine.recv_spin()) {
            return Poll::Ready(Ok(Some(message)));
        }
        if let Some(message) = ready!(self.end.poll_take_chunks(cx)) {
            return Poll::Ready(Ok(Some(message)));
        }
        Poll::Ready(self.ended())
    }

    /// What follows the last message: the end of the stream, or why there is none.
    pub(crate) fn ended<T>(&self) -> io::Result<Option<T>> {
        let mailbox = self.end.mailbox();
        let state = mailbox.state();
        if state.has(FlowState::READ_ENDED) {
            return Ok(None);
        }
        // Over in order, but not by the peer's end: the endpoint was shut down, and stopped reading for us.
        let reason = self.engine.reason(state).filter(|reason| *reason != CloseReason::Finished);
        Err(FlowError::new(mailbox.peer(), reason.unwrap_or(CloseReason::Shutdown)).into())
    }
}

/// An accepted flow knows its address from the start, a connected one since it is open; both before any flow exists.
fn local_addr(mailbox: &Mailbox, engine: &EngineHandle) -> SocketAddr {
    mailbox.local().unwrap_or_else(|| engine.local())
}

/// Future of [`Flow::send`] and [`SendHalf::send`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Send<'a> {
    half: &'a mut SendHalf,
    message: Option<Message>,
}

impl Future for Send<'_> {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        coop::poll(cx, |cx| this.half.poll_send(cx, &mut this.message))
    }
}

/// Future of [`Flow::recv`] and [`RecvHalf::recv`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Recv<'a> {
    half: &'a mut RecvHalf,
}

impl Future for Recv<'_> {
    type Output = io::Result<Option<Message>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        coop::poll(cx, |cx| self.half.poll_recv(cx))
    }
}

/// Future of [`Flow::recv_chunks`] and [`RecvHalf::recv_chunks`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct RecvChunks<'a> {
    half: &'a mut RecvHalf,
}

impl Future for RecvChunks<'_> {
    type Output = io::Result<Option<Chunks>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        coop::poll(cx, |cx| self.half.poll_recv_chunks(cx))
    }
}

/// Future of [`Flow::close`] and [`SendHalf::close`].
#[derive(Debug)]
#[must_use = "dropped before it resolves, it does not say whether everything arrived"]
pub struct Close {
    half: SendHalf,
}

impl Future for Close {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.half.poll_finished(cx)
    }
}

/// Future of [`Endpoint::connect`](crate::Endpoint::connect).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Connect {
    to: SocketAddr,
    options: FlowOptions,
    ends: Option<(SendEnd, RecvEnd)>,
    /// Last, so that the engine hears of the end of `ends` first.
    engine: Arc<EngineHandle>,
}

impl Connect {
    pub(crate) fn new(engine: &Arc<EngineHandle>, to: SocketAddr) -> Self {
        Self { to, options: FlowOptions::new(), ends: None, engine: Arc::clone(engine) }
    }

    /// Chooses something for this flow that the endpoint has otherwise. Of no effect once the future was polled.
    pub const fn options(mut self, options: FlowOptions) -> Self {
        self.options = options;
        self
    }
}

impl Future for Connect {
    type Output = io::Result<Flow>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { to, options, ends, engine } = &mut *self;
        let to = *to;
        if to.port() == 0 {
            let text = format!("cannot connect to {to}: port 0 is no address");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let (mut send, recv) = ends.take().unwrap_or_else(|| Mailbox::connect_with(engine.intake(), to, *options));
        let settled = |state: FlowState| state.has(FlowState::OPEN) || state.reason().is_some();
        let Poll::Ready(state) = send.poll_state(cx, settled) else {
            *ends = Some((send, recv));
            return Poll::Pending;
        };
        // Open, and over by now: `recv` has what arrived, and then the reason.
        if state.has(FlowState::OPEN) {
            let flow = Flow::new(send, recv, engine);
            tracing::debug!(local = %flow.local_addr(), peer = %to, "flow connected");
            return Poll::Ready(Ok(flow));
        }
        let reason = engine.reason(state).unwrap_or(CloseReason::Shutdown);
        tracing::debug!(peer = %to, ?reason, "flow not connected");
        Poll::Ready(Err(FlowError::new(to, reason).into()))
    }
}
