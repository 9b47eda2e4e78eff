//! The writing direction: messages out of the bytes that are written.
//!
//! While the flow has room each write is a message, at once: nothing waits for company, as with `TCP_NODELAY`. Without
//! room, what is written gathers in the *tail*, up to [`GATHER`] bytes, and goes as one message when there is room; a
//! writer waits when the tail is full.
//!
//! A writer that has been told `Ok` may never call again, so the tail goes by itself: the state is the waker that waits
//! for room, and whoever calls that waker, usually the engine, posts the tail ([`Poked`]). Why so: ADR 11.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::DerefMut;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use machnet_channel::{FlowState, Message, Poked, Work};

use super::waits::{OwnPlace, Place, Waited, Waits};
use crate::{SendErrorReason, SendHalf, coop};

/// The longest message that a write makes, bytes: what a write of more leaves is for the next one. A frame of reassembly
/// (`docs/spec/flow.md#receiving`), so that the reader can begin while the writer goes on.
pub(super) const PIECE: usize = 64 << 10;
/// What gathers while there is no room, bytes.
pub(super) const GATHER: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Poked<Writing>>,
}

#[derive(Debug)]
struct Writing {
    /// `None` once the writer was dropped.
    half: Option<SendHalf>,
    /// Accepted from the application, and waiting for room.
    tail: BytesMut,
    waits: Waits,
}

impl Work for Writing {
    /// All that wait: they look for themselves.
    type Rest = Waits;

    fn work(&mut self, cx: &Context<'_>) -> Waits {
        // An error shows at the next call; Pending has registered for the next room.
        let _ = self.poll_tail(|| cx.waker().clone());
        self.waits.take()
    }

    fn finish(woken: Waits) {
        woken.wake();
    }
}

impl Waited for Writing {
    fn waits(&mut self) -> &mut Waits {
        &mut self.waits
    }
}

impl Writer {
    pub(super) fn new(half: SendHalf) -> Self {
        let writing = Writing { half: Some(half), tail: BytesMut::new(), waits: Waits::default() };
        Self { shared: Poked::new(writing) }
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>, place: &mut Place) -> Poll<io::Result<()>> {
        coop::poll(cx, |cx| {
            self.shared.with(|writing| {
                // An error makes writable, as for sockets: the write tells it.
                let full = writing.poll_tail(|| self.shared.waker()).is_pending() && writing.space() == 0;
                if full { writing.wait(cx, place) } else { Poll::Ready(Ok(())) }
            })
        })
    }

    pub(super) fn own_place(&self) -> impl DerefMut<Target = Place> {
        OwnPlace::new(&self.shared)
    }

    pub(super) fn peer_addr(&self) -> SocketAddr {
        self.shared.with(|writing| writing.half().peer_addr())
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.shared.with(|writing| writing.half().local_addr())
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        place: &mut Place,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        coop::poll(cx, |cx| {
            self.shared.with(|writing| {
                let written = writing.write(bufs, || self.shared.waker())?;
                // Without room nor space in the tail, the tail has registered for room.
                written.map_or_else(|| writing.wait(cx, place), |len| Poll::Ready(Ok(len)))
            })
        })
    }

    pub(super) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.shared
            .with(|writing| writing.write(bufs, || self.shared.waker()))?
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// Posts `chunk` as it is, in pieces that the flow takes; what is left of it is in `chunk`.
    pub(super) fn poll_write_chunk(&self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        coop::poll(cx, |cx| {
            self.shared.with(|writing| {
                while !chunk.is_empty() {
                    if writing.poll_room(|| self.shared.waker())?.is_pending() {
                        return writing.wait(cx, &mut Place::Reserved);
                    }
                    let len = chunk.len().min(writing.max_message());
                    writing.half().post(chunk.split_to(len).into()).map_err(io::Error::from)?;
                }
                Poll::Ready(Ok(()))
            })
        })
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        let mut waiter = self.own_place();
        poll_fn(|cx| self.poll_ready(cx, &mut waiter)).await
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|writing| match writing.poll_tail(|| self.shared.waker()) {
            Poll::Pending => writing.wait(cx, &mut Place::Reserved),
            Poll::Ready(result) => Poll::Ready(result.map_err(io::Error::from)),
        })
    }

    pub(super) fn poll_acked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.shared.with(|writing| {
            let waker = self.shared.waker();
            match writing.half().poll_acked(&Context::from_waker(&waker)) {
                Poll::Pending => writing.wait(cx, &mut Place::Reserved),
                ready => ready,
            }
        })
    }

    pub(super) fn poll_shutdown(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|writing| {
            writing.finish();
            let half = writing.half();
            match half.poll_finished(cx) {
                Poll::Pending if half.end.mailbox().state().has(FlowState::FIN_LATE) => {
                    let peer = half.peer_addr();
                    let text = format!("flow to {peer}: the end was not acknowledged in time; it is still being sent");
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
                }
                result => result,
            }
        })
    }

    /// The flow's half; the tail is posted.
    pub(super) fn into_half(self) -> SendHalf {
        self.shared.with(Writing::leave).unwrap_or_else(|| unreachable!("{GONE}"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The state may be held, as a waker, by the very flow that it holds. Outside of the lock: the half's end is work.
        drop(self.shared.with(Writing::leave));
    }
}

const GONE: &str = "the half goes with the writer";

impl Writing {
    fn half(&mut self) -> &mut SendHalf {
        self.half.as_mut().unwrap_or_else(|| unreachable!("{GONE}"))
    }

    fn max_message(&mut self) -> usize {
        self.half().max_message_size().max(1)
    }

    fn space(&self) -> usize {
        GATHER.saturating_sub(self.tail.len())
    }

    fn wait<T>(&mut self, cx: &Context<'_>, place: &mut Place) -> Poll<T> {
        self.waits.note(cx.waker(), place);
        Poll::Pending
    }

    /// Writes what can be written now; `None` if that is nothing, and then `waker` is registered for room.
    fn write(
        &mut self,
        bufs: &[IoSlice<'_>],
        waker: impl Fn() -> std::task::Waker,
    ) -> Result<Option<usize>, SendErrorReason> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        if let Some(reason) = self.half().cannot_send() {
            return Err(reason);
        }
        if len == 0 {
            return Ok(Some(0));
        }
        if self.poll_tail(&waker).is_ready() && self.half().end.has_room() {
            let len = len.min(PIECE).min(self.max_message());
            let mut piece = BytesMut::with_capacity(len);
            gather(bufs, len, &mut piece);
            self.post(piece);
            return Ok(Some(len));
        }
        let space = self.space();
        if space == 0 {
            return Ok(None);
        }
        let len = gather(bufs, space, &mut self.tail);
        // There may be room by now; else somebody must be called when there is.
        let _ = self.poll_tail(waker);
        Ok(Some(len))
    }

    /// Waits for the tail to be posted. `Pending`: `waker` is registered for room.
    fn poll_tail(&mut self, waker: impl Fn() -> std::task::Waker) -> Poll<Result<(), SendErrorReason>> {
        while !self.tail.is_empty() {
            ready!(self.poll_permit(&waker))?;
            let limit = self.max_message();
            let piece = take_front(&mut self.tail, limit);
            self.post(piece);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for room beyond the tail.
    fn poll_room(&mut self, waker: impl Fn() -> std::task::Waker) -> Result<Poll<()>, SendErrorReason> {
        Ok(match self.poll_tail(&waker)? {
            Poll::Ready(()) => self.poll_permit(waker)?,
            Poll::Pending => Poll::Pending,
        })
    }

    fn poll_permit(&mut self, waker: impl Fn() -> std::task::Waker) -> Poll<Result<(), SendErrorReason>> {
        let Some(half) = &mut self.half else { return Poll::Ready(Err(SendErrorReason::Finished)) };
        if half.end.has_room() && half.cannot_send().is_none() {
            return Poll::Ready(Ok(()));
        }
        half.poll_permit(&Context::from_waker(&waker()), 0)
    }

    /// Posts what there is room for.
    fn post(&mut self, piece: BytesMut) {
        let posted = self.half().end.post(piece.into());
        debug_assert!(posted.is_ok(), "room was looked for");
    }

    /// Says that nothing follows. The tail goes first, room or not: what was accepted is sent, and it is not much.
    fn finish(&mut self) {
        let limit = self.max_message();
        let mut tail = std::mem::take(&mut self.tail);
        while !tail.is_empty() {
            let piece = take_front(&mut tail, limit);
            self.half().end.post_over(Message::from(piece));
        }
        self.half().finish();
    }

    fn leave(&mut self) -> Option<SendHalf> {
        if !self.tail.is_empty() {
            self.finish();
        }
        self.half.take()
    }
}

/// The first `limit` bytes, or all: then with their memory, which an idle stream must not keep.
fn take_front(tail: &mut BytesMut, limit: usize) -> BytesMut {
    if tail.len() <= limit { std::mem::take(tail) } else { tail.split_to(limit) }
}

/// Appends the first `limit` bytes of `bufs` to `out`; returns how many there were.
fn gather(bufs: &[IoSlice<'_>], limit: usize, out: &mut BytesMut) -> usize {
    let mut left = limit;
    for buf in bufs {
        let part = &buf[..buf.len().min(left)];
        out.extend_from_slice(part);
        left -= part.len();
        if left == 0 {
            break;
        }
    }
    limit - left
}
