//! Applications that leave when they like: what was read is the beginning of what was sent; a stream that ended in
//! order is complete; and nothing is left behind.

use std::time::Duration;

use machnet_channel::{CloseReason, FlowState};

use super::draw;
use crate::scenario::Run;
use crate::setup::{micros, seconds};
use crate::{Flow, Handle, Link, Plan, SimRng, receive, send};

/// How a direction of the flow is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Everything is sent, or read, and the direction ends in order.
    Complete,
    /// The end is dropped in the middle.
    Leave,
    /// The whole flow is aborted in the middle.
    Abort,
}

/// When and how an end is left, and the pause after each message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habit {
    exit: Exit,
    stop_at: usize,
    pause: Duration,
}

impl Habit {
    pub(super) fn draw(rng: &mut SimRng, messages: usize) -> Self {
        let exit = draw::one_of(rng, &[Exit::Complete, Exit::Complete, Exit::Leave, Exit::Abort]);
        Self { exit, stop_at: rng.below(1 + messages as u64) as usize, pause: rng.duration(micros(500)) }
    }

    fn goes_on(self, done: usize) -> bool {
        self.exit == Exit::Complete || done < self.stop_at
    }
}

pub(super) fn leave(run: &Run) {
    let rng = &mut run.rng();
    let loss = draw::one_of(rng, &[0.0, 0.01, 0.1]);
    let link = Link { loss, reorder: loss, duplicate: loss, ..Link::with_delay(micros(1 + rng.below(100))) };
    let mut pair = run.pair(&link);
    let (a, b) = pair.open();
    let plans = [(); 2].map(|()| Plan::log_uniform(rng.word(), rng.below(20) as usize, 1 << 16, rng));
    let mut sides = Vec::new();
    for (side, flow) in [a, b].into_iter().enumerate() {
        let Flow { send, recv } = flow;
        let (outgoing, incoming, handle) = (plans[side].clone(), plans[1 - side].clone(), pair.world.handle().clone());
        let habit = Habit::draw(rng, outgoing.len());
        let writing = pair.world.spawn(format!("writer {side}"), write(send, outgoing, habit, handle.clone()));
        let habit = Habit::draw(rng, incoming.len());
        let reading = pair.world.spawn(format!("reader {side}"), read(recv, incoming, habit, handle));
        sides.push((writing, reading));
    }
    pair.world.run(seconds(30)).unwrap();
    let writers: Vec<_> = sides.iter().map(|(writing, _)| writing.take().expect("the task is done")).collect();
    for (side, (_, reading)) in sides.iter().enumerate() {
        let (received, end) = reading.take().expect("the task is done");
        let (posted, _) = writers[1 - side];
        assert!(received <= posted, "side {side} received {received} of {posted}");
        let Some(end) = end else { continue };
        if end.has(FlowState::READ_ENDED) {
            assert_eq!(received, posted, "side {side}: {end:?}");
        } else {
            let reason = end.reason().expect("why no more messages come");
            assert!(writers.iter().any(|&(_, exit)| exit == Exit::Abort), "side {side}: {end:?}");
            assert!(matches!(reason, CloseReason::Aborted | CloseReason::Reset), "side {side}: {end:?}");
        }
    }
    pair.world.settle(seconds(30)).unwrap();
}

/// How many messages were posted, and how the end was left.
pub(super) async fn write(
    mut end: machnet_channel::SendEnd,
    plan: Plan,
    habit: Habit,
    handle: Handle,
) -> (usize, Exit) {
    let mut posted = 0;
    while posted < plan.len() && habit.goes_on(posted) {
        if send(&mut end, plan.message(posted)).await.is_err() {
            return (posted, habit.exit);
        }
        posted += 1;
        handle.sleep(habit.pause).await;
    }
    if habit.exit == Exit::Abort {
        end.abort();
    }
    (posted, habit.exit)
}

/// How many messages were read, and the state if no more came.
pub(super) async fn read(
    mut end: machnet_channel::RecvEnd,
    plan: Plan,
    habit: Habit,
    handle: Handle,
) -> (usize, Option<FlowState>) {
    let mut count = 0;
    while habit.goes_on(count) {
        let Some(message) = receive(&mut end).await else { return (count, Some(end.mailbox().state())) };
        plan.verify(count, message.as_slice());
        count += 1;
        handle.sleep(habit.pause).await;
    }
    (count, None)
}
