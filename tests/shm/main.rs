//! Two processes and the memory they share: everything arrives, whoever is killed, and nothing of the dead stays.
//!
//! Peers are children of this process: this binary once more, see [`process`].

#[path = "../process/mod.rs"]
mod process;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use machnet::{Config, Driver as _, Endpoint, Placement, Shm};
use process::{LONG, Process, Request, content, count_of, descriptors, say, serve, size, verify};

/// Where servers listen.
const PORT: u16 = 9;

/// Not a test: where a child begins.
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    let role: Vec<&str> = role.iter().map(String::as_str).collect();
    runtime().block_on(async {
        let ["serve", name, placement] = role[..] else { panic!("no such role: {role:?}") };
        let placement = if placement == "inline" { Placement::Inline } else { Placement::Thread };
        let endpoint = endpoint(Shm::attach(name).unwrap(), LONG, placement);
        let listener = endpoint.listen(PORT).await.unwrap();
        say(listener.local_addr());
        serve(listener).await.unwrap();
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `test`, and fails if it hangs.
fn bounded(test: impl Future<Output = ()>) {
    runtime().block_on(async { tokio::time::timeout(2 * LONG, test).await.expect("the test hangs") });
}

/// A name that no other test uses.
fn name(test: &str) -> String {
    format!("test-{}-{test}", std::process::id())
}

/// An endpoint whose packets are as large as the wire takes.
fn endpoint(shm: Shm, dead_peer_timeout: Duration, placement: Placement) -> Endpoint {
    let mut config = Config::default();
    config.dead_peer_timeout = dead_peer_timeout;
    config.max_payload = shm.capabilities().max_payload;
    Endpoint::builder().driver(shm).config(config).placement(placement).start().unwrap()
}

fn attach(name: &str) -> Endpoint {
    endpoint(Shm::attach(name).unwrap(), LONG, Placement::Thread)
}

fn server(name: &str) -> (Process, SocketAddr) {
    server_placed(name, "thread")
}

fn server_placed(name: &str, placement: &str) -> (Process, SocketAddr) {
    let server = Process::start(&["--exact", "child", "--nocapture"], format_args!("serve {name} {placement}"));
    let address = server.hear_address();
    (server, address)
}

/// Messages of every power of two and beside it, there and back.
async fn echo_all_sizes(endpoint: &Endpoint, to: SocketAddr) {
    let mut flow = Request::Echo.connect(endpoint, to).await.unwrap();
    for (index, len) in (0..=20).flat_map(|bits| [(1_usize << bits) - 1, 1 << bits, (1 << bits) + 1]).enumerate() {
        flow.send(content(7, index as u64, len)).await.unwrap();
        let echo = flow.recv().await.unwrap().unwrap();
        assert!(echo == content(7, index as u64, len), "{len} bytes come back different");
    }
    flow.close().await.unwrap();
}

#[test]
fn messages_of_all_sizes_come_back_from_hub_and_from_client() {
    bounded(async {
        let name = name("sizes");
        let (hub, to) = server(&name);
        assert_eq!(to.ip(), Shm::HUB);
        let client = attach(&name);
        assert_eq!(client.local_addr().ip().to_string(), "127.0.0.2");
        echo_all_sizes(&client, to).await;
        drop(client);
        hub.kill();

        let hub = attach(&name);
        assert_eq!(hub.local_addr().ip(), Shm::HUB);
        let (_client, to) = server(&name);
        echo_all_sizes(&hub, to).await;
    });
}

/// Both ends polled by their applications' own runtimes.
#[test]
fn inline_engines() {
    bounded(async {
        let name = name("inline");
        let (_hub, to) = server_placed(&name, "inline");
        let client = endpoint(Shm::connect(&name).unwrap(), LONG, Placement::Inline);
        echo_all_sizes(&client, to).await;
    });
}

#[test]
fn an_endpoint_reaches_itself() {
    bounded(async {
        let endpoint = attach(&name("self"));
        let mut listener = endpoint.listen(0).await.unwrap();
        let mut near = endpoint.connect(listener.local_addr()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let both = async {
            for index in 0..20 {
                near.send(content(1, index, 100_000)).await.unwrap();
            }
            near.close().await.unwrap();
        };
        let echo = async {
            let mut count = 0;
            while let Some(message) = far.recv().await.unwrap() {
                assert_eq!(message, content(1, count, 100_000));
                count += 1;
            }
            assert_eq!(count, 20);
        };
        tokio::join!(both, echo);
    });
}

/// A gibibyte each way at once; every byte is compared.
#[test]
fn a_gibibyte_each_way() {
    const MAX: usize = 1 << 20;
    const COUNT: u64 = (1 << 30) / (MAX as u64 / 2);
    bounded(async {
        let name = name("bulk");
        let (_hub, to) = server(&name);
        let client = attach(&name);
        let mut source = Request::Source { key: 5, max: MAX, count: COUNT }.connect(&client, to).await.unwrap();
        let receiving = tokio::spawn(async move {
            for index in 0..COUNT {
                let message = source.recv().await.unwrap().unwrap();
                verify(5, index, MAX, message.as_slice()).unwrap();
            }
            assert!(source.recv().await.unwrap().is_none());
        });
        let mut sink = Request::Sink { key: 6, max: MAX, pause: Duration::ZERO }.connect(&client, to).await.unwrap();
        for index in 0..COUNT {
            sink.send(content(6, index, size(6, index, MAX))).await.unwrap();
        }
        sink.finish();
        assert_eq!(count_of(&mut sink).await.unwrap(), COUNT);
        receiving.await.unwrap();
        assert_eq!(client.stats().packets_lost, 0, "a wire loses nothing");
    });
}

/// Regions of shared memory that this process has mapped.
fn regions() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:machnet-shm")).count()
}

/// Waits until `holds`.
async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// In a process of its own, for what is counted is the whole process's.
#[test]
fn killed_clients_leave_nothing_behind() {
    bounded(async {
        if std::env::var("MACHNET_ALONE").is_err() {
            let program = std::env::current_exe().unwrap();
            let mut alone = tokio::process::Command::new(program);
            alone.args(["--exact", "killed_clients_leave_nothing_behind"]).env("MACHNET_ALONE", "1");
            let output = alone.output().await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let name = name("killed-clients");
        let hub = endpoint(Shm::bind(&name).unwrap(), Duration::from_millis(500), Placement::Thread);
        let (honest, honest_at) = server(&name);
        let mut flow = Request::Echo.connect(&hub, honest_at).await.unwrap();
        let mut seen = vec![honest_at.ip()];
        let before = (regions(), descriptors(std::process::id()));
        for round in 0..20 {
            let (client, to) = server(&name);
            assert!(!seen.contains(&to.ip()), "the address of a dead process was given again");
            seen.push(to.ip());
            assert_eq!(regions(), before.0 + 1);
            let mut sink = Request::Hold.connect(&hub, to).await.unwrap();
            let sending = tokio::spawn(async move {
                loop {
                    if let Err(error) = sink.send(content(1, 0, 50_000)).await {
                        return error;
                    }
                }
            });
            // Killed at some moment while megabytes are underway, or all buffers full.
            tokio::time::sleep(Duration::from_millis(round % 5)).await;
            client.kill();
            until(|| regions() == before.0).await;
            assert_eq!(std::io::Error::from(sending.await.unwrap()).kind(), ErrorKind::TimedOut);
            flow.send("are you there?").await.unwrap();
            assert_eq!(flow.recv().await.unwrap().unwrap(), "are you there?");
        }
        // The thread that reads what a child says hears of its end in its own time, and closes the pipe then.
        until(|| (regions(), descriptors(std::process::id())) == before).await;
        honest.kill();
        until(|| regions() == 0).await;
    });
}

#[test]
fn a_killed_hub_ends_its_clients_flows_and_can_be_replaced() {
    bounded(async {
        let name = name("killed-hub");
        let (hub, to) = server(&name);
        let client = endpoint(Shm::connect(&name).unwrap(), Duration::from_millis(500), Placement::Thread);
        let mut flow = Request::Echo.connect(&client, to).await.unwrap();
        flow.send("hello").await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap(), "hello");
        hub.kill();
        assert_eq!(flow.recv().await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(client.connect(to).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(Shm::connect(&name).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        let (_hub, to) = server(&name);
        assert_eq!(to.ip(), Shm::HUB);
        echo_all_sizes(&attach(&name), to).await;
    });
}

/// A client that stands still with its wire, its backlog and all windows full; then it goes on, and nothing is missing.
#[test]
fn a_stopped_client_holds_up_nobody() {
    const LEN: usize = 30_000;
    bounded(async {
        let name = name("stopped");
        let hub = endpoint(Shm::bind(&name).unwrap(), LONG, Placement::Thread);
        let ((stopped, stopped_at), (_other, other_at)) = (server(&name), server(&name));
        let mut flows = Vec::new();
        for key in 0..4 {
            let sink = Request::Sink { key, max: LEN, pause: Duration::ZERO };
            flows.push((sink.connect(&hub, stopped_at).await.unwrap(), 0));
        }
        stopped.signal(rustix::process::Signal::STOP);
        for (key, (flow, sent)) in flows.iter_mut().enumerate() {
            let key = key as u64;
            while {
                let message = content(key, *sent, size(key, *sent, LEN));
                tokio::time::timeout(Duration::from_millis(50), flow.send(message)).await.is_ok()
            } {
                *sent += 1;
            }
        }
        echo_all_sizes(&hub, other_at).await;
        stopped.signal(rustix::process::Signal::CONT);
        for (flow, sent) in &mut flows {
            flow.finish();
            assert_eq!(count_of(flow).await.unwrap(), *sent);
        }
        echo_all_sizes(&hub, stopped_at).await;
        while let Some(said) = stopped.try_hear() {
            assert!(said.starts_with("sunk"), "{said}");
        }
    });
}

#[test]
fn what_is_refused_is_named() {
    bounded(async {
        let name = name("refused");
        let error = Shm::connect(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), format!("shm://{name}: it has no hub"));

        let hub = Shm::builder().clients(1).bind(&name).unwrap();
        let error = Shm::bind(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(error.to_string(), format!("shm://{name}: it has a hub already"));

        let first = Shm::attach(&name).unwrap();
        let error = Shm::attach(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("all the clients it takes: 1"), "{error}");

        // Nobody listens, nobody is there.
        let (hub, client) = (endpoint(hub, LONG, Placement::Thread), endpoint(first, LONG, Placement::Thread));
        for (to, from) in
            [("127.0.0.1:9", &client), ("127.0.0.2:9", &hub), ("127.0.0.3:9", &client), ("127.9.0.2:9", &hub)]
        {
            let error = from.connect(to.parse().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
        }
        drop(hub);
        until(|| Shm::connect(&name).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)).await;
    });
}
