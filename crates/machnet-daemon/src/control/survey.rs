//! Who asks how it goes, and which engines have said so. An engine that stands still keeps nobody waiting: the first who asks finds out,
//! and others do not wait for it until it has caught up.
//!
//! ```text
//!   ask ─▶ waiting ─ due, every so often ─▶ asking ─ engines' reports ─▶ answered ─▶ unread, until read
//! ```
//!
//! A report costs an engine time, and an answer lies in memory of this side's until it is read, or its reader is gone. So engines are asked
//! now and then, however often somebody asks, and nobody has many answers that he does not read.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use machnet_core::Report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown, sockopt};

use super::peers::who;

/// How long an engine has to report: less than `machnet stat` waits for the daemon.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two questions to the engines.
const INTERVAL: Duration = Duration::from_millis(20);
/// Who asks and has not read the answer: of one user, and of all.
const EACH: usize = 8;
const ALL: usize = 64;
/// How long an honest one takes to read.
const READING: Duration = Duration::from_millis(50);

/// Somebody who asks, and as which user.
#[derive(Debug)]
struct Asker {
    socket: OwnedFd,
    user: u32,
}

/// What engines report for those who asked.
#[derive(Debug)]
pub(super) struct Survey {
    /// Those for whom the engines are to be asked, were asked, and who were answered.
    waiting: Vec<Asker>,
    asking: Vec<Asker>,
    unread: Vec<Asker>,
    /// When engines may be asked again, those are answered at the latest for whom they were, and answers are looked at that were not read.
    next: Option<Instant>,
    until: Option<Instant>,
    look: Option<Instant>,
    /// Engines that were asked and have not reported: they are not asked again.
    owing: Vec<bool>,
    /// Of those, the ones that nobody waits for.
    late: Vec<bool>,
    reports: BTreeMap<usize, Report>,
}

impl Survey {
    /// Of so many engines.
    pub(super) fn new(engines: usize) -> Self {
        Self {
            waiting: Vec::new(),
            asking: Vec::new(),
            unread: Vec::new(),
            next: None,
            until: None,
            look: None,
            owing: vec![false; engines],
            late: vec![false; engines],
            reports: BTreeMap::new(),
        }
    }

    /// Somebody asks. False: he is sent away, for he, or his like, reads nothing.
    pub(super) fn ask(&mut self, socket: OwnedFd) -> bool {
        self.forget_read();
        let user = who(&socket).0;
        let all = || self.waiting.iter().chain(&self.asking).chain(&self.unread);
        let takes = all().count() < ALL && all().filter(|other| other.user == user).count() < EACH;
        if takes {
            self.waiting.push(Asker { socket, user });
        }
        takes
    }

    /// The engines to be asked now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<usize> {
        if self.look.is_some_and(|look| now >= look) {
            self.forget_read();
        }
        if self.waiting.is_empty() || !self.asking.is_empty() || self.next.is_some_and(|next| now < next) {
            return Vec::new();
        }
        (self.next, self.until) = (Some(now + INTERVAL), Some(now + PATIENCE));
        self.asking = std::mem::take(&mut self.waiting);
        self.late.clone_from(&self.owing);
        let fresh = |(engine, owes): (usize, &mut bool)| (!std::mem::replace(owes, true)).then_some(engine);
        self.owing.iter_mut().enumerate().filter_map(fresh).collect()
    }

    /// When there is something to do, whoever has reported.
    pub(super) fn nearest(&self) -> Option<Instant> {
        let next = self.next.filter(|_| !self.waiting.is_empty() && self.asking.is_empty());
        [self.until, next, self.look].into_iter().flatten().min()
    }

    /// These reports came. If all are there that were asked for, or it is time: those of all engines, for whom
    /// [`Survey::answer`] is meant; `None` for one that is silent.
    pub(super) fn reported(&mut self, came: BTreeMap<usize, Report>, now: Instant) -> Option<Vec<Option<Report>>> {
        for (engine, report) in came {
            self.owing[engine] = false;
            self.reports.insert(engine, report);
        }
        if self.asking.is_empty() {
            // Too late for who asked.
            self.reports.clear();
            return None;
        }
        let engines = self.owing.len();
        let is_whole = (0..engines).all(|engine| self.late[engine] || self.reports.contains_key(&engine));
        if !is_whole && self.until.is_some_and(|until| now < until) {
            return None;
        }
        self.until = None;
        let mut reports = std::mem::take(&mut self.reports);
        Some((0..engines).map(|engine| reports.remove(&engine)).collect())
    }

    /// Says it to those who asked.
    pub(super) fn answer(&mut self, now: Instant, mut say: impl FnMut(&OwnedFd)) {
        for asker in std::mem::take(&mut self.asking) {
            say(&asker.socket);
            let _ = shutdown(&asker.socket, Shutdown::Write);
            // The least there is: it has room for more only when nothing waits to be read.
            let _ = sockopt::set_socket_send_buffer_size(&asker.socket, 0);
            self.unread.push(asker);
        }
        self.look = Some(now + READING);
    }

    fn forget_read(&mut self) {
        self.look = None;
        let mut fds: Vec<_> = self.unread.iter().map(|asker| PollFd::new(&asker.socket, PollFlags::OUT)).collect();
        if fds.is_empty() || poll(&mut fds, Some(&Timespec::default())).is_err() {
            return;
        }
        let read: Vec<bool> = fds.iter().map(|fd| fd.revents().contains(PollFlags::OUT)).collect();
        drop(fds);
        let mut read = read.into_iter();
        self.unread.retain(|_| !read.next().unwrap_or(false));
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

    use super::*;

    fn asker() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn report(engines: &[usize]) -> BTreeMap<usize, Report> {
        engines.iter().map(|engine| (*engine, Report::default())).collect()
    }

    fn silent(reports: &[Option<Report>]) -> Vec<bool> {
        reports.iter().map(Option::is_none).collect()
    }

    fn answer(survey: &mut Survey, now: Instant, len: usize) {
        survey.answer(now, |socket| {
            // Or he is gone.
            let _ = send(socket, &vec![7; len], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        });
    }

    #[test]
    fn engines_are_asked_now_and_then_however_often_somebody_asks() {
        let (mut survey, begin) = (Survey::new(2), Instant::now());
        let (mut questions, mut answers) = (0, 0);
        for ms in 0..1000 {
            let now = begin + Duration::from_millis(ms);
            let (mine, other) = asker();
            survey.ask(mine);
            let engines = survey.due(now);
            questions += engines.len();
            if survey.reported(report(&engines), now).is_some() {
                answers += 1;
                answer(&mut survey, now, 2000);
            }
            // It is read, or he is gone.
            drop(other);
        }
        assert_eq!((questions, answers), (2 * 50, 50));
    }

    #[test]
    fn who_does_not_read_is_sent_away_until_he_does() {
        let (mut survey, now) = (Survey::new(1), Instant::now());
        let mut askers = Vec::new();
        for n in 0..20 {
            let (mine, other) = asker();
            // He says no more: that changes nothing.
            shutdown(&other, Shutdown::Write).unwrap();
            assert_eq!(survey.ask(mine), n < EACH, "{n}");
            askers.push(other);
            let now = now + n as u32 * INTERVAL;
            let engines = survey.due(now);
            if survey.reported(report(&engines), now).is_some() {
                answer(&mut survey, now, [2000, 1500, 100_000][n % 3]);
            }
        }
        let mut buffer = vec![0; 1 << 18];
        assert_eq!(recv(&askers[1], &mut buffer[..], RecvFlags::DONTWAIT).unwrap().0, 1500);
        assert_eq!(recv(&askers[1], &mut buffer[..], RecvFlags::DONTWAIT).unwrap().0, 0, "and then its end");
        assert!(survey.ask(asker().0) && !survey.ask(asker().0));
        drop(askers);
        assert!(survey.ask(asker().0));
        assert_eq!(survey.unread.len(), 0);
    }

    /// The first one waits for it, and the others do not, until it has reported.
    #[test]
    fn a_silent_engine_is_waited_for_once() {
        let (mut survey, mut now) = (Survey::new(2), Instant::now());
        let mut keep = Vec::new();
        let mut ask = |survey: &mut Survey, now| {
            let (mine, other) = asker();
            keep.push(other);
            assert!(survey.ask(mine));
            survey.due(now)
        };
        assert_eq!(ask(&mut survey, now), [0, 1]);
        assert!(survey.reported(report(&[1]), now).is_none());
        assert_eq!(survey.nearest(), Some(now + PATIENCE));
        // Who comes meanwhile is told of what is later than his question.
        assert_eq!(ask(&mut survey, now), [0; 0]);
        now += PATIENCE;
        assert_eq!(silent(&survey.reported(report(&[]), now).unwrap()), [true, false]);
        answer(&mut survey, now, 100);
        assert_eq!(survey.due(now), [1]);
        assert_eq!(silent(&survey.reported(report(&[1]), now).unwrap()), [true, false], "at once");
        answer(&mut survey, now, 100);
        now += INTERVAL;
        assert!(survey.reported(report(&[0]), now).is_none(), "too late for anybody");
        assert_eq!(ask(&mut survey, now), [0, 1]);
        assert!(survey.reported(report(&[1]), now).is_none(), "it is waited for again");
        assert_eq!(silent(&survey.reported(report(&[0]), now).unwrap()), [false, false]);
    }
}
