//! A peer whose process is killed: nobody waits for ever, and the error is one that says so.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use machnet_async::{Config, FlowStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{V4, endpoint_at, run};

/// Says to this very test that it is the child, and of which kind.
const CHILD: &str = "MACHNET_CONFORMANCE_CHILD";

#[test]
fn tcp_stream_sees_the_end_of_a_killed_peer() {
    run(|| async {
        if is_child() {
            let listener = TcpListener::bind((V4, 0)).await.unwrap();
            println!("\nat {}", listener.local_addr().unwrap());
            return talk_for_ever(listener.accept().await.unwrap().0).await;
        }
        let (child, to) = start("tcp_stream_sees_the_end_of_a_killed_peer");
        let stream = TcpStream::connect(to).await.unwrap();
        let kinds = until_the_end(stream, child).await;
        assert!(kinds.0.is_none_or(|kind| kind == ErrorKind::ConnectionReset), "{kinds:?}");
        assert!([ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&kinds.1), "{kinds:?}");
    });
}

#[test]
fn flow_stream_times_out_on_a_killed_peer() {
    run(|| async {
        let mut config = Config::default();
        config.dead_peer_timeout = Duration::from_secs(2);
        // The port of who was killed is free: at an address of its own nobody else gets it, and answers in its place.
        let endpoint = endpoint_at(if is_child() { [127, 0, 0, 2].into() } else { V4 }, config);
        if is_child() {
            let mut listener = endpoint.listen(0).await.unwrap();
            println!("\nat {}", listener.local_addr());
            return talk_for_ever(listener.accept().await.unwrap().0.into_stream()).await;
        }
        let (child, to) = start("flow_stream_times_out_on_a_killed_peer");
        let stream: FlowStream = endpoint.connect(to).await.unwrap().into_stream();
        assert_eq!(until_the_end(stream, child).await, (Some(ErrorKind::TimedOut), ErrorKind::TimedOut));
    });
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn start(test: &str) -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("killed::{test}"), "--nocapture"]).env(CHILD, "1");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let to = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("at ").map(|at| at.parse().unwrap()));
    (child, to.expect("the child says where it listens"))
}

/// The child: sends and receives until it is killed.
async fn talk_for_ever<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut buffer = [0; 1000];
    while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {
        stream.write_all(&buffer).await.unwrap();
    }
}

/// Talks, kills the peer in the middle of it, and returns what reading and then writing ended with.
async fn until_the_end<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut child: Child,
) -> (Option<ErrorKind>, ErrorKind) {
    let mut buffer = [0; 1000];
    for _ in 0..20 {
        stream.write_all(&buffer).await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
    }
    stream.write_all(&buffer).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let read = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    let written = loop {
        if let Err(error) = stream.write(&buffer).await {
            break error.kind();
        }
        tokio::task::yield_now().await;
    };
    (read, written)
}
