//! Two hosts with several engines each, and flows between them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use machnet_core::{Config, DropReason, EngineStats};

use super::super::{Run, costs};
use crate::setup::{PORT, TOMBSTONES, config, ip, millis, nic, seconds};
use crate::workload::{message, verify};
use crate::{
    Ethernet, Flow, Link, LinkId, Listener, MachineId, NicConfig, Node, Rss, SimRng, Task, World, listen, reaches,
    receive, send,
};
use machnet_channel::FlowState;

/// One host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub(super) engines: usize,
    pub(super) ports: u16,
    pub(super) rss: Rss,
}

impl Host {
    /// With four ports for each engine.
    pub(super) const fn of(engines: usize, rss: Rss) -> Self {
        Self { engines, ports: 4 * engines as u16, rss }
    }

    /// A single engine on a single port.
    pub(super) const SINGLE: Self = Self { engines: 1, ports: 1, rss: Rss::First };
}

/// Clients at one host, servers at the other.
pub(super) struct Cluster {
    pub(super) world: World,
    pub(super) clients: Vec<MachineId>,
    pub(super) servers: Vec<MachineId>,
    pub(super) there: LinkId,
    pub(super) back: LinkId,
    listeners: Rc<RefCell<Vec<Listener>>>,
    port: u16,
}

/// Flows that echo.
pub(super) struct Talk {
    accepted: Task<()>,
    ends: Vec<Task<()>>,
}

impl Cluster {
    pub(super) fn new(run: &Run, link: &Link, clients: Host, servers: Host) -> Self {
        Self::with(run, link, clients, servers, nic(), config())
    }

    /// With engines that have next to no memory, of which many can be made.
    pub(super) fn small(run: &Run, link: &Link, clients: Host, servers: Host) -> Self {
        let mut small = config();
        (small.max_message, small.reassembly_bytes, small.receive_window) = (1 << 12, 1 << 16, 1 << 13);
        Self::with(run, link, clients, servers, NicConfig { frames: 64, ..nic() }, small)
    }

    /// Whose NICs speak Ethernet.
    pub(super) fn ethernet(run: &Run, link: &Link, clients: Host, servers: Host) -> Self {
        let nic = NicConfig { ethernet: Some(Ethernet::default()), ..nic() };
        Self::with(run, link, clients, servers, nic, config())
    }

    pub(super) fn with(run: &Run, link: &Link, clients: Host, servers: Host, nic: NicConfig, config: Config) -> Self {
        let mut world = run.world(costs());
        let mut host = |n, host: Host| world.machines(ip(n), nic, config, host.engines, host.ports, host.rss);
        let (clients, servers) = (host(1, clients), host(2, servers));
        let (there, back) = world.join(clients[0], servers[0], link);
        let listeners = servers.iter().map(|&server| listen(&mut world, server, PORT, 128).unwrap()).collect();
        Self { world, clients, servers, there, back, listeners: Rc::new(RefCell::new(listeners)), port: PORT }
    }

    /// The servers listen at another port, and no more at the one before.
    pub(super) fn move_to(&mut self, port: u16) {
        let (world, servers) = (&mut self.world, &self.servers);
        let listeners = servers.iter().map(|&server| listen(world, server, port, 128).unwrap()).collect();
        self.listeners.replace(listeners);
        self.port = port;
    }

    /// Begins `flows` flows, the first from client `first` and each from the next, which send `messages` messages each of up
    /// to `size` bytes, and get them back.
    pub(super) fn talk(&mut self, rng: &mut SimRng, first: usize, flows: usize, messages: usize, size: usize) -> Talk {
        let listeners = Rc::clone(&self.listeners);
        let handle = self.world.handle().clone();
        let accepted = self.world.spawn("accept", {
            let handle = handle.clone();
            async move {
                for n in 0..flows {
                    let flow = accept(&listeners).await;
                    handle.spawn(format!("echo {n}"), echo(flow));
                }
            }
        });
        let mut ends = Vec::new();
        for flow in 0..flows {
            let node = self.node(first + flow);
            let to = self.server();
            let sizes: Vec<usize> = (0..messages).map(|_| rng.log_uniform(size)).collect();
            let handle = handle.clone();
            ends.push(self.world.spawn(format!("client {flow}"), async move {
                let Flow { send: mut out, mut recv } = node.connect(to).await.expect("a flow");
                let wanted = sizes.clone();
                let reader = handle.spawn(format!("reader {flow}"), async move {
                    for (index, &size) in wanted.iter().enumerate() {
                        let got = receive(&mut recv).await.expect("an echo");
                        verify(flow as u64, index, size, got.as_slice());
                    }
                    assert!(receive(&mut recv).await.is_none(), "flow {flow}: more than was sent");
                });
                for (index, &size) in sizes.iter().enumerate() {
                    send(&mut out, message(flow as u64, index, size)).await.expect("an open flow");
                }
                out.finish();
                let over = reaches(&mut out, FlowState::CLOSED.with(FlowState::FIN_ACKED)).await;
                assert!(over.has(FlowState::FIN_ACKED), "flow {flow}: {over:?}");
                while !reader.is_done() {
                    handle.sleep(millis(1)).await;
                }
            }));
        }
        Talk { accepted, ends }
    }

    /// What applications on the `n`th client use.
    pub(super) fn node(&self, n: usize) -> Node {
        self.world.node(self.clients[n % self.clients.len()])
    }

    /// Opens a flow from the `n`th client, which says hello and then nothing, for so long.
    pub(super) fn idle(&mut self, n: usize, time: Duration) -> Talk {
        let talk = self.talk(&mut SimRng::new(0, 0), 0, 0, 0, 0);
        let (node, to, listeners) =
            (self.node(n), self.world.node(self.servers[0]).at(PORT), Rc::clone(&self.listeners));
        let handle = self.world.handle().clone();
        let client = self.world.spawn("client", {
            let handle = handle.clone();
            async move {
                let mut flow = node.connect(to).await.expect("a flow");
                handle.sleep(time).await;
                flow.send("late").await.expect("an open flow");
                flow.send.finish();
                reaches(&mut flow.send, FlowState::CLOSED.with(FlowState::FIN_ACKED)).await;
            }
        });
        let accepted = self.world.spawn("accept", async move { echo(accept(&listeners).await).await });
        Talk { accepted: talk.accepted, ends: vec![client, accepted] }
    }

    /// Where the servers listen.
    pub(super) fn server(&self) -> SocketAddr {
        self.world.node(self.servers[0]).at(self.port)
    }

    /// Accepts so many flows.
    pub(super) fn accept(&mut self, flows: usize) -> Task<Vec<Flow>> {
        let listeners = Rc::clone(&self.listeners);
        self.world.spawn("accept", async move {
            let mut accepted = Vec::new();
            while accepted.len() < flows {
                accepted.push(accept(&listeners).await);
            }
            accepted
        })
    }

    /// Waits until every flow of `talk` has got all back.
    pub(super) fn finish(&mut self, talk: &Talk, limit: Duration) {
        for end in &talk.ends {
            self.world.wait(end, limit).unwrap();
        }
    }

    /// Checks that the hosts end with nothing left.
    pub(super) fn end(mut self, talk: &Talk) {
        self.world.wait(&talk.accepted, seconds(1)).unwrap();
        self.world.run(seconds(10)).unwrap();
        self.world.settle(2 * TOMBSTONES).unwrap();
        for stats in self.stats() {
            assert_eq!(stats.handed_over, stats.taken_over, "what was handed over arrived");
        }
    }

    /// The sums of what the engines of both hosts counted.
    pub(super) fn stats(&self) -> [EngineStats; 2] {
        [&self.clients, &self.servers].map(|machines| {
            machines.iter().fold(EngineStats::default(), |mut sum, &machine| {
                sum.add(&self.world.stats(machine));
                sum
            })
        })
    }

    /// What of the packets that both hosts received was handed over, and of those how many found a full inbox.
    pub(super) fn note(&self, run: &Run, what: &str) -> f64 {
        let [a, b] = self.stats();
        let received = (a.packets_received + b.packets_received).max(1);
        let ratio = (a.handed_over + b.handed_over) as f64 / received as f64;
        let full = a.drops.get(DropReason::HandoverFull) + b.drops.get(DropReason::HandoverFull);
        let probes = a.probes_sent + b.probes_sent;
        run.figure(what, format!("{received} packets, {ratio:.4} handed over, {full} found no room; {probes} probes"));
        ratio
    }
}

/// The next flow of any listener.
async fn accept(listeners: &RefCell<Vec<Listener>>) -> Flow {
    poll_fn(|cx| {
        for listener in listeners.borrow_mut().iter_mut() {
            if let Poll::Ready(flow) = listener.poll_accept(cx) {
                return Poll::Ready(flow.expect("an engine"));
            }
        }
        Poll::Pending
    })
    .await
}

/// Sends back whatever comes.
async fn echo(flow: Flow) {
    let Flow { send: mut out, mut recv } = flow;
    while let Some(message) = receive(&mut recv).await {
        send(&mut out, message).await.expect("an open flow");
    }
    out.finish();
    reaches(&mut out, FlowState::CLOSED.with(FlowState::FIN_ACKED)).await;
}
