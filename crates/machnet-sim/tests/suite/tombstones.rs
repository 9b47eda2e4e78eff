//! How long a flow that is over stays to answer its peer: as long as that may ask, and not much longer, for an endpoint that is
//! shut down waits for it.

use machnet_channel::{CloseReason, FlowState};
use machnet_sim::{Link, Verdict};

use crate::common::{Chunk, Pair, config, micros, millis, nic, read, seconds, world_config};

/// Patient about peers, as services whose hosts may stand still are.
fn patient() -> Pair {
    let mut config = config();
    config.dead_peer_timeout = seconds(60);
    Pair::with(21, &Link::with_delay(micros(20)), [nic(); 2], [config; 2], world_config())
}

/// Both sides drop the flow, and what B says is late: A asks again and again, until it hears B's FIN and STOP. That it
/// acknowledges these tells B that nobody will ask any more.
#[test]
fn a_peer_that_has_both_ends_is_not_waited_for() {
    let mut pair = patient();
    let (a, b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    let from = pair.world.now();
    pair.world.fabric().filter(pair.back, move |seen| {
        if seen.at < from + millis(30) { Verdict::Delay(millis(30)) } else { Verdict::Pass }
    });
    let before = pair.world.fabric().link_stats(pair.there).offered;
    drop((a, b));
    pair.world.run_for(millis(30)).unwrap();
    let asked = pair.world.fabric().link_stats(pair.there).offered - before;
    assert!(asked > 4, "{asked} packets: nobody asked twice");
    pair.world.settle(millis(300)).unwrap();
}

/// What B says is lost, its FIN and STOP among it, until A asks again, and hears that B has its own: the flow is over there, but B
/// cannot know. It waits for a few of the longest pauses between questions, however long it would before it believed a peer dead.
#[test]
fn a_peer_that_has_asked_is_waited_for_five_seconds() {
    let mut pair = patient();
    let (a, b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    let from = pair.world.now();
    pair.world.fabric().filter(
        pair.back,
        move |seen| {
            if seen.at < from + millis(5) { Verdict::Drop } else { Verdict::Pass }
        },
    );
    drop((a, b));
    for machine in [pair.a, pair.b] {
        pair.world.shut_down(machine);
    }
    pair.world.run_for(millis(500)).unwrap();
    assert!(pair.world.is_finished(pair.a), "{} flows", pair.world.stats(pair.a).flows);
    pair.world.run_for(seconds(4)).unwrap();
    assert!(!pair.world.is_finished(pair.b), "it would not have answered any more");
    pair.world.run_for(seconds(1)).unwrap();
    assert!(pair.world.is_finished(pair.b), "{} flows", pair.world.stats(pair.b).flows);
}

/// After a question whose answer is lost nothing passes for four seconds, either way: the next question is still answered, and
/// the flow ends in order.
#[test]
fn a_silence_between_two_questions_does_not_cost_the_end() {
    let mut pair = patient();
    let (mut a, mut b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    // B ends first; A answers with its own FIN, and hears nothing of that.
    let mut fins = 0;
    let mut dead_from = None;
    pair.world.fabric().filter(pair.there, move |seen| {
        fins += u32::from(read(seen.payload).has(|chunk| *chunk == Chunk::Fin));
        if fins >= 2 {
            dead_from.get_or_insert(seen.at);
        }
        let dead = dead_from.is_some_and(|from| seen.at > from && seen.at < from + seconds(4));
        if dead { Verdict::Drop } else { Verdict::Pass }
    });
    let mut fin_at = None;
    pair.world.fabric().filter(pair.back, move |seen| {
        let fin = read(seen.payload).has(|chunk| *chunk == Chunk::Fin);
        if fin {
            fin_at.get_or_insert(seen.at);
            return Verdict::Pass;
        }
        if fin_at.is_some_and(|at| seen.at < at + seconds(4)) { Verdict::Drop } else { Verdict::Pass }
    });
    let ending = pair.world.spawn("a", async move {
        assert!(a.receive().await.is_none());
        a.send.finish();
        a.reaches(FlowState::CLOSED).await
    });
    let other = pair.world.spawn("b", async move {
        b.send.finish();
        assert!(b.receive().await.is_none());
        b.reaches(FlowState::CLOSED).await
    });
    for task in [other, ending] {
        assert_eq!(pair.world.wait(&task, seconds(10)).unwrap().reason(), Some(CloseReason::Finished));
    }
    assert!(pair.world.now().0 > 4_000_000_000, "the path was never silent");
    pair.world.settle(seconds(10)).unwrap();
}
