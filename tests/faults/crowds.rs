//! Many flows: open and idle, or coming and going.

use std::time::{Duration, Instant};

use crate::process::{LONG, descriptors, rss};
use crate::start;

/// What an idle flow may cost each host as resident memory, everything of it: engine, mailbox, the application's handle,
/// and what malloc loses. Frames are not among it: they are in use before the first measurement, and are not per flow.
const BYTES_PER_FLOW: u64 = 2048;

/// Chance only adds to it: what malloc loses, and what waits because a process lost its core. So the least of three measurements counts.
#[test]
fn idle_flows_cost_little() {
    let mut measured = Vec::new();
    for _ in 0..3 {
        measured.push(bytes_per_idle_flow());
        let least = |side: usize| measured.iter().map(|bytes| bytes[side]).min();
        if [least(0), least(1)].iter().all(|&bytes| bytes <= Some(BYTES_PER_FLOW)) {
            println!("bytes per idle flow: {measured:?}");
            return;
        }
    }
    panic!("bytes per idle flow: {measured:?}");
}

/// Of the client, and of the server.
fn bytes_per_idle_flow() -> [u64; 2] {
    const WARM: u64 = 2_000;
    const FLOWS: u64 = 100_000;
    let server = start("keep");
    let to = server.hear_address();
    let client = start(format_args!("crowd {to} {WARM} {FLOWS}"));
    assert_eq!(client.hear(), "warm");
    let before = [&client, &server].map(|process| rss(process.id()));
    assert_eq!(client.hear(), "open");
    // The queues of a flow go when it has been idle for a second.
    let deadline = Instant::now() + LONG / 6;
    loop {
        let mut after = [&client, &server].map(|process| rss(process.id())).into_iter().zip(before);
        let per_flow: [u64; 2] =
            std::array::from_fn(|_| after.next().map_or(0, |(now, before)| (now - before) / FLOWS));
        if per_flow.iter().all(|&bytes| bytes <= BYTES_PER_FLOW) || Instant::now() > deadline {
            return per_flow;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Ten thousand flows, opened and closed, again and again: neither side grows. What leaks grows each time; what malloc and the
/// pools of frames ever need, they need some time, and then no more.
#[test]
fn flows_that_come_and_go_leave_nothing() {
    const BATCHES: usize = 8;
    /// 50 B per flow.
    const SLACK: u64 = 512 << 10;
    let server = start("serve 127.0.0.1 0 2000");
    let to = server.hear_address();
    let client = start(format_args!("churn {to} 10000"));
    let measure = || [&client, &server].map(|process| (rss(process.id()), descriptors(process.id())));
    assert_eq!(client.hear(), "done");
    let first = measure();
    let mut before = first;
    let mut growths = [(); 2].map(|()| Vec::new());
    for _ in 0..BATCHES {
        assert_eq!(client.hear(), "done");
        let after = measure();
        for (growth, (before, after)) in growths.iter_mut().zip(before.iter().zip(after)) {
            growth.push(after.0.saturating_sub(before.0));
        }
        before = after;
        if growths.iter().all(|growth| growth.iter().any(|&bytes| bytes <= SLACK)) {
            break;
        }
    }
    println!("resident bytes more, for each ten thousand: {growths:?}");
    assert!(growths.iter().all(|growth| growth.iter().any(|&bytes| bytes <= SLACK)), "{growths:?}");
    assert_eq!(first.map(|(_, descriptors)| descriptors), before.map(|(_, descriptors)| descriptors));
}

/// A reader that stands still: its sender waits, both stay small, and the other flows of both endpoints go on.
#[test]
fn a_reader_that_stands_still_costs_its_windows() {
    // Send buffer, receive window, and the frames they lie in: 2 MiB each by default, once per flow.
    const GROWTH: u64 = 16 << 20;
    let server = start(format_args!("serve 127.0.0.1 0 {}", LONG.as_millis()));
    let to = server.hear_address();
    let client = start(format_args!("flood {to}"));
    assert_eq!(client.hear(), "warm");
    let measure = || [&client, &server].map(|process| rss(process.id()));
    let before = measure();
    // Which it says when nothing was taken for a while.
    assert!(client.hear().starts_with("blocked"));
    // Others are served, again and again.
    assert_eq!(client.hear(), "echoed");
    for (before, after) in before.into_iter().zip(measure()) {
        println!("resident bytes {before} -> {after}");
        assert!(after <= before + GROWTH, "resident bytes {before} -> {after}");
    }
}
