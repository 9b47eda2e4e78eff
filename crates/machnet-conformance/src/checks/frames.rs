//! Who holds frames, and that all come home.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use machnet_channel::Doorbell;
use machnet_core::{Capabilities, LONG_FRAME, TxPacket};

use crate::bench::{Bench, Outcome, Stop, must, number, payload};
use crate::{PATIENCE, Shape, Subject};

pub(super) fn exhaustion(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let bell = Arc::new(Doorbell::new());
    bench.driver(1).set_bell(Arc::clone(&bell));
    for round in 0..3 {
        let mut all: Vec<_> = std::iter::from_fn(|| bench.driver(1).frame()).collect();
        must!(all.len() > 256, "only {} frames", all.len());
        must!(bench.rig.free_frames(1) == 0, "frames that nobody can take");
        // One waits at the device, and nobody can have it.
        bench.send(0, &[payload(1, 100)])?;
        for _ in 0..20 {
            bench.rig.step();
            let got = bench.receive(1, 32);
            must!(got.is_empty(), "a datagram came without a frame to be in");
        }
        let rings = bell.rings();
        bell.arm(Waker::noop());
        must!(!bench.driver(1).starve(), "a driver without frames says that some came home");
        must!(bell.rings() == rings, "the bell rang for nothing");
        drop(all.pop());
        must!(bell.rings() == rings + 1, "round {round}: the bell does not ring when a frame comes home");
        bell.disarm();
        drop(all);
        // It may have been dropped, and others must come.
        let mut heard = false;
        for n in 0..50 {
            bench.send(0, &[payload(100 + n, 100)])?;
            for _ in 0..20 {
                bench.rig.step();
                heard |= bench.receive(1, 32).iter().any(|got| number(got.bytes()) == 100 + n);
            }
            if heard {
                break;
            }
        }
        must!(heard, "round {round}: nothing comes any more");
    }
    bench.all_home()
}

pub(super) fn held_by_reader(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let mut held = VecDeque::new();
    for n in 0..6000 {
        bench.send(0, &[payload(n, 700)])?;
        let mut got = bench.await_some(1, 1)?;
        held.push_back((n, got.remove(0)));
        if held.len() > 300 {
            for _ in 0..2 {
                let Some((n, got)) = held.pop_front() else { break };
                must!(got.bytes() == payload(n, 700), "datagram {n} changed while it was held");
                if n % 3 == 0 {
                    bench.driver(1).recycle(got.payload);
                }
            }
        }
    }
    for (n, got) in &held {
        must!(got.bytes() == payload(*n, 700), "datagram {n} changed while it was held");
    }
    drop(held);
    bench.all_home()
}

pub(super) fn held_by_device(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::shaped(subject, Shape { kept: 60, ..Shape::default() })?;
    for n in 0..300 {
        let len = 30 + n as usize * 4;
        let packet = bench.built(0, &payload(n, len))?;
        // The sender keeps a reference, and sends the same frame twice more while the device may still have it.
        let kept = packet.payload.clone();
        let meta = packet.meta;
        let mut batch = VecDeque::from([packet]);
        for _ in 0..3 {
            bench.push(0, &mut batch)?;
            must!(kept.as_ref() == payload(n, len), "datagram {n} changed in the sender's hands");
            let got = bench.await_some(1, 1)?;
            must!(got[0].bytes() == payload(n, len), "datagram {n} came altered");
            batch.push_back(TxPacket { meta, payload: kept.clone(), tail: None });
        }
    }
    bench.all_home()
}

pub(super) fn two_pieces(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::shaped(subject, Shape { kept: 60, ..Shape::default() })?;
    let Capabilities { long_frames, max_payload, .. } = *bench.driver(0).capabilities();
    if long_frames == 0 {
        return Err(Stop::NotApplicable("what is sent lies in one piece"));
    }
    let all = |bench: &mut Bench| std::iter::from_fn(|| bench.driver(0).long_frame()).collect::<Vec<_>>();
    let mut long = all(&mut bench);
    let there = long.len();
    must!((1..=long_frames as usize).contains(&there), "{there} long frames, of {long_frames}");
    let Some(mut frame) = long.pop() else { return Ok(()) };
    drop(long);
    let message = payload(7, LONG_FRAME as usize);
    let Some(bytes) = frame.bytes_mut().filter(|bytes| bytes.len() == message.len()) else {
        return Err(Stop::Wrong("a long frame that is not as long".to_owned()));
    };
    bytes.copy_from_slice(&message);
    let lies = frame.share(0..LONG_FRAME);
    let longest = max_payload.min(1400) as usize;
    for n in 0..300 {
        let front = 4 + n as usize * 5 % 200;
        let behind = 1 + n as usize * 131 % (longest - front);
        let at = n as usize * 7919 % (message.len() - behind);
        let whole = [&payload(n, front)[..], &message[at..at + behind]].concat();
        // The same end twice, while the device may still have it.
        for _ in 0..2 {
            let mut packet = bench.built(0, &whole[..front])?;
            packet.tail = Some(lies.slice(at as u32..(at + behind) as u32));
            bench.push(0, &mut VecDeque::from([packet]))?;
            let got = bench.await_some(1, 1)?;
            must!(
                got.len() == 1 && got[0].bytes() == whole,
                "datagram {n}, of {front} and {behind} bytes, came altered"
            );
        }
    }
    must!(lies.as_ref() == message, "the message changed where it lies");
    drop(lies);
    for _ in 0..PATIENCE {
        bench.rig.give_back();
        bench.rig.step();
        if all(&mut bench).len() == there {
            return bench.all_home();
        }
    }
    Err(Stop::Wrong(format!("{} long frames are free, {there} were in the beginning", all(&mut bench).len())))
}

pub(super) fn no_leak(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::shaped(subject, Shape { frames: 600, ..Shape::default() })?;
    let longest = bench.driver(0).capabilities().max_payload.min(1400) as usize;
    for n in 0..6000u32 {
        let side = n as usize % 2;
        let len = (n as usize * 37) % longest;
        bench.exchange(side, &[payload(n, len)])?;
    }
    bench.all_home()
}

pub(super) fn tail_loss(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::shaped(subject, Shape { kept: 60, ..Shape::default() })?;
    bench.lose(true);
    // The last of a burst is lost, nothing follows, and the device does not give its frame back.
    let packet = bench.built(0, &payload(1, 500))?;
    let kept = packet.payload.clone();
    bench.push(0, &mut VecDeque::from([packet]))?;
    bench.silent(1)?;
    must!(kept.as_ref() == payload(1, 500), "what was sent changed in the sender's hands");
    drop(kept);
    bench.lose(false);
    bench.exchange(0, &[payload(1, 500)])?;
    for n in 0..PATIENCE as u32 / 100 {
        bench.exchange(0, &[payload(n, 500)])?;
    }
    bench.all_home()
}
