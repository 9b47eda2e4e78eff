//! Reception: slots that the kernel fills, and their way into frames.
//!
//! One `recvmmsg` fills up to a batch of slots from one socket; each slot holds one datagram, or several of equal size
//! that the kernel coalesced (GRO). They are copied into frames one by one. Slots that found no frame, or no room in the
//! caller's burst, stay filled, and nothing more is received until they are empty.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use machnet_channel::FramePool;
use machnet_core::{DropReason, Drops, Meta, RxPacket};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef};

use crate::icmp::ErrorReader;
use crate::sockets::{Port, Ready, Sockets};

/// The longest a (coalesced) datagram gets.
const SLOT: usize = 65_536;

/// Slots lie a cache line further apart than their size, so that their beginnings do not share one cache set.
const STRIDE: usize = SLOT + 64;

/// With several ports open one of them fills at most this many slots at a time: a busy one delays the others by no more.
const FAIR_SLOTS: usize = 8;

/// How often a receive is repeated that failed with an error of an earlier send.
const RETRIES: usize = 16;

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Fill {
    /// Datagrams, and the socket is empty.
    Last,
    /// Datagrams, and there may be more.
    More,
    /// None.
    Nothing,
}

/// The receiving half of the driver.
pub(crate) struct Receiver {
    slots: Vec<u8>,
    meta: Box<[RecvMeta]>,
    /// What the socket they came from is bound to.
    bound: SocketAddr,
    /// Slots filled, the slot to go on at, and where in it.
    filled: usize,
    slot: usize,
    offset: usize,
    /// Ports still to be visited in this round.
    ready: VecDeque<Ready>,
}

impl Receiver {
    pub(crate) fn new(batch: usize, home: SocketAddr) -> Self {
        Self {
            // Zeroed by the system: a page costs memory once it is used.
            slots: vec![0; batch * STRIDE],
            meta: vec![RecvMeta::default(); batch].into(),
            bound: home,
            filled: 0,
            slot: 0,
            offset: 0,
            ready: VecDeque::new(),
        }
    }

    /// True while received datagrams wait in the slots.
    pub(crate) fn holds(&self) -> bool {
        self.slot < self.filled
    }

    /// Appends up to `max` datagrams to `out`.
    pub(crate) fn burst(
        &mut self,
        sockets: &mut Sockets,
        errors: &mut ErrorReader,
        pool: &mut FramePool,
        drops: &mut Drops,
        out: &mut Vec<RxPacket>,
        max: usize,
    ) -> usize {
        let mut count = self.deliver(pool, drops, out, max);
        // Two rounds: the second finds what the first left because it filled all slots.
        for _ in 0..2 {
            let mut more = false;
            if self.ready.is_empty() {
                self.look(sockets);
            }
            while count < max && !self.holds() && pool.free() > 0 {
                let Some(ready) = self.ready.pop_front() else {
                    break;
                };
                let fair = if sockets.len() > 1 { FAIR_SLOTS } else { BATCH_SIZE };
                let Some(port) = sockets.get_mut(ready.port) else {
                    continue;
                };
                port.suspect |= ready.error;
                more |= self.fill(port, errors, fair) == Fill::More;
                count += self.deliver(pool, drops, out, max - count);
            }
            if !more || count >= max {
                break;
            }
        }
        count
    }

    /// Lists the ports to visit. A single one is always visited: a receive in vain costs as much as asking epoll.
    fn look(&mut self, sockets: &mut Sockets) {
        if sockets.len() == 1 {
            self.ready.push_back(Ready { port: sockets.home().port(), error: false });
        } else {
            sockets.ready(&mut self.ready);
        }
    }

    /// Receives into the (empty) slots.
    fn fill(&mut self, port: &mut Port, errors: &mut ErrorReader, most: usize) -> Fill {
        if port.suspect {
            port.suspect = errors.drain(&port.socket).more;
        }
        let batch = self.meta.len().min(most);
        for _ in 0..RETRIES {
            let mut slots = self.slots.chunks_exact_mut(STRIDE);
            let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(slots.next().map_or(&mut [], |slot| &mut slot[..SLOT])));
            let received = port.state.recv(UdpSockRef::from(&port.socket), &mut buffers[..batch], &mut self.meta);
            match received {
                Ok(filled) => {
                    (self.filled, self.slot, self.offset) = (filled, 0, 0);
                    self.bound = port.local;
                    return if filled == batch { Fill::More } else { Fill::Last };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The error of an earlier send, by way of ICMP; what was received is still there.
                Err(_) => port.suspect = errors.drain(&port.socket).more,
            }
        }
        (self.filled, self.slot, self.offset) = (0, 0, 0);
        Fill::Nothing
    }

    /// Copies datagrams out of the slots, as long as there are frames.
    fn deliver(&mut self, pool: &mut FramePool, drops: &mut Drops, out: &mut Vec<RxPacket>, max: usize) -> usize {
        let mut count = 0;
        while count < max && self.slot < self.filled {
            let meta = &self.meta[self.slot];
            let len = meta.len.min(SLOT);
            // A slot that was not coalesced is one datagram, also if it is empty.
            let stride = if meta.stride == 0 { len } else { meta.stride };
            let end = (self.offset + stride).min(len);
            let datagram = &self.slots[self.slot * STRIDE..][self.offset..end];
            if datagram.len() > pool.frame_size() as usize {
                drops.count(DropReason::Oversized);
            } else {
                let Some(mut frame) = pool.take() else {
                    break;
                };
                if let Some(bytes) = frame.bytes_mut() {
                    bytes[..datagram.len()].copy_from_slice(datagram);
                }
                let addresses = Meta { local: called_at(self.bound, meta), remote: meta.addr, queue: 0 };
                out.push(RxPacket { meta: addresses, frame, range: 0..datagram.len() as u32 });
                count += 1;
            }
            self.offset = end;
            if end >= len {
                self.slot += 1;
                self.offset = 0;
            }
        }
        count
    }
}

/// The address that the sender of a datagram called, complete.
fn called_at(bound: SocketAddr, meta: &RecvMeta) -> SocketAddr {
    match meta.dst_ip {
        Some(IpAddr::V4(ip)) => SocketAddr::new(ip.into(), bound.port()),
        Some(IpAddr::V6(ip)) => SocketAddrV6::new(ip, bound.port(), 0, scope(ip, meta.addr)).into(),
        None => bound,
    }
}

/// A link-local address means something only together with its interface, which is the sender's.
fn scope(local: Ipv6Addr, remote: SocketAddr) -> u32 {
    match remote {
        SocketAddr::V6(remote) if local.is_unicast_link_local() => remote.scope_id(),
        _ => 0,
    }
}
