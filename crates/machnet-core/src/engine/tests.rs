//! One engine and packets made by hand: what each state takes, and what repeated packets cost.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use machnet_channel::{
    Backlog, BacklogConsumer, Doorbell, Frame, FramePool, Intake, Mailbox, RecvEnd, Region, SendEnd,
};

use super::*;
use crate::wire::{Chunk, Data, HEADER_LEN, Handshake, Header, PacketType, Probe, Reason, Reset, Retry, VERSIONS};
use crate::{Capabilities, DropReason, LocalChannel, Meta, TxPacket};

mod handshake;
mod hostile;
mod limits;

const PORT: u16 = 7000;
const PEER_ID: u64 = 0x1234_5678;

#[derive(Debug)]
struct Wire {
    capabilities: Capabilities,
    pool: FramePool,
    open: BTreeMap<u16, u32>,
    rx: Vec<RxPacket>,
    sent: Vec<Vec<u8>>,
    /// The queue that was named with each.
    queues: Vec<u16>,
    doubted: Vec<IpAddr>,
}

impl Driver for Wire {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        "10.0.0.1:5000".parse().unwrap()
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        *self.open.entry(port).or_default() += 1;
        Ok(SocketAddr::new(self.home().ip(), port))
    }

    fn close(&mut self, port: u16) {
        *self.open.get_mut(&port).expect("an open port") -= 1;
    }

    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, _: usize) -> usize {
        out.append(&mut self.rx);
        out.len()
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let n = batch.len();
        self.queues.extend(batch.iter().map(|packet| packet.meta.queue));
        self.sent.extend(batch.drain(..).map(|packet| packet.payload.as_ref().to_vec()));
        n
    }

    fn doubt(&mut self, remote: IpAddr) {
        self.doubted.push(remote);
    }

    fn set_bell(&mut self, _: Arc<Doorbell>) {}

    fn starve(&mut self) -> bool {
        false
    }
}

struct Bench {
    engine: Engine<Wire, LocalChannel>,
    intake: Arc<Intake>,
    now: Instant,
    number: u32,
    _listener: BacklogConsumer,
    _flow: Option<(SendEnd, RecvEnd)>,
}

fn peer() -> SocketAddr {
    "10.0.0.2:6000".parse().unwrap()
}

fn handshake() -> Handshake<'static> {
    Handshake {
        source: PEER_ID,
        instance: 1,
        max_message: 1 << 20,
        credit: 1000,
        max_ack_delay_us: 250,
        versions: VERSIONS,
        engines: 1,
        ports: (6000, 6000),
        token: &[],
    }
}

impl Bench {
    fn new() -> Self {
        Self::with_config(Config::default())
    }

    fn with_config(config: Config) -> Self {
        let (_, pool) = Region::anonymous(2048, 64).unwrap();
        let wire = Wire {
            capabilities: Capabilities::minimal(1472),
            pool,
            open: BTreeMap::new(),
            rx: Vec::new(),
            sent: Vec::new(),
            queues: Vec::new(),
            doubted: Vec::new(),
        };
        let intake = Intake::new();
        let channel = LocalChannel::new(Arc::clone(&intake));
        let engine = Engine::new(wire, channel, config, [7; 32]).unwrap();
        let listener = Backlog::listen(&intake, PORT, 8);
        let mut bench = Self { engine, intake, now: Instant(1), number: 10, _listener: listener, _flow: None };
        bench.poll();
        bench
    }

    fn poll(&mut self) {
        self.now.0 += 1000;
        let _ = self.engine.poll(self.now);
    }

    fn header(&mut self, packet_type: PacketType, flow: u64) -> Header {
        self.number += 1;
        Header { packet_type, blocks: 0, ack_now: false, flow, number: self.number }
    }

    fn receive(&mut self, port: u16, packet: &[u8]) {
        let mut frame = self.engine.tx.driver.frame().unwrap();
        frame.bytes_mut().unwrap()[..packet.len()].copy_from_slice(packet);
        let local = SocketAddr::new(self.engine.tx.driver.home().ip(), port);
        let meta = Meta { local, remote: peer(), queue: 0 };
        self.engine.tx.driver.rx.push(RxPacket { meta, frame, range: 0..packet.len() as u32 });
        self.poll();
    }

    fn packet(&mut self, packet_type: PacketType) -> Vec<u8> {
        let flow = self.engine.flows.get(0).map_or(0, |flow| flow.id);
        let mut packet = vec![0; Handshake::PACKET_LEN];
        let header = self.header(packet_type, if packet_type == PacketType::Init { 0 } else { flow });
        header.emit(&mut packet);
        match packet_type {
            PacketType::Init | PacketType::Accept => handshake().emit(&mut packet[HEADER_LEN..]),
            PacketType::Retry => {
                Retry { token: b"token" }.emit(&mut packet[HEADER_LEN..]);
            }
            PacketType::Data => {
                Data::emit_fixed(0, 1000, &mut packet[HEADER_LEN..]);
                Chunk::Ping.emit(&mut packet[HEADER_LEN + Data::FIXED_LEN..]);
                Chunk::emit_pad(&mut packet[HEADER_LEN + Data::FIXED_LEN + 4..]);
            }
            PacketType::Reset => {
                // It answers the newest packet that we sent.
                let answered = self.engine.tx.driver.sent.last().cloned().unwrap_or_else(|| vec![0; 16]);
                Reset::emit(Reason::UnknownFlow, &answered, &mut packet[HEADER_LEN..]);
            }
            PacketType::Probe | PacketType::ProbeReply => {
                let (answers, seen) = (Some((2, 0)), None);
                Probe { nonce: 1, answers, seen, settled: false, home: false, last: false, more: false }
                    .emit(&mut packet[HEADER_LEN..]);
            }
        }
        packet
    }

    /// The only flow, in this state.
    fn with_flow(state: &str) -> (Self, u16) {
        let mut bench = Self::new();
        if state == "connecting" {
            bench._flow = Some(Mailbox::connect(&bench.intake, peer()));
            bench.poll();
            return (bench, 5000);
        }
        let init = bench.packet(PacketType::Init);
        bench.receive(PORT, &init);
        if state != "half-open" {
            let data = bench.packet(PacketType::Data);
            bench.receive(PORT, &data);
        }
        let until = bench.now + Duration::from_secs(1);
        let now = bench.now;
        let flow = bench.engine.flows.get(0).unwrap();
        match state {
            "aborting" => flow.abort(now, Reason::None, machnet_channel::CloseReason::Aborted),
            "tombstone" => flow.state = State::Tombstone { until, limit: until },
            _ => {}
        }
        bench.engine.touch(0);
        bench.poll();
        (bench, PORT)
    }

    fn flow(&mut self) -> String {
        format!("{:?}", self.engine.flows.get(0))
    }
}

/// `docs/spec/flow.md#states`, every row with every type of packet.
#[test]
fn each_state_takes_what_is_listed_and_counts_the_rest() {
    use PacketType::{Accept, Data, Init, Reset, Retry};
    for (state, taken) in [
        ("connecting", &[Accept, Retry, Reset][..]),
        ("half-open", &[Init, Data, Reset]),
        ("open", &[Data, Init]),
        ("aborting", &[Data, Reset]),
        ("tombstone", &[Data]),
    ] {
        for packet_type in [Init, Accept, Retry, Data, Reset] {
            if (state, packet_type) == ("connecting", Init) {
                // Nothing in an INIT names a flow that connects.
                continue;
            }
            let (mut bench, port) = Bench::with_flow(state);
            let packet = bench.packet(packet_type);
            let (flow, drops, sent) = (bench.flow(), bench.engine.stats().drops, bench.engine.tx.driver.sent.len());
            bench.receive(port, &packet);
            let case = format!("{packet_type:?} in {state}");
            let total = bench.engine.stats().drops.total() - drops.total();
            if taken.contains(&packet_type) {
                assert_eq!(total, 0, "{case}: {:?}", bench.engine.stats().drops);
                assert_ne!(bench.flow(), flow, "{case}");
            } else {
                // What answers nothing outstanding says so.
                let reason = if (state, packet_type) == ("open", Reset) {
                    DropReason::ForgedReset
                } else {
                    DropReason::WrongState
                };
                assert_eq!(
                    (total, bench.engine.stats().drops.get(reason)),
                    (1, 1),
                    "{case}: {:?}",
                    bench.engine.stats().drops
                );
                assert_eq!(bench.flow(), flow, "{case}");
                assert_eq!(bench.engine.tx.driver.sent.len(), sent, "{case}");
            }
        }
    }
}

/// A neighbour is doubted when nothing comes back: not for one lost packet, and not while it answers.
#[test]
fn who_does_not_answer_is_doubted() {
    let doubted = |bench: &Bench| bench.engine.tx.driver.doubted.len();
    let wait = |bench: &mut Bench| {
        let deadline = bench.engine.poll(bench.now).next_deadline.expect("something is due");
        bench.now = bench.now.max(deadline);
        bench.poll();
    };
    let (mut bench, _) = Bench::with_flow("open");
    let flow = bench._listener.poll_accept(&std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(Some(mut flow)) = flow else { panic!("a flow was accepted") };
    flow.send.post(b"message".to_vec().into()).unwrap();
    for _ in 0..3 {
        bench.poll();
    }
    let repeats = |bench: &mut Bench| {
        let sent = bench.engine.tx.driver.sent.len();
        while bench.engine.tx.driver.sent.len() == sent {
            wait(bench);
        }
    };
    repeats(&mut bench);
    assert_eq!(doubted(&bench), 0, "it may have been the last packet that was lost");
    repeats(&mut bench);
    assert_eq!(bench.engine.tx.driver.doubted, [peer().ip()]);

    let (mut bench, _) = Bench::with_flow("connecting");
    assert_eq!(doubted(&bench), 0);
    repeats(&mut bench);
    assert_eq!(bench.engine.tx.driver.doubted, [peer().ip()], "INIT was repeated");
}

/// INIT is answered in these states, and its repetition must cost no memory.
/// Who is woken by what arrives was not late for it; who naps was, by up to all of the nap.
#[test]
fn what_arrives_during_a_nap_waits() {
    for (naps, gap) in [(false, 0), (true, 1000)] {
        let mut bench = Bench::new();
        bench.poll();
        assert!(bench.engine.may_sleep());
        if naps {
            bench.engine.naps();
        }
        bench.poll();
        assert_eq!(bench.engine.gap.as_nanos(), gap);
    }
}

#[test]
fn repeated_inits_are_not_remembered() {
    for state in ["half-open", "open"] {
        let (mut bench, port) = Bench::with_flow(state);
        for _ in 0..1000 {
            let init = bench.packet(PacketType::Init);
            bench.receive(port, &init);
        }
        let remembered = bench.engine.flows.get(0).unwrap().remembered();
        assert!(remembered <= 2, "{remembered} packets in {state}");
    }
}
