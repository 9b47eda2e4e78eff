//! Waiting for what happens to a flow without sending or receiving: `acked`, `closed`. And its round-trip time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use machnet_channel::{CloseReason, FlowState, FlowStats};

use crate::{Flow, RecvHalf, SendErrorReason, SendHalf};

impl Flow {
    /// Resolves when the peer's transport has acknowledged every message sent so far. What the peer's *application* has
    /// read of it only the application can say.
    ///
    /// # Errors
    /// That will not happen: `BrokenPipe` if the peer reads no more and discarded some of it, else as [`Flow::recv`]. A
    /// flow that ended after the last acknowledgement is no error. The source is a
    /// [`SendErrorReason`](crate::SendErrorReason).
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub const fn acked(&mut self) -> Acked<'_> {
        self.send.acked()
    }

    /// Resolves when the flow is over, in both directions, and says why; at once if it is already. It is not over while
    /// the peer has finished and this side has not, or the other way round. Messages that have arrived may still be
    /// received.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub const fn closed(&mut self) -> Closed<'_> {
        self.send.closed()
    }

    /// The smoothed round-trip time between the two engines; `None` before the first measurement.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.send.rtt()
    }
}

impl SendHalf {
    /// As [`Flow::acked`].
    ///
    /// # Errors
    /// As [`Flow::acked`].
    ///
    /// # Cancel safety
    /// As [`Flow::acked`].
    pub const fn acked(&mut self) -> Acked<'_> {
        Acked { half: self }
    }

    /// Waits until everything posted so far was acknowledged. Registers the waiter for room.
    pub(crate) fn poll_acked(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let posted = self.end.posted();
        ready!(self.end.poll_acknowledged(cx, posted));
        if self.end.acknowledged() >= posted {
            return Poll::Ready(Ok(()));
        }
        let reason = self.write_ended().unwrap_or(SendErrorReason::Stopped);
        Poll::Ready(Err(reason.into()))
    }

    /// As [`Flow::closed`]; both halves may wait at once.
    ///
    /// # Cancel safety
    /// As [`Flow::closed`].
    pub const fn closed(&mut self) -> Closed<'_> {
        Closed { half: Half::Send(self) }
    }

    /// As [`Flow::rtt`].
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        rtt(&self.stats())
    }
}

impl RecvHalf {
    /// As [`Flow::closed`]; both halves may wait at once. The task is also woken by messages that arrive meanwhile.
    ///
    /// # Cancel safety
    /// As [`Flow::closed`].
    pub const fn closed(&mut self) -> Closed<'_> {
        Closed { half: Half::Recv(self) }
    }

    /// As [`Flow::rtt`].
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        rtt(&self.stats())
    }
}

fn rtt(stats: &FlowStats) -> Option<Duration> {
    (stats.smoothed_rtt_ns > 0).then(|| Duration::from_nanos(stats.smoothed_rtt_ns))
}

/// Future of [`Flow::acked`] and [`SendHalf::acked`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Acked<'a> {
    half: &'a mut SendHalf,
}

impl Future for Acked<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.half.poll_acked(cx)
    }
}

/// Future of [`Flow::closed`], [`SendHalf::closed`] and [`RecvHalf::closed`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Closed<'a> {
    half: Half<'a>,
}

#[derive(Debug)]
enum Half<'a> {
    Send(&'a mut SendHalf),
    Recv(&'a mut RecvHalf),
}

impl Future for Closed<'_> {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        // Each half has its own waker: neither takes the other's.
        let over = |state: FlowState| state.reason().is_some();
        let reason = match &mut self.half {
            Half::Send(half) => half.engine.reason(ready!(half.end.poll_state(cx, over))),
            Half::Recv(half) => half.engine.reason(ready!(half.end.poll_state(cx, over))),
        };
        reason.map_or(Poll::Pending, Poll::Ready)
    }
}
