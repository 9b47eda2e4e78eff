//! A wire: shared memory to one other process, and the socket that is its bell and its life line.
//!
//! A wire ends when the other process closes the socket (which the kernel does for one that dies) or writes into shared
//! memory what cannot be. Its methods note that in [`Wire::end`] and do nothing from then on; its owner looks there.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use machnet_channel::{ForeignRegion, FramePool, FrameRef, PipeError, PipePlace, PipeReceiver, PipeSender};
use machnet_core::{DropReason, Drops, Meta, RxPacket, TxPacket};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Datagrams that wait for room at the hub: as many as the rings of a device have descriptors on the LCD.
const BACKLOG: usize = 256;

/// Bells heard at once. Who rings more often than it may wakes us again.
const BELLS: usize = 16;

/// Why a wire is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other process closed its socket, or died. What it sent before is delivered: so many datagrams are left.
    HungUp { left: u32 },
    /// It wrote what cannot be.
    Broken(PipeError),
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Sent {
    Yes,
    /// There is no room.
    Full,
    /// The wire is over.
    Never,
}

#[derive(Debug)]
pub(crate) struct Wire {
    peer: Ipv4Addr,
    socket: OwnedFd,
    sender: PipeSender<Arc<ForeignRegion>>,
    receiver: PipeReceiver<Arc<ForeignRegion>>,
    /// Taken from the engine, and no room for it yet.
    backlog: VecDeque<TxPacket>,
    /// The engine holds a datagram that there was no room for.
    blocked: bool,
    unpublished: bool,
    armed: bool,
    end: Option<End>,
    rings: u64,
}

impl Wire {
    /// A wire to `peer`. `out` is what this side sends, `into` what it receives.
    pub(crate) fn new(
        peer: Ipv4Addr,
        socket: OwnedFd,
        region: ForeignRegion,
        out: &PipePlace,
        into: &PipePlace,
    ) -> Self {
        let region = Arc::new(region);
        Self {
            peer,
            socket,
            sender: PipeSender::new(Arc::clone(&region), out),
            receiver: PipeReceiver::new(region, into),
            backlog: VecDeque::new(),
            blocked: false,
            unpublished: false,
            armed: false,
            end: None,
            rings: 0,
        }
    }

    pub(crate) const fn peer(&self) -> Ipv4Addr {
        self.peer
    }

    pub(crate) const fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Why the wire is over, if it is and nothing is left to receive.
    pub(crate) const fn end(&self) -> Option<End> {
        match self.end {
            Some(End::HungUp { left: 1.. }) | None => None,
            end => end,
        }
    }

    /// True if nothing more is sent, or will come.
    pub(crate) const fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// How often the other side was rung.
    pub(crate) const fn rings(&self) -> u64 {
        self.rings
    }

    /// Datagrams that wait here for room.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    fn broke(&mut self, why: impl Into<PipeError>) {
        self.end = Some(End::Broken(why.into()));
    }

    fn ring(&mut self) {
        self.rings += 1;
        // If the other side's queue is full it has bells to hear; if it is gone, its socket says so.
        let _ = send(&self.socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Copies a datagram into shared memory. [`Wire::publish`] shows it.
    #[inline]
    pub(crate) fn send(&mut self, packet: &TxPacket) -> Sent {
        if self.end.is_some() {
            return Sent::Never;
        }
        if !self.backlog.is_empty() {
            return Sent::Full;
        }
        let sent = self.copy_in(packet);
        self.blocked = sent == Sent::Full;
        sent
    }

    #[inline]
    fn copy_in(&mut self, packet: &TxPacket) -> Sent {
        match self.sender.send(tag(packet.meta.local.port(), packet.meta.remote.port()), packet.payload.as_ref()) {
            Ok(true) => {
                self.unpublished = true;
                Sent::Yes
            }
            Ok(false) => Sent::Full,
            Err(why) => {
                self.broke(why);
                Sent::Never
            }
        }
    }

    /// Keeps a datagram until there is room. Gives it back if enough wait.
    pub(crate) fn keep(&mut self, packet: TxPacket) -> Result<(), TxPacket> {
        self.blocked = false;
        if self.backlog.len() >= BACKLOG {
            return Err(packet);
        }
        self.backlog.push_back(packet);
        Ok(())
    }

    /// Sends what waits, as far as there is room. Returns how many datagrams wait no longer.
    pub(crate) fn flush(&mut self, pool: &mut FramePool) -> usize {
        let before = self.backlog.len();
        while let Some(packet) = self.backlog.pop_front() {
            match self.copy_in(&packet) {
                Sent::Yes => pool.recycle(packet.payload),
                Sent::Full => {
                    self.backlog.push_front(packet);
                    break;
                }
                Sent::Never => {
                    self.backlog.clear();
                    break;
                }
            }
        }
        self.publish();
        before - self.backlog.len()
    }

    /// Shows the other side what was sent.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.unpublished) && self.sender.publish() {
            self.ring();
        }
    }

    /// Appends up to `max` datagrams to `out`, as long as there are frames.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        own: Ipv4Addr,
        pool: &mut FramePool,
        drops: &mut Drops,
        out: &mut Vec<RxPacket>,
        max: usize,
    ) -> usize {
        let max = match self.end {
            None => max,
            Some(End::HungUp { left }) => max.min(left as usize),
            Some(End::Broken(_)) => 0,
        };
        let mut count = 0;
        while count < max {
            match self.receive_one(own, pool) {
                Ok(Some(packet)) => out.push(packet),
                Ok(None) => break,
                Err(why) => {
                    drops.count(DropReason::Malformed);
                    self.broke(why);
                    return count;
                }
            }
            count += 1;
        }
        if let Some(End::HungUp { left }) = &mut self.end {
            *left -= count as u32;
        }
        if count > 0 && self.receiver.release() {
            self.ring();
        }
        count
    }

    #[inline]
    fn receive_one(&mut self, own: Ipv4Addr, pool: &mut FramePool) -> Result<Option<RxPacket>, PipeError> {
        if self.receiver.ready()? == 0 {
            return Ok(None);
        }
        let Some(mut frame) = pool.take() else { return Ok(None) };
        let Some(bytes) = frame.bytes_mut() else { return Ok(None) };
        let Some((tag, len)) = self.receiver.receive(bytes)? else { return Ok(None) };
        let (source, destination) = ports(tag);
        let meta = Meta {
            local: SocketAddr::from((own, destination)),
            remote: SocketAddr::from((self.peer, source)),
            queue: 0,
        };
        Ok(Some(RxPacket { meta, frame, range: 0..len as u32 }))
    }

    /// Reads the bells, and notices if nobody is there to ring any more.
    pub(crate) fn hear(&mut self, hung_up: bool) {
        let mut bell = [0; 1];
        for _ in 0..BELLS {
            match recv(&self.socket, &mut bell[..], RecvFlags::DONTWAIT) {
                Ok((1.., _)) => {}
                Err(Errno::AGAIN | Errno::INTR) if !hung_up => return,
                Ok(_) | Err(_) => return self.hang_up(),
            }
        }
    }

    fn hang_up(&mut self) {
        if self.end.is_none() {
            self.backlog.clear();
            // What it published before it went. More it cannot add, whatever it still has mapped.
            match self.receiver.look() {
                Ok(left) => self.end = Some(End::HungUp { left }),
                Err(why) => self.broke(why),
            }
        }
    }

    /// Before the engine sleeps: asks to be rung, for data if there are frames for it, and for room if that is wanted.
    /// True if there is something to do already.
    pub(crate) fn arm(&mut self, has_frames: bool) -> bool {
        self.armed = true;
        let mut work = false;
        if has_frames {
            self.receiver.arm();
            work = self.look_for_data();
        }
        if self.blocked || !self.backlog.is_empty() {
            self.sender.arm();
            work |= match self.sender.reclaim() {
                Ok(any) => any,
                Err(why) => {
                    self.broke(why);
                    true
                }
            };
        }
        work
    }

    fn look_for_data(&mut self) -> bool {
        match self.end {
            Some(End::HungUp { left }) => return left > 0,
            Some(End::Broken(_)) => return true,
            None => {}
        }
        match self.receiver.look() {
            Ok(ready) => ready > 0,
            Err(why) => {
                self.broke(why);
                true
            }
        }
    }

    /// Awake again.
    pub(crate) fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            self.receiver.disarm();
            self.sender.disarm();
        }
    }
}

/// A datagram's ports as the tag of its descriptor (`docs/spec/shm.md#descriptors`).
const fn tag(source: u16, destination: u16) -> u32 {
    source as u32 | (destination as u32) << 16
}

/// Source and destination.
const fn ports(tag: u32) -> (u16, u16) {
    (tag as u16, (tag >> 16) as u16)
}

/// The first bytes of a datagram, which is to say its header.
pub(crate) fn quote(payload: &FrameRef) -> Option<[u8; 16]> {
    payload.as_ref().first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_the_ports() {
        assert_eq!(ports(tag(7, 65_535)), (7, 65_535));
        assert_eq!(tag(7, 65_535), 0xffff_0007);
    }
}
