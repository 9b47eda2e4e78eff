//! Filters for links: what goes wrong exactly there and then.

use std::ops::Range;

use machnet_core::Instant;
use machnet_core::wire::{Data, Header, PacketType};

use crate::{Filter, Sighting, Verdict};

/// Drops what `test` says.
#[must_use]
pub fn drop_if(mut test: impl FnMut(&Sighting<'_>) -> bool + Send + 'static) -> Filter {
    Box::new(move |seen| if test(seen) { Verdict::Drop } else { Verdict::Pass })
}

/// Drops, of the datagrams that `test` says, those that come in `which` places, counted from 0.
#[must_use]
pub fn drop_some(which: Range<u64>, mut test: impl FnMut(&Sighting<'_>) -> bool + Send + 'static) -> Filter {
    let mut count = 0;
    drop_if(move |seen| {
        if !test(seen) {
            return false;
        }
        count += 1;
        which.contains(&(count - 1))
    })
}

/// A black hole: drops everything for a time.
#[must_use]
pub fn outage(when: Range<Instant>) -> Filter {
    drop_if(move |seen| when.contains(&seen.at))
}

/// A black hole for datagrams of more than `longest` bytes of UDP payload.
#[must_use]
pub fn outage_of_long(when: Range<Instant>, longest: usize) -> Filter {
    drop_if(move |seen| when.contains(&seen.at) && seen.payload.len() > longest)
}

/// Drops the packets that carry nothing but acknowledgements and credit for a time.
#[must_use]
pub fn outage_of_acknowledgements(when: Range<Instant>) -> Filter {
    drop_if(move |seen| when.contains(&seen.at) && is_acknowledgement(seen.payload))
}

/// True for a DATA packet without chunks.
#[must_use]
pub fn is_acknowledgement(packet: &[u8]) -> bool {
    matches!(Header::parse(packet), Ok((header, rest)) if header.packet_type == PacketType::Data
        && Data::parse(&header, rest).is_ok_and(|data| !data.chunks().elicits()))
}
