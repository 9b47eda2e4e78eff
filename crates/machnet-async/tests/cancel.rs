//! Each future dropped after its k-th poll, for every k until it completes: all or nothing, by the count of what arrives.
//!
//! The other side is an inline engine on a runtime that runs only when a test gives it a turn, so that each reason to wait
//! (permit, credit, frames, handshake) lasts until the test ends it, and is the only one. Between any two polls the other
//! side has one turn: whatever ends the wait meets the drop at each step of its way.

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Buf, BufMut};
use futures::executor::block_on;
use machnet_async::{CloseReason, Config, DropReason, Flow, Message};
use support::still::{NEVER, Still, at_most, finish};
use support::{Pair, V4, content, endpoint, endpoint_at, free_port, pair_with, run, within_a_minute};

/// Every k up to here, then every eighth part further: a future that is polled whenever it likes may take thousands.
const EACH: usize = 64;

/// Calls `attempt` with k = 0, 1, …, until it completes three times in a row: a future resolved by its k-th poll.
fn every_k(mut attempt: impl FnMut(usize) -> bool) {
    let (mut k, mut completed) = (0, 0);
    while completed < 3 {
        assert!(k < NEVER, "it never resolves");
        completed = if attempt(k) { completed + 1 } else { 0 };
        k += if k < EACH { 1 } else { k / 8 };
    }
    assert!(k > 3, "it never waited");
}

/// Limits of one reason to wait; everybody is patient.
fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    config.max_message = 64 << 10;
    config.dead_peer_timeout = Duration::from_secs(60);
    config.connect_timeout = Duration::from_secs(60);
    change(&mut config);
    config
}

/// Why `send` and `reserve` wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The send buffer is full, all of it is on its way, and the peer's transport answers nothing.
    Permit,
    /// The peer's transport answers, but its application reads nothing: its window is full, then the send buffer.
    Credit,
    /// The peer's application reads, and keeps what it read: no frame is left there to put a message in.
    Frames,
}

/// The other end of a flow, and what is known about the messages on it.
struct Blocked {
    reason: Reason,
    far: Still,
    other: Flow,
    /// Numbers of the messages that were sent, and that arrived.
    sent: Vec<u64>,
    arrived: Vec<u64>,
    /// Messages that the other side keeps.
    kept: Vec<Message>,
    next: u64,
}

impl Blocked {
    /// A flow from an engine with a thread to one that stands still.
    fn new(reason: Reason) -> (Self, Flow) {
        let limits = |config: &mut Config| {
            config.send_buffer = 2 << 10;
            match reason {
                Reason::Permit => {}
                Reason::Credit => config.receive_window = 2 << 10,
                // Two frames of each size.
                Reason::Frames => config.reassembly_bytes = 0,
            }
        };
        let far = Still::new(config(limits));
        let (near, other) = far.flow(&endpoint_at(V4, config(limits)));
        (Self { reason, far, other, sent: vec![], arrived: vec![], kept: vec![], next: 0 }, near)
    }

    fn message(&mut self) -> (u64, Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let mut message = number.to_be_bytes().to_vec();
        message.resize(if self.reason == Reason::Frames { 40_000 } else { 500 }, 7);
        (number, message)
    }

    /// Reads what is there, up to `most` messages.
    fn read(&mut self, most: usize) {
        for _ in 0..most {
            match self.other.try_recv() {
                Ok(message) => {
                    let message = message.expect("the sender is not done");
                    self.arrived.push(message.clone().get_u64());
                    self.kept.push(message);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What the other side does while the reason lasts.
    fn turn_blocked(&mut self) {
        match self.reason {
            // Its engine must not answer.
            Reason::Permit => std::thread::yield_now(),
            Reason::Credit => self.far.turn(),
            Reason::Frames => {
                self.far.turn();
                self.read(usize::MAX);
            }
        }
    }

    /// What it does to end the reason, little by little.
    fn turn(&mut self) {
        self.far.turn();
        self.read(if self.reason == Reason::Permit { usize::MAX } else { 1 });
        if !self.kept.is_empty() {
            drop(self.kept.remove(0));
        }
    }

    /// Sends until sending would wait for the reason, and for good.
    fn fill(&mut self, near: &mut Flow) {
        let refused = self.refused();
        let (mut quiet, mut turns, before) = (0, 0, self.sent.len());
        while quiet < 50 || !self.holds(near, before, refused) {
            let (number, message) = self.message();
            if near.try_send(message).is_ok() {
                self.sent.push(number);
                quiet = 0;
            }
            quiet += 1;
            turns += 1;
            assert!(turns < NEVER, "{:?} is not what it waits for", self.reason);
            self.turn_blocked();
        }
    }

    /// True if the reason is what would make the sender wait.
    fn holds(&self, near: &Flow, before: usize, refused: u64) -> bool {
        // The first one of the flow is not ours.
        let begun = near.stats().messages_sent as usize - 1;
        let posted = self.sent.len();
        match self.reason {
            // Four fill the send buffer, and the network has them all: neither credit nor window holds them back.
            Reason::Permit => posted == before + 4 && begun == posted,
            // Three fill the window, and were acknowledged; four fill the send buffer, and are not let out.
            Reason::Credit => posted == before + 7 && begun == posted - 4,
            // Both frames are taken, and what comes next is refused.
            Reason::Frames => self.kept.len() == 2 && self.refused() > refused && begun > before,
        }
    }

    /// Parts of messages that found no frame at the other side.
    fn refused(&self) -> u64 {
        self.far.endpoint.stats().drops.get(DropReason::NoBuffers)
    }

    /// Until all that was sent, and nothing else, has arrived.
    fn settle(&mut self, near: &mut Flow) {
        while self.arrived.len() < self.sent.len() {
            self.turn();
        }
        finish(near.acked(), || self.turn()).unwrap();
        assert_eq!(self.arrived, self.sent);
    }
}

/// Fills the flow, gives `send` or `reserve` up after k polls, and counts.
fn waits_for(reason: Reason, by_reserve: bool) {
    within_a_minute(move || {
        let (mut blocked, mut near) = Blocked::new(reason);
        every_k(|k| {
            blocked.fill(&mut near);
            let (number, message) = blocked.message();
            let turn = || blocked.turn();
            let resolved = if by_reserve {
                at_most(k, near.reserve(message.len()), turn).map(|permit| {
                    let mut permit = permit.unwrap();
                    permit.put_slice(&message);
                    // Every other permit is dropped: nothing is sent, and the room is free again.
                    (k % 2 == 0).then(|| permit.send()).is_some()
                })
            } else {
                at_most(k, near.send(message), turn).map(|sent| sent.is_ok())
            };
            if resolved == Some(true) {
                blocked.sent.push(number);
            }
            blocked.settle(&mut near);
            resolved.is_some()
        });
        let Blocked { far, mut other, .. } = blocked;
        finish(near.close(), || far.turn()).unwrap();
        assert!(finish(other.recv(), || far.turn()).unwrap().is_none(), "what was not sent came after all");
    });
}

#[test]
fn send_that_waits_for_a_permit() {
    waits_for(Reason::Permit, false);
}

#[test]
fn send_that_waits_for_credit() {
    waits_for(Reason::Credit, false);
}

#[test]
fn send_that_waits_for_frames() {
    waits_for(Reason::Frames, false);
}

#[test]
fn reserve_that_waits_for_a_permit() {
    waits_for(Reason::Permit, true);
}

#[test]
fn reserve_that_waits_for_credit() {
    waits_for(Reason::Credit, true);
}

#[test]
fn reserve_that_waits_for_frames() {
    waits_for(Reason::Frames, true);
}

#[test]
fn recv() {
    within_a_minute(|| {
        let far = Still::new(config(|_| {}));
        let (mut near, mut other) = far.flow(&endpoint());
        let (mut sent, mut received) = (0, 0);
        every_k(|k| {
            let mut unsent = true;
            let message = at_most(k, near.recv(), || {
                if std::mem::take(&mut unsent) {
                    other.try_send(content(sent, 100)).unwrap();
                    sent += 1;
                }
                far.turn();
            });
            if let Some(message) = &message {
                assert_eq!(*message.as_ref().unwrap().as_ref().unwrap(), content(received, 100));
                received += 1;
            }
            // What the dropped one did not take is there for the next.
            while received < sent {
                assert_eq!(finish(near.recv(), || far.turn()).unwrap().unwrap(), content(received, 100));
                received += 1;
            }
            message.is_some()
        });
        other.finish();
        assert!(finish(near.recv(), || far.turn()).unwrap().is_none());
    });
}

/// The handshake is all that it waits for: the listener's engine stands still.
#[test]
fn connect() {
    within_a_minute(|| {
        let far = Still::new(config(|_| {}));
        let client = endpoint_at(V4, config(|_| {}));
        let mut listener = far.listen();
        let to = listener.local_addr();
        let (mut connected, mut carried) = (0, 0);
        // Accepts what there is: flows that were given up carry nothing, and end.
        let mut accept = |carried: &mut u64| {
            while let Some(accepted) = at_most(8, listener.accept(), || far.turn()) {
                let (mut flow, _) = accepted.unwrap();
                match finish(flow.recv(), || far.turn()) {
                    Ok(Some(message)) => {
                        assert_eq!(message, "carried");
                        *carried += 1;
                    }
                    Ok(None) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
            }
        };
        every_k(|k| {
            let flow = at_most(k, client.connect(to), || far.turn()).map(Result::unwrap);
            let done = flow.is_some();
            if let Some(mut flow) = flow {
                flow.try_send("carried").unwrap();
                connected += 1;
            }
            accept(&mut carried);
            done
        });
        // Nothing of those given up is left: neither here, nor there.
        finish(client.shutdown(), || accept(&mut carried)).unwrap();
        while far.endpoint.stats().flows > 0 {
            accept(&mut carried);
        }
        assert_eq!(carried, connected);
    });
}

#[test]
fn listen() {
    within_a_minute(|| {
        let far = Still::new(config(|_| {}));
        let port = free_port().port();
        every_k(|k| {
            let listener = at_most(k, far.endpoint.listen(port), || far.turn()).map(Result::unwrap);
            let done = listener.is_some();
            // Given up, or dropped: the port is free again when the engine has had a turn.
            drop(listener);
            far.turn();
            done
        });
        drop(finish(far.endpoint.listen(port), || far.turn()).unwrap());
    });
}

#[test]
fn accept() {
    within_a_minute(|| {
        let far = Still::new(config(|_| {}));
        let mut listener = block_on(endpoint().listen(0)).unwrap();
        let to = listener.local_addr();
        let mut number = 0_u64;
        every_k(|k| {
            let mut near = finish(far.endpoint.connect(to), || far.turn()).unwrap();
            near.try_send(number.to_be_bytes().to_vec()).unwrap();
            let accepted = at_most(k, listener.accept(), || far.turn());
            let done = accepted.is_some();
            // Nobody is lost: whom the dropped one did not take is there for the next.
            let (mut flow, _) = accepted.unwrap_or_else(|| finish(listener.accept(), || far.turn())).unwrap();
            assert_eq!(finish(flow.recv(), || far.turn()).unwrap().unwrap().get_u64(), number);
            number += 1;
            done
        });
        assert!(at_most(8, listener.accept(), || far.turn()).is_none(), "more than were connected");
    });
}

#[test]
fn acked() {
    within_a_minute(|| {
        let (mut blocked, mut near) = Blocked::new(Reason::Permit);
        every_k(|k| {
            blocked.fill(&mut near);
            let done = at_most(k, near.acked(), || blocked.turn()).map(Result::unwrap).is_some();
            blocked.settle(&mut near);
            done
        });
    });
}

#[test]
fn closed() {
    within_a_minute(|| {
        let far = Still::new(config(|_| {}));
        let client = endpoint();
        every_k(|k| {
            let (mut near, other) = far.flow(&client);
            let mut other = Some(other);
            let done = at_most(k, near.closed(), || {
                other.take().into_iter().for_each(Flow::abort);
                far.turn();
            });
            other.take().into_iter().for_each(Flow::abort);
            assert_eq!(finish(near.closed(), || far.turn()), CloseReason::Reset);
            assert!(done.is_none_or(|reason| reason == CloseReason::Reset));
            done.is_some()
        });
    });
}

/// Messages wait in every state of being sent when `close` is given up.
#[test]
fn close() {
    const MESSAGES: u64 = 20;
    within_a_minute(|| {
        let far = Still::new(config(|_| {}));
        let client = endpoint();
        every_k(|k| {
            let (mut near, mut other) = far.flow(&client);
            for number in 0..MESSAGES {
                near.try_send(content(number, 2000)).unwrap();
            }
            let done = at_most(k, near.close(), || far.turn()).map(Result::unwrap).is_some();
            for number in 0..MESSAGES {
                assert_eq!(finish(other.recv(), || far.turn()).unwrap().unwrap(), content(number, 2000));
            }
            assert!(finish(other.recv(), || far.turn()).unwrap().is_none());
            done
        });
    });
}

#[test]
fn shutdown() {
    const MESSAGES: u64 = 20;
    within_a_minute(|| {
        let far = Still::new(config(|_| {}));
        // It takes a tombstone's time, which is thousands of turns: not every k, but all the early ones.
        for k in (0..16).chain([64, 256, NEVER]) {
            let client = endpoint();
            let (mut near, mut other) = far.flow(&client);
            for number in 0..MESSAGES {
                near.try_send(content(number, 2000)).unwrap();
            }
            let done = at_most(k, client.shutdown(), || far.turn());
            assert!(k < NEVER || done.is_some());
            assert!(done.is_none_or(|result| result.is_ok()));
            // Not polled, it did nothing; else the end goes on without it.
            assert_eq!(near.try_send("late").is_ok(), k == 0);
            for number in 0..MESSAGES {
                assert_eq!(finish(other.recv(), || far.turn()).unwrap().unwrap(), content(number, 2000));
            }
            if k == 0 {
                assert_eq!(finish(other.recv(), || far.turn()).unwrap().unwrap(), "late");
            } else {
                assert!(finish(other.recv(), || far.turn()).unwrap().is_none());
            }
            finish(client.shutdown(), || far.turn()).unwrap();
        }
    });
}

/// Room for a few messages only, on either side: senders wait for credit and for permits.
fn narrow() -> Config {
    let mut config = Config::default();
    config.max_message = 4096;
    config.receive_window = 16 << 10;
    config.send_buffer = 8 << 10;
    config
}

#[test]
fn select_in_a_loop_loses_nothing_in_either_direction() {
    run(|| async {
        const MESSAGES: u64 = 500;
        let side = async |flow: Flow| {
            let (mut send, mut recv) = flow.into_split();
            let (mut sent, mut received, mut ended) = (0, 0, false);
            while sent < MESSAGES || !ended {
                tokio::select! {
                    result = send.send(content(sent, 1000)), if sent < MESSAGES => {
                        result.unwrap();
                        sent += 1;
                        if sent == MESSAGES {
                            send.finish();
                        }
                    }
                    message = recv.recv(), if !ended => match message.unwrap() {
                        Some(message) => {
                            assert_eq!(message, content(received, 1000));
                            received += 1;
                        }
                        None => ended = true,
                    },
                    () = tokio::task::yield_now() => {}
                }
            }
            assert_eq!(received, MESSAGES);
            send.close().await.unwrap();
        };
        let Pair { near, far, .. } = pair_with(V4, narrow()).await;
        tokio::join!(side(near), side(far));
    });
}
