//! `machnet daemon` and `machnet stat`.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::machnet;

fn config(dir: &Path, rest: &str) -> String {
    let path = dir.join("machnet.toml");
    let socket = dir.join("m.sock");
    let text = format!(
        "driver.url = \"udp://127.0.0.1\"\nsocket.path = {socket:?}\n[[allow]]\nname = \"all\"\nports = [\"any\"]\n{rest}"
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A daemon, killed when dropped, and the service manager that it tells how far it is.
struct Daemon {
    child: Child,
    manager: UnixDatagram,
}

impl Daemon {
    fn start(dir: &Path, config: &str) -> Self {
        let notify = dir.join("notify");
        let _ = std::fs::remove_file(&notify);
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_machnet"));
        command.args(["daemon", "--config", config]).env("NOTIFY_SOCKET", notify);
        let log = File::create(dir.join("log")).unwrap();
        let child = command.env_remove("RUST_LOG").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let daemon = Self { child, manager };
        assert!(daemon.told().starts_with("READY=1\nSTATUS=serving 127.0.0.1:"));
        daemon
    }

    /// What the manager is told next.
    fn told(&self) -> String {
        let mut bytes = [0; 256];
        let len = self.manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    /// Ends it; true if that went well.
    fn end(&mut self, signal: Signal) -> bool {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn configurations_are_checked() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/machnet.toml");
    let ended = machnet(&format!("daemon --config {example} --check"));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.out.contains("good: udp://0.0.0.0:0 at /tmp/machnet.sock, 1 engine\n"), "{ended:?}");
    let dir = tempfile::tempdir().unwrap();
    let several = config(dir.path(), "[engine]\nengines = 4\n");
    let ended = machnet(&format!("daemon --config {several} --check"));
    assert!(ended.out.ends_with("m.sock, 4 engines\n"), "{ended:?}");
    let bad = config(dir.path(), "flows = 0\nspeed = \"high\"\n");
    machnet(&format!("daemon --config {bad} --check")).refused(
        1,
        &[
            "machnet.toml: line 6: allow.flows = 0: wanted is a whole number from 1 to 16384",
            "machnet.toml: line 7: unknown key \"allow.speed\"",
        ],
    );
    machnet("daemon --config /no/such/file").refused(1, &["/no/such/file: cannot read it"]);
}

/// It says when it is ready, answers `stat`, stands alone at its socket, and ends by SIGTERM.
#[test]
fn a_daemon_serves_until_it_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let (path, socket) = (config(dir.path(), "[engine]\nengines = 2\n"), dir.path().join("m.sock"));
    machnet(&format!("stat --socket {}", socket.display())).refused(1, &["there is no such socket"]);
    let mut daemon = Daemon::start(dir.path(), &path);
    let stat = machnet(&format!("stat --json --interval 1ms --socket {}", socket.display())).json();
    assert!(stat["home"].as_str().unwrap().starts_with("127.0.0.1:"), "{stat}");
    assert!(stat["applications"].as_array().unwrap().is_empty() && stat["engine"]["packets_sent_per_s"].is_number());
    let shown = machnet(&format!("stat --interval 1ms --socket {}", socket.display()));
    assert!(shown.out.contains("dropped: none") && shown.out.contains("attached 0; refused: none"), "{shown:?}");
    let engines = stat["engines"].as_array().unwrap();
    let counters = ["rounds", "busy_ns", "flows", "handed_over", "taken_over", "handover_ratio", "handover_drops"];
    assert!(
        engines.len() == 2 && engines.iter().all(|engine| counters.iter().all(|key| engine[key].is_number())),
        "{stat}"
    );
    assert!(engines.iter().all(|engine| engine["busy_share"].as_f64().is_some_and(|share| share <= 1.0)), "{stat}");
    assert!(["engine 0: ", "engine 1: "].iter().all(|part| shown.out.contains(part)), "{shown:?}");
    machnet(&format!("daemon --config {path}")).refused(1, &["m.sock: a daemon serves this socket already"]);

    assert!(daemon.end(Signal::TERM));
    assert_eq!(daemon.told(), "STOPPING=1");
    // What it did is in its log, without anything set, and as plain text.
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("serving") && log.contains("ending") && !log.contains('\u{1b}'), "{log}");
    assert!(!socket.exists());
    // One that was killed leaves its socket, which nobody listens at; the next one takes it.
    assert!(!Daemon::start(dir.path(), &path).end(Signal::KILL) && socket.exists());
    machnet(&format!("stat --socket {}", socket.display())).refused(1, &["nobody listens there any more"]);
    assert!(Daemon::start(dir.path(), &path).end(Signal::INT) && !socket.exists());
}
