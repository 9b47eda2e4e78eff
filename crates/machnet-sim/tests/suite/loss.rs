//! What congestion control a flow has, and that what was not lost costs nothing.

use machnet_core::{Congestion, FlowOptions};
use machnet_sim::{Link, NicConfig, Pace, Plan};

use crate::common::{Pair, config, micros, nic, seconds, seeds, world_config};

#[test]
fn reordering_is_learned_and_what_it_cost_is_undone() {
    let run = |seed, reorder| {
        let link = Link { reorder, reorder_by: micros(50), ..Link::with_delay(micros(50)) };
        // Nothing is lost: whatever is declared lost is not.
        let nic = NicConfig { rx_descriptors: 8192, frames: 32_768, ..nic() };
        // By loss alone: delay says that a path that reorders is a longer one.
        let mut config = config();
        config.congestion = Some(Congestion::Cubic);
        let mut pair = Pair::with(seed, &link, [nic; 2], [config; 2], world_config());
        let (a, b) = pair.open();
        let (mut send, mut recv) = (a.send, b.recv);
        let plan = Plan::fixed(1, 20_000, 1000);
        let sender = plan.clone();
        pair.world.spawn("writer", async move {
            sender.send(&mut send).await;
            send
        });
        let handle = pair.world.handle().clone();
        let reading =
            pair.world.spawn("reader", async move { plan.receive(&mut recv, &handle, Pace::Eager, true).await });
        assert_eq!(pair.world.wait(&reading, seconds(10)).unwrap(), 20_000);
        let stats = pair.world.stats(pair.a);
        drop((a.recv, b.send));
        (pair.world.now(), stats.packets_lost, pair.world.fabric().link_stats(pair.there).reordered)
    };
    seeds("reordering_is_learned_and_what_it_cost_is_undone", 8, |seed| {
        let (smooth, none, _) = run(seed, 0.0);
        assert_eq!(none, 0);
        // Half of them are late by more than the quarter of a round trip that is allowed at first.
        let (took, spurious, reordered) = run(seed, 0.02);
        assert!(reordered > 200, "{reordered}");
        assert!(spurious < reordered / 10, "{spurious} of {reordered} were taken for lost");
        assert!(took.0 < smooth.0 * 2, "{took:?} instead of {smooth:?}");
    });
}

/// By either side for its own direction, and else by the engine.
#[test]
fn a_flow_has_the_window_that_was_chosen_for_it() {
    let mut configs = [config(); 2];
    configs[0].congestion = Some(Congestion::Fixed { bytes: 30_000 });
    let mut pair = Pair::with(1, &Link::with_delay(micros(10)), [nic(); 2], configs, world_config());
    let fixed = |bytes| FlowOptions::new().congestion(Congestion::Fixed { bytes });
    let mut windows = Vec::new();
    for (connecting, listening) in [(FlowOptions::new(), fixed(50_000)), (fixed(40_000), FlowOptions::new())] {
        let port = 8000 + windows.len() as u16;
        let node = pair.world.node(pair.b);
        let listening = pair.world.spawn("listen", async move { node.listen_with(port, 1, listening).await.unwrap() });
        let mut listener = pair.world.wait(&listening, seconds(1)).unwrap();
        let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(port));
        let accepting = pair.world.spawn("accept", async move { (listener.accept().await.unwrap(), listener) });
        let connecting = pair.world.spawn("connect", async move { node.connect_with(to, connecting).await.unwrap() });
        let (b, _listener) = pair.world.wait(&accepting, seconds(1)).unwrap();
        let a = pair.world.wait(&connecting, seconds(1)).unwrap();
        windows.push([a, b].map(|flow| flow.send.mailbox().stats().congestion_window));
    }
    let swift = 32 * (1232 - 16);
    assert_eq!(windows, [[30_000, 50_000], [40_000, swift]]);
    pair.world.settle(seconds(15)).unwrap();
}
