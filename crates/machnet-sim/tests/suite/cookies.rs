//! The handshake under attack: RETRY and its tokens, and what a stranger can make an engine send or remember.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use machnet_core::{Config, DropReason};
use machnet_sim::{HostId, Link, LinkId, Plan, SimRng, Verdict};

use crate::common::{Dialog, PORT, Pair, TOMBSTONES, config, ip, micros, millis, nic, seconds, world_config};
use crate::hostile::real_init;

/// Of a link: a datagram's way there, and its answer's back.
const DELAY: Duration = micros(50);

fn pair(seed: u64, config_b: Config) -> Pair {
    let nic = nic();
    Pair::with(seed, &Link::with_delay(DELAY), [nic; 2], [config(), config_b], world_config())
}

/// A host without an engine and its links to and from the pair's B.
struct Attacker {
    host: HostId,
    address: SocketAddr,
    there: LinkId,
    back: LinkId,
}

impl Attacker {
    fn new(pair: &Pair) -> Self {
        let fabric = pair.world.fabric();
        let host = fabric.host(ip(66));
        let (there, back) = fabric.join(host, pair.world.host(pair.b), Link::default(), Link::default());
        Self { host, address: SocketAddr::new(ip(66), 6666), there, back }
    }

    /// What B sends to the attacker from now on.
    fn answers(&self, pair: &Pair) -> Receiver<Vec<u8>> {
        let (sent, answers) = channel();
        pair.world.fabric().filter(self.back, move |seen| {
            let _ = sent.send(seen.payload.to_vec());
            Verdict::Pass
        });
        answers
    }

    /// Bytes sent to B, and by it.
    fn bytes(&self, pair: &Pair) -> (u64, u64) {
        let fabric = pair.world.fabric();
        (fabric.link_stats(self.there).bytes, fabric.link_stats(self.back).bytes)
    }

    fn throw(&self, pair: &mut Pair, packet: &[u8]) {
        let to = pair.world.node(pair.b).at(PORT);
        pair.world.fabric().inject(self.address, to, packet);
        pair.world.run_for(micros(30)).unwrap();
    }
}

/// `init` with this source id, and this token.
fn init_of(init: &[u8], id: u64, token: &[u8]) -> Vec<u8> {
    let mut bytes = init.to_vec();
    bytes[16..24].copy_from_slice(&id.to_be_bytes());
    bytes[56..58].copy_from_slice(&(token.len() as u16).to_be_bytes());
    bytes[64..][..token.len()].copy_from_slice(token);
    bytes
}

/// The token in a RETRY to the flow `id`.
fn token_of(retry: &[u8], id: u64) -> Vec<u8> {
    assert_eq!((retry[0], &retry[4..12]), (0x13, &id.to_be_bytes()[..]), "a RETRY that echoes the source id");
    let len = usize::from(u16::from_be_bytes([retry[16], retry[17]]));
    assert_eq!(retry.len(), 20 + len);
    retry[20..].to_vec()
}

/// 100 000 INITs of as many sources: what the engine keeps is bounded, and a real client pays one round trip.
#[test]
fn a_forged_flood_costs_a_real_client_one_round_trip() {
    let mut config = config();
    config.max_half_open = 256;
    let mut pair = pair(1, config);
    let _listener = pair.listen();
    let attacker = Attacker::new(&pair);
    let (init, to) = (real_init(), pair.world.node(pair.b).at(PORT));
    let forge = |pair: &mut Pair, n: u32| {
        let source = SocketAddr::new(IpAddr::from((0x0b00_0000 + n).to_be_bytes()), 1024 + (n % 60_000) as u16);
        pair.world.fabric().forge(attacker.host, source, to, &init_of(&init, u64::from(n) + 1, &[]));
        pair.world.run_for(micros(1)).unwrap();
    };
    (0..50_000).for_each(|n| forge(&mut pair, n));
    // In the middle of it, which goes on.
    let (node, start) = (pair.world.node(pair.a), pair.world.now());
    let connecting = pair.world.spawn("connect", async move {
        let flow = node.connect(to).await.unwrap();
        (node.now(), flow)
    });
    (50_000..100_000).for_each(|n| forge(&mut pair, n));
    let (connected, flow) = connecting.take().expect("connected while the flood went on");
    let round_trip = 2 * DELAY + micros(10);
    assert!(connected.since(start) <= 2 * round_trip, "{:?}: INIT, RETRY, INIT, ACCEPT", connected.since(start));
    pair.world.run_for(micros(100)).unwrap();
    let stats = pair.world.stats(pair.b);
    assert_eq!(stats.flows, 256 + 1);
    assert_eq!(stats.retries_sent, 100_000 + 1 - 256);
    assert_eq!(stats.drops.total(), 0, "{:?}", stats.drops.iter().collect::<Vec<_>>());
    drop(flow);
    pair.world.cancel();
    drop(_listener);
    pair.world.settle(TOMBSTONES).unwrap();
}

/// At the limit the next INIT gets a RETRY; with its token a flow, once, however often it comes.
#[test]
fn a_token_opens_exactly_one_flow() {
    let mut config = config();
    config.max_half_open = 2;
    let mut pair = pair(2, config);
    let _listener = pair.listen();
    let attacker = Attacker::new(&pair);
    let (answers, init) = (attacker.answers(&pair), real_init());
    let flows = |pair: &Pair| pair.world.stats(pair.b).flows;
    for id in [1, 2] {
        attacker.throw(&mut pair, &init_of(&init, id, &[]));
        assert_eq!(answers.recv().unwrap()[0], 0x12, "ACCEPT below the limit");
    }
    attacker.throw(&mut pair, &init_of(&init, 3, &[]));
    let token = token_of(&answers.recv().unwrap(), 3);
    assert_eq!(flows(&pair), 2, "no state for what was answered by RETRY");
    // Not for another id, nor for another port of the same address.
    attacker.throw(&mut pair, &init_of(&init, 4, &token));
    assert_eq!(answers.recv().unwrap()[0], 0x13);
    let (other, to) = (SocketAddr::new(ip(66), 6667), pair.world.node(pair.b).at(PORT));
    pair.world.fabric().inject(other, to, &init_of(&init, 3, &token));
    pair.world.run_for(micros(30)).unwrap();
    assert_eq!(answers.recv().unwrap()[0], 0x13);
    assert_eq!(flows(&pair), 2);
    for _ in 0..3 {
        attacker.throw(&mut pair, &init_of(&init, 3, &token));
        assert_eq!(answers.recv().unwrap()[0], 0x12, "ACCEPT for the token");
        assert_eq!(flows(&pair), 3);
    }
    // Whoever proves an address is bounded, too.
    for id in 5..8 {
        attacker.throw(&mut pair, &init_of(&init, id, &[]));
        let token = token_of(&answers.recv().unwrap(), id);
        attacker.throw(&mut pair, &init_of(&init, id, &token));
        let accepted = answers.try_recv().is_ok_and(|answer| answer[0] == 0x12);
        assert_eq!(accepted, id == 5, "the second with a token");
    }
    assert_eq!(flows(&pair), 2 + 2);
    assert_eq!(pair.world.stats(pair.b).drops.get(DropReason::BacklogFull), 2);
    pair.world.cancel();
    drop(_listener);
    pair.world.settle(TOMBSTONES).unwrap();
}

/// A token that came too late is answered by a new one, which the initiator takes.
#[test]
fn an_expired_token_is_replaced() {
    let mut config_b = config();
    config_b.max_half_open = 1;
    config_b.connect_timeout = seconds(60);
    let mut config_a = config();
    config_a.connect_timeout = seconds(60);
    let nic = nic();
    let link = Link::with_delay(DELAY);
    let mut pair = Pair::with(3, &link, [nic; 2], [config_a, config_b], world_config());
    let _listener = pair.listen();
    let attacker = Attacker::new(&pair);
    attacker.throw(&mut pair, &init_of(&real_init(), 1, &[]));
    let node = pair.world.node(pair.a);
    let to = pair.world.node(pair.b).at(PORT);
    let connecting = pair.world.spawn("connect", async move { node.connect(to).await.map(drop) });
    // RETRY arrives, and then nothing gets through until its token is old.
    let (there, mut inits) = (pair.there, 0);
    pair.world.fabric().filter(there, move |_| {
        inits += 1;
        if (2..=11).contains(&inits) { Verdict::Drop } else { Verdict::Pass }
    });
    assert!(pair.world.wait(&connecting, seconds(30)).unwrap().is_ok());
    assert_eq!(pair.world.stats(pair.b).retries_sent, 2);
    pair.world.cancel();
    drop(_listener);
    pair.world.settle(seconds(90)).unwrap();
}

/// Whatever an unvalidated source sends, in any order: the bytes it gets never exceed the bytes it sent.
#[test]
fn nobody_is_sent_more_than_he_sent() {
    for max_half_open in [1, 1000] {
        let mut config = config();
        config.max_half_open = max_half_open;
        let mut pair = pair(4, config);
        let _listener = pair.listen();
        let attacker = Attacker::new(&pair);
        let init = real_init();
        let rng = &mut SimRng::new(4, 1 << 41);
        let mut packets: Vec<Vec<u8>> = vec![init.clone(); 20];
        packets.extend((0..=init.len()).step_by(7).map(|len| init[..len].to_vec()));
        packets.extend([1, 100, 8000].map(|more| [init.clone(), vec![0; more]].concat()));
        packets.extend((0..50).map(|n| init_of(&init, n, &vec![n as u8; n as usize])));
        // Every version and type, long and short, answered by RESET or not.
        packets.extend((0..=255).flat_map(|first| {
            let mut packet = init.clone();
            packet[0] = first;
            [packet[..39].to_vec(), packet[..40].to_vec(), packet]
        }));
        packets.extend((0..300).map(|n| {
            let mut packet = init_of(&init, 1000 + n, &[]);
            let at = rng.below(80) as usize;
            packet[at] ^= 1 << rng.below(8);
            packet
        }));
        for _ in 0..2 {
            for packet in &packets {
                // RESETs are limited in rate; this leaves room for each.
                pair.world.run_for(millis(11)).unwrap();
                attacker.throw(&mut pair, packet);
                let (sent, got) = attacker.bytes(&pair);
                assert!(got <= sent, "{got} bytes for {sent}");
            }
        }
        // Each single answer is no longer than its question: silence in between earns no credit.
        for packet in &packets {
            pair.world.run_for(millis(11)).unwrap();
            let before = attacker.bytes(&pair);
            attacker.throw(&mut pair, packet);
            let after = attacker.bytes(&pair);
            assert!(after.1 - before.1 <= after.0 - before.0, "{} bytes for {}", after.1 - before.1, packet.len());
        }
        assert!(attacker.bytes(&pair).1 > 0, "something was answered");
        // Nor does the end of the engine make it say more than it owes.
        let before = attacker.bytes(&pair);
        pair.world.shut_down(pair.b);
        pair.world.run_for(seconds(5)).unwrap();
        assert_eq!(attacker.bytes(&pair), before);
    }
}

/// A flood goes on while others talk: they are not disturbed, and it is forgotten.
#[test]
fn a_dialog_goes_on_beside_a_flood() {
    let mut config = config();
    config.max_half_open = 8;
    let mut pair = pair(5, config);
    let dialog = Dialog::new(Plan::fixed(1, 200, 3000), Plan::fixed(2, 200, 3000));
    let tasks = pair.start(&dialog);
    pair.world.run_for(millis(1)).unwrap();
    let attacker = Attacker::new(&pair);
    let init = real_init();
    for id in 1..2000 {
        attacker.throw(&mut pair, &init_of(&init, id, &[]));
    }
    pair.world.run(seconds(5)).unwrap();
    dialog.check(&tasks.map(|task| task.take().unwrap()));
    pair.world.settle(TOMBSTONES).unwrap();
}

/// A RETRY that nobody sent: it may delay a connect by nothing, and what it says is not believed elsewhere.
#[test]
fn a_forged_retry_changes_nothing() {
    let mut pair = pair(6, config());
    let _listener = pair.listen();
    let (a, to) = (pair.world.node(pair.a).home(), pair.world.node(pair.b).at(PORT));
    let (seen, ids) = channel();
    pair.world.fabric().filter(pair.there, move |packet| {
        let _ = seen.send(packet.payload[16..24].to_vec());
        Verdict::Pass
    });
    let node = pair.world.node(pair.a);
    let connecting = pair.world.spawn("connect", async move { node.connect(to).await.unwrap() });
    // An observer sees the INIT and answers before the acceptor does.
    pair.world.run_for(micros(5)).unwrap();
    let id = ids.recv().unwrap();
    let retry = [&[0x13, 0, 0, 0][..], &id, &[0; 4], &[0, 3, 0, 0], b"abc"].concat();
    for _ in 0..10 {
        pair.world.fabric().inject(to, a, &retry);
    }
    let flow = pair.world.wait(&connecting, millis(1)).unwrap();
    assert_eq!(pair.world.stats(pair.b).flows, 1);
    // Once for the first; never faster than the timer for the others.
    assert!(pair.world.fabric().link_stats(pair.there).offered <= 4);
    // It is for connecting flows only.
    pair.world.run_for(millis(1)).unwrap();
    let before = pair.world.stats(pair.a).drops.get(DropReason::WrongState);
    pair.world.fabric().inject(to, a, &retry);
    pair.world.run_for(millis(1)).unwrap();
    assert_eq!(pair.world.stats(pair.a).drops.get(DropReason::WrongState), before + 1);
    drop(flow);
    drop(_listener);
    pair.world.cancel();
    pair.world.settle(TOMBSTONES).unwrap();
}
