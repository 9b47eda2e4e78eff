//! A word for each UDP port, which several threads look at without a lock. Memory is taken by the page, when a port of it is
//! first written.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

/// Ports of a page, and pages.
const PAGE: usize = 256;
const PAGES: usize = 1 << 16 >> 8;

/// See the module.
pub(crate) struct PortWords(Box<[OnceLock<Box<[AtomicU64]>>]>);

impl PortWords {
    pub(crate) fn new() -> Self {
        Self((0..PAGES).map(|_| OnceLock::new()).collect())
    }

    /// The word of a port, if one of its page was written before; else it is 0.
    #[inline]
    pub(crate) fn get(&self, port: u16) -> Option<&AtomicU64> {
        self.0[usize::from(port) / PAGE].get().map(|page| &page[usize::from(port) % PAGE])
    }

    /// All words that are not 0, and others.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AtomicU64> {
        self.0.iter().filter_map(OnceLock::get).flatten()
    }

    /// The word of a port, to be written.
    pub(crate) fn make(&self, port: u16) -> &AtomicU64 {
        let page = self.0[usize::from(port) / PAGE].get_or_init(|| (0..PAGE).map(|_| AtomicU64::new(0)).collect());
        &page[usize::from(port) % PAGE]
    }
}

impl std::fmt::Debug for PortWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pages = self.0.iter().filter(|page| page.get().is_some()).count();
        f.debug_struct("PortWords").field("pages", &pages).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn each_port_has_its_own_word() {
        let words = PortWords::new();
        assert!(words.get(0).is_none() && words.get(u16::MAX).is_none());
        for port in [0, 1, 255, 256, u16::MAX] {
            words.make(port).store(u64::from(port) + 1, Relaxed);
        }
        for port in [0, 1, 255, 256, u16::MAX] {
            assert_eq!(words.get(port).unwrap().load(Relaxed), u64::from(port) + 1);
        }
        assert_eq!(words.get(2).unwrap().load(Relaxed), 0);
        assert!(words.get(512).is_none());
    }
}
