//! Memory for what is copied out of pipes: messages are retransmitted from here, never from what an application can
//! write.
//!
//! Small messages lie in frames of two sizes, which cost no allocation; when those are used up, and for longer ones, it
//! is the heap, of which each application's share is bounded by its quota.

use machnet_channel::{FramePool, Message, Region};

/// Frames: bytes of each, and how many.
const CLASSES: [(u32, u32); 2] = [(256, 8192), (2048, 4096)];

#[derive(Debug)]
pub(super) struct Store {
    classes: Vec<FramePool>,
}

impl Store {
    pub(super) fn new() -> std::io::Result<Self> {
        let pool = |(size, count)| Region::anonymous(size, count).map(|(_, pool)| pool);
        Ok(Self { classes: CLASSES.into_iter().map(pool).collect::<Result<_, _>>()? })
    }

    /// A round begins.
    pub(super) fn gather(&mut self) {
        self.classes.iter_mut().for_each(FramePool::gather);
    }

    /// A message of `len` bytes, which `fill` writes.
    pub(super) fn message<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Message, E> {
        let class = self.classes.iter_mut().find(|pool| len <= pool.frame_size() as usize);
        if let Some(mut frame) = class.and_then(FramePool::take)
            && let Some(bytes) = frame.bytes_mut().and_then(|all| all.get_mut(..len))
        {
            fill(bytes)?;
            return Ok(frame.share(0..len as u32).into());
        }
        let mut bytes = vec![0; len];
        fill(&mut bytes)?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_length_and_more_than_there_are_frames() {
        let mut store = Store::new().unwrap();
        let mut kept = Vec::new();
        for i in 0..9000_usize {
            let len = [0, 1, 256, 257, 2048, 2049][i % 6];
            let message = store.message(len, |bytes| {
                bytes.fill(i as u8);
                Ok::<_, ()>(())
            });
            kept.push((i as u8, len, message.unwrap()));
        }
        assert!(kept.iter().all(|(byte, len, message)| message.as_slice() == vec![*byte; *len]));
        drop(kept);
        store.classes.iter_mut().for_each(FramePool::gather);
        assert!(store.classes.iter().all(|pool| pool.free() == pool.capacity()));
    }

    #[test]
    fn what_could_not_be_filled_leaves_nothing() {
        let mut store = Store::new().unwrap();
        assert_eq!(store.message(10, |_| Err("no")).unwrap_err(), "no");
        store.classes[0].gather();
        assert_eq!(store.classes[0].free(), store.classes[0].capacity());
    }
}
