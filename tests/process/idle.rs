//! Many flows that were used once and are idle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use machnet::{Config, Endpoint, Flow, Listener};
use tokio::sync::Semaphore;

use super::{Request, content, endpoint_with};

/// Connections underway at once.
const UNDERWAY: usize = 64;

/// An endpoint with room for a crowd.
pub fn crowd_endpoint() -> Endpoint {
    let mut config = Config::default();
    config.max_flows = 1 << 20;
    // A loaded machine opens them, which takes a while, and nobody is to be declared dead for that.
    config.dead_peer_timeout = Duration::from_secs(60);
    config.connect_timeout = Duration::from_secs(60);
    endpoint_with(config)
}

/// Accepts flows and keeps them. The first is an echo to its end; of each other one message is answered.
pub async fn keep(mut listener: Listener) {
    let (mut flow, _) = listener.accept().await.unwrap();
    while let Some(message) = flow.recv().await.unwrap() {
        flow.send(message).await.unwrap();
    }
    flow.close().await.unwrap();
    let mut kept = Vec::with_capacity(200_000);
    loop {
        let (mut flow, _) = listener.accept().await.unwrap();
        let message = flow.recv().await.unwrap().unwrap();
        flow.send(message).await.unwrap();
        kept.push(flow);
    }
}

/// Uses every frame of both sides of a flow to an echo once: they are memory that has nothing to do with flows.
pub async fn touch_frames(echo: Flow) {
    const MESSAGES: usize = 60_000;
    let (mut send, mut recv) = echo.into_split();
    let sending = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            send.send("hello").await.unwrap();
        }
        send
    });
    for _ in 0..MESSAGES {
        recv.recv().await.unwrap().unwrap();
    }
    sending.await.unwrap().close().await.unwrap();
}

/// Opens `count` flows to `to`, sends one message on each and waits for its answer.
pub async fn open(endpoint: &Endpoint, to: SocketAddr, count: usize) -> Vec<Flow> {
    let permits = Arc::new(Semaphore::new(UNDERWAY));
    let mut flows = Vec::with_capacity(count);
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let endpoint = endpoint.clone();
        opening.spawn(async move {
            let mut flow = endpoint.connect(to).await.unwrap();
            flow.send("hello").await.unwrap();
            assert_eq!(flow.recv().await.unwrap().unwrap(), "hello");
            drop(permit);
            flow
        });
        while let Some(flow) = opening.try_join_next() {
            flows.push(flow.unwrap());
        }
    }
    while let Some(flow) = opening.join_next().await {
        flows.push(flow.unwrap());
    }
    flows
}

/// Opens and closes `count` flows to a server, with a message there and back on each.
pub async fn come_and_go(endpoint: &Endpoint, to: SocketAddr, count: usize) {
    let permits = Arc::new(Semaphore::new(UNDERWAY));
    for _ in 0..count {
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            let mut flow = Request::Echo.connect(&endpoint, to).await.unwrap();
            echoes(&mut flow, 1, 100).await;
            flow.close().await.unwrap();
            drop(permit);
        });
    }
    drop(permits.acquire_many(UNDERWAY as u32).await.unwrap());
}

/// Sends `count` messages of `len` bytes to an echo, one after the other.
pub async fn echoes(flow: &mut Flow, count: u64, len: usize) {
    for index in 0..count {
        flow.send(content(3, index, len)).await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap(), content(3, index, len));
    }
}
