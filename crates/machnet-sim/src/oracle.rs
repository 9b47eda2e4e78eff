//! What engines may put on the wire, checked on every packet they send in a [`crate::World`].
//!
//! The oracle stands at the NICs: it sees each packet when an engine hands it over and again when it comes into a
//! receive ring, so it knows what either side can know. The rules, of `docs/spec/wire.md`:
//!
//! - what is sent parses;
//! - packet numbers of a flow's side grow: none is used twice;
//! - an acknowledgement reports only numbers that arrived;
//! - credit only grows, and no part of a message is sent beyond the credit that the other side has announced;
//! - first transmissions come in the order of message ids and offsets, and the total of a message does not change;
//! - what elicits an acknowledgement is long enough;
//! - until an address is validated, no more bytes go to it than came from it;
//! - a flow is sent on the pair of ports of a handshake, or on one on which a probe was answered.
//!
//! Where packets arrive that nobody sent (forged ones, and damage that no checksum notices), those about acknowledgements,
//! credit and messages hold no longer.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use machnet_channel::UNIT;
use machnet_core::Instant;
use machnet_core::wire::{AckBlock, Chunk, Data, Handshake, Header, MIN_ELICITING_LEN, PacketType, Probe};

/// See the module. The maps are looked into, never walked: their order does not matter.
#[derive(Default)]
pub(crate) struct Oracle {
    is_on: bool,
    distrusts: bool,
    violation: Option<String>,
    sides: Vec<Side>,
    /// Sides by their host and the id that they chose.
    by_own: HashMap<(IpAddr, u64), usize>,
    /// Sides by their host, the other one, and the id that they write into their packets.
    by_destination: HashMap<(IpAddr, IpAddr, u64), usize>,
    /// Pairs that flows may be sent on, and probes by their sender and nonce.
    pairs: HashSet<(SocketAddr, SocketAddr)>,
    probes: HashMap<(IpAddr, u64), (SocketAddr, SocketAddr)>,
    /// Hosts that validated each other's address, at whatever port.
    validated: HashSet<(IpAddr, IpAddr)>,
    /// What hosts heard from and told to addresses.
    heard: HashMap<(IpAddr, SocketAddr), Heard>,
}

/// One side of a flow: what it sent, and what of it arrived.
#[derive(Default)]
struct Side {
    /// One more than the last number sent.
    next: u64,
    arrived: Bits,
    /// Credit announced to the other side, units.
    credit: u64,
    peer: Option<usize>,
    /// The message that is being sent first: its id, how much of it was sent, its length; and what all before it cost.
    id: u64,
    offset: u64,
    total: u64,
    cost: u64,
}

#[derive(Default)]
struct Heard {
    received: u64,
    sent: u64,
    is_validated: bool,
}

impl Oracle {
    /// From now on packets are checked.
    pub(crate) const fn switch_on(&mut self) {
        self.is_on = true;
    }

    /// Packets may arrive that nobody sent.
    pub(crate) const fn distrust(&mut self) {
        self.distrusts = true;
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// An engine hands a packet to its NIC.
    pub(crate) fn on_sent(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, packet: &[u8]) {
        if !self.is_on || self.violation.is_some() {
            return;
        }
        if let Err(what) = self.check(from, to, packet) {
            self.violation = Some(format!("at {:.3} µs {from} → {to}: {what}", now.0 as f64 / 1e3));
        }
    }

    /// A packet comes into a receive ring.
    pub(crate) fn on_arrived(&mut self, from: SocketAddr, to: SocketAddr, packet: &[u8]) {
        if !self.is_on {
            return;
        }
        let heard = self.heard.entry((to.ip(), from)).or_default();
        heard.received += packet.len() as u64;
        let Ok((header, rest)) = Header::parse(packet) else { return };
        let source = || Handshake::parse(rest).ok().map(|handshake| handshake.source);
        let sender = match header.packet_type {
            PacketType::Init | PacketType::Accept => source().and_then(|id| self.by_own.get(&(from.ip(), id))),
            PacketType::Data => self.by_destination.get(&(from.ip(), to.ip(), header.flow)),
            PacketType::Retry | PacketType::Reset => None,
            PacketType::Probe | PacketType::ProbeReply => {
                let answers = Probe::parse(rest).ok().and_then(|probe| probe.answers);
                let answered = answers.and_then(|(nonce, _)| self.probes.get(&(to.ip(), nonce)));
                self.pairs.extend(answered);
                None
            }
        };
        heard.is_validated |= header.flow != 0 && self.by_own.contains_key(&(to.ip(), header.flow));
        if heard.is_validated {
            self.validated.insert((to.ip(), from.ip()));
        }
        if let Some(&sender) = sender {
            let side = &mut self.sides[sender];
            match expand(header.number, side.next) {
                Some(number) if number < side.next => side.arrived.set(number),
                _ => self.distrusts = true,
            }
        }
    }

    fn check(&mut self, from: SocketAddr, to: SocketAddr, packet: &[u8]) -> Result<(), String> {
        let (header, rest) = Header::parse(packet).map_err(|error| format!("sends a bad header: {error}"))?;
        let kind = header.packet_type;
        let bad = |error| format!("sends a bad {kind:?}: {error}");
        self.check_amplification(from, to, &header, packet.len() as u64)?;
        match header.packet_type {
            PacketType::Init => {
                self.pairs.insert((from, to));
                let handshake = Handshake::parse(rest).map_err(bad)?;
                let side = self.side(from.ip(), handshake.source);
                self.number(side, &header)?;
                self.sides[side].credit = handshake.credit.into();
            }
            PacketType::Accept => {
                self.pairs.insert((from, to));
                let handshake = Handshake::parse(rest).map_err(bad)?;
                let side = self.side(from.ip(), handshake.source);
                self.by_destination.insert((from.ip(), to.ip(), header.flow), side);
                if let Some(&peer) = self.by_own.get(&(to.ip(), header.flow)) {
                    self.by_destination.insert((to.ip(), from.ip(), handshake.source), peer);
                    (self.sides[side].peer, self.sides[peer].peer) = (Some(peer), Some(side));
                }
                self.number(side, &header)?;
                let credit = &mut self.sides[side].credit;
                *credit = (*credit).max(handshake.credit.into());
            }
            PacketType::Data => {
                let data = Data::parse(&header, rest).map_err(bad)?;
                // Who answers a forged handshake is unknown.
                let Some(&side) = self.by_destination.get(&(from.ip(), to.ip(), header.flow)) else { return Ok(()) };
                if !self.pairs.contains(&(from, to)) {
                    return Err("a flow is sent on a pair that no probe on was answered".to_owned());
                }
                self.number(side, &header)?;
                if !self.distrusts {
                    self.check_data(side, &data)?;
                }
                if data.chunks().elicits() && packet.len() < MIN_ELICITING_LEN {
                    return Err(format!("{} bytes elicit an acknowledgement", packet.len()));
                }
            }
            PacketType::Retry | PacketType::Reset => {}
            PacketType::Probe | PacketType::ProbeReply => {
                let probe = Probe::parse(rest).map_err(bad)?;
                self.probes.insert((from.ip(), probe.nonce), (from, to));
            }
        }
        Ok(())
    }

    fn side(&mut self, host: IpAddr, id: u64) -> usize {
        let next = self.sides.len();
        let side = *self.by_own.entry((host, id)).or_insert(next);
        if side == next {
            self.sides.push(Side::default());
        }
        side
    }

    fn number(&mut self, side: usize, header: &Header) -> Result<(), String> {
        let side = &mut self.sides[side];
        match expand(header.number, side.next) {
            Some(number) if number >= side.next => {
                side.next = number + 1;
                Ok(())
            }
            _ => Err(format!("packet number {} after {}", header.number, side.next.wrapping_sub(1))),
        }
    }

    fn check_amplification(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        header: &Header,
        len: u64,
    ) -> Result<(), String> {
        let is_known = self.validated.contains(&(from.ip(), to.ip()));
        let heard = self.heard.entry((from.ip(), to)).or_default();
        if is_known && matches!(header.packet_type, PacketType::Data | PacketType::Probe | PacketType::ProbeReply) {
            // Of flows whose peer is known, at whatever port.
            return Ok(());
        }
        // Who calls decides itself whom.
        heard.is_validated |= header.packet_type == PacketType::Init;
        heard.sent += len;
        if !heard.is_validated && heard.sent > heard.received {
            let Heard { sent, received, .. } = heard;
            return Err(format!("{sent} bytes to an address that is not validated and sent {received}"));
        }
        Ok(())
    }

    fn check_data(&mut self, side: usize, data: &Data<'_>) -> Result<(), String> {
        let grown = data.credit.wrapping_sub(self.sides[side].credit as u32) as i32;
        if grown < 0 {
            return Err(format!("credit goes back by {}", -i64::from(grown)));
        }
        self.sides[side].credit += grown as u64;
        let Some(peer) = self.sides[side].peer else { return Ok(()) };
        for block in data.blocks() {
            check_block(&block, &self.sides[peer])?;
        }
        let credit = self.sides[peer].credit;
        for chunk in data.chunks() {
            match chunk {
                Chunk::Whole { id, payload } => {
                    self.sides[side].part(id, 0, payload.len() as u64, payload.len() as u64, credit)?;
                }
                Chunk::Part { id, offset, total, payload } => {
                    let (offset, total) = (offset.into(), total.into());
                    self.sides[side].part(id, offset, offset + payload.len() as u64, total, credit)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Side {
    /// Bytes `offset..end` of message `id`, of `total` bytes, are sent; `credit` is what the other side gave.
    fn part(&mut self, id: u32, offset: u64, end: u64, total: u64, credit: u64) -> Result<(), String> {
        let is_complete = self.offset == self.total && self.cost > 0;
        let Some(id) = expand(id, self.id) else { return Ok(()) };
        if id < self.id || id == self.id && self.cost > 0 && end <= self.offset {
            return Ok(());
        }
        if id > self.id || self.cost == 0 {
            let first = self.cost == 0 && id == 0;
            if offset != 0 || !(first || is_complete && id == self.id + 1) {
                return Err(format!("message {id} from {offset} after {} up to {}", self.id, self.offset));
            }
            // `cost` is that of the messages before the current one, plus one: 0 says that there is none.
            let before = if first { 1 } else { self.cost + 1 + self.total.div_ceil(UNIT) };
            (self.id, self.offset, self.total, self.cost) = (id, 0, total, before);
        }
        if offset > self.offset || total != self.total {
            return Err(format!("{offset}..{end} of {total} of message {id} after {} of {}", self.offset, self.total));
        }
        self.offset = end;
        let needs = self.cost + end.div_ceil(UNIT);
        if needs > credit {
            return Err(format!("message {id} up to {end} needs credit {needs}, {credit} was given"));
        }
        Ok(())
    }
}

fn check_block(block: &AckBlock, sender: &Side) -> Result<(), String> {
    let largest = expand(block.largest, sender.next).filter(|&largest| largest < sender.next);
    let Some(largest) = largest else { return Err(format!("acknowledges {}, which was not sent", block.largest)) };
    let Some(first) = (largest + 1).checked_sub(block.run.into()) else {
        return Err(format!("acknowledges a run of {} up to {largest}", block.run));
    };
    if let Some(missing) = sender.arrived.first_clear(first, largest) {
        return Err(format!("acknowledges {missing}, which did not arrive"));
    }
    for (i, &word) in block.bitmap[..block.words.into()].iter().enumerate() {
        let mut bits = word;
        while bits != 0 {
            let bit = bits.leading_zeros();
            bits &= !(1 << (63 - bit));
            let number = first.checked_sub(2 + 64 * i as u64 + u64::from(bit));
            if number.is_none_or(|number| !sender.arrived.get(number)) {
                return Err(format!("the bitmap acknowledges {number:?}, which did not arrive"));
            }
        }
    }
    Ok(())
}

/// The number whose low half is `low` and that is nearest to `expected`; `None` if that is below 0.
fn expand(low: u32, expected: u64) -> Option<u64> {
    let distance = low.wrapping_sub(expected as u32) as i32;
    expected.checked_add_signed(distance.into())
}

/// A set of numbers.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, n: u64) {
        let word = (n / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (n % 64);
    }

    fn get(&self, n: u64) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|word| word >> (n % 64) & 1 == 1)
    }

    /// The first number in `from..=to` that is not in the set.
    fn first_clear(&self, from: u64, to: u64) -> Option<u64> {
        let mut n = from;
        while n <= to {
            let word = self.0.get((n / 64) as usize).copied().unwrap_or(0);
            let ones = u64::from((!(word >> (n % 64))).trailing_zeros()).min(64 - n % 64);
            n += ones;
            if n <= to && !self.get(n) {
                return Some(n);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ([u8; 4], u16) = ([10, 0, 0, 1], 1);
    const B: ([u8; 4], u16) = ([10, 0, 0, 2], 2);

    /// A packet of A's side of a flow whose handshake the oracle saw.
    fn data(number: u32, credit: u32, blocks: &[AckBlock], chunks: &[Chunk<'_>]) -> Vec<u8> {
        let header =
            Header { packet_type: PacketType::Data, blocks: blocks.len() as u8, ack_now: false, flow: 8, number };
        let mut packet = vec![0; 16 + 8];
        header.emit(&mut packet);
        Data::emit_fixed(0, credit, &mut packet[16..]);
        for block in blocks {
            let at = packet.len();
            packet.resize(at + block.len(), 0);
            block.emit(&mut packet[at..]);
        }
        for chunk in chunks {
            let at = packet.len();
            packet.resize(at + chunk.len(), 0);
            chunk.emit(&mut packet[at..]);
        }
        packet
    }

    /// What the oracle says to packets that A sends: its flow has sent number 0, and B's too; B gave 10 units.
    fn verdict(packets: &[Vec<u8>]) -> Option<String> {
        let (a, b) = (SocketAddr::from(A), SocketAddr::from(B));
        let mut oracle = Oracle { is_on: true, ..Oracle::default() };
        oracle.sides = vec![
            Side { next: 1, peer: Some(1), credit: 10, ..Side::default() },
            Side { next: 2, peer: Some(0), credit: 10, ..Side::default() },
        ];
        oracle.sides[1].arrived.set(0);
        oracle.by_own = HashMap::from([((a.ip(), 7), 0), ((b.ip(), 8), 1)]);
        oracle.by_destination = HashMap::from([((a.ip(), b.ip(), 8), 0), ((b.ip(), a.ip(), 7), 1)]);
        oracle.heard.insert((a.ip(), b), Heard { is_validated: true, ..Heard::default() });
        oracle.pairs.insert((a, b));
        for packet in packets {
            oracle.on_sent(Instant(0), a, b, packet);
        }
        oracle.violation
    }

    fn finds(packets: &[Vec<u8>], what: &str) {
        let found = verdict(packets).expect("a violation");
        assert!(found.contains(what), "{found}");
    }

    const fn block(largest: u32, run: u16) -> AckBlock {
        AckBlock { largest, run, delay_us: 0, words: 0, bitmap: [0; 16] }
    }

    #[test]
    fn what_is_right_passes() {
        let part = |id, offset, total, payload| Chunk::Part { id, offset, total, payload };
        let message = [0; 128];
        assert_eq!(
            verdict(&[
                data(1, 10, &[block(0, 1)], &[Chunk::Whole { id: 0, payload: &message }]),
                data(2, 11, &[], &[part(1, 0, 256, &message)]),
                // Again, and then the rest: 3 + 5 units.
                data(3, 11, &[], &[part(1, 0, 256, &message), part(1, 128, 256, &message)]),
                data(4, 11, &[], &[Chunk::Whole { id: 0, payload: &message }, Chunk::Whole { id: 2, payload: &[] }]),
            ]),
            None
        );
    }

    #[test]
    fn each_broken_rule_is_named() {
        let ping = [Chunk::Whole { id: 0, payload: &[0; 64] }];
        finds(&[data(1, 10, &[], &ping), data(1, 10, &[], &ping)], "packet number 1 after 1");
        finds(&[data(1, 10, &[], &ping), data(0, 10, &[], &ping)], "packet number 0 after 1");
        finds(&[data(1, 9, &[], &ping)], "credit goes back by 1");
        finds(&[data(1, 10, &[block(1, 1)], &[])], "acknowledges 1, which did not arrive");
        finds(&[data(1, 10, &[block(2, 1)], &[])], "acknowledges 2, which was not sent");
        finds(&[data(1, 10, &[block(0, 2)], &[])], "a run of 2");
        finds(&[data(1, 10, &[], &[Chunk::Whole { id: 1, payload: &[0; 64] }])], "message 1 from 0");
        let nine = [0; 64 * 10];
        finds(&[data(1, 10, &[], &[Chunk::Whole { id: 0, payload: &nine }])], "needs credit 11, 10 was given");
        finds(&[data(1, 10, &[], &[Chunk::Ping])], "28 bytes elicit");
        finds(&[vec![0; 30]], "bad header");
    }

    #[test]
    fn strangers_get_no_more_than_they_gave() {
        let (a, b) = (SocketAddr::from(A), SocketAddr::from(B));
        let mut oracle = Oracle { is_on: true, ..Oracle::default() };
        oracle.on_arrived(b, a, &[0; 40]);
        let mut reset = vec![0; 36];
        reset[0] = 0x15;
        oracle.on_sent(Instant(0), a, b, &reset);
        assert_eq!(oracle.violation, None);
        oracle.on_sent(Instant(0), a, b, &reset);
        assert!(oracle.violation.unwrap().contains("72 bytes to an address that is not validated and sent 40"));
    }

    #[test]
    fn holes_are_found() {
        let mut bits = Bits::default();
        (0..200).filter(|&n| n != 130).for_each(|n| bits.set(n));
        assert_eq!(bits.first_clear(0, 129), None);
        assert_eq!(bits.first_clear(3, 199), Some(130));
        assert_eq!(bits.first_clear(131, 300), Some(200));
        assert!(bits.get(199) && !bits.get(130) && !bits.get(1000));
    }
}
