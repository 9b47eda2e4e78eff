//! What the tests share: a server in a process of its own, which can be killed.
#![allow(dead_code, unreachable_pub, clippy::print_stdout, reason = "each test binary uses a part")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use machnet_async::{Config, Endpoint, FlowListener, Udp};

/// Says to a test that it is the server of itself, and where it listens.
const SERVER: &str = "MACHNET_TEST_SERVER";

/// An endpoint that notices dead peers soon.
pub fn endpoint(ip: &str) -> Endpoint {
    let mut config = Config::default();
    config.dead_peer_timeout = Duration::from_millis(800);
    let ip: std::net::IpAddr = ip.parse().unwrap();
    Endpoint::builder().driver(Udp::bind((ip, 0)).unwrap()).config(config).start().unwrap()
}

/// In the other process: the port it was given.
pub fn is_other() -> Option<u16> {
    std::env::var(SERVER).ok().map(|port| port.parse().unwrap())
}

/// In the server's process: where it is to listen.
pub async fn is_server() -> Option<FlowListener> {
    let port = is_other()?;
    // The port of a server that was killed is free at once: nothing of UDP lingers.
    let listener = FlowListener::from(endpoint("127.0.0.1").listen(port).await.unwrap());
    println!("\nat {}", listener.local_addr().unwrap());
    Some(listener)
}

/// A process that runs this very test as a server; killed when dropped.
pub struct Server {
    child: Child,
    pub at: SocketAddr,
}

impl Server {
    pub fn start(test: &str, port: u16) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(SERVER, port.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let at = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("at ").map(|at| at.parse().unwrap()));
        Self { child, at: at.expect("the server says where it listens") }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails a test that hangs.
pub async fn within_a_minute<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("the test hangs")
}
