use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use loom::sync::Arc;
use loom::thread;

use super::{model, wait};
use crate::mailbox::{EngineEnd, Mailbox, RecvEnd, SendEnd, Wakes};
use crate::{CloseReason, FlowState, Intake, Intent, Message};

/// What the empty message costs.
const COST: u64 = crate::cost_in_units(0);

fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

/// An open flow, met by its engine.
fn flow() -> (Arc<Intake>, EngineEnd, SendEnd, RecvEnd) {
    let intake = Intake::new();
    let (mut engine, send, recv) = Mailbox::accepted(&intake, addr(), addr());
    engine.set_state(FlowState::OPEN);
    (intake, engine, send, recv)
}

fn message() -> Message {
    Message::from("")
}

/// The engine sleeps until `done`, woken by hints only; true if a hint for the flow came.
fn sleep_until(intake: &Intake, mut done: impl FnMut(bool) -> bool) {
    let mut hinted = false;
    wait(|cx| {
        intake.bell().disarm();
        loop {
            hinted |= intake.flows().take().count() > 0;
            if done(hinted) {
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
fn recv_waits_and_is_woken() {
    model(6, || {
        let (intake, mut engine, send, mut recv) = flow();
        let app = thread::spawn(move || {
            assert!(wait(|cx| recv.poll_take(cx)).is_some());
            recv
        });
        engine.deliver(message());
        engine.wake(Wakes::RX);
        drop((app.join().unwrap(), send, engine));
        intake.close();
    });
}

#[test]
fn send_waits_for_room_and_is_woken() {
    model(6, || {
        let (intake, mut engine, mut send, recv) = flow();
        let app = thread::spawn(move || {
            wait(|cx| send.poll_room(cx));
            send.post(message()).expect("there is room");
            assert!(send.post(message()).is_err(), "room for one");
            send
        });
        engine.set_room(COST);
        engine.wake(Wakes::TX);
        let send = app.join().unwrap();
        assert!(engine.take().is_some());
        drop((send, recv, engine));
        intake.close();
    });
}

#[test]
fn consumption_is_seen_or_told() {
    model(6, || {
        let (intake, mut engine, send, mut recv) = flow();
        engine.deliver(message());
        let app = thread::spawn(move || {
            assert!(recv.take().is_some());
            recv // alive until after the wait: its drop would hint, too
        });
        // Asked for again, it is as good.
        if engine.set_tell_at(COST) < COST && engine.set_tell_at(COST) < COST {
            sleep_until(&intake, |hinted| hinted);
            assert_eq!(engine.consumed(), COST);
        }
        drop((app.join().unwrap(), send, engine));
        intake.close();
    });
}

#[test]
fn a_post_reaches_a_sleeping_engine() {
    model(3, || {
        let (intake, mut engine, mut send, recv) = flow();
        engine.set_room(COST);
        let app = thread::spawn(move || {
            send.post(message()).expect("there is room");
            send
        });
        sleep_until(&intake, |_| engine.take().is_some());
        drop((app.join().unwrap(), recv, engine));
        intake.close();
    });
}

#[test]
fn fin_covers_every_message() {
    model(6, || {
        let (intake, mut engine, mut send, recv) = flow();
        engine.set_room(3 * COST);
        let app = thread::spawn(move || {
            for _ in 0..3 {
                send.post(message()).expect("there is room");
            }
            // dropping it is FIN
        });
        let mut taken = 0;
        for _ in 0..2 {
            let intent = engine.intent();
            while engine.take().is_some() {
                taken += 1;
            }
            if intent.has(Intent::FIN) {
                assert_eq!(taken, 3);
            }
        }
        app.join().unwrap();
        assert!(engine.intent().has(Intent::FIN));
        while engine.take().is_some() {
            taken += 1;
        }
        assert_eq!(taken, 3);
        drop((recv, engine));
        intake.close();
    });
}

#[test]
fn the_end_comes_after_the_last_message() {
    model(6, || {
        let (intake, mut engine, send, mut recv) = flow();
        let app = thread::spawn(move || {
            assert!(wait(|cx| recv.poll_take(cx)).is_some(), "a message before the end was lost");
            assert!(wait(|cx| recv.poll_take(cx)).is_none());
            recv
        });
        engine.deliver(message());
        engine.set_state(FlowState::OPEN.with(FlowState::READ_ENDED));
        engine.wake(Wakes::RX);
        drop((app.join().unwrap(), send, engine));
        intake.close();
    });
}

#[test]
fn a_dying_engine_is_noticed_by_every_waiter() {
    model(3, || {
        let (intake, engine, mut send, mut recv) = flow();
        let receiver = thread::spawn(move || assert!(wait(|cx| recv.poll_take(cx)).is_none()));
        let sender = thread::spawn(move || {
            wait(|cx| send.poll_room(cx));
            assert_eq!(send.mailbox().state().reason(), Some(CloseReason::Shutdown));
            let state = wait(|cx| send.poll_state(cx, |state| state.has(FlowState::CLOSED)));
            assert_eq!(state.reason(), Some(CloseReason::Shutdown));
        });
        drop(engine);
        receiver.join().unwrap();
        sender.join().unwrap();
        intake.close();
    });
}

#[test]
fn an_acknowledgement_is_noticed() {
    model(6, || {
        let (intake, mut engine, mut send, recv) = flow();
        engine.set_room(COST);
        send.post(message()).expect("there is room");
        let app = thread::spawn(move || {
            wait(|cx| send.poll_acknowledged(cx, COST));
            assert_eq!(send.acknowledged(), COST);
            send
        });
        assert!(engine.take().is_some());
        engine.set_acknowledged(COST);
        engine.wake(Wakes::TX);
        drop((app.join().unwrap(), recv, engine));
        intake.close();
    });
}

#[test]
fn both_halves_notice_the_end_and_what_was_acknowledged_before_it() {
    model(3, || {
        let (intake, mut engine, mut send, mut recv) = flow();
        engine.set_room(COST);
        send.post(message()).expect("there is room");
        let sender = thread::spawn(move || {
            wait(|cx| send.poll_acknowledged(cx, COST));
            assert_eq!(send.acknowledged(), COST, "the end overtook the acknowledgement");
            wait(|cx| send.poll_state(cx, |state| state.has(FlowState::CLOSED)));
        });
        let receiver = thread::spawn(move || {
            wait(|cx| recv.poll_state(cx, |state| state.has(FlowState::CLOSED)));
        });
        engine.set_acknowledged(COST);
        engine.set_state(FlowState::OPEN.closed(CloseReason::Reset));
        engine.wake(Wakes::ALL);
        sender.join().unwrap();
        receiver.join().unwrap();
        drop(engine);
        intake.close();
    });
}

#[test]
fn state_changes_are_noticed() {
    model(6, || {
        let (intake, mut engine, mut send, recv) = flow();
        let app = thread::spawn(move || {
            wait(|cx| send.poll_state(cx, |state| state.has(FlowState::FIN_ACKED)));
            send
        });
        engine.set_state(FlowState::OPEN.with(FlowState::FIN_ACKED));
        engine.wake(Wakes::STATE);
        drop((app.join().unwrap(), recv, engine));
        intake.close();
    });
}

#[test]
fn dropped_in_any_order_with_messages_inside() {
    model(3, || {
        let (intake, mut engine, mut send, mut recv) = flow();
        engine.set_room(2 * COST);
        let mailbox = Arc::clone(engine.mailbox());
        let sender = thread::spawn(move || {
            send.post(message()).expect("there is room");
            send.post(message()).expect("there is room");
        });
        let receiver = thread::spawn(move || {
            recv.take();
        });
        engine.deliver(message());
        engine.take();
        engine.deliver(message());
        drop(engine);
        sender.join().unwrap();
        receiver.join().unwrap();
        assert_eq!(mailbox.state().reason(), Some(CloseReason::Shutdown));
        assert_eq!(mailbox.app_intent(), Intent::FIN.with(Intent::STOP));
        drop(mailbox);
        intake.close();
    });
}

#[test]
fn the_engine_learns_of_both_drops() {
    model(3, || {
        let (intake, engine, send, recv) = flow();
        let sender = thread::spawn(move || drop(send));
        let receiver = thread::spawn(move || drop(recv));
        sleep_until(&intake, |_| engine.intent() == Intent::FIN.with(Intent::STOP));
        sender.join().unwrap();
        receiver.join().unwrap();
        drop(engine);
        intake.close();
    });
}

#[test]
fn claimed_once() {
    model(6, || {
        let intake = Intake::new();
        let (send, recv) = Mailbox::connect(&intake, addr());
        let rival = {
            let mailbox = Arc::clone(send.mailbox());
            thread::spawn(move || Mailbox::claim_end(&mailbox))
        };
        let ends = [Mailbox::claim_end(send.mailbox()), rival.join().unwrap()];
        assert_eq!(ends.iter().flatten().count(), 1);
        drop((send, recv, ends));
        intake.close();
    });
}

#[test]
fn connecting_to_a_dying_engine_ends() {
    model(6, || {
        let intake = Intake::new();
        let app = {
            let intake = Arc::clone(&intake);
            thread::spawn(move || {
                let (mut send, _recv) = Mailbox::connect(&intake, addr());
                let state = wait(|cx| send.poll_state(cx, |state| state.has(FlowState::CLOSED)));
                assert_eq!(state.reason(), Some(CloseReason::Shutdown));
            })
        };
        let hints = intake.flows().take(); // dropped unseen, as by an engine that panics
        intake.close();
        drop(hints);
        app.join().unwrap();
    });
}

/// Polls once, as a task that then drops its future (`select!`), and leaves its waker behind.
fn give_up<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

#[test]
fn who_gave_up_takes_nothing_from_who_waits_next() {
    model(4, || {
        let (intake, mut engine, mut send, mut recv) = flow();
        let app = thread::spawn(move || {
            if give_up(|cx| recv.poll_take(cx)).is_none() {
                assert!(wait(|cx| recv.poll_take(cx)).is_some());
            }
            // So does the waiter for room.
            let _ = give_up(|cx| send.poll_room(cx));
            wait(|cx| send.poll_room(cx));
            (send, recv)
        });
        engine.deliver(message());
        engine.set_room(COST);
        engine.wake(Wakes::RX.with(Wakes::TX));
        drop((app.join().unwrap(), engine));
        intake.close();
    });
}

#[test]
fn dropped_while_it_is_woken() {
    model(4, || {
        let (intake, mut engine, mut send, mut recv) = flow();
        let app = thread::spawn(move || {
            let got = give_up(|cx| recv.poll_take(cx)).is_some();
            let _ = give_up(|cx| send.poll_room(cx));
            drop(recv);
            drop(send);
            got
        });
        engine.deliver(message());
        engine.set_room(COST);
        engine.wake(Wakes::ALL);
        app.join().unwrap();
        assert_eq!(engine.intent(), Intent::FIN.with(Intent::STOP));
        drop(engine);
        intake.close();
    });
}

#[test]
fn posting_to_a_dying_engine_ends() {
    model(3, || {
        let (intake, mut engine, mut send, recv) = flow();
        engine.set_room(2 * COST);
        let app = thread::spawn(move || {
            send.post(message()).expect("there is room");
            // Lost, and said to be: nobody waits for ever for its acknowledgement.
            wait(|cx| send.poll_acknowledged(cx, COST));
            assert_eq!(send.acknowledged(), 0);
            assert_eq!(send.mailbox().state().reason(), Some(CloseReason::Shutdown));
            (send, recv)
        });
        let hints = intake.flows().take(); // what it met, and did not get to
        drop(engine);
        intake.close();
        drop(hints);
        drop(app.join().unwrap());
    });
}
