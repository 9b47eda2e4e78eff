//! A process to talk to, and to hurt: the test binary (or the soak program) started once more, as a child.
//!
//! What a child does is in the environment variable [`ROLE`]; what it has to say it prints in lines that begin with `@`.
//! A child dies with the thread that started it, so that nothing is left behind whatever happens to the parent.
//!
//! Messages verify themselves: length and bytes of message `index` follow from the key of their flow.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each program uses a part")]
#![allow(clippy::print_stdout, reason = "how a child talks to its parent")]

mod content;
pub mod idle;
mod serve;

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use machnet::{Config, Endpoint, Udp};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

pub use content::{content, size, verify};
pub use serve::{Request, count_of, serve};

/// The variable that makes a child of this program, and says what it does.
pub const ROLE: &str = "MACHNET_FAULTS_ROLE";

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Nothing here takes so long, on any machine: who waits longer has found a hang.
pub const LONG: Duration = Duration::from_secs(60);

/// The role of this process, if it is a child. It then ends with its parent.
pub fn role() -> Option<Vec<String>> {
    let role = std::env::var(ROLE).ok()?;
    set_parent_process_death_signal(Some(Signal::KILL)).expect("children end with their parent");
    Some(role.split_whitespace().map(str::to_owned).collect())
}

/// A child says something.
pub fn say(what: impl Display) {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "\n@ {what}").and_then(|()| out.flush());
    said.expect("the parent listens");
}

/// An endpoint on loopback whose peers are dead after `dead_peer_timeout`.
pub fn endpoint(dead_peer_timeout: Duration) -> Endpoint {
    endpoint_at(V4, dead_peer_timeout)
}

/// The same at one of the addresses of loopback.
pub fn endpoint_at(ip: IpAddr, dead_peer_timeout: Duration) -> Endpoint {
    let mut config = Config::default();
    config.dead_peer_timeout = dead_peer_timeout;
    start(ip, config)
}

pub fn endpoint_with(config: Config) -> Endpoint {
    start(V4, config)
}

fn start(ip: IpAddr, config: Config) -> Endpoint {
    Endpoint::builder().driver(Udp::bind((ip, 0)).unwrap()).config(config).start().unwrap()
}

/// A child of this process.
pub struct Process {
    child: Child,
    said: Receiver<String>,
}

impl Process {
    /// Starts this program again, in `role`. `arguments`: what makes it reach [`role`].
    pub fn start(arguments: &[&str], role: impl Display) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .env(ROLE, role.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(what) = line.strip_prefix("@ ") {
                    // Nobody listens any more: drain the pipe all the same.
                    let _ = tell.send(what.to_owned());
                }
            }
        });
        Self { child, said }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next thing the child says.
    pub fn hear(&self) -> String {
        match self.said.recv_timeout(LONG) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => panic!("process {} says nothing", self.id()),
            Err(RecvTimeoutError::Disconnected) => panic!("process {} ended without a word", self.id()),
        }
    }

    /// What the child has said and nobody heard.
    pub fn try_hear(&self) -> Option<String> {
        self.said.try_recv().ok()
    }

    /// The address that the child says.
    pub fn hear_address(&self) -> SocketAddr {
        self.hear().parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        // Not reaped before `kill` or `wait`, which take the process: the id is ours.
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    /// Ends the child as nothing in it can prevent.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Waits for a child that was killed: its ports are free then.
    pub fn reap(&mut self) {
        self.child.wait().unwrap();
    }

    /// Waits for the child to end by itself.
    pub fn wait(mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "process {} does not end", self.id());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Resident memory of a process, bytes.
pub fn rss(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// Open file descriptors of a process.
pub fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}
