//! What the control thread and the engines' threads hand to each other.
//!
//! ```text
//!   control ─ came, gone, report? ─▶ desk ─ flag, doorbell ─▶ engine (Reception: its Gate)
//!   control ◀─ eventfd ─ desk ◀──── dismissed, report ─────── engine
//! ```
//!
//! Whoever rings without end is heard now and then: see [`Reception::hush`].
//!
//! Each engine has a tray of its own here, and looks at a flag in each round, and takes a lock only if there is something. It writes bells (sockets) and
//! closes nothing, maps nothing and unmaps nothing: that takes time which it has not.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machnet_channel::shared::DaemonSide;
use machnet_channel::{Doorbell, ForeignRegion};
use machnet_core::{Ended, Gate, News, Report};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

/// The memory shared with one application.
pub(crate) type Shared = Arc<ForeignRegion>;

/// Rings of one application that are read at a time. An honest one sends one for each time that the daemon sleeps.
const RINGS: usize = 16;
/// Applications whose rings are read at a time; more the next time.
const RINGERS: usize = 64;

/// Rings of one application in [`CALM`] that meant nothing, after which it is not listened to for as long.
const MANY: u32 = 8;
const CALM: Duration = Duration::from_millis(1);
/// What epoll says of the timer; applications are counted from 1.
const TIMER: u64 = 0;

/// What both threads share.
#[derive(Debug)]
pub(crate) struct Desk {
    trays: Vec<Tray>,
    closing: AtomicBool,
    outbox: Mutex<Outbox>,
    /// The control thread's: readable when `outbox` has something, and when an engine has ended.
    pub(crate) control: OwnedFd,
}

/// What one engine finds.
#[derive(Debug)]
struct Tray {
    /// Set when something lies in `inbox`.
    has_news: AtomicBool,
    inbox: Mutex<Vec<Item>>,
    /// The engine's bell.
    bell: Arc<Doorbell>,
}

/// For an engine.
pub(crate) enum Item {
    /// News, with the connection if it is of somebody who came.
    News(News<Shared>, Option<Arc<OwnedFd>>),
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Item")
    }
}

/// For the control thread.
#[derive(Default)]
pub(crate) struct Outbox {
    /// By which engine, whom, and why.
    pub(crate) dismissed: Vec<(usize, u64, Ended, Box<DaemonSide<Shared>>)>,
    /// By engine.
    pub(crate) reports: BTreeMap<usize, Report>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("dismissed", &self.dismissed.len()).finish_non_exhaustive()
    }
}

/// None of these locks guards an invariant that a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    pub(crate) fn new(engines: usize) -> std::io::Result<Arc<Self>> {
        let tray = |_| Tray {
            has_news: AtomicBool::new(false),
            inbox: Mutex::new(Vec::new()),
            bell: Arc::new(Doorbell::new()),
        };
        Ok(Arc::new(Self {
            trays: (0..engines).map(tray).collect(),
            closing: AtomicBool::new(false),
            outbox: Mutex::new(Outbox::default()),
            control: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        }))
    }

    /// Control: news for an engine.
    pub(crate) fn tell(&self, engine: usize, news: News<Shared>, line: Option<Arc<OwnedFd>>) {
        let tray = &self.trays[engine];
        lock(&tray.inbox).push(Item::News(news, line));
        tray.has_news.store(true, Ordering::Release);
        tray.bell.ring();
    }

    /// The engines' bells, in order.
    pub(crate) fn bells(&self) -> Vec<Arc<Doorbell>> {
        self.trays.iter().map(|tray| Arc::clone(&tray.bell)).collect()
    }

    /// Anybody: the daemon is to end.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.trays.iter().for_each(|tray| tray.bell.ring());
        self.wake_control();
    }

    /// True after [`Desk::close`].
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Control: what the engines have for it.
    pub(crate) fn collect(&self) -> Outbox {
        std::mem::take(&mut *lock(&self.outbox))
    }

    pub(crate) fn wake_control(&self) {
        // Fails only if the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.control, &1_u64.to_ne_bytes());
    }

    /// Control: awake.
    pub(crate) fn clear_control(&self) {
        let mut count = [0; 8];
        // EAGAIN if nobody rang after all.
        let _ = rustix::io::read(&self.control, &mut count);
    }
}

/// An engine's end.
#[derive(Debug)]
pub(crate) struct Reception {
    desk: Arc<Desk>,
    engine: usize,
    news: std::vec::IntoIter<Item>,
    /// The connections of who is served, which are their bells.
    lines: BTreeMap<u64, Line>,
    /// Readable when one of them has rung.
    epoll: OwnedFd,
    /// Those that are not listened to until the timer is over, and whether it runs.
    muted: Vec<u64>,
    timer: OwnedFd,
    runs: bool,
}

/// A connection, and its rings since then that meant nothing.
#[derive(Debug)]
struct Line {
    socket: Arc<OwnedFd>,
    rings: u32,
    since: Instant,
}

/// By edges: who leaves rings unread for us wakes us no more often than he sends.
const LISTEN: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

impl Reception {
    pub(crate) fn new(desk: Arc<Desk>, engine: usize) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), LISTEN)?;
        Ok(Self {
            desk,
            engine,
            news: Vec::new().into_iter(),
            lines: BTreeMap::new(),
            epoll,
            muted: Vec::new(),
            timer,
            runs: false,
        })
    }

    /// Reads the rings of an application, which are too many if this says so.
    fn hear(&mut self, id: u64, now: Instant) -> bool {
        let Some(line) = self.lines.get_mut(&id) else { return false };
        if now.duration_since(line.since) >= CALM {
            (line.since, line.rings) = (now, 0);
        }
        let mut byte = [0; 1];
        for _ in 0..RINGS {
            // Descriptors that come along are closed by the kernel. 0: the connection is closed, which the control thread
            // sees.
            if !recv(&*line.socket, &mut byte[..], RecvFlags::DONTWAIT).is_ok_and(|(len, _)| len > 0) {
                break;
            }
            line.rings += 1;
        }
        line.rings >= MANY
    }

    /// Does not listen to an application until the timer is over. What it wants is looked at whenever somebody is awake.
    fn mute(&mut self, id: u64) {
        self.look_again();
        let Some(line) = self.lines.get(&id).filter(|_| self.runs) else { return };
        let nothing = epoll::EventFlags::empty();
        if epoll::modify(&self.epoll, &*line.socket, epoll::EventData::new_u64(id), nothing).is_ok() {
            self.muted.push(id);
        }
    }

    /// The timer is over.
    fn listen_again(&mut self) {
        for id in std::mem::take(&mut self.muted) {
            if let Some(line) = self.lines.get(&id) {
                // What it has rung meanwhile is told again.
                let _ = epoll::modify(&self.epoll, &*line.socket, epoll::EventData::new_u64(id), LISTEN);
            }
        }
    }

    fn tray(&self) -> &Tray {
        &self.desk.trays[self.engine]
    }
}

impl Gate for Reception {
    type Words = Shared;

    fn has_news(&self) -> bool {
        self.news.len() > 0 || self.tray().has_news.load(Ordering::Acquire)
    }

    fn next(&mut self) -> Option<News<Shared>> {
        if self.news.len() == 0 && self.tray().has_news.load(Ordering::Acquire) {
            let tray = self.tray();
            let mut inbox = lock(&tray.inbox);
            tray.has_news.store(false, Ordering::Release);
            let news = std::mem::take(&mut *inbox).into_iter();
            drop(inbox);
            self.news = news;
        }
        let Item::News(news, line) = self.news.next()?;
        let (arrival, line) = match (news, line) {
            (News::Came(arrival), Some(line)) => (arrival, line),
            (news, _) => return Some(news),
        };
        if let Err(error) = epoll::add(&self.epoll, &*line, epoll::EventData::new_u64(arrival.id), LISTEN) {
            // It could never wake us: it is not served.
            tracing::warn!(%error, id = arrival.id, "cannot listen to an application's bell");
            self.dismiss(arrival.id, &Ended::Gone, Box::new(arrival.side));
            return self.next();
        }
        self.lines.insert(arrival.id, Line { socket: line, rings: 0, since: Instant::now() });
        Some(News::Came(arrival))
    }

    fn ring(&mut self, tenant: u64) {
        if let Some(line) = self.lines.get(&tenant) {
            // If it does not fit, others wait there; if it is closed, the control thread sees that.
            let _ = send(&*line.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    fn dismiss(&mut self, tenant: u64, why: &Ended, side: Box<DaemonSide<Shared>>) {
        if let Some(line) = self.lines.remove(&tenant) {
            let _ = epoll::delete(&self.epoll, &*line.socket);
        }
        lock(&self.desk.outbox).dismissed.push((self.engine, tenant, *why, side));
        self.desk.wake_control();
    }

    fn report(&mut self, report: Report) {
        lock(&self.desk.outbox).reports.insert(self.engine, report);
        self.desk.wake_control();
    }

    fn is_closing(&self) -> bool {
        self.desk.is_closing()
    }

    fn bell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.tray().bell)
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    /// Reads the rings, a bounded number of them. Who rings for nothing, again and again, is not listened to for a while, so that
    /// he wakes nobody.
    fn hush(&mut self) {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); RINGERS];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default())) else { return };
        let now = if events.is_empty() { return } else { Instant::now() };
        for event in events {
            let id = event.data.u64();
            if id == TIMER {
                // Nothing, if it is set again already.
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                self.runs = false;
                self.listen_again();
            } else if self.hear(id, now) {
                self.mute(id);
            }
        }
    }

    fn look_again(&mut self) {
        if !self.runs {
            let span = Itimerspec { it_interval: Timespec::default(), it_value: CALM.try_into().unwrap_or_default() };
            self.runs = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &span).is_ok();
        }
    }

    fn meant_it(&mut self, tenant: u64) {
        if let Some(line) = self.lines.get_mut(&tenant) {
            line.rings = 0;
        }
    }
}
