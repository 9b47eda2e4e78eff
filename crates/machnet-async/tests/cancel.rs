//! Each future dropped after its k-th poll, for every k that it takes: all or nothing, by the count of what arrives.

mod support;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::BufMut;
use machnet_async::{Config, Flow};
use support::{Pair, V4, content, endpoint, open, pair, pair_with, run};

/// Polls `future` up to `polls` times, then drops it; `Some` if it resolved before. Between two polls it waits to be
/// woken, as a task does.
async fn at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // Dropped right after this poll.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Room for a few messages only, on either side: senders wait for credit and for permits.
fn narrow() -> Config {
    let mut config = Config::default();
    config.max_message = 4096;
    config.receive_window = 16 << 10;
    config.send_buffer = 8 << 10;
    config
}

/// A sender that gives up again and again, by `polls`, while the reader is slow; what it was told was sent arrives.
async fn send_and_count(by_reserve: bool) {
    const MESSAGES: u64 = 400;
    let Pair { mut near, mut far, .. } = pair_with(V4, narrow()).await;
    let receiving = tokio::spawn(async move {
        let mut received = Vec::new();
        while let Some(mut message) = far.recv().await.unwrap() {
            received.push(bytes::Buf::get_u64(&mut message));
            // Slower than the sender: it waits for room most of the time.
            tokio::task::yield_now().await;
        }
        received
    });
    let (mut sent, mut given_up) = (Vec::new(), 0);
    for number in 0..MESSAGES {
        let polls = (number % 4) as usize;
        let mut message = number.to_be_bytes().to_vec();
        message.resize(3000, 0);
        let done = if by_reserve {
            match at_most(polls, near.reserve(3000)).await {
                Some(Ok(mut permit)) => {
                    permit.put_slice(&message);
                    // Every other permit is dropped: nothing is sent, and no room is lost.
                    (number % 2 == 0).then(|| permit.send()).is_some()
                }
                Some(Err(error)) => panic!("{error}"),
                None => false,
            }
        } else {
            at_most(polls, near.send(message)).await.map(Result::unwrap).is_some()
        };
        if done {
            sent.push(number);
        } else {
            given_up += 1;
        }
    }
    near.close().await.unwrap();
    assert_eq!(receiving.await.unwrap(), sent);
    assert!(given_up >= MESSAGES / 4 && !sent.is_empty(), "{given_up} given up");
}

#[test]
fn send_is_all_or_nothing() {
    run(|| send_and_count(false));
}

#[test]
fn reserve_is_all_or_nothing() {
    run(|| send_and_count(true));
}

#[test]
fn recv_loses_nothing() {
    run(|| async {
        const MESSAGES: u64 = 300;
        let Pair { mut near, mut far, .. } = pair().await;
        let sending = tokio::spawn(async move {
            for number in 0..MESSAGES {
                near.send(content(number, 100)).await.unwrap();
                tokio::task::yield_now().await;
            }
            near.close().await.unwrap();
        });
        let (mut number, mut polls) = (0, 0);
        loop {
            polls = (polls + 1) % 4;
            match at_most(polls, far.recv()).await {
                Some(message) => match message.unwrap() {
                    Some(message) => assert_eq!(message, content(number, 100)),
                    None => break,
                },
                None => {
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            number += 1;
        }
        assert_eq!(number, MESSAGES);
        sending.await.unwrap();
    });
}

#[test]
fn accept_loses_no_flow_and_connect_leaves_none_open() {
    run(|| async {
        const FLOWS: u64 = 40;
        let (client, server) = (endpoint(), endpoint());
        let mut listener = server.listen(0).await.unwrap();
        let to = listener.local_addr();
        let connecting = tokio::spawn(async move {
            let mut connected = 0;
            for number in 0..FLOWS {
                let polls = (number % 4) as usize;
                if let Some(flow) = at_most(polls, client.connect(to)).await {
                    let mut flow = flow.unwrap();
                    flow.send(content(number, 10)).await.unwrap();
                    flow.close().await.unwrap();
                    connected += 1;
                }
            }
            // Nothing of those given up keeps the endpoint alive.
            client.shutdown().await.unwrap();
            connected
        });
        let mut connecting = pin!(connecting);
        let (mut carried, mut polls, mut connected) = (0, 0, None);
        while connected != Some(carried) {
            polls = (polls + 1) % 4;
            tokio::select! {
                biased;
                accepted = at_most(polls, listener.accept()) => if let Some(accepted) = accepted {
                    let (mut flow, _) = accepted.unwrap();
                    // One that was given up carries nothing, whether it came to be or not.
                    if let Ok(Some(_)) = flow.recv().await {
                        carried += 1;
                    }
                },
                done = &mut connecting, if connected.is_none() => connected = Some(done.unwrap()),
            }
            tokio::task::yield_now().await;
        }
        assert!(carried > 0);
    });
}

#[test]
fn a_dropped_close_goes_on() {
    run(|| async {
        for polls in 0..3 {
            let Pair { mut near, mut far, .. } = pair().await;
            for number in 0..20 {
                near.send(content(number, 2000)).await.unwrap();
            }
            drop(at_most(polls, near.close()).await);
            for number in 0..20 {
                assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 2000));
            }
            assert!(far.recv().await.unwrap().is_none());
        }
    });
}

#[test]
fn dropped_waits_have_no_effect() {
    run(|| async {
        let (client, server) = (endpoint(), endpoint());
        let mut listener = server.listen(0).await.unwrap();
        for polls in 0..4 {
            let (mut near, mut far) = open(&client, &mut listener).await;
            for number in 0..10 {
                near.send(content(number, 5000)).await.unwrap();
                drop(at_most(polls, near.acked()).await);
                assert!(at_most(polls.min(1), near.closed()).await.is_none());
            }
            near.acked().await.unwrap();
            for number in 0..10 {
                assert_eq!(far.recv().await.unwrap().unwrap(), content(number, 5000));
            }
            far.abort();
            assert_eq!(near.closed().await, machnet_async::CloseReason::Reset);
        }
    });
}

#[test]
fn select_in_a_loop_loses_nothing_in_either_direction() {
    run(|| async {
        const MESSAGES: u64 = 500;
        let side = async |flow: Flow| {
            let (mut send, mut recv) = flow.into_split();
            let (mut sent, mut received, mut ended) = (0, 0, false);
            while sent < MESSAGES || !ended {
                tokio::select! {
                    result = send.send(content(sent, 1000)), if sent < MESSAGES => {
                        result.unwrap();
                        sent += 1;
                        if sent == MESSAGES {
                            send.finish();
                        }
                    }
                    message = recv.recv(), if !ended => match message.unwrap() {
                        Some(message) => {
                            assert_eq!(message, content(received, 1000));
                            received += 1;
                        }
                        None => ended = true,
                    },
                    () = tokio::task::yield_now() => {}
                }
            }
            assert_eq!(received, MESSAGES);
            send.close().await.unwrap();
        };
        let Pair { near, far, .. } = pair_with(V4, narrow()).await;
        tokio::join!(side(near), side(far));
    });
}
