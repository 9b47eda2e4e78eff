//! Two processes on one DPDK wire, without kernel, network card, huge pages or root: memif, and virtio-user with vhost, which is
//! the datapath of a cloud's VM over shared memory.
//!
//! Peers are children of this process: this binary once more, see [`process`]. DPDK is started once in each process, so
//! tests share this one's; each has devices of its own.

mod copies;
#[path = "../process/mod.rs"]
mod process;
mod several;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BufMut as _;
use machnet::dpdk::DpdkUrl;
use machnet::{Config, Congestion, Driver as _, Endpoint};
use process::{LONG, Process, Request, content, count_of, say, serve, size, verify};

/// Where servers listen.
const PORT: u16 = 9;
/// Bytes of each direction of a bulk transfer: a test of moments. `MACHNET_BULK_MIB` has it longer, once for each kind of wire.
const BULK_MIB: u64 = 64;
/// The longest message of a bulk transfer.
const LARGE: usize = 1 << 20;

/// Not a test: where a child begins.
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    let role: Vec<&str> = role.iter().map(String::as_str).collect();
    runtime().block_on(async {
        match role[..] {
            ["serve", url] => {
                let endpoint = open(url);
                let listener = endpoint.listen(PORT).await.unwrap();
                say(listener.local_addr());
                serve(listener).await.unwrap();
            }
            ["default", to] => {
                let to: SocketAddr = to.parse().unwrap();
                match Endpoint::default_for(to.ip()) {
                    Ok(endpoint) => {
                        echo_all_sizes(&endpoint, to).await;
                        say("echoed");
                    }
                    Err(error) => say(error.to_string().replace('\n', " ")),
                }
            }
            _ => panic!("no such role: {role:?}"),
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn open(url: &str) -> Endpoint {
    let url: DpdkUrl = url.parse().unwrap();
    let driver = url.open().unwrap();
    let config = config(driver.capabilities().max_payload);
    Endpoint::builder().driver(driver).engines(url.engines()).config(config).start().unwrap()
}

fn config(max_payload: u32) -> Config {
    let mut config = Config::default();
    config.max_payload = max_payload;
    config.congestion = Some(Congestion::Cubic);
    config.dead_peer_timeout = Duration::from_secs(5);
    config
}

/// The keys that say where memory comes from: no huge pages. `MACHNET_DPDK_MEMORY` has others.
fn memory() -> String {
    std::env::var("MACHNET_DPDK_MEMORY").unwrap_or_else(|_| "huge=no".to_owned())
}

/// The two ends of a wire, as URLs without addresses.
struct Wire {
    here: String,
    there: String,
    /// Further keys: of this process's port, and of the other's.
    more: [&'static str; 2],
    /// It carries as much as is asked for; other tests are of the same wire.
    whole: bool,
}

/// A number for this test's devices, which is another in each process that runs tests at the same time.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Wire {
    /// memif over an abstract socket. The server's side is the one that listens there.
    fn memif(here: &str, there: &str) -> Self {
        let number = number();
        let end = |role| {
            let socket = format!("/machnet-dpdk-{}-{number}", std::process::id());
            format!("dpdk://vdev:net_memif{number},role={role},socket={socket}")
        };
        Self { here: end(here), there: end(there), more: [""; 2], whole: false }
    }

    /// vhost-user: a machine and its host. `listens` is the side that has the socket.
    fn virtio(here: Side, listens: Side) -> Self {
        let (number, socket) = socket();
        let (host, machine) = match listens {
            Side::Host => ("", ""),
            Side::Machine => (",client=1", ",server=1"),
        };
        let host = format!("dpdk://vdev:net_vhost{number},iface={socket}{host}");
        let machine = format!("dpdk://vdev:net_virtio_user{number},path={socket}{machine}");
        let (here, there) = match here {
            Side::Host => (host, machine),
            Side::Machine => (machine, host),
        };
        Self { here, there, more: [""; 2], whole: false }
    }

    /// True if this process's port is opened only when the other's is there.
    fn comes_second(&self) -> bool {
        self.here.contains("role=client") || self.here.contains("virtio_user")
    }

    fn open(&self) -> Endpoint {
        open(&format!("{}?ip=10.90.0.1/24&ip=fd90::1/64&{}{}", self.here, memory(), self.more[0]))
    }

    fn start_peer(&self) -> (Process, SocketAddr) {
        let url = format!("{}?ip=10.90.0.2/24&ip=fd90::2/64&{}{}", self.there, memory(), self.more[1]);
        let peer = Process::start(&["--exact", "child", "--nocapture"], format_args!("serve {url}"));
        let address = peer.hear_address();
        (peer, address)
    }

    /// Both ends. Who connects finds somebody there.
    fn open_both(&self) -> (Endpoint, Process, SocketAddr) {
        if self.comes_second() {
            let (peer, to) = self.start_peer();
            (self.open(), peer, to)
        } else {
            let endpoint = self.open();
            let (peer, to) = self.start_peer();
            (endpoint, peer, to)
        }
    }

    /// Bytes of a bulk transfer.
    fn bulk(&self) -> u64 {
        let asked = std::env::var("MACHNET_BULK_MIB").ok().filter(|_| self.whole);
        asked.map_or(BULK_MIB, |text| text.parse().unwrap()) << 20
    }

    /// Everything that every wire must do.
    fn prove(&self) {
        bounded(async {
            let (endpoint, peer, to) = self.open_both();
            echo_all_sizes(&endpoint, to).await;
            bulk_both_ways(&endpoint, to, self.bulk()).await;
            sank_unchanged(&peer);

            let mut flow = Request::Hold.connect(&endpoint, to).await.unwrap();
            flow.send("unread").await.unwrap();
            peer.kill();
            let error = flow.recv().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
            let (peer, to) = self.start_peer();
            let before = endpoint.stats();
            echo_all_sizes(&endpoint, to).await;
            // Whatever the device had when its peer was gone is back.
            let after = endpoint.stats();
            assert!(after.parts_in_place > before.parts_in_place + 50, "{before:?}, {after:?}");
            assert_eq!(after.long_frames_missed, before.long_frames_missed, "{after:?}");
            endpoint.shutdown().await.unwrap();
            drop(peer);
        });
    }
}

/// Which side of a vhost-user socket.
#[derive(Clone, Copy)]
enum Side {
    /// vhost: the backend.
    Host,
    /// virtio-user: the front end.
    Machine,
}

/// A number, and a path of a socket.
fn socket() -> (u32, String) {
    let number = number();
    let path = std::env::temp_dir().join(format!("machnet-dpdk-{}-{number}", std::process::id()));
    (number, path.display().to_string())
}

/// Runs `test`, and fails if it hangs.
fn bounded(test: impl Future<Output = ()>) {
    runtime().block_on(async { tokio::time::timeout(3 * LONG, test).await.expect("the test hangs") });
}

/// Connects although the link may only be coming up. That takes no half minute: a client whose server is started again found it when it did
/// not yet know the client, was sent away, and waited for as long.
async fn connect(request: Request, endpoint: &Endpoint, to: SocketAddr) -> machnet::Flow {
    for _ in 0..8 {
        match request.connect(endpoint, to).await {
            Ok(flow) => return flow,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
            Err(error) => panic!("cannot connect: {error}"),
        }
    }
    panic!("eight times nobody answered, for 24 s")
}

/// Sends a message: every other one is built in what `reserve` gives.
async fn send(flow: &mut machnet::Flow, index: u64, content: Vec<u8>) {
    if index.is_multiple_of(2) {
        return flow.send(content).await.unwrap();
    }
    let mut message = flow.reserve(content.len()).await.unwrap();
    message.put_slice(&content);
    message.send();
}

/// Messages of every power of two and beside it, there and back.
async fn echo_all_sizes(endpoint: &Endpoint, to: SocketAddr) {
    let mut flow = connect(Request::Echo, endpoint, to).await;
    for (index, len) in (0..=20).flat_map(|bits| [(1_usize << bits) - 1, 1 << bits, (1 << bits) + 1]).enumerate() {
        send(&mut flow, index as u64, content(7, index as u64, len)).await;
        let echo = flow.recv().await.unwrap().unwrap();
        assert!(echo == content(7, index as u64, len), "{len} bytes come back different");
    }
    flow.close().await.unwrap();
}

/// Many bytes at the same time in both directions, each verified by its receiver.
async fn bulk_both_ways(endpoint: &Endpoint, to: SocketAddr, bytes: u64) {
    let (down, up) = (11, 12);
    let count = move |key| count(key, bytes);
    let mut source = connect(Request::Source { key: down, max: LARGE, count: count(down) }, endpoint, to).await;
    let receiving = tokio::spawn(async move {
        for index in 0..count(down) {
            let message = source.recv().await.unwrap().unwrap();
            verify(down, index, LARGE, message.as_slice()).unwrap();
        }
        assert!(source.recv().await.unwrap().is_none());
    });
    let mut sink = connect(Request::Sink { key: up, max: LARGE, pause: Duration::ZERO }, endpoint, to).await;
    for index in 0..count(up) {
        send(&mut sink, index, content(up, index, size(up, index, LARGE))).await;
    }
    sink.finish();
    assert_eq!(count_of(&mut sink).await.unwrap(), count(up));
    receiving.await.unwrap();
}

/// What the peer says of what it read: first what was wrong, if anything was.
fn sank_unchanged(peer: &Process) {
    let said = peer.hear();
    assert!(said.starts_with("sunk "), "{said}");
}

/// How many messages of flow `key` are so many bytes.
fn count(key: u64, most: u64) -> u64 {
    let mut bytes = 0;
    let fits = |&index: &u64| {
        bytes += size(key, index, LARGE) as u64;
        bytes < most
    };
    (0..).take_while(fits).count() as u64
}

/// Who knows nothing of DPDK is moved to it by `MACHNET_ENDPOINT`.
#[test]
fn the_environment_chooses_a_port() {
    bounded(async {
        let wire = Wire::memif("server", "client");
        let endpoint = wire.open();
        let listener = endpoint.listen(PORT).await.unwrap();
        let to = listener.local_addr();
        tokio::spawn(async { serve(listener).await });
        let says = async |url: String| {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "child", "--nocapture"]).env(process::ROLE, format!("default {to}"));
            child.env("MACHNET_ENDPOINT", url);
            let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().find_map(|line| line.strip_prefix("@ ")).unwrap_or(&text).to_owned()
        };
        let there = format!("{}?ip=10.90.0.2/24&{}", wire.there, memory());
        assert_eq!(says(there.clone()).await, "echoed");
        for (url, part) in [
            (format!("{there}&color=red"), "unknown key \"color\""),
            (wire.there.clone(), "no own address for vdev:net_memif"),
            ("dpdk://eth0".to_owned(), "\"eth0\" names no DPDK port"),
            (there.replace("role=client", "role=emperor"), "Unknown role: emperor"),
        ] {
            let said = says(url.clone()).await;
            assert!(said.contains(part), "{url}: {said}");
        }
    });
}

#[test]
fn memif_served_by_the_killed() {
    Wire::memif("client", "server").prove();
}

#[test]
fn memif_served_by_the_survivor() {
    Wire { whole: true, ..Wire::memif("server", "client") }.prove();
}

#[test]
fn a_machine_is_killed() {
    Wire { whole: true, ..Wire::virtio(Side::Host, Side::Host) }.prove();
}

#[test]
fn a_machines_host_is_killed() {
    Wire::virtio(Side::Machine, Side::Host).prove();
}

#[test]
fn a_machine_that_listens_is_killed() {
    Wire::virtio(Side::Host, Side::Machine).prove();
}

#[test]
fn the_host_of_a_machine_that_listens_is_killed() {
    Wire::virtio(Side::Machine, Side::Machine).prove();
}

/// Checksums are left to the device, which on this wire means that nobody computes them.
#[test]
fn a_machine_that_leaves_checksums_to_its_device() {
    Wire { more: ["&checksums=device"; 2], ..Wire::virtio(Side::Host, Side::Host) }.prove();
}
