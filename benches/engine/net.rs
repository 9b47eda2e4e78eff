//! Core's network layer: one datagram on its way out, or in.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FramePool, FrameRef, Region};
use machnet_core::net::{FrameCapabilities, FrameDriver, MacAddr, Net, NetConfig, RxFrame, TxFrame};
use machnet_core::{Driver, Instant, Meta, RxPacket, TxPacket};

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case { name: "frame_out_64", operations: 1, counts: true, make: || passes(64, true) },
    Case { name: "frame_out_1024", operations: 1, counts: true, make: || passes(1024, true) },
    Case { name: "frame_out_1024_gathered", operations: 1, counts: true, make: gathered },
    Case { name: "frame_in_64", operations: 1, counts: true, make: || passes(64, false) },
    Case { name: "frame_in_1024", operations: 1, counts: true, make: || passes(1024, false) },
];

const FRAMES: u32 = 256;
/// A header of the engine's with one acknowledgement, and the head of a message.
const HEAD: usize = 44;

/// A device that does as little as one can.
struct Memory {
    capabilities: FrameCapabilities,
    pool: FramePool,
    received: VecDeque<RxFrame>,
    sent: VecDeque<TxFrame>,
}

impl Memory {
    /// Copies what was sent into frames of `to`'s.
    fn carry(&mut self, to: &mut Self) {
        for sent in self.sent.drain(..) {
            let bytes = sent.bytes.as_ref();
            let tail = sent.tail.as_ref().map_or(&[][..], AsRef::as_ref);
            let mut frame = to.pool.take().expect("a frame");
            let (head, behind) = frame.bytes_mut().expect("a frame of its own").split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            behind[..tail.len()].copy_from_slice(tail);
            let range = 0..(bytes.len() + tail.len()) as u32;
            to.received.push_back(RxFrame { frame, range, checksum_good: false });
            self.pool.recycle(sent.bytes);
        }
    }
}

impl FrameDriver for Memory {
    fn capabilities(&self) -> &FrameCapabilities {
        &self.capabilities
    }

    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn owns(&self, bytes: &FrameRef) -> bool {
        self.pool.owns(bytes)
    }

    fn gathers(&self, tail: &FrameRef) -> bool {
        self.pool.owns(tail)
    }

    fn recycle(&mut self, bytes: FrameRef) {
        self.pool.recycle(bytes);
    }

    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize {
        let count = self.received.len().min(max);
        out.extend(self.received.drain(..count));
        count
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize {
        let count = batch.len();
        self.sent.append(batch);
        count
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.pool.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        self.pool.starve()
    }
}

/// A host of 10.0.0.0/24 with an open port.
fn host(number: u8) -> (Net<Memory>, SocketAddr) {
    let (_, pool) = Region::anonymous(2048, FRAMES).expect("memory");
    let capabilities = FrameCapabilities::minimal(MacAddr([2, 0, 0, 0, 0, number]), 1500);
    let device = Memory { capabilities, pool, received: VecDeque::new(), sent: VecDeque::new() };
    let config = NetConfig::new(format!("10.0.0.{number}/24").parse().expect("an address"));
    let net = Net::new(device, &config).expect("a sound configuration");
    let home = net.home();
    (net, home)
}

fn passes(len: usize, out: bool) -> Box<dyn FnMut(bool)> {
    datagrams(out, move |net| {
        let mut frame = net.frame().expect("a frame");
        let headroom = net.capabilities().headroom;
        frame.bytes_mut().expect("a frame of its own")[headroom as usize..][..HEAD + len].fill(7);
        (frame.share(headroom..headroom + (HEAD + len) as u32), None)
    })
}

/// 1 KiB that lies elsewhere, behind its head.
fn gathered() -> Box<dyn FnMut(bool)> {
    datagrams(true, |net| {
        let headroom = net.capabilities().headroom;
        let [head, tail] = [(); 2].map(|()| net.frame().expect("a frame"));
        (head.share(headroom..headroom + HEAD as u32), Some(tail.share(512..512 + 1024)))
    })
}

/// Datagrams that `make` makes, one at a time, from one host to another: counted is the way out of the one, or into the other.
fn datagrams(
    out: bool,
    mut make: impl FnMut(&mut Net<Memory>) -> (FrameRef, Option<FrameRef>) + 'static,
) -> Box<dyn FnMut(bool)> {
    let ((mut a, from), (mut b, to)) = (host(1), host(2));
    let meta = Meta { local: from, remote: to, queue: 0 };
    let (mut batch, mut got) = (VecDeque::new(), Vec::new());
    let mut now = Instant(1);
    Box::new(move |counted| {
        now += std::time::Duration::from_micros(5);
        let (payload, tail) = make(&mut a);
        batch.push_back(TxPacket { meta, payload, tail });
        // The first waits for its neighbour.
        while got.is_empty() {
            a.begin(now);
            b.begin(now);
            if counted && out {
                counted_out(&mut a, &mut batch)
            } else {
                send(&mut a, &mut batch)
            };
            a.device_mut().carry(b.device_mut());
            if counted && !out {
                counted_in(&mut b, &mut got)
            } else {
                b.rx_burst(&mut got, 16)
            };
            b.device_mut().carry(a.device_mut());
            a.rx_burst(&mut Vec::new(), 16);
            a.begin(now);
            a.device_mut().carry(b.device_mut());
            if got.is_empty() {
                b.rx_burst(&mut got, 16);
            }
        }
        for packet in got.drain(..) {
            b.recycle(packet.frame.share(packet.range));
        }
    })
}

fn send(net: &mut Net<Memory>, batch: &mut VecDeque<TxPacket>) -> usize {
    net.tx_burst(batch)
}

#[inline(never)]
fn counted_out(net: &mut Net<Memory>, batch: &mut VecDeque<TxPacket>) -> usize {
    black_box(net.tx_burst(black_box(batch)))
}

#[inline(never)]
fn counted_in(net: &mut Net<Memory>, got: &mut Vec<RxPacket>) -> usize {
    black_box(net.rx_burst(black_box(got), 16))
}
