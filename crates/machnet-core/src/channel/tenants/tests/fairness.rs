//! What one application does costs the others little, by counts.

use super::rig::{App, Rig, quota};

const PING: &[u8] = &[1; 64];

/// A server, and an application with an open flow to it.
fn pair(rig: &mut Rig, port: u16, flows: usize) -> (App, App, Vec<u32>) {
    let (mut server, mut client) = (rig.attach(quota()), rig.attach(quota()));
    let listener = server.listen(port);
    rig.run(&mut [&mut server], |apps| apps[0].listeners.contains_key(&listener));
    let slots: Vec<u32> = (0..flows).map(|_| client.connect(port)).collect();
    rig.run(&mut [&mut server, &mut client], |apps| {
        slots.iter().all(|&slot| apps[1].is_open(slot)) && apps[0].flows.len() == flows
    });
    for known in server.flows.values_mut().chain(client.flows.values_mut()) {
        known.keep = false;
    }
    (server, client, slots)
}

fn messages(app: &App) -> u64 {
    app.flows.values().map(|known| known.messages).sum()
}

/// Rounds of the engine that a small message takes to the other application, at most and on average.
fn rounds_of_a_ping(rig: &mut Rig, others: &mut [&mut App], noise: &mut dyn FnMut(&mut [&mut App])) -> (u64, f64) {
    let (mut server, mut client, flows) = pair(rig, 9000, 1);
    let (mut worst, mut all) = (0, 0);
    const PINGS: u64 = 300;
    for _ in 0..PINGS {
        let before = messages(&server);
        assert!(client.send(flows[0], PING));
        let mut rounds = 0;
        while messages(&server) == before {
            noise(others);
            rig.round(5);
            server.look();
            client.look();
            others.iter_mut().for_each(|app| app.look());
            rounds += 1;
            assert!(rounds < 10_000, "it never arrives");
        }
        worst = worst.max(rounds);
        all += rounds;
    }
    (worst, all as f64 / PINGS as f64)
}

/// Applications that send as fast as they can, on one flow or many, and one that does not read: a small message of
/// another one takes hardly more rounds.
#[test]
fn a_small_message_overtakes_what_others_send_at_full_speed() {
    let (alone_worst, alone) = rounds_of_a_ping(&mut Rig::new(), &mut [], &mut |_| {});
    for flows in [1, 16] {
        let mut rig = Rig::new();
        let (mut sink, mut source, slots) = pair(&mut rig, 9001, flows);
        let (mut deaf, mut shouting, shouts) = pair(&mut rig, 9002, flows);
        deaf.reads = false;
        let mut noise = |others: &mut [&mut App]| {
            for (at, slots) in [(1, &slots), (3, &shouts)] {
                for &slot in slots {
                    while others[at].send(slot, &[0; 8000]) {}
                }
            }
        };
        let mut others = [&mut sink, &mut source, &mut deaf, &mut shouting];
        let (worst, mean) = rounds_of_a_ping(&mut rig, &mut others, &mut noise);
        assert!(messages(&sink) > 300, "{} messages", messages(&sink));
        assert!(
            mean <= alone + 2.0 && worst <= alone_worst + 6,
            "{flows} flows: {worst}, {mean} against {alone_worst}, {alone}"
        );
    }
}

/// Of three applications that send as fast as they can, each has its share, however many flows it has.
#[test]
fn who_has_many_flows_has_no_larger_share() {
    let mut rig = Rig::new();
    let mut pairs: Vec<_> = [(9001, 1), (9002, 1), (9003, 32)].map(|(port, n)| pair(&mut rig, port, n)).into();
    let mut at = Vec::new();
    for round in 0..6000 {
        for (_, client, flows) in &mut pairs {
            for &flow in flows.iter() {
                while client.send(flow, &[0; 1000]) {}
            }
        }
        rig.round(5);
        for (server, client, _) in &mut pairs {
            server.look();
            client.look();
        }
        if round == 1000 {
            at = pairs.iter().map(|(server, ..)| messages(server)).collect();
        }
    }
    let shares: Vec<u64> = pairs.iter().zip(at).map(|((server, ..), before)| messages(server) - before).collect();
    let fair = shares.iter().sum::<u64>() / 3;
    assert!(shares.iter().all(|share| *share * 10 >= fair * 8), "{shares:?} of {fair} each");
}

/// A pass over marks is bounded for who marks as fast as the daemon looks.
#[test]
fn marks_without_end_hold_up_nobody() {
    use std::sync::atomic::Ordering::Relaxed;

    use machnet_channel::Words as _;

    let (alone_worst, alone) = rounds_of_a_ping(&mut Rig::new(), &mut [], &mut |_| {});
    let mut rig = Rig::new();
    let (mut sink, mut source, _) = pair(&mut rig, 9001, 60);
    let mut noise = |others: &mut [&mut App]| {
        for mark in 32..48 {
            others[1].memory.words()[mark].store(u64::MAX, Relaxed);
        }
    };
    let (worst, mean) = rounds_of_a_ping(&mut rig, &mut [&mut sink, &mut source], &mut noise);
    assert!(mean <= alone + 2.0 && worst <= alone_worst + 6, "{worst}, {mean} against {alone_worst}, {alone}");
    assert!(rig.end_of(&source).is_none());
}
