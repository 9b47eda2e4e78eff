//! What of a flow is underway, between the half that sends and the half that receives.
//!
//! Both halves belong to one future, [`both`], which polls them in turn as long as one makes progress that the other may
//! wait for. So no waker is called between them, and a burst of replies is followed by one burst of requests.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

/// When a request was due, and when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) due: Instant,
    pub(crate) at: Instant,
}

/// Requests that are underway, oldest first. Never contended: the lock is what makes it shareable.
pub(crate) struct Window(Mutex<Inner>);

struct Inner {
    underway: VecDeque<Sent>,
    limit: usize,
    /// No more will be sent.
    finished: bool,
    /// Counts what the other half may wait for.
    changes: u64,
}

impl Window {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Mutex::new(Inner { underway: VecDeque::new(), limit, finished: false, changes: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if no more may be sent for now.
    pub(crate) fn is_full(&self) -> bool {
        let inner = self.lock();
        inner.underway.len() >= inner.limit
    }

    /// Resolves when one more may be sent.
    pub(crate) async fn room(&self) {
        poll_fn(|_| if self.is_full() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    pub(crate) fn push(&self, sent: Sent) {
        let mut inner = self.lock();
        inner.underway.push_back(sent);
        inner.changes += 1;
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        inner.finished = true;
        inner.changes += 1;
    }

    /// Resolves when something is underway: true, or when nothing will be any more: false.
    pub(crate) async fn expects(&self) -> bool {
        poll_fn(|_| {
            let inner = self.lock();
            match (inner.underway.is_empty(), inner.finished) {
                (false, _) => Poll::Ready(true),
                (true, true) => Poll::Ready(false),
                (true, false) => Poll::Pending,
            }
        })
        .await
    }

    /// Takes the oldest one: its reply is there.
    pub(crate) fn pop(&self) -> Option<Sent> {
        let mut inner = self.lock();
        inner.changes += 1;
        inner.underway.pop_front()
    }

    /// How many are underway.
    pub(crate) fn underway(&self) -> u64 {
        self.lock().underway.len() as u64
    }

    fn changes(&self) -> u64 {
        self.lock().changes
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
