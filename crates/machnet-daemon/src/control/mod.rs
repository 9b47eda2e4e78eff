//! The control thread: who may attach, and who is gone.
//!
//! ```text
//!   socket ─ accept ─▶ callers (1 s to say what they want, 32 at a time)
//!      ├─ ATTACH ─ held back? ─ admit ─▶ WELCOME with the regions' descriptors; a seat; told to the engines
//!      │            └─ no ─▶ REFUSED, why
//!      └─ STAT ─▶ asks the engines, now and then ─▶ one message of JSON
//!   connections of seats: watched for their end
//! ```
//!
//! It does what takes time: memory, descriptors, configuration; and is nice, for the engine and the applications go first. No caller can hold it up: nothing is waited for but in
//! one `poll`. All that it says is one message that fits a socket's buffer, or its receiver has lost it.

mod callers;
mod manners;
mod peers;
mod ration;
mod seats;
mod stat;
mod survey;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use machnet_async::engine::{Outcome, Status};
use machnet_core::{Claims, Ended, News};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use rustix::process::{getpriority_process, setpriority_process};

use crate::config::Settings;
use crate::desk::Desk;
use crate::socket::Listener;
use callers::{Callers, Heard};
use manners::{Manners, Verdict};
use seats::Seats;
use survey::Survey;

/// How long to leave the socket alone after the system had no descriptor for a caller.
const PAUSE: Duration = Duration::from_millis(10);
/// More than what the service manager gave to the process: of an absolute one nothing would be left beside engines and applications of
/// high priority, and nobody would get in.
const NICER: i32 = 5;

/// What the thread is made of.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) settings: Settings,
    pub(crate) home: SocketAddr,
    pub(crate) driver: String,
    pub(crate) listener: Listener,
    pub(crate) desk: Arc<Desk>,
    pub(crate) claims: Arc<Claims>,
    /// Of each engine.
    pub(crate) statuses: Vec<Arc<Status>>,
    pub(crate) started: Instant,
}

/// An engine's end wakes the thread.
struct WakeControl(Arc<Desk>);

impl Wake for WakeControl {
    fn wake(self: Arc<Self>) {
        self.0.wake_control();
    }
}

impl Control {
    /// Serves until the engines have ended; how they did.
    pub(crate) fn run(self) -> io::Result<Outcome> {
        let mut running: Vec<_> = self.statuses.iter().map(Status::ended).collect();
        let waker = Waker::from(Arc::new(WakeControl(Arc::clone(&self.desk))));
        // Of this thread alone. Being nicer is allowed to everybody.
        if let Err(error) = getpriority_process(None).and_then(|nice| setpriority_process(None, (nice + NICER).min(19)))
        {
            tracing::warn!(%error, "the control thread cannot be nice");
        }
        let mut callers = Callers::default();
        let mut manners = Manners::new(self.settings.attach_rate, self.settings.penance);
        let mut seats = Seats::new(&self.settings, self.home, self.desk.bells());
        let mut survey = Survey::new(self.statuses.len());
        let mut until = None;
        loop {
            if self.desk.is_closing() && until.is_none() {
                crate::notify::stopping();
                tracing::info!("ending: flows have {:?} to finish", self.settings.drain);
                until = Some(Instant::now() + self.settings.drain);
            }
            let mut failed = None;
            running.retain_mut(|ended| match Pin::new(ended).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(outcome) => {
                    failed = failed.or((outcome != Outcome::Finished).then_some(outcome));
                    false
                }
                Poll::Pending => true,
            });
            if failed.is_some() || running.is_empty() {
                return Ok(failed.unwrap_or(Outcome::Finished));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                let text = format!("flows had not ended after {:?}; they are cut off", self.settings.drain);
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            self.wait(&callers, &manners, &seats, [until, survey.nearest()]);
            self.desk.clear_control();
            let now = Instant::now();
            let (heard, lacks) = callers.look(&self.listener, now);
            if let Some(error) = lacks {
                seats.say_lacking(&error);
            }
            for heard in heard {
                match heard {
                    Heard::Attach(caller, attach) => manners.heard(now, caller, attach),
                    Heard::Stat(caller) => {
                        if !survey.ask(caller) {
                            seats.turn_away();
                        }
                    }
                    Heard::Nonsense(caller, why) => seats.refuse_nonsense(&caller, &why),
                }
            }
            // Before anybody is let in: who comes back, for the daemon was silent, finds the ports free that it had.
            for (id, engine, is_last) in seats.hung_up() {
                if is_last {
                    self.claims.forget(id);
                }
                self.desk.tell(engine, News::Gone(id), None);
            }
            for verdict in manners.due(now) {
                match verdict {
                    Verdict::Enter(caller, attach) => {
                        let flows: Vec<u64> = self.statuses.iter().map(|status| status.stats().flows).collect();
                        for (engine, arrival, line) in seats.admit(caller, &attach, &flows, self.desk.is_closing()) {
                            self.desk.tell(engine, News::Came(arrival), Some(line));
                        }
                    }
                    Verdict::Refuse(caller, attach, why) => seats.refuse_for_now(&caller, why, &attach.name),
                }
            }
            let outbox = self.desk.collect();
            for (engine, id, why, side) in outbox.dismissed {
                drop(side);
                if why != Ended::Gone {
                    if let Some((user, process)) = seats.who(id) {
                        manners.offended(now, user, process);
                    }
                    // No other engine serves it, either.
                    self.claims.forget(id);
                    seats.others(id, engine).for_each(|other| self.desk.tell(other, News::Gone(id), None));
                }
                if let Some(line) = seats.leave(id, engine, &why) {
                    // Whatever else holds the descriptor: its application hears of it.
                    let _ = shutdown(&*line, Shutdown::Both);
                }
            }
            if let Some(reports) = survey.reported(outbox.reports, now) {
                let json = stat::json(&self, &seats, &callers, reports);
                survey.answer(now, |asker| {
                    // If it does not fit, or he went away, he has lost it.
                    let _ = send(asker, &json, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                });
            }
            survey.due(now).into_iter().for_each(|engine| self.desk.tell(engine, News::Report, None));
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self, callers: &Callers, manners: &Manners, seats: &Seats, others: [Option<Instant>; 2]) {
        let mut fds = vec![PollFd::new(&self.desk.control, PollFlags::IN)];
        fds.extend(callers.sockets().map(|socket| PollFd::new(socket, PollFlags::IN)));
        if !callers.is_paused() {
            fds.push(PollFd::new(self.listener.socket(), PollFlags::IN));
        }
        // What they say there is for the engine.
        fds.extend(seats.lines().map(|line| PollFd::new(line, PollFlags::RDHUP)));
        let now = Instant::now();
        let pause = callers.is_paused().then(|| now + PAUSE);
        let nearest = [callers.nearest(), manners.nearest(), pause].into_iter().chain(others).flatten().min();
        let timeout = nearest.and_then(|at| Timespec::try_from(at.saturating_duration_since(now)).ok());
        // An error cannot be but EINTR: another look does no harm.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}
