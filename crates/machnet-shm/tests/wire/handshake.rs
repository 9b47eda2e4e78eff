use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Duration;

use machnet_channel::ForeignRegion;
use machnet_core::Driver;
use machnet_shm::Shm;

use crate::node::{Node, name, until};
use crate::raw::{MAGIC, REPLY_LEN, dial, false_hub, hear, hello, say};

/// Whom a client tells its address may call it at once, even in the round in which it came: the hub knows it by then.
#[test]
fn a_client_that_has_attached_is_known_to_its_hub() {
    let name = name();
    let mut hub = Node::new(Shm::bind(&name).unwrap());
    for _ in 0..200 {
        let client = Shm::connect(&name).unwrap();
        hub.send(client.home(), b"welcome");
        assert!(hub.shm.unreachable().is_none());
        assert_eq!((hub.batch.len(), hub.shm.stats().wires), (0, 1));
        drop(client);
        hub.wait_for_wires(0);
    }
}

#[test]
fn callers_who_talk_nonsense_are_sent_away() {
    let name = name();
    let hub = Shm::bind(&name).unwrap();
    for (n, nonsense) in [&b"x"[..], b"", &[0; 16], &[255; 200], &hello(1, 1)[..15]].into_iter().enumerate() {
        let caller = dial(&name);
        say(&caller, nonsense, &[]);
        assert!(hear(&caller).is_empty(), "closed");
        assert_eq!(hub.stats().refused, n as u64 + 1);
    }
    Shm::connect(&name).unwrap();
}

#[test]
fn another_version_is_told_which_there_are() {
    let name = name();
    let hub = Shm::bind(&name).unwrap();
    let caller = dial(&name);
    say(&caller, &hello(2, 7), &[]);
    let reply = hear(&caller);
    assert_eq!(reply.len(), REPLY_LEN);
    let field = |at: usize| u16::from_ne_bytes([reply[at], reply[at + 1]]);
    assert_eq!((field(4), field(8), field(10)), (1, 1, 1), "version; from 1; to 1");
    assert!(hear(&caller).is_empty(), "closed");
    assert_eq!(hub.stats().refused, 1);

    // A later client that still speaks ours is welcome.
    let caller = dial(&name);
    say(&caller, &[hello(1, 9), vec![1, 2, 3, 4, 5, 6, 7, 8]].concat(), &[]);
    let reply = hear(&caller);
    assert_eq!(u16::from_ne_bytes([reply[4], reply[5]]), 0);
}

/// More silent callers than are listened to at once, and descriptors that nobody asked for.
#[test]
fn silent_and_generous_callers_delay_nobody_for_long() {
    let name = name();
    let mut hub = Node::new(Shm::bind(&name).unwrap());
    let silent: Vec<OwnedFd> = (0..20).map(|_| dial(&name)).collect();
    let client = Shm::connect(&name).unwrap();
    hub.wait_for_wires(1);
    drop((silent, client));
    hub.wait_for_wires(0);

    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let caller = dial(&name);
    let gift = dial(&name);
    say(&caller, &hello(1, 1), &[&gift; 64]);
    assert_eq!(hear(&caller).len(), REPLY_LEN);
    hub.wait_for_wires(1);
    for _ in 0..50 {
        say(&caller, &[0], &[&gift; 64]);
        until(|| {
            hub.shm.starve();
            hub.round();
            !hub.is_readable()
        });
    }
    // Other tests of this process have descriptors of their own, but not thousands.
    assert!(descriptors() < 1000, "{} descriptors", descriptors());
}

fn false_welcome(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut reply = MAGIC.to_ne_bytes().to_vec();
    for field in [0_u16, 1, 0, 0] {
        reply.extend(field.to_ne_bytes());
    }
    reply.extend(0_u64.to_ne_bytes());
    for field in [0x7f00_0001_u32, 0x7f00_0002, 1024, 1 << 20, 16_640] {
        reply.extend(field.to_ne_bytes());
    }
    reply.resize(REPLY_LEN, 0);
    change(&mut reply);
    reply
}

#[test]
fn hubs_that_talk_nonsense_are_named() {
    let memory = || Some(ForeignRegion::create("test", 1 << 20).unwrap().1);
    for (reply, memory, part) in [
        (b"hello".to_vec(), None, "an answer of 5 bytes, not 48"),
        (vec![7; REPLY_LEN], None, "an answer that begins with 0x07070707"),
        (false_welcome(|_| {}), None, "no memory"),
        (false_welcome(|_| {}), memory(), "shared memory of 1048576 bytes"),
        (false_welcome(|reply| reply[6] = 9), memory(), "version 9"),
        (false_welcome(|reply| reply[28..32].fill(0)), memory(), "0 descriptors"),
        (false_welcome(|reply| reply[4] = 99), None, "a refusal for reason 99"),
    ] {
        let name = name();
        let hub = false_hub(&name, reply, memory);
        let error = Shm::connect(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().starts_with(&format!("shm://{name}: its hub sent ")), "{error}");
        hub.join().unwrap();
    }
}

#[test]
fn a_hub_that_is_silent_or_goes_away_is_not_waited_for() {
    let silent = name();
    let hub = false_hub(&silent, Vec::new(), None);
    let error = Shm::connect(&silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    hub.join().unwrap();

    // It accepts nobody: the kernel lets us connect, and nothing comes.
    let name = name();
    let _hub = crate::raw::deaf_hub(&name);
    let error = Shm::builder().patience(Duration::from_millis(20)).connect(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains(&format!("(process {}) does not answer", std::process::id())), "{error}");
}
