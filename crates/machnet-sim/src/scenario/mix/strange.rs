//! What no honest network and no healthy peer does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use machnet_channel::{CloseReason, FlowState};

use super::leave::Habit;
use super::{draw, leave};
use crate::scenario::Run;
use crate::setup::{PORT, config, ip, micros, millis, nic, seconds};
use crate::{Corruption, Dialog, Link, NicConfig, Plan, Trouble, Verdict};

/// Damage that no checksum notices may change what it likes: contents, credit, acknowledgements, the end of a flow. It
/// may not panic, livelock, leak a frame or a buffer, or leave a flow behind once the applications are gone.
pub(super) fn damage(run: &Run) {
    let rng = &mut run.rng();
    let link = Link { delay: micros(1 + rng.log_uniform(300) as u64), ..Link::hostile(Corruption::Unnoticed) };
    let mut pair = run.pair_of(&link, draw::nic_config(rng), config());
    let mut dialog = draw::dialog(rng, PORT, 24, 1 << 20);
    dialog.verify = false;
    let tasks = dialog.start_tolerant(&mut pair.world, pair.a, pair.b);
    if let Err(failure) = pair.world.run(seconds(20)) {
        assert!(matches!(failure.trouble, Trouble::Stuck | Trouble::OutOfTime), "{failure}");
        pair.world.cancel();
    }
    drop(tasks);
    pair.world.settle(seconds(60)).unwrap();
}

/// A packet, from whom and to whom.
type Caught = (SocketAddr, SocketAddr, Vec<u8>);

/// Packets of the dialog come again, from the peer and from a stranger, some altered; and random ones. From whom could
/// not have sent them they change nothing.
pub(super) fn forged(run: &Run) {
    let rng = &mut run.rng();
    let mut pair = run.pair(&Link::with_delay(micros(1 + rng.below(100))));
    let fabric = pair.world.fabric().clone();
    let stranger = SocketAddr::new(ip(66), 6666);
    let host = fabric.host(stranger.ip());
    for machine in [pair.a, pair.b] {
        fabric.join(host, pair.world.host(machine), Link::default(), Link::default());
    }
    let caught: Arc<Mutex<Vec<Caught>>> = Arc::default();
    for link in [pair.there, pair.back] {
        let caught = Arc::clone(&caught);
        fabric.also_filter(
            link,
            Box::new(move |seen| {
                let mut caught = caught.lock().unwrap();
                if caught.len() < 500 {
                    caught.push((seen.from, seen.to, seen.payload.to_vec()));
                }
                Verdict::Pass
            }),
        );
    }
    let dialog = draw::dialog(rng, PORT, 24, 1 << 17);
    let tasks = pair.start(&dialog);
    for _ in 0..200 {
        pair.world.run_for(micros(1 + rng.below(50))).unwrap();
        let (from, to, mut packet) = {
            let caught = caught.lock().unwrap();
            let Some(packet) = caught.get(rng.below(caught.len() as u64) as usize) else { continue };
            packet.clone()
        };
        match rng.below(4) {
            // The peer's, again.
            0 => fabric.inject(from, to, &packet),
            // The same from elsewhere.
            1 => fabric.inject(stranger, to, &packet),
            // Altered, from elsewhere.
            2 => {
                for _ in 0..1 + rng.below(8) {
                    let bit = rng.below(packet.len() as u64 * 8) as usize;
                    packet[bit / 8] ^= 1 << (bit % 8);
                }
                fabric.inject(stranger, to, &packet);
            }
            // In the peer's name, by somebody who does not know the flow's id.
            _ => {
                packet.truncate(16 + rng.below(1400) as usize);
                rng.fill(&mut packet[4..]);
                fabric.inject(from, to, &packet);
            }
        }
    }
    pair.world.run(seconds(30)).unwrap();
    dialog.check(&tasks.map(|task| task.take().expect("the task is done")));
    pair.world.settle(seconds(30)).unwrap();
}

/// A peer that restarts, or whose path is cut for good, in the middle of a dialog: the other side is told, in time and
/// why, and serves the next flow as ever.
pub(super) fn gone(run: &Run) {
    let rng = &mut run.rng();
    let mut pair = run.pair(&Link::with_delay(micros(1 + rng.below(100))));
    let (mut a, mut b) = pair.open();
    let loss = 0.05 * rng.unit();
    for link in [pair.there, pair.back] {
        pair.world.fabric().reconfigure(link, |link| link.loss = loss);
    }
    // Ends whenever the other side does, however that goes.
    let plan = Plan::fixed(rng.word(), 2000, 10_000);
    let sent = plan.clone();
    let survivor = pair.world.spawn("survivor", async move {
        let (_, state) = sent.send(&mut a.send).await;
        let state = match state {
            Some(state) => state,
            None => a.reaches(FlowState::CLOSED).await,
        };
        state.reason()
    });
    pair.world.spawn("victim", async move {
        let mut index = 0;
        while let Some(message) = b.receive().await {
            plan.verify(index, message.as_slice());
            index += 1;
        }
    });
    pair.world.run_for(micros(200 + rng.below(5000))).unwrap();
    let restarts = rng.below(2) == 0;
    if restarts {
        // Frames of the old engine that applications hold go home to nobody, as those of a process that died.
        pair.world.restart(pair.b, nic(), config());
    } else {
        let from = pair.world.now();
        for link in [pair.there, pair.back] {
            pair.world.fabric().also_filter(link, crate::fault::outage(from..from + seconds(20)));
        }
    }
    let reason = pair.world.wait(&survivor, seconds(15)).unwrap();
    let expected = if restarts { [CloseReason::Reset, CloseReason::PeerDead] } else { [CloseReason::PeerDead; 2] };
    assert!(reason.is_some_and(|reason| expected.contains(&reason)), "{reason:?}");
    pair.world.run_for(seconds(25)).unwrap();
    let dialog = Dialog { port: PORT + 1, ..Dialog::new(Plan::fixed(1, 3, 3000), Plan::fixed(2, 3, 3000)) };
    let tasks = pair.start(&dialog);
    pair.world.run(seconds(30)).unwrap();
    dialog.check(&tasks.map(|task| task.take().expect("the task is done")));
    pair.world.run_for(millis(1)).unwrap();
    pair.world.settle(seconds(30)).unwrap();
}

/// A host that stands still for longer than others believe it to live, little memory, and applications that leave in the
/// meantime, so that ABORTs and ends are lost altogether: every application learns the end of its flow, and nothing is left.
pub(super) fn stopped(run: &Run) {
    let rng = &mut run.rng();
    let mut config = draw::engine_config(rng);
    config.max_payload = 1232;
    let nic = NicConfig { rx_descriptors: draw::one_of(rng, &[64, 256]), ..nic() };
    let loss = draw::one_of(rng, &[0.0, 0.01, 0.1]);
    let mut pair = run.pair_of(&Link { loss, ..Link::with_delay(micros(1 + rng.below(100))) }, nic, config);
    let mut sides = Vec::new();
    for _ in 0..1 + rng.below(6) {
        let (a, b) = pair.open();
        let plans = [(); 2].map(|()| Plan::log_uniform(rng.word(), rng.below(20) as usize, 1 << 20, rng));
        for (side, flow) in [a, b].into_iter().enumerate() {
            let (outgoing, incoming) = (plans[side].clone(), plans[1 - side].clone());
            let handle = pair.world.handle().clone();
            let habit = Habit::draw(rng, outgoing.len());
            let writing = pair.world.spawn("writer", leave::write(flow.send, outgoing, habit, handle.clone()));
            let habit = Habit::draw(rng, incoming.len());
            let reading = pair.world.spawn("reader", leave::read(flow.recv, incoming, habit, handle));
            sides.push((writing, reading));
        }
    }
    for _ in 0..1 + rng.below(4) {
        pair.world.run_for(micros(rng.log_uniform(2_000_000) as u64)).unwrap();
        pair.world.pause(draw::one_of(rng, &[pair.a, pair.b]), micros(rng.log_uniform(12_000_000) as u64));
    }
    pair.world.run(seconds(300)).unwrap();
    let ends: Vec<_> = sides.iter().map(|(writing, reading)| (writing.take(), reading.take())).collect();
    for (index, (_, reading)) in ends.iter().enumerate() {
        let (received, end) = reading.expect("the task is done");
        let (posted, _) = ends[index ^ 1].0.expect("the task is done");
        assert!(received <= posted, "reader {index} received {received} of {posted}");
        let Some(end) = end else { continue };
        if end.has(FlowState::READ_ENDED) {
            assert_eq!(received, posted, "reader {index}: {end:?}");
        } else {
            assert!(end.reason().is_some(), "reader {index}: {end:?}");
        }
    }
    pair.world.settle(seconds(120)).unwrap();
}
