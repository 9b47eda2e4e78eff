//! What `recv_chunks` returns: a message in the pieces it came in.

use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::message::Repr;
use crate::{Chain, FrameRef, Message};

/// A received message in one or several pieces: one that came in several packets may still lie in them, where the device wrote it,
/// and nothing was copied.
///
/// Reads through [`bytes::Buf`], or piece by piece: [`Chunks::next_chunk`], or as an iterator. What was read goes home at once, piece by
/// piece. As with a [`Message`], hold none for long but copies: each piece is a packet's memory.
pub struct Chunks(Pieces);

/// No larger than a message: there are three in every part of every inbox.
enum Pieces {
    Owned(Bytes),
    Lent(Lent),
}

enum Lent {
    One(FrameRef),
    Many(Chain),
}

const _: () = assert!(size_of::<Chunks>() == size_of::<Message>());

impl Chunks {
    /// An empty message.
    #[must_use]
    pub const fn new() -> Self {
        Self(Pieces::Owned(Bytes::new()))
    }

    /// Bytes left to read; the whole message until some were read.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Pieces::Owned(bytes) => bytes.len(),
            Pieces::Lent(Lent::One(frame)) => frame.len() as usize,
            Pieces::Lent(Lent::Many(chain)) => chain.len() as usize,
        }
    }

    /// True if nothing is left to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In how many pieces the rest lies.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.0 {
            Pieces::Lent(Lent::Many(chain)) => chain.count(),
            _ => usize::from(!self.is_empty()),
        }
    }

    /// The pieces of the rest, where they lie.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (one, many) = match &self.0 {
            Pieces::Lent(Lent::Many(chain)) => (None, Some(chain.parts().map(|(_, bytes)| bytes))),
            _ => (Some(self.chunk()).filter(|bytes| !bytes.is_empty()), None),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Takes the next piece, without a copy; `None` if nothing is left.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if let Pieces::Lent(Lent::Many(chain)) = &mut self.0 {
            return chain.pop().map(Bytes::from_owner);
        }
        (!self.is_empty()).then(|| std::mem::take(self).into_message().into_bytes())
    }

    /// The rest as a message, which is one slice: a copy if it lies in several pieces, else none.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self.0 {
            Pieces::Owned(bytes) => bytes.into(),
            Pieces::Lent(Lent::One(frame)) => frame.into(),
            Pieces::Lent(Lent::Many(chain)) => flatten(chain),
        }
    }
}

/// Rare, and long: not where a message is taken that lies in one piece.
#[cold]
fn flatten(mut chain: Chain) -> Message {
    if chain.count() <= 1 {
        return chain.pop().map_or_else(Message::new, Message::from);
    }
    let mut bytes = BytesMut::with_capacity(chain.len() as usize);
    while let Some(part) = chain.pop() {
        bytes.extend_from_slice(part.as_ref());
    }
    bytes.into()
}

impl Default for Chunks {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Message> for Chunks {
    fn from(message: Message) -> Self {
        Self(match message.into_repr() {
            Repr::Owned(bytes) => Pieces::Owned(bytes),
            Repr::Lent(frame) => Pieces::Lent(Lent::One(frame)),
        })
    }
}

impl From<FrameRef> for Chunks {
    fn from(frame: FrameRef) -> Self {
        Self(Pieces::Lent(Lent::One(frame)))
    }
}

impl From<Chain> for Chunks {
    /// Of a chain without holes: they would not show.
    fn from(chain: Chain) -> Self {
        Self(Pieces::Lent(Lent::Many(chain)))
    }
}

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        match &self.0 {
            Pieces::Owned(bytes) => bytes,
            Pieces::Lent(Lent::One(frame)) => frame.as_ref(),
            Pieces::Lent(Lent::Many(chain)) => chain.first(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(self.slices()) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, n: usize) {
        match &mut self.0 {
            Pieces::Owned(bytes) => bytes.advance(n),
            Pieces::Lent(Lent::One(frame)) => frame.advance(n),
            Pieces::Lent(Lent::Many(chain)) => chain.advance(n),
        }
    }

    /// Without a copy if they lie in one piece.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len(), "copy_to_bytes past the end");
        let Pieces::Lent(Lent::Many(chain)) = &mut self.0 else {
            let mut message = std::mem::take(self).into_message();
            let head = message.copy_to_bytes(len);
            *self = message.into();
            return head;
        };
        match chain.head(len as u32) {
            Some(head) => Bytes::from_owner(head),
            None => {
                let mut head = BytesMut::with_capacity(len);
                while head.len() < len {
                    let first = chain.first();
                    let n = first.len().min(len - head.len());
                    head.extend_from_slice(&first[..n]);
                    chain.advance(n);
                }
                head.freeze()
            }
        }
    }
}

impl IntoIterator for Chunks {
    type Item = Bytes;
    type IntoIter = IntoChunks;

    fn into_iter(self) -> IntoChunks {
        IntoChunks(self)
    }
}

/// The pieces of a message, without a copy: [`Chunks`] as an iterator.
#[derive(Debug)]
pub struct IntoChunks(Chunks);

impl Iterator for IntoChunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.0.next_chunk()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.0.count();
        (count, Some(count))
    }
}

impl ExactSizeIterator for IntoChunks {}

impl std::iter::FusedIterator for IntoChunks {}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("len", &self.len()).field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::{FramePool, Joined, Region};

    const TEXT: &[u8] = b"The quick brown fox jumps over the lazy dog";

    /// The same text in one piece of each kind, and in pieces of `step` bytes.
    fn each(pool: &mut FramePool, lists: &mut FramePool, step: usize) -> [Chunks; 3] {
        let mut lend = |bytes: &[u8]| {
            let mut frame = pool.take().unwrap();
            frame.bytes_mut().unwrap()[8..8 + bytes.len()].copy_from_slice(bytes);
            frame.share(8..8 + bytes.len() as u32)
        };
        let mut chain = Chain::new(lists.take().unwrap()).unwrap();
        for (n, piece) in TEXT.chunks(step).enumerate() {
            let packet = lend(piece);
            assert_eq!(chain.join((n * step) as u32, packet.as_ref(), &packet, |_| true), Joined::New);
        }
        [Message::from(TEXT).into(), lend(TEXT).into(), chain.into()]
    }

    fn pools() -> (FramePool, FramePool) {
        (Region::anonymous(256, 64).unwrap().1, Region::anonymous(Chain::list_len(64), 1).unwrap().1)
    }

    #[test]
    fn reads_as_a_buf_however_many_pieces_there_are() {
        let (mut pool, mut lists) = pools();
        for size in 1..=TEXT.len() {
            for step in 1..=TEXT.len() {
                for mut rest in each(&mut pool, &mut lists, size) {
                    let mut read = Vec::new();
                    while rest.has_remaining() {
                        assert_eq!(rest.remaining(), TEXT.len() - read.len());
                        assert!(TEXT[read.len()..].starts_with(rest.chunk()) && !rest.chunk().is_empty());
                        let n = step.min(rest.remaining());
                        if step % 2 == 0 {
                            read.put(rest.copy_to_bytes(n));
                        } else {
                            let at = read.len();
                            read.resize(at + n, 0);
                            rest.copy_to_slice(&mut read[at..]);
                        }
                    }
                    assert_eq!((read.as_slice(), rest.chunk(), rest.count()), (TEXT, &b""[..], 0));
                }
            }
            for chunks in each(&mut pool, &mut lists, size) {
                let mut slices = [IoSlice::new(&[]); 64];
                let count = chunks.chunks_vectored(&mut slices);
                assert_eq!(count, chunks.count());
                assert!(chunks.slices().eq(slices[..count].iter().map(|slice| &**slice)));
                assert_eq!(chunks.slices().collect::<Vec<_>>().concat(), TEXT);
                assert_eq!(chunks.into_message(), TEXT);
            }
            for mut word in each(&mut pool, &mut lists, size) {
                word.advance(4);
                assert_eq!((word.get_u8(), word.into_message().as_slice()), (b'q', &TEXT[5..]));
            }
            assert_eq!((pool.free(), lists.free()), (64, 1), "and every frame is home");
        }
    }

    #[test]
    fn reading_past_the_end_panics_and_changes_nothing() {
        let act = |f: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        let (mut pool, mut lists) = pools();
        for mut chunks in each(&mut pool, &mut lists, 10) {
            let past = TEXT.len() + 1;
            assert!(act(&mut || chunks.advance(past)));
            assert!(act(&mut || drop(chunks.copy_to_bytes(past))));
            assert_eq!(chunks.into_message(), TEXT);
        }
    }

    #[test]
    fn each_piece_is_taken_where_it_lies_and_goes_home() {
        let (mut pool, mut lists) = pools();
        let [owned, one, many] = each(&mut pool, &mut lists, 10);
        assert_eq!((owned.into_iter().len(), one.into_iter().next().as_deref()), (1, Some(TEXT)));
        let places: Vec<_> = many.slices().map(<[u8]>::as_ptr).collect();
        let mut pieces = many.into_iter();
        assert_eq!((pieces.len(), pool.free()), (5, 59));
        let taken: Vec<Bytes> = pieces.by_ref().collect();
        assert!(taken.iter().map(|bytes| bytes.as_ptr()).eq(places) && pieces.next().is_none());
        assert_eq!(taken.concat(), TEXT);
        drop(taken);
        assert_eq!(pool.free(), 64);
    }

    #[test]
    fn what_lies_in_one_piece_is_not_copied() {
        let (mut pool, mut lists) = pools();
        let [_, one, mut many] = each(&mut pool, &mut lists, 10);
        let at = one.chunk().as_ptr();
        assert_eq!(one.into_message().as_slice().as_ptr(), at);
        let at = many.chunk().as_ptr();
        assert_eq!(many.copy_to_bytes(4).as_ptr(), at);
        assert_eq!((many.copy_to_bytes(6).as_ptr(), many.count()), (at.wrapping_add(4), 4));
        many.advance(30);
        let at = many.chunk().as_ptr();
        assert_eq!((many.count(), many.into_message().as_slice().as_ptr()), (1, at));
    }

    #[test]
    fn empty_messages_have_no_pieces() {
        for mut chunks in [Chunks::new(), Chunks::default(), Message::new().into()] {
            assert!(chunks.is_empty() && chunks.slices().next().is_none() && chunks.next_chunk().is_none());
            assert_eq!((chunks.count(), chunks.copy_to_bytes(0).len(), chunks.into_message().len()), (0, 0, 0));
        }
    }
}
