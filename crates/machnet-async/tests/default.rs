//! The process's default endpoint.

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;

use machnet_async::{Config, Endpoint, Flow, Listener, Shm};
use support::{content, echo, run};

const V4: &str = "127.0.0.1:0";

async fn round_trip(at: &str) {
    let mut listener = Listener::bind(at.parse().unwrap()).await.unwrap();
    let local = listener.local_addr();
    assert_ne!(local.port(), 0);
    let to = if local.ip().is_unspecified() {
        let loopback = if local.is_ipv4() { "127.0.0.1" } else { "::1" };
        SocketAddr::new(loopback.parse().unwrap(), local.port())
    } else {
        local
    };
    let serving = tokio::spawn(async move { echo(listener.accept().await.unwrap().0).await });
    let mut flow = Flow::connect(to).await.unwrap();
    for len in [0, 1, 3000] {
        flow.send(content(1, len)).await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap(), content(1, len));
    }
    flow.close().await.unwrap();
    serving.await.unwrap();
}

#[test]
fn both_families_with_and_without_an_address() {
    run(|| async {
        for at in [V4, "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            round_trip(at).await;
        }
    });
}

#[test]
fn fifty_runtimes_come_and_go() {
    for _ in 0..50 {
        run(|| round_trip(V4));
    }
}

/// As fifty `#[tokio::test]`s in a row see it, and with flows that outlive the runtime they were made on.
#[test]
fn the_first_runtime_may_go_and_flows_stay() {
    run(|| async {});
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    support::within_a_minute(move || {
        let (mut near, mut far) = runtime().block_on(async {
            let mut listener = Listener::bind(V4.parse().unwrap()).await.unwrap();
            let mut near = Flow::connect(listener.local_addr()).await.unwrap();
            near.send("first").await.unwrap();
            (near, listener.accept().await.unwrap().0)
        });
        assert_eq!(runtime().block_on(far.recv()).unwrap().unwrap(), "first");
        runtime().block_on(far.send("second")).unwrap();
        assert_eq!(runtime().block_on(near.recv()).unwrap().unwrap(), "second");
    });
}

#[test]
fn nobody_there_is_refused_as_ever() {
    run(|| async {
        let error = Flow::connect(support::free_port()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

/// Run in a process of its own by those below: what it prints is what happened.
#[test]
#[ignore = "the child of other tests"]
fn child() {
    run(|| async {
        let peer = std::env::var("TEST_PEER").unwrap().parse().unwrap();
        let bind = std::env::var("TEST_BIND").unwrap().parse().unwrap();
        match Flow::connect(peer).await {
            Ok(flow) => println!("connected from {}", flow.local_addr()),
            Err(error) => println!("connect: {:?}: {error}", error.kind()),
        }
        match Listener::bind(bind).await {
            Ok(listener) => println!("bound {}", listener.local_addr()),
            Err(error) => println!("bind: {:?}: {error}", error.kind()),
        }
    });
}

fn child_with(endpoint: Option<&str>, peer: SocketAddr, bind: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--ignored", "--nocapture"]);
    child.env("TEST_PEER", peer.to_string()).env("TEST_BIND", bind).env_remove("MACHNET_ENDPOINT");
    child.envs(endpoint.map(|url| ("MACHNET_ENDPOINT", url)));
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_variable_chooses_the_address() {
    run(|| async {
        let server = support::endpoint();
        let listener = server.listen(0).await.unwrap();
        let peer = listener.local_addr();
        tokio::task::spawn_blocking(move || {
            for (url, bind, expected) in [
                (None, "127.0.0.1:0", "bound 127.0.0.1:"),
                (Some("udp://127.0.0.2"), "0.0.0.0:0", "bound 127.0.0.2:"),
                (Some("udp://127.0.0.2:0"), "127.0.0.2:0", "bound 127.0.0.2:"),
                (Some("udp://127.0.0.2"), "127.0.0.3:0", "bind: AddrNotAvailable: cannot listen at 127.0.0.3: "),
                (Some("udp://0.0.0.0"), "127.0.0.3:0", "bound 127.0.0.3:"),
                (Some("udp://[::]:0"), "[::1]:0", "bound [::1]:"),
            ] {
                let said = child_with(url, peer, bind);
                assert!(said.contains(expected), "{url:?}: {said}");
                let from = if url.is_some_and(|url| url.contains("127")) { "127.0.0.2" } else { "" };
                assert!(said.contains(&format!("connected from {from}")), "{url:?}: {said}");
            }
        })
        .await
        .unwrap();
        drop(listener);
    });
}

#[test]
fn shared_memory_by_its_name() {
    run(|| async {
        let name = format!("default-{}", std::process::id());
        let hub = Endpoint::builder().driver(Shm::bind(&name).unwrap()).start().unwrap();
        let listener = hub.listen(0).await.unwrap();
        let peer = listener.local_addr();
        tokio::task::spawn_blocking(move || {
            let url = format!("shm://{name}");
            for (client, bind, expected) in [
                ("127.0.0.2", "0.0.0.0:7", "bound 127.0.0.2:7"),
                ("127.0.0.3", "127.0.0.3:0", "bound 127.0.0.3:"),
                ("127.0.0.4", "127.0.0.1:0", "is {url}, and this process is 127.0.0.4 there"),
            ] {
                let said = child_with(Some(&url), peer, bind);
                assert!(said.contains(&format!("connected from {client}:")), "{said}");
                assert!(said.contains(&expected.replace("{url}", &url)), "{said}");
            }
        })
        .await
        .unwrap();
        drop(listener);
    });
}

#[test]
fn a_daemon_by_its_socket() {
    run(|| async {
        let daemon = support::sidecar::daemon(Config::default());
        let server = support::endpoint();
        let listener = server.listen(0).await.unwrap();
        let peer = listener.local_addr();
        tokio::task::spawn_blocking(move || {
            let url = format!("unix://{}", daemon.socket().display());
            for (bind, expected) in [
                ("0.0.0.0:0", "bound 127.0.0.1:"),
                ("127.0.0.1:0", "bound 127.0.0.1:"),
                ("127.0.0.2:0", "bind: AddrNotAvailable: cannot listen at 127.0.0.2: "),
            ] {
                let said = child_with(Some(&url), peer, bind);
                assert!(said.contains(&format!("connected from {}", daemon.home().ip())), "{said}");
                assert!(said.contains(expected), "{said}");
            }
            let said = child_with(Some("unix:///nowhere/machnet.sock"), peer, V4);
            assert!(said.contains("connect: NotFound: ") && said.contains("is the daemon running"), "{said}");
        })
        .await
        .unwrap();
        drop(listener);
    });
}

#[test]
fn a_variable_that_makes_no_sense_is_explained() {
    for (url, kind, part) in [
        ("xdp://eth1", "Unsupported", "\"xdp\" is not in this version; known schemes: udp"),
        ("tcp://0.0.0.0", "Unsupported", "unknown scheme \"tcp\"; known schemes: udp"),
        ("0.0.0.0:0", "InvalidInput", "no \"://\" after the scheme"),
        ("udp://localhost", "InvalidInput", "\"localhost\" is no IP address"),
        ("udp://192.0.2.1", "AddrNotAvailable", "192.0.2.1"),
        ("shm://a%20b", "InvalidInput", "\"a%20b\"; it must be 1 to 64 letters"),
    ] {
        let said = child_with(Some(url), SocketAddr::from(([127, 0, 0, 1], 9)), V4);
        assert!(said.contains(&format!("connect: {kind}: ")), "{said}");
        assert!(said.contains(part), "{said}");
        if kind != "AddrNotAvailable" && !url.starts_with("shm:") {
            assert!(said.contains(&format!("MACHNET_ENDPOINT=\"{url}\": ")), "{said}");
            assert!(said.contains(&format!("bind: {kind}: ")), "{said}");
        }
    }
}

/// Alone in its process: it ends what the other tests of this file use.
#[test]
#[ignore = "the child of another test"]
fn shutting_down_child() {
    run(|| async {
        let localhost = V4.parse::<SocketAddr>().unwrap().ip();
        for _ in 0..3 {
            round_trip("0.0.0.0:0").await;
            let endpoint = Endpoint::default_for(localhost).unwrap();
            endpoint.shutdown().await.unwrap();
            assert_eq!(endpoint.listen(0).await.unwrap_err().kind(), ErrorKind::NotConnected);
        }
        println!("three endpoints");
    });
}

#[test]
fn after_a_shutdown_there_is_another() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "shutting_down_child", "--ignored", "--nocapture"]);
    let daemon = support::sidecar::daemon(Config::default());
    let shm = format!("shm://ending-{}", std::process::id());
    for url in ["udp://0.0.0.0".to_owned(), shm, format!("unix://{}", daemon.socket().display())] {
        let output = child.env("MACHNET_ENDPOINT", url).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("three endpoints"), "{output:?}");
    }
}
