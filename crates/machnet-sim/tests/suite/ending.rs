//! How flows end: in order, by one side, without a word, and with every single packet of the end lost.

use std::future::poll_fn;
use std::time::Duration;

use machnet_channel::{CloseReason, FlowState};
use machnet_sim::{Link, NicConfig, Pace, Plan, Verdict};

use crate::common::{Chunk, Dialog, TOMBSTONES, config, micros, millis, nic, pair, read, seconds};

/// A dialog small enough to lose each of its packets in turn.
fn short() -> Dialog {
    Dialog::new(Plan::new(1, vec![10, 3000, 0]), Plan::new(2, vec![2000, 20]))
}

/// How many packets the short dialog takes each way.
fn packets() -> [u64; 2] {
    let mut pair = pair(1, &Link::with_delay(micros(50)));
    pair.run(&short(), seconds(5));
    [pair.there, pair.back].map(|link| pair.world.fabric().link_stats(link).offered)
}

/// Runs the short dialog without the packets that `there` and `back` name by their index.
fn run_without(there: &'static [u64], back: &'static [u64]) {
    let mut pair = pair(1, &Link::with_delay(micros(50)));
    for (link, lost) in [(pair.there, there), (pair.back, back)] {
        let verdict = |lost: bool| if lost { Verdict::Drop } else { Verdict::Pass };
        pair.world.fabric().filter(link, move |seen| verdict(lost.contains(&seen.index)));
    }
    let dialog = short();
    let tasks = pair.start(&dialog);
    pair.world.run(seconds(5)).unwrap_or_else(|failure| panic!("without {there:?} and {back:?}: {failure}"));
    dialog.check(&tasks.map(|task| task.take().unwrap()));
    let took = pair.world.now();
    assert!(took.0 < 500_000_000, "without {there:?} and {back:?}: {took:?}");
    pair.world.settle(TOMBSTONES).unwrap_or_else(|failure| panic!("without {there:?} and {back:?}: {failure}"));
}

fn leak(indices: &[u64]) -> &'static [u64] {
    Vec::leak(indices.to_vec())
}

/// INIT, ACCEPT, first data, FIN, last acknowledgement: each is some packet, and any of them may be lost.
#[test]
fn any_one_packet_may_be_lost() {
    let [there, back] = packets();
    assert!(there >= 3 && back >= 3, "{there} and {back} packets");
    for i in 0..=there {
        run_without(leak(&[i]), &[]);
    }
    for i in 0..=back {
        run_without(&[], leak(&[i]));
    }
}

#[test]
fn any_two_packets_may_be_lost() {
    let [there, back] = packets();
    for i in 0..=there {
        for j in 0..=back {
            run_without(leak(&[i]), leak(&[j]));
        }
        run_without(leak(&[i, i + 1]), &[]);
    }
    for j in 0..=back {
        run_without(&[], leak(&[j, j + 1]));
    }
}

#[test]
fn a_lost_fin_is_repeated() {
    for (both, copies) in [(false, 1), (false, 3), (true, 2)] {
        let mut pair = pair(2, &Link::with_delay(micros(50)));
        for link in if both { vec![pair.there, pair.back] } else { vec![pair.there] } {
            let mut left = copies;
            pair.world.fabric().filter(link, move |seen| {
                let fin = read(seen.payload).has(|chunk| *chunk == Chunk::Fin);
                if fin && left > 0 {
                    left -= 1;
                    return Verdict::Drop;
                }
                Verdict::Pass
            });
        }
        pair.run(&short(), seconds(5));
        assert_eq!(pair.world.fabric().link_stats(pair.there).filtered, copies);
    }
}

/// The last packets of one side are lost for a while: the other's tombstone answers, and nobody sees a reset.
#[test]
fn lost_last_acknowledgements_end_in_order() {
    for silence in [millis(1), millis(20), millis(60)] {
        let mut pair = pair(3, &Link::with_delay(micros(50)));
        let mut deaf_until = None;
        pair.world.fabric().filter(pair.back, move |seen| {
            // From B's FIN on.
            let fin = read(seen.payload).has(|chunk| *chunk == Chunk::Fin);
            if fin && deaf_until.is_none() {
                deaf_until = Some(seen.at + silence);
                return Verdict::Pass;
            }
            if deaf_until.is_some_and(|until| seen.at < until) { Verdict::Drop } else { Verdict::Pass }
        });
        pair.run(&short(), seconds(5));
    }
}

#[test]
fn half_closed_flows_go_on_in_the_other_direction() {
    let mut pair = pair(4, &Link::with_delay(micros(20)));
    let (mut a, mut b) = pair.open();
    let plan = Plan::fixed(1, 20, 5000);
    let sender = plan.clone();
    let handle = pair.world.handle().clone();
    let serving = pair.world.spawn("b", async move {
        // The end first, then the answer.
        assert!(b.receive().await.is_none());
        assert!(b.state().has(FlowState::READ_ENDED) && !b.state().has(FlowState::CLOSED));
        handle.sleep(seconds(20)).await;
        let posted = sender.send(&mut b.send).await;
        b.send.finish();
        (posted, b.reaches(FlowState::CLOSED).await)
    });
    let handle = pair.world.handle().clone();
    let asking = pair.world.spawn("a", async move {
        a.send.finish();
        let acked = a.reaches(FlowState::FIN_ACKED).await;
        assert!(acked.has(FlowState::FIN_ACKED) && !acked.has(FlowState::CLOSED));
        let received = plan.receive(&mut a.recv, &handle, Pace::Eager, true).await;
        (received, a.reaches(FlowState::CLOSED).await)
    });
    pair.world.run(seconds(60)).unwrap();
    let (posted, state) = serving.take().unwrap();
    assert_eq!((posted, state.reason()), ((20, None), Some(CloseReason::Finished)));
    let (received, state) = asking.take().unwrap();
    assert_eq!((received, state.reason()), (20, Some(CloseReason::Finished)));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// A receiver that goes away: the sender is told, and what it had still to send is discarded.
#[test]
fn a_receiver_that_leaves_stops_the_sender() {
    for size in [10, 1200, 100_000] {
        let mut pair = pair(5, &Link::with_delay(micros(20)));
        let (mut a, mut b) = pair.open();
        let plan = Plan::fixed(1, 100_000, size);
        let (sender, receiver) = (plan.clone(), plan);
        let writing = pair.world.spawn("writer", async move {
            let (posted, state) = sender.send(&mut a.send).await;
            a.send.finish();
            (posted, state, a.reaches(FlowState::CLOSED).await)
        });
        let reading = pair.world.spawn("reader", async move {
            for index in 0..7 {
                receiver.verify(index, b.receive().await.unwrap().as_slice());
            }
            drop(b.recv);
            // The other direction ends in order.
            let mut send = b.send;
            send.finish();
            machnet_sim::reaches(&mut send, FlowState::CLOSED).await
        });
        pair.world.run(seconds(5)).unwrap();
        let (posted, state, end) = writing.take().unwrap();
        assert!(posted < 100_000, "{size}");
        assert!(state.unwrap().has(FlowState::WRITE_ENDED), "{size}");
        assert_eq!(end.reason(), Some(CloseReason::Finished), "{size}");
        assert_eq!(reading.take().unwrap().reason(), Some(CloseReason::Finished), "{size}");
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// Everything posted arrives, though nobody waits for it on the sending side, on a link that loses.
#[test]
fn a_sender_that_leaves_has_sent_everything() {
    for loss in [0.0, 0.05] {
        let mut pair = pair(6, &Link { loss, ..Link::with_delay(micros(20)) });
        let (mut a, mut b) = pair.open();
        let plan = Plan::log_uniform(1, 40, 1 << 19, pair.world.rng());
        let (sender, receiver) = (plan.clone(), plan.clone());
        pair.world.spawn("writer", async move {
            let posted = sender.send(&mut a.send).await;
            drop(a);
            posted
        });
        let handle = pair.world.handle().clone();
        let reading = pair.world.spawn("reader", async move {
            let received = receiver.receive(&mut b.recv, &handle, Pace::Eager, true).await;
            (received, b.state())
        });
        pair.world.run(seconds(30)).unwrap();
        let (received, state) = reading.take().unwrap();
        assert_eq!(received, plan.len());
        assert!(state.has(FlowState::READ_ENDED), "{state:?}");
        pair.world.settle(seconds(15)).unwrap();
    }
}

/// Both flows are dropped in the same moment, with messages under way in both directions.
#[test]
fn both_sides_leave_at_once() {
    let mut pair = pair(7, &Link::with_delay(micros(20)));
    let (mut a, mut b) = pair.open();
    let plan = Plan::fixed(1, 5, 10_000);
    let other = plan.clone();
    pair.world.spawn("a", async move {
        plan.send(&mut a.send).await;
        drop(a);
    });
    pair.world.spawn("b", async move {
        other.send(&mut b.send).await;
        drop(b);
    });
    pair.world.run(seconds(1)).unwrap();
    pair.world.settle(seconds(15)).unwrap();
}

#[test]
fn an_abort_reaches_the_peer() {
    for loss in [0.0, 0.2] {
        let mut pair = pair(8, &Link { loss, ..Link::with_delay(micros(20)) });
        let (mut a, mut b) = pair.open();
        let plan = Plan::fixed(1, 1000, 10_000);
        let waiting = pair.world.spawn("b", async move {
            while b.receive().await.is_some() {}
            b.reaches(FlowState::CLOSED).await
        });
        let handle = pair.world.handle().clone();
        let aborting = pair.world.spawn("a", async move {
            for index in 0..10 {
                a.send(plan.message(index)).await.unwrap();
            }
            handle.sleep(micros(30)).await;
            a.send.abort();
            a.reaches(FlowState::CLOSED).await
        });
        pair.world.run(seconds(10)).unwrap();
        assert_eq!(aborting.take().unwrap().reason(), Some(CloseReason::Aborted));
        assert_eq!(waiting.take().unwrap().reason(), Some(CloseReason::Reset));
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// Every ABORT is lost, and the peer lives: another flow leads to it. The flow is asked after, sooner where memory hangs on it.
#[test]
fn an_abort_that_nobody_heard_is_found_out() {
    for (unfinished, limit) in [(true, seconds(6)), (false, seconds(62))] {
        let mut pair = pair(14, &Link::with_delay(micros(20)));
        // The first flow is the one that keepalives go by.
        let others = pair.open();
        let (mut a, mut b) = pair.open();
        pair.world.fabric().filter(pair.there, move |seen| {
            let chunks = read(seen.payload);
            // The beginning of the message arrives.
            let rest = |chunk: &Chunk| matches!(chunk, Chunk::Message { id: 1, offset: 1.., .. });
            if chunks.has(|chunk| *chunk == Chunk::Abort || rest(chunk)) { Verdict::Drop } else { Verdict::Pass }
        });
        let handle = pair.world.handle().clone();
        let aborting = pair.world.spawn("a", async move {
            a.send(&b"hello"[..]).await.unwrap();
            if unfinished {
                a.send(vec![1; 100_000]).await.unwrap();
            }
            handle.sleep(millis(1)).await;
            a.send.abort();
            a.reaches(FlowState::CLOSED).await
        });
        let waiting = pair.world.spawn("b", async move {
            assert!(b.receive().await.is_some() && b.receive().await.is_none());
            b.reaches(FlowState::CLOSED).await
        });
        assert_eq!(pair.world.wait(&aborting, seconds(1)).unwrap().reason(), Some(CloseReason::Aborted));
        let aborted = pair.world.now();
        assert_eq!(pair.world.wait(&waiting, limit).unwrap().reason(), Some(CloseReason::Reset));
        let took = pair.world.now().since(aborted);
        assert!(took > limit - seconds(2), "{took:?}");
        drop(others);
        pair.world.settle(TOMBSTONES).unwrap();
    }
}

/// FIN arrived, a message before it did not, and then the flow breaks: that is no end of the stream.
#[test]
fn a_broken_flow_does_not_look_read_to_the_end() {
    for abort in [true, false] {
        let mut pair = pair(10, &Link::with_delay(micros(20)));
        let (mut a, mut b) = pair.open();
        pair.world.fabric().filter(pair.there, |seen| {
            // Message 1, whenever it comes; not what follows it.
            let lost = read(seen.payload).has(|chunk| matches!(chunk, Chunk::Message { id: 1, .. }));
            if lost { Verdict::Drop } else { Verdict::Pass }
        });
        let handle = pair.world.handle().clone();
        let sending = pair.world.spawn("a", async move {
            a.send(vec![0; 10]).await.unwrap();
            handle.sleep(millis(1)).await;
            a.send(vec![1; 5000]).await.unwrap();
            a.send(vec![2; 1200]).await.unwrap();
            a.send.finish();
            handle.sleep(millis(50)).await;
            if abort {
                a.send.abort();
            }
            a.reaches(FlowState::CLOSED).await
        });
        let reading = pair.world.spawn("b", async move {
            // Something that is never acknowledged, so that this side notices a dead peer too.
            let mut count = 0;
            while b.receive().await.is_some() {
                count += 1;
            }
            (count, b.state())
        });
        if !abort {
            pair.world.run_for(millis(40)).unwrap();
            pair.world.restart(pair.a, NicConfig { port: 49_152, ..nic() }, config());
            pair.world.shut_down(pair.b);
        }
        pair.world.run(seconds(60)).unwrap();
        let (count, state) = reading.take().unwrap();
        assert_eq!(count, 1);
        assert!(!state.has(FlowState::READ_ENDED), "{state:?}");
        assert!(state.reason().is_some() && state.reason() != Some(CloseReason::Finished), "{state:?}");
        assert!(sending.take().unwrap().reason().is_some());
        pair.world.settle(seconds(15)).unwrap();
    }
}

/// The link dies under a busy flow: the sender learns of it at the configured limit, and forgets the flow.
#[test]
fn a_peer_that_vanishes_is_declared_dead() {
    let mut pair = pair(9, &Link::with_delay(micros(20)));
    let (mut a, b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    for link in [pair.there, pair.back] {
        pair.world.fabric().reconfigure(link, |link| link.loss = 1.0);
    }
    let start = pair.world.now();
    let writing = pair.world.spawn("a", async move {
        a.send(&b"anybody there?"[..]).await.unwrap();
        a.reaches(FlowState::CLOSED).await
    });
    let state = pair.world.wait(&writing, seconds(10)).unwrap();
    let took = pair.world.now().since(start);
    assert_eq!(state.reason(), Some(CloseReason::PeerDead));
    // Counted from the last sign of life, which was up to 10 ms before the link died.
    assert!(took >= millis(4_990) && took < seconds(7), "{took:?}");
    // B has nothing outstanding until its application leaves; then it lingers, and gives up too.
    drop(b);
    pair.world.settle(seconds(30)).unwrap();
}

/// The endpoint is shut down with messages under way: what was posted arrives, and the engine ends.
#[test]
fn a_shutdown_sends_what_was_posted() {
    for loss in [0.0, 0.05] {
        let mut pair = pair(11, &Link { loss, ..Link::with_delay(micros(20)) });
        let (mut a, mut b) = pair.open();
        let plan = Plan::fixed(1, 10, 100_000);
        let (sender, receiver) = (plan.clone(), plan.clone());
        let writing = pair.world.spawn("a", async move {
            sender.send(&mut a.send).await;
            a
        });
        let mut a = pair.world.wait(&writing, seconds(1)).unwrap();
        pair.world.shut_down(pair.a);
        let handle = pair.world.handle().clone();
        let reading = pair.world.spawn("b", async move {
            let count = receiver.receive(&mut b.recv, &handle, Pace::Eager, true).await;
            (count, b.state())
        });
        let (count, state) = pair.world.wait(&reading, seconds(10)).unwrap();
        assert_eq!(count, plan.len());
        assert!(state.has(FlowState::READ_ENDED), "{state:?}");
        let ending = pair.world.spawn("a ends", async move { a.reaches(FlowState::CLOSED).await });
        assert!(pair.world.wait(&ending, seconds(20)).unwrap().reason().is_some());
        pair.world.settle(seconds(20)).unwrap();
        assert!(pair.world.is_finished(pair.a));
        // Nothing new begins there.
        let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(7));
        let late = pair.world.spawn("late", async move { node.connect(to).await.map(drop) });
        assert_eq!(pair.world.wait(&late, seconds(1)).unwrap(), Err(CloseReason::Shutdown));
    }
}

/// Flows that nobody accepted end with their listener, and their initiators hear of it.
#[test]
fn a_listener_that_leaves_takes_its_backlog_with_it() {
    let mut pair = pair(12, &Link::with_delay(micros(20)));
    let listener = pair.listen();
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(crate::common::PORT));
    let connecting = pair.world.spawn("connect", async move { node.connect(to).await.unwrap() });
    let mut flow = pair.world.wait(&connecting, seconds(1)).unwrap();
    pair.world.run_for(millis(1)).unwrap();
    drop(listener);
    let waiting = pair.world.spawn("a", async move {
        assert!(flow.receive().await.is_none());
        let state = flow.reaches(FlowState::WRITE_ENDED).await;
        drop(flow);
        state
    });
    let state = pair.world.wait(&waiting, seconds(2)).unwrap();
    assert!(state.has(FlowState::WRITE_ENDED), "{state:?}");
    pair.world.settle(seconds(15)).unwrap();
}

/// The application loses interest while the handshake goes on, at every moment of it.
#[test]
fn a_connect_that_is_dropped_leaves_nothing() {
    for after in 0..60 {
        let mut pair = pair(13, &Link::with_delay(micros(20)));
        let mut listener = pair.listen();
        let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(crate::common::PORT));
        pair.world.spawn("connect", async move { node.connect(to).await.map(drop) });
        pair.world.run_for(micros(after)).unwrap();
        pair.world.cancel();
        let accepting = pair.world.spawn("accept", async move {
            while let Some(mut flow) = listener.accept().await {
                while flow.receive().await.is_some() {}
            }
        });
        pair.world.settle(seconds(30)).unwrap_or_else(|failure| panic!("after {after} µs: {failure}"));
        assert!(!accepting.is_done());
    }
}

/// A flow whose peer's application reads nothing for `unread`: how long after its FIN the sender heard of it, and how the
/// flow stood then.
fn finishes_unread(unread: Duration) -> (Duration, FlowState) {
    let mut pair = pair(14, &Link::with_delay(micros(20)));
    let (mut a, mut b) = pair.open();
    // More than the peer's window: the end cannot be stored there, and what is not stored is not acknowledged.
    let plan = Plan::fixed(1, 2 * config().receive_window as usize / 10_000, 10_000);
    let (sender, receiver) = (plan.clone(), plan.clone());
    let handle = pair.world.handle().clone();
    let finishing = pair.world.spawn("a", async move {
        for message in 0..plan.len() {
            // Over the room, as a stream that is shut down does: FIN is not to wait for the reader.
            a.send.post_over(sender.message(message));
        }
        a.send.finish();
        let before = handle.now();
        let settled = |state: FlowState| state.has(FlowState::FIN_LATE) || state.has(FlowState::FIN_ACKED);
        let said = poll_fn(|cx| a.send.poll_state(cx, settled)).await;
        let took = handle.now().since(before);
        // Late or not, everything arrives, and then the end.
        let acked = a.reaches(FlowState::FIN_ACKED).await;
        assert!(acked.has(FlowState::FIN_ACKED) && !acked.has(FlowState::CLOSED), "{acked:?}");
        assert_eq!(acked.has(FlowState::FIN_LATE), said.has(FlowState::FIN_LATE), "{acked:?}");
        (took, said, a)
    });
    let handle = pair.world.handle().clone();
    let reading = pair.world.spawn("b", async move {
        handle.sleep(unread).await;
        let received = receiver.receive(&mut b.recv, &handle, Pace::Eager, true).await;
        assert_eq!(received, receiver.len());
        b
    });
    let (took, said, a) = pair.world.wait(&finishing, seconds(60)).unwrap();
    drop((a, pair.world.wait(&reading, seconds(1)).unwrap()));
    pair.world.settle(TOMBSTONES).unwrap();
    (took, said)
}

/// FIN_LATE: what bounds the `shutdown` of a stream.
#[test]
fn a_fin_that_is_not_acknowledged_within_linger_is_said_to_be_late() {
    let linger = config().linger;
    let (took, said) = finishes_unread(linger + seconds(7));
    assert!(said.has(FlowState::FIN_LATE) && !said.has(FlowState::FIN_ACKED), "{said:?}");
    // To a round of the engine.
    assert!(took >= linger && took < linger + millis(1), "{took:?}");
}

#[test]
fn a_fin_that_is_acknowledged_within_linger_is_not_late() {
    for before in [micros(500), seconds(1)] {
        let linger = config().linger;
        let (took, said) = finishes_unread(linger - before - millis(10));
        assert!(said.has(FlowState::FIN_ACKED) && !said.has(FlowState::FIN_LATE), "{said:?}");
        assert!(took < linger, "{took:?}");
    }
}

/// Acknowledged, a half-closed flow may stay for as long as it likes; and nothing is late that was never finished.
#[test]
fn what_is_late_is_the_fin_and_not_the_flow() {
    let mut pair = pair(15, &Link::with_delay(micros(20)));
    let (mut a, b) = pair.open();
    a.send.finish();
    pair.world.run_for(10 * config().linger).unwrap();
    for flow in [&a, &b] {
        assert!(!flow.state().has(FlowState::FIN_LATE) && !flow.state().has(FlowState::CLOSED), "{:?}", flow.state());
    }
    drop((a, b));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// A late flow that is dropped has its linger once more, and is then aborted.
#[test]
fn a_late_flow_that_is_dropped_lingers_once_more() {
    let linger = config().linger;
    let mut pair = pair(16, &Link::with_delay(micros(20)));
    let (mut a, mut b) = pair.open();
    let plan = Plan::fixed(1, 2 * config().receive_window as usize / 10_000, 10_000);
    for message in 0..plan.len() {
        a.send.post_over(plan.message(message));
    }
    a.send.finish();
    pair.world.run_for(linger + millis(1)).unwrap();
    assert!(a.state().has(FlowState::FIN_LATE) && !a.state().has(FlowState::CLOSED), "{:?}", a.state());
    pair.world.run_for(linger).unwrap();
    assert!(!a.state().has(FlowState::CLOSED), "{:?}", a.state());
    drop(a);
    let before = pair.world.now();
    let told = pair.world.spawn("b", async move { b.reaches(FlowState::CLOSED).await });
    let state = pair.world.wait(&told, 2 * linger).unwrap();
    let took = pair.world.now().since(before);
    assert_eq!(state.reason(), Some(CloseReason::Reset));
    assert!(took >= linger && took < linger + millis(1), "{took:?}");
    pair.world.settle(TOMBSTONES).unwrap();
}
