//! The reading direction: bytes out of the messages that arrive.
//!
//! The message that is being read is kept, and the bytes are copied out of it; it is let go with its last byte, and each piece of it with
//! its own. A stream needs no message in one piece, so the engine may leave it in the packets that it came in. The task that owns the reader uses it without a lock, those on a shared reference lock it.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::ops::DerefMut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use machnet_channel::{Chunks, FlowStats, Message, Poked};
use tokio::io::ReadBuf;

use super::waits::{OwnPlace, Place, Waits};
use crate::{RecvHalf, coop};

/// Empty messages, which a stream does not show, that are passed over before other tasks have their turn.
const EMPTY_PER_POLL: usize = 128;

#[derive(Debug)]
pub(super) struct Reader {
    state: Mutex<Reading>,
    waits: Arc<Poked<Waits>>,
}

#[derive(Debug)]
struct Reading {
    half: RecvHalf,
    /// What is left of the message that is being read.
    rest: Chunks,
}

impl Reader {
    pub(super) fn new(mut half: RecvHalf) -> Self {
        half.end.want_chunks();
        Self { state: Mutex::new(Reading { half, rest: Chunks::new() }), waits: Poked::new(Waits::default()) }
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn own_place(&self) -> impl DerefMut<Target = Place> {
        OwnPlace::new(&self.waits)
    }

    pub(super) fn peer_addr(&self) -> SocketAddr {
        self.lock().half.peer_addr()
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.lock().half.local_addr()
    }

    pub(super) fn stats(&self) -> FlowStats {
        self.lock().half.stats()
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        coop::poll(cx, |cx| {
            let Self { state, waits } = self;
            let reading = state.get_mut().unwrap_or_else(PoisonError::into_inner);
            if ready!(reading.poll_rest(cx, waits, &mut Place::Reserved))? {
                reading.read_into(buf);
            }
            Poll::Ready(Ok(()))
        })
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        coop::poll(cx, |cx| {
            let Self { state, waits } = self;
            let reading = state.get_mut().unwrap_or_else(PoisonError::into_inner);
            let some = ready!(reading.poll_rest(cx, waits, &mut Place::Reserved))?;
            Poll::Ready(Ok(if some { reading.rest.next_chunk() } else { None }))
        })
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>, place: &mut Place) -> Poll<io::Result<()>> {
        // An error makes readable, as for sockets: the read tells it.
        coop::poll(cx, |cx| self.lock().poll_rest(cx, &self.waits, place).map(|_| Ok(())))
    }

    pub(super) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        place: &mut Place,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        coop::poll(cx, |cx| {
            let mut reading = self.lock();
            ready!(reading.poll_rest(cx, &self.waits, place))?;
            let before = buf.filled().len();
            for rest in reading.rest.slices() {
                let len = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..len]);
            }
            Poll::Ready(Ok(buf.filled().len() - before))
        })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        let mut waiter = self.own_place();
        poll_fn(|cx| self.poll_ready(cx, &mut waiter)).await
    }

    pub(super) async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut waiter = self.own_place();
        poll_fn(|cx| self.poll_peek(cx, &mut waiter, &mut ReadBuf::new(buf))).await
    }

    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        let mut reading = self.lock();
        if reading.has_rest()? {
            reading.read_into(&mut buf);
        }
        Ok(buf.filled().len())
    }

    pub(super) fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut reading = self.lock();
        let mut len = 0;
        if reading.has_rest()? {
            for buf in bufs {
                let mut buf = ReadBuf::new(buf);
                reading.read_into(&mut buf);
                len += buf.filled().len();
                if buf.remaining() > 0 {
                    break;
                }
            }
        }
        Ok(len)
    }

    pub(super) fn try_read_buf(&self, buf: &mut impl bytes::BufMut) -> io::Result<usize> {
        let mut reading = self.lock();
        let mut len = 0;
        if reading.has_rest()? {
            while buf.has_remaining_mut() && (!reading.rest.is_empty() || reading.next()) {
                let rest = reading.rest.chunk();
                let part = rest.len().min(buf.remaining_mut());
                buf.put_slice(&rest[..part]);
                reading.advance(part);
                len += part;
            }
        }
        Ok(len)
    }

    /// The rest of the message that is being read, and the flow's half.
    pub(super) fn into_parts(self) -> (RecvHalf, Message) {
        let Reading { half, rest } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (half, rest.into_message())
    }
}

impl Reading {
    /// Takes the next message with bytes, if it is there.
    fn next(&mut self) -> bool {
        for _ in 0..EMPTY_PER_POLL {
            match self.half.end.take_chunks() {
                Some(message) if message.is_empty() => {}
                Some(message) => {
                    self.rest = message;
                    return true;
                }
                None => break,
            }
        }
        false
    }

    /// True if there are bytes, false at the end of the stream; `WouldBlock` if neither.
    fn has_rest(&mut self) -> io::Result<bool> {
        if !self.rest.is_empty() || self.next() {
            return Ok(true);
        }
        Ok(self.half.try_recv_chunks()?.is_some_and(|message| {
            self.rest = message;
            true
        }))
    }

    /// Waits until there are bytes: true, or the end of the stream: false.
    fn poll_rest(&mut self, cx: &Context<'_>, waits: &Arc<Poked<Waits>>, place: &mut Place) -> Poll<io::Result<bool>> {
        if !self.rest.is_empty() || self.next() {
            return Poll::Ready(Ok(true));
        }
        // Noted before the flow is looked at once more: what arrives after that look wakes.
        waits.with(|waits| waits.note(cx.waker(), place));
        match ready!(self.half.poll_recv_chunks(&Context::from_waker(&waits.waker())))? {
            None => Poll::Ready(Ok(false)),
            Some(message) if message.is_empty() => {
                // The task has its turn again, and goes on.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(message) => {
                self.rest = message;
                Poll::Ready(Ok(true))
            }
        }
    }

    /// Copies what is there, up to the room in `buf`.
    fn read_into(&mut self, buf: &mut ReadBuf<'_>) {
        while buf.remaining() > 0 && (!self.rest.is_empty() || self.next()) {
            let rest = self.rest.chunk();
            let len = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..len]);
            self.advance(len);
        }
    }

    fn advance(&mut self, len: usize) {
        self.rest.advance(len);
        if self.rest.is_empty() {
            // Its frame goes home now, not with the next message.
            self.rest = Chunks::new();
        }
    }
}
