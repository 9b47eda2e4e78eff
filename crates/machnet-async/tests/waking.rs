//! What waking costs, in counts: with the park hook, with the spin in `recv`, and without either.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::executor::block_on;
use machnet_async::{Endpoint, ParkHook, Placement, Udp, park_hook};
use support::counted::Counted;
use support::{V4, echo, endpoint, open, within_a_minute};
use tokio::runtime::{Builder, Runtime};

const MESSAGES: u64 = 2_000;

/// Long enough that no load on the machine ends the hook's wait: what is counted then does not depend on time.
const PATIENT: ParkHook = ParkHook::new().yield_for(Duration::from_secs(30));

fn runtime(hook: impl Fn() + Send + Sync + 'static) -> Runtime {
    Builder::new_current_thread().enable_all().on_thread_park(hook).build().unwrap()
}

/// A server that sends one flow's messages back, in a thread of its own.
fn server() -> (SocketAddr, JoinHandle<()>) {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut listener = endpoint().listen(0).await.unwrap();
            tell.send(listener.local_addr()).unwrap();
            let (flow, _) = listener.accept().await.unwrap();
            echo(flow).await;
        });
    });
    (told.recv().unwrap(), thread)
}

async fn round_trips(client: &Endpoint, to: SocketAddr, messages: u64) -> u64 {
    let mut flow = client.connect(to).await.unwrap();
    flow.send("warm up").await.unwrap();
    flow.recv().await.unwrap().unwrap();
    let before = client.wake_stats().wakers_called;
    for _ in 0..messages {
        flow.send("ping").await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap(), "ping");
    }
    let called = client.wake_stats().wakers_called - before;
    flow.close().await.unwrap();
    called
}

#[test]
fn with_the_hook_about_no_waker_is_called() {
    within_a_minute(|| {
        let (to, server) = server();
        let client = endpoint();
        let called = runtime(PATIENT.build()).block_on(round_trips(&client, to, MESSAGES));
        let stats = client.wake_stats();
        // An engine that is done between the task's look and the hook's beginning calls a waker.
        assert!(called < MESSAGES / 10, "{called} calls in {MESSAGES} round trips; {stats:?}");
        // All others that were waited for were handed over. How many are there when `recv` looks depends on the load.
        assert!(stats.handed_over > called, "{called} calls; {stats:?}");
        server.join().unwrap();
    });
}

#[test]
fn as_a_task_too() {
    within_a_minute(|| {
        let (to, server) = server();
        let client = endpoint();
        let called = runtime(PATIENT.build())
            .block_on(async { tokio::spawn(async move { round_trips(&client, to, MESSAGES).await }).await.unwrap() });
        assert!(called < MESSAGES / 10, "{called} calls in {MESSAGES} round trips");
        server.join().unwrap();
    });
}

#[test]
fn without_it_at_most_one_per_flow_and_round() {
    within_a_minute(|| {
        let (to, server) = server();
        let (driver, rounds) = Counted::new();
        let client = Endpoint::builder().driver(driver).start().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let flow = client.connect(to).await.unwrap();
            let (mut tx, mut rx) = flow.into_split();
            let sending = tokio::spawn(async move {
                for _ in 0..MESSAGES {
                    tx.send(vec![1; 100]).await.unwrap();
                }
                tx.close().await.unwrap();
            });
            let mut received = 0;
            while rx.recv().await.unwrap().is_some() {
                received += 1;
            }
            assert_eq!(received, MESSAGES);
            sending.await.unwrap();
        });
        let called = client.wake_stats().wakers_called;
        // One for each direction at most: the sender waits for room, the receiver for messages.
        assert!(called <= 2 * rounds.load(Relaxed), "{called} calls in {} rounds", rounds.load(Relaxed));
        assert!(called <= MESSAGES + 16, "{called} calls for {MESSAGES} messages");
        server.join().unwrap();
    });
}

#[test]
fn recv_spins_where_a_runtime_has_workers() {
    within_a_minute(|| {
        // It fights the other threads for the cores: no more than needed.
        const FEW: u64 = 200;
        let (to, server) = server();
        let udp = Udp::bind((V4, 0)).unwrap();
        let client = Endpoint::builder().driver(udp).recv_spin(Duration::from_secs(30)).start().unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let called =
            runtime.block_on(async { tokio::spawn(async move { round_trips(&client, to, FEW).await }).await.unwrap() });
        assert!(called < FEW / 10, "{called} calls in {FEW} round trips");
        server.join().unwrap();
        let udp = Udp::bind((V4, 0)).unwrap();
        let current = Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = current.enter();
        let both = Endpoint::builder().driver(udp).recv_spin(Duration::from_micros(1)).placement(Placement::Inline);
        assert_eq!(both.start().unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    });
}

#[test]
fn the_hook_is_one_of_several_and_harms_nobody_where_it_is_of_no_use() {
    within_a_minute(|| {
        let calls = Arc::new(AtomicU64::new(0));
        let (counter, hook) = (Arc::clone(&calls), park_hook());
        let both = move || {
            counter.fetch_add(1, Relaxed);
            hook();
        };
        let (to, server) = server();
        let client = endpoint();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().on_thread_park(both).build().unwrap();
        runtime
            .block_on(async { tokio::spawn(async move { round_trips(&client, to, MESSAGES).await }).await.unwrap() });
        assert!(calls.load(Relaxed) > 0);
        server.join().unwrap();
    });
}

#[test]
fn timers_and_descriptors_go_on_beside_the_hook() {
    within_a_minute(|| {
        let client = endpoint();
        let server = endpoint();
        runtime(park_hook()).block_on(async {
            let mut listener = server.listen(0).await.unwrap();
            let (near, far) = open(&client, &mut listener).await;
            tokio::spawn(echo(far));
            let (mut tx, mut rx) = near.into_split();
            let flood = tokio::spawn(async move { while tx.send(vec![7; 1000]).await.is_ok() {} });
            let drain = tokio::spawn(async move { while let Ok(Some(_)) = rx.recv().await {} });
            let mut interval = tokio::time::interval(Duration::from_millis(1));
            for _ in 0..50 {
                interval.tick().await;
            }
            flood.abort();
            drain.abort();
        });
    });
}

#[test]
fn flows_outlive_the_runtime_that_spun_for_them() {
    within_a_minute(|| {
        let (client, server) = (endpoint(), endpoint());
        let mut flows = None;
        for _ in 0..3 {
            flows = runtime(PATIENT.build()).block_on(async {
                let (mut near, mut far) = match flows.take() {
                    Some(flows) => flows,
                    None => {
                        let mut listener = server.listen(0).await.unwrap();
                        open(&client, &mut listener).await
                    }
                };
                for _ in 0..100 {
                    near.send("there").await.unwrap();
                    assert_eq!(far.recv().await.unwrap().unwrap(), "there");
                    far.send("back").await.unwrap();
                    assert_eq!(near.recv().await.unwrap().unwrap(), "back");
                }
                Some((near, far))
            });
            // Here nobody spins, but the flows name who did.
            let (near, far) = flows.as_mut().unwrap();
            block_on(async {
                for _ in 0..100 {
                    near.send("there").await.unwrap();
                    assert_eq!(far.recv().await.unwrap().unwrap(), "there");
                }
            });
        }
    });
}

#[test]
fn all_of_it_over_two_daemons() {
    support::sidecar::again_over_two_daemons(&[]);
}

#[test]
fn all_of_it_over_joined_daemons() {
    support::sidecar::again_over_joined_daemons(&[
        "recv_spins_where_a_runtime_has_workers",
        "without_it_at_most_one_per_flow_and_round",
    ]);
}
