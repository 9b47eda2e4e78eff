use std::net::SocketAddr;

use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::sync::{Arc, Notify};
use loom::thread;

use super::{model, wait};
use crate::shared::loom::words;
use crate::shared::{Afterwards, AppSide, Attachment, DaemonSide, Event, Geometry, Line, Over};
use crate::words::HeapWords;
use crate::{FlowState, Intake, Mailbox, Message, Pump, RecvEnd, SendEnd};

const GEOMETRY: Geometry = Geometry { flows: 1, listeners: 1, descriptors: 2, data: 16, max_piece: 8 };

/// A connection whose daemon needs no ring: it looks when it is asked to.
#[derive(Clone, Debug)]
struct Wire(Arc<AtomicBool>);

impl Line for Wire {
    fn ring(&self) {}
    fn hear(&self) -> bool {
        self.0.load(Relaxed)
    }
    fn over(&self, _: &Over) {}
}

type Attached = Attachment<Arc<HeapWords>, Wire>;

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

type Daemon = DaemonSide<Arc<HeapWords>>;

/// An endpoint with an open flow, in slot 0, over a region.
struct Rig {
    intake: Arc<Intake>,
    attached: Attached,
    gone: Arc<AtomicBool>,
}

impl Rig {
    fn new() -> (Self, Daemon, SendEnd, RecvEnd) {
        let (intake, words, gone) = (Intake::new(), words(&GEOMETRY), Arc::new(AtomicBool::new(false)));
        let side = AppSide::new(Arc::clone(&words), &GEOMETRY, 64);
        let attached = Attachment::new(&intake, side, Wire(Arc::clone(&gone)), Afterwards::Ends);
        intake.set_pump(std::sync::Arc::new(Pumping(attached.clone())));
        let mut daemon = DaemonSide::new(words, &GEOMETRY, 64);
        let (send, recv) = Mailbox::connect(&intake, SocketAddr::from(([127, 0, 0, 1], 9)));
        assert!(matches!(daemon.next_event(), Ok(Some(Event::Connect { slot: 0, .. }))));
        assert_eq!(daemon.next_event(), Ok(None));
        daemon.set_progress(0, 100, 0);
        daemon.set_state(0, FlowState::OPEN);
        assert!(daemon.publish(), "it sleeps");
        attached.rung();
        assert!(send.mailbox().state().has(FlowState::OPEN));
        (Self { intake, attached, gone }, daemon, send, recv)
    }

    /// The daemon delivers messages, and whoever hears its ring pumps.
    fn deliver(&self, mut daemon: Daemon) -> thread::JoinHandle<()> {
        let attached = self.attached.clone();
        thread::spawn(move || {
            if deliver(&mut daemon) {
                attached.rung();
            }
        })
    }

    /// Nothing holds the intake any more.
    fn end(self) {
        self.intake.shut_down();
        self.gone.store(true, Relaxed);
        self.attached.rung();
    }
}

/// True: ring.
fn deliver(daemon: &mut Daemon) -> bool {
    daemon.count_delivered(0, 2);
    assert!(daemon.put(0, b"hi", &mut 0).unwrap());
    daemon.publish()
}

/// Who finds nothing and waits is woken, whoever pumps meanwhile.
#[test]
fn recv_waits_and_the_bell_wakes_it() {
    model(3, || {
        let (rig, daemon, send, mut recv) = Rig::new();
        let engine = rig.deliver(daemon);
        assert_eq!(wait(|cx| recv.poll_take(cx)).unwrap(), "hi");
        engine.join().unwrap();
        drop((send, recv));
        rig.end();
    });
}

/// A daemon that delivers while its last ring is heard rings again, or what it delivered is found.
#[test]
fn the_bell_is_heard_while_the_daemon_delivers() {
    model(3, || {
        let (rig, mut daemon, send, mut recv) = Rig::new();
        let bell = Arc::new(Notify::new());
        let engine = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                for _ in 0..2 {
                    if deliver(&mut daemon) {
                        bell.notify();
                    }
                }
            })
        };
        let mut received = 0;
        while received < 2 {
            bell.wait();
            rig.attached.rung();
            while recv.take_delivered().is_some() {
                received += 1;
            }
        }
        engine.join().unwrap();
        drop((send, recv));
        rig.end();
    });
}

/// While somebody looks all the time nobody is rung; when they stop, who waits is woken.
#[test]
fn looking_ends_while_the_daemon_delivers() {
    model(2, || {
        let (rig, daemon, send, mut recv) = Rig::new();
        rig.attached.looks(true);
        let task = thread::spawn(move || {
            assert_eq!(wait(|cx| recv.poll_take(cx)).unwrap(), "hi");
            recv
        });
        let engine = rig.deliver(daemon);
        rig.attached.looks(false);
        engine.join().unwrap();
        drop((send, task.join().unwrap()));
        rig.end();
    });
}

/// What is sent while somebody else pumps goes into the pipe.
#[test]
fn a_hint_finds_the_pump_taken() {
    model(3, || {
        let (rig, mut daemon, mut send, mut recv) = Rig::new();
        let sender = thread::spawn(move || {
            send.post(Message::from("hello")).unwrap();
            send
        });
        assert!(recv.take().is_none());
        let send = sender.join().unwrap();
        assert!(daemon.peek().unwrap().is_some_and(|piece| piece.len == 5), "nobody took the hint");
        drop((send, recv));
        rig.end();
    });
}
