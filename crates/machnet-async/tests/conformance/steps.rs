//! Single reads and writes.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Poll;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::support::{content, poll_once};
use crate::transports::Transport;

pub async fn vectored_is_constant<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    assert_eq!(near.is_write_vectored(), T::VECTORED);
    near.write_all(b"x").await.unwrap();
    far.read_u8().await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(near.is_write_vectored(), T::VECTORED);
}

pub async fn one_byte_at_a_time<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let sent = content(1, 5000);
    let write = async {
        for byte in &sent {
            assert_eq!(near.write(std::slice::from_ref(byte)).await.unwrap(), 1);
        }
        near.shutdown().await.unwrap();
    };
    let read = async {
        let mut got = Vec::new();
        let mut byte = [0];
        while far.read(&mut byte).await.unwrap() == 1 {
            got.push(byte[0]);
        }
        got
    };
    let ((), got) = tokio::join!(write, read);
    assert!(got == sent);
}

pub async fn empty_reads_take_nothing<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    near.write_all(b"abc").await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), b'a');
    for _ in 0..3 {
        assert_eq!(far.read(&mut []).await.unwrap(), 0);
    }
    let mut rest = [0; 2];
    far.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"bc");
}

pub async fn empty_writes_write_nothing<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    assert_eq!(near.write(&[]).await.unwrap(), 0);
    assert_eq!(near.write_vectored(&[IoSlice::new(&[]), IoSlice::new(&[])]).await.unwrap(), 0);
    near.write_all(b"z").await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"z");
}

pub async fn vectored_writes_are_a_prefix_in_order<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    // Longer than any transport takes at once, in slices of all kinds.
    let lens = [0, 1, 7, 0, 300_000, 1, 65_536, 0, 500_000];
    let parts: Vec<Vec<u8>> = (0..).zip(lens).map(|(number, len)| content(number, len)).collect();
    let sent = parts.concat();
    let write = async {
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        while left.iter().any(|slice| !slice.is_empty()) {
            let len = near.write_vectored(left).await.unwrap();
            assert!(len > 0);
            IoSlice::advance_slices(&mut left, len);
        }
        near.shutdown().await.unwrap();
    };
    let read = async {
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = tokio::join!(write, read);
    assert!(got == sent);
}

pub async fn a_pending_read_is_woken<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let reader = tokio::spawn(async move { (far.read_u8().await.unwrap(), far) });
    tokio::task::yield_now().await;
    near.write_all(b"!").await.unwrap();
    assert_eq!(reader.await.unwrap().0, b'!');
}

/// Writes until that is pending; returns how much.
async fn fill<S: AsyncWrite + Unpin>(stream: &mut S, content: &[u8]) -> usize {
    let mut len = 0;
    poll_fn(|cx| {
        while len < content.len() {
            match Pin::new(&mut *stream).poll_write(cx, &content[len..]) {
                Poll::Ready(written) => len += written.unwrap(),
                Poll::Pending => return Poll::Ready(()),
            }
        }
        panic!("{len} bytes, and it takes more");
    })
    .await;
    len
}

/// More than any transport takes unread.
const PLENTY: usize = 64 << 20;

/// Until it takes no more for good: the other side's transport takes some, too.
async fn fill_up<S: AsyncWrite + Unpin>(stream: &mut S, content: &[u8]) -> usize {
    let mut len = 0;
    loop {
        len += fill(stream, &content[len..]).await;
        let more = tokio::time::timeout(std::time::Duration::from_millis(500), stream.write(&content[len..])).await;
        match more {
            Ok(written) => len += written.unwrap(),
            Err(_) => return len,
        }
    }
}

pub async fn a_reader_that_does_not_read_stops_the_writer<T: Transport>() {
    let (mut near, far, _guard) = T::pair().await;
    let len = fill_up(&mut near, &content(3, PLENTY)).await;
    assert!(len > 0);
    drop(far);
}

pub async fn a_pending_write_is_woken<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let sent = content(4, PLENTY);
    let len = fill_up(&mut near, &sent).await;
    let writer = tokio::spawn(async move {
        near.write_all(b"more").await.unwrap();
        near.shutdown().await.unwrap();
        near
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got[..len] == sent[..len]);
    assert_eq!(&got[len..], b"more");
    writer.await.unwrap();
}

pub async fn what_was_accepted_arrives_without_another_call<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let sent = content(5, PLENTY);
    let len = fill_up(&mut near, &sent).await;
    let mut got = vec![0; len];
    far.read_exact(&mut got).await.unwrap();
    assert!(got == sent[..len]);
    // And not a byte more.
    let mut more = [0];
    assert!(poll_once(&mut far.read(&mut more).boxed()).await.is_pending());
    drop(near);
}

pub async fn a_write_given_up_wrote_all_or_nothing<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let sent = content(6, PLENTY);
    let mut len = fill_up(&mut near, &sent).await;
    let mut got = Vec::new();
    // Writes that wait, and are dropped at every stage, while the reader makes room now and then.
    for round in 0..200 {
        let written = {
            let mut write = near.write(&sent[len..len + 1000]).boxed();
            match poll_once(&mut write).await {
                Poll::Ready(written) => written.unwrap(),
                Poll::Pending => 0,
            }
        };
        len += written;
        if round % 3 == 0 {
            let mut some = vec![0; 4096.min(len - got.len())];
            far.read_exact(&mut some).await.unwrap();
            got.append(&mut some);
        }
        tokio::task::yield_now().await;
    }
    let finish = async {
        near.write_all(&sent[len..len + 1000]).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let read = async {
        far.read_to_end(&mut got).await.unwrap();
    };
    tokio::join!(finish, read);
    assert!(got == sent[..len + 1000]);
}

pub async fn requests_and_answers_without_a_flush<T: Transport>() {
    let (mut near, mut far, _guard) = T::pair().await;
    let server = tokio::spawn(async move {
        let mut request = [0; 100];
        while far.read_exact(&mut request).await.is_ok() {
            request.reverse();
            far.write_all(&request).await.unwrap();
        }
    });
    for number in 0..500 {
        let mut request = content(number, 100);
        near.write_all(&request).await.unwrap();
        let mut answer = [0; 100];
        near.read_exact(&mut answer).await.unwrap();
        request.reverse();
        assert_eq!(answer[..], request);
    }
    near.shutdown().await.unwrap();
    // The end, for good.
    for _ in 0..3 {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        poll_fn(|cx| Pin::new(&mut near).poll_read(cx, &mut buf)).await.unwrap();
        assert!(buf.filled().is_empty());
    }
    server.await.unwrap();
}
