//! The addresses of a name's little network.
//!
//! 127.0.0.1 is the hub. A client has a slot, from 1, and the address 127.g.0.0 + slot + 1, where g counts how often the
//! slot was used before: an address comes again only after its slot had 254 others, so that no flow mistakes a new
//! client for an old one.

use std::net::Ipv4Addr;

/// The hub's address.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Slots that an address can name; the first is the hub's.
pub(crate) const MAX_CLIENTS: usize = 1023;

/// Values of g: 127.255.… stays unused.
const GENERATIONS: u8 = 255;

/// The slot that an address belongs to, if it still does.
pub(crate) const fn slot_of(address: Ipv4Addr) -> Option<usize> {
    let [net, _, high, low] = address.octets();
    let place = u16::from_be_bytes([high, low]) as usize;
    if net == 127 { place.checked_sub(1) } else { None }
}

/// Who has which address, at the hub.
#[derive(Debug)]
pub(crate) struct Slots {
    /// For each client's slot: whether it is taken, and its next generation.
    slots: Vec<(bool, u8)>,
    /// Where to look first: the slot unused for longest, more or less.
    next: usize,
}

impl Slots {
    pub(crate) fn new(clients: usize) -> Self {
        Self { slots: vec![(false, 0); clients], next: 0 }
    }

    /// An address for a new client; `None` if there are as many as may be.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let count = self.slots.len();
        let at = (0..count).map(|i| (self.next + i) % count).find(|&at| !self.slots[at].0)?;
        self.next = at + 1;
        let (taken, generation) = &mut self.slots[at];
        *taken = true;
        let [high, low] = (at as u16 + 2).to_be_bytes();
        let address = Ipv4Addr::new(127, *generation, high, low);
        *generation = (*generation + 1) % GENERATIONS;
        Some(address)
    }

    /// The client is gone.
    pub(crate) fn free(&mut self, address: Ipv4Addr) {
        if let Some(slot) = slot_of(address).and_then(|slot| slot.checked_sub(1)).and_then(|at| self.slots.get_mut(at))
        {
            slot.0 = false;
        }
    }

    pub(crate) const fn clients(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_again_late() {
        let mut slots = Slots::new(2);
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(slots.take(), Some(address("127.0.0.2")));
        assert_eq!(slots.take(), Some(address("127.0.0.3")));
        assert_eq!(slots.take(), None);
        let mut seen = vec![address("127.0.0.2")];
        for _ in 1..GENERATIONS {
            slots.free(*seen.last().unwrap());
            let next = slots.take().unwrap();
            assert!(!seen.contains(&next) && slot_of(next) == Some(1), "{next}");
            seen.push(next);
        }
        slots.free(*seen.last().unwrap());
        assert_eq!(slots.take(), Some(seen[0]));
    }

    #[test]
    fn every_slot_has_its_address() {
        let mut slots = Slots::new(MAX_CLIENTS);
        for slot in 1..=MAX_CLIENTS {
            assert_eq!(slot_of(slots.take().unwrap()), Some(slot));
        }
        assert_eq!(slots.take(), None);
        assert_eq!(slot_of(HUB), Some(0));
        assert_eq!(slot_of(Ipv4Addr::new(127, 0, 0, 0)), None);
        assert_eq!(slot_of(Ipv4Addr::new(10, 0, 0, 2)), None);
        slots.free(Ipv4Addr::new(127, 0, 255, 255));
        slots.free(HUB);
    }
}
