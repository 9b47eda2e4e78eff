//! What cannot be measured is refused, in words that say what would be right.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};

use crate::process::{Closed, Running, machnet, server};

#[test]
fn bad_urls() {
    for side in ["server", "client"] {
        for (url, parts) in [
            ("http://127.0.0.1:1", &["\"http\" is unknown", "known schemes: udp, shm, unix, tcp"][..]),
            ("127.0.0.1:7000", &["no scheme", "udp://127.0.0.1:7000"]),
            ("udp://127.0.0.1", &["no port", "host:port"]),
            ("udp://127.0.0.1:70000", &["\"70000\" is no port"]),
            ("uds://", &["no path"]),
            ("xdp://eth1", &["\"xdp\" is not in this version"]),
        ] {
            machnet(&format!("perf {side} {url}")).refused(2, parts);
        }
        let unknown = machnet(&format!("perf {side} tcp://no-such-host.invalid:1"));
        unknown.refused(1, &["unknown host \"no-such-host.invalid\""]);
    }
}

#[test]
fn bad_options() {
    for (options, code, part) in [
        ("--duration 0s", 2, "nothing can be measured in no time"),
        ("--duration 3", 2, "a time with its unit"),
        ("--count 0", 1, "at least 1"),
        ("--flows 0", 1, "at least 1"),
        ("--outstanding 0", 1, "at least 1"),
        ("--flows 99999999", 1, "1048576 at most"),
        ("--size 1XB", 2, "no unit"),
        ("--size 65MiB", 1, "takes 67108864 bytes at most"),
        ("--rate 0", 2, "above 0"),
        ("--rate 5 --outstanding 3", 2, "cannot be used with"),
        ("--rate 5 --mode stream", 1, "--rate is for --mode rr"),
        ("--mode stream --size 0", 1, "at least 1 byte"),
        ("--mode sideways", 2, "possible values: rr, stream, connect, idle"),
        ("--json --csv", 2, "cannot be used with"),
        ("--congestion reno", 2, "wanted is cubic, swift, or fixed:"),
        ("--congestion fixed:17MiB", 2, "16 MiB in flight"),
        ("--pin x", 2, "wanted are cores"),
        ("--pin 1023", 1, "cannot run on core 1023"),
    ] {
        machnet(&format!("perf client udp://127.0.0.1:1 {options}")).refused(code, &[part]);
    }
    let rival = machnet("perf client tcp://127.0.0.1:1 --placement inline");
    rival.refused(1, &["--placement is for Machnet endpoints; tcp:// has no engine"]);
    let rival = machnet("perf client tcp://127.0.0.1:1 --congestion swift");
    rival.refused(1, &["--congestion is for Machnet endpoints"]);
    machnet("perf client udp+spin://127.0.0.1:1 --mode stream").refused(1, &["--mode rr only"]);
    machnet("perf client udp+spin://127.0.0.1:1 --size 65507").refused(1, &["takes 65506 bytes at most"]);
}

/// A port of loopback at which nobody is. It stays reserved while the socket lives.
fn nobody() -> (UdpSocket, TcpListener, SocketAddr) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(at) {
            return (udp, tcp, at);
        }
    }
}

#[test]
fn a_server_that_is_not_there() {
    let closed = Closed::new();
    machnet(&format!("perf client udp://{}", closed.udp)).refused(1, &["cannot measure udp://", "refused"]);
    machnet(&format!("perf client tcp://{}", closed.tcp)).refused(1, &["cannot measure tcp://", "refused"]);
    machnet(&format!("perf client tcp+spin://{}", closed.tcp)).refused(1, &["cannot measure tcp+spin://", "refused"]);
    machnet("perf client shm://nobody-is-there").refused(1, &["nobody-is-there"]);
    machnet("perf client uds:///no/such/socket").refused(1, &["cannot measure uds:///no/such/socket", "No such file"]);
}

#[test]
fn a_server_that_does_not_answer() {
    let (_udp, _tcp, at) = nobody();
    for scheme in ["udp", "tcp", "quic", "udp+spin"] {
        let ended = machnet(&format!("perf client {scheme}://{at} --timeout 1s"));
        ended.refused(1, &[&format!("cannot measure {scheme}://{at}")]);
    }
}

#[test]
fn an_address_that_is_taken() {
    let (_udp, _tcp, at) = nobody();
    for scheme in ["udp", "tcp", "tcp+spin", "quic", "udp+spin"] {
        machnet(&format!("perf server {scheme}://{at}")).refused(1, &[&at.to_string(), "in use"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    std::fs::write(&path, "").unwrap();
    machnet(&format!("perf server uds://{}", path.display())).refused(1, &["cannot listen at uds://", "in use"]);
    assert!(path.exists(), "what is not ours stays");
    machnet("perf server udp://192.0.2.1:0").refused(1, &["192.0.2.1"]);
}

#[test]
fn one_client_at_a_time() {
    let mut server = Running::start("perf server tcp://127.0.0.1:0");
    let line = server.line();
    let url = line.strip_prefix("listening on ").unwrap();
    let mut first = Running::start_logged(&format!("perf client {url} --duration 10m --warmup 1"));
    first.wait_for_log("measured so far");
    machnet(&format!("perf client {url} --count 1"))
        .refused(1, &["the server refuses: it is busy with another client"]);
    first.kill();
    let mut attempts = 0;
    while !machnet(&format!("perf client {url} --count 1 --warmup 0")).status.success() {
        attempts += 1;
        assert!(attempts < 100, "the server is free once its client is gone");
    }
}

fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
}

fn hear(stream: &mut TcpStream) -> Value {
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut text = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_server_of_another_version_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    for (answer, parts) in [
        (json!({"machnet_perf": 99, "machnet": "9.9.9", "new": true}).to_string(), ["version 99", "machnet 9.9.9"]),
        ("SSH-2.0".to_owned(), ["does not speak the perf protocol", "SSH-2.0"]),
    ] {
        let client = Running::start(&format!("perf client {url}"));
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(hear(&mut stream)["machnet_perf"], 1);
        say(&mut stream, &answer);
        client.wait().refused(1, &parts);
    }
}

#[test]
fn a_client_of_another_version_is_told() {
    let (server, url) = server("tcp://127.0.0.1:0");
    let mut stream = TcpStream::connect(url.strip_prefix("tcp://").unwrap()).unwrap();
    say(&mut stream, &json!({"machnet_perf": 99, "machnet": "9.9.9", "measure": {}}).to_string());
    let answer = hear(&mut stream);
    let error = answer["error"].as_str().unwrap();
    for part in ["version 99", "machnet 9.9.9", "version 1"] {
        assert!(error.contains(part), "{answer}");
    }
    drop(stream);
    let mut stream = TcpStream::connect(url.strip_prefix("tcp://").unwrap()).unwrap();
    say(
        &mut stream,
        &json!({"machnet_perf": 1, "machnet": "x", "measure": {"mode": "rr", "size": 1_u64 << 40, "verify": false}})
            .to_string(),
    );
    assert!(hear(&mut stream)["error"].as_str().unwrap().contains("at most 67108864"));
    drop(server);
}
