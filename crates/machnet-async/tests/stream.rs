//! `FlowStream` beyond `AsyncRead` and `AsyncWrite`, which the conformance suite has: waiting on shared references, chunks,
//! halves, gathering, endings.

mod support;

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::select_all;
use futures::{FutureExt, StreamExt};
use machnet_async::halves::ReuniteError;
use machnet_async::{CloseReason, Config, FlowError, FlowListener, FlowStream};
use support::{Pair, V4, content, endpoint, free_port, pair, pair_with, poll_once, run};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};

async fn streams() -> (FlowStream, FlowStream, Box<dyn Send>) {
    streams_with(Config::default()).await
}

async fn streams_with(config: Config) -> (FlowStream, FlowStream, Box<dyn Send>) {
    let Pair { near, far, client, server, listener } = pair_with(V4, config).await;
    (near.into_stream(), far.into_stream(), Box::new((client, server, listener)))
}

/// Little room, so that it is soon used up.
fn tiny() -> Config {
    let mut config = Config::default();
    config.send_buffer = 2 << 10;
    config.receive_window = 2 << 10;
    config
}

/// Writes until that would block, and goes on until that stays so.
async fn fill(stream: &FlowStream) -> usize {
    let mut len = 0;
    let piece = [7; 1000];
    loop {
        match stream.try_write(&piece) {
            Ok(written) => len += written,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                // The other engine takes some, too.
                if tokio::time::timeout(Duration::from_millis(500), stream.writable()).await.is_err() {
                    return len;
                }
            }
        }
    }
}

#[test]
fn connects_and_listens_like_tcp() {
    run(|| async {
        let listener = FlowListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mut near = FlowStream::connect(("localhost", to.port())).await.unwrap();
        assert_eq!(near.peer_addr().unwrap(), to);
        let (mut far, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, near.local_addr().unwrap());
        assert_eq!((far.peer_addr().unwrap(), far.local_addr().unwrap()), (peer, to));
        near.set_nodelay(false).unwrap();
        assert!(near.nodelay().unwrap() && near.take_error().unwrap().is_none());
        // The accepting side may speak first.
        far.write_all(b"220 ready").await.unwrap();
        let mut greeting = [0; 9];
        near.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready");
        let mut incoming = listener.incoming();
        let (near, far) = tokio::join!(FlowStream::connect(to), incoming.next());
        assert_eq!(near.unwrap().local_addr().unwrap(), far.unwrap().unwrap().peer_addr().unwrap());
    });
}

#[test]
fn errors_of_connecting_are_those_of_tcp() {
    run(|| async {
        let refused = FlowStream::connect(free_port()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(refused.get_ref().unwrap().downcast_ref::<FlowError>().unwrap().reason(), CloseReason::Refused);
        let none: &[std::net::SocketAddr] = &[];
        assert_eq!(FlowStream::connect(none).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(FlowListener::bind(none).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(FlowStream::connect("127.0.0.1:0").await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(FlowStream::connect("no port").await.unwrap_err().kind(), ErrorKind::InvalidInput);
        // The first of several that answers.
        let listener = FlowListener::bind("127.0.0.1:0").await.unwrap();
        let to = [free_port(), listener.local_addr().unwrap()];
        assert_eq!(FlowStream::connect(&to[..]).await.unwrap().peer_addr().unwrap(), to[1]);
    });
}

#[test]
fn several_tasks_accept() {
    run(|| async {
        let server = endpoint();
        let listener = Arc::new(FlowListener::from(server.listen(0).await.unwrap()));
        let mut accepting: Vec<_> = (0..4)
            .map(|_| {
                let listener = Arc::clone(&listener);
                tokio::spawn(async move { listener.accept().await.map(|(stream, _)| stream) })
            })
            .collect();
        let client = endpoint();
        let mut connected = Vec::new();
        for _ in 0..3 {
            let flow = client.connect(listener.local_addr().unwrap()).await.unwrap();
            connected.push(flow.into_stream());
        }
        for _ in 0..3 {
            let (accepted, _, rest) = select_all(accepting).await;
            accepted.unwrap().unwrap().write_all(b"hello").await.unwrap();
            accepting = rest;
        }
        // The fourth ends with the endpoint.
        server.shutdown().await.unwrap();
        let error = accepting.remove(0).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    });
}

#[derive(Default)]
struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn waiters_of_all_kinds_are_woken() {
    run(|| async {
        let (mut near, mut far, _guard) = streams().await;
        let (reading, peeking) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let wakers = [Waker::from(Arc::clone(&reading)), Waker::from(Arc::clone(&peeking))];
        // The one that polls `AsyncRead`, and then others: none takes another's place.
        let mut buf = [0; 10];
        let mut buf = ReadBuf::new(&mut buf);
        assert!(Pin::new(&mut far).poll_read(&mut Context::from_waker(&wakers[0]), &mut buf).is_pending());
        let mut peek = far.peek(&mut []).boxed();
        assert!(peek.as_mut().poll(&mut Context::from_waker(&wakers[1])).is_pending());
        near.write_all(b"abc").await.unwrap();
        tokio::join!(async { far.readable().await.unwrap() }, async { far.readable().await.unwrap() }, async {
            assert_eq!(far.ready(Interest::READABLE).await.unwrap(), tokio::io::Ready::READABLE)
        },);
        while reading.0.load(Ordering::SeqCst) == 0 || peeking.0.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        drop(peek);
        let mut two = [0; 2];
        assert_eq!(far.peek(&mut two).await.unwrap(), 2);
        let mut three = BytesMut::new();
        assert_eq!(far.try_read_buf(&mut three).unwrap(), 3);
        assert_eq!((&two, &three[..]), (b"ab", &b"abc"[..]));
        for _ in 0..2 {
            assert_eq!(far.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        assert!(poll_once(&mut far.readable().boxed()).await.is_pending());
    });
}

#[test]
fn writers_of_all_kinds_are_woken() {
    run(|| async {
        let (mut near, mut far, _guard) = streams_with(tiny()).await;
        let len = fill(&near).await;
        let writing = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&writing));
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut near).poll_write(&mut cx, b"x").is_pending());
        assert!(poll_once(&mut near.writable().boxed()).await.is_pending());
        let reader = tokio::spawn(async move {
            let mut got = vec![0; len];
            far.read_exact(&mut got).await.unwrap();
            far
        });
        tokio::join!(async { near.writable().await.unwrap() }, async { near.writable().await.unwrap() }, async {
            assert!(near.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap().is_writable())
        },);
        while writing.0.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(near.try_write_vectored(&[IoSlice::new(b"a"), IoSlice::new(b"bc")]).unwrap(), 3);
        let mut far = reader.await.unwrap();
        let mut three = [0; 3];
        far.read_exact(&mut three).await.unwrap();
        assert_eq!(&three, b"abc");
    });
}

#[test]
fn small_writes_gather_while_there_is_no_room() {
    run(|| async {
        const WRITES: usize = 60_000;
        let (near, mut far, _guard) = streams_with(tiny()).await;
        let mut near = near;
        // Nobody reads: beyond what the transports take, all of it gathers.
        for number in 0..WRITES {
            assert_eq!(near.write(&[number as u8]).await.unwrap(), 1);
        }
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        near.flush().await.unwrap();
        near.acked().await.unwrap();
        let messages = near.stats().messages_sent;
        assert!(messages < 1000, "{messages} messages for {WRITES} writes");
        near.shutdown().await.unwrap();
        let got = reader.await.unwrap();
        assert_eq!(got.len(), WRITES);
        assert!(got.iter().zip(0..).all(|(byte, number)| *byte == number as u8));
    });
}

#[test]
fn flush_waits_for_the_engine_and_acked_for_the_peer() {
    run(|| async {
        let (mut near, mut far, _guard) = streams_with(tiny()).await;
        near.flush().await.unwrap();
        let len = fill(&near).await;
        assert!(poll_once(&mut near.flush().boxed()).await.is_pending());
        assert!(poll_once(&mut near.acked().boxed()).await.is_pending());
        let reader = tokio::spawn(async move {
            let mut got = vec![0; len];
            far.read_exact(&mut got).await.unwrap();
            far
        });
        near.flush().await.unwrap();
        near.acked().await.unwrap();
        // The peer's application is done; so is a flush that has nothing to wait for.
        let far = reader.await.unwrap();
        near.flush().await.unwrap();
        drop(far);
    });
}

#[test]
fn a_chunk_is_what_lies_in_one_piece() {
    run(|| async {
        let (mut near, far, _guard) = streams().await;
        let (mut far, _rest) = far.into_split();
        for len in [1, 1000, 70_000, 1 << 20] {
            let sent = Bytes::from(content(1, len));
            near.write_chunk(sent.clone()).await.unwrap();
            // Nothing was gathered: the chunks end where the message does.
            let mut got = Vec::new();
            while got.len() < len {
                got.extend_from_slice(&far.read_chunk().await.unwrap().unwrap());
            }
            assert_eq!(got, sent);
        }
        // What a read left of a message is a chunk, at the same place in memory.
        near.write_chunk(Bytes::from(content(2, 5000))).await.unwrap();
        let mut head = [0; 10];
        far.read_exact(&mut head).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 4990 {
            got.extend_from_slice(&far.read_chunk().await.unwrap().unwrap());
        }
        assert_eq!(got, content(2, 5000)[10..]);
        near.write_chunk(Bytes::new()).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(far.read_chunk().await.unwrap().is_none());
        assert!(far.read_chunk().await.unwrap().is_none());
        assert_eq!(near.write_chunk(Bytes::from_static(b"x")).await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_chunk_longer_than_a_message_is_cut() {
    run(|| async {
        let mut config = Config::default();
        config.max_message = 10_000;
        let (mut near, mut far, _guard) = streams_with(config).await;
        let sent = content(1, 123_456);
        let write = async {
            near.write_chunk(sent.clone().into()).await.unwrap();
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(write, far.read_to_end(&mut got));
        read.unwrap();
        assert!(got == [&sent[..], &sent[..]].concat());
    });
}

#[test]
fn reads_gather_messages_and_pass_over_empty_ones() {
    run(|| async {
        let Pair { mut near, far, client: _client, server: _server, listener: _listener } = pair().await;
        let mut far = far.into_stream();
        for number in 0..1000 {
            near.send(if number % 10 == 0 { vec![number as u8] } else { Vec::new() }).await.unwrap();
        }
        near.acked().await.unwrap();
        // With the one that opened the flow. A daemon acknowledges first, and passes them on then.
        while far.stats().messages_received < 1001 {
            tokio::task::yield_now().await;
        }
        // Into both, though each message has a byte; not all of it at once, for the look at empty ones is bounded. What a daemon's last
        // round passed on may come a moment after its count.
        let (mut one, mut two) = ([0; 5], [0; 200]);
        let (mut all, mut reads) = (Vec::new(), 0);
        while all.len() < 100 {
            match far.try_read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)]) {
                Ok(len) => all.extend_from_slice(&[&one[..], &two[..]].concat()[..len]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            reads += 1;
        }
        assert!(reads <= 10, "{reads} reads of what 100 messages brought");
        assert_eq!(all, (0..1000).step_by(10).map(|number| number as u8).collect::<Vec<_>>());
        near.close().await.unwrap();
        assert_eq!(far.read(&mut one).await.unwrap(), 0);
    });
}

#[test]
fn shutdown_is_bounded_by_linger() {
    run(|| async {
        let mut config = tiny();
        config.linger = Duration::from_millis(300);
        let (mut near, mut far, _guard) = streams_with(config).await;
        let len = fill(&near).await;
        // The peer's application does not read, so that its transport cannot acknowledge.
        for _ in 0..2 {
            assert_eq!(near.shutdown().await.unwrap_err().kind(), ErrorKind::TimedOut);
        }
        // The flow goes on: everything arrives, and then the end.
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), len);
        far.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        near.read_exact(&mut late).await.unwrap();
        near.shutdown().await.unwrap();
    });
}

#[test]
fn what_gathered_is_sent_by_a_stream_that_is_dropped() {
    run(|| async {
        let (near, mut far, _guard) = streams_with(tiny()).await;
        let len = fill(&near).await;
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), len);
    });
}

#[test]
fn halves_end_on_their_own_and_come_together_again() {
    run(|| async {
        let (mut near, far, _guard) = streams().await;
        {
            let (mut read, mut write) = near.split();
            write.write_all(b"x").await.unwrap();
            assert!(poll_once(&mut read.read_u8().boxed()).await.is_pending());
            assert!(write.is_write_vectored());
        }
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let ReuniteError(near_read, far_write) = near_read.reunite(far_write).unwrap_err();
        let mut near = near_write.reunite(near_read).unwrap();
        let mut far = far_read.reunite(far_write).unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');

        // Forgotten, a writing half ends with the reading one.
        let (read, write) = far.into_split();
        assert_eq!(read.peer_addr().unwrap(), near.local_addr().unwrap());
        assert_eq!(write.local_addr().unwrap(), near.peer_addr().unwrap());
        write.forget();
        near.write_all(b"y").await.unwrap();
        near.acked().await.unwrap();
        assert!(poll_once(&mut near.read_u8().boxed()).await.is_pending());
        drop(read);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn a_dropped_writing_half_is_the_end_for_the_peer() {
    run(|| async {
        let (near, far, _guard) = streams().await;
        let (mut near_read, mut near_write) = near.into_split();
        let (mut far_read, mut far_write) = far.into_split();
        near_write.write_all(b"all").await.unwrap();
        drop(near_write);
        let mut got = Vec::new();
        far_read.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"all");
        far_write.write_all(b"still").await.unwrap();
        let mut still = [0; 5];
        near_read.read_exact(&mut still).await.unwrap();
        // A dropped reading half ends the peer's writes.
        drop(near_read);
        let error = loop {
            match far_write.write(b"?").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_flow_comes_out_as_it_went_in() {
    run(|| async {
        let (near, mut far, _guard) = streams_with(tiny()).await;
        far.write_all(b"unread").await.unwrap();
        near.readable().await.unwrap();
        let len = fill(&near).await;
        let (mut flow, rest) = near.into_flow();
        assert_eq!(rest, "unread");
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got.len()
        });
        flow.finish();
        assert_eq!(reader.await.unwrap(), len);
    });
}

#[test]
fn a_stream_that_always_has_bytes_lets_others_run() {
    run(|| async {
        let (mut near, mut far, _guard) = streams().await;
        near.write_all(&[1; 200_000]).await.unwrap();
        near.acked().await.unwrap();
        let others = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&others);
        let other = tokio::spawn(async move {
            loop {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let reader = tokio::spawn(async move {
            for _ in 0..100_000 {
                far.read_u8().await.unwrap();
            }
        });
        reader.await.unwrap();
        other.abort();
        // The budget is 128 reads.
        assert!(others.load(Ordering::Relaxed) > 500);
    });
}

#[test]
fn reset_and_shut_down_are_told_to_both_directions() {
    run(|| async {
        let Pair { near, far, client: _client, server, listener: _listener } = pair().await;
        let mut near = near.into_stream();
        far.abort();
        assert_eq!(near.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(near.write(&[0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(near.shutdown().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        near.readable().await.unwrap();
        near.writable().await.unwrap();
        server.shutdown().await.unwrap();

        let (mut near, _far, guard) = streams().await;
        drop(guard);
        near.write_all(b"the engine lives as long as its flows").await.unwrap();
        assert!(poll_once(&mut near.read_u8().boxed()).await.is_pending());
    });
}

#[test]
fn all_of_it_over_two_daemons() {
    support::sidecar::again_over_two_daemons(&[]);
}

#[test]
fn all_of_it_over_joined_daemons() {
    support::sidecar::again_over_joined_daemons(&[
        "a_chunk_longer_than_a_message_is_cut",
        "a_flow_comes_out_as_it_went_in",
        "flush_waits_for_the_engine_and_acked_for_the_peer",
        "shutdown_is_bounded_by_linger",
        "small_writes_gather_while_there_is_no_room",
        "what_gathered_is_sent_by_a_stream_that_is_dropped",
        "writers_of_all_kinds_are_woken",
    ]);
}
