//! `try_send`, `try_recv`, `reserve`, `acked`, `closed`, and taking turns.

use bytes::{BufMut, Bytes};
use futures::{FutureExt, Sink, SinkExt, StreamExt};
use machnet_channel::FlowStats;

use super::*;
use crate::{SendError, TrySendError};

pub(super) fn sent(rig: &mut Rig, slot: Slot) -> Vec<Message> {
    std::iter::from_fn(|| rig.channel.take(slot)).collect()
}

/// The engine says that the first `units` were acknowledged.
pub(super) fn acknowledge(rig: &mut Rig, slot: Slot, units: u64) {
    rig.channel.set_progress(slot, 100, units);
    rig.channel.end_round();
}

#[test]
fn try_send_gives_the_message_back_when_there_is_no_room() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 2);
    flow.try_send("one").unwrap();
    let error = flow.try_send("two").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(matches!(&error, TrySendError::Full(back) if *back == "two"), "{error}");
    assert_eq!(error.into_message(), "two");
    rig.room(slot, 4);
    flow.try_send("three").unwrap();
    assert_eq!(sent(&mut rig, slot), ["one", "three"]);
    // What `send` would not send either is another error, room or not.
    for units in [0, 100] {
        rig.room(slot, units);
        let error = flow.try_send(vec![0; LIMIT + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.into_message().len(), LIMIT + 1);
    }
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::PeerDead));
    let error = std::io::Error::from(flow.try_send("late").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.into_inner().unwrap().downcast::<SendError>().unwrap().into_message(), "late");
    flow.finish();
    assert_eq!(flow.try_send("later").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn try_recv_would_block_until_there_is_a_message_or_the_end() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    assert_eq!(flow.try_recv().unwrap_err().kind(), ErrorKind::WouldBlock);
    rig.deliver(slot, "");
    rig.deliver(slot, "x");
    assert_eq!(flow.try_recv().unwrap().unwrap(), "");
    rig.set_state(slot, FlowState::OPEN.with(FlowState::READ_ENDED));
    assert_eq!(flow.try_recv().unwrap().unwrap(), "x");
    assert!(flow.try_recv().unwrap().is_none() && flow.try_recv().unwrap().is_none());

    let (mut flow, slot) = rig.flow(&endpoint);
    rig.deliver(slot, "x");
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    assert_eq!(flow.try_recv().unwrap().unwrap(), "x");
    assert_eq!(flow.try_recv().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reserved_message_is_sent_whole_or_not_at_all() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 1);
    let mut message = block_on(flow.reserve(10)).unwrap();
    message.put_slice(b"given up");
    drop(message);
    let mut message = block_on(flow.reserve(10)).unwrap();
    message.put_slice(b"hi");
    message.send();
    let mut reserve = Task::new(flow.reserve(10));
    assert!(reserve.poll().is_pending());
    rig.room(slot, 3);
    assert_eq!(reserve.woken(), 1);
    let mut message = ready(reserve.poll()).unwrap();
    // The flow ends under the permit: the message is lost with it, like any other.
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    message.put_u8(0);
    message.send();
    assert_eq!(sent(&mut rig, slot)[0], "hi");
}

#[test]
fn reserve_fails_as_send_does() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    let error = block_on(flow.reserve(LIMIT + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("1001 bytes is over the flow's limit of 1000 bytes"), "{error}");
    block_on(flow.reserve(LIMIT)).unwrap().send();
    rig.room(slot, 0);
    let mut reserve = Task::new(flow.reserve(1));
    assert!(reserve.poll().is_pending());
    rig.set_state(slot, FlowState::OPEN.with(FlowState::WRITE_ENDED));
    assert_eq!(reserve.woken(), 1);
    let error = ready(reserve.poll()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let reason = error.get_ref().unwrap().downcast_ref::<SendErrorReason>();
    assert_eq!(reason, Some(&SendErrorReason::Stopped));
}

#[test]
fn acked_waits_for_what_was_sent_before_it() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    block_on(flow.acked()).unwrap();
    flow.try_send("one").unwrap();
    flow.try_send("two").unwrap();
    let mut acked = Task::new(flow.acked());
    assert!(acked.poll().is_pending());
    acknowledge(&mut rig, slot, 2);
    assert_eq!(acked.woken(), 1);
    assert!(acked.poll().is_pending());
    acknowledge(&mut rig, slot, 4);
    assert_eq!(acked.woken(), 1);
    ready(acked.poll()).unwrap();
    drop(acked);
    // The end after the acknowledgement is no error.
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    block_on(flow.acked()).unwrap();
}

#[test]
fn acked_tells_why_it_will_never_be() {
    let open = FlowState::OPEN;
    for (state, kind) in [
        (open.with(FlowState::WRITE_ENDED), ErrorKind::BrokenPipe),
        (open.with(FlowState::FIN_ACKED).closed(CloseReason::Finished), ErrorKind::BrokenPipe),
        (open.closed(CloseReason::Reset), ErrorKind::ConnectionReset),
        (open.closed(CloseReason::PeerDead), ErrorKind::TimedOut),
        (open.closed(CloseReason::Shutdown), ErrorKind::NotConnected),
    ] {
        let (endpoint, mut rig) = Rig::new();
        let (mut flow, slot) = rig.flow(&endpoint);
        flow.try_send("x").unwrap();
        flow.finish();
        let mut acked = Task::new(flow.acked());
        assert!(acked.poll().is_pending());
        rig.set_state(slot, state);
        assert_eq!(acked.woken(), 1);
        assert_eq!(ready(acked.poll()).unwrap_err().kind(), kind);
    }
}

#[test]
fn both_halves_hear_of_the_end_and_take_nobodys_waker() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    let (mut send, mut recv) = flow.into_split();
    send.try_send("x").unwrap();
    let (mut a, mut b) = (Task::new(send.closed()), Task::new(recv.closed()));
    assert!(a.poll().is_pending() && b.poll().is_pending());
    rig.set_state(slot, FlowState::OPEN.with(FlowState::READ_ENDED));
    assert_eq!((a.woken(), b.woken()), (1, 1));
    assert!(a.poll().is_pending() && b.poll().is_pending());
    drop(a);
    // `close` waits for the state too.
    let mut close = Task::new(send.close());
    assert!(close.poll().is_pending());
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::PeerDead));
    assert_eq!((close.woken(), b.woken()), (1, 1));
    assert_eq!(ready(close.poll()).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(ready(b.poll()), CloseReason::PeerDead);
    drop(b);
    assert_eq!(block_on(recv.closed()), CloseReason::PeerDead);
}

#[test]
fn the_round_trip_time_is_unknown_before_the_first_sample() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    assert_eq!(flow.rtt(), None);
    let mut stats = FlowStats::default();
    stats.smoothed_rtt_ns = 12_345;
    rig.channel.set_stats(slot, &stats);
    assert_eq!(flow.rtt(), Some(Duration::from_nanos(12_345)));
    let (send, recv) = flow.into_split();
    assert_eq!((send.rtt(), recv.rtt()), (Some(Duration::from_nanos(12_345)), Some(Duration::from_nanos(12_345))));
}

#[test]
fn nothing_is_copied_between_engine_and_application() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    // There: what was sent is what the engine takes.
    let bytes = Bytes::from(vec![7; 500]);
    block_on(flow.send(bytes.clone())).unwrap();
    assert_eq!(rig.channel.take(slot).unwrap().into_bytes().as_ptr(), bytes.as_ptr());
    let mut message = block_on(flow.reserve(500)).unwrap();
    message.put_bytes(7, 500);
    let at = message.as_ptr();
    message.send();
    assert_eq!(rig.channel.take(slot).unwrap().as_slice().as_ptr(), at);
    // And back: the bytes are those of the frame that the engine delivered.
    let (_region, mut pool) = machnet_channel::Region::anonymous(512, 1).unwrap();
    let mut frame = pool.take().unwrap();
    frame.bytes_mut().unwrap()[10..15].copy_from_slice(b"hello");
    let at = frame.bytes_mut().unwrap()[10..].as_ptr();
    rig.channel.deliver(slot, frame.share(10..15).into());
    let received = block_on(flow.recv()).unwrap().unwrap().into_bytes();
    assert_eq!((&received[..], received.as_ptr()), (&b"hello"[..], at));
    // They outlive everything, and then the frame goes home.
    drop((flow, endpoint, rig));
    let tail = received.slice(1..);
    drop(received);
    assert_eq!((&tail[..], pool.free()), (&b"ello"[..], 0));
    drop(tail);
    assert_eq!(pool.free(), 1);
}

#[test]
fn incoming_yields_flows_and_ends_after_the_error() {
    let (endpoint, mut rig) = Rig::new();
    let (mut listener, slot) = rig.listener(&endpoint);
    let mut incoming = listener.incoming();
    assert!(incoming.next().now_or_never().is_none());
    for port in [5, 6] {
        let flow = rig.channel.accept(slot, addr(99), addr(port));
        rig.set_state(flow, FlowState::OPEN);
    }
    assert_eq!(block_on(incoming.next()).unwrap().unwrap().peer_addr(), addr(5));
    // Dropping it loses no flow.
    let mut incoming = listener.incoming();
    assert_eq!(block_on(incoming.next()).unwrap().unwrap().peer_addr(), addr(6));
    rig.channel.unlisten(slot);
    assert_eq!(block_on(incoming.next()).unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(block_on(incoming.next()).is_none());
}

/// Counted rounds: while one task handles `MESSAGES` ready messages, another one on the same thread gets its turns.
mod cooperation {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::messages::poll_ready_by_flushing;
    use super::*;

    const MESSAGES: usize = 10_000;
    /// tokio's budget per poll of a task.
    const BUDGET: usize = 128;

    fn turns_of_another<F: Future<Output = ()>>(busy: impl FnOnce() -> F) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let turns = Rc::new(Cell::new(0));
        let local = tokio::task::LocalSet::new();
        let counter = Rc::clone(&turns);
        local.spawn_local(async move {
            loop {
                counter.set(counter.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let busy = busy();
        runtime.block_on(local.run_until(busy));
        turns.get()
    }

    #[test]
    fn receiving_what_is_always_ready_starves_nobody() {
        let (endpoint, mut rig) = Rig::new();
        let (mut flow, slot) = rig.flow(&endpoint);
        (0..MESSAGES).for_each(|_| rig.channel.deliver(slot, Message::from("x").into()));
        let turns = turns_of_another(|| async {
            for _ in 0..MESSAGES {
                flow.recv().await.unwrap().unwrap();
            }
        });
        assert!(turns >= MESSAGES / BUDGET, "{turns} turns");
    }

    #[test]
    fn sending_where_there_is_always_room_starves_nobody() {
        let (endpoint, mut rig) = Rig::new();
        let (mut flow, slot) = rig.flow(&endpoint);
        rig.room(slot, u64::MAX);
        let turns = turns_of_another(|| async {
            for number in 0..MESSAGES {
                if number % 2 == 0 {
                    flow.send("x").await.unwrap();
                } else {
                    flow.reserve(1).await.unwrap().send();
                }
            }
        });
        assert!(turns >= MESSAGES / BUDGET, "{turns} turns");
        assert_eq!(sent(&mut rig, slot).len(), MESSAGES);
    }

    #[test]
    fn flushing_a_sink_until_it_is_ready_starves_nobody() {
        let (endpoint, mut rig) = Rig::new();
        let (flow, slot) = rig.flow(&endpoint);
        rig.room(slot, u64::MAX);
        let mut messages = flow.into_messages();
        let mut asked = 0;
        let turns = turns_of_another(|| async {
            for _ in 0..MESSAGES {
                let mut sink = Pin::new(&mut messages);
                std::future::poll_fn(|cx| poll_ready_by_flushing(sink.as_mut(), cx, &mut asked)).await.unwrap();
                sink.start_send("x".into()).unwrap();
            }
        });
        assert!(turns >= MESSAGES / BUDGET, "{turns} turns");
        // Once for each message, and twice more for each turn of another.
        assert!(asked <= MESSAGES + 2 * turns, "asked {asked} times for {MESSAGES} messages and {turns} turns");
        assert_eq!(sent(&mut rig, slot).len(), MESSAGES);
    }

    #[test]
    fn streams_sinks_and_listeners_starve_nobody() {
        let (endpoint, mut rig) = Rig::new();
        let (flow, slot) = rig.flow(&endpoint);
        rig.room(slot, u64::MAX);
        (0..MESSAGES).for_each(|_| rig.channel.deliver(slot, Message::from("x").into()));
        let mut messages = flow.into_messages();
        let turns = turns_of_another(|| async {
            for _ in 0..MESSAGES {
                let message = messages.next().await.unwrap().unwrap();
                messages.send(message).await.unwrap();
            }
        });
        assert!(turns >= 2 * MESSAGES / BUDGET, "{turns} turns");

        let (mut listener, slot) = rig.listener(&endpoint);
        const FLOWS: usize = 1000;
        for _ in 0..FLOWS {
            let flow = rig.channel.accept(slot, addr(99), addr(5));
            rig.set_state(flow, FlowState::OPEN);
        }
        let turns = turns_of_another(|| async {
            for _ in 0..FLOWS {
                drop(listener.accept().await.unwrap());
            }
        });
        assert!(turns >= FLOWS / BUDGET, "{turns} turns");
    }
}

#[test]
fn futures_and_streams_may_be_sent() {
    fn sendable<T: Send>() {}
    sendable::<crate::future::Reserve<'_>>();
    sendable::<crate::future::Acked<'_>>();
    sendable::<crate::future::Closed<'_>>();
    sendable::<crate::Reserved<'_>>();
    sendable::<crate::Incoming<'_>>();
    sendable::<crate::Messages>();
    fn send_future<T: Send>(_: &T) {}
    send_future(&Flow::connect(addr(1)));
    send_future(&Listener::bind(addr(1)));
}
