//! What of a flow is underway, between the half that sends and the half that receives.
//!
//! Both halves belong to one future, [`both`], which polls them in turn as long as one makes progress that the other may
//! wait for. So no waker is called between them, and a burst of replies is followed by one burst of requests.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

/// When a request was due, and when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) due: Instant,
    pub(crate) at: Instant,
}

/// Requests that are underway, oldest first.
///
/// Only [`both`] uses it, one half after the other in one task: the numbers are atomic so that the halves can share them, and
/// nobody counts at the same time. What is asked for each message takes no lock: locks were a tenth of what a message costs.
pub(crate) struct Window {
    underway: Mutex<VecDeque<Sent>>,
    limit: u64,
    sent: AtomicU64,
    answered: AtomicU64,
    /// No more will be sent.
    finished: AtomicBool,
}

impl Window {
    pub(crate) fn new(limit: usize) -> Self {
        let (underway, limit) = (Mutex::default(), limit as u64);
        Self { underway, limit, sent: AtomicU64::new(0), answered: AtomicU64::new(0), finished: AtomicBool::new(false) }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Sent>> {
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if no more may be sent for now.
    pub(crate) fn is_full(&self) -> bool {
        self.underway() >= self.limit
    }

    /// Resolves when one more may be sent.
    pub(crate) async fn room(&self) {
        poll_fn(|_| if self.is_full() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    pub(crate) fn push(&self, sent: Sent) {
        self.queue().push_back(sent);
        self.sent.store(self.sent.load(Relaxed) + 1, Relaxed);
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Relaxed);
    }

    /// Resolves when something is underway: true, or when nothing will be any more: false.
    pub(crate) async fn expects(&self) -> bool {
        poll_fn(|_| match (self.underway() > 0, self.finished.load(Relaxed)) {
            (true, _) => Poll::Ready(true),
            (false, true) => Poll::Ready(false),
            (false, false) => Poll::Pending,
        })
        .await
    }

    /// Takes the oldest one: its reply is there.
    pub(crate) fn pop(&self) -> Option<Sent> {
        let sent = self.queue().pop_front()?;
        self.answered.store(self.answered.load(Relaxed) + 1, Relaxed);
        Some(sent)
    }

    /// How many are underway.
    pub(crate) fn underway(&self) -> u64 {
        self.sent.load(Relaxed) - self.answered.load(Relaxed)
    }

    /// Differs after what the other half may wait for.
    fn changes(&self) -> u64 {
        self.sent.load(Relaxed) + self.answered.load(Relaxed) + u64::from(self.finished.load(Relaxed))
    }
}

/// Runs both halves to their ends, or to the first error.
pub(crate) async fn both(
    window: &Window,
    receive: impl Future<Output = io::Result<()>>,
    send: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let (mut receive, mut send) = (pin!(receive), pin!(send));
    let (mut received, mut sent) = (false, false);
    poll_fn(|cx| {
        loop {
            let before = window.changes();
            if !received && let Poll::Ready(result) = receive.as_mut().poll(cx) {
                result?;
                received = true;
            }
            if !sent && let Poll::Ready(result) = send.as_mut().poll(cx) {
                result?;
                sent = true;
            }
            if received && sent {
                return Poll::Ready(Ok(()));
            }
            if window.changes() == before {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_more_than_the_limit_and_all_of_them() {
        const LIMIT: usize = 3;
        let window = Window::new(LIMIT);
        let send = async {
            for _ in 0..10 {
                window.room().await;
                let now = Instant::now();
                window.push(Sent { due: now, at: now });
                assert!(window.underway() <= LIMIT as u64);
            }
            window.finish();
            Ok(())
        };
        let mut received = 0;
        let receive = async {
            while window.expects().await {
                tokio::task::yield_now().await;
                window.pop().unwrap();
                received += 1;
            }
            Ok(())
        };
        both(&window, receive, send).await.unwrap();
        assert_eq!(received, 10);
    }
}
