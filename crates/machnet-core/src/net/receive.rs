//! Frames that come in: datagrams go to the engine, the rest is answered or dropped here.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::headers::{EtherPayload, EthernetFrame};
use super::headers::{ICMP, ICMPV6, IpPacket, UDP, place, set_destination};
use super::messages::{
    IcmpMessage, NeighbourMessage, parse_arp, parse_icmp, write_echo_reply, write_neighbour, write_port_unreachable,
};
use super::{ETHERNET_LEN, FrameDriver, MAX_CONTROL, MacAddr, Net, Notice, RxFrame, TxFrame, longest_frame};
use crate::driver::Meta;
use crate::{DropReason, RxPacket, Unreachable};

/// How many frames are looked at for each datagram that was asked for, at most: whoever floods the link with what is for
/// nobody must not keep the engine in here.
const NOISE: usize = 4;

/// What became of a frame.
enum Received {
    /// A datagram for the engine: its addresses, and where in the Ethernet frame its payload is.
    Datagram(Meta, Range<usize>),
    /// Dealt with.
    Done,
}

impl<F: FrameDriver> Net<F> {
    pub(super) fn receive_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        let before = out.len();
        let looped = self.looped.len().min(max);
        out.extend(self.looped.drain(..looped));
        let mut looks = NOISE * max;
        let mut frames = std::mem::take(&mut self.received);
        while out.len() - before < max && looks > 0 {
            let want = (max - (out.len() - before)).min(looks);
            let got = self.device.rx_burst(&mut frames, want);
            if let Some(first) = frames.first() {
                first.frame.prefetch(first.range.clone());
            }
            let mut burst = frames.drain(..);
            while let Some(frame) = burst.next() {
                // Who wrote it was another core, or the device: while this one is looked at, the next comes nearer.
                if let Some(next) = burst.as_slice().first() {
                    next.frame.prefetch(next.range.clone());
                }
                self.receive(frame, out);
            }
            drop(burst);
            looks -= got.min(looks);
            if got < want {
                break;
            }
        }
        self.received = frames;
        self.settle();
        out.len() - before
    }

    fn receive(&mut self, received: RxFrame, out: &mut Vec<RxPacket>) {
        let RxFrame { frame, range, checksum_good } = received;
        let within = range.start as usize..range.end as usize;
        let bytes = frame.bytes().get(within).filter(|bytes| bytes.len() <= longest_frame(self.mtu));
        match bytes.ok_or(DropReason::Oversized).and_then(|bytes| self.dispatch(bytes, checksum_good)) {
            Ok(Received::Datagram(meta, payload)) => {
                let range = range.start + payload.start as u32..range.start + payload.end as u32;
                out.push(RxPacket { meta, frame, range });
            }
            outcome => {
                if let Err(reason) = outcome {
                    self.drops.count(reason);
                }
                let nothing = frame.share(0..0);
                self.device.recycle(nothing);
            }
        }
    }

    fn dispatch(&mut self, bytes: &[u8], checksum_good: bool) -> Result<Received, DropReason> {
        let frame = EthernetFrame::parse(bytes)?;
        let is_ours = frame.to == self.mac;
        if !is_ours && !frame.to.is_group() {
            return Err(DropReason::WrongMac);
        }
        if frame.from.is_group() || frame.from == self.mac {
            return Err(DropReason::BadSource);
        }
        match frame.payload {
            EtherPayload::Arp(message) => self.on_neighbour(parse_arp(message)?, frame.from),
            EtherPayload::Ip(packet) if packet.protocol == ICMPV6 && packet.to.is_multicast() => {
                match parse_icmp(&packet)? {
                    IcmpMessage::Neighbour(message) => self.on_neighbour(message, frame.from),
                    _ => Err(DropReason::WrongAddress),
                }
            }
            // RFC 1122 §3.3.6: what is for one host is not to come by broadcast.
            EtherPayload::Ip(_) if !is_ours => Err(DropReason::WrongMac),
            EtherPayload::Ip(packet) => self.on_packet(bytes, &packet, frame.from, checksum_good),
        }
    }

    fn on_packet(
        &mut self,
        bytes: &[u8],
        packet: &IpPacket<'_>,
        from: MacAddr,
        checksum_good: bool,
    ) -> Result<Received, DropReason> {
        if !self.routes.is_own(packet.to) {
            return Err(DropReason::WrongAddress);
        }
        let is_v4 = packet.to.is_ipv4();
        if packet.protocol == ICMPV6
            && !is_v4
            && let IcmpMessage::Neighbour(message) = parse_icmp(packet)?
        {
            return self.on_neighbour(message, from);
        }
        if !self.routes.is_peer(packet.from) {
            return Err(DropReason::BadSource);
        }
        match packet.protocol {
            UDP => {
                let udp = packet.udp(checksum_good)?;
                if !self.ports.is_open(udp.to) {
                    if self.answers_closed && self.may_answer() {
                        let macs = self.macs(from);
                        self.answer(|frame| write_port_unreachable(frame, macs, packet));
                    }
                    return Err(DropReason::ClosedPort);
                }
                let local = SocketAddr::new(packet.to, udp.to);
                let remote = SocketAddr::new(packet.from, udp.from);
                Ok(Received::Datagram(Meta { local, remote, queue: 0 }, place(bytes, udp.payload)))
            }
            ICMP if is_v4 => self.on_icmp(packet, from),
            ICMPV6 if !is_v4 => self.on_icmp(packet, from),
            _ => Err(DropReason::UnknownProtocol),
        }
    }

    fn on_icmp(&mut self, packet: &IpPacket<'_>, from: MacAddr) -> Result<Received, DropReason> {
        match parse_icmp(packet)? {
            IcmpMessage::Echo(rest) => {
                if !self.may_answer() {
                    return Err(DropReason::AnswerLimited);
                }
                let macs = self.macs(from);
                self.answer(|frame| write_echo_reply(frame, macs, packet.to, packet.from, rest));
            }
            IcmpMessage::PortUnreachable(quote) => {
                let (local, remote, payload) = IpPacket::quoted_udp(quote)?;
                if !self.routes.is_own(local.ip()) || !self.ports.is_open(local.port()) {
                    return Err(DropReason::ClosedPort);
                }
                // Less than our header tells nothing.
                if let Some(&quoted) = payload.first_chunk() {
                    let unreachable = Unreachable { remote, quoted };
                    self.tell(Notice::Unreachable(unreachable));
                    self.note_unreachable(unreachable);
                }
            }
            IcmpMessage::Neighbour(_) | IcmpMessage::Other => {}
        }
        Ok(Received::Done)
    }

    fn on_neighbour(&mut self, message: NeighbourMessage, from: MacAddr) -> Result<Received, DropReason> {
        let NeighbourMessage { asks, sender, terse, target, solicited } = message;
        if sender.map(|(ip, _)| ip).or(terse).is_some_and(|ip| !self.routes.is_peer(ip)) {
            return Err(DropReason::BadSource);
        }
        // Frames to it would come back here, or get lost: nobody else has our own address.
        if sender.is_some_and(|(_, mac)| mac == self.mac) {
            return Err(DropReason::BadSource);
        }
        if asks {
            if !self.routes.is_own(target) {
                return Err(DropReason::WrongAddress);
            }
            if let Some((ip, mac)) = sender.filter(|&(ip, _)| self.routes.is_neighbour(ip)) {
                self.tell(Notice::Asked(ip, mac));
                self.neighbours.on_question(self.now, ip, mac);
            }
            let (to, mac) = sender.or(terse.map(|ip| (ip, from))).unwrap_or_else(|| nobody(target, from));
            let macs = self.macs(mac);
            self.answer(|frame| {
                // In ARP the recipient is the target; in neighbour discovery, whose address it is.
                let subject = if target.is_ipv4() { to } else { target };
                write_neighbour(frame, macs, false, target, to, subject)
            });
            return Ok(Received::Done);
        }
        // An answer to a question put to one host may leave its address out (RFC 4861 §4.4).
        let Some((ip, mac)) = sender.or_else(|| solicited.then_some((target, from))) else {
            return Err(DropReason::Malformed);
        };
        self.tell(Notice::Answered(ip, mac));
        self.on_answer(ip, mac);
        Ok(Received::Done)
    }

    /// Somebody said that `ip` is at `mac`: what waits for that may go.
    pub(super) fn on_answer(&mut self, ip: IpAddr, mac: MacAddr) {
        let (control, drops) = (&mut self.control, &mut self.drops);
        self.neighbours.on_answer(self.now, ip, mac, |frame| match readdress(frame, mac) {
            Some(frame) => control.push_back(frame),
            None => drops.count(DropReason::NoFrames),
        });
    }

    fn may_answer(&mut self) -> bool {
        self.limit.allow(self.now)
    }

    /// Builds a frame of the layer's own with `write`, which returns its length, and queues it for the device.
    pub(super) fn answer(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        if self.control.len() >= MAX_CONTROL {
            return self.drops.count(DropReason::Congested);
        }
        match self.build(write) {
            Some(frame) => self.control.push_back(frame),
            None => self.drops.count(DropReason::NoFrames),
        }
    }
}

/// To whom an answer goes if who asked has no address yet: to everybody (RFC 5227 §2.1.1, RFC 4861 §7.2.4).
fn nobody(target: IpAddr, from: MacAddr) -> (IpAddr, MacAddr) {
    const ALL_NODES: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    match target {
        IpAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED.into(), from),
        IpAddr::V6(_) => (ALL_NODES.into(), MacAddr::of_multicast(ALL_NODES)),
    }
}

/// Writes the destination that was not known when the frame was built, where nobody else looks.
fn readdress(mut frame: TxFrame, to: MacAddr) -> Option<TxFrame> {
    frame.bytes.advance(ETHERNET_LEN);
    let header = frame.bytes.grow(ETHERNET_LEN as u32)?;
    set_destination(header, to);
    Some(frame)
}
