//! Call × state → result, row by row: `docs/spec/flow.md#calls`. A row is a call, a cell a state.

use bytes::BufMut;

use super::*;

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Open,
    WeFinished,
    PeerFinished,
    PeerStopped,
    InOrder,
    Failed(CloseReason),
    ShutDown,
}
use Column::*;

const COLUMNS: [Column; 9] = [
    Open,
    WeFinished,
    PeerFinished,
    PeerStopped,
    InOrder,
    Failed(CloseReason::Reset),
    Failed(CloseReason::PeerDead),
    Failed(CloseReason::Aborted),
    ShutDown,
];

const fn kind(reason: CloseReason) -> ErrorKind {
    match reason {
        CloseReason::Reset => ErrorKind::ConnectionReset,
        CloseReason::PeerDead => ErrorKind::TimedOut,
        CloseReason::Aborted => ErrorKind::ConnectionAborted,
        _ => panic!("not in the table's test"),
    }
}

/// What a cell says.
#[derive(Debug, PartialEq, Eq)]
enum Cell {
    Waits,
    Done,
    Error(ErrorKind),
    Over(CloseReason),
}
use Cell::*;

fn cell<T>(poll: Poll<Result<T, ErrorKind>>) -> Cell {
    match poll {
        Poll::Pending => Waits,
        Poll::Ready(Ok(_)) => Done,
        Poll::Ready(Err(kind)) => Error(kind),
    }
}

/// A flow in the state of `column`, in which one message was sent and not acknowledged before it came to that, and one
/// message arrived.
fn flow_in(column: Column) -> (Endpoint, Rig, Flow, Slot) {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    flow.try_send("sent").unwrap();
    rig.deliver(slot, "arrived");
    let open = FlowState::OPEN;
    match column {
        Open => {}
        WeFinished => flow.finish(),
        PeerFinished => rig.set_state(slot, open.with(FlowState::READ_ENDED)),
        PeerStopped => rig.set_state(slot, open.with(FlowState::WRITE_ENDED)),
        InOrder => {
            rig.channel.set_progress(slot, 100, 2);
            let ended = open.with(FlowState::READ_ENDED).with(FlowState::FIN_ACKED);
            rig.set_state(slot, ended.closed(CloseReason::Finished));
        }
        Failed(reason) => rig.set_state(slot, open.closed(reason)),
        ShutDown => {
            rig.intake.shut_down();
            rig.set_state(slot, open.closed(CloseReason::Shutdown));
        }
    }
    (endpoint, rig, flow, slot)
}

/// The row of `send`, which `reserve` and `try_send` share.
#[test]
fn send() {
    for column in COLUMNS {
        let expected = match column {
            Open | PeerFinished => Done,
            WeFinished | PeerStopped | InOrder => Error(ErrorKind::BrokenPipe),
            Failed(reason) => Error(kind(reason)),
            ShutDown => Error(ErrorKind::NotConnected),
        };
        let (_endpoint, mut rig, mut flow, slot) = flow_in(column);
        let sent = Task::new(flow.send("x")).poll().map(|r| r.map_err(|e| (e.kind(), e.into_message())));
        if let Poll::Ready(Err((_, back))) = &sent {
            assert_eq!(*back, "x", "{column:?}: the message comes back");
        }
        assert_eq!(cell(sent.map(|r| r.map_err(|(kind, _)| kind))), expected, "{column:?}: send");
        let tried = flow.try_send("x").map_err(|e| e.kind());
        assert_eq!(cell(Poll::Ready(tried)), expected, "{column:?}: try_send");
        let reserved = Task::new(flow.reserve(1)).poll().map(|r| r.map_err(|e| e.kind()).map(|mut m| m.put_u8(0)));
        assert_eq!(cell(reserved), expected, "{column:?}: reserve");
        // Without room an open flow waits, and all others do not.
        rig.room(slot, 0);
        let waiting = Task::new(flow.send("x")).poll().map(|r| r.map_err(|e| e.kind()));
        assert_eq!(cell(waiting), if expected == Done { Waits } else { expected }, "{column:?}: send without room");
    }
}

/// The row of `recv`, which `try_recv` shares: in every state first what has arrived.
#[test]
fn recv() {
    for column in COLUMNS {
        let expected = match column {
            Open | WeFinished | PeerStopped => Waits,
            PeerFinished | InOrder => Done,
            Failed(reason) => Error(kind(reason)),
            ShutDown => Error(ErrorKind::NotConnected),
        };
        let (_endpoint, _rig, mut flow, _) = flow_in(column);
        assert_eq!(block_on(flow.recv()).unwrap().unwrap(), "arrived", "{column:?}");
        let end = Task::new(flow.recv()).poll().map(|r| r.map(|end| assert!(end.is_none())).map_err(|e| e.kind()));
        assert_eq!(cell(end), expected, "{column:?}: recv");
        let tried = flow.try_recv().map(|end| assert!(end.is_none())).map_err(|e| e.kind());
        let blocks = if expected == Waits { Error(ErrorKind::WouldBlock) } else { expected };
        assert_eq!(cell(Poll::Ready(tried)), blocks, "{column:?}: try_recv");
    }
}

/// The row of `acked`.
#[test]
fn acked() {
    for column in COLUMNS {
        let expected = match column {
            Open | WeFinished | PeerFinished => Waits,
            PeerStopped => Error(ErrorKind::BrokenPipe),
            InOrder => Done,
            Failed(reason) => Error(kind(reason)),
            ShutDown => Error(ErrorKind::NotConnected),
        };
        let (_endpoint, mut rig, mut flow, slot) = flow_in(column);
        assert_eq!(cell(Task::new(flow.acked()).poll().map(|r| r.map_err(|e| e.kind()))), expected, "{column:?}");
        // Acknowledged is acknowledged, whatever came after.
        rig.channel.set_progress(slot, 100, 2);
        assert_eq!(cell(Task::new(flow.acked()).poll().map(|r| r.map_err(|e| e.kind()))), Done, "{column:?}");
    }
}

/// The row of `closed`.
#[test]
fn closed() {
    for column in COLUMNS {
        let expected = match column {
            Open | WeFinished | PeerFinished | PeerStopped => Waits,
            InOrder => Over(CloseReason::Finished),
            Failed(reason) => Over(reason),
            ShutDown => Over(CloseReason::Shutdown),
        };
        let (_endpoint, _rig, flow, _) = flow_in(column);
        let (mut send, mut recv) = flow.into_split();
        for poll in [Task::new(send.closed()).poll(), Task::new(recv.closed()).poll()] {
            assert_eq!(if let Poll::Ready(reason) = poll { Over(reason) } else { Waits }, expected, "{column:?}");
        }
    }
}

/// The row of `close`.
#[test]
fn close() {
    for column in COLUMNS {
        let expected = match column {
            Open | WeFinished | PeerFinished | PeerStopped => Waits,
            InOrder => Done,
            Failed(reason) => Error(kind(reason)),
            ShutDown => Error(ErrorKind::NotConnected),
        };
        let (_endpoint, mut rig, flow, slot) = flow_in(column);
        let mut close = Task::new(flow.close());
        assert_eq!(rig.channel.intent(slot), Intent::FIN.with(Intent::STOP), "{column:?}");
        assert_eq!(cell(close.poll().map(|r| r.map_err(|e| e.kind()))), expected, "{column:?}");
        if expected == Waits {
            // What the peer discarded was not acknowledged, though the end was.
            rig.set_state(slot, FlowState::OPEN.with(FlowState::FIN_ACKED));
            assert_eq!(ready(close.poll()).unwrap_err().kind(), ErrorKind::BrokenPipe);
            rig.channel.set_progress(slot, 100, 2);
            ready(close.poll()).unwrap();
        }
    }
}

/// The row of dropping the flow: it asks for both ends, and never waits.
#[test]
fn drop_of_the_flow() {
    for column in COLUMNS {
        let (_endpoint, mut rig, flow, slot) = flow_in(column);
        drop(flow);
        assert_eq!(rig.channel.intent(slot), Intent::FIN.with(Intent::STOP), "{column:?}");
    }
}

/// The row of `into_bytes`: a message is the application's, whatever happens to its flow.
#[test]
fn into_bytes() {
    for column in COLUMNS {
        let (endpoint, rig, mut flow, _) = flow_in(column);
        let message = block_on(flow.recv()).unwrap().unwrap();
        drop((flow, rig, endpoint));
        assert_eq!(message.into_bytes(), "arrived", "{column:?}");
    }
}

/// The column `connecting`: there is no flow yet, only `connect`, which waits, fails as the flow does, or is dropped.
#[test]
fn connecting() {
    for reason in [CloseReason::Refused, CloseReason::PeerDead, CloseReason::Shutdown] {
        let (endpoint, mut rig) = Rig::new();
        let mut connect = Task::new(endpoint.connect(addr(2)));
        assert!(connect.poll().is_pending());
        let slot = rig.next_connect();
        assert!(connect.poll().is_pending());
        rig.set_state(slot, FlowState::CONNECTING.closed(reason));
        assert_eq!(ready(connect.poll()).unwrap_err().kind(), FlowError::new(addr(2), reason).kind());
    }
}
