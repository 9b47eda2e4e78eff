//! How streams end.

use std::io::ErrorKind;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

use crate::support::{content, poll_once};
use crate::transports::Transport;

pub async fn everything_then_the_end<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let sent = content(1, 30_000);
    let write = async {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), len) = tokio::join!(write, far.read_to_end(&mut got));
    assert_eq!(len.unwrap(), sent.len());
    assert!(got == sent);
    for _ in 0..3 {
        assert_eq!(far.read(&mut [0; 10]).await.unwrap(), 0);
    }
}

pub async fn half_close<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"question");
    // The other direction is open, for as long as wanted.
    for number in 0..20 {
        let sent = content(number, 1000);
        far.write_all(&sent).await.unwrap();
        let mut got = vec![0; 1000];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(got, sent);
    }
    far.shutdown().await.unwrap();
    assert_eq!(near.read(&mut [0; 10]).await.unwrap(), 0);
}

pub async fn shutdown_twice<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    near.write_all(b"x").await.unwrap();
    for _ in 0..3 {
        near.shutdown().await.unwrap();
        near.flush().await.unwrap();
    }
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"x");
    // Also after the other side's end.
    far.shutdown().await.unwrap();
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
}

pub async fn write_after_shutdown<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    near.shutdown().await.unwrap();
    for _ in 0..2 {
        assert_eq!(near.write(b"late").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
    assert_eq!(far.read(&mut [0; 10]).await.unwrap(), 0);
}

pub async fn the_end_wakes_a_pending_read<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let reader = tokio::spawn(async move { (far.read(&mut [0; 10]).await.unwrap(), far) });
    tokio::task::yield_now().await;
    near.shutdown().await.unwrap();
    assert_eq!(reader.await.unwrap().0, 0);
}

pub async fn bytes_of_a_dropped_peer_are_read<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let sent = content(2, 40_000);
    near.write_all(&sent).await.unwrap();
    drop(near);
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got == sent);
}

pub async fn a_dropped_peer_ends_writes<T: Transport>() {
    let (mut near, far, _guard) = T::pair().await;
    drop(far);
    let error = loop {
        // Waits, then fails: a writer is not left alone.
        match near.write(&[7; 1000]).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(T::WRITE_TO_GONE.contains(&error.kind()), "{error:?}");
    match near.read(&mut [0; 10]).await {
        Ok(len) => assert_eq!(len, 0),
        Err(error) => assert!(T::AFTER_GONE.contains(&error.kind()), "{error:?}"),
    }
}

pub async fn shutdown_sends_what_was_buffered<T: Transport>() {
    let (near, mut far, _guard) = T::pair().await;
    let sent = content(3, 100_000);
    let mut near = BufWriter::with_capacity(1 << 20, near);
    near.write_all(&sent).await.unwrap();
    assert!(poll_once(&mut far.read(&mut [0]).boxed()).await.is_pending());
    let mut got = Vec::new();
    let (shut, len) = tokio::join!(near.shutdown(), far.read_to_end(&mut got));
    shut.unwrap();
    assert_eq!(len.unwrap(), sent.len());
    assert!(got == sent);
}
