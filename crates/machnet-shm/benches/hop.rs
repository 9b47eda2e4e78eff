//! What a wire costs, without an engine: datagrams sent and received by one thread, and there and back between two.
#![allow(missing_docs, reason = "criterion's macros")]

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use machnet_core::{Driver, Meta, RxPacket, TxPacket};
use machnet_shm::Shm;

/// A small message, one of 1 KiB, the longest; each with headers.
const LENGTHS: [usize; 3] = [96, 1100, 16_640];
const BURST: usize = 32;

struct End {
    shm: Shm,
    peer: SocketAddr,
    batch: VecDeque<TxPacket>,
    received: Vec<RxPacket>,
}

impl End {
    fn new(shm: Shm, peer: SocketAddr) -> Self {
        Self { shm, peer, batch: VecDeque::new(), received: Vec::new() }
    }

    fn send(&mut self, len: usize, count: usize) {
        let meta = Meta { local: self.shm.home(), remote: self.peer, queue: 0 };
        for _ in 0..count {
            let frame = self.shm.frame().expect("frames");
            self.batch.push_back(TxPacket { meta, payload: frame.share(0..len as u32), tail: None });
        }
        self.shm.tx_burst(&mut self.batch);
    }

    /// Receives what is there; returns how many datagrams.
    fn receive(&mut self) -> usize {
        let count = self.shm.rx_burst(&mut self.received, 256);
        for packet in self.received.drain(..) {
            self.shm.recycle(packet.frame.share(packet.range));
        }
        count
    }
}

fn pair(name: &str) -> (End, End) {
    let name = format!("bench-{}-{name}", std::process::id());
    let hub = Shm::bind(&name).expect("a hub");
    let client = Shm::connect(&name).expect("a client");
    let (hub_at, client_at) = (hub.home(), client.home());
    let (mut hub, client) = (End::new(hub, client_at), End::new(client, hub_at));
    while hub.shm.stats().wires == 0 {
        hub.receive();
    }
    (hub, client)
}

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shm/one_thread");
    for len in LENGTHS {
        let (mut hub, mut client) = pair("one");
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| {
                client.send(len, BURST);
                assert_eq!(hub.receive(), BURST);
            });
        });
    }
}

fn there_and_back(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shm/there_and_back");
    for len in LENGTHS {
        let (mut hub, mut client) = pair("two");
        let done = Arc::new(AtomicBool::new(false));
        let echo = {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                while !done.load(Relaxed) {
                    match hub.receive() {
                        0 => spin_loop(),
                        count => hub.send(len, count),
                    }
                }
            })
        };
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| {
                client.send(len, 1);
                while client.receive() == 0 {
                    spin_loop();
                }
            });
        });
        done.store(true, Relaxed);
        echo.join().expect("the echo");
    }
}

criterion_group!(benches, one_thread, there_and_back);
criterion_main!(benches);
