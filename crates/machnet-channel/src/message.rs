//! What `send` takes and `recv` returns.

use bytes::{Buf, Bytes, BytesMut};

use crate::FrameRef;

/// One message: 0 bytes to the negotiated maximum. Reads through [`bytes::Buf`]; may consist of several chunks.
///
/// A received message may lie in a frame of the engine's memory: reading it copies nothing, and dropping it, on any
/// thread, gives the frame back. Hold many messages for long only after [`Message::into_bytes`] of a copy.
#[derive(Clone)]
pub struct Message(Repr);

#[derive(Clone)]
enum Repr {
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

    /// The message as a vector: a copy.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.as_slice().to_vec()
    }

    /// The bytes left to read, if they lie in one piece; every message of this version does.
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
