//! A message that is built after the permit to send it was got.

use std::ops::{Deref, DerefMut};

use bytes::buf::{Limit, UninitSlice};
use bytes::{BufMut, BytesMut};

use crate::SendEnd;

/// The permit to send one message, and the buffer to build it in: [`bytes::BufMut`] up to the length reserved.
///
/// [`Reserved::send`] sends what was written, whole, without waiting. Dropped instead, it sends nothing and the room is
/// anybody's again. What was written so far can be read and changed as a slice.
///
/// # Panics
/// Writing more than was reserved panics, as for every `BufMut` of a fixed size; [`BufMut::remaining_mut`] says how
/// much is left.
#[must_use = "dropped, it sends nothing"]
pub struct Reserved<'a> {
    /// Borrowed, so that nobody else uses the room up: there is room for as long as this lives.
    end: &'a mut SendEnd,
    buffer: Limit<BytesMut>,
}

impl SendEnd {
    /// A permit for a message of up to `len` bytes.
    ///
    /// # Panics
    /// If there is no room: see [`SendEnd::has_room`].
    pub fn reserve(&mut self, len: usize) -> Reserved<'_> {
        assert!(self.has_room() && !self.is_finished(), "reserved without room");
        Reserved { end: self, buffer: BytesMut::with_capacity(len).limit(len) }
    }
}

impl Reserved<'_> {
    /// Sends what was written as one message: all of it, without waiting. If the flow ended meanwhile, the message is
    /// lost with it, like one sent just before.
    pub fn send(self) {
        let Self { end, buffer } = self;
        let posted = end.post(buffer.into_inner().into());
        debug_assert!(posted.is_ok(), "room was taken from under a permit");
    }
}

impl Deref for Reserved<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.get_ref()
    }
}

impl DerefMut for Reserved<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut()
    }
}

// SAFETY: every method is that of `Limit<BytesMut>`, which keeps the contract.
unsafe impl BufMut for Reserved<'_> {
    fn remaining_mut(&self) -> usize {
        self.buffer.remaining_mut()
    }

    unsafe fn advance_mut(&mut self, n: usize) {
        // SAFETY: the caller initialised the next `n` bytes of `chunk_mut`, which is the buffer's.
        unsafe { self.buffer.advance_mut(n) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.buffer.chunk_mut()
    }
}

impl std::fmt::Debug for Reserved<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserved")
            .field("written", &self.len())
            .field("remaining", &self.remaining_mut())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{EngineEnd, FlowState, Intake, Mailbox, RecvEnd};

    fn flow() -> (EngineEnd, SendEnd, RecvEnd) {
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        let (mut engine, send, recv) = Mailbox::accepted(&Intake::new(), addr, addr);
        engine.set_state(FlowState::OPEN);
        engine.set_room(10);
        (engine, send, recv)
    }

    #[test]
    fn sends_what_was_written_without_a_copy() {
        let (mut engine, mut send, _recv) = flow();
        let mut message = send.reserve(1000);
        message.put_slice(b"xello");
        message[0] = b'h';
        let at = message.as_ptr();
        assert_eq!(message.remaining_mut(), 995);
        message.send();
        let posted = engine.take().unwrap();
        assert_eq!(posted, "hello");
        assert_eq!(posted.as_slice().as_ptr(), at);
    }

    #[test]
    fn dropped_it_sends_nothing_and_the_room_is_free() {
        let (mut engine, mut send, _recv) = flow();
        for _ in 0..100 {
            let mut message = send.reserve(100);
            message.put_u64(7);
        }
        assert_eq!(send.posted(), 0);
        assert!(engine.take().is_none());
        send.reserve(0).send();
        assert_eq!(engine.take().unwrap(), "");
    }

    #[test]
    fn takes_what_was_reserved_and_not_a_byte_more() {
        let (mut engine, mut send, _recv) = flow();
        let mut message = send.reserve(4);
        message.put_u32(1);
        assert!(!message.has_remaining_mut());
        assert_eq!(message.chunk_mut().len(), 0);
        let more = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| message.put_u8(1)));
        assert!(more.is_err());
        message.send();
        assert_eq!(engine.take().unwrap(), [0, 0, 0, 1]);
    }
}
