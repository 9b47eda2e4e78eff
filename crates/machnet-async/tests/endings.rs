//! How flows and endpoints end: what was sent arrives, and everybody hears of it.

mod support;

use std::io::ErrorKind;
use std::task::Poll;

use machnet_async::{CloseReason, SendErrorReason};
use support::{Pair, content, endpoint, open, pair, run};

const MESSAGES: u64 = 200;

#[test]
fn close_resolves_when_everything_has_arrived() {
    run(|| async {
        let Pair { mut near, mut far, client, .. } = pair().await;
        for number in 0..MESSAGES {
            near.send(content(number, 1000)).await.unwrap();
        }
        near.close().await.unwrap();
        client.shutdown().await.unwrap();
        // Nobody is left on the other side; all of it is here.
        for number in 0..MESSAGES {
            assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 1000));
        }
        assert!(far.recv().await.unwrap().is_none());
        assert!(far.recv().await.unwrap().is_none());
    });
}

#[test]
fn dropping_everything_still_delivers_what_was_sent() {
    run(|| async {
        let Pair { mut near, mut far, client, .. } = pair().await;
        for number in 0..MESSAGES {
            near.send(content(number, 5000)).await.unwrap();
        }
        drop((near, client));
        for number in 0..MESSAGES {
            assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 5000));
        }
        assert!(far.recv().await.unwrap().is_none());
    });
}

#[test]
fn a_finished_direction_leaves_the_other_open() {
    run(|| async {
        let Pair { mut near, mut far, .. } = pair().await;
        near.send("last").await.unwrap();
        near.finish();
        assert_eq!(near.send("more").await.unwrap_err().reason(), SendErrorReason::Finished);
        assert_eq!(far.recv().await.unwrap().unwrap(), "last");
        assert!(far.recv().await.unwrap().is_none());
        for number in 0..MESSAGES {
            far.send(content(number, 300)).await.unwrap();
            assert_eq!(near.recv().await.unwrap().unwrap(), content(number, 300));
        }
        far.close().await.unwrap();
        assert!(near.recv().await.unwrap().is_none());
        near.close().await.unwrap();
    });
}

#[test]
fn a_dropped_reader_breaks_the_pipe() {
    run(|| async {
        let Pair { near, far, .. } = pair().await;
        let (mut send, _recv) = near.into_split();
        let (_far_send, far_recv) = far.into_split();
        drop(far_recv);
        let error = loop {
            match send.send(content(1, 100)).await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.reason()), (ErrorKind::BrokenPipe, SendErrorReason::Stopped));
        assert_eq!(error.into_message(), content(1, 100));
    });
}

#[test]
fn abort_resets_the_peer() {
    run(|| async {
        let Pair { mut near, far, .. } = pair().await;
        far.abort();
        assert_eq!(near.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let error = near.send("x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(error.reason(), SendErrorReason::Closed(CloseReason::Reset));
        assert_eq!(near.close().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn shutdown_tells_everybody_who_waits() {
    run(|| async {
        let Pair { mut near, far, client, server, mut listener } = pair().await;
        let (tell, told) = tokio::sync::oneshot::channel();
        let accepting = tokio::spawn(async move {
            let _ = tell.send(());
            listener.accept().await.map(|_| ()).map_err(|error| error.kind())
        });
        told.await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(accepting.await.unwrap(), Err(ErrorKind::NotConnected));
        let mut far = far;
        assert_eq!(far.send("x").await.unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(far.recv().await.unwrap_err().kind(), ErrorKind::NotConnected);
        assert!(near.recv().await.unwrap().is_none());
        assert_eq!(server.connect(client.local_addr()).await.unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(server.listen(0).await.unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn shutdown_amid_sending_ends_in_order() {
    run(|| async {
        for _ in 0..5 {
            let Pair { mut near, mut far, client, .. } = pair().await;
            let sending = tokio::spawn(async move {
                for number in 0.. {
                    if let Err(error) = near.send(content(number, 300)).await {
                        return (number, error.kind());
                    }
                }
                unreachable!("the endpoint goes on for ever");
            });
            for number in 0..MESSAGES {
                assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 300));
            }
            let shutdown = tokio::spawn(async move { client.shutdown().await });
            let mut number = MESSAGES;
            while let Some(message) = far.recv().await.unwrap() {
                assert_eq!(message, content(number, 300));
                number += 1;
            }
            let (taken, kind) = sending.await.unwrap();
            assert_eq!(kind, ErrorKind::NotConnected);
            // What `send` took while the engine was already finishing is lost, as after any end by this side.
            assert!(number <= taken);
            shutdown.await.unwrap().unwrap();
        }
    });
}

#[test]
fn shutdown_delivers_what_was_sent() {
    run(|| async {
        let Pair { mut near, mut far, client, .. } = pair().await;
        for number in 0..MESSAGES {
            near.send(content(number, 1000)).await.unwrap();
        }
        client.shutdown().await.unwrap();
        for number in 0..MESSAGES {
            assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 1000));
        }
    });
}

#[test]
fn flows_and_listeners_keep_their_engine() {
    run(|| async {
        let (client, server) = (endpoint(), endpoint());
        let mut listener = server.listen(0).await.unwrap();
        drop(server);
        let (mut near, mut far) = open(&client, &mut listener).await;
        drop((client, listener));
        near.send("ping").await.unwrap();
        assert_eq!(far.recv().await.unwrap().unwrap(), "ping");
        let (mut send, recv) = far.into_split();
        drop(recv);
        send.send("pong").await.unwrap();
        assert_eq!(near.recv().await.unwrap().unwrap(), "pong");
    });
}

#[test]
fn messages_outlive_flow_endpoint_and_runtime() {
    let message = support::within_a_minute(|| {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let Pair { mut near, mut far, .. } = pair().await;
            near.send(content(1, 50_000)).await.unwrap();
            far.recv().await.unwrap().unwrap()
        })
    });
    assert_eq!(message, content(1, 50_000));
}

#[test]
fn a_dropped_connect_does_not_disturb_the_next() {
    run(|| async {
        let (client, server) = (endpoint(), endpoint());
        let mut listener = server.listen(0).await.unwrap();
        for _ in 0..10 {
            let mut connect = Box::pin(client.connect(listener.local_addr()));
            let begun = std::future::poll_fn(|cx| Poll::Ready(connect.as_mut().poll(cx))).await;
            assert!(!matches!(begun, Poll::Ready(Err(_))), "{begun:?}");
        }
        // Those that were given up may or may not be accepted; they carry nothing.
        let mut near = client.connect(listener.local_addr()).await.unwrap();
        near.send("the one").await.unwrap();
        loop {
            let (mut far, _) = listener.accept().await.unwrap();
            match far.recv().await {
                Ok(Some(message)) => break assert_eq!(message, "the one"),
                Ok(None) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
    });
}

#[test]
fn all_of_it_over_shared_memory() {
    support::again_over_shm(&[]);
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
    support::sidecar::again_over_joined_daemons(&[]);
}
