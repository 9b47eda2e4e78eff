//! Messages there and back, over real sockets, on every kind of executor.

mod support;

use std::task::Poll;

use futures::executor::block_on;
use machnet_async::{Config, Congestion, Endpoint, Flow, FlowOptions, IdlePolicy, Udp};
use support::{
    Pair, V4, content, echo, endpoint, endpoint_at, engine_stats, open, pair, pair_with, run, within_a_minute,
};

const SIZES: [usize; 10] = [0, 1, 63, 64, 65, 1200, 1300, 5000, 70_000, 1 << 20];

async fn exchange(flow: &mut Flow) {
    for (number, len) in SIZES.into_iter().enumerate() {
        let message = content(number as u64, len);
        flow.send(message.clone()).await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap(), message, "{len} bytes");
    }
}

async fn finish(mut flow: Flow) {
    flow.finish();
    assert!(flow.recv().await.unwrap().is_none());
    flow.close().await.unwrap();
}

#[test]
fn on_a_current_thread_runtime() {
    run(|| async {
        let Pair { mut near, far, .. } = pair().await;
        let server = tokio::spawn(echo(far));
        exchange(&mut near).await;
        finish(near).await;
        server.await.unwrap();
    });
}

/// Whoever takes messages in pieces gets the same ones; also where they come in one piece, as from a daemon, and when it changes its mind.
#[test]
fn in_pieces() {
    run(|| async {
        let Pair { mut near, far, .. } = pair().await;
        let server = tokio::spawn(echo(far));
        assert_eq!(near.try_recv_chunks().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        for (number, len) in SIZES.into_iter().enumerate() {
            for turn in 0..3 {
                let message = content(number as u64, len);
                near.send(message.clone()).await.unwrap();
                if turn == 0 {
                    assert_eq!(near.recv().await.unwrap().unwrap(), message, "{len} bytes");
                    continue;
                }
                let chunks = near.recv_chunks().await.unwrap().unwrap();
                assert_eq!((chunks.len(), chunks.is_empty()), (len, chunks.count() == 0));
                let got = if turn == 1 {
                    chunks.into_iter().collect::<Vec<_>>().concat()
                } else {
                    chunks.into_message().to_vec()
                };
                assert_eq!(got, message, "{len} bytes");
            }
        }
        near.finish();
        assert!(near.recv_chunks().await.unwrap().is_none());
        near.close().await.unwrap();
        server.await.unwrap();
    });
}

#[test]
fn on_a_multi_thread_runtime() {
    within_a_minute(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let (client, server) = (endpoint(), endpoint());
            let mut listener = server.listen(0).await.unwrap();
            let to = listener.local_addr();
            let accepting = tokio::spawn(async move {
                for _ in 0..8 {
                    let (flow, _) = listener.accept().await.unwrap();
                    tokio::spawn(echo(flow));
                }
            });
            let flows: Vec<_> = (0..8)
                .map(|_| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let mut flow = client.connect(to).await.unwrap();
                        exchange(&mut flow).await;
                        finish(flow).await;
                    })
                })
                .collect();
            for flow in flows {
                flow.await.unwrap();
            }
            accepting.await.unwrap();
        });
    });
}

#[test]
fn without_any_runtime() {
    within_a_minute(|| {
        let (client, server) = (endpoint(), endpoint());
        let mut listener = block_on(server.listen(0)).unwrap();
        let to = listener.local_addr();
        let serving = std::thread::spawn(move || {
            block_on(async {
                let (flow, _) = listener.accept().await.unwrap();
                echo(flow).await;
            });
        });
        block_on(async {
            let mut flow = client.connect(to).await.unwrap();
            exchange(&mut flow).await;
            finish(flow).await;
        });
        serving.join().unwrap();
    });
}

#[test]
fn with_engines_that_park_at_once() {
    run(|| async {
        let parking = || {
            let builder = Endpoint::builder().driver(Udp::bind((V4, 0)).unwrap());
            builder.idle(IdlePolicy::Park).start().unwrap()
        };
        let (client, server) = (parking(), parking());
        let mut listener = server.listen(0).await.unwrap();
        let (mut near, far) = open(&client, &mut listener).await;
        let serving = tokio::spawn(echo(far));
        // Each one finds both engines asleep, or about to be.
        for number in 0..2_000 {
            near.send(content(number, 100)).await.unwrap();
            assert_eq!(near.recv().await.unwrap().unwrap(), content(number, 100));
        }
        exchange(&mut near).await;
        finish(near).await;
        serving.await.unwrap();
    });
}

#[test]
fn a_flow_outlives_the_runtime_it_was_made_on() {
    within_a_minute(|| {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let Pair { mut near, mut far, listener, .. } = runtime().block_on(pair());
        runtime().block_on(async {
            // Leaves its waker behind when this runtime is dropped.
            let mut recv = Box::pin(near.recv());
            let polled = std::future::poll_fn(|cx| Poll::Ready(recv.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        });
        runtime().block_on(far.send("to whom it may concern")).unwrap();
        assert_eq!(block_on(near.recv()).unwrap().unwrap(), "to whom it may concern");
        drop(listener);
    });
}

#[test]
fn over_ipv6() {
    run(|| async {
        let Pair { mut near, far, .. } = pair_with("::1".parse().unwrap(), Config::default()).await;
        assert!(near.local_addr().is_ipv6() && far.local_addr().is_ipv6());
        let server = tokio::spawn(echo(far));
        exchange(&mut near).await;
        finish(near).await;
        server.await.unwrap();
    });
}

#[test]
fn an_endpoint_talks_to_itself() {
    run(|| async {
        let endpoint = endpoint();
        let mut listener = endpoint.listen(0).await.unwrap();
        let (mut near, far) = open(&endpoint, &mut listener).await;
        let server = tokio::spawn(echo(far));
        exchange(&mut near).await;
        finish(near).await;
        server.await.unwrap();
    });
}

#[test]
fn many_messages_underway_arrive_once_and_in_order() {
    run(|| async {
        const MESSAGES: u64 = 2_000;
        let len = |number: u64| (number * 7919 % 3000) as usize;
        let Pair { near, far, .. } = pair().await;
        let server = tokio::spawn(echo(far));
        let (mut send, mut recv) = near.into_split();
        let sending = tokio::spawn(async move {
            for number in 0..MESSAGES {
                send.send(content(number, len(number))).await.unwrap();
            }
            send
        });
        for number in 0..MESSAGES {
            assert_eq!(recv.recv().await.unwrap().unwrap(), content(number, len(number)), "message {number}");
        }
        let flow = Flow::reunite(sending.await.unwrap(), recv).unwrap();
        finish(flow).await;
        server.await.unwrap();
    });
}

#[test]
fn many_flows_at_once() {
    run(|| async {
        const FLOWS: u64 = 300;
        let (client, server) = (endpoint(), endpoint());
        // Far fewer places than flows: the others wait, none is lost.
        let mut listener = server.listen_with(0, 8).await.unwrap();
        let to = listener.local_addr();
        let accepting = tokio::spawn(async move {
            for _ in 0..FLOWS {
                tokio::spawn(echo(listener.accept().await.unwrap().0));
            }
        });
        let flows = (0..FLOWS).map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut flow = client.connect(to).await.unwrap();
                for len in [10, 2_000] {
                    flow.send(content(number, len)).await.unwrap();
                    assert_eq!(flow.recv().await.unwrap().unwrap(), content(number, len));
                }
                finish(flow).await;
            })
        });
        for flow in flows.collect::<Vec<_>>() {
            flow.await.unwrap();
        }
        accepting.await.unwrap();
    });
}

#[test]
fn a_slow_reader_stalls_the_sender_and_loses_nothing() {
    run(|| async {
        const MESSAGES: u64 = 500;
        let mut config = Config::default();
        config.max_message = 16 << 10;
        config.receive_window = 64 << 10;
        config.send_buffer = 64 << 10;
        let Pair { mut near, mut far, .. } = pair_with(V4, config).await;
        let (tell, stalled) = tokio::sync::oneshot::channel();
        let sending = tokio::spawn(async move {
            let mut tell = Some(tell);
            for number in 0..MESSAGES {
                let mut send = near.send(content(number, 1000));
                std::future::poll_fn(|cx| {
                    let poll = std::pin::Pin::new(&mut send).poll(cx);
                    if let (true, Some(tell)) = (poll.is_pending(), tell.take_if(|_| poll.is_pending())) {
                        tell.send(number).unwrap();
                    }
                    poll
                })
                .await
                .unwrap();
            }
            near.close().await.unwrap();
        });
        // What fits both buffers, and not a message more.
        let underway = stalled.await.unwrap();
        assert!(underway <= 2 * 64, "{underway} messages of 1 KiB were taken");
        for number in 0..MESSAGES {
            assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 1000), "message {number}");
        }
        assert!(far.recv().await.unwrap().is_none());
        drop(far);
        sending.await.unwrap();
    });
}

#[test]
fn counters_count() {
    run(|| async {
        let Pair { mut near, far, client, .. } = pair().await;
        let server = tokio::spawn(echo(far));
        exchange(&mut near).await;
        let bytes = SIZES.iter().sum::<usize>() as u64;
        let stats = near.stats();
        assert_eq!((stats.messages_received, stats.bytes_received), (SIZES.len() as u64, bytes));
        assert!(stats.packets_sent > 0 && stats.packets_received > 0);
        finish(near).await;
        server.await.unwrap();
        client.shutdown().await.unwrap();
        // A daemon's engine goes on, and tells when it has nothing else to do.
        while engine_stats(&client).packets_received < stats.packets_received {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn endpoints_come_and_go() {
    run(|| async {
        for _ in 0..5 {
            let Pair { mut near, far, client, server, listener } = pair().await;
            let serving = tokio::spawn(echo(far));
            near.send("x").await.unwrap();
            assert_eq!(near.recv().await.unwrap().unwrap(), "x");
            finish(near).await;
            serving.await.unwrap();
            drop(listener);
            let (a, b): (Endpoint, Endpoint) = (client, server);
            a.shutdown().await.unwrap();
            b.shutdown().await.unwrap();
        }
        drop(endpoint_at(V4, Config::default()));
    });
}

/// For either direction by the side that sends, and CUBIC else: these are sockets.
#[test]
fn flows_have_the_congestion_control_that_was_chosen() {
    run(|| async {
        let (client, server) = (endpoint(), endpoint());
        let fixed = |bytes| FlowOptions::new().congestion(Congestion::Fixed { bytes });
        let mut listener = server.listen(0).options(fixed(50_000)).await.unwrap();
        let to = listener.local_addr();
        let mut near = client.connect(to).options(fixed(40_000)).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        // Counters are published with what happens.
        near.send("ping").await.unwrap();
        assert_eq!(far.recv().await.unwrap().unwrap(), "ping");
        far.send("pong").await.unwrap();
        assert_eq!(near.recv().await.unwrap().unwrap(), "pong");
        assert_eq!(near.stats().congestion_window, 40_000);
        assert_eq!(far.stats().congestion_window, 50_000);
    });
}

#[test]
fn all_of_it_over_shared_memory() {
    support::again_over_shm(&["over_ipv6"]);
}

#[test]
fn all_of_it_over_two_daemons() {
    support::sidecar::again_over_two_daemons(&[]);
}

#[test]
fn all_of_it_over_one_daemon() {
    support::sidecar::again_over_one_daemon(&[]);
}

#[test]
fn all_of_it_over_joined_daemons() {
    support::sidecar::again_over_joined_daemons(&[
        "a_slow_reader_stalls_the_sender_and_loses_nothing",
        "counters_count",
        "over_ipv6",
    ]);
}
