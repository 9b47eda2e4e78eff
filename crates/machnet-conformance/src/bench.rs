//! Sending and receiving through a [`Rig`], as an engine does.

use std::collections::VecDeque;
use std::net::SocketAddr;

use machnet_channel::FrameRef;
use machnet_core::{Driver, Drops, Meta, RxPacket, TxPacket};

use crate::{Rig, Shape, Subject};

/// Steps within which whatever is to happen has happened.
pub const PATIENCE: usize = 20_000;

/// Why a check does not say that a driver is right.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The wire cannot do what the check needs.
    NotApplicable(&'static str),
    /// The driver is wrong, and how.
    Wrong(String),
}

pub(crate) type Outcome = Result<(), Stop>;

/// Ends a check that does not hold.
macro_rules! must {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err($crate::bench::Stop::Wrong(format!($($why)+)));
        }
    };
}
pub(crate) use must;

/// A received datagram, and what is in it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) meta: Meta,
    pub(crate) payload: FrameRef,
}

impl Got {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.payload.as_ref()
    }
}

/// The payload number `n`: its number, and bytes that follow from it.
pub(crate) fn payload(n: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (n as usize * 31 + at * 7) as u8).collect();
    let head = len.min(4);
    bytes[..head].copy_from_slice(&n.to_be_bytes()[..head]);
    bytes
}

/// The number of a payload.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(u32::MAX, |&head| u32::from_be_bytes(head))
}

/// See the module.
pub(crate) struct Bench {
    pub(crate) rig: Box<dyn Rig>,
    /// Frames that were free in the beginning.
    free: [u32; 2],
    /// What comes to side 1 is thrown away.
    is_lost: bool,
}

impl Bench {
    pub(crate) fn of(subject: &dyn Subject) -> Result<Self, Stop> {
        Self::with(subject.pair(Shape::default()))
    }

    pub(crate) fn shaped(subject: &dyn Subject, shape: Shape) -> Result<Self, Stop> {
        Self::with(subject.pair(shape))
    }

    /// A pair whose sides know each other: the first datagrams may be lost while a link comes up.
    pub(crate) fn with(rig: std::io::Result<Box<dyn Rig>>) -> Result<Self, Stop> {
        let rig = rig.map_err(|error| Stop::Wrong(format!("no pair of drivers: {error}")))?;
        let mut bench = Self { rig, free: [0; 2], is_lost: false };
        bench.free = [0, 1].map(|side| bench.rig.free_frames(side));
        for side in [0, 1] {
            let mut heard = false;
            for _ in 0..200 {
                bench.send(side, &[payload(u32::MAX, 64)])?;
                for _ in 0..PATIENCE / 200 {
                    bench.rig.step();
                    heard |= !bench.receive(1 - side, 256).is_empty();
                    bench.receive(side, 256);
                    if heard {
                        break;
                    }
                }
                if heard {
                    break;
                }
            }
            let drops = [0, 1].map(|side| bench.drops(side));
            must!(heard, "nothing comes from side {side}; dropped: {drops:?}");
        }
        // What was repeated in vain may come late.
        for _ in 0..50 {
            bench.rig.step();
            bench.receive(0, 256);
            bench.receive(1, 256);
        }
        Ok(bench)
    }

    pub(crate) fn driver(&mut self, side: usize) -> &mut dyn Driver {
        self.rig.driver(side)
    }

    pub(crate) fn home(&mut self, side: usize) -> SocketAddr {
        self.driver(side).home()
    }

    pub(crate) fn drops(&mut self, side: usize) -> Drops {
        self.driver(side).drops()
    }

    /// A datagram from the side's home to the other's, in a frame of the driver's.
    pub(crate) fn packet(&mut self, side: usize, payload: &[u8]) -> Option<TxPacket> {
        let (local, remote) = (self.home(side), self.home(1 - side));
        self.packet_to(side, Meta { local, remote, queue: 0 }, payload)
    }

    pub(crate) fn packet_to(&mut self, side: usize, meta: Meta, payload: &[u8]) -> Option<TxPacket> {
        let driver = self.rig.driver(side);
        let start = driver.capabilities().headroom as usize;
        let mut frame = driver.frame()?;
        frame.bytes_mut()?.get_mut(start..start + payload.len())?.copy_from_slice(payload);
        Some(TxPacket { meta, payload: frame.share(start as u32..(start + payload.len()) as u32), tail: None })
    }

    /// [`Bench::packet`], when there is a frame.
    pub(crate) fn built(&mut self, side: usize, payload: &[u8]) -> Result<TxPacket, Stop> {
        for _ in 0..PATIENCE {
            if let Some(packet) = self.packet(side, payload) {
                return Ok(packet);
            }
            self.rig.step();
        }
        Err(Stop::Wrong(format!("side {side} has no frame for {} bytes", payload.len())))
    }

    /// Gives the driver the whole batch, however often it takes.
    pub(crate) fn push(&mut self, side: usize, batch: &mut VecDeque<TxPacket>) -> Outcome {
        for _ in 0..PATIENCE {
            let before = batch.len();
            let taken = self.driver(side).tx_burst(batch);
            must!(before - batch.len() == taken, "tx_burst took {} and says {taken}", before - batch.len());
            if batch.is_empty() {
                return Ok(());
            }
            self.rig.step();
        }
        Err(Stop::Wrong(format!("side {side} does not take {} datagrams", batch.len())))
    }

    pub(crate) fn send(&mut self, side: usize, payloads: &[Vec<u8>]) -> Outcome {
        for payload in payloads {
            let mut batch = VecDeque::from([self.built(side, payload)?]);
            self.push(side, &mut batch)?;
        }
        Ok(())
    }

    /// What is there, up to `max`. As in a round, what is done with comes home first.
    pub(crate) fn receive(&mut self, side: usize, max: usize) -> Vec<Got> {
        let mut out = Vec::new();
        self.driver(side).reap();
        self.driver(side).rx_burst(&mut out, max);
        if side == 1 && self.is_lost {
            out.clear();
        }
        out.into_iter().map(|RxPacket { meta, frame, range }| Got { meta, payload: frame.share(range) }).collect()
    }

    /// From now on all that side 0 sends is lost, or nothing. Where the wire does not do it, the receiver does: to the sender it is the
    /// same.
    pub(crate) fn lose(&mut self, everything: bool) {
        self.is_lost = !self.rig.lose(everything) && everything;
    }

    /// At least `count` datagrams, when they have come.
    pub(crate) fn await_some(&mut self, side: usize, count: usize) -> Result<Vec<Got>, Stop> {
        let mut got = Vec::new();
        for _ in 0..PATIENCE {
            got.extend(self.receive(side, 256));
            if got.len() >= count {
                return Ok(got);
            }
            self.rig.step();
        }
        Err(Stop::Wrong(format!(
            "{} of {count} datagrams came to side {side}; drops {:?}",
            got.len(),
            self.drops(side)
        )))
    }

    /// Sends each payload and waits until exactly that has come.
    pub(crate) fn exchange(&mut self, side: usize, payloads: &[Vec<u8>]) -> Outcome {
        for sent in payloads {
            self.send(side, std::slice::from_ref(sent))?;
            let got = self.await_some(1 - side, 1)?;
            must!(got.len() == 1, "{} datagrams came instead of one", got.len());
            must!(
                got[0].bytes() == *sent,
                "{} bytes came, and not those {} that were sent",
                got[0].bytes().len(),
                sent.len()
            );
        }
        Ok(())
    }

    /// That nothing comes to `side` in a while.
    pub(crate) fn silent(&mut self, side: usize) -> Outcome {
        for _ in 0..200 {
            let got = self.receive(side, 256);
            must!(got.is_empty(), "{} bytes came that should not", got[0].bytes().len());
            self.rig.step();
        }
        Ok(())
    }

    /// That every frame comes home.
    pub(crate) fn all_home(mut self) -> Outcome {
        for _ in 0..PATIENCE {
            self.receive(0, 256);
            self.receive(1, 256);
            self.rig.give_back();
            self.rig.step();
            if [0, 1].map(|side| self.rig.free_frames(side)) == self.free {
                return Ok(());
            }
        }
        let left = [0, 1].map(|side| self.rig.free_frames(side));
        Err(Stop::Wrong(format!("{left:?} frames are free, {:?} were in the beginning", self.free)))
    }
}
