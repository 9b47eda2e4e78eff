//! How many packets, and how many bytes of acknowledgement, what is sent costs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use machnet_core::Instant;
use machnet_sim::{Link, Plan, Sighting, Verdict};

use crate::common::{Chunk, Pair, Seen, micros, millis, pair, read, seconds};

/// Datagrams that both links carried.
fn packets(pair: &Pair) -> u64 {
    let offered = |link| pair.world.fabric().link_stats(link).offered;
    offered(pair.there) + offered(pair.back)
}

/// Once both sides know how long replies take.
#[test]
fn a_request_and_its_reply_are_two_packets() {
    const WARM: usize = 50;
    const COUNT: usize = 1000;
    for service in [0, 20, 150, 300] {
        let mut pair = pair(1, &Link::with_delay(micros(20)));
        let (a, b) = pair.open();
        let (mut requests, mut answers, mut served, mut replies) = (a.send, a.recv, b.recv, b.send);
        let handle = pair.world.handle().clone();
        let serving = pair.world.spawn("server", async move {
            while let Some(request) = machnet_sim::receive(&mut served).await {
                if service > 0 {
                    handle.sleep(micros(service)).await;
                }
                machnet_sim::send(&mut replies, request.to_vec().into()).await.unwrap();
            }
            replies
        });
        let count = |pair: &mut Pair, mut requests, mut answers, count: usize| {
            let asking = pair.world.spawn("client", async move {
                for _ in 0..count {
                    machnet_sim::send(&mut requests, vec![7; 64].into()).await.unwrap();
                    machnet_sim::receive(&mut answers).await.unwrap();
                }
                (requests, answers)
            });
            pair.world.wait(&asking, seconds(10)).unwrap()
        };
        (requests, answers) = count(&mut pair, requests, answers, WARM);
        let before = packets(&pair);
        (requests, answers) = count(&mut pair, requests, answers, COUNT);
        assert_eq!(packets(&pair) - before, 2 * COUNT as u64, "a service time of {service} µs");
        requests.finish();
        drop(answers);
        drop(pair.world.wait(&serving, seconds(1)).unwrap());
        pair.world.settle(seconds(15)).unwrap();
    }
}

/// The messages in each packet that carries any, and when it was sent.
type Log = Arc<Mutex<Vec<(Instant, Vec<u32>)>>>;

fn log_messages(pair: &Pair) -> Log {
    let log = Arc::<Mutex<Vec<_>>>::default();
    let shared = Arc::clone(&log);
    pair.world.fabric().filter(pair.there, move |packet: &Sighting<'_>| {
        if let Seen::Data(chunks) = read(packet.payload) {
            let id = |chunk: &Chunk| if let Chunk::Message { id, .. } = chunk { Some(*id) } else { None };
            let ids: Vec<u32> = chunks.iter().filter_map(id).collect();
            if !ids.is_empty() {
                shared.lock().unwrap().push((packet.at, ids));
            }
        }
        Verdict::Pass
    });
    log
}

#[test]
fn small_messages_share_packets_when_there_is_a_backlog() {
    const COUNT: usize = 20_000;
    // 10 Gbps: the application is faster.
    let link = Link { rate: Some(10_000_000_000), ..Link::with_delay(micros(20)) };
    let mut pair = pair(2, &link);
    let log = log_messages(&pair);
    let (a, b) = pair.open();
    let (mut send, mut recv) = (a.send, b.recv);
    let plan = Plan::fixed(1, COUNT, 64);
    let reader = plan.clone();
    pair.world.spawn("writer", async move {
        plan.send(&mut send).await;
        send
    });
    let handle = pair.world.handle().clone();
    let reading = pair.world.spawn("reader", async move {
        let mut count = 0;
        while count < COUNT {
            let message = machnet_sim::receive(&mut recv).await.unwrap();
            reader.verify(count, message.as_slice());
            count += 1;
        }
        drop(handle);
    });
    pair.world.wait(&reading, seconds(10)).unwrap();
    let packets = log.lock().unwrap().len();
    assert!(COUNT >= 15 * packets, "{packets} packets for {COUNT} messages");
    drop((a.recv, b.send));
}

#[test]
fn without_a_backlog_nothing_waits() {
    const COUNT: usize = 500;
    let mut pair = pair(3, &Link::with_delay(micros(20)));
    let log = log_messages(&pair);
    let (a, b) = pair.open();
    let (mut send, mut recv) = (a.send, b.recv);
    let handle = pair.world.handle().clone();
    let posted = pair.world.spawn("writer", async move {
        let mut posted = Vec::new();
        for _ in 0..COUNT {
            handle.sleep(micros(7)).await;
            posted.push(handle.now());
            machnet_sim::send(&mut send, vec![1; 64].into()).await.unwrap();
        }
        (posted, send)
    });
    let reading = pair.world.spawn("reader", async move {
        for _ in 0..COUNT {
            machnet_sim::receive(&mut recv).await.unwrap();
        }
        recv
    });
    let (posted, _send) = pair.world.wait(&posted, seconds(1)).unwrap();
    let _recv = pair.world.wait(&reading, seconds(1)).unwrap();
    let log = log.lock().unwrap();
    assert_eq!(log.len(), COUNT, "one packet each");
    // A round under way, and the one that sends.
    let slowest = log.iter().zip(&posted).map(|((at, _), posted)| at.since(*posted)).max().unwrap();
    assert!(slowest <= micros(3), "{slowest:?}");
    drop((a.recv, b.send));
}

/// Bytes of acknowledgement: what packets from B to A carry beyond nothing.
#[test]
fn acknowledgements_fall_back_once_a_hole_is_repaired() {
    let mut pair = pair(4, &Link { rate: Some(10_000_000_000), ..Link::with_delay(micros(50)) });
    let (a, b) = pair.open();
    let (mut send, mut recv) = (a.send, b.recv);
    let words = Arc::<Mutex<Vec<(Instant, u8)>>>::default();
    let shared = Arc::clone(&words);
    pair.world.fabric().filter(pair.back, move |packet: &Sighting<'_>| {
        if packet.payload[0] & 15 == 4 && packet.payload[1] & 3 == 1 {
            shared.lock().unwrap().push((packet.at, packet.payload[24 + 7]));
        }
        Verdict::Pass
    });
    let mut seen = 0;
    pair.world.fabric().filter(pair.there, move |packet: &Sighting<'_>| {
        seen += 1;
        // Every other one of 200.
        if (500..700).contains(&seen) && seen % 2 == 0 && packet.payload[0] & 15 == 4 {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    let handle = pair.world.handle().clone();
    let plan = Plan::fixed(1, 10_000, 1000);
    let reader = plan.clone();
    let writing = pair.world.spawn("writer", async move {
        plan.send(&mut send).await;
        send
    });
    let reading = pair.world.spawn("reader", async move {
        for index in 0..10_000 {
            let message = machnet_sim::receive(&mut recv).await.unwrap();
            reader.verify(index, message.as_slice());
        }
        handle.now()
    });
    let end = pair.world.wait(&reading, seconds(10)).unwrap();
    let words = words.lock().unwrap();
    let most = words.iter().map(|&(_, words)| words).max().unwrap();
    assert!(most >= 3, "{most}: there were holes");
    let last = words.iter().filter(|&&(_, words)| words > 0).map(|&(at, _)| at).max().unwrap();
    let first = words.iter().find(|&&(_, words)| words > 0).unwrap().0;
    // Lost, repaired, and a PTO later: 2 · RTT and the acknowledgement delay.
    assert!(last.since(first) < millis(2), "bitmaps for {:?}", last.since(first));
    assert!(words.iter().filter(|&&(at, _)| at > last).count() > 100, "and then none");
    assert!(end.since(last) > Duration::ZERO);
    drop((pair.world.wait(&writing, seconds(1)).unwrap(), a.recv, b.send));
}
