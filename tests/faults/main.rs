//! What processes do to each other: they are killed, stopped, restarted, slow, or gone right after they sent.
//!
//! Peers are children of this process: this binary once more, see [`process`]. Times bound failures only; what stops a
//! process sleeps, because that is the fault.

mod crowds;
mod ends;
mod large;
mod liveness;
#[path = "../process/mod.rs"]
mod process;

use std::time::Duration;

use process::{LONG, Process, Request, content, endpoint, endpoint_at, idle, say, serve, size};

/// Not a test: where a child begins.
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    let role: Vec<&str> = role.iter().map(String::as_str).collect();
    runtime().block_on(async {
        match role[..] {
            ["serve", ip, port, dead] => {
                let endpoint = endpoint_at(ip.parse().unwrap(), Duration::from_millis(dead.parse().unwrap()));
                let listener = endpoint.listen(port.parse().unwrap()).await.unwrap();
                say(listener.local_addr());
                serve(listener).await.unwrap();
            }
            ["send", to, key, max, count, end] => {
                let (key, max) = (key.parse().unwrap(), max.parse().unwrap());
                let endpoint = endpoint(LONG);
                let request = Request::Sink { key, max, pause: Duration::ZERO };
                let mut flow = request.connect(&endpoint, to.parse().unwrap()).await.unwrap();
                for index in 0..count.parse().unwrap() {
                    flow.send(content(key, index, size(key, index, max))).await.unwrap();
                }
                if end == "close" {
                    flow.close().await.unwrap();
                    say("closed");
                } else {
                    // Neither closed nor dropped in order: the process is gone with what its engine had not sent.
                    std::mem::forget((flow, endpoint));
                }
            }
            ["keep"] => {
                let endpoint = idle::crowd_endpoint();
                let listener = endpoint.listen(0).await.unwrap();
                say(listener.local_addr());
                idle::keep(listener).await;
            }
            ["crowd", to, warm, count] => {
                let endpoint = idle::crowd_endpoint();
                let to = to.parse().unwrap();
                idle::touch_frames(endpoint.connect(to).await.unwrap()).await;
                let warm = idle::open(&endpoint, to, warm.parse().unwrap()).await;
                say("warm");
                let flows = idle::open(&endpoint, to, count.parse().unwrap()).await;
                say("open");
                std::future::pending::<()>().await;
                drop((warm, flows));
            }
            ["churn", to, count] => {
                let endpoint = endpoint(Duration::from_secs(2));
                let to = to.parse().unwrap();
                idle::touch_frames(Request::Echo.connect(&endpoint, to).await.unwrap()).await;
                loop {
                    idle::come_and_go(&endpoint, to, count.parse().unwrap()).await;
                    // Until the last tombstones are gone.
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    say("done");
                    // Time to measure.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            ["flood", to] => {
                let endpoint = endpoint(LONG);
                let to = to.parse().unwrap();
                let mut other = Request::Echo.connect(&endpoint, to).await.unwrap();
                idle::touch_frames(Request::Echo.connect(&endpoint, to).await.unwrap()).await;
                idle::echoes(&mut other, 10_000, 1_000).await;
                say("warm");
                let mut held = Request::Hold.connect(&endpoint, to).await.unwrap();
                let mut sent = 0;
                while let Ok(result) =
                    tokio::time::timeout(Duration::from_secs(1), held.send(content(1, sent, 1_000))).await
                {
                    result.unwrap();
                    sent += 1;
                }
                say(format_args!("blocked {sent}"));
                idle::echoes(&mut other, 10_000, 1_000).await;
                say("echoed");
                std::future::pending().await
            }
            _ => panic!("no such role: {role:?}"),
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A child of this test binary.
fn start(role: impl std::fmt::Display) -> Process {
    Process::start(&["--exact", "child", "--nocapture"], role)
}

/// Runs `test`, and fails if it hangs.
fn bounded(test: impl Future<Output = ()>) {
    runtime().block_on(async { tokio::time::timeout(2 * LONG, test).await.expect("the test hangs") });
}
