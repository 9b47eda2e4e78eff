//! What callers may say, and what they are answered.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use machnet_channel::shared::{Attach, Call, Refusal, Refused, Reply};
use machnet_core::Ports;
use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use rustix::process::{getegid, geteuid};

use crate::client::{Client, ask, attach, connected, hear};
use crate::stage::{Stage, descriptors, small, until};

fn refused(path: &Path, message: &[u8]) -> Refused {
    match Reply::parse(&ask(path, message).1).unwrap() {
        Reply::Refused(refused) => refused,
        Reply::Welcome(welcome) => panic!("{welcome:?}"),
    }
}

fn hello() -> Attach {
    Attach::new("test".to_owned(), 0)
}

#[test]
fn who_is_not_understood_is_told_why() {
    let stage = Stage::new();
    let good = Call::Attach(hello()).emit();
    let foreign = Call::Attach(Attach { versions: (7, 9), ..hello() }).emit();
    let Refused { why, versions, text } = refused(&stage.socket(), &foreign);
    assert_eq!((why, versions), (Refusal::Version, (1, 1)));
    assert!(text.contains("speaks versions 1 to 1, the application 7 to 9"), "{text}");
    for (bytes, part) in [
        (&good[..10], "10 bytes, which is too short"),
        (b"GET / HTTP/1.1\r\n\r\nxxxxxxxxxxxxx", "begins with"),
        (&[&good[..4], &[9; 40]].concat()[..], "a call of kind"),
    ] {
        let Refused { why, text, .. } = refused(&stage.socket(), bytes);
        assert_eq!(why, Refusal::Malformed);
        assert!(text.contains(part), "{text}");
    }
    // A later version says more, and begins alike.
    let longer = [&good[..], &[b'x'; 3000]].concat();
    assert!(matches!(Reply::parse(&ask(&stage.socket(), &longer).1), Ok(Reply::Welcome(_))));
    let refused = stage.until(|stat| stat["refused"]["malformed"] == 3)["refused"].clone();
    assert_eq!(refused["version"], 1);
}

#[test]
fn more_than_a_message_may_have_is_no_message() {
    let stage = Stage::new();
    for len in [0_usize, 1, 4096, 100_000] {
        let socket = connected(&stage.socket());
        // Nothing at all is the end of what it says.
        send(&socket, &vec![0xff; len], SendFlags::NOSIGNAL).unwrap();
        let answer = hear(&socket).0;
        assert!(len == 0 || matches!(Reply::parse(&answer), Ok(Reply::Refused(_))), "{len}: {answer:?}");
    }
    drop(Client::attached(&stage.socket()));
}

#[test]
fn quotas_and_permissions() {
    let stage = Stage::with(|settings| {
        let mut mine = small();
        mine.name = "mine".to_owned();
        (mine.user, mine.group) = (Some(geteuid().as_raw()), Some(getegid().as_raw()));
        mine.applications = 2;
        mine.quota.ports = Ports::new(vec![7000..=7000]);
        settings.allow = vec![mine];
    });
    let first = Client::attached(&stage.socket());
    let mut second = Client::attached(&stage.socket());
    let Err(Refused { why, text, .. }) = attach(&stage.socket(), hello()) else { panic!("let in") };
    assert_eq!(why, Refusal::Quota);
    assert!(text.contains("2 applications of \"mine\" are attached"), "{text}");
    let error = second.listen(7001).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("port 7001, only on: 7000"), "{error}");
    drop(first);
    until(|| attach(&stage.socket(), hello()).is_ok());

    let nobody = Stage::with(|settings| settings.allow[0].user = Some(geteuid().as_raw() + 1));
    let Err(Refused { why, text, .. }) = attach(&nobody.socket(), hello()) else { panic!("let in") };
    assert_eq!(why, Refusal::NotPermitted);
    assert!(text.contains(&format!("neither user {}", geteuid().as_raw())), "{text}");

    let one = small().bytes(1);
    let poor = Stage::with(|settings| settings.memory = 2 * one);
    let _rich = [Client::attached(&poor.socket()), Client::attached(&poor.socket())];
    let Err(Refused { why, text, .. }) = attach(&poor.socket(), hello()) else { panic!("let in") };
    assert_eq!(why, Refusal::Quota);
    assert!(text.contains("the daemon has 0B of its"), "{text}");
}

#[test]
fn fewer_flows_are_given_who_asks_for_fewer() {
    let stage = Stage::with(|settings| settings.allow[0].geometry.flows = 256);
    for (asked, given) in [(0, 256), (1, 64), (65, 128), (256, 256), (100_000, 256)] {
        let client = attach(&stage.socket(), Attach::new("test".to_owned(), asked)).unwrap();
        assert_eq!(client.welcome.geometry.flows, given);
    }
}

/// Twice as many as may wait, and one who speaks: he waits for none of them.
#[test]
fn silent_callers_hold_up_nobody_for_long() {
    let stage = Stage::new();
    let silent: Vec<OwnedFd> = (0..64).map(|_| connected(&stage.socket())).collect();
    drop(Client::attached(&stage.socket()));
    for socket in &silent {
        assert!(hear(socket).0.is_empty(), "closed");
    }
    let stat = stage.stat();
    assert_eq!(stat["silent_callers"], 64);
}

/// Descriptors that come along are closed, whenever they come.
#[test]
fn a_bomb_of_descriptors_does_not_go_off() {
    let stage = Stage::alone();
    let bomb = |socket: &OwnedFd, message: &[u8]| {
        let null = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![null.as_fd(); 200];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    };
    drop(Client::attached(&stage.socket()));
    stage.until(|stat| stat["ended"]["gone"] == 1);
    let before = descriptors();
    for _ in 0..50 {
        let socket = connected(&stage.socket());
        bomb(&socket, &Call::Attach(hello()).emit()).unwrap();
        assert!(matches!(Reply::parse(&hear(&socket).0), Ok(Reply::Welcome(_))));
        // And as a ring, when it is attached.
        while bomb(&socket, &[1]).is_ok() {}
    }
    stage.until(|stat| stat["ended"]["gone"] == 51);
    until(|| descriptors() <= before + 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_caller_says_he_is_answered_or_sent_away(bytes in prop::collection::vec(any::<u8>(), 1..200), good in 0..30_usize) {
        thread_local!(static STAGE: Stage = Stage::new());
        STAGE.with(|stage| {
            let mut bytes = bytes;
            let call = Call::Attach(hello()).emit();
            let good = good.min(bytes.len()).min(call.len());
            bytes[..good].copy_from_slice(&call[..good]);
            let (_, answer, fds) = ask(&stage.socket(), &bytes);
            match Reply::parse(&answer) {
                Ok(Reply::Welcome(_)) => prop_assert!(!fds.is_empty()),
                Ok(Reply::Refused(_)) => prop_assert!(fds.is_empty()),
                // A `stat` is answered by JSON.
                Err(_) => prop_assert_eq!(answer.first(), Some(&b'{')),
            }
            Ok(())
        })?;
    }
}
