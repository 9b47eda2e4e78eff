//! Real processes that are killed at any instruction.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use machnet_channel::shared::Attach;

use crate::client::{Client, attach_all, echo, pair};
use crate::several::{listen_everywhere, meet};
use crate::stage::{Stage, descriptors};

/// Says to a process of this program that it is to be killed, and where the daemon is.
const VICTIM: &str = "MACHNET_TEST_VICTIM";
/// Says that it attaches to all engines.
const EVERYWHERE: &str = "MACHNET_TEST_EVERYWHERE";
/// How often to kill, if not as often as CI does: `cargo xtask test --only kills` says 1 000.
const KILLS: &str = "MACHNET_KILLS";

/// Attaches, listens, connects to itself, sends and reads for ever.
#[test]
fn victim() {
    let Ok(socket) = env::var(VICTIM) else { return };
    let socket = PathBuf::from(socket);
    if env::var(EVERYWHERE).is_ok() {
        everywhere(&socket);
    }
    loop {
        let (mut server, mut client, accepted, flow) = pair(&socket);
        echo(&mut server, &mut client, accepted, flow, 20);
    }
}

/// The same, with a listener at each engine and a flow from each.
fn everywhere(socket: &Path) {
    loop {
        let attach = |name: &str| attach_all(socket, Attach::new(name.to_owned(), 0)).unwrap();
        let (mut servers, clients) = (attach("servers"), attach("clients"));
        let address = listen_everywhere(&mut servers, 0);
        for mut client in clients {
            let (at, accepted, flow) = meet(&mut servers, &mut client, address);
            echo(&mut servers[at], &mut client, accepted, flow, 10);
        }
    }
}

fn spawn(stage: &Stage, everywhere: bool) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "kills::victim", "--nocapture"]).env(VICTIM, stage.socket());
    if everywhere {
        command.env(EVERYWHERE, "yes");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn killed_at_any_instruction_they_leave_nothing() {
    killed(1);
}

#[test]
fn killed_at_any_instruction_they_leave_nothing_at_any_of_two_engines() {
    killed(2);
}

fn killed(engines: usize) {
    let kills: u64 = env::var(KILLS).ok().map_or(100, |text| text.parse().expect("a number of kills")) / 2;
    let stage = Stage::alone_with(engines);
    let (mut server, mut client, accepted, flow) = pair(&stage.socket());
    let taken = stage.stat()["memory"]["taken"].clone();
    let before = descriptors();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for kill in 0..kills {
        let mut victim = spawn(&stage, engines > 1 && kill % 3 > 0);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // From before it attaches to well after; on a busy machine, every second not before.
        if kill % 2 == 0 {
            stage.until(|stat| stat["applications"].as_array().unwrap().len() > 2);
        }
        std::thread::sleep(Duration::from_micros(500 + state % 30_000));
        victim.kill().unwrap();
        victim.wait().unwrap();
        if kill % 10 == 0 {
            echo(&mut server, &mut client, accepted, flow, 5);
        }
    }
    let stat = stage.until(|stat| {
        stat["applications"].as_array().unwrap().len() == 2 && stat["engine"]["flows"].as_u64() <= Some(2)
    });
    assert_eq!(stat["memory"]["taken"], taken);
    let ended = stat["ended"].as_object().unwrap();
    assert!(ended.keys().all(|why| why == "gone"), "who dies leaves no word that cannot be: {ended:?}");
    assert!(ended["gone"].as_u64() > Some(kills / 4), "{ended:?}: most were attached");
    crate::stage::until(|| descriptors() <= before + 1);
    echo(&mut server, &mut client, accepted, flow, 100);
    drop(Client::attached(&stage.socket()));
}
