//! Ports with several queues, each with an engine. On these wires a queue leads to the peer's of the same number: nothing is handed over,
//! between unequal numbers of engines either if both have as many queues.

use machnet::EngineStats;

use super::*;

/// Flows at the same time.
const FLOWS: u64 = 8;
/// Messages on each, there and back, up to so long.
const MESSAGES: u64 = 100;
const LONGEST: usize = 20_000;

/// So many engines here and there; `more`: and more queues, where there are fewer engines than on the other side.
fn wire(wire: Wire, more: [&'static str; 2]) -> Wire {
    Wire { more, ..wire }
}

/// Flows that all send and receive at the same time.
async fn echo_on_many(endpoint: &Endpoint, to: SocketAddr) {
    let mut flows = Vec::new();
    for key in 0..FLOWS {
        let mut flow = connect(Request::Echo, endpoint, to).await;
        flows.push(tokio::spawn(async move {
            for index in 0..MESSAGES {
                let message = content(key, index, size(key, index, LONGEST));
                flow.send(message.clone()).await.unwrap();
                assert!(
                    flow.recv().await.unwrap().unwrap() == message,
                    "message {index} of flow {key} comes back different"
                );
            }
            flow.close().await.unwrap();
        }));
    }
    for flow in flows {
        flow.await.unwrap();
    }
}

/// What every wire with several engines must do. Returns what this side's engines did until the end.
fn prove(wire: &Wire, kills: bool) -> Vec<EngineStats> {
    let mut stats = Vec::new();
    bounded(async {
        let (endpoint, peer, to) = wire.open_both();
        echo_on_many(&endpoint, to).await;
        bulk_both_ways(&endpoint, to, BULK_MIB << 18).await;
        sank_unchanged(&peer);
        stats = endpoint.engine_stats();
        if kills {
            let mut holds = Vec::new();
            for _ in 0..FLOWS {
                let mut flow = connect(Request::Hold, &endpoint, to).await;
                flow.send("unread").await.unwrap();
                holds.push(flow);
            }
            peer.kill();
            for mut flow in holds {
                let error = flow.recv().await.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
            }
            let (peer, to) = wire.start_peer();
            echo_on_many(&endpoint, to).await;
            endpoint.shutdown().await.unwrap();
            drop(peer);
        } else {
            endpoint.shutdown().await.unwrap();
            drop(peer);
        }
    });
    stats
}

/// All engines did something, and none of it for another.
fn each_for_itself(stats: &[EngineStats], engines: usize) {
    assert_eq!(stats.len(), engines);
    assert!(stats.iter().all(|engine| engine.packets_received > MESSAGES && engine.handed_over == 0), "{stats:?}");
}

#[test]
fn memif_of_two_queues_whose_server_is_killed() {
    let stats = prove(&wire(Wire::memif("client", "server"), ["&engines=2"; 2]), true);
    each_for_itself(&stats, 2);
}

#[test]
fn memif_between_two_engines_and_one() {
    let stats = prove(&wire(Wire::memif("server", "client"), ["&engines=2", "&queues=2"]), false);
    each_for_itself(&stats, 2);
}

#[test]
fn memif_between_three_engines_and_two() {
    let stats = prove(&wire(Wire::memif("client", "server"), ["&engines=3", "&engines=2&queues=3"]), false);
    each_for_itself(&stats, 3);
}

#[test]
fn a_machine_of_two_queues_is_killed() {
    let stats = prove(&wire(Wire::virtio(Side::Host, Side::Host), ["&engines=2"; 2]), true);
    each_for_itself(&stats, 2);
}

#[test]
fn the_host_of_a_machine_of_three_queues_is_killed() {
    let stats = prove(&wire(Wire::virtio(Side::Machine, Side::Host), ["&engines=3", "&engines=2&queues=3"]), true);
    each_for_itself(&stats, 3);
}

#[test]
fn a_machine_of_two_engines_and_a_host_of_one() {
    let stats = prove(&wire(Wire::virtio(Side::Machine, Side::Host), ["&engines=2", "&queues=2"]), false);
    each_for_itself(&stats, 2);
}
