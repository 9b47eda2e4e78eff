//! What the models need of the inside.

use super::geometry::{Geometry, Layout, Side};
use super::marks::{self, Looker};
use super::wants::{self, Wants};
use crate::Words;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::words::HeapWords;

/// A fresh region.
pub(crate) fn words(geometry: &Geometry) -> Arc<HeapWords> {
    HeapWords::new(geometry.bytes() / 8)
}

/// One side of a set of marks, with a word for each flow.
pub(crate) struct Marks {
    words: Arc<HeapWords>,
    layout: Layout,
    looker: Looker,
}

impl Marks {
    /// Who marks, and who looks.
    pub(crate) fn pair(geometry: &Geometry) -> (Self, Self) {
        let (words, layout) = (words(geometry), Layout::new(geometry));
        let side = || Self { words: Arc::clone(&words), layout, looker: Looker::default() };
        (side(), side())
    }

    /// True: ring.
    pub(crate) fn write_and_mark(&mut self, slot: u32, value: u64) -> bool {
        self.words.words()[self.layout.flow(Side::App, slot)].store(value, Ordering::Relaxed);
        marks::mark_flow(&self.words, &self.layout, Side::App, slot);
        wants::must_ring(&self.words, Side::Daemon, Wants::DATA)
    }

    /// True if anything was marked.
    pub(crate) fn look(&mut self, seen: &mut [u64]) -> bool {
        let any = self.looker.begin(&self.words, &self.layout, Side::App);
        while let Some(slot) = self.looker.next(&self.words, &self.layout, Side::App) {
            seen[slot as usize] = self.words.words()[self.layout.flow(Side::App, slot)].load(Ordering::Relaxed);
        }
        any
    }

    /// True: do not sleep.
    pub(crate) fn arm_and_look(&mut self) -> bool {
        wants::arm(&self.words, Side::Daemon, Wants::DATA);
        self.looker.has_marks(&self.words, &self.layout, Side::App)
    }
}
