//! A bad neighbour: applications that make a daemon as much trouble as they can, until they are killed. `cargo xtask bench --sidecar`
//! measures an honest pair beside them.
//!
//! `neighbour KIND SOCKET CORE`: everything happens on one core, at the lowest priority, so that what it takes from others it takes
//! by way of the daemon; those that have to wait use the core meanwhile, so that all use as much of it. It says "at it" once it has begun.
#![allow(unused_crate_dependencies, clippy::print_stdout, reason = "a program")]

#[path = "../tests/daemon/client.rs"]
#[allow(dead_code, reason = "tests need more of it")]
mod client;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use machnet_channel::Words as _;
use machnet_channel::shared::Attach;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::thread::{CpuSet, sched_setaffinity};

use client::{Client, pair};

/// What tests call so.
mod stage {
    /// Waits as long as it takes: whoever measures has a limit.
    pub(crate) fn until(mut done: impl FnMut() -> bool) {
        while !done() {
            std::thread::yield_now();
        }
    }
}

/// What is done to the daemon at a socket, without end.
type Attack = fn(&Path);

/// Kinds, and what they do.
const KINDS: [(&str, Attack); 6] =
    [("busy", busy), ("calls", calls), ("sends", sends), ("deaf", deaf), ("rings", rings), ("corrupts", corrupts)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match &arguments[..] {
        [kind, socket, core] => KINDS.iter().find(|(name, _)| name == kind).zip(Some(socket)).zip(core.parse().ok()),
        _ => None,
    };
    let Some(((&(_, run), socket), core)) = parsed else {
        let kinds: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
        println!("wanted is KIND SOCKET CORE, where KIND is one of {}", kinds.join(", "));
        return ExitCode::from(2);
    };
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("the core is there");
    rustix::process::nice(19).expect("everybody may be nicer");
    run(Path::new(socket));
    ExitCode::FAILURE
}

fn at_it() {
    println!("at it");
    std::io::stdout().flush().expect("somebody listens");
}

/// Not a neighbour at all: what it costs that the core is in use.
fn busy(_: &Path) {
    at_it();
    spin();
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// No neighbour either: what [`rings`] does, to itself.
fn calls(_: &Path) {
    let (near, _far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None)
        .expect("there are descriptors");
    let words: Vec<AtomicU64> = std::iter::repeat_with(AtomicU64::default).take(64).collect();
    at_it();
    loop {
        mark_all(&words);
        let _ = send(&near, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// One sends all it can to another, which reads it.
fn sends(socket: &Path) {
    let (mut server, mut client, _, flow) = pair(socket);
    at_it();
    loop {
        while client.send(flow, &[3; 8000]) {}
        server.look();
        client.look();
    }
}

/// One never reads, and another sends to it.
fn deaf(socket: &Path) {
    std::thread::spawn(|| spin());
    let (_deaf, mut client, _, flow) = pair(socket);
    at_it();
    loop {
        if !client.send(flow, &[3; 8000]) {
            client.look();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// All marks, and a ring, again and again.
fn rings(socket: &Path) {
    let client = Client::attached(socket);
    let words = client.memory.words();
    at_it();
    loop {
        mark_all(words);
        let _ = send(&client.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// It writes what cannot be, is thrown out, and comes again.
fn corrupts(socket: &Path) {
    std::thread::spawn(|| spin());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut begun = false;
    loop {
        let Ok(liar) = client::attach(socket, Attach::new("liar".to_owned(), 0)) else {
            // The daemon is not done with the last one.
            std::thread::yield_now();
            continue;
        };
        if !std::mem::replace(&mut begun, true) {
            at_it();
        }
        let words = liar.memory.words();
        let tables = words.len() - 2 * liar.welcome.geometry.data as usize / 8;
        loop {
            for _ in 0..64 {
                words[next() as usize % tables].store(next(), Relaxed);
            }
            mark_all(words);
            // Fails when the connection is closed; or full, which takes a daemon that does not look.
            if send(&liar.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
    }
}

/// The marks follow the wants: those of the first flows are among these words.
fn mark_all(words: &[AtomicU64]) {
    words[32..48].iter().for_each(|word| word.store(u64::MAX, Relaxed));
}
