//! One direction of a wire: a ring of descriptors, and the data area they point into.
//!
//! A descriptor is one word (`docs/spec/shm.md#descriptors`), so that it is read whole, once:
//!
//! ```text
//!   bits 0–15 length │ 16–31 offset in units of 64 B │ 32–47 source port │ 48–63 destination port
//! ```
//!
//! The sender gives out its data area in order, as the ring is in order, and keeps to itself what it gave out; what the
//! receiver has consumed is free again. A datagram lies in one piece: the end of the area is skipped if it is too short.
//! Dense data keeps the part of the area that small packets use in the cache.

use std::fmt;
use std::sync::Arc;

use machnet_channel::{ForeignRegion, RingConsumer, RingError, RingProducer, Words as _};

use crate::geometry::{Geometry, Place, UNIT, WORD};

/// What the ports of a datagram are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) source: u16,
    pub(crate) destination: u16,
}

/// Why a wire is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Ring(RingError),
    /// A descriptor that points outside of the data area, or to more than a datagram.
    Descriptor {
        offset: usize,
        len: usize,
    },
}

impl From<RingError> for Broken {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Descriptor { offset, len } => {
                write!(f, "a descriptor of {len} bytes at {offset} is not inside the data area")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descriptor {
    /// Bytes.
    len: usize,
    /// Bytes from the beginning of the data area.
    offset: usize,
    ports: Ports,
}

impl Descriptor {
    const fn pack(self) -> u64 {
        let Self { len, offset, ports } = self;
        ((ports.destination as u64) << 48)
            | ((ports.source as u64) << 32)
            | (((offset / UNIT) as u64) << 16)
            | (len as u64)
    }

    const fn unpack(word: u64) -> Self {
        Self {
            len: word as u16 as usize,
            offset: (word >> 16) as u16 as usize * UNIT,
            ports: Ports { source: (word >> 32) as u16, destination: (word >> 48) as u16 },
        }
    }
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct Sender {
    region: Arc<ForeignRegion>,
    ring: RingProducer<Arc<ForeignRegion>>,
    /// First word of the data area.
    base: usize,
    /// Units of the data area.
    units: u32,
    /// The first free unit, and how many are not.
    head: u32,
    used: u32,
    /// Units of each descriptor in flight, skipped ones included. Ours alone.
    given: Box<[u16]>,
    /// How many descriptors were pushed and reclaimed, modulo the ring's capacity.
    pushed: u32,
    reclaimed: u32,
}

impl Sender {
    pub(crate) fn new(region: Arc<ForeignRegion>, geometry: &Geometry, place: Place) -> Self {
        let ring = RingProducer::new(Arc::clone(&region), place.ring, geometry.descriptors);
        let units = geometry.data / UNIT as u32;
        let given = vec![0; geometry.descriptors as usize].into();
        Self { region, ring, base: place.data, units, head: 0, used: 0, given, pushed: 0, reclaimed: 0 }
    }

    /// Copies a datagram into the shared area. False if there is no room. [`Sender::publish`] shows it.
    #[inline]
    pub(crate) fn send(&mut self, ports: Ports, payload: &[u8]) -> Result<bool, Broken> {
        let units = payload.len().div_ceil(UNIT) as u32;
        let mut skipped = self.skip(units);
        if self.ring.room() == 0 || skipped + units > self.units - self.used {
            self.reclaim()?;
            skipped = self.skip(units);
            if self.ring.room() == 0 || skipped + units > self.units - self.used {
                return Ok(false);
            }
        }
        let at = if skipped > 0 { 0 } else { self.head };
        self.region.copy_in(self.base + at as usize * (UNIT / WORD), payload);
        let descriptor = Descriptor { len: payload.len(), offset: at as usize * UNIT, ports };
        let pushed = self.ring.push(descriptor.pack());
        debug_assert!(pushed, "there was room");
        let mask = self.given.len() - 1;
        self.given[self.pushed as usize & mask] = (skipped + units) as u16;
        self.pushed = self.pushed.wrapping_add(1);
        self.used += skipped + units;
        self.head = if at + units == self.units { 0 } else { at + units };
        Ok(true)
    }

    /// Units to leave out at the end of the area, so that `units` lie in one piece.
    #[inline]
    const fn skip(&self, units: u32) -> u32 {
        if self.head + units > self.units { self.units - self.head } else { 0 }
    }

    /// Takes back what the receiver has consumed. True if that was anything.
    pub(crate) fn reclaim(&mut self) -> Result<bool, Broken> {
        let freed = self.ring.look()?;
        let mask = self.given.len() - 1;
        for _ in 0..freed {
            self.used -= u32::from(self.given[self.reclaimed as usize & mask]);
            self.reclaimed = self.reclaimed.wrapping_add(1);
        }
        Ok(freed > 0)
    }

    /// Shows the receiver what was sent. True if it must be rung.
    #[inline]
    #[must_use]
    pub(crate) fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    pub(crate) fn arm(&self) {
        self.ring.arm();
    }

    pub(crate) fn disarm(&self) {
        self.ring.disarm();
    }
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Receiver {
    region: Arc<ForeignRegion>,
    ring: RingConsumer<Arc<ForeignRegion>>,
    base: usize,
    /// Bytes of the data area.
    bytes: usize,
    max_payload: usize,
}

impl Receiver {
    pub(crate) fn new(region: Arc<ForeignRegion>, geometry: &Geometry, place: Place) -> Self {
        let ring = RingConsumer::new(Arc::clone(&region), place.ring, geometry.descriptors);
        let (bytes, max_payload) = (geometry.data as usize, geometry.max_payload as usize);
        Self { region, ring, base: place.data, bytes, max_payload }
    }

    /// How many datagrams wait; looks only if none is known of.
    #[inline]
    pub(crate) fn ready(&mut self) -> Result<u32, Broken> {
        match self.ring.ready() {
            0 => Ok(self.ring.look()?),
            ready => Ok(ready),
        }
    }

    /// How many datagrams wait; looks in any case.
    pub(crate) fn look(&mut self) -> Result<u32, Broken> {
        Ok(self.ring.look()?)
    }

    /// Copies the next datagram into `buffer`, which has room for the longest; returns its ports and length.
    #[inline]
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(Ports, usize)>, Broken> {
        let Some(word) = self.ring.pop() else { return Ok(None) };
        let Descriptor { len, offset, ports } = Descriptor::unpack(word);
        if len > self.max_payload || offset + len > self.bytes {
            return Err(Broken::Descriptor { offset, len });
        }
        self.region.copy_out(self.base + offset / WORD, &mut buffer[..len]);
        Ok(Some((ports, len)))
    }

    /// Gives the room back. True if the sender must be rung.
    #[inline]
    #[must_use]
    pub(crate) fn release(&mut self) -> bool {
        self.ring.release()
    }

    pub(crate) fn arm(&self) {
        self.ring.arm();
    }

    pub(crate) fn disarm(&self) {
        self.ring.disarm();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::Ordering::Relaxed;

    use proptest::prelude::*;

    use super::*;

    const GEOMETRY: Geometry = Geometry { descriptors: 64, data: 8192, max_payload: 2000 };
    const PORTS: Ports = Ports { source: 7, destination: 65_535 };

    fn pair() -> (Sender, Receiver, Arc<ForeignRegion>) {
        let (region, _fd) = ForeignRegion::create("test", GEOMETRY.bytes()).unwrap();
        let region = Arc::new(region);
        let place = GEOMETRY.up();
        (
            Sender::new(Arc::clone(&region), &GEOMETRY, place),
            Receiver::new(Arc::clone(&region), &GEOMETRY, place),
            region,
        )
    }

    fn content(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (seed * 31 + i) as u8).collect()
    }

    proptest! {
        /// Datagrams of any lengths come out as they went in, whoever runs ahead; in the end everything is free.
        #[test]
        fn what_is_sent_arrives(steps in prop::collection::vec((0..=2000_usize, 0..80_usize, 0..80_usize), 1..60)) {
            let (mut sender, mut receiver, _region) = pair();
            let mut underway = VecDeque::new();
            let (mut sent, mut buffer) = (0, vec![0; 2000]);
            for (len, sends, receives) in steps {
                for _ in 0..sends {
                    if !sender.send(PORTS, &content(sent, len)).unwrap() {
                        prop_assert!(!underway.is_empty(), "an empty wire has room for anything");
                        break;
                    }
                    underway.push_back((sent, len));
                    sent += 1;
                }
                prop_assert!(!sender.publish());
                for _ in 0..receives {
                    prop_assert_eq!(receiver.ready().unwrap() > 0, !underway.is_empty());
                    let Some((ports, len)) = receiver.receive(&mut buffer).unwrap() else { break };
                    let (number, expected) = underway.pop_front().unwrap();
                    prop_assert_eq!((ports, len), (PORTS, expected));
                    prop_assert_eq!(&buffer[..len], &content(number, len)[..]);
                }
                prop_assert!(!receiver.release());
            }
            while receiver.ready().unwrap() > 0 {
                receiver.receive(&mut buffer).unwrap();
            }
            let _ = receiver.release();
            sender.reclaim().unwrap();
            prop_assert_eq!(sender.used, 0);
        }

        /// Any descriptor is a datagram inside the area, or an error that says where it points.
        #[test]
        fn any_descriptor_is_checked(words in prop::collection::vec(any::<u64>(), 1..64)) {
            let (_sender, mut receiver, region) = pair();
            let ring = GEOMETRY.up().ring;
            let first = ring + machnet_channel::ring_words(64) - 64;
            for (at, word) in region.words()[first..].iter().zip(&words) {
                at.store(*word, Relaxed);
            }
            region.words()[ring].store(words.len() as u64, Relaxed);
            let mut buffer = vec![0; 2000];
            for word in words {
                let (len, offset) = ((word & 0xffff) as usize, (word >> 16 & 0xffff) as usize * 64);
                receiver.ready().unwrap();
                match receiver.receive(&mut buffer) {
                    Ok(received) => {
                        prop_assert_eq!(received.unwrap().1, len);
                        prop_assert!(len <= 2000 && offset + len <= 8192);
                    }
                    Err(error) => {
                        prop_assert_eq!(error, Broken::Descriptor { offset, len });
                        prop_assert!(len > 2000 || offset + len > 8192);
                    }
                }
            }
        }
    }

    #[test]
    fn descriptors_keep_their_fields() {
        let descriptor = Descriptor { len: 65_507, offset: 65_535 * UNIT, ports: PORTS };
        assert_eq!(Descriptor::unpack(descriptor.pack()), descriptor);
        assert_eq!(Descriptor::unpack(0).pack(), 0);
    }
}
