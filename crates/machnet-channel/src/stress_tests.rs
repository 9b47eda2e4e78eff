//! The same structures as in `loom_tests`, with real threads and many items: order, no loss, no leak; and what the
//! compiler must keep true.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use crate::hint_queue::{HintQueue, Link, Linked};
use crate::spsc::{KeepAll, Spsc};
use crate::{
    Accepted, Backlog, BacklogConsumer, BacklogProducer, CloseReason, Doorbell, Drain, EngineEnd, FlowState, Frame,
    FramePool, FrameRef, Intake, Intent, Mailbox, Message, Poked, Private, RecvEnd, Region, SendEnd, Wakes, Work,
    cost_in_units,
};

/// Miri is a thousand times slower, and looks for other things.
const ROUNDS: u64 = if cfg!(miri) { 60 } else { 20_000 };

const fn send<T: Send>() {}
const fn send_and_sync<T: Send + Sync>() {}

/// What crosses threads, checked where it is compiled. Handles are `Sync` as well: what they do through `&self` reads
/// atomics or takes a waker.
const _: () = {
    send_and_sync::<SendEnd>();
    send_and_sync::<RecvEnd>();
    send_and_sync::<EngineEnd>();
    send_and_sync::<Mailbox>();
    send_and_sync::<Backlog>();
    send_and_sync::<BacklogConsumer>();
    send_and_sync::<BacklogProducer>();
    send_and_sync::<Accepted>();
    send_and_sync::<Intake>();
    send_and_sync::<Doorbell>();
    send_and_sync::<HintQueue<Mailbox>>();
    send::<Drain<Mailbox>>();
    send_and_sync::<Region<Private>>();
    send_and_sync::<FramePool>();
    send_and_sync::<Frame>();
    send_and_sync::<FrameRef>();
    send_and_sync::<Message>();
};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn unparker() -> Waker {
    Arc::new(Unpark(thread::current())).into()
}

/// Sleeps until `poll` is ready.
fn wait<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = unparker();
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(poll_fn(|cx| poll(cx)));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        thread::park();
    }
}

fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

#[test]
fn spsc_keeps_order_and_leaks_nothing() {
    let (queue, token) = (Arc::new(Spsc::<_, KeepAll>::new()), Arc::new(()));
    let producer = {
        let (queue, token) = (Arc::clone(&queue), Arc::clone(&token));
        thread::spawn(move || {
            for i in 0..ROUNDS {
                // SAFETY: the only producer.
                unsafe { queue.push((i, Arc::clone(&token))) };
            }
        })
    };
    for expected in 0..ROUNDS / 2 {
        let (i, _) = loop {
            // SAFETY: the only consumer.
            match unsafe { queue.pop() } {
                Some(item) => break item,
                None => thread::yield_now(),
            }
        };
        assert_eq!(i, expected);
    }
    drop(queue);
    producer.join().unwrap();
    assert_eq!(Arc::strong_count(&token), 1);
}

struct Item {
    written: AtomicU64,
    queued: AtomicU64,
    link: Link<Item>,
}

// SAFETY: the link is a field of the item.
unsafe impl Linked for Item {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

#[test]
fn every_hint_is_looked_at_after_the_last_write() {
    let (queue, bell, done) = (Arc::new(HintQueue::new()), Arc::new(Doorbell::new()), Arc::new(AtomicU64::new(0)));
    let items: Arc<[Arc<Item>; 3]> = Arc::new(std::array::from_fn(|_| {
        Arc::new(Item { written: AtomicU64::new(0), queued: AtomicU64::new(0), link: Link::new() })
    }));
    let producers: Vec<_> = (0..3)
        .map(|p| {
            let (queue, bell, done, items) = (queue.clone(), bell.clone(), done.clone(), items.clone());
            thread::spawn(move || {
                for i in 0..ROUNDS {
                    let item = &items[(i as usize + p) % items.len()];
                    item.written.fetch_add(1, Ordering::Relaxed);
                    queue.push(item);
                    bell.ring();
                }
                done.fetch_add(1, Ordering::Release);
                bell.ring();
            })
        })
        .collect();
    wait(|cx| {
        bell.disarm();
        loop {
            let finished = done.load(Ordering::Acquire) == 3;
            for item in queue.take() {
                item.queued.store(item.written.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            if finished {
                return Poll::Ready(());
            }
            bell.arm(cx.waker());
            if queue.is_empty() && done.load(Ordering::Acquire) != 3 {
                return Poll::Pending;
            }
        }
    });
    for producer in producers {
        producer.join().unwrap();
    }
    for item in items.iter() {
        assert_eq!(item.written.load(Ordering::Relaxed), item.queued.load(Ordering::Relaxed));
        assert_eq!(Arc::strong_count(item), 1);
    }
}

/// One message's way, with little room everywhere so that everybody sleeps often: sender → outbox → engine → inbox →
/// receiver.
#[test]
fn messages_cross_a_mailbox_in_order_and_nobody_oversleeps() {
    const WINDOW: u64 = 9;
    let intake = Intake::new();
    let (mut engine, mut send, mut recv) = Mailbox::accepted(&intake, addr(), addr());
    let mailbox = Arc::clone(engine.mailbox());
    let sender = thread::spawn(move || {
        for i in 0..ROUNDS {
            let text = i.to_string();
            wait(|cx| send.poll_room(cx));
            send.post(text.into()).expect("there is room");
        }
    });
    let receiver = thread::spawn(move || {
        let mut next = 0;
        while let Some(message) = wait(|cx| recv.poll_take(cx)) {
            assert_eq!(message, next.to_string());
            next += 1;
        }
        assert_eq!(next, ROUNDS);
    });
    engine.set_state(FlowState::OPEN);
    let (mut taken, mut delivered, mut waiting) = (0, 0, None::<Message>);
    wait(|cx| {
        intake.bell().disarm();
        loop {
            while intake.flows().take().count() > 0 {}
            let fin = engine.intent().has(Intent::FIN);
            let mut wakes = Wakes::default();
            while let Some(message) = waiting.take().or_else(|| engine.take()) {
                let cost = cost_in_units(message.len());
                if delivered + cost > engine.consumed() + WINDOW
                    && delivered + cost > engine.set_tell_at(delivered + cost - WINDOW) + WINDOW
                {
                    waiting = Some(message);
                    break;
                }
                delivered += cost;
                taken += cost;
                engine.deliver(message);
                wakes = wakes.with(Wakes::RX);
            }
            engine.set_room(taken + WINDOW);
            if fin && waiting.is_none() {
                engine.set_state(FlowState::OPEN.with(FlowState::READ_ENDED));
                engine.wake(Wakes::ALL);
                return Poll::Ready(());
            }
            engine.wake(wakes.with(Wakes::TX));
            intake.bell().arm(cx.waker());
            if intake.flows().is_empty() {
                return Poll::Pending;
            }
        }
    });
    sender.join().unwrap();
    receiver.join().unwrap();
    drop(engine);
    intake.close();
    assert_eq!(mailbox.state().reason(), Some(CloseReason::Shutdown));
    assert_eq!((Arc::strong_count(&mailbox), Arc::strong_count(&intake)), (1, 2));
}

/// How far it has come on the way to what it is told.
struct Counter {
    goal: Arc<AtomicU64>,
    reached: u64,
}

impl Work for Counter {
    type Rest = ();

    fn work(&mut self, _cx: &Context<'_>) {
        self.reached = self.goal.load(Ordering::Relaxed);
    }

    fn finish((): ()) {}
}

#[test]
fn no_poke_is_lost_between_holder_and_poker() {
    let goal = Arc::new(AtomicU64::new(0));
    let cell = Poked::new(Counter { goal: Arc::clone(&goal), reached: 0 });
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cell.with(|_| ());
            }
        });
        for poke in 1..=ROUNDS {
            goal.store(poke, Ordering::Relaxed);
            cell.waker().wake();
            if poke % 100 == 0 {
                // Whoever held the lock has seen to it by the time it is free again, and looked once more.
                while cell.with(|counter| counter.reached) < poke {
                    thread::yield_now();
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(cell.with(|counter| counter.reached), ROUNDS);
}

#[test]
fn frames_come_home_from_every_thread() {
    let (_region, mut pool) = Region::anonymous(256, 5).unwrap();
    let bell = Arc::new(Doorbell::new());
    pool.set_bell(Arc::clone(&bell));
    let (inboxes, readers): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (inbox, frames) = mpsc::channel::<(u8, FrameRef)>();
            let reader = thread::spawn(move || {
                for (fill, frame) in frames {
                    assert!(frame.as_ref().iter().all(|&byte| byte == fill));
                }
            });
            (inbox, reader)
        })
        .unzip();
    for i in 0..ROUNDS {
        let mut frame = wait(|cx| {
            bell.disarm();
            loop {
                if let Some(frame) = pool.take() {
                    return Poll::Ready(frame);
                }
                bell.arm(cx.waker());
                if !pool.starve() {
                    return Poll::Pending;
                }
            }
        });
        assert!(pool.free() < 5);
        frame.bytes_mut().expect("nobody else holds it").fill(i as u8);
        let first = frame.share(0..128);
        let second = first.clone();
        inboxes[i as usize % 3].send((i as u8, first)).unwrap();
        inboxes[(i as usize + 1) % 3].send((i as u8, second)).unwrap();
    }
    drop(inboxes);
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(pool.free(), 5);
    assert_eq!(std::iter::from_fn(|| pool.take()).collect::<Vec<_>>().len(), 5);
}

struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_panicking_waker_harms_only_its_own_task() {
    let intake = Intake::new();
    let bomb = Waker::from(Arc::new(Bomb));
    let cx = Context::from_waker(&bomb);
    let flag = Arc::new(Flag::default());
    let other = Waker::from(Arc::clone(&flag));

    // Woken in the order rx, tx, state: the bomb goes first.
    let (engine, mut send, mut recv) = Mailbox::accepted(&intake, addr(), addr());
    assert!(recv.poll_take(&cx).is_pending());
    assert!(send.poll_room(&Context::from_waker(&other)).is_pending());
    engine.wake(Wakes::ALL);
    assert!(flag.0.load(Ordering::Relaxed), "the second waiter was woken");

    // The same when the engine's end is dropped, even by an engine that unwinds.
    assert!(recv.poll_take(&cx).is_pending());
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _engine = engine;
        panic!("an engine that panics");
    }));
    assert!(unwound.is_err());
    assert!(recv.poll_take(&cx).is_ready());

    // A listener.
    let mut consumer = Backlog::listen(&intake, 9, 1);
    let mut producer = intake.listeners().take().next().and_then(|b| b.claim()).unwrap();
    assert!(consumer.poll_opened(&cx).is_pending());
    producer.set_opened(Ok(addr()));
    assert!(consumer.poll_opened(&cx).is_ready());

    // The engine's own: a frame's drop rings it, and a destructor must not unwind.
    let (_region, mut pool) = Region::anonymous(64, 1).unwrap();
    pool.set_bell(Arc::clone(intake.bell()));
    let frame = pool.take();
    intake.bell().arm(&bomb);
    assert!(!pool.starve());
    drop(frame);
    assert_eq!(intake.bell().rings(), 1);
    assert_eq!(pool.free(), 1);
    intake.close();
}

#[test]
fn nobody_waits_for_an_engine_that_is_gone() {
    let closed_before = Intake::new();
    closed_before.close();
    let closed_after = Intake::new();
    let dropped_unseen = Intake::new();
    for intake in [&closed_before, &closed_after, &dropped_unseen] {
        let (mut send, mut recv) = Mailbox::connect(intake, addr());
        let mut listener = Backlog::listen(intake, 9, 1);
        if Arc::ptr_eq(intake, &dropped_unseen) {
            drop((intake.flows().take(), intake.listeners().take()));
        }
        intake.close();
        assert!(intake.is_closing());
        let cx = Context::from_waker(Waker::noop());
        let closed = send.poll_state(&cx, |state| state.has(FlowState::CLOSED));
        assert!(matches!(closed, Poll::Ready(state) if state.reason() == Some(CloseReason::Shutdown)));
        assert!(send.poll_room(&cx).is_ready());
        assert!(matches!(recv.poll_take(&cx), Poll::Ready(None)));
        assert!(
            matches!(listener.poll_opened(&cx), Poll::Ready(Err(e)) if e.kind() == std::io::ErrorKind::NotConnected)
        );
        assert!(matches!(listener.poll_accept(&cx), Poll::Ready(None)));
        drop((send, recv, listener));
        assert_eq!(Arc::strong_count(intake), 1, "no cycle is left");
    }
}

#[test]
fn ends_that_are_dropped_keep_no_task_alive() {
    let intake = Intake::new();
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let cx = Context::from_waker(&waker);
    let (engine, mut send, mut recv) = Mailbox::accepted(&intake, addr(), addr());
    let mut listener = Backlog::listen(&intake, 9, 1);
    assert!(send.poll_room(&cx).is_pending());
    assert!(send.poll_state(&cx, |state| state.has(FlowState::CLOSED)).is_pending());
    assert!(recv.poll_take(&cx).is_pending());
    assert!(listener.poll_opened(&cx).is_pending());
    intake.bell().arm(&waker);
    drop((send, recv, listener));
    intake.close();
    drop(waker);
    assert_eq!(Arc::strong_count(&flag), 1);
    drop(engine);
}

/// A task that got what it waited for may be over soon; a flow that is idle for long must not keep its memory.
#[test]
fn waits_that_are_over_keep_no_task_alive() {
    let intake = Intake::new();
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let cx = Context::from_waker(&waker);
    let (mut engine, mut send, mut recv) = Mailbox::accepted(&intake, addr(), addr());
    let mut listener = Backlog::listen(&intake, 9, 1);
    let open = |state: FlowState| state.has(FlowState::OPEN);
    assert!(send.poll_room(&cx).is_pending());
    assert!(send.poll_state(&cx, open).is_pending());
    assert!(recv.poll_take(&cx).is_pending());
    assert!(listener.poll_opened(&cx).is_pending());
    engine.set_room(10);
    engine.set_state(FlowState::OPEN);
    engine.deliver(Message::from("x"));
    engine.wake(Wakes::ALL);
    let mut backlog = intake.listeners().take().next().and_then(|backlog| backlog.claim()).expect("a new listener");
    backlog.set_opened(Ok(addr()));
    assert!(send.poll_room(&cx).is_ready());
    assert!(send.poll_state(&cx, open).is_ready());
    assert!(recv.poll_take(&cx).is_ready());
    assert!(listener.poll_opened(&cx).is_ready());
    assert_eq!(Arc::strong_count(&flag), 2, "this one and `waker`");
    intake.close();
}

#[test]
fn a_late_hint_finds_neither_slot_nor_end() {
    let intake = Intake::new();
    let (mut engine, send, _recv) = Mailbox::accepted(&intake, addr(), addr());
    engine.set_slot(7);
    drop(engine);
    drop(send);
    let late = intake.flows().take().next().expect("the drop's hint");
    assert_eq!(late.slot(), None);
    assert!(late.claim().is_none());
    intake.close();
}
