//! The inline placement: no thread, nobody starved, asleep when idle, an end with the runtime.

mod support;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::executor::block_on;
use machnet_async::{Endpoint, Flow, IdlePolicy, Placement, Udp};
use support::counted::Counted;
use support::{V4, content, echo, endpoint, open, run, within_a_minute};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An inline endpoint and its count of rounds.
fn counted(idle: IdlePolicy) -> (Endpoint, Arc<AtomicU64>) {
    let (driver, rounds) = Counted::new();
    let endpoint = Endpoint::builder().driver(driver).idle(idle).placement(Placement::Inline).start().unwrap();
    (endpoint, rounds)
}

fn inline() -> Endpoint {
    counted(IdlePolicy::default()).0
}

async fn exchange(flow: &mut Flow, messages: u64) {
    for number in 0..messages {
        let message = content(number, [0, 1, 100, 1300, 70_000][number as usize % 5]);
        flow.send(message.clone()).await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap(), message);
    }
}

#[test]
fn both_ends_on_one_runtime_as_future_of_block_on_and_as_tasks() {
    run(|| async {
        let (client, server) = (inline(), inline());
        let mut listener = server.listen(0).await.unwrap();
        let (mut near, far) = open(&client, &mut listener).await;
        let serving = tokio::spawn(echo(far));
        exchange(&mut near, 200).await;
        let mut near = tokio::spawn(async move {
            exchange(&mut near, 200).await;
            near
        })
        .await
        .unwrap();
        near.finish();
        assert!(near.recv().await.unwrap().is_none());
        near.close().await.unwrap();
        serving.await.unwrap();
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
    });
}

#[test]
fn every_idle_policy_with_a_threaded_peer() {
    run(|| async {
        for idle in [IdlePolicy::Park, IdlePolicy::Spin, IdlePolicy::default()] {
            let (client, _) = counted(idle);
            let server = endpoint();
            let mut listener = server.listen(0).await.unwrap();
            let (mut near, far) = open(&client, &mut listener).await;
            let serving = tokio::spawn(echo(far));
            exchange(&mut near, 50).await;
            near.close().await.unwrap();
            serving.await.unwrap();
            client.shutdown().await.unwrap();
        }
    });
}

#[test]
fn no_thread_is_started() {
    run(|| async {
        // Tests beside this one come and go: only threads that a start adds carry its name.
        let engines = || {
            let names = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            names
                .filter(|task| {
                    std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == "inline test")
                })
                .count()
        };
        let start = |placement| {
            let udp = Udp::bind((V4, 0)).unwrap();
            Endpoint::builder().driver(udp).thread_name("inline test").placement(placement).start().unwrap()
        };
        let inline = start(Placement::Inline);
        assert_eq!(engines(), 0);
        let threaded = start(Placement::Thread);
        assert_eq!(engines(), 1);
        drop((inline, threaded));
    });
}

#[test]
fn a_tokio_interval_and_a_tcp_echo_go_on_beside_a_busy_engine() {
    run(|| async {
        // Never parks: were it to starve others, it would for ever.
        let (client, rounds) = counted(IdlePolicy::Spin);
        let (server, _) = counted(IdlePolicy::Spin);
        let mut listener = server.listen(0).await.unwrap();
        let (near, far) = open(&client, &mut listener).await;
        tokio::spawn(echo(far));
        let (mut tx, mut rx) = near.into_split();
        let flood = tokio::spawn(async move { while tx.send(vec![7; 1000]).await.is_ok() {} });
        let drain = tokio::spawn(async move { while let Ok(Some(_)) = rx.recv().await {} });

        let streams = TcpListener::bind((V4, 0)).await.unwrap();
        let mut stream = TcpStream::connect(streams.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = streams.accept().await.unwrap();
        tokio::spawn(async move {
            let mut byte = [0];
            while other.read_exact(&mut byte).await.is_ok() && other.write_all(&byte).await.is_ok() {}
        });
        let mut byte = [0];
        let mut each = Vec::new();
        for _ in 0..200 {
            let before = rounds.load(Relaxed);
            stream.write_all(&[1]).await.unwrap();
            stream.read_exact(&mut byte).await.unwrap();
            each.push(rounds.load(Relaxed) - before);
        }
        each.sort_unstable();
        // Three hand-overs of the core, each after at most eight turns of each engine, and something for loopback: in the middle of
        // them, for a kernel thread that brings loopback's packets may wait for a core that others have.
        assert!(each[100] <= 64, "{each:?} rounds of the engine per TCP round trip");

        let before = rounds.load(Relaxed);
        let mut interval = tokio::time::interval(Duration::from_millis(1));
        for _ in 0..20 {
            interval.tick().await;
        }
        assert!(rounds.load(Relaxed) > before, "the engine runs while a timer is waited for");
        flood.abort();
        drain.abort();
    });
}

#[test]
fn parked_when_idle_and_back_at_once() {
    run(|| async {
        let (client, rounds) = counted(IdlePolicy::default());
        let (server, _) = counted(IdlePolicy::default());
        let mut listener = server.listen(0).await.unwrap();
        let (mut near, far) = open(&client, &mut listener).await;
        tokio::spawn(echo(far));
        for _ in 0..5 {
            exchange(&mut near, 10).await;
            // Not after a time: on a busy machine a timer is late, and the engine had no turn before it.
            let parks = client.wake_stats().parks;
            while client.wake_stats().parks == parks {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let before = rounds.load(Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Awake it would do about 50 000. A timer or two may be due, each with a tenth of a millisecond of yielding.
            let idle = rounds.load(Relaxed) - before;
            assert!(idle < 2_000, "{idle} rounds in 50 ms");
        }
        // A message to a sleeping engine is a ring; its answer wakes by the descriptor.
        assert!(client.wake_stats().rings > 0, "{:?}", client.wake_stats());
    });
}

#[test]
fn start_needs_a_current_thread_runtime() {
    let build = || Endpoint::builder().driver(Udp::bind((V4, 0)).unwrap()).placement(Placement::Inline);
    let error = build().start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no tokio runtime"), "{error}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let error = runtime.block_on(async { build().start().unwrap_err() });
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    assert_eq!(build().pin_to_core(0).start().unwrap_err().kind(), ErrorKind::InvalidInput);
    drop(build().start().unwrap());
}

/// Nothing wakes such an engine: asleep, it looks every 250 µs.
#[test]
fn a_driver_without_a_descriptor_naps() {
    run(|| async {
        for placement in [Placement::Inline, Placement::Thread] {
            let (driver, rounds) = Counted::without_fd();
            let builder = Endpoint::builder().driver(driver).idle(IdlePolicy::Park).placement(placement);
            let client = builder.start().unwrap();
            let server = endpoint();
            let mut listener = server.listen(0).await.unwrap();
            let (mut near, far) = open(&client, &mut listener).await;
            let serving = tokio::spawn(echo(far));
            exchange(&mut near, 20).await;
            // What comes unasked is found by a look. Nobody rings meanwhile.
            // Naps are counted from before the first look to after the last, however late this thread is between the two.
            let (stats, before) = (client.wake_stats(), rounds.load(Relaxed));
            while client.wake_stats().parks < stats.parks + 100 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (looks, after) = (rounds.load(Relaxed) - before, client.wake_stats());
            assert_eq!(after.rings, stats.rings);
            // A nap, a look, a nap; around a timer, a few looks more.
            let naps = after.parks - stats.parks;
            assert!(looks <= 2 * naps, "{looks} looks, {naps} naps");
            near.close().await.unwrap();
            serving.await.unwrap();
            client.shutdown().await.unwrap();
        }
    });
}

/// As tokio's own sockets, and with its words: they say what is missing. Nothing is left of the endpoint.
#[test]
fn a_runtime_without_io_is_refused_by_a_panic() {
    within_a_minute(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let udp = Udp::bind((V4, 0)).unwrap();
        let at = machnet_async::Driver::home(&udp);
        let builder = Endpoint::builder().driver(udp).placement(Placement::Inline);
        let starting = std::panic::AssertUnwindSafe(|| runtime.block_on(async { builder.start() }));
        let panic = std::panic::catch_unwind(starting).unwrap_err();
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap();
        assert!(text.contains("enable_io"), "{text}");
        // A thread's engine needs nothing of the runtime, and the port is free again.
        let endpoint = Endpoint::builder().driver(Udp::bind(at).unwrap()).start().unwrap();
        runtime.block_on(endpoint.shutdown()).unwrap();
    });
}

#[test]
fn no_progress_outside_of_block_on_and_an_end_with_the_runtime() {
    within_a_minute(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = endpoint();
        let (client, near, far) = runtime.block_on(async {
            let (client, _) = counted(IdlePolicy::default());
            let mut listener = server.listen(0).await.unwrap();
            let (near, far) = open(&client, &mut listener).await;
            (client, near, far)
        });
        let (mut near, mut far) = (near, far);
        block_on(near.send("later")).unwrap();
        runtime.block_on(async { assert_eq!(far.recv().await.unwrap().unwrap(), "later") });
        drop(runtime);
        assert_eq!(block_on(near.recv()).unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(block_on(client.connect(server.local_addr())).unwrap_err().kind(), ErrorKind::NotConnected);
        let error = block_on(client.shutdown()).unwrap_err();
        assert!(error.to_string().contains("runtime"), "{error}");
        drop(far);
    });
}

#[test]
fn flows_of_an_inline_engine_may_be_used_anywhere() {
    within_a_minute(|| {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let home = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (endpoint, _) = counted(IdlePolicy::Park);
                tell.send(endpoint.clone()).unwrap();
                let _ = stopped.await;
                endpoint.shutdown().await.unwrap();
            });
        });
        let client = told.recv().unwrap();
        let server = endpoint();
        block_on(async {
            let mut listener = server.listen(0).await.unwrap();
            let (mut near, mut far) = open(&client, &mut listener).await;
            for number in 0..100 {
                near.send(content(number, 500)).await.unwrap();
                assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 500));
            }
            near.close().await.unwrap();
        });
        drop(client);
        stop.send(()).unwrap();
        home.join().unwrap();
    });
}
