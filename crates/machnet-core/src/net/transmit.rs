//! Datagrams that go out, in the frames they were built in, and frames of the layer's own.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use machnet_channel::{Frame, FrameRef};

use super::checksum::Sum;
use super::headers::{MIN_FRAME, Macs, UDP_LEN, solicited_node};
use super::messages::write_neighbour;
use super::neighbours::{Question, Resolved};
use super::template::UdpHeaders;
use super::{ETHERNET_LEN, FrameDriver, MAX_LOOPED, MacAddr, Net, TxFrame, UdpChecksum, is_one_family, longest_frame};
use crate::driver::Meta;
use crate::{DropReason, RxPacket, TxPacket, Unreachable};

/// Frames made before the device gets them, at first: the peer begins with these while the next are made. All at once, and two hosts that
/// answer each other take turns in having nothing to do.
const FIRST_CHUNK: usize = 8;
/// The same in the end, twice as many each time: what the device refuses was made in vain.
const CHUNK: usize = 32;

/// What a staged frame was, should the device refuse it.
#[derive(Debug)]
pub(super) struct Staged {
    meta: Meta,
    /// Bytes in front of the payload, and of the payload, its tail not counted.
    headers: usize,
    len: usize,
}

/// A datagram to transmit, all of it, or in front of its tail.
struct Datagram {
    meta: Meta,
    payload: FrameRef,
}

/// What became of a datagram.
enum Outcome {
    /// Staged, waiting, looped or dropped: it has left the batch.
    Taken,
    /// No frame is free to copy it into: it stays.
    NoFrame(TxPacket),
}

/// Where datagrams go. Routes do not change, so it stays true.
#[derive(Debug)]
pub(super) struct Way {
    /// As the engine says.
    local: SocketAddr,
    remote: SocketAddr,
    /// As they stand in the headers.
    from: SocketAddr,
    to: SocketAddr,
    /// The neighbour they go to; `None`: this host.
    hop: Option<IpAddr>,
    headers: UdpHeaders,
}

impl<F: FrameDriver> Net<F> {
    pub(super) fn transmit_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let before = batch.len();
        if !self.device.is_up() {
            for _ in batch.drain(..) {
                self.drops.count(DropReason::Unsendable);
            }
            return before;
        }
        self.flush_control();
        // What waited for a neighbour goes first, for the order's sake.
        let mut blocked = !self.control.is_empty();
        let mut chunk = FIRST_CHUNK;
        while !blocked && !batch.is_empty() {
            while self.staged.len() < chunk
                && let Some(TxPacket { meta, payload, tail }) = batch.pop_front()
            {
                let (mut packet, mut pieces) = (Datagram { meta, payload }, None);
                if let Some(tail) = tail {
                    let Some(gathered) = self.gathered(packet, tail) else { continue };
                    (packet, pieces) = gathered;
                }
                if let Outcome::NoFrame(packet) = self.stage(packet, pieces) {
                    batch.push_front(packet);
                    blocked = true;
                    break;
                }
            }
            chunk = (2 * chunk).min(CHUNK);
            let offered = self.staged.len();
            let taken = self.device.tx_burst(&mut self.staged);
            debug_assert_eq!(offered - taken, self.staged.len());
            self.stages.drain(..offered - self.staged.len());
            if !self.staged.is_empty() {
                blocked = true;
                self.unstage(batch);
            }
        }
        self.settle();
        before - batch.len()
    }

    /// Gives the datagrams back that the device refused.
    #[cold]
    fn unstage(&mut self, batch: &mut VecDeque<TxPacket>) {
        while let Some((frame, Staged { meta, headers, len })) = self.staged.pop_back().zip(self.stages.pop_back()) {
            let (mut payload, tail) = (frame.bytes, frame.tail);
            payload.advance(headers);
            payload.truncate(len);
            batch.push_front(TxPacket { meta, payload, tail });
        }
    }

    /// The datagram and its tail, put together if the device cannot gather them; `None` if that cannot be.
    #[inline(never)]
    fn gathered(&mut self, packet: Datagram, tail: FrameRef) -> Option<(Datagram, Option<FrameRef>)> {
        if self.device.gathers(&tail) {
            return Some((packet, Some(tail)));
        }
        let packet = put_together(packet, &tail);
        if packet.is_none() {
            self.drops.count(DropReason::Unsendable);
        }
        packet.map(|packet| (packet, None))
    }

    fn stage(&mut self, packet: Datagram, tail: Option<FrameRef>) -> Outcome {
        let (len, longest) = (packet.payload.as_ref().len(), longest_frame(self.mtu));
        let behind = tail.as_ref().map_or(0, |tail| tail.as_ref().len());
        let (hop, headers) = match self.way(&packet.meta) {
            Ok(way) if way.headers.len() + len + behind <= longest => (way.hop, way.headers.len()),
            outcome => {
                let reason = outcome.err().unwrap_or(DropReason::Oversized);
                self.drops.count(reason);
                return Outcome::Taken;
            }
        };
        let Some(hop) = hop else { return self.loop_back(packet, tail) };
        let mac = match self.neighbours.resolve(self.now, hop) {
            Resolved::At(mac) => Some(mac),
            Resolved::Wait => None,
            Resolved::Absent => {
                self.drops.count(DropReason::NoNeighbour);
                return Outcome::Taken;
            }
        };
        let meta = packet.meta;
        // What has a tail is no short packet.
        let least = if tail.is_some() { 0 } else { MIN_FRAME.saturating_sub(headers) };
        let payload = match self.in_place(packet, least) {
            Ok(found) => found,
            Err(Datagram { meta, payload }) => return Outcome::NoFrame(TxPacket { meta, payload, tail }),
        };
        let Some(frame) = self.dress(payload, tail, len, mac.unwrap_or(MacAddr::ZERO), meta.queue) else {
            self.drops.count(DropReason::NoFrames);
            return Outcome::Taken;
        };
        if mac.is_some() {
            self.staged.push_back(frame);
            self.stages.push_back(Staged { meta, headers, len });
        } else if self.neighbours.wait(hop, frame).is_some() {
            self.drops.count(DropReason::NoNeighbour);
        }
        Outcome::Taken
    }

    /// Where the datagram goes, if it can.
    fn way(&mut self, meta: &Meta) -> Result<&Way, DropReason> {
        // Bursts are of one flow.
        let is_known = self.last_way.as_ref().is_some_and(|way| way.local == meta.local && way.remote == meta.remote);
        if !is_known {
            self.last_way = Some(self.find_way(meta)?);
        }
        self.last_way.as_ref().ok_or(DropReason::Unsendable)
    }

    fn find_way(&self, &Meta { local, remote, .. }: &Meta) -> Result<Way, DropReason> {
        let to = SocketAddr::new(remote.ip(), remote.port());
        let mut from = SocketAddr::new(local.ip(), local.port());
        if from.ip().is_unspecified() {
            from.set_ip(self.routes.source(to.ip()).ok_or(DropReason::Unsendable)?);
        }
        if !self.routes.is_own(from.ip()) || !is_one_family(from.ip(), to.ip()) || to.port() == 0 {
            return Err(DropReason::Unsendable);
        }
        let hop = if self.routes.is_own(to.ip()) { None } else { Some(self.routes.next_hop(to.ip())?) };
        Ok(Way { local, remote, from, to, hop, headers: UdpHeaders::new(self.mac, from, to) })
    }

    /// The datagram where it lies, if headers can be written in front of it; else a copy in a fresh frame. What is shorter than
    /// `least` is padded.
    fn in_place(&mut self, mut packet: Datagram, least: usize) -> Result<FrameRef, Datagram> {
        let is_long = packet.payload.as_ref().len() >= least;
        let payload = &mut packet.payload;
        let has_room = payload.headroom() >= self.capabilities.headroom && self.device.owns(payload);
        if is_long && has_room && payload.may_grow() {
            return Ok(packet.payload);
        }
        let (frame, range) = if is_long || !has_room { self.copied(packet)? } else { self.alone(packet)? };
        Ok(if is_long { frame.share(range) } else { padded(frame, range, least) })
    }

    /// The datagram in a frame that nobody else holds: its own, or a fresh one.
    fn alone(&mut self, packet: Datagram) -> Result<(Frame, Range<u32>), Datagram> {
        let Datagram { meta, payload } = packet;
        if !self.device.owns(&payload) {
            return self.copied(Datagram { meta, payload });
        }
        payload.into_frame().or_else(|payload| self.copied(Datagram { meta, payload }))
    }

    /// A copy of the datagram in a fresh frame.
    fn copied(&mut self, packet: Datagram) -> Result<(Frame, Range<u32>), Datagram> {
        let headroom = self.capabilities.headroom;
        let Some(mut fresh) = self.device.frame() else { return Err(packet) };
        let bytes = packet.payload.as_ref();
        let range = headroom..headroom + bytes.len() as u32;
        match fresh.bytes_mut().and_then(|room| room.get_mut(range.start as usize..range.end as usize)) {
            Some(room) => room.copy_from_slice(bytes),
            None => return Err(packet),
        }
        self.device.recycle(packet.payload);
        Ok((fresh, range))
    }

    /// Writes headers in front of `payload`, of which `len` bytes are the datagram's and the rest is padding; `tail` follows them. It goes
    /// the last way that was found.
    fn dress(
        &self,
        mut payload: FrameRef,
        tail: Option<FrameRef>,
        len: usize,
        mac: MacAddr,
        queue: u16,
    ) -> Option<TxFrame> {
        let headers = &self.last_way.as_ref()?.headers;
        let mut sum = if self.offload { None } else { Some(Sum::default().add(payload.as_ref().get(..len)?)) };
        let mut whole = len;
        if let Some(tail) = &tail {
            let behind = tail.as_ref();
            sum = sum.map(|sum| sum.add_behind(len, behind));
            whole += behind.len();
        }
        let front = payload.grow(headers.len() as u32)?;
        let checksum = headers.write(front, mac, whole, sum);
        Some(TxFrame { bytes: payload, tail, checksum, queue })
    }

    /// A datagram of this host to itself: no device sees it.
    fn loop_back(&mut self, packet: Datagram, tail: Option<FrameRef>) -> Outcome {
        let Some(&Way { from, to, .. }) = self.last_way.as_ref() else { return Outcome::Taken };
        if !self.ports.is_open(to.port()) {
            if let Some(&quoted) = packet.payload.as_ref().first_chunk() {
                self.note_unreachable(Unreachable { remote: to, quoted });
            }
            self.drops.count(DropReason::ClosedPort);
        } else if self.looped.len() >= MAX_LOOPED {
            self.drops.count(DropReason::Congested);
        } else {
            let packet = match tail {
                None => Some(packet),
                Some(tail) => put_together(packet, &tail),
            };
            let Some(packet) = packet else {
                self.drops.count(DropReason::Unsendable);
                return Outcome::Taken;
            };
            let (frame, range) = match self.alone(packet) {
                Ok(found) => found,
                Err(Datagram { meta, payload }) => return Outcome::NoFrame(TxPacket { meta, payload, tail: None }),
            };
            let meta = Meta { local: to, remote: from, queue: 0 };
            self.looped.push_back(RxPacket { meta, frame, range });
        }
        Outcome::Taken
    }

    pub(super) const fn macs(&self, to: MacAddr) -> Macs {
        Macs { to, from: self.mac }
    }

    /// Asks for a neighbour's Ethernet address.
    pub(super) fn ask(&mut self, question: Question) {
        let Question { of, ask } = question;
        let Some(sender) = self.routes.source(of) else { return };
        let (to, mac) = match (of, ask) {
            (_, Some(mac)) => (of, mac),
            (IpAddr::V4(_), None) => (of, MacAddr::BROADCAST),
            (IpAddr::V6(v6), None) => {
                let group = solicited_node(v6);
                (group.into(), MacAddr::of_multicast(group))
            }
        };
        let macs = self.macs(mac);
        self.answer(|frame| write_neighbour(frame, macs, true, sender, to, of));
    }

    /// Builds a frame of the layer's own; `None` if there is no memory for it.
    pub(super) fn build(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Option<TxFrame> {
        let mut frame = self.device.frame()?;
        let start = self.frame_start;
        let room = frame.bytes_mut()?.get_mut(start..start + longest_frame(self.mtu))?;
        let len = write(room);
        let end = len.max(MIN_FRAME);
        room[len..end].fill(0);
        let bytes = frame.share(start as u32..(start + end) as u32);
        Some(TxFrame { bytes, tail: None, checksum: UdpChecksum::Done, queue: 0 })
    }

    /// Gives the device what goes before datagrams.
    pub(super) fn flush_control(&mut self) {
        if self.control.is_empty() {
            return;
        }
        if self.device.is_up() {
            self.device.tx_burst(&mut self.control);
        } else {
            for _ in self.control.drain(..) {
                self.drops.count(DropReason::Unsendable);
            }
        }
    }
}

/// The datagram in one piece: `tail` is copied behind it, in whose frame the engine left room for that. `None` if there is no room.
fn put_together(packet: Datagram, tail: &FrameRef) -> Option<Datagram> {
    let Datagram { meta, payload } = packet;
    payload.append(tail.as_ref()).ok().map(|payload| Datagram { meta, payload })
}

/// The bytes at `range` and zeros behind them, `least` in all.
fn padded(mut frame: Frame, range: Range<u32>, least: usize) -> FrameRef {
    let end = range.start + least as u32;
    if let Some(behind) = frame.bytes_mut().and_then(|bytes| bytes.get_mut(range.end as usize..end as usize)) {
        behind.fill(0);
    }
    frame.share(range.start..end)
}

const _: () = assert!(super::HEADROOM as usize >= ETHERNET_LEN + super::IPV6_LEN + UDP_LEN);
