//! An engine on this wire, in virtual time: how long its packets are depends on no clock.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use machnet_channel::{Backlog, FlowState, Intake, Mailbox};
use machnet_core::{Config, Driver, Engine, Instant, LocalChannel};
use machnet_shm::Shm;

use crate::node::{content, name};

const MESSAGES: usize = 2000;
const LEN: usize = 64;
/// They and their headers fill nine packets of 16 KiB, or 120 of the shortest. A round takes 1 024 of them, and its last packet is what is
/// left; there are acknowledgements, too.
const PACKETS: u64 = 20;
/// Beyond which it hangs.
const ROUNDS: usize = 100_000;

/// Nothing is lost on the way, so that it costs nothing to put many into one packet, however small they are.
#[test]
fn small_messages_share_long_packets() {
    let shm = Shm::bind(&name()).unwrap();
    let mut config = Config::default();
    config.max_payload = shm.capabilities().max_payload;
    let intake = Intake::new();
    let mut engine = Engine::new(shm, LocalChannel::new(Arc::clone(&intake)), config, [7; 32]).unwrap();
    let mut now = Instant(1_000_000);
    let mut round = || {
        now += Duration::from_micros(10);
        let _ = engine.poll(now);
        engine.stats().packets_sent
    };
    let cx = &mut Context::from_waker(Waker::noop());

    // A flow of the endpoint with itself.
    let mut listener = Backlog::listen(&intake, 0, 1);
    round();
    let Poll::Ready(Ok(to)) = listener.poll_opened(cx) else { panic!("it does not listen") };
    let (mut send, _recv) = Mailbox::connect(&intake, to);
    let mut accepted = None;
    for _ in 0..ROUNDS {
        round();
        if let Poll::Ready(flow) = listener.poll_accept(cx) {
            accepted = flow;
        }
        if accepted.is_some() && send.mailbox().state().has(FlowState::OPEN) {
            break;
        }
    }
    let mut accepted = accepted.expect("it does not accept");

    let before = round();
    for n in 0..MESSAGES {
        send.post(content(n, LEN).into()).expect("there is room for all of them");
    }
    let (mut received, mut after) = (0, before);
    for _ in 0..ROUNDS {
        after = round();
        while let Some(message) = accepted.recv.take() {
            assert_eq!(message, content(received, LEN));
            received += 1;
        }
        if received == MESSAGES {
            break;
        }
    }
    assert_eq!(received, MESSAGES);
    assert!(after - before < PACKETS, "{} packets", after - before);
}
