//! Two engines and a wire that allocates nothing, in virtual time.
//!
//! Not the simulator's fabric, which allocates per datagram: inside [`Engine::poll`] only the engine may be counted.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machnet_channel::{Doorbell, Frame, FramePool, FrameRef, Intake, Region};
use machnet_core::{
    Capabilities, Config, Driver, Engine, EngineStats, Instant, LocalChannel, Meta, Progress, RxPacket, TxPacket,
};

use crate::counting::allocations;

/// Datagrams that the wire holds; more are lost.
const QUEUE: usize = 4096;
/// What a round takes.
const ROUND: Duration = Duration::from_micros(5);

const FRAMES: u32 = 16 << 10;

type Line = Arc<Mutex<VecDeque<(SocketAddr, SocketAddr, FrameRef)>>>;

/// A NIC at one end of the wire.
pub(crate) struct Wire {
    home: SocketAddr,
    capabilities: Capabilities,
    pool: FramePool,
    incoming: Line,
    outgoing: Line,
    /// One datagram of so many is lost; 0: none.
    pub(crate) loss: u64,
    random: u64,
    /// Most datagrams asked for, and offered, at once.
    pub(crate) largest_rx: usize,
    pub(crate) largest_tx: usize,
}

impl Wire {
    fn new(home: SocketAddr, incoming: Line, outgoing: Line, loss: u64) -> Self {
        let (_, pool) = Region::anonymous(2048, FRAMES).unwrap();
        let mut capabilities = Capabilities::minimal(1472);
        capabilities.chain_frames = FRAMES / Capabilities::CHAINED;
        let random = u64::from(home.port()) | 1;
        Self { home, capabilities, pool, incoming, outgoing, loss, random, largest_rx: 0, largest_tx: 0 }
    }

    fn is_lost(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.loss > 0 && self.random.is_multiple_of(self.loss)
    }
}

impl Driver for Wire {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        self.home
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(self.home.ip(), port))
    }

    fn close(&mut self, _port: u16) {}

    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn is_short_of_frames(&self) -> bool {
        self.pool.free() < self.pool.capacity() / 2
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        let mut line = self.incoming.lock().unwrap();
        let mut count = 0;
        while count < max {
            let Some((from, to, payload)) = line.pop_front() else { break };
            let Some(mut frame) = self.pool.take() else { break };
            let len = payload.as_ref().len();
            frame.bytes_mut().unwrap()[..len].copy_from_slice(payload.as_ref());
            out.push(RxPacket { meta: Meta { local: to, remote: from, queue: 0 }, frame, range: 0..len as u32 });
            count += 1;
        }
        self.largest_rx = self.largest_rx.max(count);
        count
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let outgoing = Arc::clone(&self.outgoing);
        let mut line = outgoing.lock().unwrap();
        let count = batch.len();
        self.largest_tx = self.largest_tx.max(count);
        for packet in batch.drain(..) {
            if line.len() < QUEUE && !self.is_lost() {
                line.push_back((packet.meta.local, packet.meta.remote, packet.payload));
            }
        }
        count
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.pool.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        false
    }
}

/// An engine and its applications' way to it.
pub(crate) struct Host {
    pub(crate) engine: Engine<Wire, LocalChannel>,
    pub(crate) intake: Arc<Intake>,
    /// Allocations in rounds so far.
    pub(crate) allocations: u64,
}

impl Host {
    pub(crate) fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    fn poll(&mut self, now: Instant) -> Progress {
        let (progress, count) = allocations(|| self.engine.poll(now));
        self.allocations += count;
        progress
    }
}

/// Two hosts joined by a wire.
pub(crate) struct Pair {
    pub(crate) hosts: [Host; 2],
    pub(crate) now: Instant,
}

impl Pair {
    pub(crate) fn new(config: Config, loss: u64) -> Self {
        let lines: [Line; 2] = std::array::from_fn(|_| Arc::new(Mutex::new(VecDeque::with_capacity(QUEUE))));
        let hosts = [0, 1].map(|side| {
            let home = SocketAddr::from(([10, 0, 0, 1 + side as u8], 1000));
            let wire = Wire::new(home, Arc::clone(&lines[side]), Arc::clone(&lines[1 - side]), loss);
            let intake = Intake::new();
            let channel = LocalChannel::new(Arc::clone(&intake));
            let engine = Engine::new(wire, channel, config, [side as u8; 32]).unwrap();
            Host { engine, intake, allocations: 0 }
        });
        Self { hosts, now: Instant(1_000_000) }
    }

    /// A round of each engine. Time goes on by a round's, or to the next deadline if nothing is to be done before.
    pub(crate) fn round(&mut self) -> bool {
        let now = self.now;
        let [a, b] = self.hosts.each_mut().map(|host| host.poll(now));
        let busy = a.busy || b.busy;
        self.now = now + ROUND;
        if !busy && let Some(next) = [a.next_deadline, b.next_deadline].into_iter().flatten().min() {
            self.now = self.now.max(next);
        }
        busy
    }

    /// Rounds until `done`.
    pub(crate) fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..10_000_000 {
            if done(self) {
                return;
            }
            self.round();
        }
        panic!("never done");
    }
}
