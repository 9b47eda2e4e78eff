//! `dpdk+raw://`: bare Ethernet frames between two DPDK ports, as long as Machnet's with the same payload: what a wire can do.
//!
//! The port is the driver's own, a [`FrameDriver`], polled by a plain loop: no engine, no runtime, nothing that repeats what is
//! lost; that is counted, and no error. A server returns requests in the frames they came in; a client writes every byte of each
//! request.
//!
//! ```text
//!   client ── HELLO, to all ─▶ server       client ── ECHO ─▶ server       client ── SINK … SINK ─▶ server
//!          ◀── HELLO ─────────                     ◀── ECHO ──                    ── COUNT ───────▶
//!          ── BYE ───────────▶ and back                                           ◀── COUNT: so many
//! ```

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use machnet::dpdk::Port;
use machnet_core::net::{FrameDriver, MacAddr, RxFrame, TxFrame, UdpChecksum};

use super::control::Mode;
use super::recorder::Recorder;
use super::window::Sent;
use crate::args::Limit;
use crate::wire::Url;

/// What a frame of Machnet's has around a message that it carries alone: Ethernet 14, IPv4 20, UDP 8, DATA 24, an acknowledgement
/// 12, MESSAGE 8 (`docs/spec/wire.md`).
const HEADERS: usize = 86;
/// An EtherType for experiments (IEEE 802, local experimental 1): no kernel answers it.
const TYPE: [u8; 2] = [0x88, 0xb5];
/// Where the kind of a frame is, and the number behind it.
const KIND: usize = 14;
const NUMBER: std::ops::Range<usize> = 16..24;

const HELLO: u8 = 1;
const ECHO: u8 = 2;
const SINK: u8 = 3;
const COUNT: u8 = 4;
const BYE: u8 = 5;

/// Frames built, received or sent at once.
const BURST: usize = 32;
/// Replies that a device has not taken.
const UNTAKEN: usize = 1024;
/// Between two questions of the same.
const AGAIN: Duration = Duration::from_millis(20);
/// After so long without a reply what is underway is lost: longer than a busy machine keeps a process waiting.
const LOST: Duration = Duration::from_millis(200);

/// A port and what is to be sent from it.
struct Raw {
    port: Port,
    mac: MacAddr,
    batch: VecDeque<TxFrame>,
    received: Vec<RxFrame>,
}

impl Raw {
    fn open(url: &Url) -> anyhow::Result<Self> {
        let mut ports = url.port()?.0.port().open()?.split(1)?;
        let port = ports.pop().context("a port for one is none")?;
        let mac = port.capabilities().mac;
        Ok(Self { port, mac, batch: VecDeque::new(), received: Vec::new() })
    }

    /// A frame of `len` bytes, its payload copied from `payload`.
    fn build(&mut self, to: MacAddr, kind: u8, number: u64, len: usize, payload: &[u8]) -> bool {
        let start = self.port.capabilities().headroom as usize;
        let Some(mut frame) = self.port.frame() else { return false };
        let Some(bytes) = frame.bytes_mut().and_then(|all| all.get_mut(start..start + len)) else { return false };
        bytes[..6].copy_from_slice(&to.0);
        bytes[6..12].copy_from_slice(&self.mac.0);
        bytes[12..14].copy_from_slice(&TYPE);
        bytes[KIND] = kind;
        bytes[NUMBER].copy_from_slice(&number.to_be_bytes());
        let payload = &payload[..payload.len().min(len.saturating_sub(HEADERS))];
        bytes[len - payload.len()..].copy_from_slice(payload);
        let bytes = frame.share(start as u32..(start + len) as u32);
        self.batch.push_back(TxFrame { bytes, checksum: UdpChecksum::Done, tail: None, queue: 0 });
        true
    }

    /// Sends what the device takes, and receives into `received`, which is empty but for frames of ours.
    fn poll(&mut self) {
        if !self.batch.is_empty() {
            self.port.tx_burst(&mut self.batch);
        }
        self.port.reap();
        self.received.clear();
        self.port.rx_burst(&mut self.received, BURST);
        self.received.retain(|frame| bytes(frame).len() >= NUMBER.end && bytes(frame)[12..14] == TYPE);
    }

    /// Asks until `kind` is answered; returns who answered, and the number he said.
    fn ask(&mut self, to: MacAddr, kind: u8, timeout: Duration) -> anyhow::Result<(MacAddr, u64)> {
        let (began, mut asked) = (Instant::now(), None);
        while began.elapsed() < timeout {
            if self.port.is_up() && asked.is_none_or(|at: Instant| at.elapsed() > AGAIN) {
                asked = Some(Instant::now());
                self.build(to, kind, 0, HEADERS, &[]);
            }
            self.poll();
            if let Some(answer) = self.received.iter().map(bytes).find(|bytes| bytes[KIND] == kind) {
                return Ok((source(answer), number(answer)));
            }
            std::thread::yield_now();
        }
        bail!("no answer within {:.1} s", timeout.as_secs_f64())
    }

    /// Sends what is left, for as long as a wire needs that works.
    fn flush(&mut self) {
        let began = Instant::now();
        while !self.batch.is_empty() && began.elapsed() < LOST {
            self.poll();
        }
    }
}

fn bytes(frame: &RxFrame) -> &[u8] {
    frame.frame.bytes().get(frame.range.start as usize..frame.range.end as usize).unwrap_or_default()
}

fn source(bytes: &[u8]) -> MacAddr {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[6..12]);
    MacAddr(mac)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.get(NUMBER).and_then(|at| at.first_chunk()).map_or(0, |&at| u64::from_be_bytes(at))
}

/// Answers one client after the other; after one, if `once`.
pub(super) fn serve(url: &Url, once: bool) -> anyhow::Result<()> {
    let mut raw = Raw::open(url).with_context(|| format!("cannot listen at {url}"))?;
    writeln!(io::stdout(), "listening on {url}")?;
    io::stdout().flush()?;
    let (mut count, mut ends) = (0_u64, false);
    while !ends {
        raw.poll();
        for RxFrame { mut frame, range, .. } in std::mem::take(&mut raw.received) {
            let Some(bytes) = frame.bytes_mut().and_then(|all| all.get_mut(range.start as usize..range.end as usize))
            else {
                continue;
            };
            match bytes[KIND] {
                SINK => {
                    count += 1;
                    continue;
                }
                COUNT => bytes[NUMBER].copy_from_slice(&count.to_be_bytes()),
                HELLO => count = 0,
                ECHO => {}
                BYE => ends = once,
                _ => continue,
            }
            bytes.copy_within(6..12, 0);
            bytes[6..12].copy_from_slice(&raw.mac.0);
            if raw.batch.len() >= UNTAKEN {
                // Its client is gone.
                raw.batch.clear();
            }
            raw.batch.push_back(TxFrame {
                bytes: frame.share(range),
                checksum: UdpChecksum::Done,
                tail: None,
                queue: 0,
            });
        }
    }
    raw.flush();
    Ok(())
}

/// What a client does.
pub(super) struct Load<'a> {
    pub(super) url: &'a Url,
    pub(super) mode: Mode,
    pub(super) size: usize,
    pub(super) outstanding: usize,
    pub(super) timeout: Duration,
}

/// What a client found.
pub(super) struct Measured {
    pub(super) recorder: Recorder,
    pub(super) took: Duration,
    /// Frames that did not arrive, or whose replies did not.
    pub(super) lost: u64,
}

/// Warms up and measures.
pub(super) fn measure(load: &Load<'_>, warmup: Limit, limit: Limit) -> anyhow::Result<Measured> {
    let mut raw = Raw::open(load.url)?;
    let longest = raw.port.capabilities().mtu as usize + 14;
    let len = load.size + HEADERS;
    ensure!(len <= longest, "--size {}: a frame of {len} bytes, and the port takes {longest} at most", load.size);
    let (server, _) = raw.ask(MacAddr::BROADCAST, HELLO, load.timeout).context("nobody is there")?;
    let payload: Vec<u8> = (0..load.size).map(|i| (i % 251) as u8).collect();
    let mut run = |limit| {
        let (recorder, began) = (Recorder::new(), Instant::now());
        let lost = match load.mode {
            Mode::Rr => raw.round_trips(server, load, &payload, limit, &recorder),
            Mode::Stream => raw.one_way(server, load, &payload, limit, &recorder)?,
            Mode::Connect | Mode::Idle => bail!("bare frames have no flows: --mode rr and stream can be measured"),
        };
        Ok(Measured { recorder, took: began.elapsed(), lost })
    };
    run(warmup)?;
    let measured = run(limit)?;
    // What was measured stands, whether or not the server hears that it is over.
    let _ = raw.ask(server, BYE, Duration::from_secs(1));
    Ok(measured)
}

/// Whether something that began at `began` and was done `count` times is over.
fn is_over(limit: Limit, began: Instant, now: Instant, count: u64) -> bool {
    match limit {
        Limit::Time(time) => now.duration_since(began) >= time,
        Limit::Count(all) => count >= all,
    }
}

impl Raw {
    fn round_trips(
        &mut self,
        server: MacAddr,
        load: &Load<'_>,
        payload: &[u8],
        limit: Limit,
        recorder: &Recorder,
    ) -> u64 {
        let began = Instant::now();
        let mut lost = 0;
        let (mut sent, mut underway) = (0_u64, VecDeque::<(u64, Instant)>::new());
        let mut now = began;
        let mut heard = began;
        loop {
            let over = is_over(limit, began, now, sent);
            while !over && underway.len() < load.outstanding && !is_over(limit, began, began, sent) {
                if !self.build(server, ECHO, sent, load.size + HEADERS, payload) {
                    break;
                }
                underway.push_back((sent, now));
                sent += 1;
            }
            if underway.is_empty() {
                return lost;
            }
            self.poll();
            now = Instant::now();
            for reply in self.received.iter().map(bytes).filter(|bytes| bytes[KIND] == ECHO) {
                heard = now;
                let number = number(reply);
                // They come in order: what is older was lost. A reply to what was given up is none.
                while let Some(&(sent, at)) = underway.front().filter(|(sent, _)| *sent <= number) {
                    underway.pop_front();
                    if sent == number {
                        recorder.done(Sent { due: at, at }, now);
                    } else {
                        lost += 1;
                    }
                }
            }
            if now.duration_since(heard) > LOST {
                lost += underway.len() as u64;
                underway.clear();
                heard = now;
            }
        }
    }

    fn one_way(
        &mut self,
        server: MacAddr,
        load: &Load<'_>,
        payload: &[u8],
        limit: Limit,
        recorder: &Recorder,
    ) -> anyhow::Result<u64> {
        let (_, before) = self.ask(server, COUNT, load.timeout).context("the server is gone")?;
        let (began, mut sent) = (Instant::now(), 0_u64);
        while !is_over(limit, began, Instant::now(), sent) {
            while self.batch.len() < BURST && self.build(server, SINK, sent, load.size + HEADERS, payload) {
                sent += 1;
            }
            self.poll();
        }
        self.flush();
        sent -= self.batch.len() as u64;
        self.batch.clear();
        let (_, after) = self.ask(server, COUNT, load.timeout).context("the server is gone")?;
        recorder.count(after - before);
        Ok(sent.saturating_sub(after - before))
    }
}
