//! A message of several packets while it arrives.
//!
//! It is *kept* in its packets, or *copied* into a buffer. Kept it is only for an application that takes messages in pieces, while the
//! driver has frames enough, and of parts that lie side by side; whatever is the matter with one of them, all are copied then
//! (`docs/adr/0024-long-messages-stay-in-their-packets.md`).

use machnet_channel::{Chain, Chunks, Frame, FrameRef, Joined};

use super::Store;
use super::units::UnitSet;

#[derive(Debug)]
pub(super) struct Partial {
    body: Body,
    pub(super) total: u32,
    /// One past the last byte that was seen.
    pub(super) end: u32,
}

#[derive(Debug)]
enum Body {
    Copied(Frame, Box<UnitSet>),
    Kept(Chain),
}

/// Bytes that parts have at least, in packets that every path carries.
const LIKELY: u32 = 1024;

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Put {
    Stored,
    /// The message needs a buffer first: [`Partial::copy_into`].
    NeedsBuffer,
}

impl Partial {
    /// A message of which nothing is there, and its buffer.
    pub(super) fn copied(total: u32, frame: Frame, store: &mut impl Store) -> Self {
        Self { body: Body::Copied(frame, store.units(total)), total, end: 0 }
    }

    /// A message and its first part, if it may be kept where it is; the others are likely to be as long.
    pub(super) fn kept(
        (offset, total): (u32, u32),
        payload: &[u8],
        packet: &FrameRef,
        store: &mut impl Store,
    ) -> Option<Self> {
        let mut len = payload.len() as u32;
        if offset + len == total {
            // It says nothing of those before it.
            len = len.max(LIKELY);
        }
        let chain = Chain::new(store.chain(total, len)?)?;
        let mut partial = Self { body: Body::Kept(chain), total, end: 0 };
        (partial.put(offset, payload, packet, store) != Put::NeedsBuffer).then_some(partial)
    }

    /// Bytes of its buffer.
    pub(super) fn buffer_len(&self) -> u64 {
        match &self.body {
            Body::Copied(frame, _) => frame.bytes().len() as u64,
            Body::Kept(_) => 0,
        }
    }

    /// True if it has no buffer.
    pub(super) const fn is_kept(&self) -> bool {
        matches!(self.body, Body::Kept(_))
    }

    /// Stores a part, which ends inside of the message.
    #[inline]
    pub(super) fn put(&mut self, offset: u32, payload: &[u8], packet: &FrameRef, store: &mut impl Store) -> Put {
        let len = payload.len() as u32;
        match &mut self.body {
            Body::Copied(frame, got) => {
                let Some(bytes) = frame.bytes_mut() else { return Put::NeedsBuffer };
                got.fill(offset, payload, bytes);
            }
            Body::Kept(chain) => {
                let ends = offset + len == self.total;
                match chain.join(offset, payload, packet, |parts| store.keeps(len, parts, ends)) {
                    Joined::New | Joined::Known => {}
                    Joined::Overlaps | Joined::Refused => return Put::NeedsBuffer,
                }
            }
        }
        self.end = self.end.max(offset + len);
        Put::Stored
    }

    /// What was kept is copied into `frame`, and the packets go home.
    pub(super) fn copy_into(&mut self, mut frame: Frame, store: &mut impl Store) {
        let Body::Kept(chain) = &self.body else { return };
        let mut got = store.units(self.total);
        if let Some(bytes) = frame.bytes_mut() {
            for (offset, part) in chain.parts() {
                got.fill(offset, part, bytes);
            }
        }
        self.body = Body::Copied(frame, got);
    }

    /// True if nothing is missing.
    pub(super) fn is_full(&self) -> bool {
        match &self.body {
            Body::Copied(_, got) => got.is_full(),
            Body::Kept(chain) => chain.len() == self.total,
        }
    }

    /// The message, of which nothing is missing.
    pub(super) fn finish(self, store: &mut impl Store) -> Chunks {
        match self.body {
            Body::Copied(frame, got) => {
                store.recycle(got);
                frame.share(0..self.total).into()
            }
            Body::Kept(chain) => chain.into(),
        }
    }
}
