//! Whatever the hash does, every message arrives once and in order.

use super::super::{Run, Scenario, kept};
use super::cluster::{Cluster, Host};
use crate::setup::{TOMBSTONES, config, micros, millis, nic, seconds};
use crate::{Link, NicConfig, Rss};
use machnet_channel::CloseReason;
use machnet_core::DropReason;

pub(super) const SCENARIOS: &[Scenario] = &[
    kept("rss-wrong", "every packet hits a wrong queue: all are handed over, none is lost or doubled", wrong),
    kept(
        "rss-spray",
        "a queue drawn for each packet, on links that lose and double, makes no second flow of an INIT",
        spray,
    ),
    kept("rss-placed", "flows from outside are as many at each engine, also where INITs are lost and doubled", placed),
    kept("rss-counts", "1 to 9 engines at one end and others at the other, under random keys and tables", counts),
    kept("rss-remap", "the NIC's key and table change while flows are busy", remap),
    kept(
        "rss-stuck",
        "an engine that stands still holds up its own flows, and what finds its inbox full comes again",
        stuck,
    ),
    kept("rss-restart", "the first flow of a client that started again ends the old ones' at every engine", restart),
    kept("rss-ethernet", "over frames, what neighbours say comes to any queue and reaches every engine", ethernet),
    kept("rss-single", "several engines and a single socket, either way round", single),
];

fn link() -> Link {
    Link::with_rate(10_000_000_000, micros(20), 1 << 20)
}

fn wrong(run: &Run) {
    for engines in [2, 3, 8] {
        let host = Host::of(engines, Rss::Wrong);
        let mut cluster = Cluster::new(run, &link(), host, host);
        let talk = cluster.talk(&mut run.rng(), 0, 6, 40, 20_000);
        cluster.finish(&talk, seconds(10));
        let ratio = cluster.note(run, &format!("{engines} engines"));
        assert!(ratio > 0.9, "{ratio}");
        cluster.end(&talk);
    }
}

fn spray(run: &Run) {
    let link = Link { loss: 0.05, duplicate: 0.2, reorder: 0.1, reorder_by: micros(100), ..link() };
    let mut cluster = Cluster::new(run, &link, Host::of(3, Rss::Spray), Host::of(5, Rss::Spray));
    let talk = cluster.talk(&mut run.rng(), 0, 12, 10, 5_000);
    cluster.finish(&talk, seconds(20));
    cluster.note(run, "3 and 5 engines");
    // Whose last packets may still be answered, and nobody else.
    let [_, servers] = cluster.stats();
    assert!(servers.flows <= 12, "{} flows for 12", servers.flows);
    cluster.end(&talk);
}

fn placed(run: &Run) {
    const EACH: u64 = 4;
    for (clients, rss) in [(Host::SINGLE, Rss::Toeplitz), (Host::of(3, Rss::Spray), Rss::Spray)] {
        let link = Link { loss: 0.1, duplicate: 0.3, reorder: 0.1, reorder_by: micros(100), ..link() };
        let mut cluster = Cluster::new(run, &link, clients, Host::of(5, rss));
        let flows = 5 * EACH;
        let talk = cluster.talk(&mut run.rng(), 0, flows as usize, 300, 2_000);
        let at = |cluster: &Cluster| -> Vec<u64> {
            cluster.servers.iter().map(|&server| cluster.world.stats(server).flows).collect()
        };
        while at(&cluster).iter().sum::<u64>() < flows {
            cluster.world.run_for(micros(100)).unwrap();
        }
        run.figure("flows", format!("{:?}", at(&cluster)));
        // For as long as copies of INITs come.
        for _ in 0..20 {
            assert!(at(&cluster).iter().all(|&flows| flows == EACH), "{:?}", at(&cluster));
            cluster.world.run_for(micros(50)).unwrap();
        }
        cluster.finish(&talk, seconds(20));
        cluster.end(&talk);
    }
}

fn counts(run: &Run) {
    let mut rng = run.rng();
    for rss in [Rss::Toeplitz, Rss::Random] {
        let [a, b] = [0; 2].map(|_| 1 + rng.below(9) as usize);
        let mut cluster = Cluster::new(run, &link(), Host::of(a, rss), Host::of(b, rss));
        let talk = cluster.talk(&mut rng, 0, 10, 60, 20_000);
        cluster.finish(&talk, seconds(10));
        cluster.note(run, &format!("{rss:?}, {a} and {b} engines"));
        cluster.end(&talk);
    }
}

fn remap(run: &Run) {
    let mut cluster = Cluster::new(run, &link(), Host::of(4, Rss::Toeplitz), Host::of(3, Rss::Random));
    let talk = cluster.talk(&mut run.rng(), 0, 8, 400, 20_000);
    for step in 0..10 {
        cluster.world.run_for(micros(400)).unwrap();
        let queue = if step % 2 == 0 { cluster.clients[0] } else { cluster.servers[0] };
        cluster.world.fabric().redraw_rss(cluster.world.driver(queue));
    }
    cluster.finish(&talk, seconds(20));
    cluster.note(run, "4 and 3 engines");
    cluster.end(&talk);
}

fn stuck(run: &Run) {
    // Every packet goes through an inbox: that of the engine that stands still overflows.
    let host = Host::of(3, Rss::Wrong);
    let mut cluster = Cluster::new(run, &link(), host, host);
    let talk = cluster.talk(&mut run.rng(), 0, 120, 12, 60_000);
    for _ in 0..4 {
        cluster.world.run_for(millis(1)).unwrap();
        cluster.world.pause(cluster.servers[0], millis(40));
        cluster.world.run_for(millis(40)).unwrap();
    }
    cluster.finish(&talk, seconds(20));
    cluster.note(run, "all through inboxes");
    let [_, servers] = cluster.stats();
    assert!(servers.drops.get(DropReason::HandoverFull) > 0, "no inbox was full");
    cluster.end(&talk);

    // Nothing does, once pairs are found: the other engines notice nothing.
    let host = Host::of(3, Rss::Random);
    let mut cluster = Cluster::new(run, &link(), host, host);
    let talk = cluster.talk(&mut run.rng(), 0, 24, 5000, 3000);
    cluster.world.run_for(millis(5)).unwrap();
    let received =
        |cluster: &Cluster| [1, 2].map(|engine| cluster.world.stats(cluster.servers[engine]).packets_received);
    let mut counts = vec![received(&cluster)];
    for pause in [0, 5] {
        cluster.world.pause(cluster.servers[0], millis(pause));
        cluster.world.run_for(millis(5)).unwrap();
        counts.push(received(&cluster));
    }
    cluster.note(run, "steered");
    let steps: Vec<_> = counts.windows(2).map(|two| [0, 1].map(|engine| two[1][engine] - two[0][engine])).collect();
    for (before, beside) in steps[0].iter().zip(steps[1]) {
        run.figure("packets of an engine in 5 ms", format!("{before}, {beside} beside one that stands still"));
        assert!(*before > 0 && beside > before * 4 / 5, "{before}, then {beside}");
    }
    cluster.finish(&talk, seconds(20));
    cluster.end(&talk);
}

fn restart(run: &Run) {
    let mut cluster = Cluster::new(run, &link(), Host::SINGLE, Host::of(4, Rss::Random));
    let client = cluster.clients[0];
    let (node, to, handle) = (cluster.node(0), cluster.server(), cluster.world.handle().clone());
    let home = node.home().port();
    let opening = cluster.world.spawn("flows of the first start", async move {
        let mut flows = Vec::new();
        for n in 0..24 {
            let mut flow = node.connect(to).await.expect("a flow");
            flow.send(format!("{n}")).await.expect("an open flow");
            flows.push(flow);
        }
        handle.sleep(millis(10)).await;
        flows
    });
    let accepting = cluster.accept(25);
    let flows = cluster.world.wait(&opening, seconds(2)).unwrap();
    let at =
        |cluster: &Cluster| cluster.servers.iter().map(|&server| cluster.world.stats(server).flows).collect::<Vec<_>>();
    let before = at(&cluster);
    assert!(before.iter().filter(|&&flows| flows > 0).count() > 1, "{before:?}");
    cluster.world.restart(client, NicConfig { port: home, ..nic() }, config());
    drop(flows);
    let node = cluster.node(0);
    let talking = cluster.world.spawn("a flow of the second", async move {
        let mut flow = node.connect(to).await.expect("a flow");
        flow.send("again").await.expect("an open flow");
        flow
    });
    let flow = cluster.world.wait(&talking, seconds(2)).unwrap();
    // Long before anybody's silence counts.
    let accepted = cluster.world.wait(&accepting, millis(1)).unwrap();
    cluster.world.run_for(millis(1)).unwrap();
    let ended = accepted.iter().filter(|flow| flow.state().reason() == Some(CloseReason::Reset)).count();
    run.figure("flows", format!("{before:?} of the first start, of which {ended} ended"));
    assert_eq!(ended, 24);
    drop((flow, accepted));
    cluster.world.settle(2 * TOMBSTONES).unwrap();
}

fn ethernet(run: &Run) {
    for (clients, servers, rss) in [(4, 3, Rss::Random), (2, 4, Rss::Toeplitz), (3, 3, Rss::Wrong)] {
        let mut cluster = Cluster::ethernet(run, &link(), Host::of(clients, rss), Host::of(servers, rss));
        let talk = cluster.talk(&mut run.rng(), 0, 12, 200, 20_000);
        // Before any engine asks a second time.
        cluster.finish(&talk, millis(500));
        let ratio = cluster.note(run, &format!("{rss:?}, {clients} and {servers} engines"));
        assert!(rss == Rss::Wrong || ratio < 0.2, "{ratio}");
        // Longer than a neighbour is believed without asking.
        let later = cluster.idle(1, seconds(40));
        cluster.finish(&later, seconds(40) + millis(500));
        cluster.end(&talk);
    }
}

fn single(run: &Run) {
    for (clients, servers) in [(Host::SINGLE, Host::of(4, Rss::Random)), (Host::of(4, Rss::Random), Host::SINGLE)] {
        let mut cluster = Cluster::new(run, &link(), clients, servers);
        let talk = cluster.talk(&mut run.rng(), 0, 8, 100, 20_000);
        cluster.finish(&talk, seconds(10));
        cluster.note(run, &format!("{} and {} engines", clients.engines, servers.engines));
        cluster.world.run_for(millis(1)).unwrap();
        cluster.end(&talk);
    }
}
