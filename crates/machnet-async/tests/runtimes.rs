//! Flows belong to no runtime: whichever come, go, or are not driven.

mod support;

use std::sync::mpsc;
use std::task::Poll;

use futures::executor::block_on;
use machnet_async::Flow;
use support::{Pair, content, echo, endpoint, open, pair, within_a_minute};
use tokio::runtime::{Builder, Runtime};

/// Neither IO nor time.
fn bare() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn multi() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

async fn round_trips(mut flow: Flow, seed: u64) -> Flow {
    for number in seed..seed + 50 {
        flow.send(content(number, 300)).await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap(), content(number, 300));
    }
    flow
}

/// Registers its task and leaves.
async fn begin_to_wait(flow: &mut Flow) {
    let mut recv = Box::pin(flow.recv());
    assert!(std::future::poll_fn(|cx| Poll::Ready(recv.as_mut().poll(cx))).await.is_pending());
}

#[test]
fn a_flow_moves_between_runtimes_of_every_kind() {
    within_a_minute(|| {
        let server = multi();
        let Pair { near, far, .. } = bare().block_on(pair());
        let serving = server.spawn(echo(far));
        let near = bare().block_on(round_trips(near, 0));
        let near = multi().block_on(async { tokio::spawn(round_trips(near, 100)).await.unwrap() });
        let near = block_on(round_trips(near, 200));
        let timed = Builder::new_current_thread().enable_all().build().unwrap();
        let mut near = timed.block_on(round_trips(near, 300));
        near.finish();
        block_on(serving).unwrap();
    });
}

#[test]
fn runtimes_share_an_endpoint_and_the_first_may_go() {
    within_a_minute(|| {
        let (client, server) = (endpoint(), endpoint());
        let first = bare();
        let mut listener = first.block_on(server.listen(0)).unwrap();
        let mut flows: Vec<_> = (0..3).map(|_| first.block_on(open(&client, &mut listener))).collect();
        for (near, _) in &mut flows {
            first.block_on(begin_to_wait(near));
        }
        // With it the wakers that were registered there.
        drop(first);
        let threads: Vec<_> = flows
            .into_iter()
            .zip([bare(), multi(), bare()])
            .map(|((near, far), runtime)| {
                std::thread::spawn(move || {
                    runtime.block_on(async {
                        let serving = tokio::spawn(echo(far));
                        let mut near = round_trips(near, 0).await;
                        near.finish();
                        serving.await.unwrap();
                    });
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_runtime_that_is_not_driven_holds_nobody_up() {
    within_a_minute(|| {
        let (client, server) = (endpoint(), endpoint());
        let mut listener = block_on(server.listen(0)).unwrap();
        let (near, mut stuck_far) = block_on(open(&client, &mut listener));
        let (other, far) = block_on(open(&client, &mut listener));
        let undriven = bare();
        // Spawned and polled once, then left alone.
        let stuck = undriven.spawn(async move {
            let mut near = near;
            near.recv().await.unwrap().unwrap()
        });
        undriven.block_on(tokio::task::yield_now());
        let runtime = multi();
        let serving = runtime.spawn(echo(far));
        block_on(stuck_far.send("to the one that sleeps")).unwrap();
        let mut other = runtime.block_on(round_trips(other, 0));
        other.finish();
        runtime.block_on(serving).unwrap();
        // Driven again, it finds what came.
        assert_eq!(undriven.block_on(stuck).unwrap(), "to the one that sleeps");
    });
}

#[test]
fn a_plain_thread_may_drop_messages() {
    within_a_minute(|| {
        let Pair { mut near, mut far, client, server, listener } = block_on(pair());
        let (give, given) = mpsc::channel();
        let dropping = std::thread::spawn(move || given.into_iter().map(drop::<machnet_async::Message>).count());
        let sending = std::thread::spawn(move || {
            block_on(async {
                for number in 0..2_000 {
                    near.send(content(number, 2_000)).await.unwrap();
                }
                near.close().await.unwrap();
            });
        });
        bare().block_on(async {
            while let Some(message) = far.recv().await.unwrap() {
                give.send(message).unwrap();
            }
        });
        drop(give);
        assert_eq!(dropping.join().unwrap(), 2_000);
        sending.join().unwrap();
        drop((client, server, listener));
    });
}

#[test]
fn messages_and_their_bytes_outlive_everything() {
    within_a_minute(|| {
        const SIZES: [usize; 5] = [0, 100, 1_000, 5_000, 300_000];
        let runtime = multi();
        let received: Vec<_> = runtime.block_on(async {
            let Pair { mut near, mut far, client, server, .. } = pair().await;
            let mut received = Vec::new();
            for (number, len) in SIZES.into_iter().enumerate() {
                near.send(content(number as u64, len)).await.unwrap();
                let message = far.recv().await.unwrap().unwrap();
                let at = message.as_slice().as_ptr();
                let bytes = message.into_bytes();
                // One segment: no copy.
                assert!(bytes.is_empty() || bytes.as_ptr() == at, "{len} bytes");
                received.push(bytes);
            }
            drop((near, far));
            client.shutdown().await.unwrap();
            server.shutdown().await.unwrap();
            received
        });
        drop(runtime);
        for (number, bytes) in received.into_iter().enumerate() {
            let thread = std::thread::spawn(move || assert_eq!(bytes, content(number as u64, SIZES[number])));
            thread.join().unwrap();
        }
    });
}

#[test]
fn all_of_it_over_two_daemons() {
    support::sidecar::again_over_two_daemons(&[]);
}

#[test]
fn all_of_it_over_joined_daemons() {
    support::sidecar::again_over_joined_daemons(&[]);
}
