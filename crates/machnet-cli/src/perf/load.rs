//! What the flows of a measurement do in one phase, the warm-up or what counts.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::content;
use super::pace::Pacer;
use super::recorder::Recorder;
use super::window::{Sent, Window, both};
use crate::args::Limit;
use crate::wire::{Rx, Tx, Wire};

/// What an open loop may have underway on one flow: memory has an end. Latencies count from when requests were due all the
/// same.
const MOST_UNDERWAY: usize = 1 << 20;

/// One-way messages between two looks at the clock.
const STRIDE: u64 = 16;

/// What is the same in all phases.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) size: usize,
    pub(crate) outstanding: usize,
    pub(crate) flows: usize,
    /// Requests per second of all flows together; `None` is a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) verify: bool,
}

/// One stretch of work.
pub(crate) struct Phase {
    pub(crate) plan: Plan,
    pub(crate) limit: Limit,
    pub(crate) began: Instant,
    pub(crate) recorder: Recorder,
}

impl Phase {
    pub(crate) fn new(plan: &Plan, limit: Limit) -> Arc<Self> {
        Arc::new(Self { plan: plan.clone(), limit, began: Instant::now(), recorder: Recorder::new() })
    }

    /// True if nothing is to be begun at `now`.
    fn is_over(&self, now: Instant) -> bool {
        self.recorder.is_stopped() || matches!(self.limit, Limit::Time(time) if now.duration_since(self.began) >= time)
    }

    /// How much of it the `index`th of `count` workers does.
    fn share(&self, index: usize, count: usize) -> u64 {
        let (index, count) = (index as u64, count as u64);
        match self.limit {
            Limit::Time(_) => u64::MAX,
            Limit::Count(total) => total / count + u64::from(index < total % count),
        }
    }

    /// When the `n`th request of a flow is due, in an open loop. The flows take turns.
    fn due(&self, index: usize, n: u64) -> Option<Instant> {
        let rate = self.plan.rate?;
        let before = n as f64 * self.plan.flows as f64 + index as f64;
        // A time that is out of reach is never due.
        Some(self.began + Duration::try_from_secs_f64(before / rate).unwrap_or(Duration::from_secs(1 << 32)))
    }
}

/// A flow to the server, with what it has sent so far.
pub(crate) struct Flow<W: Wire> {
    pub(crate) index: usize,
    pub(crate) tx: W::Tx,
    pub(crate) rx: W::Rx,
    pub(crate) sequence: u64,
}

impl<W: Wire> Flow<W> {
    /// Requests and their replies; true if the flow can be used again.
    pub(crate) async fn round_trips(&mut self, phase: &Phase, payload: &Bytes) -> bool {
        let (plan, recorder) = (&phase.plan, &phase.recorder);
        let index = self.index;
        let window = Window::new(if plan.rate.is_some() { MOST_UNDERWAY } else { plan.outstanding });
        let share = phase.share(index, plan.flows);
        let first = self.sequence;
        let (tx, rx) = (&mut self.tx, &mut self.rx);
        let mut sent = 0;
        let send = async {
            let pacer = if plan.rate.is_some() { Some(Pacer::new()?) } else { None };
            while sent < share {
                let due = phase.due(index, sent);
                if let (Some(due), Some(pacer)) = (due, &pacer) {
                    if phase.is_over(due) {
                        break;
                    }
                    if due > Instant::now() {
                        tx.flush().await?;
                        pacer.until(due).await?;
                    }
                }
                if window.is_full() {
                    tx.flush().await?;
                    window.room().await;
                }
                let at = Instant::now();
                if due.is_none() && phase.is_over(at) {
                    break;
                }
                window.push(Sent { due: due.unwrap_or(at), at });
                post(tx, plan, payload, index, first + sent).await?;
                sent += 1;
            }
            window.finish();
            tx.flush().await
        };
        let receive = async {
            let mut received = 0;
            while window.expects().await {
                let reply = rx.recv().await?.ok_or_else(closed)?;
                let now = Instant::now();
                if let Some(wrong) = wrong(plan, reply.as_ref(), index, first + received) {
                    recorder.failed(1, wrong);
                    window.pop();
                } else if let Some(sent) = window.pop() {
                    recorder.done(sent, now);
                }
                received += 1;
            }
            Ok(())
        };
        let result = both(&window, receive, send).await;
        self.sequence = first + sent;
        result.map_err(|error| recorder.failed(window.underway().max(1), error)).is_ok()
    }

    /// Messages one way. They count once the server says how many it has; true if the flow can be used again.
    pub(crate) async fn one_way(&mut self, phase: &Phase, payload: &Bytes) -> bool {
        let (plan, recorder) = (&phase.plan, &phase.recorder);
        let share = phase.share(self.index, plan.flows);
        let mut sent = 0;
        let result: io::Result<u64> = async {
            while sent < share && !phase.is_over(Instant::now()) {
                let stride = STRIDE.min(share - sent);
                for i in 0..stride {
                    post(&mut self.tx, plan, payload, self.index, self.sequence + i).await?;
                }
                sent += stride;
                self.sequence += stride;
                recorder.progressed(stride);
            }
            // An empty message asks for the count.
            self.tx.send(Bytes::new().into()).await?;
            self.tx.flush().await?;
            let count = self.rx.recv().await?.ok_or_else(closed)?;
            let count = count.as_ref().try_into().map_err(|_| io::Error::other("the server's count is none"))?;
            Ok(u64::from_be_bytes(count))
        }
        .await;
        match result {
            Ok(received) => {
                recorder.count(received.min(sent));
                if received != sent {
                    recorder.failed(received.abs_diff(sent), format!("{sent} messages sent, {received} arrived"));
                }
                true
            }
            Err(error) => {
                recorder.failed(1, error);
                false
            }
        }
    }

    /// Nothing, until the phase is over.
    pub(crate) async fn idle(phase: &Phase) {
        while !phase.is_over(Instant::now()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        phase.recorder.count(phase.plan.flows as u64);
    }
}

/// Connects and closes, as one of `outstanding` workers.
pub(crate) async fn come_and_go<W: Wire>(wire: &W, index: usize, phase: &Phase) {
    let share = phase.share(index, phase.plan.outstanding);
    for _ in 0..share {
        let at = Instant::now();
        if phase.is_over(at) {
            break;
        }
        match wire.come_and_go().await {
            Ok(()) => phase.recorder.done(Sent { due: at, at }, Instant::now()),
            Err(error) => {
                phase.recorder.failed(1, format!("connecting: {error}"));
                // A server that is gone fails each attempt at once: others may run, and what is wrong is not measured.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// How a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All workers did what they should, or failed.
    Complete,
    /// Nothing happened for too long.
    Stalled,
    /// Somebody asked for it.
    Interrupted,
}

/// What workers do for themselves after an interruption.
const GRACE: Duration = Duration::from_secs(1);
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Waits for the workers of a phase and returns what the successful ones return. `tick` is told how far it is.
pub(crate) async fn wait<T: Send + 'static>(
    mut workers: JoinSet<Option<T>>,
    phase: &Phase,
    stall: Option<Duration>,
    interrupted: &mut (impl Future<Output = ()> + Unpin),
    mut tick: impl FnMut(u64),
) -> (Vec<T>, End) {
    let mut done = Vec::new();
    let mut ticks = tokio::time::interval(TICK);
    let mut last = (0, Instant::now());
    let mut end = End::Complete;
    let mut end_at = None;
    loop {
        tokio::select! {
            biased;
            ended = workers.join_next() => match ended {
                Some(worker) => done.extend(worker.ok().flatten()),
                None => return (done, end),
            },
            () = &mut *interrupted, if end_at.is_none() => {
                phase.recorder.stop();
                end = End::Interrupted;
                end_at = Some(Instant::now() + GRACE);
            }
            _ = ticks.tick() => {
                let now = Instant::now();
                let progress = phase.recorder.progress();
                tick(progress);
                if progress != last.0 {
                    last = (progress, now);
                }
                if end_at.is_some_and(|at| now >= at) {
                    workers.abort_all();
                } else if stall.is_some_and(|stall| now.duration_since(last.1) >= stall) && end == End::Complete {
                    let waited = now.duration_since(last.1).as_secs_f64();
                    let unfinished = workers.len() as u64;
                    phase.recorder.failed(unfinished, format!("nothing happened for {waited:.1} s: is the server gone?"));
                    end = End::Stalled;
                    workers.abort_all();
                }
            }
        }
    }
}

/// Sends message `sequence` of flow `flow`.
async fn post<M: From<Bytes> + Send>(
    tx: &mut impl Tx<M>,
    plan: &Plan,
    payload: &Bytes,
    flow: usize,
    sequence: u64,
) -> io::Result<()> {
    if plan.verify {
        tx.send_filled(plan.size, |bytes| content::fill(bytes, flow, sequence)).await
    } else {
        tx.send(payload.clone().into()).await
    }
}

/// What is wrong with a reply, if something is.
fn wrong(plan: &Plan, reply: &[u8], flow: usize, sequence: u64) -> Option<String> {
    if reply.len() != plan.size {
        return Some(format!("a reply of {} bytes to a request of {}", reply.len(), plan.size));
    }
    (plan.verify && !content::is_right(reply, flow, sequence))
        .then(|| format!("reply {sequence} of flow {flow} differs from its request"))
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the flow")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(limit: Limit, flows: usize, rate: Option<f64>) -> Arc<Phase> {
        Phase::new(&Plan { size: 1, outstanding: 1, flows, rate, verify: false }, limit)
    }

    #[test]
    fn the_shares_make_the_whole() {
        for (total, flows) in [(10, 3), (2, 5), (0, 1), (9, 9)] {
            let phase = phase(Limit::Count(total), flows, None);
            assert_eq!((0..flows).map(|flow| phase.share(flow, flows)).sum::<u64>(), total);
        }
    }

    #[test]
    fn requests_of_all_flows_are_evenly_spaced() {
        let phase = phase(Limit::Count(6), 2, Some(1000.0));
        let after = |flow, n| (phase.due(flow, n).unwrap() - phase.began).as_micros();
        assert_eq!([after(0, 0), after(1, 0), after(0, 1), after(1, 1)], [0, 1000, 2000, 3000]);
    }
}
