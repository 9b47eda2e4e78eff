//! Buffers of any size, made when they are needed: so that applications that do not read, and leave the buffers of some size full, stop
//! nobody who does (`docs/spec/flow.md#receiving`).

use machnet_channel::{Frame, FramePool, Region};

use super::buffers::Buffers;

/// Short frames are made so many bytes at a time, long ones singly: then there are few enough pieces to look through.
const PIECE: u32 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Reserve {
    pieces: Vec<FramePool>,
    /// Where the last frame was found.
    recent: usize,
    /// Bytes that may yet be made.
    left: u64,
}

impl Reserve {
    /// Up to `limit` bytes, none of them made yet.
    pub(crate) const fn new(limit: u64) -> Self {
        Self { pieces: Vec::new(), recent: 0, left: limit }
    }

    /// A frame of at least `len` bytes; less than four times as long, but for the shortest.
    pub(crate) fn take(&mut self, len: u32) -> Option<Frame> {
        let most = Buffers::frame_size(len);
        let count = self.pieces.len();
        for step in 0..count {
            let at = (self.recent + step) % count;
            let piece = &mut self.pieces[at];
            if piece.frame_size() >= len
                && u64::from(piece.frame_size()) <= most
                && let Some(frame) = piece.take()
            {
                self.recent = at;
                return Some(frame);
            }
        }
        let (size, frames) = if most < u64::from(PIECE) {
            (most as u32, PIECE / most as u32)
        } else {
            (len.checked_next_multiple_of(PIECE)?, 1)
        };
        let bytes = u64::from(size) * u64::from(frames);
        if bytes > self.left {
            let left = &mut self.left;
            self.pieces.retain(|piece| {
                let is_used = piece.free() < piece.capacity();
                *left += if is_used { 0 } else { Self::bytes(piece) };
                is_used
            });
        }
        self.left = self.left.checked_sub(bytes)?;
        let Ok((_, mut piece)) = Region::anonymous(size, frames) else {
            self.left += bytes;
            return None;
        };
        let frame = piece.take();
        self.recent = self.pieces.len();
        self.pieces.push(piece);
        frame
    }

    fn bytes(piece: &FramePool) -> u64 {
        u64::from(piece.frame_size()) * u64::from(piece.capacity())
    }

    /// Frames in use.
    pub(crate) fn in_use(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.capacity() - piece.free())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_what_comes_home_serves_any_size() {
        let mut reserve = Reserve::new(1 << 20);
        let small: Vec<_> = std::iter::from_fn(|| reserve.take(200)).collect();
        assert_eq!((small.len(), reserve.in_use()), (4096, 4096));
        assert!(reserve.take(1000).is_none());
        drop(small);
        // The frames of 256 bytes do not fit: their pieces are given up.
        let large = reserve.take(700_000).unwrap();
        assert_eq!(large.bytes().len(), 3 * PIECE as usize);
        let other = reserve.take(30_000).unwrap();
        assert_eq!(other.bytes().len(), 64 << 10);
        assert!(reserve.take(300_000).is_none() && reserve.take(64 << 10).is_some());
        drop(large);
        assert!(reserve.take(690_000).is_some(), "used again");
        assert!(reserve.take(1 << 20).is_none(), "one byte of another size is in use");
        drop(other);
        assert_eq!(reserve.take(1 << 20).unwrap().bytes().len(), 1 << 20);
    }
}
