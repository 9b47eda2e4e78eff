//! Two engines and the memory between them.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BufMut as _;
use machnet_channel::{
    Backlog, BacklogConsumer, Doorbell, Frame, FramePool, FrameRef, Intake, Mailbox, Message, RecvEnd, Region, SendEnd,
};
use machnet_core::{
    AppChannel, Capabilities, Config, ConfigError, Driver, Engine, Instant, LONG_FRAME, LocalChannel, Member, Meta,
    Progress, RxPacket, TxPacket,
};

/// The payload of an MTU of 1 500 bytes.
const MAX_PAYLOAD: u32 = 1472;
const FRAMES: u32 = 4096;
const LONG_FRAMES: u32 = 64;
const PORT: u16 = 7000;
/// Ports of a host with several engines.
const PORTS: u16 = 4;
/// Rounds after which nobody answers an INIT any more.
const PATIENCE: usize = 20;
/// From one round of an engine to the other's.
const STEP: Duration = Duration::from_micros(5);

/// A driver that does as little as one can: what it is given waits until somebody carries it to the other side.
pub(crate) struct Memory {
    capabilities: Capabilities,
    home: SocketAddr,
    ports: u16,
    pool: FramePool,
    long_pool: FramePool,
    received: VecDeque<RxPacket>,
    sent: VecDeque<TxPacket>,
}

impl Memory {
    fn new(host: u8, ports: u16, long_frames: u32) -> Self {
        let (_, pool) = Region::anonymous(2048, FRAMES).expect("memory");
        let (_, long_pool) = Region::anonymous(LONG_FRAME, long_frames.max(1)).expect("memory");
        let mut capabilities = Capabilities::minimal(MAX_PAYLOAD);
        capabilities.long_frames = long_frames;
        capabilities.build_frames = FRAMES / 4;
        capabilities.chain_frames = FRAMES / Capabilities::CHAINED;
        Self {
            capabilities,
            home: SocketAddr::from(([10, 0, 0, host], 5000)),
            ports,
            pool,
            long_pool,
            received: VecDeque::new(),
            sent: VecDeque::new(),
        }
    }

    /// Copies what was sent into frames of `to`'s.
    fn carry(&mut self, to: &mut Self) {
        for packet in self.sent.drain(..) {
            let payload = packet.payload.as_ref();
            let tail = packet.tail.as_ref().map_or(&[][..], AsRef::as_ref);
            let mut frame = to.pool.take().expect("a frame");
            let (head, behind) = frame.bytes_mut().expect("a frame of its own").split_at_mut(payload.len());
            head.copy_from_slice(payload);
            behind[..tail.len()].copy_from_slice(tail);
            let local = packet.meta.remote;
            let remote = SocketAddr::new(self.home.ip(), packet.meta.local.port());
            let range = 0..(payload.len() + tail.len()) as u32;
            to.received.push_back(RxPacket { meta: Meta { local, remote, queue: 0 }, frame, range });
            self.pool.recycle(packet.payload);
        }
    }
}

impl Driver for Memory {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        self.home
    }

    fn ports(&self) -> (u16, u16) {
        (self.home.port(), self.home.port() + self.ports - 1)
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(self.home.ip(), port))
    }

    fn close(&mut self, _: u16) {}

    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn long_frame(&mut self) -> Option<Frame> {
        self.long_pool.take()
    }

    fn recycle(&mut self, payload: FrameRef) {
        self.pool.recycle(payload);
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        let before = out.len();
        while out.len() < before + max
            && let Some(packet) = self.received.pop_front()
        {
            out.push(packet);
        }
        out.len() - before
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let count = batch.len();
        self.sent.append(batch);
        count
    }

    fn reap(&mut self) {
        self.pool.gather();
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.pool.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        self.pool.starve()
    }
}

/// One side of a flow.
pub(crate) struct End {
    pub(crate) send: SendEnd,
    pub(crate) recv: RecvEnd,
}

impl End {
    /// Sends as many of `count` messages as there is room for; returns how many.
    pub(crate) fn post(&mut self, message: &Message, count: usize) -> usize {
        (0..count).take_while(|_| self.send.post(message.clone()).is_ok()).count()
    }

    /// Builds a message where it is sent from.
    pub(crate) fn build(&mut self, len: usize) {
        let mut message = self.send.reserve(len);
        message.put_bytes(1, len);
        message.send();
    }

    /// Likewise, in memory that no device reads.
    pub(crate) fn build_elsewhere(&mut self, len: usize) {
        assert!(self.send.post(vec![1; len].into()).is_ok());
    }

    /// Receives what is there as a task does, which then waits for more; returns how many messages.
    pub(crate) fn take(&mut self) -> usize {
        let cx = Context::from_waker(Waker::noop());
        let mut count = 0;
        while let Poll::Ready(message) = self.recv.poll_take_chunks(&cx) {
            black_box(message.expect("an open flow"));
            count += 1;
        }
        count
    }
}

/// One of the two.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Client and server. Whatever a flow sends is carried at the end of the round.
pub(crate) struct Pair {
    engines: [Engine<Memory, LocalChannel>; 2],
    client: Arc<Intake>,
    listener: BacklogConsumer,
    now: Instant,
    /// The other engines of both hosts: nobody polls them, and what is for them is lost.
    _others: Vec<Member>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(0)
    }

    /// On devices that gather packets.
    pub(crate) fn gathering() -> Self {
        Self::with(LONG_FRAMES)
    }

    fn with(long_frames: u32) -> Self {
        let new =
            |host: u8, channel| Engine::new(Memory::new(host, 1, long_frames), channel, Config::default(), [host; 32]);
        Self::of(Vec::new(), new)
    }

    /// The first of `engines` engines of two hosts each, on queues that all packets hit rightly.
    pub(crate) fn of_several(engines: usize) -> Self {
        let groups = [1, 2].map(|host: u8| {
            let bells: Vec<_> = (0..engines).map(|_| Arc::new(Doorbell::new())).collect();
            Member::group(&bells, [host; 32])
        });
        let [mut first, mut others] = [Vec::new(), Vec::new()];
        for mut group in groups {
            first.push(group.remove(0));
            others.extend(group);
        }
        let mut members = first.into_iter();
        Self::of(others, |host, channel| {
            let member = members.next().expect("one for each host");
            Engine::join(Memory::new(host, PORTS, 0), channel, Config::default(), [host; 32], member)
        })
    }

    fn of(
        others: Vec<Member>,
        mut make: impl FnMut(u8, LocalChannel) -> Result<Engine<Memory, LocalChannel>, ConfigError>,
    ) -> Self {
        let intakes = [Intake::new(), Intake::new()];
        let mut engine = |host: u8| {
            let channel = LocalChannel::new(Arc::clone(&intakes[usize::from(host) - 1]));
            make(host, channel).expect("a sound configuration")
        };
        let engines = [engine(1), engine(2)];
        let listener = Backlog::listen(&intakes[1], PORT, 16);
        let [client, _] = intakes;
        let mut pair = Self { engines, client, listener, now: Instant(1), _others: others };
        pair.round(Side::Server, false);
        pair
    }

    /// One round of one engine, and what it sent is carried to the other.
    pub(crate) fn round(&mut self, side: Side, counted: bool) -> bool {
        self.now += STEP;
        let [client, server] = &mut self.engines;
        let (this, other) = if matches!(side, Side::Client) { (client, server) } else { (server, client) };
        let progress = if counted { counted_poll(this, self.now) } else { this.poll(self.now) };
        this.driver_mut().carry(other.driver_mut());
        progress.busy
    }

    /// Opens a flow: of several engines of the server's, one that the first owns.
    pub(crate) fn open(&mut self) -> (End, End) {
        let to = SocketAddr::from(([10, 0, 0, 2], PORT));
        let cx = Context::from_waker(Waker::noop());
        loop {
            let (send, recv) = Mailbox::connect(&self.client, to);
            for _ in 0..PATIENCE {
                self.round(Side::Client, false);
                self.round(Side::Server, false);
                if let Poll::Ready(Some(accepted)) = self.listener.poll_accept(&cx) {
                    return (End { send, recv }, End { send: accepted.send, recv: accepted.recv });
                }
            }
        }
    }
}

#[inline(never)]
fn counted_poll<C: AppChannel>(engine: &mut Engine<Memory, C>, now: Instant) -> Progress {
    black_box(engine.poll(black_box(now)))
}
