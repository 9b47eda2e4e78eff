//! A daemon in a container, and applications in others, as in a pod: it cannot tell which processes they are.
//!
//! The daemon is this program once more, in a namespace of processes of its own. That takes root or unprivileged user namespaces:
//! only without `MACHNET_NAMESPACES`, which `cargo xtask test` sets, may the test pass unrun.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::net::{SendFlags, send};

use crate::client::{connected, echo, hear, pair};
use crate::stage::Stage;

/// What the daemon says before the path of its socket.
const AT: &str = "serving at ";

#[test]
fn applications_of_other_containers_are_served() {
    let kind = if rustix::process::geteuid().is_root() { "-pf" } else { "-rpf" };
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args([kind, "--kill-child"]);
        command
    };
    let can = unshare().arg("true").output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("MACHNET_NAMESPACES").is_none(), "no namespace of processes: {can:?}");
        eprintln!("not run: it takes root or unprivileged user namespaces");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let mut daemon = unshare();
    daemon.arg(me).args(["--exact", "--ignored", "--nocapture", "elsewhere::daemon"]);
    let mut daemon = daemon.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines().map_while(Result::ok);
    let path = lines.find_map(|line| line.split_once(AT).map(|(_, path)| PathBuf::from(path))).unwrap();

    let (mut server, mut client, accepted, flow) = pair(&path);
    echo(&mut server, &mut client, accepted, flow, 10);
    let asker = connected(&path);
    send(&asker, &machnet_channel::shared::Call::Stat.emit(), SendFlags::NOSIGNAL).unwrap();
    let stat: serde_json::Value = serde_json::from_slice(&hear(&asker).0).unwrap();
    let of =
        |what: &str| stat["applications"].as_array().unwrap().iter().map(|one| one[what].clone()).collect::<Vec<_>>();
    assert_eq!(of("pid"), [0, 0], "{stat}");
    let user = if kind == "-pf" { rustix::process::geteuid().as_raw() } else { 0 };
    assert_eq!(of("uid"), [user, user], "{stat}");

    drop(daemon.stdin.take());
    assert!(daemon.wait().unwrap().success());
}

#[test]
#[ignore = "run by applications_of_other_containers_are_served"]
fn daemon() {
    let stage = Stage::new();
    println!("{AT}{}", stage.socket().display());
    let _ = std::io::stdin().read(&mut [0]);
}
