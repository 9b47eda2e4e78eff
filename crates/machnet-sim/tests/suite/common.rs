//! What scenarios share: two machines and a dialog between them.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use machnet_channel::{CloseReason, FlowState, FlowStats};
use machnet_core::Config;
use machnet_sim::{
    Flow, Link, LinkId, Listener, MachineId, NicConfig, Node, Pace, Plan, Task, World, WorldConfig, reaches,
};

/// The service port of every scenario.
pub(crate) const PORT: u16 = 7000;

/// Longer than any tombstone lives: `dead_peer_timeout`, counted from the peer's last question.
pub(crate) const TOMBSTONES: Duration = Duration::from_secs(15);

pub(crate) const fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// Engines with little memory: malloc clears what it recycles, and with the defaults that would be most of the run time.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.max_message = 1 << 20;
    config.reassembly_bytes = 7 << 21;
    // Path MTU discovery has scenarios of its own (mtu.rs): elsewhere its probes are not to be counted.
    config.max_payload = 1232;
    config
}

/// NICs likewise.
pub(crate) fn nic() -> NicConfig {
    NicConfig { frames: 1024, ..NicConfig::default() }
}

pub(crate) fn world_config() -> WorldConfig {
    WorldConfig { trace: env("MACHNET_SIM_TRACE").unwrap_or(0) as usize, ..WorldConfig::default() }
}

thread_local! {
    /// Datagrams that the pairs of this thread's test put on their links.
    static PACKETS: Cell<u64> = const { Cell::new(0) };
}

/// Runs `scenario` with many seeds: `of_200` of every 200 asked for. A failure names its seed and how to repeat it.
#[expect(clippy::print_stdout, reason = "what a test ran, for who asks with --nocapture")]
pub(crate) fn seeds(test: &str, of_200: u64, scenario: impl Fn(u64)) {
    let seeds = match env("MACHNET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..(env("MACHNET_SIM_SEEDS").unwrap_or(200) * of_200).div_ceil(200),
    };
    PACKETS.set(0);
    for seed in seeds.clone() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no text)");
            panic!(
                "seed {seed} fails: {text}\nrepeat: MACHNET_SIM_SEED={seed} MACHNET_SIM_TRACE=100 cargo test -p machnet-sim \
                 --release {test}"
            );
        }
    }
    println!("{test}: {} seeds, {} packets", seeds.end - seeds.start, PACKETS.get());
}

/// Two machines joined by a link.
pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) a: MachineId,
    pub(crate) b: MachineId,
    pub(crate) there: LinkId,
    pub(crate) back: LinkId,
    /// Of [`Pair::open`].
    listener: Option<Listener>,
}

impl Pair {
    pub(crate) fn new(seed: u64, link: &Link) -> Self {
        let nic = nic();
        Self::with(seed, link, [nic, nic], [config(); 2], world_config())
    }

    pub(crate) fn with(
        seed: u64,
        link: &Link,
        [nic_a, nic_b]: [NicConfig; 2],
        [config_a, config_b]: [Config; 2],
        config: WorldConfig,
    ) -> Self {
        let mut world = World::new(seed, config);
        let a = world.machine(ip(1), nic_a, config_a);
        let b = world.machine(ip(2), nic_b, config_b);
        let (there, back) = world.join(a, b, link);
        Self { world, a, b, there, back, listener: None }
    }

    /// Starts `dialog` from A to B.
    pub(crate) fn start(&mut self, dialog: &Dialog) -> [Task<Ended>; 2] {
        dialog.start(&mut self.world, self.a, self.b)
    }

    /// A listener on B.
    pub(crate) fn listen(&mut self) -> Listener {
        listen(&mut self.world, self.b, PORT, 128).unwrap()
    }

    /// An open flow: both sides of it.
    pub(crate) fn open(&mut self) -> (Flow, Flow) {
        let mut listener = self.listen();
        let (node, to) = (self.world.node(self.a), self.world.node(self.b).at(PORT));
        let accepting = self.world.spawn("accept", async move { (listener.accept().await.unwrap(), listener) });
        let connecting = self.world.spawn("connect", async move { node.connect(to).await.unwrap() });
        let limit = seconds(1);
        let (accepted, listener) = self.world.wait(&accepting, limit).unwrap();
        // The port stays open, so that packets of forgotten flows are answered.
        self.listener = Some(listener);
        (self.world.wait(&connecting, limit).unwrap(), accepted)
    }

    /// Runs `dialog` to its end, checks that it ended as it should, and that nothing is left.
    pub(crate) fn run(&mut self, dialog: &Dialog, limit: Duration) -> [Ended; 2] {
        let tasks = self.start(dialog);
        self.world.run(limit).unwrap();
        let ended = tasks.map(|task| task.take().expect("the task is done"));
        dialog.check(&ended);
        self.world.settle(TOMBSTONES).unwrap();
        ended
    }
}

impl Drop for Pair {
    #[expect(clippy::print_stderr, reason = "a failed test says what it can")]
    fn drop(&mut self) {
        let offered = |link| self.world.fabric().link_stats(link).offered;
        PACKETS.set(PACKETS.get() + offered(self.there) + offered(self.back));
        if std::thread::panicking() {
            eprintln!("at {:.3} µs: {}", self.world.now().0 as f64 / 1e3, self.world.report());
        }
    }
}

/// Listens on `port` of `machine`.
pub(crate) fn listen(world: &mut World, machine: MachineId, port: u16, limit: u32) -> std::io::Result<Listener> {
    let node = world.node(machine);
    let task = world.spawn("listen", async move { node.listen(port, limit).await });
    world.wait(&task, seconds(1)).unwrap()
}

/// A flow from one machine to another, and the messages of both directions.
#[derive(Clone, Debug)]
pub(crate) struct Dialog {
    pub(crate) port: u16,
    /// Messages of the side that connects, and of the other.
    pub(crate) plans: [Plan; 2],
    /// How each side reads.
    pub(crate) paces: [Pace; 2],
    /// False where corruption passes unnoticed: contents may be anything.
    pub(crate) verify: bool,
}

/// How a side ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) posted: usize,
    pub(crate) received: usize,
    pub(crate) state: FlowState,
    pub(crate) stats: FlowStats,
}

impl Dialog {
    pub(crate) const fn new(there: Plan, back: Plan) -> Self {
        Self { port: PORT, plans: [there, back], paces: [Pace::Eager; 2], verify: true }
    }

    /// The tasks of both sides; they end when their flow is over.
    pub(crate) fn start(&self, world: &mut World, a: MachineId, b: MachineId) -> [Task<Ended>; 2] {
        let name = format!("dialog to {b:?}:{}", self.port);
        self.start_tolerant(world, a, b).map(|task| {
            world.spawn(&name, async move { task.await.unwrap_or_else(|reason| panic!("not connected: {reason:?}")) })
        })
    }

    /// As `start`, for links on which the handshake may go wrong.
    pub(crate) fn start_tolerant(
        &self,
        world: &mut World,
        a: MachineId,
        b: MachineId,
    ) -> [Task<Result<Ended, CloseReason>>; 2] {
        let mut listener = listen(world, b, self.port, 128).unwrap();
        let (node, dialog) = (world.node(b), self.clone());
        let accepting = world.spawn("accept", async move {
            let flow = listener.accept().await.expect("a flow");
            Ok(dialog.side(1, &node, flow).await)
        });
        let (node, dialog, to) = (world.node(a), self.clone(), world.node(b).at(self.port));
        let connecting = world.spawn("connect", async move {
            let flow = node.connect(to).await?;
            Ok(dialog.side(0, &node, flow).await)
        });
        [connecting, accepting]
    }

    /// Both directions at once, then a graceful end.
    pub(crate) async fn side(&self, side: usize, node: &Node, flow: Flow) -> Ended {
        let Flow { mut send, mut recv } = flow;
        let (incoming, pace, verify, handle) =
            (self.plans[1 - side].clone(), self.paces[side], self.verify, node.clone());
        let reader = node
            .spawn(format!("reader {side}"), async move { incoming.receive(&mut recv, &handle, pace, verify).await });
        let (posted, _) = self.plans[side].send(&mut send).await;
        send.finish();
        let received = reader.await;
        let state = reaches(&mut send, FlowState::CLOSED).await;
        Ended { posted, received, state, stats: send.mailbox().stats() }
    }

    /// Every message exactly once (contents and order are the readers' business), and both sides over, in order.
    pub(crate) fn check(&self, ended: &[Ended; 2]) {
        let everything = FlowState::OPEN.with(FlowState::READ_ENDED).with(FlowState::FIN_ACKED);
        for (side, ended) in ended.iter().enumerate() {
            assert_eq!(ended.posted, self.plans[side].len(), "side {side} posted");
            assert_eq!(ended.received, self.plans[1 - side].len(), "side {side} received: {ended:?}");
            assert_eq!(ended.state.reason(), Some(CloseReason::Finished), "side {side}: {:?}", ended.state);
            assert!(ended.state.has(everything), "side {side}: {:?}", ended.state);
        }
    }
}

/// What a packet is, as far as filters care (`docs/spec/wire.md#header`, `#chunks`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Init,
    Accept,
    Reset,
    /// The chunks of a DATA packet.
    Data(Vec<Chunk>),
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Message { id: u32, offset: u32, len: usize },
    Fin,
    Stop,
    Other,
}

impl Seen {
    pub(crate) fn has(&self, test: impl Fn(&Chunk) -> bool) -> bool {
        matches!(self, Self::Data(chunks) if chunks.iter().any(test))
    }
}

/// Reads a packet that an engine made.
pub(crate) fn read(packet: &[u8]) -> Seen {
    match packet[0] & 15 {
        1 => Seen::Init,
        2 => Seen::Accept,
        5 => Seen::Reset,
        4 => Seen::Data(read_chunks(packet)),
        _ => Seen::Other,
    }
}

fn read_chunks(packet: &[u8]) -> Vec<Chunk> {
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_be_bytes(packet[at..at + 2].try_into().unwrap());
    let mut at = 24;
    for _ in 0..packet[1] & 3 {
        at += 12 + 8 * usize::from(packet[at + 7]);
    }
    let mut chunks = Vec::new();
    while at < packet.len() {
        let (kind, len) = (half(at), usize::from(half(at + 2)));
        chunks.push(match (kind >> 12, kind & 1) {
            (1, 1) => Chunk::Message { id: word(at + 4), offset: 0, len: len - 4 },
            (1, _) => Chunk::Message { id: word(at + 4), offset: word(at + 8), len: len - 12 },
            (2, _) => Chunk::Fin,
            (3, _) => Chunk::Stop,
            _ => Chunk::Other,
        });
        at += 4 + len;
    }
    chunks
}
