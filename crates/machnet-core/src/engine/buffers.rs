//! Where received messages stay: the packet's own frame, or a frame of a region whose size fits.
//!
//! Seven regions with frames of 256 B to 1 MiB, each four times the one before. Their memory is address space until
//! used, is recycled when the application drops a message, and is bounded: nothing here touches the heap per message
//! (`docs/adr/0004-reassembly-in-frames.md`).

use machnet_channel::{Frame, FramePool, FrameRef, Message, Region};

use crate::flow::Store;

/// Whole messages up to this length are copied, so that a slow reader pins this much and not a packet's frame.
const COPY_BELOW: usize = 256;
const SMALLEST: u32 = 256;
const CLASSES: usize = 7;

#[derive(Debug)]
pub(crate) struct Buffers {
    /// By frame size, ascending.
    classes: [FramePool; CLASSES],
    /// Received payloads are to be copied: the driver has few frames left.
    copy_all: bool,
}

impl Buffers {
    /// Buffers of about `bytes` in all, each class a seventh of it, and at least two frames of each.
    pub(crate) fn new(bytes: u64) -> std::io::Result<Self> {
        let mut classes = Vec::with_capacity(CLASSES);
        for class in 0..CLASSES {
            let size = SMALLEST << (2 * class);
            let count = u32::try_from((bytes / CLASSES as u64 / u64::from(size)).max(2)).unwrap_or(u32::MAX - 1);
            classes.push(Region::anonymous(size, count)?.1);
        }
        let classes = classes.try_into().map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { classes, copy_all: false })
    }

    /// Says whether the driver has few frames left.
    pub(crate) const fn set_copy_all(&mut self, copy_all: bool) {
        self.copy_all = copy_all;
    }

    /// Frames in use, of all classes.
    pub(crate) fn in_use(&self) -> u64 {
        self.classes.iter().map(|pool| u64::from(pool.capacity() - pool.free())).sum()
    }
}

impl Store for Buffers {
    fn keep(&mut self, packet: &FrameRef, payload: &[u8], oldest: bool) -> Option<Message> {
        if payload.is_empty() {
            return Some(Message::new());
        }
        if payload.len() > COPY_BELOW && !self.copy_all {
            let start = payload.as_ptr().addr().checked_sub(packet.as_ref().as_ptr().addr())? as u32;
            return Some(packet.slice(start..start + payload.len() as u32).into());
        }
        let mut frame = self.buffer(payload.len() as u32, oldest)?;
        frame.bytes_mut()?[..payload.len()].copy_from_slice(payload);
        Some(frame.share(0..payload.len() as u32).into())
    }

    /// The smallest free frame that fits; a larger one rather than none. Half of each class is kept for messages that
    /// are next in their flow.
    fn buffer(&mut self, len: u32, oldest: bool) -> Option<Frame> {
        let may_take = |pool: &FramePool| pool.frame_size() >= len && (oldest || pool.free() > pool.capacity() / 2);
        self.classes.iter_mut().filter(|pool| may_take(pool)).find_map(FramePool::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(bytes: u64) -> Buffers {
        Buffers::new(bytes).unwrap()
    }

    #[test]
    fn takes_the_next_size_and_then_none() {
        let mut buffers = buffers(0);
        let taken: Vec<_> = std::iter::from_fn(|| buffers.buffer(5000, true)).collect();
        let sizes: Vec<_> = taken.iter().map(|frame| frame.bytes().len()).collect();
        assert_eq!(sizes, [16 << 10, 16 << 10, 64 << 10, 64 << 10, 256 << 10, 256 << 10, 1 << 20, 1 << 20]);
        assert!(buffers.buffer(5000, true).is_none() && buffers.buffer(4096, true).is_some());
        assert_eq!(buffers.in_use(), 8);
        drop(taken);
        assert_eq!(buffers.in_use(), 0);
        // Behind a hole only half may be taken.
        let taken: Vec<_> = std::iter::from_fn(|| buffers.buffer(5000, false)).collect();
        assert_eq!(taken.len(), 4);
        assert!(buffers.buffer(5000, true).is_some());
    }

    #[test]
    fn lends_large_payloads_and_copies_small_ones() {
        let (_, mut pool) = Region::anonymous(2048, 1).unwrap();
        let mut buffers = buffers(0);
        let packet = pool.take().unwrap().share(0..1400);
        let lent = buffers.keep(&packet, &packet.as_ref()[100..1000], true).unwrap();
        assert_eq!(lent.as_slice().as_ptr(), packet.as_ref()[100..].as_ptr());
        let copied = buffers.keep(&packet, &packet.as_ref()[100..356], true).unwrap();
        assert_ne!(copied.as_slice().as_ptr(), packet.as_ref()[100..].as_ptr());
        buffers.set_copy_all(true);
        let copied_too = buffers.keep(&packet, &packet.as_ref()[100..1000], true).unwrap();
        assert_ne!(copied_too.as_slice().as_ptr(), lent.as_slice().as_ptr());
        assert_eq!(buffers.in_use(), 2);
    }
}
