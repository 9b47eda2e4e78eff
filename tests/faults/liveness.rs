//! Peers that die, stop, and come again.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use machnet::{Endpoint, Flow};
use rustix::process::Signal;

use crate::process::{LONG, Process, Request, content, endpoint};
use crate::{bounded, start};

/// How much later than it should a loaded machine may notice a death.
const SLACK: Duration = Duration::from_secs(10);

/// At an address of its own: the ports of who was killed are free, and anywhere else another test's process may get them, and answer in
/// its place.
fn serving(dead: Duration) -> (Process, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    serving_at(SocketAddr::from(([127, 0, 1, NEXT.fetch_add(1, Relaxed)], 0)), dead)
}

fn serving_at(at: SocketAddr, dead: Duration) -> (Process, SocketAddr) {
    let process = start(format_args!("serve {} {} {}", at.ip(), at.port(), dead.as_millis()));
    let address = process.hear_address();
    (process, address)
}

async fn echoes(flow: &mut Flow, number: u64) {
    flow.send(content(number, number, 1000)).await.unwrap();
    assert_eq!(flow.recv().await.unwrap().unwrap(), content(number, number, 1000));
}

async fn echo(endpoint: &Endpoint, to: SocketAddr) -> Flow {
    let mut flow = Request::Echo.connect(endpoint, to).await.unwrap();
    echoes(&mut flow, 0).await;
    flow
}

/// Sends until it fails.
async fn send_until_error(flow: &mut machnet::SendHalf) -> ErrorKind {
    loop {
        if let Err(error) = flow.send(content(1, 1, 10_000)).await {
            return error.kind();
        }
    }
}

/// An idle flow, one that waits in `recv`, and one that waits in `send`: all hear of the death in time.
fn killed(dead: Duration) {
    bounded(async {
        let (server, to) = serving(LONG);
        let endpoint = endpoint(dead);
        let (mut idle, waiting) = (echo(&endpoint, to).await, echo(&endpoint, to).await);
        let (mut send, mut recv) = waiting.into_split();
        let (mut full, _unread) = Request::Hold.connect(&endpoint, to).await.unwrap().into_split();
        let receiving = tokio::spawn(async move { recv.recv().await.unwrap_err().kind() });
        let filling = tokio::spawn(async move { send_until_error(&mut full).await });
        // The last thing to be sure of: all three are used.
        echoes(&mut idle, 1).await;
        server.kill();
        let killed = Instant::now();
        assert_eq!(receiving.await.unwrap(), ErrorKind::TimedOut);
        assert_eq!(filling.await.unwrap(), ErrorKind::TimedOut);
        assert_eq!(idle.recv().await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(killed.elapsed() < dead + SLACK, "heard of it after {:?}", killed.elapsed());
        assert_eq!(idle.send("x").await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(send.send("x").await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(idle.close().await.unwrap_err().kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn a_killed_peer_is_noticed() {
    killed(Duration::from_secs(3));
}

#[test]
fn a_killed_peer_is_noticed_with_the_default_timeout() {
    killed(machnet::Config::default().dead_peer_timeout);
}

/// Its sockets are closed, and nobody else is there: what is connected next is refused, not timed out.
#[test]
fn a_killed_peer_refuses() {
    bounded(async {
        let (server, to) = serving(LONG);
        let endpoint = endpoint(LONG);
        let _flow = echo(&endpoint, to).await;
        server.kill();
        assert_eq!(endpoint.connect(to).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

/// Stopped for less than the timeout: nobody notices, and nothing is lost.
#[test]
fn a_peer_stopped_for_a_while_goes_on() {
    bounded(async {
        let (server, to) = serving(LONG);
        let endpoint = endpoint(LONG);
        let flow = echo(&endpoint, to).await;
        let (mut send, mut recv) = flow.into_split();
        server.signal(Signal::STOP);
        let sending = tokio::spawn(async move {
            for number in 0..5_000 {
                send.send(content(1, number, 1_000)).await.unwrap();
            }
            send
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.signal(Signal::CONT);
        for number in 0..5_000 {
            assert_eq!(recv.recv().await.unwrap().unwrap(), content(1, number, 1_000));
        }
        sending.await.unwrap().close().await.unwrap();
    });
}

/// Stopped for longer than *its* timeout: it heard nobody, which is nobody's fault. It asks before it gives anyone up.
#[test]
fn a_peer_stopped_beyond_its_own_timeout_declares_nobody_dead() {
    bounded(async {
        let (server, to) = serving(Duration::from_millis(500));
        let endpoint = endpoint(LONG);
        let (mut idle, mut other) = (echo(&endpoint, to).await, echo(&endpoint, to).await);
        for round in 0..3 {
            server.signal(Signal::STOP);
            other.send(content(round, round, 1000)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            server.signal(Signal::CONT);
            assert_eq!(other.recv().await.unwrap().unwrap(), content(round, round, 1000));
            echoes(&mut idle, round).await;
        }
    });
}

/// Stopped for longer than *ours*: it is dead for us, and learns that when it goes on; a new flow works at once.
#[test]
fn a_peer_stopped_beyond_our_timeout_is_dead_and_welcome_again() {
    bounded(async {
        let (server, to) = serving(Duration::from_secs(3));
        let endpoint = endpoint(Duration::from_secs(3));
        let mut flow = echo(&endpoint, to).await;
        server.signal(Signal::STOP);
        assert_eq!(flow.recv().await.unwrap_err().kind(), ErrorKind::TimedOut);
        server.signal(Signal::CONT);
        drop(echo(&endpoint, to).await);
    });
}

/// Killed and started again on the same ports: new flows work at once, and bring the old ones the news.
#[test]
fn a_restarted_peer_resets_old_flows_and_takes_new_ones() {
    bounded(async {
        let (server, to) = serving(LONG);
        let endpoint = endpoint(LONG);
        let (mut idle, mut busy) = (echo(&endpoint, to).await, echo(&endpoint, to).await);
        server.kill();
        let (_server, again) = serving_at(to, LONG);
        assert_eq!(to, again);
        let mut new = echo(&endpoint, to).await;
        assert_eq!(idle.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(busy.send("x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(busy.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        echoes(&mut new, 2).await;
        new.close().await.unwrap();
    });
}

/// Without a new flow the next packet of the old one brings the news, and so does a keepalive.
#[test]
fn a_restarted_peer_knows_nothing_of_old_flows() {
    bounded(async {
        let (server, to) = serving(LONG);
        let endpoint = endpoint(Duration::from_secs(4));
        let (mut idle, mut busy) = (echo(&endpoint, to).await, echo(&endpoint, to).await);
        server.kill();
        let (_server, _) = serving_at(to, LONG);
        busy.send("x").await.unwrap();
        assert_eq!(busy.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(idle.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}
