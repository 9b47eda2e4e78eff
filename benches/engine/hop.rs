//! Between application and engine: a message through a mailbox, and waking a thread that sleeps.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::thread;

use futures::executor::block_on;
use futures::future::poll_fn;
use machnet_channel::{EngineEnd, Intake, Mailbox, Message, RecvEnd, SendEnd, Wakes};

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case { name: "mailbox_hop", operations: 1, counts: true, make: mailbox },
    // There and back: the engine's end wakes a thread, which answers without a system call.
    Case { name: "wake_up", operations: 1, counts: false, make: wake_up },
];

/// A flow's two sides, with room for any number of messages.
fn ends() -> (Arc<Intake>, EngineEnd, SendEnd, RecvEnd) {
    let intake = Intake::new();
    let (send, recv) = Mailbox::connect(&intake, ([10, 0, 0, 2], 7000).into());
    let mailbox = intake.flows().take().next().expect("the hint of a new flow");
    let mut end = mailbox.claim().expect("a new flow");
    end.set_room(u64::MAX);
    (intake, end, send, recv)
}

fn mailbox() -> Box<dyn FnMut(bool)> {
    let (intake, mut end, mut send, _recv) = ends();
    let message = Message::from(vec![1; 64]);
    Box::new(move |counted| {
        let message = message.clone();
        let taken = if counted {
            counted_hop(&intake, &mut end, &mut send, message)
        } else {
            hop(&intake, &mut end, &mut send, message)
        };
        assert!(taken.is_some());
    })
}

/// Posts a message, looks at who has hinted, and takes it out.
fn hop(intake: &Intake, end: &mut EngineEnd, send: &mut SendEnd, message: Message) -> Option<Message> {
    send.post(message).expect("room");
    intake.flows().take().for_each(drop);
    end.take()
}

#[inline(never)]
fn counted_hop(intake: &Intake, end: &mut EngineEnd, send: &mut SendEnd, message: Message) -> Option<Message> {
    black_box(hop(intake, end, send, message))
}

fn wake_up() -> Box<dyn FnMut(bool)> {
    let (intake, mut end, mut send, mut recv) = ends();
    // It ends when a message cannot be: at the end of the process, or with the engine's end.
    thread::spawn(move || {
        while let Some(message) = block_on(poll_fn(|cx| recv.poll_take(cx))) {
            send.post(message).expect("room");
        }
    });
    let message = Message::from(vec![1; 64]);
    Box::new(move |_| {
        end.deliver(message.clone());
        end.wake(Wakes::RX);
        while end.take().is_none() {
            spin_loop();
        }
        intake.flows().take().for_each(drop);
    })
}
