//! Bursts, order, full rings.

use std::collections::{BTreeMap, VecDeque};

use machnet_core::Meta;

use crate::Subject;
use crate::bench::{Bench, Outcome, must, number, payload};

pub(super) fn bursts(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let mut nothing = VecDeque::new();
    must!(bench.driver(0).tx_burst(&mut nothing) == 0, "tx_burst took something of nothing");
    must!(bench.receive(1, 32).is_empty(), "rx_burst found something in an idle device");
    for round in 0..20 {
        let mut batch = VecDeque::new();
        for n in 0..32 {
            batch.push_back(bench.built(0, &payload(round * 32 + n, 100))?);
        }
        bench.push(0, &mut batch)?;
        let mut numbers = Vec::new();
        for max in [0, 1, 5].into_iter().chain(std::iter::repeat_n(7, 2000)) {
            let got = bench.receive(1, max);
            must!(got.len() <= max, "rx_burst gave {} of {max} asked for", got.len());
            numbers.extend(got.iter().map(|got| number(got.bytes())));
            if numbers.len() == 32 {
                break;
            }
            bench.rig.step();
        }
        must!(numbers == (round * 32..round * 32 + 32).collect::<Vec<_>>(), "round {round}: {numbers:?} came");
    }
    let got = bench.receive(1, 32);
    must!(got.is_empty(), "{} datagrams came that nobody sent", got.len());
    // What is in `out` stays there.
    bench.send(0, &[payload(1, 50), payload(2, 50)])?;
    let mut out = Vec::new();
    for _ in 0..crate::PATIENCE {
        let before = out.len();
        let n = bench.driver(1).rx_burst(&mut out, 1);
        must!(out.len() == before + n && n <= 1, "rx_burst says {n} and gave {}", out.len() - before);
        if out.len() == 2 {
            break;
        }
        bench.rig.step();
    }
    must!(out.len() == 2, "{} of 2 datagrams came", out.len());
    drop(out);
    bench.all_home()
}

/// Fills the device until it refuses, or has taken more than the least common denominator's ring holds, which is right, too.
/// Either way everything arrives once somebody receives.
pub(super) fn partial_tx(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let mut batch = VecDeque::new();
    let mut built = 0;
    while built < 400
        && let Some(packet) = bench.packet(0, &payload(built, 60))
    {
        batch.push_back(packet);
        built += 1;
    }
    must!(built > 256, "only {built} frames");
    // No steps: the device has no time to send anything.
    let mut taken = 0;
    for _ in 0..10 {
        let before = batch.len();
        let now = bench.driver(0).tx_burst(&mut batch);
        must!(before - batch.len() == now, "tx_burst took {} and says {now}", before - batch.len());
        taken += now;
    }
    let left: Vec<u32> = batch.iter().map(|packet| number(packet.payload.as_ref())).collect();
    must!(left == (taken as u32..built).collect::<Vec<_>>(), "of {built}, {taken} were taken and {left:?} are left");
    for (n, packet) in (taken as u32..).zip(&batch) {
        must!(packet.payload.as_ref() == payload(n, 60), "what was refused is not what it was");
        let meta = packet.meta;
        must!(meta.remote == bench.home(1) && meta.local == bench.home(0), "its addresses are not what they were");
    }
    let unread = bench.rig.loses_unread();
    let least = if unread { usize::from(bench.driver(1).capabilities().descriptors).min(256) } else { built as usize };
    let mut numbers = Vec::new();
    for _ in 0..crate::PATIENCE {
        bench.driver(0).tx_burst(&mut batch);
        let got = bench.receive(1, 256);
        for got in &got {
            must!(got.bytes() == payload(number(got.bytes()), 60), "{} came altered", number(got.bytes()));
        }
        numbers.extend(got.iter().map(|got| number(got.bytes())));
        if batch.is_empty() && (numbers.last() == Some(&(built - 1)) || unread && numbers.len() >= least) {
            break;
        }
        bench.rig.step();
    }
    must!(numbers.is_sorted_by(|a, b| a < b), "out of order or twice: {numbers:?}");
    must!(numbers.len() >= least, "{} of {built} came, {} were never taken", numbers.len(), batch.len());
    bench.all_home()
}

pub(super) fn full_rings(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let descriptors = u32::from(bench.driver(1).capabilities().descriptors).min(256);
    must!(descriptors > 0, "a device without descriptors");
    for round in 0..5 {
        for n in 0..descriptors {
            bench.send(0, &[payload(n, 60)])?;
        }
        for _ in 0..20 {
            bench.rig.step();
        }
        let numbers: Vec<u32> =
            bench.await_some(1, descriptors as usize)?.iter().map(|got| number(got.bytes())).collect();
        must!(numbers == (0..descriptors).collect::<Vec<_>>(), "round {round}: {numbers:?} came");
    }
    // Twice as many: some may be dropped, and then all is well again.
    for n in 0..2 * descriptors {
        let mut batch = VecDeque::from([bench.built(0, &payload(n, 60))?]);
        bench.driver(0).tx_burst(&mut batch);
        bench.rig.step();
    }
    let mut numbers: Vec<u32> = Vec::new();
    for _ in 0..200 {
        numbers.extend(bench.receive(1, 256).iter().map(|got| number(got.bytes())));
        bench.rig.step();
    }
    must!(numbers.is_sorted_by(|a, b| a < b) && numbers.len() >= descriptors as usize, "{numbers:?} came");
    bench.exchange(0, &[payload(7, 1000)])?;
    bench.all_home()
}

pub(super) fn order(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let mut locals = vec![bench.home(0)];
    for _ in 0..3 {
        let opened = bench.driver(0).open(0);
        must!(opened.is_ok(), "no free port: {opened:?}");
        locals.extend(opened);
    }
    let remote = bench.home(1);
    let mut last: BTreeMap<u16, u32> = BTreeMap::new();
    let mut came = 0;
    for n in 0..2000 {
        let local = locals[(n as usize * 7 + n as usize / 3) % locals.len()];
        let mut packet = None;
        while packet.is_none() {
            packet = bench.packet_to(0, Meta { local, remote, queue: 0 }, &payload(n, 20 + n as usize % 200));
            bench.rig.step();
        }
        let mut batch: VecDeque<_> = packet.into_iter().collect();
        bench.push(0, &mut batch)?;
        if n % 16 == 15 {
            for got in bench.await_some(1, 16)? {
                let (port, number) = (got.meta.remote.port(), number(got.bytes()));
                must!(last.insert(port, number).is_none_or(|last| last < number), "{number} after {last:?}");
                came += 1;
            }
        }
    }
    must!(came == 2000, "{came} of 2000 came");
    for local in &locals[1..] {
        bench.driver(0).close(local.port());
    }
    bench.all_home()
}
