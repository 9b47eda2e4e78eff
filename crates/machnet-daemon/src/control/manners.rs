//! How often somebody may attach.
//!
//! Letting an application in costs a millisecond of somebody's core (its memory is made), and so does seeing it off. So each user
//! has a rate, with room for bursts; and a process that was sent away because it wrote what cannot be waits before it comes again,
//! twice as long each time. Who comes too early is held back, not refused: applications that start together need not know.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use machnet_channel::shared::Attach;

use super::peers::{ELSEWHERE, Who, who};

/// How long somebody is held back at most: an application waits 3 s for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Callers of one user, and of all, that are held back at a time. More are refused.
const HELD_EACH: usize = 16;
const HELD: usize = 64;
/// How long a process waits at most that wrote what cannot be; and after how long that is forgotten.
const LONGEST: Duration = Duration::from_secs(30);
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Users, and processes, that are remembered.
const REMEMBERED: usize = 1024;

/// A caller whose time has come.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It may attach, as far as this goes.
    Enter(OwnedFd, Attach),
    /// It has waited long enough; why it may not.
    Refuse(OwnedFd, Attach, String),
}

#[derive(Debug)]
struct Held {
    caller: OwnedFd,
    attach: Attach,
    who: Who,
    /// When it is looked at again, and for the last time.
    next: Instant,
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Penance {
    wait: Duration,
    until: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Manners {
    /// Between two of one user's, and how many of these times may be used up at once.
    interval: Duration,
    burst: u32,
    /// What a process waits for the first time.
    shortest: Duration,
    held: Vec<Held>,
    /// By user: when all that was used of the rate is paid for.
    paid: BTreeMap<u32, Instant>,
    penance: BTreeMap<Who, Penance>,
}

impl Manners {
    /// So many a second for each user, and twice as many at once; `penance` for who wrote what cannot be.
    pub(super) fn new(rate: u32, penance: Duration) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self {
            interval,
            burst: rate.saturating_mul(2).max(1),
            shortest: penance,
            held: Vec::new(),
            paid: BTreeMap::new(),
            penance: BTreeMap::new(),
        }
    }

    /// Somebody wants to attach: he is among those whom [`Manners::due`] returns, now or later.
    pub(super) fn heard(&mut self, now: Instant, caller: OwnedFd, attach: Attach) {
        let who = who(&caller);
        self.held.push(Held { caller, attach, who, next: now, until: now + PATIENCE });
    }

    /// Those whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Verdict> {
        let mut due = Vec::new();
        for mut held in std::mem::take(&mut self.held) {
            if held.next > now {
                self.held.push(held);
                continue;
            }
            let (wait, why) = self.wait(now, held.who);
            if wait.is_zero() {
                due.push(Verdict::Enter(held.caller, held.attach));
                continue;
            }
            let same = self.held.iter().filter(|other| other.who.0 == held.who.0).count();
            if now >= held.until || same >= HELD_EACH || self.held.len() >= HELD {
                due.push(Verdict::Refuse(held.caller, held.attach, format!("{why}; the next time is in {wait:?}")));
            } else {
                held.next = (now + wait).min(held.until);
                self.held.push(held);
            }
        }
        due
    }

    /// When somebody is due next.
    pub(super) fn nearest(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.next).min()
    }

    /// A process wrote what cannot be. One that cannot be told from others pays by its user's rate alone.
    pub(super) fn offended(&mut self, now: Instant, user: u32, process: i32) {
        if process == ELSEWHERE {
            return;
        }
        if self.penance.len() >= REMEMBERED {
            self.penance.retain(|_, penance| now < penance.until + FORGOTTEN);
        }
        if self.penance.len() >= REMEMBERED
            && let Some(first) = self.penance.iter().min_by_key(|(_, penance)| penance.until).map(|(who, _)| *who)
        {
            self.penance.remove(&first);
        }
        let before = self.penance.get(&(user, process)).filter(|penance| now < penance.until + FORGOTTEN);
        let wait = before.map_or(self.shortest, |penance| (2 * penance.wait).min(LONGEST.max(self.shortest)));
        self.penance.insert((user, process), Penance { wait, until: now + wait });
    }

    /// How long somebody has to wait, and what for. Nothing: it counts as one that came.
    fn wait(&mut self, now: Instant, who: Who) -> (Duration, String) {
        if let Some(penance) = self.penance.get(&who).filter(|penance| now < penance.until) {
            let text = format!("process {} wrote what cannot be, and has to wait for {:?}", who.1, penance.wait);
            return (penance.until - now, text);
        }
        let paid = self.paid.get(&who.0).copied().unwrap_or(now).max(now) + self.interval;
        let most = now + self.interval * self.burst;
        if paid > most {
            let rate = self.burst / 2;
            let text = format!("user {} attaches more often than limits.attach_rate = {rate} times a second", who.0);
            return (paid - most, text);
        }
        if self.paid.len() >= REMEMBERED {
            self.paid.retain(|_, paid| *paid > now);
        }
        self.paid.insert(who.0, paid);
        (Duration::ZERO, String::new())
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    const SHORTEST: Duration = Duration::from_millis(100);

    fn caller() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap()
    }

    fn me() -> Who {
        who(&caller().0)
    }

    fn come(manners: &mut Manners, now: Instant, count: usize) {
        (0..count).for_each(|_| manners.heard(now, caller().0, Attach::new("me".to_owned(), 0)));
    }

    /// How many may enter, and are refused.
    fn due(manners: &mut Manners, now: Instant) -> (usize, usize) {
        let due = manners.due(now);
        let enter = due.iter().filter(|verdict| matches!(verdict, Verdict::Enter(..))).count();
        (enter, due.len() - enter)
    }

    #[test]
    fn a_burst_enters_at_once_and_the_rest_at_the_rate() {
        let (mut manners, now) = (Manners::new(10, SHORTEST), Instant::now());
        come(&mut manners, now, 25);
        assert_eq!(due(&mut manners, now), (20, 0));
        assert_eq!(manners.nearest(), Some(now + Duration::from_millis(100)));
        assert_eq!(due(&mut manners, now + Duration::from_millis(99)), (0, 0));
        assert_eq!(due(&mut manners, now + Duration::from_millis(100)), (1, 0));
        // They look again when one could be due, and one at a time is.
        let later: usize = (2..=4).map(|n| due(&mut manners, now + Duration::from_millis(n * 100)).0).sum();
        assert_eq!((later, manners.held.len()), (3, 1));
        let flood = now + Duration::from_millis(401);
        come(&mut manners, flood, 30);
        assert_eq!(due(&mut manners, flood), (0, 30 + 1 - HELD_EACH), "more than may be held back");
        assert_eq!(due(&mut manners, flood + PATIENCE).1, 0, "their time has come by then");
    }

    #[test]
    fn who_wrote_what_cannot_be_waits_longer_each_time_and_nobody_else() {
        let (mut manners, mut now, me) = (Manners::new(1000, SHORTEST), Instant::now(), me());
        for wait in [100, 200, 400, 800, 1600] {
            manners.offended(now, me.0, me.1);
            manners.offended(now, me.0, me.1 + 1000);
            come(&mut manners, now, 1);
            assert_eq!(due(&mut manners, now), (0, 0));
            now += Duration::from_millis(wait);
            assert_eq!(due(&mut manners, now), (1, 0), "after {wait} ms");
        }
        manners.offended(now, me.0, me.1);
        come(&mut manners, now, 1);
        due(&mut manners, now);
        let [Verdict::Refuse(_, _, why)] = &manners.due(now + PATIENCE)[..] else {
            panic!("3.2 s are longer than it waits")
        };
        assert!(why.contains("wrote what cannot be") && why.contains("3.2s") && why.contains("in 1.2s"), "{why}");
        now += Duration::from_secs(100);
        manners.offended(now, me.0, me.1);
        assert_eq!(manners.penance[&me].wait, SHORTEST, "forgotten");
        manners.offended(now, me.0, ELSEWHERE);
        assert_eq!(manners.wait(now, (me.0, ELSEWHERE)).0, Duration::ZERO, "it may have been another one");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut manners, now) = (Manners::new(1, SHORTEST), Instant::now());
        (0..5000).for_each(|n| manners.offended(now + Duration::from_millis(n), 1, n as i32));
        assert_eq!(manners.penance.len(), REMEMBERED);
        assert!(manners.penance.contains_key(&(1, 4999)));
        for user in 0..5000 {
            manners.wait(now + Duration::from_secs(2 * u64::from(user)), (user, 1));
        }
        assert!(manners.paid.len() <= REMEMBERED);
    }
}
