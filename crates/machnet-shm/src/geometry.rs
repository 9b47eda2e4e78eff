//! What lies where in a region (`docs/spec/shm.md#region`).
//!
//! ```text
//!   ring hub → client │ ring client → hub │ to a page │ data hub → client │ data client → hub
//! ```

use machnet_channel::{PipePlace, ring_words};

/// Data is given out in units of this many bytes: a cache line.
pub(crate) const UNIT: usize = 64;
/// Bytes per word of shared memory.
pub(crate) const WORD: usize = 8;
const PAGE: usize = 4096;

/// The longest datagram there is, as over IPv4's UDP.
const MAX_PAYLOAD: u32 = 65_507;
/// A handshake is padded to 1 280 bytes with its IP header, 1 252 without headers (`docs/spec/wire.md`).
const MIN_PAYLOAD: u32 = 1_252;
/// A descriptor counts units in 16 bits.
const MAX_DATA: u32 = (UNIT as u32) << 16;
/// A datagram is at most this part of a data area, so that there is room for some.
const SHARE: u32 = 4;
const MAX_DESCRIPTORS: u32 = 1 << 15;
const MIN_DESCRIPTORS: u32 = 64;

/// The sizes of a wire; both directions have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Descriptors of a ring.
    pub(crate) descriptors: u32,
    /// Bytes of a data area.
    pub(crate) data: u32,
    /// The longest datagram.
    pub(crate) max_payload: u32,
}

impl Geometry {
    /// Says what is wrong with sizes that cannot work, whoever chose them.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { descriptors, data, max_payload } = *self;
        if !(MIN_DESCRIPTORS..=MAX_DESCRIPTORS).contains(&descriptors) || !descriptors.is_power_of_two() {
            return Err(format!(
                "{descriptors} descriptors: it must be a power of two from {MIN_DESCRIPTORS} to {MAX_DESCRIPTORS}"
            ));
        }
        if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&max_payload) {
            return Err(format!("datagrams of up to {max_payload} bytes: it must be {MIN_PAYLOAD} to {MAX_PAYLOAD}"));
        }
        let least = (SHARE * max_payload).next_multiple_of(PAGE as u32);
        if !(least..=MAX_DATA).contains(&data) || !data.is_multiple_of(PAGE as u32) {
            return Err(format!(
                "data areas of {data} bytes: for datagrams of up to {max_payload} bytes it must be {least} to {MAX_DATA}, in steps of {PAGE}"
            ));
        }
        Ok(())
    }

    fn rings(&self) -> usize {
        (2 * ring_words(self.descriptors) * WORD).next_multiple_of(PAGE)
    }

    /// Bytes of the whole region.
    pub(crate) fn bytes(&self) -> usize {
        self.rings() + 2 * self.data as usize
    }

    /// What the hub sends.
    pub(crate) fn down(&self) -> PipePlace {
        self.place(0, self.rings())
    }

    /// What the client sends.
    pub(crate) fn up(&self) -> PipePlace {
        self.place(ring_words(self.descriptors), self.rings() + self.data as usize)
    }

    fn place(&self, ring: usize, data: usize) -> PipePlace {
        let Self { descriptors, data: bytes, max_payload: max_piece } = *self;
        PipePlace { ring, data: data / WORD, descriptors, bytes, max_piece }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Geometry = Geometry { descriptors: 1024, data: 1 << 20, max_payload: 16_640 };

    #[test]
    fn nothing_overlaps_and_all_is_inside() {
        for (descriptors, data, max_payload) in [(64, 8192, 1252), (1024, 1 << 20, 16_640), (32_768, 4 << 20, 65_507)] {
            let geometry = Geometry { descriptors, data, max_payload };
            geometry.check().unwrap();
            let (down, up, ring) = (geometry.down(), geometry.up(), ring_words(descriptors));
            let area = data as usize / WORD;
            let mut parts =
                [(down.ring, ring), (up.ring, ring), (down.data, area), (up.data, area), (geometry.bytes() / WORD, 0)];
            parts.sort_unstable();
            assert!(parts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{parts:?}");
            assert!((down.data * WORD).is_multiple_of(PAGE) && geometry.bytes().is_multiple_of(PAGE));
        }
    }

    #[test]
    fn sizes_that_cannot_work_are_named() {
        for (bad, part) in [
            (Geometry { descriptors: 1000, ..GOOD }, "1000 descriptors"),
            (Geometry { descriptors: 32, ..GOOD }, "32 descriptors"),
            (Geometry { descriptors: 65_536, ..GOOD }, "65536 descriptors"),
            (Geometry { max_payload: 1251, ..GOOD }, "1252 to 65507"),
            (Geometry { max_payload: 65_508, ..GOOD }, "1252 to 65507"),
            (Geometry { data: (4 << 20) + 4096, ..GOOD }, "to 4194304"),
            (Geometry { data: 4096, ..GOOD }, "must be 69632 to"),
            (Geometry { data: (1 << 20) + 64, ..GOOD }, "in steps of 4096"),
            (Geometry { descriptors: 0, data: 0, max_payload: 0 }, "0 descriptors"),
            (Geometry { descriptors: u32::MAX, data: u32::MAX, max_payload: u32::MAX }, "descriptors"),
        ] {
            let text = bad.check().unwrap_err();
            assert!(text.contains(part), "{text}");
        }
    }
}
