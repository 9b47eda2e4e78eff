//! What an engine may spend, by counts: heap allocations, work per round, memory per idle flow.
#![allow(clippy::print_stderr, reason = "tests")]

mod counting;
mod wire;

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use machnet_channel::{Accepted, Backlog, BacklogConsumer, FlowState, Mailbox, RecvEnd, SendEnd};
use machnet_core::{Config, Congestion};

use wire::Pair;

const PORT: u16 = 7000;

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn listen(pair: &mut Pair) -> BacklogConsumer {
    let mut listener = Backlog::listen(&pair.hosts[1].intake, PORT, u32::MAX);
    pair.until(|_| listener.poll_opened(&context()).is_ready());
    listener
}

fn accept(pair: &mut Pair, listener: &mut BacklogConsumer) -> Accepted {
    let mut accepted = None;
    pair.until(|_| match listener.poll_accept(&context()) {
        Poll::Ready(flow) => {
            accepted = flow;
            true
        }
        Poll::Pending => false,
    });
    accepted.unwrap()
}

/// An open flow: both ends of both sides.
fn open(pair: &mut Pair, listener: &mut BacklogConsumer) -> [(SendEnd, RecvEnd); 2] {
    let to = SocketAddr::from(([10, 0, 0, 2], PORT));
    let (send, recv) = Mailbox::connect(&pair.hosts[0].intake, to);
    pair.until(|_| send.mailbox().state().has(FlowState::OPEN));
    let accepted = accept(pair, listener);
    [(send, recv), (accepted.send, accepted.recv)]
}

/// Fills what room there is with messages of the sizes that `size` draws.
fn post(send: &mut SendEnd, content: &Bytes, mut size: impl FnMut() -> usize) -> u64 {
    let mut posted = 0;
    while send.has_room() {
        send.post(content.slice(..size()).into()).unwrap();
        posted += 1;
    }
    posted
}

fn drain(recv: &mut RecvEnd) -> u64 {
    std::iter::from_fn(|| recv.take()).count() as u64
}

/// A million packets, messages of 64 B to 1 MiB both ways, in pieces and not, one packet of a hundred lost: once every queue has the size
/// it needs, an engine allocates nothing.
#[test]
fn an_engine_does_not_allocate() {
    const PACKETS: u64 = 1_000_000;
    let mut config = Config::default();
    config.max_message = 1 << 20;
    // The wire holds what all windows together let underway: in the beginning nothing is lost, so that each is full once.
    config.receive_window = 1 << 20;
    config.send_buffer = 1 << 20;
    // As much as they let: else a queue is longest when a controller has once found its path wider than ever before.
    config.congestion = Some(Congestion::Fixed { bytes: 1 << 20 });
    let mut pair = Pair::new(config, 0);
    let mut listener = listen(&mut pair);
    let mut flows: Vec<_> = (0..4).map(|_| open(&mut pair, &mut listener)).collect();
    // Half of them leave long messages in their packets.
    flows.iter_mut().take(2).flatten().for_each(|(_, recv)| recv.want_chunks());
    let content = Bytes::from(vec![7; 1 << 20]);
    let mut random = 1_u64;
    // Two to the power of what is drawn, each as likely as any other.
    let mut size = |powers: std::ops::Range<u64>| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        1_usize << (powers.start + (random >> 33) % (powers.end - powers.start))
    };
    let mut run = |pair: &mut Pair, loss: u64, powers: std::ops::Range<u64>, packets: u64| {
        for host in &mut pair.hosts {
            host.engine.driver_mut().loss = loss;
        }
        let sent = |pair: &Pair| pair.hosts.iter().map(|host| host.stats().packets_sent).sum::<u64>();
        let end = sent(pair) + packets;
        let mut received = 0;
        while sent(pair) < end {
            for (send, recv) in flows.iter_mut().flatten() {
                post(send, &content, || size(powers.clone()));
                received += drain(recv);
            }
            pair.round();
        }
        received
    };
    // The queues are longest with the smallest messages and the largest windows, the unit sets with the largest.
    run(&mut pair, 0, 6..7, 600_000);
    run(&mut pair, 50, 6..7, 100_000);
    run(&mut pair, 0, 20..21, 100_000);
    run(&mut pair, 50, 12..21, 200_000);
    run(&mut pair, 100, 6..21, 1_500_000);
    let counters = |pair: &Pair| {
        let lost: u64 = pair.hosts.iter().map(|host| host.stats().packets_lost).sum();
        (pair.hosts.each_ref().map(|host| host.allocations), lost)
    };
    let before = counters(&pair);
    let received = run(&mut pair, 100, 6..21, PACKETS);
    let after = counters(&pair);
    println!("{received} messages received, {} packets lost; allocations {:?}, then {:?}", after.1, before.0, after.0);
    assert!(received > 1000 && after.1 - before.1 > PACKETS / 200);
    for host in &pair.hosts {
        let stats = host.stats();
        assert!(stats.chained > 1000, "{} stayed in their packets, {} did not", stats.chained, stats.unchained);
    }
    assert_eq!(before.0, after.0);
}

/// However much there is to do, a round does a bounded part of it.
#[test]
fn a_round_is_bounded() {
    const FLOWS: usize = 2_000;
    // What a round receives and sends at most (`docs/spec/flow.md#limits`).
    const PACKETS: u64 = 256;
    let mut pair = Pair::new(Config::default(), 0);
    let mut listener = listen(&mut pair);
    let mut flows: Vec<_> = (0..FLOWS).map(|_| open(&mut pair, &mut listener)).collect();
    let content = Bytes::from(vec![7; 5000]);
    // A flood: every flow has more to send than a round takes, and hints at it.
    for (send, _) in flows.iter_mut().flatten() {
        (0..20).for_each(|_| send.post(content.clone().into()).unwrap());
    }
    let mut received = 0;
    let mut rounds = 0;
    while received < 2 * FLOWS as u64 * 20 {
        let before = pair.hosts.each_ref().map(|host| host.stats());
        pair.round();
        rounds += 1;
        for (host, before) in pair.hosts.iter().zip(before) {
            let stats = host.stats();
            assert!(stats.packets_received - before.packets_received <= PACKETS);
            // Answers to handshakes and RESETs come on top, at most as many again.
            assert!(stats.packets_sent - before.packets_sent <= PACKETS);
        }
        received += flows.iter_mut().flatten().map(|(_, recv)| drain(recv)).sum::<u64>();
        assert!(rounds < 1_000_000);
    }
    for host in &pair.hosts {
        assert!(host.engine.driver().largest_rx <= PACKETS as usize);
    }
    // Nothing but hints, again and again: each round looks at a bounded number of flows, and no flow is forgotten.
    for (send, _) in flows.iter_mut().flatten() {
        send.post(Bytes::from_static(b"x").into()).unwrap();
    }
    let mut looked_at = 0;
    while looked_at < 2 * FLOWS as u64 {
        let before = pair.hosts.each_ref().map(|host| host.stats().packets_sent);
        pair.round();
        for (host, before) in pair.hosts.iter().zip(before) {
            assert!(host.stats().packets_sent - before <= PACKETS);
        }
        looked_at += flows.iter_mut().flatten().map(|(_, recv)| drain(recv)).sum::<u64>();
    }
}

/// What a round looks at, receives and sends is bounded by what who runs the engine asked for.
#[test]
fn a_round_is_as_short_as_asked_for() {
    const FLOWS: u64 = 1000;
    for burst in [1, 16, 256] {
        let mut config = Config::default();
        config.max_half_open = 2 * FLOWS as u32;
        let mut pair = Pair::new(config, 0);
        let _listener = listen(&mut pair);
        for host in &mut pair.hosts {
            host.engine.set_burst(burst);
        }
        let bound = burst as u64;
        // A hint each: a round meets so many new flows, and builds so many packets of theirs.
        let to = SocketAddr::from(([10, 0, 0, 2], PORT));
        let flows: Vec<_> = (0..FLOWS).map(|_| Mailbox::connect(&pair.hosts[0].intake, to)).collect();
        let mut rounds = 0;
        while !flows.iter().all(|(send, _)| send.mailbox().state().has(FlowState::OPEN)) {
            let before = pair.hosts.each_ref().map(|host| host.stats());
            pair.round();
            rounds += 1;
            for (host, before) in pair.hosts.iter().zip(before) {
                let stats = host.stats();
                assert!(stats.flows - before.flows <= bound, "{} new flows", stats.flows - before.flows);
                assert!(stats.packets_received - before.packets_received <= bound);
                // Handshakes are answered beside what flows send.
                assert!(stats.packets_sent - before.packets_sent <= 2 * bound);
            }
        }
        assert!(rounds >= FLOWS / bound);
        for host in &pair.hosts {
            assert!(host.engine.driver().largest_rx <= burst);
        }
        // Their timers are due at one moment: what idle flows give back, and other things, in several rounds.
        pair.now += Duration::from_millis(500);
        let (progress, mut rounds) = (pair.hosts[0].engine.poll(pair.now), 1);
        let mut busy = progress.busy;
        while busy {
            busy = pair.hosts[0].engine.poll(pair.now).busy;
            rounds += 1;
        }
        // Some were due before.
        assert!(rounds >= FLOWS / bound / 2, "{rounds} rounds for {FLOWS} timers");
    }
}

/// Allocated bytes per idle flow that was used, engine and mailbox of both hosts together.
#[test]
fn memory_of_idle_flows() {
    const FLOWS: usize = 10_000;
    let mut pair = Pair::new(Config::default(), 0);
    let mut listener = listen(&mut pair);
    let mut flows = Vec::with_capacity(2 * FLOWS);
    let mut grow = |pair: &mut Pair, count: usize| {
        for _ in 0..count {
            let mut flow = open(pair, &mut listener);
            for from in [0, 1] {
                flow[from].0.post(vec![1; 100].into()).unwrap();
                pair.until(|_| drain(&mut flow[1 - from].1) > 0);
            }
            flows.push(flow);
        }
        let idle = pair.now + Duration::from_secs(5);
        pair.until(|pair| pair.now >= idle);
    };
    grow(&mut pair, FLOWS);
    let before = counting::live();
    grow(&mut pair, FLOWS);
    let per_flow = (counting::live() - before) as u64 / FLOWS as u64 / 2;
    println!("{per_flow} bytes allocated per idle flow and host");
    assert!(per_flow <= 2048);
}
