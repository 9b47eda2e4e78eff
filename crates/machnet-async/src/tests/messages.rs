//! Flows as streams and sinks.

use std::pin::pin;

use futures::{FutureExt, Sink, SinkExt, StreamExt};

use super::api::{acknowledge, sent};
use super::*;
use crate::{Messages, TrySendError};

#[test]
fn a_flow_as_a_stream_ends_once() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    rig.deliver(slot, "a");
    rig.deliver(slot, "");
    rig.set_state(slot, FlowState::OPEN.with(FlowState::READ_ENDED));
    let mut messages = flow.into_messages();
    let received: Vec<_> = block_on(messages.by_ref().map(Result::unwrap).collect());
    assert_eq!(received, ["a", ""]);
    assert!(block_on(messages.next()).is_none());

    let (flow, slot) = rig.flow(&endpoint);
    rig.deliver(slot, "a");
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    let received: Vec<_> = block_on(flow.into_messages().map(|m| m.map_err(|e| e.kind())).collect());
    // An error that came again and again would keep a loop busy for ever.
    assert_eq!(received.len(), 2);
    assert_eq!(received[1].as_ref().unwrap_err(), &ErrorKind::ConnectionReset);
}

#[test]
fn a_flow_as_a_sink_is_ready_flushed_and_closed() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 2);
    let mut messages = flow.into_messages();
    // Flushed is what the engine has.
    block_on(messages.send("one".into())).unwrap();
    let mut feed = Task::new(messages.feed("two".into()));
    assert!(feed.poll().is_pending());
    rig.room(slot, 100);
    assert_eq!(feed.woken(), 1);
    ready(feed.poll()).unwrap();
    drop(feed);
    assert_eq!(block_on(messages.send(vec![0; LIMIT + 1].into())).unwrap_err().kind(), ErrorKind::InvalidInput);
    block_on(messages.flush()).unwrap();
    // Closed is what the peer has; receiving goes on.
    let mut close = Task::new(messages.close());
    assert!(close.poll().is_pending());
    assert_eq!(rig.channel.intent(slot), Intent::FIN);
    acknowledge(&mut rig, slot, 4);
    rig.set_state(slot, FlowState::OPEN.with(FlowState::FIN_ACKED));
    assert_eq!(close.woken(), 1);
    ready(close.poll()).unwrap();
    drop(close);
    block_on(messages.close()).unwrap();
    assert_eq!(block_on(messages.send("late".into())).unwrap_err().kind(), ErrorKind::BrokenPipe);
    rig.deliver(slot, "reply");
    assert_eq!(block_on(messages.next()).unwrap().unwrap(), "reply");
    let mut flow = messages.into_flow();
    assert_eq!(flow.try_recv().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(sent(&mut rig, slot), ["one", "two"]);
}

#[test]
fn a_sink_fails_when_the_flow_does() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    let mut messages = flow.into_messages();
    block_on(messages.feed("lost".into())).unwrap();
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    assert_eq!(block_on(messages.flush()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(block_on(messages.feed("x".into())).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(block_on(messages.close()).unwrap_err().kind(), ErrorKind::ConnectionReset);

    // Who does not ask for room may find none, and gets the message back.
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 0);
    let mut messages = pin!(flow.into_messages());
    let error = Sink::start_send(messages.as_mut(), "x".into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(error.into_inner().unwrap().downcast::<TrySendError>().unwrap().into_message(), "x");
}

/// Flushes until the sink is ready, as tarpc does; counts how often it asked.
pub(super) fn poll_ready_by_flushing(
    mut messages: Pin<&mut Messages>,
    cx: &mut Context<'_>,
    asked: &mut usize,
) -> Poll<std::io::Result<()>> {
    loop {
        *asked += 1;
        assert!(*asked < 100_000, "it never yields");
        match messages.as_mut().poll_ready(cx) {
            Poll::Pending => std::task::ready!(messages.as_mut().poll_flush(cx)?),
            ready => return ready,
        }
    }
}

#[test]
fn who_flushes_until_the_sink_is_ready_sleeps_until_it_is() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 2);
    let mut messages = flow.into_messages();
    // Nothing waits for room that nobody asked for.
    block_on(messages.send("one".into())).unwrap();
    assert!(messages.flush().now_or_never().is_some());
    let asked = std::cell::Cell::new(0);
    let mut task = Task::new(std::future::poll_fn(|cx| {
        let mut count = asked.get();
        let poll = poll_ready_by_flushing(Pin::new(&mut messages), cx, &mut count);
        asked.set(count);
        poll
    }));
    assert!(task.poll().is_pending());
    assert_eq!((asked.replace(0), task.woken()), (1, 0));
    // Woken for nothing: it asks once, and sleeps on.
    assert!(task.poll().is_pending());
    assert_eq!((asked.replace(0), task.woken()), (1, 0));
    rig.room(slot, 3);
    assert_eq!(task.woken(), 1);
    ready(task.poll()).unwrap();
    assert_eq!(asked.replace(0), 1);
    drop(task);
    block_on(messages.send("two".into())).unwrap();

    // It hears of the end, too.
    rig.room(slot, 0);
    let mut task = Task::new(std::future::poll_fn(|cx| {
        let mut count = 0;
        poll_ready_by_flushing(Pin::new(&mut messages), cx, &mut count)
    }));
    assert!(task.poll().is_pending());
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    assert_eq!(task.woken(), 1);
    assert_eq!(ready(task.poll()).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_two_sides_of_split_messages_wait_apart() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 0);
    let (mut sink, mut stream) = flow.into_messages().split();
    let (mut send, mut next) = (Task::new(sink.send("x".into())), Task::new(stream.next()));
    assert!(send.poll().is_pending() && next.poll().is_pending());
    rig.deliver(slot, "y");
    assert_eq!((send.woken(), next.woken()), (0, 1));
    assert_eq!(ready(next.poll()).unwrap().unwrap(), "y");
    rig.room(slot, 1);
    assert_eq!(send.woken(), 1);
    ready(send.poll()).unwrap();
}
