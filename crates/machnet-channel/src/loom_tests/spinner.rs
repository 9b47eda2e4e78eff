//! The composites: a flow whose runtime spins, or stops spinning, while the engine delivers, goes to sleep, or is full.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use loom::sync::Arc;
use loom::thread;

use super::{model, wait};
use crate::mailbox::{EngineEnd, Mailbox, RecvEnd, SendEnd, Wakes};
use crate::{FlowState, Intake, Message, Spinning};

/// What the empty message costs.
const COST: u64 = crate::cost_in_units(0);

fn flow() -> (Arc<Intake>, EngineEnd, SendEnd, RecvEnd) {
    let intake = Intake::new();
    let addr = SocketAddr::from(([127, 0, 0, 1], 9));
    let (mut engine, send, recv) = Mailbox::accepted(&intake, addr, addr);
    engine.set_state(FlowState::OPEN);
    (intake, engine, send, recv)
}

fn message() -> Message {
    Message::from("")
}

/// Drives `poll` as a runtime with a park hook does: spins for a look or two before it goes to sleep.
fn run_spinning<T>(spinning: &Spinning, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    wait(|cx| {
        let result = poll(cx);
        if result.is_pending() {
            spinning.begin();
            spinning.drain();
            spinning.end();
        }
        result
    })
}

/// The engine sleeps until `done`, woken by hints only.
fn sleep_until(intake: &Intake, mut done: impl FnMut() -> bool) {
    wait(|cx| {
        intake.bell().disarm();
        loop {
            intake.flows().take().for_each(drop);
            if done() {
                return Poll::Ready(());
            }
            intake.bell().arm(cx.waker());
            if intake.flows().is_empty() {
                return Poll::Pending;
            }
        }
    });
}

#[test]
fn stops_spinning_while_the_engine_delivers() {
    model(4, || {
        let (intake, mut engine, send, mut recv) = flow();
        let app = thread::spawn(move || {
            let spinning = Spinning::new();
            recv.mailbox().spinner.set(spinning.spinner());
            assert!(run_spinning(&spinning, |cx| recv.poll_take(cx)).is_some());
            recv
        });
        engine.deliver(message());
        engine.wake(Wakes::RX);
        drop((app.join().unwrap(), send, engine));
        intake.close();
    });
}

#[test]
fn another_runtime_spins_for_the_flow() {
    // A flow that moved: who drains is not who waits, and goes away.
    model(3, || {
        let (intake, mut engine, send, mut recv) = flow();
        let spinning = Spinning::new();
        recv.mailbox().spinner.set(spinning.spinner());
        let app = thread::spawn(move || {
            assert!(wait(|cx| recv.poll_take(cx)).is_some());
            recv
        });
        let other = thread::spawn(move || {
            spinning.begin();
            drop(spinning);
        });
        engine.deliver(message());
        engine.wake(Wakes::RX);
        other.join().unwrap();
        drop((app.join().unwrap(), send, engine));
        intake.close();
    });
}

#[test]
fn goes_to_sleep_while_a_task_commits() {
    // A round trip in which either side may sleep at any point.
    model(2, || {
        let (intake, mut engine, mut send, mut recv) = flow();
        engine.set_room(COST);
        let app = thread::spawn(move || {
            let spinning = Spinning::new();
            recv.mailbox().spinner.set(spinning.spinner());
            send.post(message()).expect("there is room");
            assert!(run_spinning(&spinning, |cx| recv.poll_take(cx)).is_some());
            (send, recv)
        });
        sleep_until(&intake, || engine.take().is_some());
        engine.deliver(message());
        engine.wake(Wakes::RX);
        drop((app.join().unwrap(), engine));
        intake.close();
    });
}

#[test]
fn both_sides_full_and_asleep() {
    // The engine may deliver one message that is not consumed, and takes one that is not sent. The application has sent
    // what it may, waits for room to send more, and only then receives.
    model(2, || {
        let (intake, mut engine, mut send, mut recv) = flow();
        engine.set_room(COST);
        send.post(message()).expect("there is room");
        engine.deliver(message());
        let app = thread::spawn(move || {
            wait(|cx| send.poll_room(cx));
            send.post(message()).expect("there is room");
            assert!(recv.take().is_some());
            assert!(wait(|cx| recv.poll_take(cx)).is_some());
            (send, recv)
        });
        let (mut taken, mut delivered) = (0, 1);
        sleep_until(&intake, || {
            if engine.take().is_some() {
                taken += 1;
                engine.set_room(COST * (taken + 1));
                engine.wake(Wakes::TX);
            }
            if delivered == 1 && engine.set_tell_at(COST) >= COST {
                delivered = 2;
                engine.deliver(message());
                engine.wake(Wakes::RX);
            }
            taken == 2 && delivered == 2
        });
        drop((app.join().unwrap(), engine));
        intake.close();
    });
}

#[test]
fn a_queue_may_be_opened_again() {
    model(3, || {
        let (intake, engine, send, mut recv) = flow();
        let spinning = Spinning::new();
        recv.mailbox().spinner.set(spinning.spinner());
        spinning.begin();
        spinning.close_for_a_moment();
        let app = thread::spawn(move || {
            let waited = run_spinning(&spinning, |cx| recv.poll_take(cx));
            assert!(waited.is_some());
            recv
        });
        let mut engine = engine;
        engine.wake(Wakes::RX);
        engine.deliver(message());
        engine.wake(Wakes::RX);
        drop((app.join().unwrap(), send, engine));
        intake.close();
    });
}

#[test]
fn dropped_while_its_runtime_spins() {
    // Handed over, and nobody is left to wake: the queue holds the flow until the next drain, and then no more.
    model(3, || {
        let (intake, mut engine, send, mut recv) = flow();
        let mailbox = Arc::clone(engine.mailbox());
        let app = thread::spawn(move || {
            let spinning = Spinning::new();
            recv.mailbox().spinner.set(spinning.spinner());
            spinning.begin();
            let _ = recv.poll_take(&Context::from_waker(std::task::Waker::noop()));
            drop((recv, send));
            spinning.drain();
            spinning.end();
        });
        engine.deliver(message());
        engine.wake(Wakes::RX);
        app.join().unwrap();
        drop(engine);
        assert_eq!(mailbox.app_intent(), crate::Intent::FIN.with(crate::Intent::STOP));
        drop(mailbox);
        intake.close();
    });
}
