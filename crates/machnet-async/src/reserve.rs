//! Sending without waiting, and building a message in place: `try_send`, `try_recv`, `reserve`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use machnet_channel::{Chunks, FlowState, Message, Reserved};

use crate::{Flow, RecvHalf, SendError, SendHalf, TrySendError, coop};

impl Flow {
    /// [`Flow::send`] if that need not wait.
    ///
    /// # Errors
    /// [`TrySendError::Full`] if it would have to wait (kind `WouldBlock`), else as [`Flow::send`]. Each gives the
    /// message back.
    pub fn try_send(&mut self, message: impl Into<Message>) -> Result<(), TrySendError> {
        self.send.try_send(message)
    }

    /// [`Flow::recv`] if that need not wait.
    ///
    /// # Errors
    /// `WouldBlock` if it would have to wait, as `TcpStream::try_read` says it, else as [`Flow::recv`].
    pub fn try_recv(&mut self) -> io::Result<Option<Message>> {
        self.recv.try_recv()
    }

    /// [`Flow::recv_chunks`] if that need not wait.
    ///
    /// # Errors
    /// As [`Flow::try_recv`].
    pub fn try_recv_chunks(&mut self) -> io::Result<Option<Chunks>> {
        self.recv.try_recv_chunks()
    }

    /// Waits for room, then gives the permit to send one message of up to `len` bytes, and the buffer to build it in.
    ///
    /// ```
    /// # async fn example(flow: &mut machnet_async::Flow) -> std::io::Result<()> {
    /// use bytes::BufMut;
    ///
    /// let mut message = flow.reserve(100).await?;
    /// message.put_u32(7);
    /// message.put_slice(b"seven");
    /// message.send(); // all of it, without waiting; dropped, nothing
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The buffer becomes the message as it is, without a copy; what was reserved and not written is not sent. Where the device reads
    /// packets in place (DPDK) a buffer of 1 KiB or more is memory that it reads, up to 64 KiB (or what fits a packet, if the device sends no
    /// packets of two pieces), and the message is not copied on its way to the device. Copied once, as those given to [`Flow::send`] are, is
    /// - a message of more than 64 KiB, or of less than 1 KiB written;
    /// - one for which no such memory was ready: an endpoint's first, and its first of more than a packet, for they ask for it; and others
    ///   beyond what is lent ([`Config::build_frames`](crate::Config), [`Config::long_frames`](crate::Config)). Waiting is for room only;
    /// - of one of several packets the last part, if that has fewer than 64 bytes;
    /// - what shares a packet with the next message.
    ///
    /// [`Endpoint::stats`](crate::Endpoint::stats) counts them: `build_frames_missed`, `long_frames_missed`, `built_and_copied`,
    /// `parts_copied`. `docs/drivers.md` has the whole list.
    ///
    /// # Errors
    /// As [`Flow::send`], with a [`SendErrorReason`](crate::SendErrorReason) as source: `InvalidInput` if `len` is over
    /// [`Flow::max_message_size`].
    ///
    /// # Cancel safety
    /// Neither the future nor the permit has an effect if dropped.
    pub const fn reserve(&mut self, len: usize) -> Reserve<'_> {
        self.send.reserve(len)
    }
}

impl SendHalf {
    /// As [`Flow::try_send`].
    ///
    /// # Errors
    /// As [`Flow::try_send`].
    pub fn try_send(&mut self, message: impl Into<Message>) -> Result<(), TrySendError> {
        let message = message.into();
        if let Some(reason) = self.too_large(message.len()).or_else(|| self.cannot_send()) {
            return Err(SendError::new(message, reason).into());
        }
        if !self.end.has_room() {
            return Err(TrySendError::Full(message));
        }
        Ok(self.post(message)?)
    }

    /// As [`Flow::reserve`].
    ///
    /// # Errors
    /// As [`Flow::reserve`].
    ///
    /// # Cancel safety
    /// As [`Flow::reserve`].
    pub const fn reserve(&mut self, len: usize) -> Reserve<'_> {
        Reserve { half: Some(self), len }
    }
}

impl RecvHalf {
    /// As [`Flow::try_recv`].
    ///
    /// # Errors
    /// As [`Flow::try_recv`].
    pub fn try_recv(&mut self) -> io::Result<Option<Message>> {
        self.try_take().map(|message| message.map(Chunks::into_message))
    }

    /// As [`Flow::try_recv_chunks`].
    ///
    /// # Errors
    /// As [`Flow::try_recv`].
    pub fn try_recv_chunks(&mut self) -> io::Result<Option<Chunks>> {
        self.end.want_chunks();
        self.try_take()
    }

    fn try_take(&mut self) -> io::Result<Option<Chunks>> {
        // The state before the inbox: the engine delivers first and publishes the end after.
        let state = self.end.mailbox().state();
        match self.end.take_chunks() {
            Some(message) => Ok(Some(message)),
            None if state.has(FlowState::READ_ENDED) || state.has(FlowState::CLOSED) => self.ended(),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Future of [`Flow::reserve`] and [`SendHalf::reserve`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Reserve<'a> {
    half: Option<&'a mut SendHalf>,
    len: usize,
}

impl<'a> Future for Reserve<'a> {
    type Output = io::Result<Reserved<'a>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { half, len } = &mut *self;
        let Some(waiting) = half else { panic!("`Reserve` polled after completion") };
        let permit = ready!(coop::poll(cx, |cx| waiting.poll_permit(cx, *len)));
        Poll::Ready(match (permit, half.take()) {
            (Ok(()), Some(half)) => Ok(half.end.reserve(*len)),
            (Err(reason), _) => Err(reason.into()),
            (Ok(()), None) => unreachable!("polled above"),
        })
    }
}
