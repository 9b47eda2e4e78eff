//! Mailboxes over a region, against a daemon played by hand: every ring counted, nothing in between.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::words::HeapWords;
use crate::{Backlog, CloseReason, FlowState, Intake, Intent, Mailbox, Message, Pump, RecvEnd, SendEnd};

const GEOMETRY: Geometry = Geometry { flows: 64, listeners: 2, descriptors: 64, data: 8192, max_piece: 1252 };
const MAX_MESSAGE: u32 = 100_000;

/// Rings that nobody has heard, and whether the daemon lives.
#[derive(Clone, Debug, Default)]
struct Bell(Arc<(AtomicU64, AtomicBool, Mutex<Vec<Over>>)>);

impl Line for Bell {
    fn ring(&self) {
        self.0.0.fetch_add(1, Relaxed);
    }
    fn hear(&self) -> bool {
        self.0.1.load(Relaxed)
    }
    fn over(&self, why: &Over) {
        self.0.2.lock().unwrap().push(*why);
    }
}

type Attached = Attachment<Arc<HeapWords>, Bell>;

#[derive(Debug)]
struct Pumping(Attached);

impl Pump for Pumping {
    fn pump(&self) {
        self.0.pump();
    }
    fn has_news(&self) -> bool {
        self.0.has_news()
    }
    fn waits(&self) {}
    fn looks(&self, on: bool) {
        self.0.looks(on);
    }
    fn rings(&self) -> (u64, u64) {
        self.0.rings()
    }
    fn shut_down(&self) {
        self.0.pump();
    }
}

struct Rig {
    intake: Arc<Intake>,
    attached: Attached,
    daemon: DaemonSide<Arc<HeapWords>>,
    bell: Bell,
    /// Rings sent to the application.
    rung: u64,
    /// What came of a message so far.
    partial: Vec<u8>,
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn sides() -> (AppSide<Arc<HeapWords>>, DaemonSide<Arc<HeapWords>>) {
    let words = HeapWords::new((GEOMETRY.bytes() + STATUS_BYTES) / 8);
    let app = AppSide::new(Arc::clone(&words), &GEOMETRY, MAX_MESSAGE).with_status(true);
    (app, DaemonSide::new(words, &GEOMETRY, MAX_MESSAGE).with_status(true))
}

impl Rig {
    fn new(afterwards: Afterwards) -> Self {
        let (intake, bell, (side, daemon)) = (Intake::new(), Bell::default(), sides());
        let attached = Attachment::new(&intake, side, bell.clone(), afterwards);
        intake.set_pump(Arc::new(Pumping(attached.clone())));
        Self { intake, attached, daemon, bell, rung: 0, partial: Vec::new() }
    }

    fn flow(&mut self) -> (SendEnd, RecvEnd, u32) {
        let (send, recv) = Mailbox::connect(&self.intake, addr(1));
        let Some(Event::Connect { slot, peer, .. }) = self.event() else { panic!("nobody connects") };
        assert_eq!(peer, addr(1));
        self.daemon.set_local(slot, addr(2));
        self.daemon.set_max_message(slot, 5000);
        self.daemon.set_progress(slot, 10_000, 0);
        self.daemon.set_state(slot, FlowState::OPEN);
        self.publish();
        let mailbox = send.mailbox();
        assert_eq!((mailbox.state(), mailbox.local(), mailbox.max_message()), (FlowState::OPEN, Some(addr(2)), 5000));
        (send, recv, slot)
    }

    fn event(&mut self) -> Option<Event> {
        std::iter::from_fn(|| self.daemon.next_event().unwrap()).last()
    }

    fn publish(&mut self) {
        if self.daemon.publish() {
            self.rung += 1;
            self.attached.rung();
        }
    }

    fn deliver(&mut self, slot: u32, message: &[u8]) {
        self.daemon.count_delivered(slot, message.len());
        assert!(self.daemon.put(slot, message, &mut 0).unwrap());
        self.publish();
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        while let Some(piece) = self.daemon.peek().unwrap() {
            let from = self.partial.len();
            self.partial.resize(from + piece.len, 0);
            self.daemon.take(&mut self.partial[from..]).unwrap();
            if !piece.more {
                return Some(std::mem::take(&mut self.partial));
            }
        }
        None
    }

    /// The daemon is gone.
    fn vanish(&mut self) {
        self.bell.0.1.store(true, Relaxed);
        self.attached.rung();
    }
}

/// As an endpoint that is dropped: what its pump and its intake have of each other is let go.
impl Drop for Rig {
    fn drop(&mut self) {
        self.vanish();
        self.intake.shut_down();
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// While both sides look, nobody rings.
#[test]
fn awake_sides_make_no_system_call() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (mut send, mut recv, slot) = rig.flow();
    rig.attached.looks(true);
    let (rung, rings) = (rig.rung, rig.attached.rings());
    for _ in 0..1000 {
        send.post(Message::from("question")).unwrap();
        assert_eq!(rig.take().unwrap(), b"question");
        rig.deliver(slot, b"answer");
        assert!(rig.attached.has_news());
        assert_eq!(recv.take().unwrap(), "answer");
        assert!(!rig.attached.has_news());
    }
    assert_eq!((rig.rung, rig.attached.rings()), (rung, rings));
}

/// Whoever sleeps is rung once, however much follows.
#[test]
fn sleepers_are_rung_once() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (mut send, mut recv, slot) = rig.flow();
    let before = rig.rung;
    assert!(recv.poll_take(&cx()).is_pending());
    rig.daemon.count_delivered(slot, 1);
    assert!(rig.daemon.put(slot, b"1", &mut 0).unwrap());
    assert!(rig.daemon.publish(), "it sleeps");
    for _ in 0..3 {
        rig.daemon.count_delivered(slot, 1);
        assert!(rig.daemon.put(slot, b"1", &mut 0).unwrap());
        assert!(!rig.daemon.publish(), "a ring is on its way");
    }
    // Who polls meanwhile finds it all, and asks for no other ring before that one was heard.
    for _ in 0..4 {
        assert!(matches!(recv.poll_take(&cx()), Poll::Ready(Some(_))));
    }
    assert!(recv.poll_take(&cx()).is_pending());
    rig.deliver(slot, b"1");
    assert_eq!(rig.rung, before);
    rig.attached.rung();
    rig.deliver(slot, b"1");
    assert_eq!(rig.rung, before + 1);
    // The other way round.
    rig.daemon.arm(false);
    let (rings, _) = rig.attached.rings();
    for _ in 0..3 {
        send.post(Message::from("x")).unwrap();
    }
    assert_eq!(rig.attached.rings().0, rings + 1);
}

/// More than the pipe takes waits in the outbox, in order, large messages in pieces; FIN comes last.
#[test]
fn a_full_pipe_holds_up_and_loses_nothing() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (mut send, recv, slot) = rig.flow();
    let (mut other, _recv, other_slot) = rig.flow();
    let message = |number: usize| vec![number as u8; (number * 311) % 5000];
    for number in 0..40 {
        send.post(Message::from(message(number))).unwrap();
    }
    other.post(Message::from("other")).unwrap();
    send.finish();
    let mut taken = Vec::new();
    loop {
        while let Some(message) = rig.take() {
            taken.push(message);
            rig.event();
            let fin = rig.daemon.intent(slot).unwrap().has(Intent::FIN);
            assert!(!fin || taken.len() >= 40, "FIN before the last message");
        }
        if taken.len() == 41 {
            break;
        }
        assert!(rig.daemon.publish(), "it waits for room");
        rig.attached.rung();
    }
    let at = taken.iter().position(|message| message == b"other").unwrap();
    taken.remove(at);
    assert!(taken.into_iter().eq((0..40).map(message)));
    rig.event();
    assert!(rig.daemon.intent(slot).unwrap().has(Intent::FIN));
    assert!(!rig.daemon.intent(other_slot).unwrap().has(Intent::FIN));
    drop(recv);
}

/// Nobody is told of each acknowledgement; who waits is told of the next.
#[test]
fn room_is_told_to_who_waits() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (mut send, _recv, slot) = rig.flow();
    let before = rig.rung;
    rig.daemon.set_progress(slot, 10_001, 1);
    rig.publish();
    assert_eq!(rig.rung, before, "nobody waits");
    assert!(send.poll_acknowledged(&cx(), 1).is_ready());
    assert!(send.poll_acknowledged(&cx(), 2).is_pending());
    rig.daemon.set_progress(slot, 10_002, 2);
    rig.publish();
    assert_eq!((rig.rung, send.acknowledged()), (before + 1, 2));
    rig.daemon.set_progress(slot, 10_003, 3);
    rig.publish();
    assert_eq!(rig.rung, before + 1);
    assert!(send.poll_acknowledged(&cx(), 3).is_ready(), "who asks finds it");
}

/// What was posted beyond the room by who finished goes as far as that may; the rest when there is room.
#[test]
fn what_is_beyond_the_room_waits_for_it() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (mut send, _recv, slot) = rig.flow();
    rig.daemon.set_progress(slot, 10_000, 0);
    let large = vec![1; 100_000];
    let mut posted = 0;
    while send.post(Message::from(large.clone())).is_ok() {
        posted += 1;
    }
    for _ in 0..3 {
        send.post_over(Message::from(large.clone()));
    }
    let mut taken = 0;
    let mut drain = |rig: &mut Rig| {
        loop {
            while rig.take().is_some() {
                taken += 1;
            }
            if !rig.daemon.publish() {
                break taken;
            }
            rig.attached.rung();
        }
    };
    assert_eq!(drain(&mut rig), posted, "without FIN nothing more");
    send.finish();
    // 7 of 1 564 units are 948 beyond 10 000; with the eighth it is more than the 2 050 that may be.
    assert_eq!((posted, drain(&mut rig)), (7, 8));
    rig.event();
    assert!(!rig.daemon.intent(slot).unwrap().has(Intent::FIN));
    rig.daemon.set_progress(slot, 30_000, 10_000);
    rig.publish();
    assert_eq!(drain(&mut rig), posted + 3);
    rig.event();
    assert!(rig.daemon.intent(slot).unwrap().has(Intent::FIN));
}

/// The end: of a flow, of those that the daemon leaves behind, of listeners, and what comes after.
#[test]
fn a_daemon_that_is_gone_ends_everything() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (mut send, mut recv, slot) = rig.flow();
    let mut listener = Backlog::listen(&rig.intake, 7, 1);
    assert!(listener.poll_opened(&cx()).is_pending());
    let mut opened = Backlog::listen(&rig.intake, 8, 1);
    let Some(Event::Listen { listener: at, port: 8, .. }) = rig.event() else { panic!("nobody listens") };
    rig.daemon.set_listening(at, Ok(addr(8)));
    rig.publish();
    assert!(opened.poll_opened(&cx()).is_ready() && opened.poll_accept(&cx()).is_pending());
    // What it delivered is received before the error.
    rig.daemon.count_delivered(slot, 4);
    assert!(rig.daemon.put(slot, b"last", &mut 0).unwrap());
    let _ = rig.daemon.publish();
    rig.vanish();
    assert!(matches!(recv.poll_take(&cx()), Poll::Ready(Some(message)) if message == "last"));
    assert!(matches!(recv.poll_take(&cx()), Poll::Ready(None)));
    assert_eq!(recv.mailbox().state().reason(), Some(CloseReason::DaemonGone));
    assert!(send.poll_room(&cx()).is_ready());
    let Poll::Ready(Err(error)) = listener.poll_opened(&cx()) else { panic!("it waits") };
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    assert!(matches!(opened.poll_accept(&cx()), Poll::Ready(None)));
    // Afterwards nobody waits either.
    let (late, _recv) = Mailbox::connect(&rig.intake, addr(1));
    assert_eq!(late.mailbox().state().reason(), Some(CloseReason::DaemonGone));
    let mut late = Backlog::listen(&rig.intake, 9, 1);
    assert!(matches!(late.poll_opened(&cx()), Poll::Ready(Err(error)) if error.kind() == ErrorKind::NetworkDown));
    assert_eq!(*rig.bell.0.2.lock().unwrap(), [Over::Gone]);
    // And the endpoint may end.
    rig.intake.shut_down();
    assert_eq!(*rig.bell.0.2.lock().unwrap(), [Over::Gone, Over::Finished]);
}

/// Asked whether it is there, only if something would be lost with it; and given up with a reason of its own.
#[test]
fn a_daemon_that_does_not_answer() {
    let mut rig = Rig::new(Afterwards::Ends);
    assert_eq!((rig.attached.beat(false), rig.daemon.is_asked()), (None, false));
    let (_send, recv, _) = rig.flow();
    assert_eq!((rig.attached.beat(false), rig.daemon.is_asked()), (Some(true), true));
    assert_eq!([rig.attached.beat(false), rig.attached.beat(true)], [Some(false); 2]);
    rig.daemon.answer(&[7, 8]);
    assert!(!rig.daemon.is_asked());
    assert_eq!(rig.attached.counters().unwrap()[..3], [7, 8, 0]);
    assert_eq!([rig.attached.beat(false), rig.attached.beat(false)], [Some(true), Some(false)]);
    rig.attached.give_up_daemon();
    assert_eq!(recv.mailbox().state().reason(), Some(CloseReason::DaemonSilent));
    assert_eq!(*rig.bell.0.2.lock().unwrap(), [Over::Silent]);
    assert_eq!((rig.attached.beat(true), rig.attached.counters()), (None, None));
}

/// A listener goes on with the next daemon, at the port it had; flows do not.
#[test]
fn listeners_outlive_a_daemon_where_asked() {
    let mut rig = Rig::new(Afterwards::Reattaches);
    let (_send, recv, _) = rig.flow();
    let mut listener = Backlog::listen(&rig.intake, 0, 1);
    let Some(Event::Listen { listener: at, port: 0, .. }) = rig.event() else { panic!("nobody listens") };
    rig.daemon.set_listening(at, Ok(addr(777)));
    rig.publish();
    assert!(listener.poll_opened(&cx()).is_ready());
    rig.vanish();
    assert_eq!(recv.mailbox().state().reason(), Some(CloseReason::DaemonGone));
    assert!(listener.poll_accept(&cx()).is_pending());
    let (side, daemon) = sides();
    rig.daemon = daemon;
    rig.bell = Bell::default();
    rig.attached.attach(side, rig.bell.clone());
    let Some(Event::Listen { listener: at, port: 777, .. }) = rig.event() else { panic!("nobody listens again") };
    rig.daemon.set_listening(at, Ok(addr(777)));
    rig.daemon.accept(at, addr(777), addr(3)).unwrap();
    rig.publish();
    let Poll::Ready(Some(accepted)) = listener.poll_accept(&cx()) else { panic!("nothing to accept") };
    assert_eq!(accepted.send.mailbox().peer(), addr(3));
    assert!(rig.daemon.can_accept(at).unwrap());
    // A daemon that is gone for good ends it.
    rig.vanish();
    assert!(listener.poll_accept(&cx()).is_pending());
    rig.attached.give_up();
    assert!(matches!(listener.poll_accept(&cx()), Poll::Ready(None)));
}

/// What is posted when the endpoint ends is sent, and the channel ends with its last flow.
#[test]
fn an_endpoint_ends_after_its_flows() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (mut send, recv, slot) = rig.flow();
    let listener = Backlog::listen(&rig.intake, 7, 1);
    rig.event();
    send.post(Message::from("x")).unwrap();
    rig.intake.shut_down();
    assert_eq!(rig.take().unwrap(), b"x");
    let events: Vec<_> = std::iter::from_fn(|| rig.daemon.next_event().unwrap()).collect();
    assert!(events.contains(&Event::Unlisten { listener: 0 }) && events.contains(&Event::Flow { slot }));
    assert_eq!(rig.daemon.intent(slot).unwrap(), Intent::FIN.with(Intent::STOP));
    rig.daemon.set_state(slot, FlowState::OPEN.closed(CloseReason::Finished));
    rig.daemon.release(slot);
    rig.publish();
    assert_eq!(send.mailbox().state().reason(), Some(CloseReason::Finished));
    assert!(rig.bell.0.2.lock().unwrap().is_empty(), "a listener is left");
    rig.daemon.unlisten(0);
    rig.publish();
    assert_eq!(*rig.bell.0.2.lock().unwrap(), [Over::Finished]);
    let late = Mailbox::connect(&rig.intake, addr(1));
    assert_eq!(late.0.mailbox().state().reason(), Some(CloseReason::Shutdown));
    let intake = Arc::downgrade(&rig.intake);
    drop((listener, send, recv, late, rig));
    assert!(intake.upgrade().is_none(), "the pump holds the intake");
}

/// A word that cannot be ends the channel, and is named.
#[test]
fn a_broken_daemon_is_a_daemon_gone() {
    let mut rig = Rig::new(Afterwards::Ends);
    let (send, _recv, slot) = rig.flow();
    rig.daemon.set_state(slot, FlowState(1 << 9));
    rig.publish();
    assert_eq!(send.mailbox().state().reason(), Some(CloseReason::DaemonGone));
    assert!(matches!(rig.bell.0.2.lock().unwrap()[..], [Over::Broken(Malformed::Word { word: Word::State, .. })]));
}
