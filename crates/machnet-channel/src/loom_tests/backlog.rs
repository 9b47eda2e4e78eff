use std::io::ErrorKind;
use std::net::SocketAddr;

use loom::sync::Arc;
use loom::thread;

use super::{model, wait};
use crate::{Accepted, Backlog, BacklogConsumer, BacklogProducer, Intake, Mailbox};

fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

/// A listener that its engine has met.
fn listener() -> (Arc<Intake>, BacklogProducer, BacklogConsumer) {
    let intake = Intake::new();
    let consumer = Backlog::listen(&intake, 9, 2);
    let hint = intake.listeners().take().next().expect("the listener's hint");
    let producer = Backlog::claim_end(&hint).expect("claimed once");
    assert!(Backlog::claim_end(&hint).is_none());
    (intake, producer, consumer)
}

fn accepted(intake: &Arc<Intake>) -> Accepted {
    let (_engine, send, recv) = Mailbox::accepted(intake, addr(), addr());
    Accepted { send, recv }
}

#[test]
fn accept_waits_and_is_woken() {
    model(6, || {
        let (intake, mut producer, mut consumer) = listener();
        let flow = accepted(&intake);
        let app = thread::spawn(move || {
            assert!(wait(|cx| consumer.poll_accept(cx)).is_some());
            consumer
        });
        producer.push(flow);
        producer.wake();
        drop(app.join().unwrap());
        assert!(producer.is_gone() && producer.room() > 0);
        drop(producer);
        intake.close();
    });
}

#[test]
fn the_end_comes_after_the_last_flow() {
    model(6, || {
        let (intake, mut producer, mut consumer) = listener();
        let flow = accepted(&intake);
        let app = thread::spawn(move || {
            assert!(wait(|cx| consumer.poll_accept(cx)).is_some(), "a flow before the end was lost");
            assert!(wait(|cx| consumer.poll_accept(cx)).is_none());
        });
        producer.push(flow);
        drop(producer);
        app.join().unwrap();
        intake.close();
    });
}

#[test]
fn opening_is_awaited() {
    model(6, || {
        let (intake, mut producer, mut consumer) = listener();
        let app = thread::spawn(move || assert_eq!(wait(|cx| consumer.poll_opened(cx)).unwrap(), addr()));
        producer.set_opened(Ok(addr()));
        app.join().unwrap();
        drop(producer);
        intake.close();
    });
}

#[test]
fn either_side_drops_with_flows_inside() {
    model(6, || {
        let (intake, mut producer, consumer) = listener();
        let flow = accepted(&intake);
        let mailbox = Arc::clone(flow.send.mailbox());
        let app = thread::spawn(move || drop(consumer));
        producer.push(flow);
        producer.wake();
        drop(producer);
        app.join().unwrap();
        intake.close();
        drop(intake);
        // Nobody accepted it, so its ends are gone.
        assert_eq!(mailbox.app_intent(), crate::Intent::FIN.with(crate::Intent::STOP));
    });
}

#[test]
fn listening_at_a_dying_engine_ends() {
    model(6, || {
        let intake = Intake::new();
        let app = {
            let intake = Arc::clone(&intake);
            thread::spawn(move || {
                let mut consumer = Backlog::listen(&intake, 9, 2);
                let error = wait(|cx| consumer.poll_opened(cx)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotConnected);
                assert!(wait(|cx| consumer.poll_accept(cx)).is_none());
            })
        };
        intake.close();
        app.join().unwrap();
    });
}
