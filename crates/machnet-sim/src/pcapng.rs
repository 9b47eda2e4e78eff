//! Writes events as pcapng, for Wireshark: Ethernet, IPv4 or IPv6, UDP, nanoseconds.
//!
//! One interface per fate: `sent` has every datagram that a NIC sent, `arrived` those that reached a receive ring, and
//! `dropped` those that did not, each with the reason as a comment. The filter `frame.interface_name == "sent"` shows
//! what a capture at the senders would have shown.
//!
//! Format: draft-ietf-opsawg-pcapng. The writer is ours since the format needs three kinds of blocks here, less than a
//! dependency for it would bring.

use std::io::{self, Write};

use crate::ethernet;
use crate::{Event, EventKind};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const ETHERNET: u16 = 1;

const INTERFACES: [&str; 3] = ["sent", "arrived", "dropped"];

/// Writes `events` to `out`.
///
/// # Errors
/// Of `out`.
pub fn write_pcapng(out: &mut impl Write, events: &[Event]) -> io::Result<()> {
    let mut section = Vec::new();
    section.extend(0x1a2b_3c4d_u32.to_le_bytes());
    section.extend([1, 0, 0, 0]);
    section.extend((-1_i64).to_le_bytes());
    option(&mut section, 4, b"machnet-sim");
    end_options(&mut section);
    block(out, SECTION, &section)?;
    for name in INTERFACES {
        let mut interface = Vec::new();
        interface.extend(ETHERNET.to_le_bytes());
        interface.extend([0; 2]);
        interface.extend(0_u32.to_le_bytes());
        option(&mut interface, 2, name.as_bytes());
        // Timestamps count nanoseconds.
        option(&mut interface, 9, &[9]);
        end_options(&mut interface);
        block(out, INTERFACE, &interface)?;
    }
    for event in events {
        let interface: u32 = match event.kind {
            EventKind::Sent => 0,
            EventKind::Arrived => 1,
            // The fate itself, or the original, has a line of its own.
            EventKind::Corrupted | EventKind::Duplicated | EventKind::Reordered | EventKind::Unreachable => continue,
            _ => 2,
        };
        // What is not UDP is in the trace whole, and has no ports.
        let is_whole = event.from.port() == 0 && event.to.port() == 0;
        let Event { from, to, payload, .. } = event;
        let frame = if is_whole { payload.clone() } else { ethernet::frame(*from, *to, payload) };
        let mut packet = Vec::with_capacity(frame.len() + 64);
        packet.extend(interface.to_le_bytes());
        packet.extend(((event.at.0 >> 32) as u32).to_le_bytes());
        packet.extend((event.at.0 as u32).to_le_bytes());
        packet.extend((frame.len() as u32).to_le_bytes());
        packet.extend((frame.len() as u32).to_le_bytes());
        packet.extend(&frame);
        pad(&mut packet);
        if interface == 2 {
            option(&mut packet, 1, format!("dropped: {:?}", event.kind).as_bytes());
            end_options(&mut packet);
        }
        block(out, PACKET, &packet)?;
    }
    Ok(())
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&len)?;
    out.write_all(body)?;
    out.write_all(&len)
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out);
}

fn end_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use machnet_core::Instant;

    use super::*;

    #[test]
    fn blocks_are_whole_and_checksums_right() {
        for (from, to) in [("10.0.0.1:5", "10.0.0.2:6"), ("[fd00::1]:5", "[fd00::2]:6")] {
            let event = |kind, payload: &[u8]| Event {
                at: Instant(5_000_000_007),
                kind,
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                payload: payload.to_vec(),
            };
            let events =
                [event(EventKind::Sent, b"odd"), event(EventKind::Lost, b"odd"), event(EventKind::Reordered, b"")];
            let mut file = Vec::new();
            write_pcapng(&mut file, &events).unwrap();
            let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            let (mut at, mut kinds) = (0, Vec::new());
            while at < file.len() {
                let len = word(at + 4) as usize;
                assert!(len.is_multiple_of(4) && word(at + len - 4) as usize == len);
                kinds.push(word(at));
                if word(at) == PACKET {
                    assert_eq!(u64::from(word(at + 12)) << 32 | u64::from(word(at + 16)), 5_000_000_007);
                }
                at += len;
            }
            assert_eq!(kinds, [SECTION, INTERFACE, INTERFACE, INTERFACE, PACKET, PACKET]);
            // What a receiver sums over header and data, checksum included, is all ones.
            let frame = ethernet::frame(events[0].from, events[0].to, &events[0].payload);
            let udp = &frame[frame.len() - 11..];
            let header = &frame[14..frame.len() - 11];
            let addresses = if header.len() == 20 {
                assert_eq!(ethernet::checksum(&[header]), 0);
                &header[12..]
            } else {
                &header[8..]
            };
            assert_eq!(ethernet::checksum(&[addresses, &[0, 17, 0, 11], udp]), 0);
        }
    }
}
