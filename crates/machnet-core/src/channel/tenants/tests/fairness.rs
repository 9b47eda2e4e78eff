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

/// What an engine did.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    rounds: u64,
    /// Received and sent.
    packets: u64,
    /// Taken from pipes and put into them.
    bytes: u64,
}

impl Work {
    fn of(rig: &mut Rig) -> Self {
        let stats = rig.engine.stats();
        let tenants = rig.tenants().report().tenants;
        let bytes = tenants.iter().map(|tenant| tenant.counters.bytes_taken + tenant.counters.bytes_put).sum();
        Self { rounds: 0, packets: stats.packets_received + stats.packets_sent, bytes }
    }

    fn most(self, since: Self, now: Self, rounds: u64) -> Self {
        Self {
            rounds: self.rounds.max(rounds),
            packets: self.packets.max(now.packets - since.packets),
            bytes: self.bytes.max(now.bytes - since.bytes),
        }
    }
}

/// What an engine does at most between a small message, now and then, and its arrival at another application; and what it does at
/// most in any one round.
fn work_of_a_ping(rig: &mut Rig, others: &mut [&mut App], noise: &mut dyn FnMut(&mut [&mut App])) -> (Work, Work) {
    let (mut server, mut client, flows) = pair(rig, 9000, 1);
    let (mut worst, mut round) = (Work::default(), Work::default());
    // In the first windows nobody has been judged.
    for ping in 0..400 {
        let before = messages(&server);
        assert!(client.send(flows[0], PING));
        let begun = Work::of(rig);
        let mut rounds = 0;
        for _ in 0..20 {
            noise(others);
            let since = Work::of(rig);
            rig.round(5);
            let now = Work::of(rig);
            round = if ping < 100 { round } else { round.most(since, now, 1) };
            server.look();
            client.look();
            others.iter_mut().for_each(|app| app.look());
            rounds += 1;
            if messages(&server) > before {
                if ping >= 100 {
                    worst = worst.most(begun, now, rounds);
                }
                break;
            }
        }
        assert!(messages(&server) > before, "it never arrives");
        // Others have the engine for a while.
        for _ in 0..12 {
            noise(others);
            rig.round(5);
            server.look();
            client.look();
            others.iter_mut().for_each(|app| app.look());
        }
    }
    (worst, round)
}

/// Applications that send as fast as they can, on one flow or many, and one that does not read: what the engine does before it
/// delivers a small message of another one is bounded, however much they want. A message that comes while a round is underway
/// waits for less than that round.
#[test]
fn a_small_message_overtakes_what_others_send_at_full_speed() {
    let (alone, _) = work_of_a_ping(&mut Rig::new(), &mut [], &mut |_| {});
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
        let (worst, round) = work_of_a_ping(&mut rig, &mut others, &mut noise);
        assert!(messages(&sink) > 3000, "{} messages", messages(&sink));
        let text = format!("{flows} flows: {worst:?}, in a round {round:?}; alone {alone:?}");
        assert!(worst.rounds <= alone.rounds && worst.packets <= 64 && worst.bytes <= 96 << 10, "{text}");
        assert!(round.packets <= 48 && round.bytes <= 64 << 10, "{text}");
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

    let (alone, _) = work_of_a_ping(&mut Rig::new(), &mut [], &mut |_| {});
    let mut rig = Rig::new();
    let (mut sink, mut source, _) = pair(&mut rig, 9001, 60);
    let mut noise = |others: &mut [&mut App]| {
        for mark in 32..48 {
            others[1].memory.words()[mark].store(u64::MAX, Relaxed);
        }
    };
    let (worst, _) = work_of_a_ping(&mut rig, &mut [&mut sink, &mut source], &mut noise);
    assert!(worst.rounds <= alone.rounds, "{worst:?} against {alone:?}");
    assert!(rig.end_of(&source).is_none());
}
