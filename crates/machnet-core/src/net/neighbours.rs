//! The table of neighbours: whose Ethernet address is known, asked for, or was asked for in vain.
//!
//! ```text
//!                                  ┌──────────────── doubted ──────────────┐
//!   wanted ─▶ Asked ── answer ─▶ Known ── REACHABLE over ─▶ Stale ── used ─▶ Checked ── answer ─▶ Known
//!               │ RETRIES                                    │ UNUSED           │ RETRIES
//!               ▼                                            ▼                  ▼
//!             Absent ── HOLD ─▶ (forgotten)               (forgotten)         Asked
//! ```
//!
//! It is RFC 4861's machine, for ARP too, and stricter in one thing: only an answer to a question of ours changes what is
//! known. Whoever says something unasked makes us ask, and first the one we know: so a stranger who claims a neighbour's
//! address gains nothing while that neighbour answers, and one that moved is found after [`RETRIES`] seconds.
//!
//! Time and questions go in and out as values; frames that wait are the caller's and opaque here.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::MacAddr;
use crate::Instant;

/// Between two questions to the same neighbour (RFC 1122 §2.3.2.1, RFC 4861 §10 RETRANS_TIMER).
pub(crate) const RETRANS: Duration = Duration::from_secs(1);
/// Questions without an answer (RFC 4861 §10 MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT).
pub(crate) const RETRIES: u8 = 3;
/// How long an answer is believed (RFC 4861 §10 REACHABLE_TIME).
pub(crate) const REACHABLE: Duration = Duration::from_secs(30);
/// How long a neighbour that nobody sends to is remembered after that: Linux's gc_stale_time is as long.
pub(crate) const UNUSED: Duration = Duration::from_secs(60);
/// How long a neighbour that did not answer is not asked again.
pub(crate) const HOLD: Duration = Duration::from_secs(1);

/// Frames that wait for all neighbours together, in multiples of what may wait for one: forged addresses must not take the
/// device's frames.
const QUEUES: usize = 8;

/// A question to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Whose address.
    pub(crate) of: IpAddr,
    /// Whom to ask; `None`: everybody.
    pub(crate) ask: Option<MacAddr>,
}

/// What to do with a frame.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Resolved {
    /// Send it there.
    At(MacAddr),
    /// Give it to [`Neighbours::wait`].
    Wait,
    /// Drop it: the neighbour does not answer.
    Absent,
}

#[derive(Debug)]
enum State<T> {
    /// Everybody was asked; what waits for the answer, oldest first.
    Asked {
        tries: u8,
        waiting: VecDeque<T>,
    },
    Known(MacAddr),
    Stale(MacAddr),
    /// The neighbour itself was asked, and is believed meanwhile.
    Checked {
        mac: MacAddr,
        tries: u8,
    },
    Absent,
}

#[derive(Debug)]
struct Neighbour<T> {
    state: State<T>,
    /// When the state ends if nothing happens.
    until: Instant,
}

/// See the module. `T` is a frame that waits.
#[derive(Debug)]
pub(crate) struct Neighbours<T> {
    table: BTreeMap<IpAddr, Neighbour<T>>,
    limit: usize,
    max_waiting: usize,
    /// Frames that wait, for whomever.
    waiting: usize,
    /// No state ends before.
    next: Option<Instant>,
    /// The neighbour looked up last, if it is [`State::Known`]: bursts go to one.
    last: Option<(IpAddr, MacAddr)>,
    questions: Vec<Question>,
    lost: u64,
}

impl<T> Neighbours<T> {
    pub(crate) const fn new(limit: usize, max_waiting: usize) -> Self {
        Self {
            table: BTreeMap::new(),
            limit,
            max_waiting,
            waiting: 0,
            next: None,
            last: None,
            questions: Vec::new(),
            lost: 0,
        }
    }

    /// Where to send to `ip`. Asks if that is not known.
    pub(crate) fn resolve(&mut self, now: Instant, ip: IpAddr) -> Resolved {
        if let Some((known, mac)) = self.last
            && known == ip
        {
            return Resolved::At(mac);
        }
        let Some(neighbour) = self.table.get_mut(&ip) else {
            self.insert(ip, State::Asked { tries: 1, waiting: VecDeque::new() }, now + RETRANS);
            self.questions.push(Question { of: ip, ask: None });
            return Resolved::Wait;
        };
        match neighbour.state {
            State::Known(mac) => {
                self.last = Some((ip, mac));
                Resolved::At(mac)
            }
            State::Stale(mac) => {
                self.check(now, ip, mac);
                Resolved::At(mac)
            }
            State::Checked { mac, .. } => Resolved::At(mac),
            State::Asked { .. } => Resolved::Wait,
            State::Absent => Resolved::Absent,
        }
    }

    /// Keeps a frame until the answer comes. Returns the one that makes room for it; the frame itself, if too many wait for
    /// others.
    #[must_use]
    pub(crate) fn wait(&mut self, ip: IpAddr, frame: T) -> Option<T> {
        let Some(Neighbour { state: State::Asked { waiting, .. }, .. }) = self.table.get_mut(&ip) else {
            return Some(frame);
        };
        let is_full = waiting.len() >= self.max_waiting || self.waiting >= QUEUES * self.max_waiting;
        let oldest = if is_full { waiting.pop_front() } else { None };
        if is_full && oldest.is_none() {
            return Some(frame);
        }
        self.waiting += usize::from(oldest.is_none());
        waiting.push_back(frame);
        oldest
    }

    /// Somebody said that `ip` is at `mac`. If we asked for it, `sent` gets what waited.
    pub(crate) fn on_answer(&mut self, now: Instant, ip: IpAddr, mac: MacAddr, mut sent: impl FnMut(T)) {
        let Some(neighbour) = self.table.get_mut(&ip) else { return };
        match &mut neighbour.state {
            State::Asked { waiting, .. } => {
                self.waiting -= waiting.len();
                waiting.drain(..).for_each(&mut sent);
            }
            State::Checked { mac: asked, .. } if *asked == mac => {}
            State::Checked { .. } | State::Absent => return,
            State::Known(known) | State::Stale(known) => {
                let known = *known;
                if known != mac {
                    self.check(now, ip, known);
                }
                return;
            }
        }
        neighbour.state = State::Known(mac);
        self.set_until(ip, now + REACHABLE);
    }

    /// `ip` asked for an address of ours, from `mac`. It is remembered if there is room and nothing is known of it: it will
    /// want an answer. If it is known elsewhere, we ask.
    pub(crate) fn on_question(&mut self, now: Instant, ip: IpAddr, mac: MacAddr) {
        if self.table.contains_key(&ip) {
            if !matches!(self.table[&ip].state, State::Asked { .. }) {
                self.on_answer(now, ip, mac, drop);
            }
        } else if self.table.len() < self.limit {
            self.insert(ip, State::Stale(mac), now + UNUSED);
        }
    }

    /// What was sent to `ip` was not answered. If it was believed to be where it is for longer than a question takes, it is asked.
    pub(crate) fn doubt(&mut self, now: Instant, ip: IpAddr) {
        if let Some(Neighbour { state: State::Known(mac), until }) = self.table.get(&ip)
            && now + REACHABLE >= *until + RETRANS
        {
            let mac = *mac;
            self.check(now, ip, mac);
        }
    }

    /// When [`Neighbours::expire`] has something to do.
    pub(crate) const fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Ends what is over at `now`.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        self.last = None;
        let Self { table, questions, lost, waiting: all_waiting, .. } = self;
        table.retain(|&ip, neighbour| {
            if neighbour.until > now {
                return true;
            }
            let again = now + RETRANS;
            let (state, until) = match std::mem::replace(&mut neighbour.state, State::Absent) {
                State::Asked { tries, waiting } if tries < RETRIES => {
                    questions.push(Question { of: ip, ask: None });
                    (State::Asked { tries: tries + 1, waiting }, again)
                }
                State::Asked { waiting, .. } => {
                    *lost += waiting.len() as u64;
                    *all_waiting -= waiting.len();
                    (State::Absent, now + HOLD)
                }
                State::Known(mac) => (State::Stale(mac), now + UNUSED),
                State::Checked { mac, tries } if tries < RETRIES => {
                    questions.push(Question { of: ip, ask: Some(mac) });
                    (State::Checked { mac, tries: tries + 1 }, again)
                }
                State::Checked { .. } => {
                    questions.push(Question { of: ip, ask: None });
                    (State::Asked { tries: 1, waiting: VecDeque::new() }, again)
                }
                State::Stale(_) | State::Absent => return false,
            };
            (neighbour.state, neighbour.until) = (state, until);
            true
        });
        self.next = self.table.values().map(|neighbour| neighbour.until).min();
    }

    /// The next question to send.
    pub(crate) fn question(&mut self) -> Option<Question> {
        self.questions.pop()
    }

    /// How many frames were dropped since the last call because nobody answered.
    pub(crate) const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }

    /// Asks the neighbour itself whether it is still there.
    fn check(&mut self, now: Instant, ip: IpAddr, mac: MacAddr) {
        if let Some(neighbour) = self.table.get_mut(&ip) {
            neighbour.state = State::Checked { mac, tries: 1 };
            self.questions.push(Question { of: ip, ask: Some(mac) });
            self.set_until(ip, now + RETRANS);
        }
    }

    fn insert(&mut self, ip: IpAddr, state: State<T>, until: Instant) {
        if self.table.len() >= self.limit {
            self.make_room();
        }
        self.table.insert(ip, Neighbour { state, until });
        self.set_until(ip, until);
    }

    /// Forgets the neighbour that matters least: one that nobody sends to, the oldest; else whoever is next to change.
    fn make_room(&mut self) {
        let worth = |neighbour: &Neighbour<T>| match neighbour.state {
            State::Absent => 0,
            State::Stale(_) => 1,
            State::Asked { .. } => 2,
            State::Checked { .. } => 3,
            State::Known(_) => 4,
        };
        let least = self.table.iter().min_by_key(|(_, neighbour)| (worth(neighbour), neighbour.until));
        let Some((&ip, _)) = least else { return };
        if let Some(Neighbour { state: State::Asked { waiting, .. }, .. }) = self.table.remove(&ip) {
            self.lost += waiting.len() as u64;
            self.waiting -= waiting.len();
        }
        self.last = None;
    }

    fn set_until(&mut self, ip: IpAddr, until: Instant) {
        self.last = None;
        if let Some(neighbour) = self.table.get_mut(&ip) {
            neighbour.until = until;
            self.next = Some(self.next.map_or(until, |next| next.min(until)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const T0: Instant = Instant(1_000_000_000);

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn table() -> Neighbours<u32> {
        Neighbours::new(4, 2)
    }

    fn questions(table: &mut Neighbours<u32>) -> Vec<Question> {
        std::iter::from_fn(|| table.question()).collect()
    }

    fn known(table: &mut Neighbours<u32>, n: u8) {
        assert_eq!(table.resolve(T0, ip(n)), Resolved::Wait);
        table.on_answer(T0, ip(n), A, |_| ());
        assert_eq!(table.resolve(T0, ip(n)), Resolved::At(A));
        let _ = questions(table);
    }

    #[test]
    fn asks_once_and_sends_what_waited_in_order() {
        let mut table = table();
        for frame in 0..3 {
            assert_eq!(table.resolve(T0, ip(1)), Resolved::Wait);
            assert_eq!(table.wait(ip(1), frame), (frame == 2).then_some(0), "two may wait: the oldest makes room");
        }
        assert_eq!(questions(&mut table), [Question { of: ip(1), ask: None }]);
        let mut sent = Vec::new();
        table.on_answer(T0, ip(1), A, |frame| sent.push(frame));
        assert_eq!((sent, table.resolve(T0, ip(1))), (vec![1, 2], Resolved::At(A)));
    }

    #[test]
    fn three_questions_then_absent_then_asked_again() {
        let mut table = table();
        assert_eq!(table.resolve(T0, ip(1)), Resolved::Wait);
        assert_eq!(table.wait(ip(1), 7), None);
        assert_eq!(questions(&mut table).len(), 1);
        for second in 1..3u32 {
            let now = T0 + RETRANS * second;
            assert_eq!(table.next_deadline(), Some(now));
            table.expire(now);
            assert_eq!(questions(&mut table), [Question { of: ip(1), ask: None }]);
        }
        let now = T0 + RETRANS * 3;
        table.expire(now);
        assert_eq!((questions(&mut table).len(), table.take_lost()), (0, 1));
        assert_eq!(table.resolve(now, ip(1)), Resolved::Absent);
        table.on_answer(now, ip(1), B, |_| ());
        assert_eq!(table.resolve(now, ip(1)), Resolved::Absent, "nobody asked");
        table.expire(now + HOLD);
        assert_eq!(table.resolve(now + HOLD, ip(1)), Resolved::Wait);
    }

    #[test]
    fn only_answers_to_questions_are_believed() {
        let mut table = table();
        table.on_answer(T0, ip(1), B, |_| ());
        assert_eq!(table.resolve(T0, ip(1)), Resolved::Wait, "nobody asked");
        table.on_answer(T0, ip(1), A, |_| ());
        let _ = questions(&mut table);
        // A stranger claims the address: the neighbour is asked, and believed.
        table.on_answer(T0, ip(1), B, |_| ());
        assert_eq!(questions(&mut table), [Question { of: ip(1), ask: Some(A) }]);
        table.on_answer(T0, ip(1), B, |_| ());
        assert_eq!(table.resolve(T0, ip(1)), Resolved::At(A));
        table.on_answer(T0, ip(1), A, |_| ());
        table.expire(T0 + RETRANS * 20);
        assert_eq!(questions(&mut table).len(), 0, "it answered");
        // It moved: it does not answer, everybody is asked, and the other is believed.
        table.on_question(T0 + RETRANS * 20, ip(1), B);
        for second in 21..24 {
            table.expire(T0 + RETRANS * second);
        }
        assert_eq!(questions(&mut table)[0], Question { of: ip(1), ask: None });
        table.on_answer(T0 + RETRANS * 24, ip(1), B, |_| ());
        assert_eq!(table.resolve(T0 + RETRANS * 24, ip(1)), Resolved::At(B));
    }

    #[test]
    fn who_does_not_answer_is_asked_whether_it_is_still_there() {
        let mut table = table();
        known(&mut table, 1);
        table.doubt(T0, ip(1));
        table.doubt(T0, ip(2));
        assert_eq!(questions(&mut table), [], "it has just answered, and of the other nothing is known");
        let later = T0 + RETRANS;
        table.doubt(later, ip(1));
        table.doubt(later, ip(1));
        assert_eq!(questions(&mut table), [Question { of: ip(1), ask: Some(A) }]);
        assert_eq!(table.resolve(later, ip(1)), Resolved::At(A), "and is believed meanwhile");
        table.on_answer(later, ip(1), A, |_| ());
        table.doubt(later, ip(1));
        assert_eq!(questions(&mut table), [], "at most once in a second");
        // It moved.
        table.doubt(later + RETRANS, ip(1));
        for second in 2..5 {
            table.expire(later + RETRANS * second);
        }
        assert_eq!(questions(&mut table)[0], Question { of: ip(1), ask: None });
        table.on_answer(later + RETRANS * 5, ip(1), B, |_| ());
        assert_eq!(table.resolve(later + RETRANS * 5, ip(1)), Resolved::At(B));
    }

    #[test]
    fn who_is_used_is_checked_and_who_is_not_is_forgotten() {
        let mut table = table();
        known(&mut table, 1);
        known(&mut table, 2);
        let now = T0 + REACHABLE;
        table.expire(now);
        assert_eq!(table.resolve(now, ip(1)), Resolved::At(A), "and used meanwhile");
        assert_eq!(questions(&mut table), [Question { of: ip(1), ask: Some(A) }]);
        table.on_answer(now, ip(1), A, |_| ());
        table.expire(now + UNUSED);
        assert_eq!(table.table.len(), 1);
        assert_eq!(table.resolve(now, ip(2)), Resolved::Wait, "forgotten");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_matters() {
        let mut table = table();
        known(&mut table, 1);
        for n in 2..=4 {
            table.on_question(T0, ip(n), B);
        }
        table.on_question(T0, ip(5), B);
        assert!(!table.table.contains_key(&ip(5)), "no stranger drives anybody out");
        for n in 6..=8 {
            assert_eq!(table.resolve(T0, ip(n)), Resolved::Wait);
        }
        assert_eq!((table.table.len(), table.resolve(T0, ip(1))), (4, Resolved::At(A)));
        assert_eq!(table.wait(ip(6), 1), None);
        for n in 9..=11 {
            assert_eq!(table.resolve(T0, ip(n)), Resolved::Wait);
        }
        assert_eq!((table.table.len(), table.take_lost()), (4, 1));
        assert_eq!(table.wait(ip(6), 2), Some(2), "driven out meanwhile");
    }

    #[test]
    fn forged_addresses_do_not_take_all_frames() {
        let mut table = Neighbours::new(100, 2);
        let waits = |table: &mut Neighbours<u8>, n| {
            assert_eq!(table.resolve(T0, ip(n)), Resolved::Wait);
            table.wait(ip(n), n)
        };
        assert_eq!((0..20).filter_map(|n| waits(&mut table, n)).collect::<Vec<_>>(), [16, 17, 18, 19]);
        assert_eq!(waits(&mut table, 3), Some(3), "its own makes room");
        let mut sent = 0;
        table.on_answer(T0, ip(3), A, |_| sent += 1);
        assert_eq!((sent, waits(&mut table, 19), waits(&mut table, 18)), (1, None, Some(18)));
    }

    proptest! {
        /// Whatever is said and asked: the table stays within its bounds, no frame is lost uncounted, deadlines are in
        /// the future, and nobody is believed who was not asked.
        #[test]
        fn frames_are_neither_lost_nor_made(steps in prop::collection::vec((0..5u8, 1..8u8, any::<bool>(), 0..3000u64), 0..200)) {
            let mut table = table();
            let mut now = T0;
            let (mut given, mut taken) = (0u64, 0u64);
            for (step, n, is_a, wait) in steps {
                let mac = if is_a { A } else { B };
                match step {
                    0 => if table.resolve(now, ip(n)) == Resolved::Wait {
                        given += 1;
                        taken += u64::from(table.wait(ip(n), 0).is_some());
                    },
                    1 => {
                        let before = table.table.get(&ip(n)).is_some_and(|n| matches!(n.state, State::Asked { .. } | State::Checked { .. }));
                        let was = table.resolve_quietly(ip(n));
                        table.on_answer(now, ip(n), mac, |_| taken += 1);
                        prop_assert!(before || table.resolve_quietly(ip(n)) == was);
                    }
                    2 => table.on_question(now, ip(n), mac),
                    _ => {
                        now += Duration::from_millis(wait);
                        table.expire(now);
                    }
                }
                prop_assert!(table.table.len() <= 4);
                prop_assert!(table.next_deadline().is_none_or(|next| next > now));
            }
            let left: u64 = table.table.values().map(|n| match &n.state {
                State::Asked { waiting, .. } => waiting.len() as u64,
                _ => 0,
            }).sum();
            prop_assert_eq!((given, table.waiting as u64), (taken + left + table.take_lost(), left));
        }
    }

    impl<T> Neighbours<T> {
        fn resolve_quietly(&self, ip: IpAddr) -> Option<MacAddr> {
            match self.table.get(&ip)?.state {
                State::Known(mac) | State::Stale(mac) | State::Checked { mac, .. } => Some(mac),
                State::Asked { .. } | State::Absent => None,
            }
        }
    }
}
