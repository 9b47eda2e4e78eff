//! Whether daemons still answer: one thread of the process asks each of its channels, a few times in the time after which a
//! daemon that says nothing is given up.
//!
//! A channel's silence is counted in questions, not in time: each question leaves the daemon [`ASKED`]th parts of the time, and
//! one that was put late, because this process or the whole machine stood still, starts the count anew. So does one that was put
//! to a daemon that answered. What answers is the engine, in a round: a daemon whose engine hangs is as good as none.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::attached::Attached;

/// Questions in the time after which a daemon is given up.
const ASKED: u32 = 4;
/// The shortest time between two questions.
const SHORTEST: Duration = Duration::from_millis(1);

/// What is known of one channel.
#[derive(Debug)]
pub(super) struct Beat {
    /// Between two questions.
    period: Duration,
    due: Instant,
    /// Questions in a row that were not answered.
    silent: u32,
}

impl Beat {
    fn new(timeout: Duration, now: Instant) -> Self {
        let period = (timeout / ASKED).max(SHORTEST);
        Self { period, due: now + period, silent: 0 }
    }

    /// A question was put at `now`; `answered` says what became of the one before. True if the daemon is to be given up.
    fn asked(&mut self, now: Instant, answered: Option<bool>) -> bool {
        let stood_still = now >= self.due + self.period;
        self.due = now + self.period;
        self.silent = match answered {
            Some(false) if !stood_still => self.silent + 1,
            _ => 0,
        };
        self.silent >= ASKED
    }
}

#[derive(Debug)]
struct Beats {
    channels: Vec<(Weak<Attached>, Beat)>,
    thread: Option<Thread>,
}

static BEATS: Mutex<Beats> = Mutex::new(Beats { channels: Vec::new(), thread: None });

fn beats() -> MutexGuard<'static, Beats> {
    BEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a channel's daemon is asked, until the channel is gone.
pub(super) fn watch(channel: Weak<Attached>, timeout: Duration) {
    let mut beats = beats();
    beats.channels.push((channel, Beat::new(timeout, Instant::now())));
    match &beats.thread {
        // It may sleep for longer than this one can wait.
        Some(thread) => thread.unpark(),
        None => match std::thread::Builder::new().name("machnet-beat".to_owned()).spawn(ask_all) {
            Ok(thread) => beats.thread = Some(thread.thread().clone()),
            Err(error) => tracing::warn!(%error, "no thread to ask daemons whether they are there"),
        },
    }
}

fn ask_all() {
    loop {
        // Without the lock: to ask is to run the pump, which wakes tasks.
        let mut channels = std::mem::take(&mut beats().channels);
        let now = Instant::now();
        channels.retain_mut(|(channel, beat)| {
            let Some(channel) = channel.upgrade().filter(|channel| !channel.has_ended()) else { return false };
            if beat.due <= now {
                let answered = channel.beat();
                if beat.asked(now, answered) {
                    beat.silent = 0;
                    channel.on_silence();
                }
            }
            true
        });
        let mut beats = beats();
        beats.channels.append(&mut channels);
        let Some(next) = beats.channels.iter().map(|(_, beat)| beat.due).min() else {
            beats.thread = None;
            return;
        };
        drop(beats);
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()).max(SHORTEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(now: Instant) -> Beat {
        Beat::new(Duration::from_secs(4), now)
    }

    #[test]
    fn four_questions_in_a_row_without_an_answer() {
        let mut now = Instant::now();
        let mut beat = beat(now);
        for answered in [None, Some(false), Some(false), Some(false), Some(true), Some(false), Some(false), Some(false)]
        {
            now += Duration::from_secs(1);
            assert!(!beat.asked(now, answered));
        }
        now += Duration::from_secs(1);
        assert!(beat.asked(now, Some(false)));
    }

    #[test]
    fn who_stood_still_himself_counts_anew() {
        let mut now = Instant::now();
        let mut beat = beat(now);
        for _ in 0..3 {
            now += Duration::from_secs(1);
            assert!(!beat.asked(now, Some(false)));
        }
        // The process was stopped, or the machine: the daemon may have been, too.
        now += Duration::from_secs(3600);
        assert!(!beat.asked(now, Some(false)));
        for _ in 0..3 {
            now += Duration::from_millis(1900);
            assert!(!beat.asked(now, Some(false)));
        }
        now += Duration::from_secs(1);
        assert!(beat.asked(now, Some(false)));
    }

    #[test]
    fn a_daemon_that_answers_none_is_never_given_up() {
        let mut now = Instant::now();
        let mut beat = beat(now);
        for _ in 0..100 {
            now += Duration::from_secs(1);
            assert!(!beat.asked(now, None));
        }
    }
}
