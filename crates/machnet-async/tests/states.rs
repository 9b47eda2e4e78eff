//! Call × state → result over real sockets, state by state: a test is a column of `docs/spec/flow.md#calls`. (Row by row,
//! and with each state for itself, an engine played by hand tests it in `src/tests/states.rs`.)
//!
//! The other side stands still between its turns, and reads only what a test says: what was sent beyond its window stays
//! unsent, so that there is always something to lose.

mod support;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use bytes::BufMut;
use futures::executor::block_on;
use machnet_async::{CloseReason, Config, Endpoint, Flow, Message, RecvHalf, SendHalf};
use support::still::{NEVER, Still, at_most, finish};
use support::{V4, content, endpoint_at, engine_stats, free_port, poll_once, within_a_minute};

/// What is sent before it comes to the state, of which the other side's window takes three.
const SENT: u64 = 8;
const LEN: usize = 500;

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    config.max_message = 64 << 10;
    config.receive_window = 2 << 10;
    config.send_buffer = 64 << 10;
    config.dead_peer_timeout = Duration::from_secs(60);
    config.connect_timeout = Duration::from_secs(60);
    change(&mut config);
    config
}

/// A flow in a state, and its other end.
struct Case {
    far: Still,
    client: Endpoint,
    near: Flow,
    far_send: Option<SendHalf>,
    far_recv: Option<RecvHalf>,
    /// Another flow between the two engines, to know that both have done something meanwhile.
    other: (Flow, Flow),
    /// Lengths of what was accepted, in order.
    accepted: Vec<usize>,
    /// The message that had arrived.
    arrived: Option<Message>,
}

impl Case {
    fn new(near_config: Config) -> Self {
        let (far, client) = (Still::new(config(|_| {})), endpoint_at(V4, near_config));
        let (mut near, end) = far.flow(&client);
        let other = far.flow(&client);
        for number in 0..SENT {
            near.try_send(content(number, LEN)).unwrap();
        }
        let (mut far_send, far_recv) = end.into_split();
        far_send.try_send("arrived").unwrap();
        while near.stats().messages_received == 0 {
            far.turn();
        }
        let accepted = vec![LEN; SENT as usize];
        let (far_send, far_recv) = (Some(far_send), Some(far_recv));
        Self { far, client, near, far_send, far_recv, other, accepted, arrived: None }
    }

    /// A round trip between the engines: whatever was underway has arrived, and was published.
    fn round_trip(&mut self) {
        let (near, end) = &mut self.other;
        near.try_send("there").unwrap();
        assert_eq!(finish(end.recv(), || self.far.turn()).unwrap().unwrap(), "there");
        end.try_send("and back").unwrap();
        assert_eq!(finish(near.recv(), || self.far.turn()).unwrap().unwrap(), "and back");
    }

    /// The other side's application reads to the end: everything that was accepted arrives, in order.
    fn far_reads_everything(&mut self) {
        let mut recv = self.far_recv.take().unwrap();
        for (number, &len) in self.accepted.iter().enumerate() {
            let message = finish(recv.recv(), || self.far.turn()).unwrap().expect("the stream ends early");
            if len == LEN {
                assert_eq!(message, content(number as u64, LEN));
            } else {
                assert_eq!(message.len(), len);
            }
        }
        assert!(finish(recv.recv(), || self.far.turn()).unwrap().is_none(), "more arrives than was accepted");
        self.far_recv = Some(recv);
    }

    fn far_flow(&mut self) -> Flow {
        Flow::reunite(self.far_send.take().unwrap(), self.far_recv.take().unwrap()).unwrap()
    }

    /// `send`, `try_send` and `reserve` post.
    fn sends(&mut self) {
        for by in 0..3 {
            match by {
                0 => finish(self.near.send("x"), || self.far.turn()).unwrap(),
                1 => self.near.try_send("x").unwrap(),
                _ => {
                    let mut permit = finish(self.near.reserve(1), || self.far.turn()).unwrap();
                    permit.put_u8(b'x');
                    permit.send();
                }
            }
            self.accepted.push(1);
        }
        // Until there is no room: then they wait, or say so. A daemon goes on for a while after it looked full: its engine moves what
        // was posted to its own flow, and publishes room, in rounds that a round trip on another flow says nothing about.
        let full = loop {
            match self.near.try_send(vec![7; 4000]) {
                Ok(()) => self.accepted.push(4000),
                Err(error) => {
                    if at_most(16, self.near.send("x"), || self.far.turn()).is_none() {
                        break error;
                    }
                    self.accepted.push(1);
                }
            }
        };
        assert_eq!((full.kind(), full.into_message().len()), (ErrorKind::WouldBlock, 4000));
        self.round_trip();
        let waits = (0..NEVER).any(|_| match at_most(16, self.near.reserve(1), || self.far.turn()) {
            None => true,
            Some(permit) => {
                let mut permit = permit.unwrap();
                permit.put_u8(b'x');
                permit.send();
                self.accepted.push(1);
                false
            }
        });
        assert!(waits, "reserve never waits");
    }

    /// They fail, and give the message back.
    fn cannot_send(&mut self, kind: ErrorKind) {
        let error = finish(self.near.send("mine"), || self.far.turn()).unwrap_err();
        assert_eq!((error.kind(), error.into_message()), (kind, Message::from("mine")), "send");
        let error = self.near.try_send("mine").unwrap_err();
        assert_eq!((error.kind(), error.into_message()), (kind, Message::from("mine")), "try_send");
        let reserved = finish(self.near.reserve(4), || self.far.turn()).map(drop);
        assert_eq!(reserved.unwrap_err().kind(), kind, "reserve");
    }

    /// First what has arrived, in every state.
    fn receives(&mut self) {
        let arrived = finish(self.near.recv(), || self.far.turn()).unwrap().unwrap();
        assert_eq!(arrived, "arrived");
        self.arrived = Some(arrived);
    }

    fn recv_waits(&mut self) {
        self.receives();
        self.round_trip();
        assert!(at_most(16, self.near.recv(), || self.far.turn()).is_none(), "recv does not wait");
        assert_eq!(self.near.try_recv().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    fn recv_ends(&mut self) {
        self.receives();
        assert!(finish(self.near.recv(), || self.far.turn()).unwrap().is_none());
        assert!(self.near.try_recv().unwrap().is_none());
    }

    fn recv_fails(&mut self, kind: ErrorKind) {
        self.receives();
        assert_eq!(finish(self.near.recv(), || self.far.turn()).unwrap_err().kind(), kind, "recv");
        assert_eq!(self.near.try_recv().unwrap_err().kind(), kind, "try_recv");
    }

    fn acked_and_closed_wait(&mut self) {
        self.round_trip();
        assert!(at_most(16, self.near.acked(), || self.far.turn()).is_none(), "acked does not wait");
        assert!(at_most(16, self.near.closed(), || self.far.turn()).is_none(), "closed does not wait");
    }

    fn acked_fails(&mut self, kind: ErrorKind) {
        assert_eq!(finish(self.near.acked(), || self.far.turn()).unwrap_err().kind(), kind, "acked");
    }

    fn is_closed(&mut self, reason: CloseReason) {
        assert_eq!(finish(self.near.closed(), || self.far.turn()), reason, "closed");
    }

    /// `close` resolves once the other side has read everything, and not before. Then its own direction is broken, too.
    fn close_waits_for_everything(self) {
        self.ends_in_order(|near, far, reads| {
            let mut closing = Box::pin(near.close());
            assert!(at_most(16, closing.as_mut(), || far.turn()).is_none(), "close does not wait");
            reads();
            finish(closing, || far.turn()).unwrap();
        });
    }

    /// Dropped, the flow goes on in the background until the other side has everything.
    fn drop_delivers_everything(self) {
        self.ends_in_order(|near, _, reads| {
            drop(near);
            reads();
        });
    }

    fn ends_in_order(self, end: impl FnOnce(Flow, &Still, &mut dyn FnMut())) {
        let Self { far, client, near, mut far_send, mut far_recv, other, accepted, arrived } = self;
        let mut recv = far_recv.take().unwrap();
        let mut reads = || {
            for &len in &accepted {
                let message = finish(recv.recv(), || far.turn()).unwrap().expect("the stream ends early");
                assert_eq!(message.len(), len);
            }
            assert!(finish(recv.recv(), || far.turn()).unwrap().is_none(), "more arrives than was accepted");
        };
        end(near, &far, &mut reads);
        if let Some(send) = &mut far_send {
            // STOP came: what it sends is lost.
            while let Ok(()) = finish(send.send("nobody reads this"), || far.turn()) {
                far.turn();
            }
            let error = send.try_send("nobody reads this").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        drop((far_send, recv, other));
        outlives_everything(arrived, (far, client));
    }

    fn close_fails(self, kind: ErrorKind) {
        let Self { far, client, near, arrived, .. } = self;
        assert_eq!(finish(near.close(), || far.turn()).unwrap_err().kind(), kind, "close");
        outlives_everything(arrived, (far, client));
    }

    fn close_succeeds(self) {
        let Self { far, client, near, arrived, .. } = self;
        finish(near.close(), || far.turn()).unwrap();
        outlives_everything(arrived, (far, client));
    }
}

/// The row of `into_bytes`: the message is the application's, whatever became of flow and endpoint.
fn outlives_everything(arrived: Option<Message>, everything: (Still, Endpoint)) {
    drop(everything);
    if let Some(message) = arrived {
        assert_eq!(message.into_bytes(), "arrived");
    }
}

/// Two flows in the same state: the calls on one, which ends with `close`, and the drop of the other.
fn both(state: impl Fn() -> Case + Send + 'static, calls: impl FnOnce(Case) + Send + 'static) {
    within_a_minute(move || {
        calls(state());
        state().drop_delivers_everything();
    });
}

#[test]
fn open() {
    let state = || Case::new(config(|_| {}));
    both(state, |mut case| {
        case.sends();
        case.recv_waits();
        case.acked_and_closed_wait();
        case.close_waits_for_everything();
    });
}

#[test]
fn we_finished() {
    let state = || {
        let mut case = Case::new(config(|_| {}));
        case.near.finish();
        case
    };
    both(state, |mut case| {
        case.cannot_send(ErrorKind::BrokenPipe);
        case.recv_waits();
        case.acked_and_closed_wait();
        case.close_waits_for_everything();
    });
}

#[test]
fn peer_finished() {
    let state = || {
        let mut case = Case::new(config(|_| {}));
        let send = case.far_send.take().unwrap();
        finish(send.close(), || case.far.turn()).unwrap();
        case.round_trip();
        case
    };
    both(state, |mut case| {
        case.sends();
        case.recv_ends();
        case.acked_and_closed_wait();
        case.close_waits_for_everything();
    });
}

/// The other side has dropped its receiving half, and with it what it never read.
fn stopped() -> Case {
    let mut case = Case::new(config(|_| {}));
    case.far_recv = None;
    // How it is noticed: what was unsent never will be.
    case.acked_fails(ErrorKind::BrokenPipe);
    case
}

#[test]
fn peer_stopped() {
    within_a_minute(|| {
        let mut case = stopped();
        case.cannot_send(ErrorKind::BrokenPipe);
        case.recv_waits();
        case.acked_fails(ErrorKind::BrokenPipe);
        case.round_trip();
        assert!(at_most(16, case.near.closed(), || case.far.turn()).is_none(), "closed does not wait");
        // Not everything arrived, and `close` says so.
        case.close_fails(ErrorKind::BrokenPipe);

        let Case { far, near, mut far_send, .. } = stopped();
        drop(near);
        let send = far_send.as_mut().unwrap();
        assert_eq!(finish(send.closed(), || far.turn()), CloseReason::Finished);
    });
}

#[test]
fn closed_in_order() {
    within_a_minute(|| {
        let state = || {
            let mut case = Case::new(config(|_| {}));
            case.near.finish();
            case.far_reads_everything();
            finish(case.far_send.take().unwrap().close(), || case.far.turn()).unwrap();
            case.is_closed(CloseReason::Finished);
            case
        };
        let mut case = state();
        case.cannot_send(ErrorKind::BrokenPipe);
        case.recv_ends();
        finish(case.near.acked(), || case.far.turn()).unwrap();
        case.is_closed(CloseReason::Finished);
        case.close_succeeds();
        drop(state());
    });
}

/// In order, too, but by the other side alone, which dropped its flow: nothing that it did not read is said to be there.
#[test]
fn closed_by_the_peer() {
    within_a_minute(|| {
        let mut case = Case::new(config(|_| {}));
        drop(case.far_flow());
        case.is_closed(CloseReason::Finished);
        case.cannot_send(ErrorKind::BrokenPipe);
        case.recv_ends();
        case.acked_fails(ErrorKind::BrokenPipe);
        case.close_fails(ErrorKind::BrokenPipe);
    });
}

/// The columns of flows that failed.
fn failed(mut case: Case, reason: CloseReason, kind: ErrorKind) {
    case.is_closed(reason);
    case.cannot_send(kind);
    case.recv_fails(kind);
    case.acked_fails(kind);
    case.is_closed(reason);
    case.close_fails(kind);
}

#[test]
fn reset() {
    within_a_minute(|| {
        let mut case = Case::new(config(|_| {}));
        case.far_flow().abort();
        failed(case, CloseReason::Reset, ErrorKind::ConnectionReset);
    });
}

/// What was acknowledged before stays so: nothing of ours was lost.
#[test]
fn reset_after_the_end_was_acknowledged() {
    within_a_minute(|| {
        let mut case = Case::new(config(|_| {}));
        case.near.finish();
        case.far_reads_everything();
        case.round_trip();
        case.far_flow().abort();
        case.is_closed(CloseReason::Reset);
        case.cannot_send(ErrorKind::BrokenPipe);
        case.recv_fails(ErrorKind::ConnectionReset);
        finish(case.near.acked(), || case.far.turn()).unwrap();
        case.close_succeeds();
    });
}

#[test]
fn peer_dead() {
    within_a_minute(|| {
        let mut case = Case::new(config(|config| config.dead_peer_timeout = Duration::from_secs(2)));
        // From here on the other side has no turn until it is given up.
        assert_eq!(block_on(case.near.closed()), CloseReason::PeerDead);
        failed(case, CloseReason::PeerDead, ErrorKind::TimedOut);
    });
}

/// The other side's engine is gone without a word, and its port with it.
#[test]
fn peer_gone() {
    within_a_minute(|| {
        let Case { far, client, mut near, far_send, far_recv, other, .. } =
            Case::new(config(|config| config.dead_peer_timeout = Duration::from_secs(2)));
        drop(far);
        drop((far_send, far_recv, other));
        let reason = block_on(near.closed());
        assert!(matches!(reason, CloseReason::PeerDead | CloseReason::Reset), "{reason:?}");
        let kind = if reason == CloseReason::Reset { ErrorKind::ConnectionReset } else { ErrorKind::TimedOut };
        let error = block_on(near.send("mine")).unwrap_err();
        assert_eq!((error.kind(), error.into_message()), (kind, Message::from("mine")));
        assert_eq!(block_on(near.recv()).unwrap().unwrap(), "arrived");
        assert_eq!(block_on(near.recv()).unwrap_err().kind(), kind);
        assert_eq!(block_on(near.acked()).unwrap_err().kind(), kind);
        assert_eq!(block_on(near.close()).unwrap_err().kind(), kind);
        drop(client);
    });
}

#[test]
fn shut_down() {
    within_a_minute(|| {
        for everything_arrives in [true, false] {
            // Everything arrives within the linger, however long that takes here; or never.
            let linger = if everything_arrives { Duration::from_secs(60) } else { Duration::from_millis(100) };
            let mut case = Case::new(config(|config| config.linger = linger));
            let client = case.client.clone();
            let mut shutdown = client.shutdown();
            assert!(block_on(poll_once(&mut shutdown)).is_pending());
            case.cannot_send(ErrorKind::NotConnected);
            if everything_arrives {
                case.far_reads_everything();
            }
            finish(shutdown, || case.far.turn()).unwrap();
            // In order is in order, whoever ended it.
            case.is_closed(if everything_arrives { CloseReason::Finished } else { CloseReason::Shutdown });
            case.cannot_send(ErrorKind::NotConnected);
            case.recv_fails(ErrorKind::NotConnected);
            if everything_arrives {
                finish(case.near.acked(), || case.far.turn()).unwrap();
                case.close_succeeds();
            } else {
                case.acked_fails(ErrorKind::NotConnected);
                case.close_fails(ErrorKind::NotConnected);
            }
            let refused = block_on(client.connect(free_port()));
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotConnected);
        }
    });
}

/// There is no flow yet, only `connect`: towards a socket that never answers.
#[test]
fn connecting() {
    within_a_minute(|| {
        let silent = UdpSocket::bind((V4, 0)).unwrap();
        let to = silent.local_addr().unwrap();
        let mut packet = [0; 2048];

        // It waits, then fails as it says.
        let client = endpoint_at(V4, config(|config| config.connect_timeout = Duration::from_millis(300)));
        let mut connect = client.connect(to);
        assert!(block_on(poll_once(&mut connect)).is_pending());
        silent.recv_from(&mut packet).unwrap();
        assert_eq!(block_on(connect).unwrap_err().kind(), ErrorKind::TimedOut);

        // Dropped, the attempt ends.
        let client = endpoint_at(V4, config(|_| {}));
        let mut connect = client.connect(to);
        assert!(block_on(poll_once(&mut connect)).is_pending());
        silent.recv_from(&mut packet).unwrap();
        assert!(block_on(poll_once(&mut connect)).is_pending(), "nobody has answered");
        while engine_stats(&client).flows == 0 {
            std::thread::yield_now();
        }
        drop(connect);
        while engine_stats(&client).flows > 0 {
            std::thread::yield_now();
        }

        // Shut down meanwhile.
        let mut connect = client.connect(to);
        assert!(block_on(poll_once(&mut connect)).is_pending());
        block_on(client.shutdown()).unwrap();
        assert_eq!(block_on(connect).unwrap_err().kind(), ErrorKind::NotConnected);

        // Nobody is there at all.
        let client = endpoint_at(V4, config(|_| {}));
        assert_eq!(block_on(client.connect(free_port())).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn all_of_it_over_two_daemons() {
    support::sidecar::again_over_two_daemons(&[]);
}
