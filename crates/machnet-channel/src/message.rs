//! What `send` takes and `recv` returns.

use bytes::{Buf, Bytes, BytesMut};

use crate::FrameRef;

/// One message: 0 bytes to the negotiated maximum, in one piece. Reads through [`bytes::Buf`]. [`Chunks`](crate::Chunks) is one in several.
///
/// A received message may lie in a frame of the engine's memory: reading it copies nothing, and dropping it, on any
/// thread, gives the frame back. Hold many messages for long only after [`Message::into_bytes`] of a copy.
#[derive(Clone)]
pub struct Message(Repr);

#[derive(Clone)]
pub(crate) enum Repr {
    Owned(Bytes),
    Lent(FrameRef),
}

impl Message {
    /// An empty message.
    #[must_use]
    pub const fn new() -> Self {
        Self(Repr::Owned(Bytes::new()))
    }

    /// Bytes left to read; the whole message until [`Buf::advance`] is called.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// True if nothing is left to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message as [`Bytes`], without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Repr::Owned(bytes) => bytes,
            Repr::Lent(frame) => Bytes::from_owner(frame),
        }
    }

    /// The frame that the message lies in, if it lies in one.
    pub(crate) const fn lent(&self) -> Option<&FrameRef> {
        match &self.0 {
            Repr::Owned(_) => None,
            Repr::Lent(frame) => Some(frame),
        }
    }

    /// Likewise.
    pub(crate) const fn lent_mut(&mut self) -> Option<&mut FrameRef> {
        match &mut self.0 {
            Repr::Owned(_) => None,
            Repr::Lent(frame) => Some(frame),
        }
    }

    pub(crate) fn into_repr(self) -> Repr {
        self.0
    }

    /// The message as a vector: a copy.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.as_slice().to_vec()
    }

    /// The bytes left to read.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Owned(bytes) => bytes,
            Repr::Lent(frame) => frame.as_ref(),
        }
    }
}

impl Default for Message {
    fn default() -> Self {
        Self::new()
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self.as_slice()
    }

    fn advance(&mut self, n: usize) {
        match &mut self.0 {
            Repr::Owned(bytes) => bytes.advance(n),
            Repr::Lent(frame) => frame.advance(n),
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len(), "copy_to_bytes past the end");
        match &mut self.0 {
            Repr::Owned(bytes) => bytes.split_to(len),
            Repr::Lent(frame) => {
                let head = frame.slice(0..len as u32);
                frame.advance(len);
                Bytes::from_owner(head)
            }
        }
    }
}

impl From<FrameRef> for Message {
    fn from(frame: FrameRef) -> Self {
        Self(Repr::Lent(frame))
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self(Repr::Owned(bytes))
    }
}

impl From<BytesMut> for Message {
    fn from(bytes: BytesMut) -> Self {
        bytes.freeze().into()
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static [u8]> for Message {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl<const N: usize> From<&'static [u8; N]> for Message {
    fn from(bytes: &'static [u8; N]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<&'static str> for Message {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<Message> for Bytes {
    fn from(message: Message) -> Self {
        message.into_bytes()
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Message {
    fn eq(&self, other: &T) -> bool {
        self.as_slice() == other.as_ref()
    }
}

impl Eq for Message {}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::{FramePool, Region};

    const TEXT: &[u8] = b"The quick brown fox jumps over the lazy dog";

    /// The same text in each representation; the pool keeps the frame's memory and its count.
    fn each() -> (FramePool, [Message; 4]) {
        let (_region, mut pool) = Region::anonymous(256, 1).unwrap();
        let mut frame = pool.take().unwrap();
        frame.bytes_mut().unwrap()[8..8 + TEXT.len()].copy_from_slice(TEXT);
        let lent = frame.share(8..8 + TEXT.len() as u32);
        let messages = [lent.into(), TEXT.into(), TEXT.to_vec().into(), BytesMut::from(TEXT).into()];
        (pool, messages)
    }

    #[test]
    fn reads_as_a_buf_in_every_representation() {
        for message in each().1 {
            for step in 1..=TEXT.len() {
                let (mut rest, mut read) = (message.clone(), Vec::new());
                while rest.has_remaining() {
                    assert_eq!(rest.remaining(), TEXT.len() - read.len());
                    assert_eq!(rest.chunk(), &TEXT[read.len()..]);
                    let n = step.min(rest.remaining());
                    read.put(rest.copy_to_bytes(n));
                }
                assert_eq!((read.as_slice(), rest.chunk(), rest.len()), (TEXT, &b""[..], 0));
                assert!(rest.is_empty());
            }
            let mut word = message.clone();
            word.advance(4);
            assert_eq!((word.get_u8(), word.as_slice()), (b'q', &TEXT[5..]));
            assert_eq!((message.len(), message.to_vec()), (TEXT.len(), TEXT.to_vec()));
            assert_eq!(message, TEXT);
        }
    }

    #[test]
    fn advancing_past_the_end_panics_and_changes_nothing() {
        for message in each().1 {
            let mut copy = message.clone();
            let past = TEXT.len() + 1;
            let act = |f: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
            assert!(act(&mut || copy.advance(past)));
            assert!(act(&mut || drop(copy.copy_to_bytes(past))));
            assert_eq!(copy, message);
        }
    }

    #[test]
    fn a_lent_message_becomes_bytes_without_a_copy_and_goes_home() {
        let (mut pool, [mut lent, ..]) = each();
        let at = lent.as_slice().as_ptr();
        let head = lent.copy_to_bytes(4);
        let clone = lent.clone();
        let rest = lent.into_bytes();
        assert_eq!((head.as_ptr(), rest.as_ptr()), (at, at.wrapping_add(4)));
        assert_eq!((&head[..], &rest[..]), (&TEXT[..4], &TEXT[4..]));
        let tail = rest.slice(10..);
        drop((head, rest));
        assert_eq!(clone, TEXT[4..]);
        drop(clone);
        assert!(pool.take().is_none(), "a slice still holds the frame");
        assert_eq!(tail.as_ptr(), at.wrapping_add(14));
        drop(tail);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn owned_bytes_are_passed_through() {
        let bytes = Bytes::from(TEXT.to_vec());
        let message = Message::from(bytes.clone());
        assert_eq!(message.as_slice().as_ptr(), bytes.as_ptr());
        assert_eq!(Bytes::from(message).as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn empty_messages_are_messages() {
        for message in [Message::new(), Message::default(), Message::from(""), Message::from(Vec::new())] {
            assert!(message.is_empty() && !message.has_remaining() && message.into_bytes().is_empty());
        }
    }
}
