//! One scenario per bug that a review found.

use std::sync::{Arc, Mutex};

use machnet_channel::{CloseReason, FlowState};
use machnet_core::{Config, DropReason};
use machnet_sim::{Link, NicConfig, Verdict};

use crate::common::{Chunk, PORT, Pair, Seen, TOMBSTONES, listen, micros, millis, read, seconds, world_config};

/// The first message never arrives, its FIN does: that the flow is over must not make the loss look acknowledged.
#[test]
fn an_acknowledged_fin_does_not_hide_a_lost_message() {
    let mut pair = Pair::new(1, &Link::with_delay(micros(50)));
    pair.world.fabric().filter(pair.there, |seen| {
        let lost = read(seen.payload).has(|chunk| matches!(chunk, Chunk::Message { id: 0, .. }));
        if lost { Verdict::Drop } else { Verdict::Pass }
    });
    let (mut a, mut b) = pair.open();
    let sender = pair.world.spawn("a", async move {
        a.send(vec![1; 1100]).await.unwrap();
        a.send(vec![2; 1100]).await.unwrap();
        a.send.finish();
        let state = a.reaches(FlowState::CLOSED).await;
        (state, a.send.acknowledged(), a.send.posted())
    });
    let reader = pair.world.spawn("b", async move { b.receive().await.map(|message| message.len()) });
    let (state, acknowledged, posted) = pair.world.wait(&sender, seconds(20)).unwrap();
    assert_eq!(state.reason(), Some(CloseReason::PeerDead));
    assert!(!state.has(FlowState::FIN_ACKED), "{state:?}");
    assert!(acknowledged < posted, "{acknowledged} of {posted} units acknowledged");
    assert_eq!(pair.world.wait(&reader, seconds(20)).unwrap(), None);
}
