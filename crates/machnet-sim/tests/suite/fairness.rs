//! Flows of one engine share it: who sends little does not wait for who sends much, and those who send much get alike.

use std::time::Duration;

use machnet_core::{Config, Congestion, Instant};
use machnet_sim::{Link, Node, Pace, Plan};

use crate::common::{Pair, config, listen, micros, millis, nic, seconds, world_config};

const BULK_PORT: u16 = 7001;
const RPC_PORT: u16 = 7002;
const GBIT: u64 = 1_000_000_000;

/// Two machines at 10 Gbit/s: the line of each NIC is the bottleneck, and so the engine decides who waits.
fn pair(seed: u64, mut config: Config) -> Pair {
    // Flows that always have more to send: Swift would keep the device's queue short itself.
    config.congestion = Some(Congestion::Cubic);
    // A frame for each flow's message: what is refused for want of memory looks like congestion.
    config.reassembly_bytes = 256 << 20;
    let mut nic = nic();
    nic.line_rate = Some(10 * GBIT);
    nic.frames = 4096;
    let mut world = world_config();
    world.idle_rounds = 10_000;
    Pair::with(seed, &Link::with_delay(micros(5)), [nic; 2], [config; 2], world)
}

/// `flows` flows from A to B that send as fast as they may, for as long as the world runs.
fn bulk(pair: &mut Pair, flows: usize) {
    let mut listener = listen(&mut pair.world, pair.b, BULK_PORT, flows as u32).unwrap();
    let node = pair.world.node(pair.b);
    pair.world.spawn("bulk server", async move {
        let mut flow_number = 0;
        while let Some(mut flow) = listener.accept().await {
            flow_number += 1;
            node.spawn(format!("bulk reader {flow_number}"), async move { while flow.receive().await.is_some() {} });
        }
    });
    for flow in 0..flows {
        let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(BULK_PORT));
        pair.world.spawn(format!("bulk {flow}"), async move {
            let mut flow = node.connect(to).await.unwrap();
            while flow.send(vec![0; 100_000]).await.is_ok() {}
        });
    }
}

/// A request of 64 bytes and its reply, again and again: how long each took.
async fn requests(node: Node, to: std::net::SocketAddr, count: usize) -> Vec<Duration> {
    let mut flow = node.connect(to).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..count {
        let start = node.now();
        flow.send(vec![1; 64]).await.unwrap();
        flow.receive().await.unwrap();
        times.push(node.now().since(start));
        // Not in step with anybody's turns.
        node.sleep(micros(7)).await;
    }
    times.sort();
    times
}

/// The 50th and 99th percentile of 2 000 requests from A to B, beside `flows` bulk flows.
fn percentiles(config: Config, flows: usize) -> [Duration; 2] {
    let mut pair = pair(1, config);
    let mut listener = listen(&mut pair.world, pair.b, RPC_PORT, 1).unwrap();
    pair.world.spawn("echo", async move {
        let mut flow = listener.accept().await.unwrap();
        while let Some(message) = flow.receive().await {
            if flow.send(message).await.is_err() {
                return;
            }
        }
    });
    bulk(&mut pair, flows);
    pair.world.run_for(millis(20)).unwrap();
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(RPC_PORT));
    let start = pair.world.driver(pair.a).nic_stats().sent;
    let begun = pair.world.now();
    let task = pair.world.spawn("requests", async move { requests(node, to, 2000).await });
    let times = pair.world.wait(&task, seconds(10)).unwrap();
    if flows > 0 {
        // The line was busy with bulk all the while: the requests did not have it for themselves.
        let packets = pair.world.driver(pair.a).nic_stats().sent - start;
        let line = pair.world.now().since(begun).as_nanos() as u64 * 10 / 8 / (1216 + 66);
        assert!(packets * 2 > line, "{packets} of {line} packets");
    }
    pair.world.cancel();
    pair.world.settle(seconds(30)).unwrap();
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}

/// 100 bulk flows and one of small requests on one engine: the requests' 99th percentile stays within three times what
/// it is on an idle machine.
#[test]
fn a_request_does_not_wait_for_bulk() {
    let idle = percentiles(config(), 0);
    let loaded = percentiles(config(), 100);
    println!("idle {idle:?}, beside 100 bulk flows {loaded:?}");
    assert!(loaded[1] <= 3 * idle[1], "99th percentile {:?} beside bulk, {:?} without", loaded[1], idle[1]);
    // And it is the bound on what the device holds that does it, too.
    let mut deep = config();
    deep.device_queue = 1 << 20;
    let deep = percentiles(deep, 100);
    assert!(deep[1] > 3 * idle[1], "{deep:?}: a full ring would have done as well");
}

/// Flows with more to send than there is room for get the same, whatever the size of their messages.
#[test]
fn bulk_flows_share_alike() {
    let mut pair = pair(2, config());
    let sizes = [300, 1000, 1216, 5000, 100_000, 1_000_000, 100_000, 100_000];
    let mut listener = listen(&mut pair.world, pair.b, BULK_PORT, 8).unwrap();
    let node = pair.world.node(pair.b);
    pair.world.spawn("server", async move {
        while let Some(flow) = listener.accept().await {
            node.spawn("reader", async move {
                let mut flow = flow;
                while flow.receive().await.is_some() {}
            });
        }
    });
    let start = millis(30);
    let mut tasks = Vec::new();
    for size in sizes {
        let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(BULK_PORT));
        tasks.push(pair.world.spawn(format!("bulk of {size}"), async move {
            let mut flow = node.connect(to).await.unwrap();
            let end = Instant::ZERO + start + millis(100);
            let mut before = None;
            loop {
                flow.send(vec![0; size]).await.unwrap();
                let sent = flow.send.mailbox().stats().bytes_sent;
                if before.is_none() && node.now() > Instant::ZERO + start {
                    before = Some(sent);
                }
                if node.now() > end {
                    return sent - before.unwrap();
                }
            }
        }));
    }
    let sent: Vec<u64> = tasks.iter().map(|task| pair.world.wait(task, seconds(5)).unwrap()).collect();
    let mean = sent.iter().sum::<u64>() / sent.len() as u64;
    // What small messages cost beyond their bytes is theirs to pay.
    println!("bytes {sent:?}");
    assert!(sent.iter().all(|&sent| sent.abs_diff(mean) * 10 <= mean), "bytes {sent:?}");
    pair.world.cancel();
    pair.world.settle(seconds(30)).unwrap();
}

/// Whoever goes first leaves room for who comes after.
#[test]
fn many_small_flows_do_not_starve_a_large_one() {
    let mut pair = pair(3, config());
    let plan = Plan::fixed(1, 60, 50_000);
    let mut listener = listen(&mut pair.world, pair.b, RPC_PORT, 1000).unwrap();
    let node = pair.world.node(pair.b);
    pair.world.spawn("small server", async move {
        while let Some(flow) = listener.accept().await {
            node.spawn("small reader", async move {
                let mut flow = flow;
                while flow.receive().await.is_some() {}
            });
        }
    });
    // A quarter of the line, and each of them less than its share.
    for flow in 0..300 {
        let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(RPC_PORT));
        pair.world.spawn(format!("small {flow}"), async move {
            let mut flow = node.connect(to).await.unwrap();
            while flow.send(vec![0; 1000]).await.is_ok() {
                node.sleep(millis(1)).await;
            }
        });
    }
    pair.world.run_for(millis(20)).unwrap();
    let mut listener = listen(&mut pair.world, pair.b, BULK_PORT, 1).unwrap();
    let (node, reads) = (pair.world.node(pair.b), plan.clone());
    let reader = pair.world.spawn("reader", async move {
        let mut flow = listener.accept().await.unwrap();
        reads.receive(&mut flow.recv, &node, Pace::Eager, true).await
    });
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(BULK_PORT));
    pair.world.spawn("large", async move {
        let mut flow = node.connect(to).await.unwrap();
        plan.send(&mut flow.send).await;
        flow.send.finish();
        flow.reaches(machnet_channel::FlowState::CLOSED).await;
    });
    // 3 MB at half of the line, and the beginning of a congestion window.
    assert_eq!(pair.world.wait(&reader, millis(6)).unwrap(), 60);
    pair.world.cancel();
    pair.world.settle(seconds(30)).unwrap();
}
