//! The two ends against each other, and each against words that cannot be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::geometry::{Layout, Side};
use super::table::{DONE, app, app_listener, daemon};
use super::*;
use crate::words::HeapWords;
use crate::{CloseReason, Congestion, FlowOptions, FlowState, FlowStats, Intent, Words};

const GEOMETRY: Geometry = Geometry { flows: 64, listeners: 2, descriptors: 64, data: 8192, max_piece: 1252 };
const MAX_MESSAGE: u32 = 20_000;

type Words_ = Arc<HeapWords>;

fn sides() -> (AppSide<Words_>, DaemonSide<Words_>, Words_) {
    GEOMETRY.check().unwrap();
    let words = HeapWords::new(GEOMETRY.bytes() / 8);
    let app = AppSide::new(Arc::clone(&words), &GEOMETRY, MAX_MESSAGE);
    (app, DaemonSide::new(Arc::clone(&words), &GEOMETRY, MAX_MESSAGE), words)
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn events(daemon: &mut DaemonSide<Words_>) -> Vec<Event> {
    std::iter::from_fn(|| daemon.next_event().unwrap()).collect()
}

fn notes(app: &mut AppSide<Words_>) -> Vec<Note> {
    std::iter::from_fn(|| app.next_note().unwrap()).collect()
}

fn open(app: &mut AppSide<Words_>, daemon: &mut DaemonSide<Words_>) -> u32 {
    let slot = app.connect(addr(1), FlowOptions::new()).unwrap();
    assert_eq!(events(daemon), [Event::Connect { slot, peer: addr(1), options: FlowOptions::new() }]);
    daemon.set_max_message(slot, 9000);
    daemon.set_local(slot, addr(2));
    daemon.set_progress(slot, 100, 0);
    daemon.set_state(slot, FlowState::OPEN);
    assert_eq!(notes(app), [Note::Flow(slot)]);
    slot
}

/// An application that looks while the daemon opens its flow finds some of the address's words: they mean nothing yet.
#[test]
fn half_an_address_is_no_address() {
    let (mut app, mut side, words) = sides();
    let slot = app.connect(addr(1), FlowOptions::new()).unwrap();
    let _ = events(&mut side);
    assert_eq!(notes(&mut app), [Note::Flow(slot)]);
    let at = Layout::new(&GEOMETRY).flow(Side::Daemon, slot) + daemon::LOCAL;
    for (n, word) in super::values::address_to_words(Some(addr(2))).into_iter().enumerate() {
        words.words()[at + n].store(word, Relaxed);
        assert_eq!(app.flow(slot).map(|view| view.local), Ok(None));
    }
    side.set_state(slot, FlowState::OPEN);
    assert_eq!(app.flow(slot).map(|view| view.local), Ok(Some(addr(2))));
}

/// Who marks without end what does not exist has few of the marks looked at, and keeps nobody awake; the next one that means
/// something counts again.
#[test]
fn marks_that_mean_nothing_come_to_count_for_nothing() {
    let (mut app, mut daemon, words) = sides();
    let slot = open(&mut app, &mut daemon);
    let place = Layout::new(&GEOMETRY).marks(Side::App);
    let mut calls = 0;
    while daemon.has_work(true) || calls == 0 {
        words.words()[place.summary].store(3, Relaxed);
        words.words()[place.flows + 1].store(u64::MAX, Relaxed);
        let before = daemon.take_looks();
        assert_eq!(daemon.next_event(), Ok(None));
        assert!(daemon.take_looks() <= 34, "{before}");
        calls += 1;
        assert!(calls < 100);
    }
    assert!(daemon.ignores_marks());
    app.set_intent(slot, Intent::FIN);
    let found = (0..1000).find_map(|_| daemon.next_event().unwrap());
    assert_eq!((found, daemon.has_work(true)), (Some(Event::Flow { slot }), true));
    assert!(!daemon.ignores_marks());
}

/// The same of who says without end that there are marks where there are none, names listeners that cannot be, or asks whether the
/// daemon is there.
#[test]
fn other_words_that_mean_nothing_keep_nobody_awake_either() {
    let words = HeapWords::new((GEOMETRY.bytes() + STATUS_BYTES) / 8);
    let daemon = || DaemonSide::new(Arc::clone(&words), &GEOMETRY, 1 << 20).with_status(true);
    let place = Layout::new(&GEOMETRY).marks(Side::App);
    let asked = GEOMETRY.bytes() / 8;
    for (at, ignored) in [(place.summary, true), (place.listeners, false), (asked, true)] {
        let (mut daemon, mut calls) = (daemon(), 0);
        loop {
            calls += 1;
            words.words()[at].store(u64::MAX << 63 | calls, Relaxed);
            if at == place.listeners {
                words.words()[at].store(u64::MAX << GEOMETRY.listeners, Relaxed);
            }
            if !daemon.has_work(true) {
                break;
            }
            assert_eq!(daemon.next_event(), Ok(None));
            daemon.answer(&[]);
            assert!(calls < 2000, "word {at} keeps the daemon awake");
        }
        assert_eq!(daemon.ignores_marks(), ignored);
        words.words()[at].store(0, Relaxed);
    }
}

fn put(app: &mut AppSide<Words_>, slot: u32, message: &[u8]) {
    assert!(app.put(slot, message, &mut 0).unwrap());
    let _ = app.publish();
}

fn take(daemon: &mut DaemonSide<Words_>) -> Option<(u32, Vec<u8>)> {
    let mut message = Vec::new();
    while let Some(piece) = daemon.peek().unwrap() {
        if piece.begins {
            message.clear();
        }
        let from = message.len();
        message.resize(from + piece.len, 0);
        daemon.take(&mut message[from..]).unwrap();
        if !piece.more {
            return Some((piece.slot, message));
        }
    }
    None
}

fn deliver(daemon: &mut DaemonSide<Words_>, slot: u32, message: &[u8]) {
    daemon.count_delivered(slot, message.len());
    assert!(daemon.put(slot, message, &mut 0).unwrap());
    let _ = daemon.publish();
}

fn receive(app: &mut AppSide<Words_>) -> Option<(u32, Vec<u8>)> {
    let mut message = Vec::new();
    while let Some(incoming) = app.peek().unwrap() {
        let Incoming::Piece(piece) = incoming else { panic!("{incoming:?}") };
        let from = message.len();
        message.resize(from + piece.len, 0);
        app.take(&piece, &mut message[from..]);
        if !piece.more {
            return Some((piece.slot, message));
        }
    }
    None
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seed * 31 + i) as u8).collect()
}

/// The life of a connected flow, and the slot's next one.
#[test]
fn a_flow_from_its_claim_to_its_end() {
    let (mut app, mut daemon, _) = sides();
    for round in 0..3 {
        let slot = open(&mut app, &mut daemon);
        let view = app.flow(slot).unwrap();
        assert_eq!((view.room, view.max_message, view.local, view.released), (100, 9000, Some(addr(2)), false));
        assert_eq!(view.state, FlowState::OPEN);
        // Empty, one piece, and several of them.
        for len in [0, 1, 1252, 1253, 5000] {
            put(&mut app, slot, &content(round, len));
            assert_eq!(take(&mut daemon), Some((slot, content(round, len))));
            let _ = daemon.publish();
            deliver(&mut daemon, slot, &content(round, len));
            assert_eq!(receive(&mut app), Some((slot, content(round, len))));
            let _ = app.publish();
        }
        // FIN covers what was put before, and shows when that was taken.
        put(&mut app, slot, b"last");
        app.set_intent(slot, Intent::FIN);
        assert_eq!(events(&mut daemon), [Event::Flow { slot }]);
        assert!(!daemon.intent(slot).unwrap().has(Intent::FIN));
        assert_eq!(take(&mut daemon), Some((slot, b"last".to_vec())));
        assert!(daemon.intent(slot).unwrap().has(Intent::FIN));
        // Consumption is told when it is asked for.
        assert_eq!(daemon.set_tell_at(slot, 5).unwrap(), 0);
        assert_eq!(notes(&mut app), [Note::Flow(slot)]);
        assert_eq!(app.flow(slot).unwrap().tell_at, 5);
        app.set_consumed(slot, 6);
        assert_eq!(events(&mut daemon), [Event::Flow { slot }]);
        assert_eq!(daemon.consumed(slot).unwrap(), 6);
        daemon.set_stats(slot, &FlowStats { bytes_sent: 7, ..FlowStats::default() });
        assert_eq!(app.stats(slot).bytes_sent, 7);
        // The end covers what was counted before it was put.
        daemon.count_delivered(slot, 3);
        let over = FlowState::OPEN.with(FlowState::READ_ENDED).closed(CloseReason::Finished);
        daemon.set_state(slot, over);
        daemon.release(slot);
        assert_eq!(notes(&mut app), [Note::Flow(slot)]);
        let view = app.flow(slot).unwrap();
        assert_eq!((view.state, view.released, view.delivered), (over, true, 6));
        assert!(daemon.put(slot, b"end", &mut 0).unwrap());
        let _ = daemon.publish();
        assert_eq!(receive(&mut app), Some((slot, b"end".to_vec())));
        app.done(slot);
        assert_eq!(events(&mut daemon), []);
    }
}

#[test]
fn a_listener_and_its_flows() {
    let (mut app, mut daemon, _) = sides();
    let options = FlowOptions::new().congestion(Congestion::Swift);
    for round in 1..3 {
        let (listener, generation) = app.listen(7000, 2, options).unwrap();
        assert_eq!(generation, round);
        assert_eq!(events(&mut daemon), [Event::Listen { listener, port: 7000, backlog: 2, options }]);
        assert_eq!(notes(&mut app), [Note::Listener(listener)]);
        assert!(matches!(app.listener(listener), Ok(ListenerView::Opening)));
        daemon.set_listening(listener, Ok(addr(7000)));
        assert_eq!(notes(&mut app), [Note::Listener(listener)]);
        assert!(matches!(app.listener(listener), Ok(ListenerView::Listening(at)) if at == addr(7000)));
        // The backlog is what was accepted and not taken.
        let mut slots = vec![];
        for _ in 0..2 {
            assert!(daemon.can_accept(listener).unwrap());
            slots.push(daemon.accept(listener, addr(7000), addr(9)).unwrap());
        }
        assert!(!daemon.can_accept(listener).unwrap());
        slots.sort_unstable();
        assert_eq!(notes(&mut app), slots.iter().map(|slot| Note::Accepted(*slot)).collect::<Vec<_>>());
        for slot in &slots {
            let view = AcceptedView { local: addr(7000), peer: addr(9), listener: (listener, generation) };
            assert_eq!(app.adopt(*slot).unwrap(), view);
            deliver(&mut daemon, *slot, b"hello");
            assert_eq!(receive(&mut app), Some((*slot, b"hello".to_vec())));
            put(&mut app, *slot, b"world");
            assert_eq!(take(&mut daemon), Some((*slot, b"world".to_vec())));
        }
        app.set_taken(listener, 1);
        assert!(daemon.can_accept(listener).unwrap());
        for slot in slots {
            daemon.release(slot);
            assert!(app.flow(slot).unwrap().released);
            app.done(slot);
        }
        assert!(!app.unlisten(listener));
        assert!(events(&mut daemon).contains(&Event::Unlisten { listener }));
        assert!(!daemon.can_accept(listener).unwrap());
        daemon.unlisten(listener);
        assert!(notes(&mut app).contains(&Note::Listener(listener)));
        assert!(matches!(app.listener(listener), Ok(ListenerView::Released)));
    }
}

#[test]
fn a_refusal_keeps_its_kind_and_text() {
    let (mut app, mut daemon, _) = sides();
    let (listener, _) = app.listen(80, 1, FlowOptions::new()).unwrap();
    events(&mut daemon);
    let text = format!("port 80 is {}", "€".repeat(200));
    daemon.set_listening(listener, Err(&std::io::Error::new(std::io::ErrorKind::AddrInUse, text.clone())));
    assert_eq!(notes(&mut app), [Note::Listener(listener)]);
    let Ok(ListenerView::Refused(error)) = app.listener(listener) else { panic!() };
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(error.to_string(), &text[..text.floor_char_boundary(256)]);
    // Forgotten at once, before the application has let it go.
    daemon.unlisten(listener);
    assert_eq!(notes(&mut app), [Note::Listener(listener)]);
    assert!(matches!(app.listener(listener), Ok(ListenerView::Refused(_))));
    assert!(app.unlisten(listener));
    assert_eq!(app.listen(81, 1, FlowOptions::new()), Some((listener, 2)));
    assert!(matches!(events(&mut daemon)[..], [Event::Listen { port: 81, .. }]));
}

/// An accepted flow whose first message is found before its mark, and one that is over before it was looked at.
#[test]
fn pieces_may_come_before_marks() {
    let (mut app, mut daemon, _) = sides();
    let (listener, _) = app.listen(1, 9, FlowOptions::new()).unwrap();
    events(&mut daemon);
    daemon.set_listening(listener, Ok(addr(1)));
    let slot = daemon.accept(listener, addr(1), addr(2)).unwrap();
    deliver(&mut daemon, slot, b"early");
    daemon.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    daemon.release(slot);
    assert_eq!(app.peek().unwrap(), Some(Incoming::Accepted(slot)));
    app.adopt(slot).unwrap();
    assert_eq!(receive(&mut app), Some((slot, b"early".to_vec())));
    assert!(app.flow(slot).unwrap().released);
    assert_eq!(notes(&mut app), [Note::Listener(listener), Note::Flow(slot)]);
    app.done(slot);
    assert_eq!(events(&mut daemon), []);
    assert_eq!(daemon.accept(listener, addr(1), addr(3)), Some(slot));
}

#[test]
fn what_is_left_of_a_flow_that_is_over_is_dropped() {
    let (mut app, mut daemon, _) = sides();
    let slot = open(&mut app, &mut daemon);
    put(&mut app, slot, b"old");
    daemon.release(slot);
    assert!(app.flow(slot).unwrap().released);
    app.done(slot);
    assert_eq!(app.connect(addr(1), FlowOptions::new()), Some(slot));
    put(&mut app, slot, b"new");
    // The slot's next flow: its claim covers DONE.
    assert!(matches!(events(&mut daemon)[..], [Event::Connect { .. }]));
    assert_eq!(take(&mut daemon), Some((slot, b"new".to_vec())));
}

/// A message that its sender gave up in the middle harms no other.
#[test]
fn a_message_given_up_is_none() {
    let (mut app, mut daemon, _) = sides();
    let (one, two) = (open(&mut app, &mut daemon), open(&mut app, &mut daemon));
    assert!(!app.put(one, &content(1, 9000), &mut 0).unwrap(), "more than the area has");
    let _ = app.publish();
    assert_eq!(take(&mut daemon), None);
    let _ = daemon.publish();
    put(&mut app, two, b"other");
    assert_eq!(take(&mut daemon), Some((two, b"other".to_vec())));
}

#[test]
fn slots_are_finite() {
    let (mut app, mut daemon, _) = sides();
    let slots: Vec<_> = (0..64).map(|_| open(&mut app, &mut daemon)).collect();
    assert_eq!(app.connect(addr(1), FlowOptions::new()), None);
    daemon.release(slots[5]);
    assert_eq!(app.connect(addr(1), FlowOptions::new()), None, "not before it is done");
    app.done(slots[5]);
    assert_eq!(app.connect(addr(1), FlowOptions::new()), Some(slots[5]));
    let (listener, _) = app.listen(1, 1000, FlowOptions::new()).unwrap();
    app.listen(2, 1, FlowOptions::new()).unwrap();
    assert!(app.listen(3, 1, FlowOptions::new()).is_none());
    events(&mut daemon);
    for _ in 0..64 {
        assert!(daemon.can_accept(listener).unwrap());
        daemon.accept(listener, addr(1), addr(2)).unwrap();
    }
    assert!(!daemon.can_accept(listener).unwrap());
    assert_eq!(daemon.accept(listener, addr(1), addr(2)), None);
}

/// Each word that cannot be, and what the daemon says of it.
#[test]
fn the_daemon_names_what_cannot_be() {
    type Look = fn(&mut DaemonSide<Words_>, u32) -> Result<(), Malformed>;
    let event: Look = |daemon, _| daemon.next_event().map(drop);
    let intent: Look = |daemon, slot| daemon.intent(slot).map(drop);
    let consumed: Look = |daemon, slot| daemon.consumed(slot).map(drop);
    let taken: Look = |daemon, _| daemon.can_accept(0).map(drop);
    for (word, value, look, label) in [
        (app::CLAIM, 0, event, "generation"),
        (app::CLAIM, 3, event, "generation"),
        (app::CLAIM, 1 | DONE, event, "generation"),
        (app::CLAIM, 1 | 1 << 40, event, "flow opening"),
        (app::INTENT, 8, intent, "intent"),
        (app::INTENT, 0, intent, "intent"),
        (app::POSTED, 0, intent, "posted"),
        (app::CONSUMED, 4, consumed, "consumed"),
        (app::CONSUMED, 1, consumed, "consumed"),
        (usize::MAX, 1, taken, "taken"),
    ] {
        let (mut app, mut daemon, words) = sides();
        app.listen(1, 1, FlowOptions::new()).unwrap();
        events(&mut daemon);
        notes(&mut app);
        let slot = open(&mut app, &mut daemon);
        events(&mut daemon);
        let layout = Layout::new(&GEOMETRY);
        put(&mut app, slot, b"x");
        take(&mut daemon).unwrap();
        daemon.count_delivered(slot, 65);
        app.set_consumed(slot, 2);
        app.set_intent(slot, Intent::FIN);
        events(&mut daemon);
        assert_eq!((daemon.consumed(slot), daemon.intent(slot)), (Ok(2), Ok(Intent::FIN)));
        let at = match word {
            usize::MAX => layout.listener(Side::App, 0) + app_listener::TAKEN,
            word => layout.flow(Side::App, slot) + word,
        };
        words.words()[at].store(value, Relaxed);
        marks::mark_flow(&words, &layout, Side::App, slot);
        let error = look(&mut daemon, slot).unwrap_err();
        assert_eq!(error.label(), label, "{error}");
    }
    for (tag, len, label) in [
        (127 << 16 | 5, 4, "slot"),
        (2 << 16, 4, "generation"),
        (1 << 16 | 1 << 15, 0, "message"),
        (1 << 16, 1253, "descriptor"),
    ] {
        let (mut app, mut daemon, words) = sides();
        open(&mut app, &mut daemon);
        let ring = Layout::new(&GEOMETRY).pipe(Side::App).ring;
        let slot = if label == "slot" { 200 } else { 0 };
        words.words()[ring + crate::ring_words(64) - 64].store((tag | slot) << 32 | len, Relaxed);
        words.words()[ring].store(1, Relaxed);
        let error = daemon.peek().unwrap_err();
        assert_eq!(error.label(), label, "{error}");
    }
    let (_, mut daemon, words) = sides();
    words.words()[Layout::new(&GEOMETRY).pipe(Side::App).ring].store(65, Relaxed);
    assert_eq!(daemon.peek().unwrap_err().label(), "ring index");
}

/// One step of a life, or a word overwritten.
fn step(
    what: u8,
    arg: u64,
    app: &mut AppSide<Words_>,
    daemon: &mut DaemonSide<Words_>,
    words: &Words_,
) -> Result<(), Malformed> {
    let layout = Layout::new(&GEOMETRY);
    let slot = (arg % u64::from(layout.slots())) as u32;
    match what {
        0 => drop(app.connect(addr(arg as u16), FlowOptions::new())),
        1 => drop(app.listen(arg as u16, 4, FlowOptions::new())),
        2 => drop(app.put(slot, &[0; 40], &mut 0)?),
        3 => app.set_intent(slot, Intent(arg as u32 & 7)),
        4 => app.set_consumed(slot, arg & 0xff),
        5 => {
            while let Some(note) = app.next_note()? {
                match note {
                    Note::Flow(slot) if app.flow(slot)?.released => app.done(slot),
                    Note::Flow(_) => {}
                    Note::Accepted(slot) => drop(app.adopt(slot)?),
                    Note::Listener(listener) => drop(app.listener(listener)?),
                }
            }
        }
        6 => {
            while let Some(Incoming::Piece(piece)) = app.peek()? {
                app.take(&piece, &mut vec![0; piece.len]);
            }
            let _ = app.publish();
        }
        7 => {
            while let Some(event) = daemon.next_event()? {
                match event {
                    Event::Connect { slot, .. } => daemon.set_state(slot, FlowState::OPEN),
                    Event::Flow { slot } => {
                        daemon.consumed(slot)?;
                        if daemon.intent(slot)?.has(Intent::FIN) {
                            daemon.release(slot);
                        }
                    }
                    Event::Listen { listener, .. } => daemon.set_listening(listener, Ok(addr(1))),
                    Event::Unlisten { listener } => daemon.unlisten(listener),
                }
            }
        }
        8 => {
            while let Some(piece) = daemon.peek()? {
                daemon.take(&mut vec![0; piece.len])?;
            }
            let _ = daemon.publish();
        }
        9 => {
            if daemon.can_accept(0)? {
                daemon.accept(0, addr(1), addr(2));
            }
        }
        10 => {
            daemon.count_delivered(slot, 40);
            daemon.put(slot, &[1; 40], &mut 0)?;
        }
        // A word of anything but the payload: any value, or one bit of it.
        11 => words.words()[arg as usize % (layout.pipe(Side::App).data)].store(arg.rotate_left(20), Relaxed),
        _ => drop(words.words()[arg as usize % (layout.pipe(Side::App).data)].fetch_xor(1 << (arg >> 58), Relaxed)),
    }
    Ok(())
}

proptest! {
    /// Whatever is written where, each side goes on or says what cannot be; neither panics or loops.
    #[test]
    fn any_words_are_survived(steps in prop::collection::vec((0..13_u8, any::<u64>()), 1..200)) {
        let (mut app, mut daemon, words) = sides();
        for (what, arg) in steps {
            if step(what, arg, &mut app, &mut daemon, &words).is_err() {
                break;
            }
        }
        // Looked at again, as by an owner who did not end the channel.
        for what in 5..9 {
            let _ = step(what, 0, &mut app, &mut daemon, &words);
        }
    }
}

const _: () = assert!(daemon::STATS + FlowStats::WORDS <= 32);
