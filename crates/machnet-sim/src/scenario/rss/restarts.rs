//! Hosts that die without a word and start again, with flows underway at all of their engines.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use machnet_channel::{CloseReason, FlowState};

use super::super::{Run, Scenario, costs, kept};
use super::cluster::Host;
use super::mix::host;
use crate::executor::Handle;
use crate::setup::{PORT, TOMBSTONES, config, ip, micros, nic, seconds};
use crate::workload::{message, verify};
use crate::{Ethernet, Flow, Link, MachineId, NicConfig, Node, World, listen};

pub(super) const SCENARIOS: &[Scenario] = &[kept(
    "rss-restarts",
    "hosts of several engines die and start again, drawn from the seed: who talked with them notices, connects again and goes on",
    restarts,
)];

/// How long a client may go without an answer beyond what it was told: far below [`machnet_core::Config::dead_peer_timeout`].
const NOTICE: u64 = 2;

/// What the applications of the hosts share: they outlive engines.
struct Hosts {
    /// At the clients' host, an engine each.
    nodes: RefCell<Vec<Node>>,
    /// Messages that came back.
    echoes: Cell<usize>,
    /// Flows that ended before their time, by who started again.
    ended: Cell<usize>,
}

fn restarts(run: &Run) {
    let mut rng = run.rng();
    let hosts = [0; 2].map(|_| host(&mut rng));
    let link = Link {
        loss: if rng.chance(0.5) { 0.05 * rng.unit() } else { 0.0 },
        ..Link::with_rate(10_000_000_000, micros(20), 1 << 20)
    };
    let nic = NicConfig { ethernet: rng.chance(0.3).then(Ethernet::default), ..nic() };
    let config = config();
    let mut world = run.world(costs());
    let machines = [0, 1].map(|n| {
        let Host { engines, ports, rss } = hosts[n];
        world.machines(ip(n as u8 + 1), nic, config, engines, ports, rss)
    });
    let home = machines.each_ref().map(|machines| world.node(machines[0]).home().port());
    world.join(machines[0][0], machines[1][0], &link);
    let to = world.node(machines[1][0]).at(PORT);
    let shared = Rc::new(Hosts { nodes: RefCell::default(), echoes: Cell::new(0), ended: Cell::new(0) });
    shared.nodes.replace(machines[0].iter().map(|&machine| world.node(machine)).collect());
    serve(&mut world, &machines[1]);

    let flows = 1 + rng.below(12) as usize;
    let clients: Vec<_> = (0..flows)
        .map(|n| {
            let sizes: Vec<usize> = (0..1 + rng.below(400)).map(|_| rng.log_uniform(10_000)).collect();
            let (shared, handle) = (Rc::clone(&shared), world.handle().clone());
            world.spawn(format!("client {n}"), talk(shared, handle, n, to, sizes))
        })
        .collect();
    let mut starts = [0, 0];
    for _ in 0..1 + rng.below(5) {
        world.run_for(micros(rng.below(5000))).unwrap();
        let side = rng.below(2) as usize;
        let Host { ports, rss, .. } = hosts[side];
        world.restart_several(&machines[side], NicConfig { port: home[side], ..nic }, config, ports, rss);
        starts[side] += 1;
        if side == 0 {
            shared.nodes.replace(machines[0].iter().map(|&machine| world.node(machine)).collect());
        } else {
            serve(&mut world, &machines[1]);
        }
    }
    for client in &clients {
        world.wait(client, seconds(NOTICE)).unwrap();
    }
    let (echoes, ended) = (shared.echoes.get(), shared.ended.get());
    run.figure("hosts", format!("{hosts:?}, started again {starts:?} times"));
    run.figure("messages", format!("{echoes} came back, of {flows} clients, {ended} flows ended early"));
    world.cancel();
    world.settle(2 * TOMBSTONES).unwrap();
}

/// Every engine of the host listens, and sends back what comes, until it is gone.
fn serve(world: &mut World, machines: &[MachineId]) {
    for &machine in machines {
        let mut listener = listen(world, machine, PORT, 128).unwrap();
        let handle = world.handle().clone();
        world.spawn("accept", async move {
            while let Some(mut flow) = listener.accept().await {
                handle.spawn("echo", async move {
                    while let Some(message) = flow.receive().await {
                        if flow.send(message).await.is_err() {
                            return;
                        }
                    }
                    flow.send.finish();
                    flow.reaches(FlowState::CLOSED).await;
                });
            }
        });
    }
}

/// Sends messages and gets them back, one after another, over as many flows as it takes.
async fn talk(shared: Rc<Hosts>, handle: Handle, client: usize, to: SocketAddr, sizes: Vec<usize>) {
    let mut next = 0;
    while next < sizes.len() {
        let node = {
            let nodes = shared.nodes.borrow();
            nodes[client % nodes.len()].clone()
        };
        match node.connect(to).await {
            Ok(mut flow) => {
                next = converse(&shared, &mut flow, client, next, &sizes).await;
                if next < sizes.len() {
                    let reason = flow.state().reason();
                    assert!(is_of_a_restart(reason), "client {client}, message {next}: {reason:?}");
                    shared.ended.set(shared.ended.get() + 1);
                } else {
                    flow.send.finish();
                    flow.reaches(FlowState::CLOSED).await;
                }
            }
            // Between the host's start and its first listener.
            Err(reason) => {
                assert!(reason == CloseReason::Refused || is_of_a_restart(Some(reason)), "client {client}: {reason:?}");
                handle.sleep(micros(100)).await;
            }
        }
    }
}

/// Goes on from message `next` until all came back or the flow ends; says which is next then.
async fn converse(shared: &Hosts, flow: &mut Flow, client: usize, next: usize, sizes: &[usize]) -> usize {
    for (index, &size) in sizes.iter().enumerate().skip(next) {
        if flow.send(message(client as u64, index, size)).await.is_err() {
            return index;
        }
        let Some(got) = flow.receive().await else { return index };
        verify(client as u64, index, size, got.as_slice());
        shared.echoes.set(shared.echoes.get() + 1);
    }
    sizes.len()
}

/// The peer does not know the flow any more, or this host's own engine is gone.
fn is_of_a_restart(reason: Option<CloseReason>) -> bool {
    matches!(reason, Some(CloseReason::Reset | CloseReason::Shutdown))
}
