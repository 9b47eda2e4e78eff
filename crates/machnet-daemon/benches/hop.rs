//! The price of the sidecar's hop: round trips of one thread with itself, through an engine in its own process and
//! through one in a daemon, over shared memory.
//!
//! Both engines spin on core 1, the thread on core 0, and the hairpin stands in both places of the network: so a round trip is
//! four passages between thread and engine, and all else is equal. A quarter of the difference is what a passage through
//! shared memory costs more than one through a mailbox.
#![allow(missing_docs, reason = "criterion's macros")]

use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use machnet_async::{Endpoint, Flow, IdlePolicy, Message, Udp};
use machnet_core::Hairpin;
use machnet_daemon::{Allowance, Daemon, Settings};
use rustix::thread::{CpuSet, sched_setaffinity};

const SIZES: [usize; 3] = [64, 1 << 10, 16 << 10];
const THREAD: usize = 0;
const ENGINE: usize = 1;

/// Polls `future` until it is ready: what is measured never sleeps.
fn spin<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return done;
        }
        std::hint::spin_loop();
    }
}

fn driver() -> Hairpin<Udp> {
    let home: IpAddr = Ipv4Addr::LOCALHOST.into();
    Hairpin::shared(Udp::bind((home, 0)).expect("a socket"), vec![home])
}

/// Both ends of a flow of an endpoint with itself.
fn flow(endpoint: &Endpoint) -> (Flow, Flow) {
    let mut listener = spin(endpoint.listen(0)).expect("a listener");
    let near = spin(endpoint.connect(listener.local_addr())).expect("a flow");
    let (far, _) = spin(listener.accept()).expect("its other end");
    (near, far)
}

fn round_trips(criterion: &mut Criterion, name: &str, endpoint: &Endpoint) {
    let mut group = criterion.benchmark_group(format!("hop/{name}"));
    let (mut near, mut far) = flow(endpoint);
    for size in SIZES {
        let message = Message::from(vec![7; size]);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                spin(near.send(message.clone())).expect("sent");
                let there = spin(far.recv()).expect("received").expect("a message");
                spin(far.send(there)).expect("sent back");
                spin(near.recv()).expect("received").expect("a message")
            });
        });
    }
}

fn hops(criterion: &mut Criterion) {
    let mut only = CpuSet::new();
    only.set(THREAD);
    sched_setaffinity(None, &only).expect("this thread's core");

    let builder = Endpoint::builder().driver(driver()).idle(IdlePolicy::Spin).pin_to_core(ENGINE);
    let endpoint = builder.start().expect("an engine in this process");
    round_trips(criterion, "in_process", &endpoint);
    spin(endpoint.shutdown()).expect("the end");

    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = Settings::new(folder.path().join("machnet.sock"), vec![Allowance::everybody()]);
    (settings.idle, settings.cores) = (IdlePolicy::Spin, vec![ENGINE]);
    let daemon = Daemon::start(driver(), settings).expect("a daemon");
    let endpoint = Endpoint::attach(daemon.socket()).expect("attached");
    round_trips(criterion, "sidecar", &endpoint);
    drop(endpoint);
    drop(daemon);
}

criterion_group!(benches, hops);
criterion_main!(benches);
