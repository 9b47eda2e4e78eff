//! Which 64-byte units of a message have arrived, or were acknowledged.

use machnet_channel::UNIT;

/// A set of the units of one message.
#[derive(Debug, Default)]
pub(crate) struct UnitSet {
    words: Vec<u64>,
    units: u32,
    set: u32,
}

impl UnitSet {
    /// The empty set over a message of `len` bytes.
    #[cfg(test)]
    pub(crate) fn new(len: u32) -> Self {
        let mut set = Self::default();
        set.reset(len);
        set
    }

    /// Makes this the empty set over a message of `len` bytes, in the memory it has if that suffices.
    pub(crate) fn reset(&mut self, len: u32) {
        self.units = len.div_ceil(UNIT as u32);
        self.set = 0;
        self.words.clear();
        self.words.resize(self.units.div_ceil(64) as usize, 0);
    }

    /// Words of memory it has.
    pub(crate) fn capacity(&self) -> usize {
        self.words.capacity()
    }

    /// Adds the units of bytes `offset..offset + len`; returns how many are new.
    ///
    /// # Panics
    /// If the range is not inside the message.
    pub(crate) fn insert(&mut self, offset: u32, len: u32) -> u32 {
        let before = self.set;
        self.each_word(offset, len, |word, mask, set| {
            *set += (mask & !*word).count_ones();
            *word |= mask;
            true
        });
        self.set - before
    }

    /// Copies into `message` those units of `payload`, the bytes from `offset` on, that are not in the set, and adds them:
    /// the first copy of a byte wins.
    ///
    /// # Panics
    /// If the range is not inside the message.
    pub(crate) fn fill(&mut self, offset: u32, payload: &[u8], message: &mut [u8]) {
        let len = payload.len() as u32;
        if self.is_disjoint(offset, len) {
            message[offset as usize..][..payload.len()].copy_from_slice(payload);
        } else {
            for (unit, bytes) in (0..).zip(payload.chunks(UNIT as usize)) {
                let at = offset + unit * UNIT as u32;
                if !self.contains(at, bytes.len() as u32) {
                    message[at as usize..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        self.insert(offset, len);
    }

    /// True if no unit of the range is in the set.
    fn is_disjoint(&mut self, offset: u32, len: u32) -> bool {
        let mut none = true;
        self.each_word(offset, len, |word, mask, _| {
            none &= *word & mask == 0;
            none
        });
        none
    }

    /// True if every unit of the range is in the set.
    pub(crate) fn contains(&mut self, offset: u32, len: u32) -> bool {
        let mut all = true;
        self.each_word(offset, len, |word, mask, _| {
            all &= *word & mask == mask;
            all
        });
        all
    }

    /// True if all units of the message are in the set.
    pub(crate) const fn is_full(&self) -> bool {
        self.set == self.units
    }

    fn each_word(&mut self, offset: u32, len: u32, mut f: impl FnMut(&mut u64, u64, &mut u32) -> bool) {
        let mut first = offset / UNIT as u32;
        let end = (offset + len).div_ceil(UNIT as u32);
        assert!(end <= self.units, "a range inside the message");
        while first < end {
            let bit = first % 64;
            let count = (64 - bit).min(end - first);
            let mask = if count == 64 { u64::MAX } else { ((1 << count) - 1) << bit };
            if !f(&mut self.words[(first / 64) as usize], mask, &mut self.set) {
                return;
            }
            first += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_copy_of_a_byte_wins() {
        let mut set = UnitSet::new(300);
        let mut message = [0; 300];
        set.fill(64, &[1; 64], &mut message);
        set.fill(0, &[2; 192], &mut message);
        set.fill(192, &[3; 108], &mut message);
        set.fill(0, &[4; 300], &mut message);
        let expected = [[2; 64].as_slice(), &[1; 64], &[2; 64], &[3; 108]].concat();
        assert_eq!(message.as_slice(), expected);
        assert!(set.is_full());
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_units(len in 1..40_000u32, parts in prop::collection::vec((0..600u32, 1..300u32), 0..40)) {
            let mut set = UnitSet::new(len);
            let mut model = BTreeSet::new();
            for (unit, units) in parts {
                let offset = unit * 64;
                if offset >= len {
                    continue;
                }
                let bytes = (units * 64).min(len - offset);
                let range = offset / 64..(offset + bytes).div_ceil(64);
                prop_assert_eq!(set.contains(offset, bytes), range.clone().all(|u| model.contains(&u)));
                let new = range.filter(|&u| model.insert(u)).count();
                prop_assert_eq!(set.insert(offset, bytes) as usize, new);
                prop_assert_eq!(set.is_full(), model.len() as u32 == len.div_ceil(64));
            }
        }
    }
}
