//! Round trips and rates over any transport.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

use crate::wire::{Rx, Tx};

/// What is measured at one message size.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) label: &'static str,
    pub(crate) size: usize,
    /// Round trips of one message at a time, in each block.
    pub(crate) round_trips: u64,
    /// Messages with several outstanding, in each block.
    pub(crate) messages: u64,
    pub(crate) outstanding: usize,
}

/// What was measured of one transport at one message size, over all blocks.
pub(crate) struct Measured {
    pub(crate) round_trips: Histogram<u64>,
    messages: u64,
    elapsed: Duration,
}

/// Round trips of each block that are not counted.
const WARM_UP: u64 = 20;

impl Measured {
    pub(crate) fn new() -> Self {
        let round_trips = Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are possible"));
        Self { round_trips, messages: 0, elapsed: Duration::ZERO }
    }

    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.round_trips.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// One block: some round trips, then a stretch with several messages outstanding.
    pub(crate) async fn block<M>(
        &mut self,
        plan: &Plan,
        payload: &Bytes,
        tx: &mut impl Tx<M>,
        rx: &mut impl Rx<M>,
    ) -> io::Result<()>
    where
        M: From<Bytes> + AsRef<[u8]>,
    {
        for round in 0..WARM_UP.min(plan.round_trips) + plan.round_trips {
            let began = Instant::now();
            tx.send(payload.clone().into()).await?;
            tx.flush().await?;
            let echoed = rx.recv().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let elapsed = began.elapsed();
            // All of it once per block: the comparison would otherwise cool the caches.
            let same = if round == 0 { echoed.as_ref() == payload } else { echoed.as_ref().len() == payload.len() };
            if !same {
                return Err(io::Error::other("the echo differs from what was sent"));
            }
            if round >= WARM_UP.min(plan.round_trips) {
                self.round_trips
                    .record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
                    .map_err(io::Error::other)?;
            }
        }

        let permits = Semaphore::new(plan.outstanding);
        let began = Instant::now();
        let send = async {
            for _ in 0..plan.messages {
                let permit = match permits.try_acquire() {
                    Ok(permit) => permit,
                    Err(_) => {
                        tx.flush().await?;
                        permits.acquire().await.map_err(io::Error::other)?
                    }
                };
                permit.forget();
                tx.send(payload.clone().into()).await?;
            }
            tx.flush().await
        };
        let receive = async {
            for _ in 0..plan.messages {
                let echoed = rx.recv().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                if echoed.as_ref().len() != payload.len() {
                    return Err(io::Error::other("the echo differs from what was sent"));
                }
                permits.add_permits(1);
            }
            Ok(())
        };
        tokio::try_join!(send, receive)?;
        self.elapsed += began.elapsed();
        self.messages += plan.messages;
        Ok(())
    }
}

/// The other side: sends everything back until the peer finishes.
pub(crate) async fn echo<M>(mut tx: impl Tx<M>, mut rx: impl Rx<M>) -> io::Result<()> {
    loop {
        if !rx.is_ready() {
            tx.flush().await?;
        }
        match rx.recv().await? {
            Some(message) => tx.send(message).await?,
            None => return tx.flush().await,
        }
    }
}
