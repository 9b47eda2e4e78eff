//! Much, and both ways.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};

use crate::support::content;
use crate::transports::Transport;

/// Repeated, so that the pattern has no power of two in it.
const PATTERN: usize = 1_000_003;

async fn send<W: AsyncWrite + Unpin>(stream: &mut W, len: usize, seed: u64) {
    let pattern = content(seed, PATTERN);
    let mut left = len;
    while left > 0 {
        let part = left.min(PATTERN);
        stream.write_all(&pattern[..part]).await.unwrap();
        left -= part;
    }
    stream.shutdown().await.unwrap();
}

async fn receive<R: AsyncRead + Unpin>(stream: &mut R, len: usize, seed: u64) {
    let pattern = content(seed, PATTERN);
    let mut buffer = vec![0; 48_611];
    let mut at = 0;
    loop {
        let some = stream.read(&mut buffer).await.unwrap();
        if some == 0 {
            break;
        }
        let mut got = &buffer[..some];
        while !got.is_empty() {
            let expected = &pattern[at % PATTERN..];
            let part = got.len().min(expected.len());
            assert!(got[..part] == expected[..part], "around byte {at}");
            at += part;
            got = &got[part..];
        }
    }
    assert_eq!(at, len);
}

pub async fn sixty_four_mebibytes<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let sender = tokio::spawn(async move { send(&mut near, T::BULK, 1).await });
    receive(&mut far, T::BULK, 1).await;
    sender.await.unwrap();
}

pub async fn both_directions_at_once<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let len = T::BULK / 8;
    // One task per end, which both reads and writes: neither may wait for the other alone.
    let one = tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(&mut near);
        tokio::join!(send(&mut write, len, 1), receive(&mut read, len, 2));
    });
    let (mut read, mut write) = tokio::io::split(&mut far);
    tokio::join!(send(&mut write, len, 2), receive(&mut read, len, 1));
    one.await.unwrap();
}

pub async fn halves_in_two_tasks<T: Transport>() {
    let (near, far, _guard) = T::pair().await;
    let len = T::BULK / 16;
    let tasks = [(near, 1, 2), (far, 2, 1)].map(|(stream, sends, receives)| {
        let (mut read, mut write) = tokio::io::split(stream);
        let sender = tokio::spawn(async move { send(&mut write, len, sends).await });
        (sender, tokio::spawn(async move { receive(&mut read, len, receives).await }))
    });
    for (sender, receiver) in tasks {
        sender.await.unwrap();
        receiver.await.unwrap();
    }
}

pub async fn copied_both_ways<T: Transport>() {
    let (mut near, mut proxy_near, _guard) = T::pair().await;
    let (mut proxy_far, mut far, _guard) = T::pair().await;
    let len = T::BULK / 16;
    let proxy = tokio::spawn(async move { copy_bidirectional(&mut proxy_near, &mut proxy_far).await.unwrap() });
    let client = tokio::spawn(async move {
        send(&mut near, len, 1).await;
        // The other direction begins when this one is over.
        receive(&mut near, 1000, 2).await;
    });
    receive(&mut far, len, 1).await;
    send(&mut far, 1000, 2).await;
    client.await.unwrap();
    assert_eq!(proxy.await.unwrap(), (len as u64, 1000));
}
