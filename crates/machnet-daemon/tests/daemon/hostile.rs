//! Applications that write where and what they like while the daemon reads, and an honest pair that notices nothing.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use machnet_async::IdlePolicy;
use machnet_channel::Words as _;
use machnet_channel::shared::Attach;
use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::client::{Client, attach, echo, pair};
use crate::stage::Stage;

/// As often as an honest pair is served beside an attack.
const ECHOES: u64 = 300;

/// Runs `attack`, on a thread of its own and again and again, while an honest pair is served.
fn beside(stage: &Stage, attack: impl Fn(&Stage, &AtomicBool) + Sync) {
    let (mut server, mut client, accepted, flow) = pair(&stage.socket());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            while !over.load(Relaxed) {
                attack(stage, &over);
            }
        });
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            echo(&mut server, &mut client, accepted, flow, ECHOES);
        }));
        over.store(true, Relaxed);
        attacker.join().unwrap();
        served.unwrap();
    });
    let stat = stage.until(|stat| stat["applications"].as_array().unwrap().len() == 2);
    let [server, client] = &stat["applications"].as_array().unwrap()[..] else { panic!("{stat}") };
    assert_eq!((&server["messages_received"], &client["messages_received"]), (&ECHOES.into(), &ECHOES.into()));
}

/// A generator of its own: tests draw the same numbers each time.
fn next(state: &AtomicU64) -> u64 {
    let mut x = state.load(Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    state.store(x, Relaxed);
    x
}

/// An application with flows, listeners and messages underway.
fn busy(stage: &Stage) -> Client {
    let (_, mut client, _, flow) = pair(&stage.socket());
    for n in 0..8 {
        client.send(flow, &[n; 3000]);
    }
    client.side.listen(0, 8, machnet_channel::FlowOptions::new()).unwrap();
    client.show();
    client
}

/// An application that writes anywhere until the daemon sends it away or `over` says that it was enough.
fn flip(stage: &Stage, state: &AtomicU64, over: impl Fn() -> bool) {
    let liar = busy(stage);
    let words = liar.memory.words();
    let tables = words.len() - 2 * liar.welcome.geometry.data as usize / 8;
    while !over() {
        for _ in 0..64 {
            let at = next(state) as usize % tables;
            let bit = 1 << (next(state) % 64);
            match next(state) % 3 {
                0 => words[at].store(next(state), Relaxed),
                1 => drop(words[at].fetch_xor(bit, Relaxed)),
                _ => drop(words[at].fetch_add(next(state) % 5, Relaxed)),
            }
            // All marks, and a ring, so that it looks.
            words[32 + next(state) as usize % 16].store(u64::MAX, Relaxed);
        }
        if let Err(Errno::PIPE | Errno::CONNRESET) = send(&liar.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn words_that_are_flipped_while_they_are_read() {
    for engines in [1, 2] {
        let stage = Stage::of(engines);
        let state = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
        beside(&stage, |stage, over| flip(stage, &state, || over.load(Relaxed)));
        // On a busy machine the honest pair may have been served before the daemon looked at any of it: one more, to its
        // end.
        flip(&stage, &state, || false);
        let stat = stage.until(|stat| stat["applications"].as_array().unwrap().is_empty());
        let ended = &stat["ended"];
        assert!(ended.as_object().unwrap().keys().any(|why| why != "gone"), "{ended}");
    }
}

#[test]
fn indices_that_lie_and_descriptors_that_are_replayed() {
    let stage = Stage::new();
    let state = AtomicU64::new(77);
    beside(&stage, |stage, _| {
        let liar = busy(stage);
        let words = liar.memory.words();
        let geometry = liar.welcome.geometry;
        // The rings are before the data areas: that of the application first.
        let data = words.len() - 2 * geometry.data as usize / 8;
        let ring = 64 + geometry.descriptors as usize;
        let rings = (data / 512 * 512).min(data) - 2 * ring;
        for at in rings.saturating_sub(512)..data {
            match next(&state) % 4 {
                0 => words[at].store(next(&state) % 70_000, Relaxed),
                1 => drop(words[at].fetch_add(1 + next(&state) % 3, Relaxed)),
                2 => words[at].store(words[at - 1].load(Relaxed), Relaxed),
                _ => {}
            }
        }
        let _ = send(&liar.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    });
}

#[test]
fn memory_with_holes_and_descriptors_with_other_flags() {
    let stage = Stage::new();
    beside(&stage, |stage, over| {
        let mut liar = busy(stage);
        let bytes = liar.welcome.geometry.bytes() as u64;
        // A blocking socket, as far as the application goes: the daemon says for each message that it does not wait.
        fcntl_setfl(&liar.line, OFlags::empty()).unwrap();
        for page in (0..bytes).step_by(4096) {
            if over.load(Relaxed) {
                break;
            }
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&liar.fd, hole, page, 4096).unwrap();
            assert!(fallocate(&liar.fd, FallocateFlags::empty(), bytes, 4096).is_err(), "it is sealed");
            let _ = send(&liar.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        // It never reads, and its socket is full: rings do not fit.
        liar.flows.clear();
        let _ = liar.side.arm(true);
    });
}

#[test]
fn bells_that_are_rung_without_end() {
    let stage = Stage::new();
    beside(&stage, |stage, over| {
        let noisy = Client::attached(&stage.socket());
        while !over.load(Relaxed) {
            if send(&noisy.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
                std::thread::yield_now();
            }
        }
    });
}

/// Who rings for nothing is not listened to for a millisecond after each so many rings, and wakes the daemon no more often than that.
#[test]
fn rings_without_end_wake_the_daemon_now_and_then() {
    let stage = Stage::with(|settings| settings.idle = IdlePolicy::Park);
    let noisy = Client::attached(&stage.socket());
    // Asleep.
    let quiet = stage.until(|stat| stat["applications"].as_array().unwrap().len() == 1)["engine"]["sleeps"].as_u64();
    let (before, began) = (stage.daemon.sleeps().max(quiet.unwrap()), Instant::now());
    let mut rings = 0_u64;
    while rings < 200_000 {
        match send(&noisy.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => rings += 1,
            // Nobody reads them. It would have been woken for the next one.
            Err(Errno::AGAIN) => {
                std::thread::yield_now();
                if began.elapsed() > Duration::from_millis(500) {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    let (sleeps, ms) = (stage.daemon.sleeps() - before, began.elapsed().as_millis() as u64 + 1);
    // Eight rings, one at a time, and the end of the millisecond; and what it takes to look whether they meant anything.
    assert!(sleeps <= 12 * ms, "{sleeps} sleeps in {ms} ms for {rings} rings");
    let (mut server, mut client, accepted, flow) = pair(&stage.socket());
    echo(&mut server, &mut client, accepted, flow, 10);
}

/// An application that wrote what cannot be comes back later each time, and is told why; others come as before.
#[test]
fn who_wrote_what_cannot_be_has_to_wait() {
    let stage = Stage::with(|settings| settings.penance = Duration::from_millis(100));
    let mut refused = None;
    for _ in 0..20 {
        let liar = match attach(&stage.socket(), Attach::new("liar".to_owned(), 0)) {
            Ok(liar) => liar,
            Err(why) => {
                refused = Some(why);
                break;
            }
        };
        let words = liar.memory.words();
        words[32..48].iter().for_each(|word| word.store(u64::MAX, Relaxed));
        words[48..].iter().take(2048).for_each(|word| word.store(u64::MAX, Relaxed));
        while send(&liar.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) != Err(Errno::PIPE) {
            std::thread::yield_now();
        }
    }
    let refused = refused.expect("the sixth time is more than 2 s later");
    assert!(refused.text.contains("wrote what cannot be"), "{refused:?}");
    let stat = stage.stat();
    assert!(stat["refused"]["too often"].as_u64() >= Some(1), "{stat}");
    assert!(stat["attached"].as_u64() <= Some(6), "{stat}");
}

/// It neither reads nor stops sending; flows to it fill up, and nobody else's.
#[test]
fn applications_that_do_not_read() {
    let stage = Stage::of(2);
    beside(&stage, |stage, over| {
        let (deaf, mut shouting, _, flow) = pair(&stage.socket());
        while !over.load(Relaxed) {
            if !shouting.send(flow, &[3; 8000]) {
                std::thread::yield_now();
            }
        }
        drop(deaf);
    });
}
