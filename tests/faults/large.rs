//! Messages of up to 64 MiB between processes, on windows much smaller than they are.

use std::time::Duration;

use machnet::{Config, Endpoint};

use crate::process::{LONG, Process, Request, content, count_of, endpoint_with, rss, size, verify};
use crate::{bounded, start};

const LARGEST: usize = 64 << 20;

fn small_windows() -> Config {
    let mut config = Config::default();
    config.dead_peer_timeout = LONG;
    config.receive_window = 64 << 10;
    config.send_buffer = 64 << 10;
    config
}

/// Sends `count` messages of exactly the largest size to an echo, and compares what comes back.
async fn exchange(endpoint: &Endpoint, server: &Process, to: std::net::SocketAddr, flows: u64) -> u64 {
    let before = rss(server.id());
    let mut exchanges = tokio::task::JoinSet::new();
    for key in 0..flows {
        let endpoint = endpoint.clone();
        exchanges.spawn(async move {
            let mut flow = Request::Echo.connect(&endpoint, to).await.unwrap();
            let message = content(key, 0, LARGEST - key as usize);
            flow.send(message.clone()).await.unwrap();
            let echo = flow.recv().await.unwrap().unwrap();
            assert!(echo.as_slice() == message, "flow {key}: what comes back differs");
            flow.close().await.unwrap();
        });
    }
    while let Some(done) = exchanges.join_next().await {
        done.unwrap();
    }
    rss(server.id()).saturating_sub(before)
}

/// More of the largest messages at once than there are buffers for: they wait for each other, and all come back.
#[test]
fn several_of_the_largest_at_once_take_turns() {
    bounded(async {
        let server = start(format_args!("serve 127.0.0.1 0 {}", LONG.as_millis()));
        let to = server.hear_address();
        for config in [small_windows(), windows_by_default()] {
            let endpoint = endpoint_with(config);
            // Two buffers of that size are all a default endpoint has; an echo holds its own while it sends it back.
            let grown = exchange(&endpoint, &server, to, 4).await;
            assert!(grown < 5 * LARGEST as u64, "the server grew by {grown} bytes");
        }
    });
}

fn windows_by_default() -> Config {
    let mut config = Config::default();
    config.dead_peer_timeout = LONG;
    config
}

/// Messages of all sizes up to 8 MiB, both ways at once, beside each other.
#[test]
fn all_sizes_both_ways() {
    const MAX: usize = 8 << 20;
    const COUNT: u64 = 40;
    bounded(async {
        let server = start(format_args!("serve 127.0.0.1 0 {}", LONG.as_millis()));
        let to = server.hear_address();
        let endpoint = endpoint_with(small_windows());
        let mut tasks = tokio::task::JoinSet::new();
        for key in 0..4 {
            let sink = Request::Sink { key, max: MAX, pause: Duration::ZERO }.connect(&endpoint, to).await.unwrap();
            tasks.spawn(async move {
                let mut flow = sink;
                for index in 0..COUNT {
                    flow.send(content(key, index, size(key, index, MAX))).await.unwrap();
                }
                flow.finish();
                assert_eq!(count_of(&mut flow).await.unwrap(), COUNT);
            });
            let source = Request::Source { key, max: MAX, count: COUNT }.connect(&endpoint, to).await.unwrap();
            tasks.spawn(async move {
                let mut flow = source;
                for index in 0..COUNT {
                    let message = flow.recv().await.unwrap().unwrap();
                    verify(key, index, MAX, message.as_slice()).unwrap();
                }
                assert!(flow.recv().await.unwrap().is_none());
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert!(server.try_hear().is_none_or(|said| !said.starts_with("violation")));
    });
}
