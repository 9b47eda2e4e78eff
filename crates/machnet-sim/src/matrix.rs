//! Loss × round-trip time × message size: what one flow makes of it, as a table that is compared to the committed one.
//!
//! Each cell is two worlds. In the first, messages follow each other without pause: goodput, and how many bytes of
//! messages were sent beyond those that are needed. In the second, a call of that size with a reply of 64 bytes follows
//! the other: latencies. A cell depends on nothing but its parameters, so the table changes when behaviour does.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use machnet_core::Config;

use crate::setup::{PORT, nic, seconds};
use crate::workload::{message, verify};
use crate::{Calls, Chunk, Latencies, Link, NicConfig, Pair, Seen, Trouble, Verdict, World, WorldConfig};

const LOSSES: [f64; 5] = [0.0, 0.001, 0.01, 0.05, 0.1];
const RTTS: [Duration; 4] =
    [Duration::from_micros(10), Duration::from_micros(100), Duration::from_millis(1), Duration::from_millis(20)];

/// A row of the table's third axis.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    bytes: usize,
    /// Messages without pause, and calls.
    messages: usize,
    calls: usize,
}

const SIZES: [Size; 4] = [
    Size { name: "64 B", bytes: 64, messages: 150_000, calls: 1000 },
    Size { name: "1 KiB", bytes: 1 << 10, messages: 20_000, calls: 1000 },
    Size { name: "64 KiB", bytes: 64 << 10, messages: 500, calls: 200 },
    Size { name: "8 MiB", bytes: 8 << 20, messages: 8, calls: 10 },
];

/// Of every link.
const RATE: u64 = 10_000_000_000;
const QUEUE: u64 = 256 << 10;

/// After so much virtual time a world is measured as it is.
const LIMIT: Duration = seconds(200);

#[derive(Clone, Copy, Default)]
struct Measured {
    /// Bits per second.
    goodput: f64,
    /// Bytes of messages sent again, as a share of those sent first.
    again: f64,
    /// Of the calls; nothing if they did not end in time.
    latencies: Option<[Duration; 2]>,
}

/// The whole table in Markdown, computed on every core. `done` is called after each of the [`CELLS`].
#[must_use]
pub fn matrix(done: impl Fn() + Sync) -> String {
    let cells: Vec<_> = cells().collect();
    let results = Mutex::new(vec![Measured::default(); cells.len()]);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(&(size, rtt, loss)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let measured = cell(size, rtt, loss);
                    let at =
                        cells.iter().position(|cell| cell.0.bytes == size.bytes && (cell.1, cell.2) == (rtt, loss));
                    results.lock().expect("nobody panics while holding it")[at.expect("a cell")] = measured;
                    done();
                }
            });
        }
    });
    table(&results.into_inner().expect("nobody panicked while holding it"))
}

/// How many cells the matrix has.
pub const CELLS: u64 = (LOSSES.len() * RTTS.len() * SIZES.len()) as u64;

fn cells() -> impl Iterator<Item = (Size, Duration, f64)> {
    SIZES.into_iter().flat_map(|size| RTTS.into_iter().flat_map(move |rtt| LOSSES.map(|loss| (size, rtt, loss))))
}

fn table(results: &[Measured]) -> String {
    let mut text = format!(
        "# What one flow makes of loss, distance and size\n\n\
         Written by `cargo xtask sim --matrix --write`, compared by `--matrix --check`; do not edit. Two machines in the\n\
         simulator, {} Gbit/s, a queue of {} KiB, losses independent and in both directions. Goodput: messages without\n\
         pause. Sent again: bytes of messages beyond those needed. p50, p99: calls of the size with a reply of 64 B, one\n\
         after the other; empty if that takes over 400 s.\n",
        RATE / 1_000_000_000,
        QUEUE >> 10
    );
    let mut results = results.iter();
    for size in SIZES {
        let _ = write!(text, "\n## {}: {} messages, {} calls\n\n", size.name, size.messages, size.calls);
        text += "| RTT | loss | goodput, Mbit/s | sent again | p50, µs | p99, µs |\n|---|---|---:|---:|---:|---:|\n";
        for rtt in RTTS {
            for (loss, measured) in LOSSES.iter().zip(&mut results) {
                let Measured { goodput, again, latencies } = measured;
                let micros = |latency: Duration| format!("{:.1}", latency.as_secs_f64() * 1e6);
                let [p50, p99] = latencies.map_or([const { String::new() }; 2], |both| both.map(micros));
                let (loss, goodput, again) = (100.0 * loss, goodput / 1e6, 100.0 * again);
                let _ = writeln!(text, "| {rtt:?} | {loss:.1} % | {goodput:.1} | {again:.2} % | {p50} | {p99} |");
            }
        }
    }
    text
}

fn cell(size: Size, rtt: Duration, loss: f64) -> Measured {
    let (goodput, again) = stream(pair(rtt, loss), size);
    let latencies = calls(pair(rtt, loss), size);
    Measured { goodput, again, latencies: latencies.map(|all| [0.5, 0.99].map(|q| all.quantile(q))) }
}

fn pair(rtt: Duration, loss: f64) -> Pair {
    let link = Link { loss, ..Link::with_rate(RATE, rtt / 2, QUEUE) };
    let costs = WorldConfig {
        poll_cost: Duration::from_nanos(500),
        packet_cost: Duration::from_nanos(150),
        ..WorldConfig::default()
    };
    let mut config = Config::default();
    config.max_message = 8 << 20;
    config.reassembly_bytes = 128 << 20;
    let nic = NicConfig { frames: 4096, ..nic() };
    Pair::in_world(World::new(1, costs), &link, [nic; 2], [config; 2])
}

/// Goodput, and the share of bytes sent again.
fn stream(mut pair: Pair, size: Size) -> (f64, f64) {
    let (mut a, mut b) = pair.open();
    let payload = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&payload);
    pair.world.fabric().filter(pair.there, move |seen| {
        if let Seen::Data(chunks) = Seen::read(seen.payload) {
            let bytes = chunks.iter().map(|chunk| if let Chunk::Message { len, .. } = chunk { *len as u64 } else { 0 });
            count.fetch_add(bytes.sum(), Ordering::Relaxed);
        }
        Verdict::Pass
    });
    let start = pair.world.now();
    // Holds the flow's end: an application that leaves would give the rest 10 s.
    let _sender = pair.world.spawn("sender", async move {
        for index in 0..size.messages {
            a.send(message(1, index, size.bytes)).await.expect("an open flow");
        }
        a
    });
    let received = Rc::new(Cell::new(0));
    let count = Rc::clone(&received);
    let reader = pair.world.spawn("reader", async move {
        for index in 0..size.messages {
            let message = b.receive().await.expect("an open flow");
            verify(1, index, size.bytes, message.as_slice());
            count.set(index as u64 + 1);
        }
        b
    });
    tolerate(pair.world.wait(&reader, LIMIT));
    let took = pair.world.now().since(start);
    let bytes = received.get() * size.bytes as u64;
    let again = payload.load(Ordering::Relaxed).saturating_sub(bytes) as f64 / bytes.max(1) as f64;
    (bytes as f64 * 8.0 / took.as_secs_f64(), again)
}

fn calls(mut pair: Pair, size: Size) -> Option<Latencies> {
    let calls = Calls { request: size.bytes, ..Calls::of(64, size.calls) };
    let task = calls.start(&mut pair.world, [pair.a, pair.b], PORT, 2);
    tolerate(pair.world.wait(&task, LIMIT * 2))
}

/// The result, or nothing if time ran out.
fn tolerate<T>(result: Result<T, crate::Failure>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(failure) if failure.trouble == Trouble::OutOfTime => None,
        Err(failure) => panic!("{failure}"),
    }
}

/// The lines in which two texts differ, as `diff` shows them; empty if they do not. For tables: line by line.
#[must_use]
pub fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let mut text = String::new();
    for i in 0..old.len().max(new.len()) {
        let lines = (old.get(i), new.get(i));
        if lines.0 != lines.1 {
            for (sign, line) in [('-', lines.0), ('+', lines.1)] {
                if let Some(line) = line {
                    let _ = writeln!(text, "{sign}{line}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_repeats_and_differs_from_others() {
        let size = Size { messages: 500, calls: 50, ..SIZES[1] };
        let show = |loss| {
            let Measured { goodput, again, latencies } = cell(size, RTTS[1], loss);
            format!("{goodput} {again} {latencies:?}")
        };
        assert_eq!(show(0.01), show(0.01));
        assert_ne!(show(0.01), show(0.0));
    }

    #[test]
    fn differences_are_shown_line_by_line() {
        assert_eq!(difference("a\nb\nc\n", "a\nb\nc\n"), "");
        assert_eq!(difference("a\nb\nc\n", "a\nx\nc\nd\n"), "-b\n+x\n+d\n");
    }
}
