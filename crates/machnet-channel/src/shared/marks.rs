//! "Look there": a set of bits over two levels, written by one side and emptied by the other.
//!
//! ```text
//!   marker                                       looker
//!   write the words                              swap(0) the summary word, if it is not 0
//!   fetch_or the bit of the flow                 swap(0) the words it names
//!   fetch_or the bit of that word, in the        *then* look at what they name
//!   summary, unless the word had bits
//! ```
//!
//! A bit that the looker's swap does not see is set after it, in a word that was 0: its summary bit is set after the
//! summary's swap, too. So a mark may be early or superfluous, never lost. All are read-modify-writes: whoever takes a
//! bit sees what was written before any mark that it stands for. Nothing waits, and nothing overflows: a looker that is
//! dead leaves bits that are set.
//!
//! Bits that name nothing are not looked at.

use super::geometry::{Layout, Side};
use crate::Words;
use crate::sync::atomic::Ordering;
use crate::sync::mutant;

const BITS: u32 = u64::BITS;

/// Marks flow `slot` for the side that `from` is not.
pub(super) fn mark_flow<W: Words>(words: &W, layout: &Layout, from: Side, slot: u32) {
    let place = layout.marks(from);
    let (word, bit) = (slot / BITS, slot % BITS);
    if mutant!("mark_unless_set") && words.words()[place.flows + word as usize].load(Ordering::Relaxed) & 1 << bit != 0
    {
        return;
    }
    // Release: pairs with the looker's swap; what was written before is seen. AcqRel would add nothing: nothing is read.
    let order = if mutant!("mark_relaxed") { Ordering::Relaxed } else { Ordering::Release };
    let before = words.words()[place.flows + word as usize].fetch_or(1 << bit, order);
    // One writer: who set the bits that are there has set the summary's, and whoever took that takes these.
    if before == 0 {
        // Release: who swaps the summary finds the bit.
        words.words()[place.summary + (word / BITS) as usize].fetch_or(1 << (word % BITS), Ordering::Release);
    }
}

/// Marks listener `slot`.
pub(super) fn mark_listener<W: Words>(words: &W, layout: &Layout, from: Side, slot: u32) {
    words.words()[layout.marks(from).listeners].fetch_or(1 << slot, Ordering::Release);
}

/// Takes all marked listeners, as bits.
pub(super) fn take_listeners<W: Words>(words: &W, layout: &Layout, from: Side) -> u64 {
    let word = &words.words()[layout.marks(from).listeners];
    // The cheap look first.
    if word.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    word.swap(0, Ordering::AcqRel) & listeners(layout)
}

/// The bits that name one.
fn listeners(layout: &Layout) -> u64 {
    u64::MAX >> (BITS - layout.geometry().listeners)
}

/// The looking side's place in a set of marks.
#[derive(Debug, Default)]
pub(super) struct Looker {
    /// Words that were named by the summary when it was last swapped.
    named: [u64; 8],
    /// The word swapped last, and what is left of its bits.
    word: u32,
    bits: u64,
}

impl Looker {
    /// The next marked flow. `None` when all that was marked when the looking began was given out; the next call begins
    /// anew. So one pass is bounded, however fast the other side marks.
    pub(super) fn next<W: Words>(&mut self, words: &W, layout: &Layout, from: Side) -> Option<u32> {
        let place = layout.marks(from);
        if self.bits == 0 && self.named == [0; 8] {
            return None;
        }
        loop {
            while self.bits != 0 {
                let bit = self.bits.trailing_zeros();
                self.bits &= self.bits - 1;
                let slot = self.word * BITS + bit;
                if slot < layout.slots() {
                    return Some(slot);
                }
            }
            let group = self.named.iter().position(|named| *named != 0)?;
            let bit = self.named[group].trailing_zeros();
            self.named[group] &= self.named[group] - 1;
            self.word = group as u32 * BITS + bit;
            if (self.word as usize) < place.words {
                // Acquire: pairs with `mark_flow`.
                self.bits = words.words()[place.flows + self.word as usize].swap(0, Ordering::AcqRel);
            }
        }
    }

    /// Begins a pass, unless one is underway. False if nothing is marked.
    pub(super) fn begin<W: Words>(&mut self, words: &W, layout: &Layout, from: Side) -> bool {
        if self.bits != 0 || self.named != [0; 8] {
            return true;
        }
        let place = layout.marks(from);
        let mut any = false;
        for (named, word) in self.named.iter_mut().zip(&words.words()[place.summary..place.flows]) {
            if word.load(Ordering::Relaxed) != 0 {
                *named = word.swap(0, Ordering::AcqRel);
                any |= *named != 0;
            }
        }
        any
    }

    /// True if a mark was not given out.
    pub(super) fn has_marks<W: Words>(&self, words: &W, layout: &Layout, from: Side) -> bool {
        let place = layout.marks(from);
        self.bits != 0
            || self.named != [0; 8]
            || words.words()[place.summary..place.flows].iter().any(|word| word.load(Ordering::Relaxed) != 0)
            || words.words()[place.listeners].load(Ordering::Relaxed) & listeners(layout) != 0
    }
}
