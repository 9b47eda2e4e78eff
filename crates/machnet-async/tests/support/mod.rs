//! What the end-to-end tests share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod counted;
pub mod sidecar;
pub mod still;

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::process::Command;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use machnet_async::{Config, Driver as _, Endpoint, EngineStats, Flow, Listener, Shm, Udp};

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs `test` in a thread of its own and fails if it does not end: a lost wake-up must fail a test, not hang it.
pub fn within_a_minute<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = tell.send(test());
    });
    match told.recv_timeout(Duration::from_secs(60)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("told nothing, and did not panic"),
        },
    }
}

/// Runs `test` on a current-thread runtime, bounded as [`within_a_minute`].
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    within_a_minute(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
}

pub fn endpoint() -> Endpoint {
    endpoint_at(V4, Config::default())
}

pub fn endpoint_at(ip: IpAddr, mut config: Config) -> Endpoint {
    if let Ok(name) = std::env::var(OVER_SHM) {
        // The test's first endpoint is the hub of its others.
        let shm = Shm::attach(&name).unwrap();
        config.max_payload = shm.capabilities().max_payload;
        return Endpoint::builder().driver(shm).config(config).start().unwrap();
    }
    if let Some(endpoint) = sidecar::endpoint_at(ip, config) {
        return endpoint;
    }
    Endpoint::builder().driver(Udp::bind((ip, 0)).unwrap()).config(config).start().unwrap()
}

/// In a test binary that runs over shared memory: its name.
const OVER_SHM: &str = "MACHNET_TEST_OVER_SHM";

/// Runs every test of this binary once more over shared memory, but those in `except`. Each in a process of its own,
/// so that it has a name for itself.
pub fn again_over_shm(except: &[&str]) {
    again("over shared memory", except, OVER_SHM, |number| format!("async-{}-{number}", std::process::id()));
}

/// Runs every test of this binary once more, but those in `except`, in processes in which `variable` has a `value` for the
/// test of a number.
fn again(how: &str, except: &[&str], variable: &str, value: impl Fn(usize) -> String) {
    if [OVER_SHM, sidecar::OVER_SIDECAR].iter().any(|variable| std::env::var(variable).is_ok()) {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let list = Command::new(&program).args(["--list", "--format", "terse"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let tests: Vec<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    assert!(except.iter().all(|name| tests.contains(name)), "{except:?} are not all in {tests:?}");
    let (mut failed, mut said) = (Vec::new(), String::new());
    for (number, test) in tests.iter().filter(|test| !except.contains(test)).enumerate() {
        let value = value(number);
        let output = Command::new(&program).args(["--exact", test]).env(variable, &value).output().unwrap();
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            said.push_str(&format!("{variable}={value} cargo test {test}:\n{text}\n"));
            failed.push(test);
        }
    }
    assert!(failed.is_empty(), "{how}: {failed:?}\n{said}");
}

/// The counters of the endpoint's engine, wherever that is.
pub fn engine_stats(endpoint: &Endpoint) -> EngineStats {
    sidecar::stats(endpoint).unwrap_or_else(|| endpoint.stats())
}

/// Two endpoints with a flow between them: the connected end first.
pub struct Pair {
    pub client: Endpoint,
    pub server: Endpoint,
    pub listener: Listener,
    pub near: Flow,
    pub far: Flow,
}

pub async fn pair() -> Pair {
    pair_with(V4, Config::default()).await
}

pub async fn pair_with(ip: IpAddr, config: Config) -> Pair {
    let (client, server) = (endpoint_at(ip, config), endpoint_at(ip, config));
    let mut listener = server.listen(0).await.unwrap();
    let (near, far) = open(&client, &mut listener).await;
    Pair { client, server, listener, near, far }
}

/// A flow from `client` to `listener`: both ends. Accepted with its first message, which is received here.
pub async fn open(client: &Endpoint, listener: &mut Listener) -> (Flow, Flow) {
    let mut near = client.connect(listener.local_addr()).await.unwrap();
    near.send("first").await.unwrap();
    let (mut far, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, near.local_addr());
    assert_eq!(far.peer_addr(), peer);
    assert_eq!(far.local_addr(), near.peer_addr());
    assert_eq!(far.recv().await.unwrap().unwrap(), "first");
    (near, far)
}

/// Sends everything back until the peer finishes.
pub async fn echo(mut flow: Flow) {
    while let Some(message) = flow.recv().await.unwrap() {
        flow.send(message).await.unwrap();
    }
    flow.close().await.unwrap();
}

/// A port that was free a moment ago.
pub fn free_port() -> SocketAddr {
    UdpSocket::bind((V4, 0)).unwrap().local_addr().unwrap()
}

/// Some bytes that differ from message to message.
pub fn content(number: u64, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// What a future says now.
pub async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}
