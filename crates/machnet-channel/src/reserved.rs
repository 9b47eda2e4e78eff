//! A message that is built after the permit to send it was got.

use std::ops::{Deref, DerefMut};

use bytes::buf::UninitSlice;
use bytes::{BufMut, BytesMut};

use crate::{Frame, Message, SendEnd};

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
    buffer: Buffer,
    /// Bytes that may be written, and that were.
    limit: usize,
    written: usize,
}

enum Buffer {
    /// Ordinary memory.
    Heap(BytesMut),
    /// A frame of the engine's, from the given place on: headers go in front of it, or in frames of their own.
    Frame(Frame, usize),
}

impl SendEnd {
    /// A permit for a message of up to `len` bytes. Its buffer is a frame of the engine's driver if `len` is one that is worth it and fits a
    /// packet, or a long frame where the device gathers packets from such, and if a frame is there; else ordinary memory.
    ///
    /// # Panics
    /// If there is no room: see [`SendEnd::has_room`].
    pub fn reserve(&mut self, len: usize) -> Reserved<'_> {
        assert!(self.has_room() && !self.is_finished(), "reserved without room");
        let buffer = match self.mailbox().intake().frame(len) {
            Some((frame, start)) if frame.bytes().len() >= start as usize + len => Buffer::Frame(frame, start as usize),
            _ => Buffer::Heap(BytesMut::with_capacity(len)),
        };
        Reserved { end: self, buffer, limit: len, written: 0 }
    }
}

impl Reserved<'_> {
    /// Sends what was written as one message: all of it, without waiting. If the flow ended meanwhile, the message is
    /// lost with it, like one sent just before.
    pub fn send(self) {
        let Self { end, buffer, written, .. } = self;
        let message = match buffer {
            Buffer::Heap(bytes) => bytes.into(),
            Buffer::Frame(frame, start) => {
                let range = start as u32..(start + written) as u32;
                let built = frame.share_with_front(range);
                built.map_or_else(|| unreachable!("nobody else has the frame"), Message::from)
            }
        };
        let posted = end.post(message);
        debug_assert!(posted.is_ok(), "room was taken from under a permit");
    }
}

fn whole(frame: &mut Frame) -> &mut [u8] {
    frame.bytes_mut().unwrap_or_else(|| unreachable!("nobody else has the frame"))
}

impl Deref for Reserved<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.buffer {
            Buffer::Heap(bytes) => bytes,
            Buffer::Frame(frame, start) => &frame.bytes()[*start..*start + self.written],
        }
    }
}

impl DerefMut for Reserved<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Buffer::Heap(bytes) => bytes,
            Buffer::Frame(frame, start) => &mut whole(frame)[*start..*start + self.written],
        }
    }
}

// SAFETY: `chunk_mut` and `advance_mut` are those of `BytesMut`, cut to what is left of the limit; or the frame's bytes, which are
// initialised whatever is written, in the same bounds. Either stays where it is until the message is sent.
unsafe impl BufMut for Reserved<'_> {
    fn remaining_mut(&self) -> usize {
        self.limit - self.written
    }

    unsafe fn advance_mut(&mut self, n: usize) {
        assert!(n <= self.remaining_mut(), "written beyond what was reserved");
        if let Buffer::Heap(bytes) = &mut self.buffer {
            // SAFETY: the caller initialised the next `n` bytes of `chunk_mut`, which is the buffer's.
            unsafe { bytes.advance_mut(n) };
        }
        self.written += n;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        let left = self.remaining_mut();
        match &mut self.buffer {
            Buffer::Heap(bytes) => {
                let chunk = bytes.chunk_mut();
                let len = chunk.len().min(left);
                &mut chunk[..len]
            }
            Buffer::Frame(frame, start) => {
                let at = *start + self.written;
                UninitSlice::new(&mut whole(frame)[at..at + left])
            }
        }
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
    use std::sync::Arc;

    use super::*;
    use crate::{EngineEnd, FlowState, FrameRef, Intake, Mailbox, RecvEnd, Region, Stocker};

    fn flow() -> (EngineEnd, SendEnd, RecvEnd) {
        flow_of(&Intake::new())
    }

    fn flow_of(intake: &Arc<Intake>) -> (EngineEnd, SendEnd, RecvEnd) {
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        let (mut engine, send, recv) = Mailbox::accepted(intake, addr, addr);
        engine.set_state(FlowState::OPEN);
        engine.set_room(100);
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

    /// In a frame or not, the same: see the tests above.
    #[test]
    fn is_built_in_a_frame_if_there_is_one() {
        let (_, mut pool) = Region::anonymous(2048, 2).unwrap();
        let intake = Intake::new();
        let mut stocker = Stocker::new(&intake, 100, 1500, 2).unwrap();
        let (mut engine, mut send, _recv) = flow_of(&intake);
        send.reserve(1024).send();
        assert!(FrameRef::built(&mut engine.take().unwrap()).is_none(), "no frame was there");
        for _ in 0..stocker.wanted() {
            stocker.put(pool.take().unwrap()).unwrap();
        }
        assert_eq!(stocker.away(), 2);
        drop(send.reserve(1024));
        assert_eq!((stocker.away(), pool.free()), (1, 1), "dropped, it goes home");
        let mut message = send.reserve(1024);
        message.put_slice(b"xello");
        message[0] = b'h';
        assert_eq!((message.remaining_mut(), message.chunk_mut().len(), &message[..]), (1019, 1019, &b"hello"[..]));
        let at = message.as_ptr();
        let more = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| message.put_bytes(1, 1020)));
        assert!(more.is_err());
        message.put_bytes(1, 1019);
        assert!(!message.has_remaining_mut() && message.chunk_mut().len() == 0);
        message.send();
        let mut posted = engine.take().unwrap();
        assert_eq!(
            (posted.as_slice().as_ptr(), posted.len(), FrameRef::built(&mut posted).unwrap().headroom()),
            (at, 1024, 100)
        );
        let small = send.reserve(1023);
        assert!(matches!(small.buffer, Buffer::Heap(_)));
        drop((small, posted, stocker));
        assert_eq!(pool.free(), 2);
    }
}
