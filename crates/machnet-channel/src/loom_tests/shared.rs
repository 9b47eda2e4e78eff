use std::net::SocketAddr;

use loom::sync::{Arc, Notify};
use loom::thread;

use super::model;
use crate::shared::loom::{Marks, words};
use crate::shared::{AppSide, DaemonSide, Event, Geometry, Incoming, Note, STATUS_BYTES};
use crate::words::HeapWords;
use crate::{FlowOptions, FlowState};

type App = AppSide<Arc<HeapWords>>;
type Daemon = DaemonSide<Arc<HeapWords>>;

/// As small as can be: one flow each way, one descriptor, one word of payload.
const GEOMETRY: Geometry = Geometry { flows: 1, listeners: 1, descriptors: 1, data: 8, max_piece: 8 };

fn sides() -> (App, Daemon) {
    let words = words(&GEOMETRY);
    (AppSide::new(Arc::clone(&words), &GEOMETRY, 64), DaemonSide::new(words, &GEOMETRY, 64))
}

fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

/// A flow that both sides know.
fn open(app: &mut App, daemon: &mut Daemon) -> u32 {
    let slot = app.connect(addr(), FlowOptions::new()).unwrap();
    assert!(!app.publish());
    assert!(matches!(daemon.next_event(), Ok(Some(Event::Connect { .. }))));
    assert_eq!(daemon.next_event(), Ok(None));
    assert!(!daemon.publish());
    assert_eq!(app.next_note(), Ok(Some(Note::Flow(slot))));
    assert_eq!(app.next_note(), Ok(None));
    slot
}

/// What is written before a mark is seen by who looks, in all the words that are marked.
fn marks(slots: &'static [u32], preemptions: usize) {
    model(preemptions, move || {
        let (mut marker, mut looker) = Marks::pair(&GEOMETRY);
        let bell = Arc::new(Notify::new());
        let marking = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                for (n, slot) in (1..).zip(slots) {
                    if marker.write_and_mark(*slot, n) {
                        bell.notify();
                    }
                }
            })
        };
        let last = |slot| (1..).zip(slots).filter(|&(_, of)| *of == slot).map(|(n, _)| n).last();
        let mut seen = [0, 0];
        while (0..2).any(|slot| last(slot).is_some_and(|n| seen[slot as usize] != n)) {
            if looker.look(&mut seen) {
                continue;
            }
            if looker.arm_and_look() {
                continue;
            }
            bell.wait();
        }
        marking.join().unwrap();
    });
}

#[test]
fn every_write_is_looked_at() {
    marks(&[0, 0], 3);
}

#[test]
fn a_word_of_several_marks() {
    marks(&[0, 1], 3);
}

/// The application may look at a flow while the daemon opens it: it sees the address whole, with OPEN, or none of it.
#[test]
fn an_address_that_is_being_written_is_not_looked_at() {
    model(3, || {
        let (mut app, mut daemon) = sides();
        let slot = open(&mut app, &mut daemon);
        let engine = thread::spawn(move || {
            daemon.set_local(slot, addr());
            daemon.set_state(slot, FlowState::OPEN);
        });
        let view = app.flow(slot).unwrap();
        assert_eq!(view.local, view.state.has(FlowState::OPEN).then_some(addr()));
        engine.join().unwrap();
    });
}

/// Who waits for room is told, although nobody is told of room otherwise.
#[test]
fn progress_is_seen_or_told() {
    model(3, || {
        let (mut app, mut daemon) = sides();
        let slot = open(&mut app, &mut daemon);
        let bell = Arc::new(Notify::new());
        let engine = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                daemon.set_progress(slot, 7, 3);
                if daemon.publish() {
                    bell.notify();
                }
                daemon
            })
        };
        while app.progress(slot, true) != (7, 3) {
            if app.next_note().unwrap().is_some() {
                continue;
            }
            if app.arm(false) && app.has_work(false) {
                continue;
            }
            bell.wait();
            app.disarm();
        }
        drop(engine.join().unwrap());
    });
}

/// What a side has to do with the pipes.
trait Side {
    fn put(&mut self) -> bool;
    fn take(&mut self) -> bool;
    fn publish(&mut self) -> bool;
    /// True if it may sleep.
    fn arm(&mut self, room: bool) -> bool;
    fn disarm(&mut self);
}

struct AppEnd(App, u32);
struct DaemonEnd(Daemon, u32);

impl Side for AppEnd {
    fn put(&mut self) -> bool {
        self.0.put(self.1, b"to there", &mut 0).unwrap()
    }
    fn take(&mut self) -> bool {
        let Some(Incoming::Piece(piece)) = self.0.peek().unwrap() else { return false };
        let mut bytes = [0; 8];
        self.0.take(&piece, &mut bytes);
        assert_eq!(&bytes, b"to here!");
        true
    }
    fn publish(&mut self) -> bool {
        self.0.publish()
    }
    fn arm(&mut self, room: bool) -> bool {
        !(self.0.arm(room) && self.0.has_work(room))
    }
    fn disarm(&mut self) {
        self.0.disarm();
    }
}

impl Side for DaemonEnd {
    fn put(&mut self) -> bool {
        self.0.put(self.1, b"to here!", &mut 0).unwrap()
    }
    fn take(&mut self) -> bool {
        if self.0.peek().unwrap().is_none() {
            return false;
        }
        let mut bytes = [0; 8];
        self.0.take(&mut bytes).unwrap();
        assert_eq!(&bytes, b"to there");
        true
    }
    fn publish(&mut self) -> bool {
        self.0.publish()
    }
    fn arm(&mut self, room: bool) -> bool {
        self.0.arm(room);
        !self.0.has_work(true) && !(room && self.0.has_room())
    }
    fn disarm(&mut self) {
        self.0.disarm();
    }
}

/// Sends and receives `count` messages each.
fn run(mut side: impl Side, count: u32, own: &Notify, other: &Notify) {
    let (mut to_put, mut to_take) = (count, count);
    while to_put > 0 || to_take > 0 {
        let put = to_put > 0 && side.put();
        let took = to_take > 0 && side.take();
        to_put -= u32::from(put);
        to_take -= u32::from(took);
        if side.publish() {
            other.notify();
        }
        if !put && !took && side.arm(to_put > 0) {
            own.wait();
        }
        side.disarm();
    }
}

/// Both pipes full and both sides asleep resolves by itself.
#[test]
fn both_sides_full_and_asleep() {
    model(2, || {
        let (mut app, mut daemon) = sides();
        let slot = open(&mut app, &mut daemon);
        let bells = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let other = {
            let bells = bells.clone();
            thread::spawn(move || run(DaemonEnd(daemon, slot), 2, &bells[1], &bells[0]))
        };
        run(AppEnd(app, slot), 2, &bells[0], &bells[1]);
        other.join().unwrap();
    });
}

/// A question is answered, however it meets the daemon that falls asleep, and the counters are those of the answer; so is the next one.
#[test]
fn a_question_is_answered() {
    model(2, || {
        let words = HeapWords::new((GEOMETRY.bytes() + STATUS_BYTES) / 8);
        let mut app = AppSide::new(Arc::clone(&words), &GEOMETRY, 64).with_status(true);
        let mut daemon = DaemonSide::new(words, &GEOMETRY, 64).with_status(true);
        let bell = Arc::new(Notify::new());
        let engine = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                let mut rounds = 0;
                while rounds == 0 {
                    if daemon.is_asked() {
                        rounds += 1;
                        daemon.answer(&[rounds]);
                        continue;
                    }
                    daemon.arm(false);
                    if !daemon.has_work(true) {
                        bell.wait();
                    }
                    daemon.disarm();
                }
                daemon
            })
        };
        assert_eq!(app.is_answered(), Some(true), "nothing was asked");
        app.ask();
        if app.publish() {
            bell.notify();
        }
        // Asked again by who has an answer.
        let asks_again = app.is_answered() == Some(true);
        if asks_again {
            assert_eq!(app.counters(), Some([1]));
            app.ask();
            let _ = app.publish();
        }
        let mut daemon = engine.join().unwrap();
        assert_eq!(daemon.is_asked(), asks_again);
        daemon.answer(&[2]);
        assert_eq!((app.is_answered(), app.counters()), (Some(true), Some([1 + u64::from(asks_again)])));
    });
}
