//! One scenario per bug that a review found.

use std::sync::{Arc, Mutex};

use machnet_channel::{CloseReason, FlowState};
use machnet_core::{Config, DropReason};
use machnet_sim::{Flow, Link, NicConfig, Verdict};

use crate::common::{Chunk, PORT, Pair, Seen, listen, micros, millis, pair, read, seconds, world_config};

/// The first message never arrives, its FIN does: that the flow is over must not make the loss look acknowledged.
#[test]
fn an_acknowledged_fin_does_not_hide_a_lost_message() {
    let mut pair = pair(1, &Link::with_delay(micros(50)));
    pair.world.fabric().filter(pair.there, |seen| {
        // And then nothing at all: while the peer answers, the flow goes on trying.
        let lost =
            seen.at.0 > 2_000_000_000 || read(seen.payload).has(|chunk| matches!(chunk, Chunk::Message { id: 0, .. }));
        if lost { Verdict::Drop } else { Verdict::Pass }
    });
    let (mut a, b) = pair.open();
    let sender = pair.world.spawn("a", async move {
        a.send(vec![1; 1100]).await.unwrap();
        a.send(vec![2; 1100]).await.unwrap();
        a.send.finish();
        let state = a.reaches(FlowState::CLOSED).await;
        (state, a.send.acknowledged(), a.send.posted())
    });
    let (state, acknowledged, posted) = pair.world.wait(&sender, seconds(20)).unwrap();
    assert_eq!(state.reason(), Some(CloseReason::PeerDead));
    assert!(!state.has(FlowState::FIN_ACKED), "{state:?}");
    assert!(acknowledged < posted, "{acknowledged} of {posted} units acknowledged");
    drop(b);
}

/// A peer that answers INIT to another port of ours must not make us close that port when the flow ends.
#[test]
fn an_accept_to_another_port_does_not_cost_that_port() {
    let mut pair = pair(2, &Link::with_delay(micros(20)));
    let _service = listen(&mut pair.world, pair.b, PORT, 8).unwrap();
    let mut mine = listen(&mut pair.world, pair.a, 7001, 8).unwrap();
    let (caught, accepts) = std::sync::mpsc::channel();
    pair.world.fabric().filter(pair.back, move |seen| {
        if read(seen.payload) == Seen::Accept {
            let _ = caught.send((seen.from, seen.payload.to_vec()));
            return Verdict::Drop;
        }
        Verdict::Pass
    });
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(PORT));
    let task = pair.world.spawn("connect", async move { node.connect(to).await.map(drop) });
    pair.world.run_for(millis(2)).unwrap();
    let (from, accept) = accepts.try_recv().unwrap();
    pair.world.fabric().filter(pair.back, |_| Verdict::Pass);
    let misled = pair.world.node(pair.a).at(7001);
    pair.world.fabric().inject(from, misled, &accept);
    let _ = pair.world.wait(&task, seconds(5)).unwrap();
    pair.world.run_for(seconds(20)).unwrap();
    // The listener on that port still listens.
    let (node, to) = (pair.world.node(pair.b), misled);
    let task = pair.world.spawn("connect", async move { node.connect(to).await.map(drop) });
    let accepted = pair.world.spawn("accept", async move { mine.accept().await.map(drop) });
    assert_eq!(pair.world.wait(&task, seconds(5)).unwrap(), Ok(()));
    assert_eq!(pair.world.wait(&accepted, seconds(5)).unwrap(), Some(()));
}

/// An INIT that waits for a full device must not keep the engine awake.
#[test]
fn a_full_device_lets_the_engine_sleep() {
    let stuck = NicConfig { tx_descriptors: 2, hold: seconds(1), ..NicConfig::default() };
    let mut config = Config::default();
    config.connect_timeout = seconds(10);
    let mut pair = Pair::with(3, &Link::default(), [stuck, NicConfig::default()], [config; 2], world_config());
    let _listener = pair.listen();
    let tasks: Vec<_> = (0..400)
        .map(|_| {
            let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(PORT));
            pair.world.spawn("connect", async move { node.connect(to).await.map(drop) })
        })
        .collect();
    let before = pair.world.rounds(pair.a);
    pair.world.run_for(millis(900)).unwrap();
    let rounds = pair.world.rounds(pair.a) - before;
    assert!(rounds < 20_000, "{rounds} rounds");
    drop(tasks);
    pair.world.cancel();
}

/// More numbers outstanding than the span allows, all acknowledged at once: sending must go on.
#[test]
fn a_full_span_of_numbers_empties_again() {
    let nic = NicConfig { frames: 65_536, rx_descriptors: u16::MAX, tx_descriptors: u16::MAX, ..NicConfig::default() };
    let link = Link { queue_packets: 1 << 20, ..Link::with_delay(millis(50)) };
    let mut pair = Pair::with(4, &link, [nic; 2], [Config::default(); 2], world_config());
    let (mut a, mut b) = pair.open();
    let reader = pair.world.spawn("b", async move {
        let mut count = 0;
        while b.receive().await.is_some() {
            count += 1;
        }
        count
    });
    let node = pair.world.node(pair.a);
    let writer = pair.world.spawn("a", async move {
        // Opens the window wide.
        for _ in 0..40 {
            a.send(vec![0; 1 << 20]).await.unwrap();
        }
        node.sleep(seconds(1)).await;
        // One packet each.
        for _ in 0..40_000 {
            a.send(&b""[..]).await.unwrap();
            node.sleep(micros(2)).await;
        }
        a.send.finish();
        a.reaches(FlowState::FIN_ACKED).await;
    });
    pair.world.wait(&writer, seconds(60)).unwrap();
    assert_eq!(pair.world.wait(&reader, seconds(60)).unwrap(), 40_040);
}

/// A RESET is never longer than what it answers, whatever version that claims.
#[test]
fn a_short_init_of_another_version_is_not_answered() {
    let mut pair = pair(5, &Link::default());
    let _listener = pair.listen();
    let (from, to) = (pair.world.node(pair.a).home(), pair.world.node(pair.b).at(PORT));
    let sent = pair.world.driver(pair.b).nic_stats().sent;
    for len in [16, 20, 35, 36, 39, 40, 1231, 1232] {
        let mut init = vec![0; len];
        init[0] = 2 << 4 | 1;
        pair.world.fabric().inject(from, to, &init);
        pair.world.run_for(millis(20)).unwrap();
        let answers = pair.world.driver(pair.b).nic_stats().sent - sent;
        assert!(len >= 40 || answers == 0, "{len} bytes were answered");
    }
    assert_eq!(pair.world.stats(pair.b).drops.get(DropReason::Version), 8);
}

/// True if the DATA packet has a chunk of this type (`docs/spec/wire.md#chunks`).
fn has_chunk(packet: &[u8], kind: u8) -> bool {
    let mut at = 24;
    for _ in 0..packet[1] & 3 {
        at += 12 + 8 * usize::from(packet[at + 7]);
    }
    while at < packet.len() {
        if packet[at] >> 4 == kind {
            return true;
        }
        at += 4 + usize::from(u16::from_be_bytes([packet[at + 2], packet[at + 3]]));
    }
    false
}

/// The first BLOCKED is acknowledged only after the second was sent, and lost: the second must be said again. Else the
/// receiver takes nobody for blocked, and the one announcement of credit that it makes then may be lost for good.
#[test]
fn a_late_acknowledgement_of_blocked_is_not_that_of_the_next() {
    const BLOCKED: u8 = 5;
    let mut config = Config::default();
    config.max_message = 1000;
    config.receive_window = 4096;
    let nic = NicConfig::default();
    let mut pair = Pair::with(6, &Link::with_delay(micros(20)), [nic; 2], [config; 2], world_config());
    let (mut a, mut b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    let said = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&said);
    pair.world.fabric().filter(pair.there, move |seen| {
        if has_chunk(seen.payload, BLOCKED) {
            *counted.lock().unwrap() += 1;
            if *counted.lock().unwrap() == 2 {
                return Verdict::Drop;
            }
        }
        Verdict::Pass
    });
    let (mut acknowledged, mut announced) = (false, false);
    let heard = Arc::clone(&said);
    pair.world.fabric().filter(pair.back, move |seen| {
        let said = *heard.lock().unwrap();
        let lost = match said {
            1 => !std::mem::replace(&mut acknowledged, true),
            // Credit alone: no blocks, no chunks.
            2 if seen.payload.len() == 24 => !std::mem::replace(&mut announced, true),
            _ => false,
        };
        if lost { Verdict::Drop } else { Verdict::Pass }
    });
    let writer = pair.world.spawn("a", async move {
        for _ in 0..20 {
            a.send(vec![0; 1000]).await.unwrap();
        }
        a.send.finish();
        a.reaches(FlowState::FIN_ACKED).await
    });
    let node = pair.world.node(pair.b);
    let reader = pair.world.spawn("b", async move {
        node.sleep(micros(200)).await;
        let mut count = usize::from(b.receive().await.is_some());
        node.sleep(millis(100)).await;
        while b.receive().await.is_some() {
            count += 1;
        }
        count
    });
    assert_eq!(pair.world.wait(&reader, seconds(20)).unwrap(), 20);
    assert!(pair.world.wait(&writer, seconds(20)).unwrap().has(FlowState::FIN_ACKED));
    assert!(*said.lock().unwrap() > 2);
}

/// An ABORT that is lost on the way: what arrives meanwhile was not taken, and must not look as if it had been.
#[test]
fn an_aborting_flow_takes_no_data() {
    const ABORT: u8 = 4;
    let mut pair = pair(7, &Link::with_delay(micros(20)));
    let (mut a, b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    pair.world.fabric().filter(pair.there, |seen| {
        let lost = read(seen.payload) != Seen::Reset && has_chunk(seen.payload, ABORT);
        if lost { Verdict::Drop } else { Verdict::Pass }
    });
    a.send.abort();
    let Flow { mut send, recv } = b;
    let sender = pair.world.spawn("b", async move {
        machnet_sim::send(&mut send, b"never read"[..].into()).await.unwrap();
        send.finish();
        drop(recv);
        machnet_sim::reaches(&mut send, FlowState::CLOSED).await
    });
    let state = pair.world.wait(&sender, seconds(20)).unwrap();
    assert_eq!(state.reason(), Some(CloseReason::Reset));
    assert!(!state.has(FlowState::FIN_ACKED), "{state:?}");
    drop(a);
    pair.world.settle(seconds(10)).unwrap();
}

/// A peer that goes on asking about a flow that is over does not keep it, and with it the endpoint, for ever.
#[test]
fn a_tombstone_is_not_kept_for_ever() {
    let mut pair = pair(8, &Link::with_delay(micros(20)));
    let (mut a, mut b) = pair.open();
    let (caught, packets) = std::sync::mpsc::channel();
    pair.world.fabric().filter(pair.there, move |seen| {
        let _ = caught.send((seen.from, seen.to, seen.payload.to_vec()));
        Verdict::Pass
    });
    let ending = pair.world.spawn("both", async move {
        a.send(&b"x"[..]).await.unwrap();
        a.send.finish();
        b.send.finish();
        while b.receive().await.is_some() {}
        b.reaches(FlowState::CLOSED).await
    });
    assert_eq!(pair.world.wait(&ending, seconds(5)).unwrap().reason(), Some(CloseReason::Finished));
    let (from, to, mut packet) = packets.try_iter().next().unwrap();
    pair.world.shut_down(pair.b);
    for number in 100_u32..800 {
        packet[12..16].copy_from_slice(&number.to_be_bytes());
        pair.world.fabric().inject(from, to, &packet);
        pair.world.run_for(millis(50)).unwrap();
    }
    assert!(pair.world.is_finished(pair.b), "{} flows", pair.world.stats(pair.b).flows);
}

/// Linger runs out just before the silent peer would be declared dead: the abort waits in peace.
#[test]
fn an_abort_to_a_silent_peer_does_not_spin() {
    let mut config = Config::default();
    config.linger = seconds(1);
    let nic = NicConfig::default();
    let mut pair = Pair::with(9, &Link::with_delay(millis(1)), [nic; 2], [config; 2], world_config());
    let (mut a, b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    pair.world.fabric().filter(pair.there, |_| Verdict::Drop);
    let node = pair.world.node(pair.a);
    let task = pair.world.spawn("a", async move {
        a.send(&b"into the void"[..]).await.unwrap();
        node.sleep(config.dead_peer_timeout - config.linger - millis(2)).await;
        drop(a);
    });
    pair.world.wait(&task, seconds(5)).unwrap();
    let before = pair.world.rounds(pair.a);
    pair.world.run_for(seconds(2)).unwrap();
    let rounds = pair.world.rounds(pair.a) - before;
    assert!(rounds < 100, "{rounds} rounds");
    drop(b);
}

/// An endpoint that is shut down waits neither for whom it calls nor for who has only knocked.
#[test]
fn a_shutdown_ends_handshakes_at_once() {
    let mut pair = pair(10, &Link::default());
    let _listener = pair.listen();
    // ACCEPT and what follows it are lost: B's flow stays half-open, A's connecting.
    pair.world.fabric().filter(pair.back, |_| Verdict::Drop);
    let (node, to) = (pair.world.node(pair.a), pair.world.node(pair.b).at(PORT));
    let task = pair.world.spawn("connect", async move { node.connect(to).await.map(drop) });
    pair.world.run_for(millis(1)).unwrap();
    assert_eq!((pair.world.stats(pair.a).flows, pair.world.stats(pair.b).flows), (1, 1));
    for machine in [pair.a, pair.b] {
        pair.world.shut_down(machine);
    }
    assert_eq!(pair.world.wait(&task, millis(1)).unwrap(), Err(CloseReason::Shutdown));
    pair.world.run_for(millis(1)).unwrap();
    assert!(pair.world.is_finished(pair.a) && pair.world.is_finished(pair.b));
}

/// Both sides have memory for nothing: their probes must not answer each other without a pause.
#[test]
fn starved_sides_do_not_keep_each_other_busy() {
    let mut config = Config::default();
    config.reassembly_bytes = 0;
    let nic = NicConfig::default();
    let mut pair = Pair::with(11, &Link::with_delay(micros(20)), [nic; 2], [config; 2], world_config());
    let (mut a, mut b) = pair.open();
    for flow in [&mut a, &mut b] {
        for _ in 0..60 {
            assert!(flow.send.post(vec![0; 200].into()).is_ok());
        }
    }
    pair.world.run_for(seconds(1)).unwrap();
    let before = pair.world.driver(pair.a).nic_stats().sent;
    pair.world.run_for(seconds(4)).unwrap();
    let sent = pair.world.driver(pair.a).nic_stats().sent - before;
    assert!(sent < 500, "{sent} packets in 4 s: {:?}", pair.world.stats(pair.a));
    drop((a, b));
}

/// Whoever acknowledges what a tombstone said does not ask for more: the tombstone goes when its own time is over, not
/// `dead_peer_timeout` later. A server of short flows would otherwise be full of them.
#[test]
fn an_acknowledgement_does_not_keep_a_tombstone() {
    let mut pair = pair(1, &Link::with_delay(micros(20)));
    let (mut a, mut b) = pair.open();
    pair.world.spawn("a", async move {
        a.send(vec![1; 100]).await.unwrap();
        a.receive().await.unwrap();
    });
    pair.world.spawn("b", async move {
        while let Some(message) = b.receive().await {
            b.send(message).await.unwrap();
        }
    });
    pair.world.run(seconds(1)).unwrap();
    pair.world.settle(millis(300)).unwrap();
}

/// FIN is there, a message before it is not, and then the sender aborts: that the flow is over does not make an end of the
/// stream of it.
#[test]
fn a_reset_over_a_hole_is_no_end_of_the_stream() {
    let mut pair = pair(12, &Link::with_delay(micros(20)));
    let (mut a, b) = pair.open();
    pair.world.run_for(millis(10)).unwrap();
    let fins = Arc::new(Mutex::new(0));
    let passed = Arc::clone(&fins);
    pair.world.fabric().filter(pair.there, move |seen| {
        let seen = read(seen.payload);
        if seen.has(|chunk| matches!(chunk, Chunk::Message { id: 0, .. })) {
            return Verdict::Drop;
        }
        *passed.lock().unwrap() += u64::from(seen.has(|chunk| *chunk == Chunk::Fin));
        Verdict::Pass
    });
    for byte in [1, 2] {
        assert!(a.send.post(vec![byte; 1100].into()).is_ok());
    }
    a.send.finish();
    pair.world.run_for(millis(5)).unwrap();
    assert!(*fins.lock().unwrap() > 0, "FIN never arrived");
    let Flow { mut send, mut recv } = b;
    assert!(!send.mailbox().state().has(FlowState::READ_ENDED));
    a.send.abort();
    let reader = pair.world.spawn("b", async move {
        let received = machnet_sim::receive(&mut recv).await;
        (received.is_none(), machnet_sim::reaches(&mut send, FlowState::CLOSED).await)
    });
    let (nothing, state) = pair.world.wait(&reader, seconds(5)).unwrap();
    assert!(nothing, "what is behind a hole is not delivered");
    assert_eq!(state.reason(), Some(CloseReason::Reset));
    assert!(!state.has(FlowState::READ_ENDED), "{state:?}");
    drop(a);
    pair.world.settle(seconds(10)).unwrap();
}

/// The endpoint is shut down under an application that goes on posting: what comes after the FIN is neither sent, which
/// would break the protocol, nor said to be acknowledged. The peer sees an end in order.
#[test]
fn what_is_posted_after_a_shutdowns_fin_is_not_sent() {
    let mut pair = pair(13, &Link::with_delay(millis(1)));
    let (mut a, mut b) = pair.open();
    let after = Arc::new(Mutex::new(0));
    let sent = Arc::clone(&after);
    pair.world.fabric().filter(pair.there, move |seen| {
        let message = read(seen.payload).has(|chunk| matches!(chunk, Chunk::Message { id: 1, .. }));
        *sent.lock().unwrap() += u64::from(message);
        Verdict::Pass
    });
    assert!(a.send.post(b"before"[..].into()).is_ok());
    let before = a.send.posted();
    pair.world.run_for(micros(100)).unwrap();
    pair.world.shut_down(pair.a);
    pair.world.run_for(micros(100)).unwrap();
    // The FIN is on its way, and its acknowledgement is two milliseconds off.
    assert!(a.send.post(b"after"[..].into()).is_ok());
    let reader = pair.world.spawn("b", async move {
        let mut received = Vec::new();
        while let Some(message) = b.receive().await {
            received.push(message.as_slice().to_vec());
        }
        let read = b.state();
        b.send.finish();
        (received, read, b.reaches(FlowState::CLOSED).await)
    });
    let (received, read, state) = pair.world.wait(&reader, seconds(5)).unwrap();
    assert_eq!(received, [b"before"]);
    assert!(read.has(FlowState::READ_ENDED), "{read:?}");
    assert_eq!(state.reason(), Some(CloseReason::Finished));
    assert!(a.send.acknowledged() <= before, "{} of {before} units", a.send.acknowledged());
    drop(a);
    pair.world.run_for(seconds(1)).unwrap();
    assert!(pair.world.is_finished(pair.a));
    assert_eq!(*after.lock().unwrap(), 0, "sent after FIN");
}
