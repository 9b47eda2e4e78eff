//! What lies where in a region (`docs/spec/sidecar.md#region`).
//!
//! ```text
//!   wants │ marks ×2 │ listeners ×2 │ flows ×2 │ rings ×2 │ to a page │ data ×2
//! ```
//!
//! Of each pair the application's comes first. All that this computes are numbers of words; that they are inside the
//! region follows from [`Geometry::check`].

use crate::{PipePlace, ring_words};

const WORD: usize = 8;
const PAGE: usize = 4096;
/// Words from one line to the next: of 128 bytes, as in rings. Loom has no caches, and pays for each word.
const LINE: usize = if cfg!(machnet_loom) { 1 } else { 16 };

/// The sizes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// F: flows that each side may open. A multiple of 64 up to 16 384.
    pub flows: u32,
    /// L: listeners, up to 64.
    pub listeners: u32,
    /// D: descriptors of each pipe, a power of two from 64 to 32 768.
    pub descriptors: u32,
    /// B: bytes of each pipe's data area, a multiple of 4096 from 4 P to 4 MiB.
    pub data: u32,
    /// P: the longest piece, bytes, from 1 252 to 65 507.
    pub max_piece: u32,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    App = 0,
    Daemon = 1,
}

/// Words of a flow, of a listener, in the order of [`Side`].
const FLOW: [usize; 2] = if cfg!(machnet_loom) { [9, 22] } else { [LINE, 2 * LINE] };
const LISTENER: [usize; 2] = if cfg!(machnet_loom) { [4, 37] } else { [LINE, 3 * LINE] };

/// Where the marks of one direction lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MarksPlace {
    pub(super) summary: usize,
    pub(super) flows: usize,
    pub(super) listeners: usize,
    /// Words of `flows`.
    pub(super) words: usize,
}

/// The first word of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    geometry: Geometry,
    marks: usize,
    listeners: usize,
    flows: usize,
    rings: usize,
    data: usize,
    end: usize,
}

impl Geometry {
    /// Says what is wrong with sizes that cannot work, whoever chose them.
    ///
    /// # Errors
    /// A text for people.
    pub fn check(&self) -> Result<(), String> {
        let Self { flows, listeners, descriptors, data, max_piece } = *self;
        if !(64..=16_384).contains(&flows) || !flows.is_multiple_of(64) {
            return Err(format!("{flows} flows: it must be a multiple of 64 from 64 to 16384"));
        }
        if !(1..=64).contains(&listeners) {
            return Err(format!("{listeners} listeners: it must be 1 to 64"));
        }
        if !(64..=1 << 15).contains(&descriptors) || !descriptors.is_power_of_two() {
            return Err(format!("{descriptors} descriptors: it must be a power of two from 64 to 32768"));
        }
        if !(1_252..=65_507).contains(&max_piece) {
            return Err(format!("pieces of up to {max_piece} bytes: it must be 1252 to 65507"));
        }
        let least = (4 * max_piece).next_multiple_of(PAGE as u32);
        if !(least..=4 << 20).contains(&data) || !data.is_multiple_of(PAGE as u32) {
            return Err(format!(
                "data areas of {data} bytes: for pieces of up to {max_piece} bytes it must be {least} to 4194304, in steps of {PAGE}"
            ));
        }
        Ok(())
    }

    /// Bytes of the whole region, a multiple of 4096.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Layout::new(self).end * WORD
    }
}

impl Layout {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let slots = 2 * geometry.flows as usize;
        let marks = 2 * LINE;
        let listeners = marks + 2 * Self::marks_words(slots);
        let flows = listeners + geometry.listeners as usize * (LISTENER[0] + LISTENER[1]);
        let rings = flows + slots * (FLOW[0] + FLOW[1]);
        let page = if cfg!(machnet_loom) { 1 } else { PAGE / WORD };
        let data = (rings + 2 * ring_words(geometry.descriptors)).next_multiple_of(page);
        let end = data + 2 * geometry.data as usize / WORD;
        Self { geometry: *geometry, marks, listeners, flows, rings, data, end }
    }

    fn marks_words(slots: usize) -> usize {
        (slots.div_ceil(64).div_ceil(64) + slots.div_ceil(64) + 1).next_multiple_of(LINE)
    }

    /// Slots of flows.
    pub(super) const fn slots(&self) -> u32 {
        2 * self.geometry.flows
    }

    pub(super) const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What `sleeper` wants to be rung for.
    pub(super) const fn wants(sleeper: Side) -> usize {
        match sleeper {
            Side::Daemon => 0,
            Side::App => LINE,
        }
    }

    pub(super) fn marks(&self, from: Side) -> MarksPlace {
        let slots = self.slots() as usize;
        let summary = self.marks + from as usize * Self::marks_words(slots);
        let flows = summary + slots.div_ceil(64).div_ceil(64);
        let words = slots.div_ceil(64);
        MarksPlace { summary, flows, listeners: flows + words, words }
    }

    /// The words that `of` writes about flow `slot`.
    #[inline]
    pub(super) fn flow(&self, of: Side, slot: u32) -> usize {
        debug_assert!(slot < self.slots(), "slots are checked where they come in");
        let before = if of == Side::App { 0 } else { self.slots() as usize * FLOW[0] };
        self.flows + before + slot as usize * FLOW[of as usize]
    }

    /// The words that `of` writes about listener `slot`.
    #[inline]
    pub(super) fn listener(&self, of: Side, slot: u32) -> usize {
        debug_assert!(slot < self.geometry.listeners, "slots are checked where they come in");
        let before = if of == Side::App { 0 } else { self.geometry.listeners as usize * LISTENER[0] };
        self.listeners + before + slot as usize * LISTENER[of as usize]
    }

    pub(super) fn pipe(&self, from: Side) -> PipePlace {
        let Geometry { descriptors, data: bytes, max_piece, .. } = self.geometry;
        PipePlace {
            ring: self.rings + from as usize * ring_words(descriptors),
            data: self.data + from as usize * bytes as usize / WORD,
            descriptors,
            bytes,
            max_piece,
        }
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;

    const GOOD: Geometry = Geometry { flows: 1024, listeners: 64, descriptors: 1024, data: 1 << 20, max_piece: 16_640 };

    #[test]
    fn nothing_overlaps_and_all_is_inside() {
        for (flows, listeners, descriptors, data, max_piece) in
            [(64, 1, 64, 8192, 1252), (1024, 64, 1024, 1 << 20, 16_640), (16_384, 64, 32_768, 4 << 20, 65_507)]
        {
            let geometry = Geometry { flows, listeners, descriptors, data, max_piece };
            geometry.check().unwrap();
            let layout = Layout::new(&geometry);
            let mut parts = vec![(Layout::wants(Side::Daemon), 1), (Layout::wants(Side::App), 1)];
            for side in [Side::App, Side::Daemon] {
                let marks = layout.marks(side);
                let slots = 2 * flows as usize;
                parts.push((marks.summary, slots.div_ceil(4096)));
                parts.push((marks.flows, slots / 64));
                parts.push((marks.listeners, 1));
                for slot in [0, 1, 2 * flows - 1] {
                    parts.push((layout.flow(side, slot), FLOW[side as usize]));
                }
                for slot in (0..listeners.min(2)).chain([listeners - 1]).collect::<std::collections::BTreeSet<_>>() {
                    parts.push((layout.listener(side, slot), LISTENER[side as usize]));
                }
                let pipe = layout.pipe(side);
                parts.push((pipe.ring, ring_words(descriptors)));
                parts.push((pipe.data, data as usize / WORD));
                assert!((pipe.data * WORD).is_multiple_of(PAGE));
            }
            parts.push((geometry.bytes() / WORD, 0));
            parts.sort_unstable();
            assert!(parts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{parts:?}");
            assert!(geometry.bytes().is_multiple_of(PAGE));
        }
    }

    /// The words of two sides never share a line of 128 bytes.
    #[test]
    fn the_table_of_the_specification() {
        let layout = Layout::new(&GOOD);
        let marks = (8 + 2 * 1024 / 8 + 8_usize).next_multiple_of(128);
        let listeners = 256 + 2 * marks;
        let flows = listeners + 64 * (128 + 384);
        let rings = flows + 2 * 1024 * (128 + 256);
        assert_eq!(layout.marks(Side::Daemon).summary * WORD, 256 + marks);
        assert_eq!(layout.listener(Side::App, 0) * WORD, listeners);
        assert_eq!(layout.listener(Side::Daemon, 0) * WORD, listeners + 64 * 128);
        assert_eq!(layout.flow(Side::App, 1) * WORD, flows + 128);
        assert_eq!(layout.flow(Side::Daemon, 1) * WORD, flows + 2048 * 128 + 256);
        assert_eq!(layout.pipe(Side::App).ring * WORD, rings);
        let data = (rings + 2 * 8 * (64 + 1024)).next_multiple_of(4096);
        assert_eq!(layout.pipe(Side::App).data * WORD, data);
        assert_eq!(GOOD.bytes(), data + (2 << 20));
        for start in [layout.marks(Side::App).summary, layout.flows, layout.listeners, layout.rings] {
            assert!((start * WORD).is_multiple_of(128));
        }
    }

    #[test]
    fn sizes_that_cannot_work_are_named() {
        for (bad, part) in [
            (Geometry { flows: 0, ..GOOD }, "0 flows"),
            (Geometry { flows: 65, ..GOOD }, "65 flows"),
            (Geometry { flows: 16_448, ..GOOD }, "16448 flows"),
            (Geometry { listeners: 0, ..GOOD }, "0 listeners"),
            (Geometry { listeners: 65, ..GOOD }, "65 listeners"),
            (Geometry { descriptors: 1000, ..GOOD }, "1000 descriptors"),
            (Geometry { descriptors: 65_536, ..GOOD }, "65536 descriptors"),
            (Geometry { max_piece: 1251, ..GOOD }, "1252 to 65507"),
            (Geometry { max_piece: 65_508, ..GOOD }, "1252 to 65507"),
            (Geometry { data: (4 << 20) + 4096, ..GOOD }, "to 4194304"),
            (Geometry { data: 4096, ..GOOD }, "must be 69632 to"),
            (Geometry { data: (1 << 20) + 64, ..GOOD }, "in steps of 4096"),
        ] {
            let text = bad.check().unwrap_err();
            assert!(text.contains(part), "{text}");
        }
    }
}
