//! `tcp+spin://`: TCP sockets that are polled without ever sleeping, so that no wake-up is paid for.
//!
//! The task that waits asks its socket again and again: some times in a row, then the runtime looks at the other tasks,
//! which costs a fraction of one more system call.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep, sleep};

use super::framed::{Calm, FramedRx, FramedTx, framed};
use super::{Link, Listener, Wire, tcp};

/// How often a socket is asked in a row.
const LOOKS: u32 = 16;
/// How long whoever is in no hurry waits before asking again.
const NAP: Duration = Duration::from_millis(2);

/// How somebody waits for a socket.
#[derive(Default)]
pub(super) struct Waiting {
    /// `Some` if in no hurry.
    nap: Option<Pin<Box<Sleep>>>,
}

impl Waiting {
    /// Be in no hurry from now on.
    pub(super) fn calm(&mut self) {
        self.nap = Some(Box::pin(sleep(NAP)));
    }

    /// Asks until it is `Ready`, or often enough for now: then the task is polled again soon.
    pub(super) fn ask<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut once: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            for _ in 0..LOOKS {
                match once() {
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    result => return Poll::Ready(result),
                }
            }
            let Some(nap) = &mut self.nap else {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            ready!(nap.as_mut().poll(cx));
            nap.as_mut().reset(Instant::now() + NAP);
        }
    }
}

pub(crate) struct TcpSpin {
    at: SocketAddr,
    bind: Option<IpAddr>,
}

impl TcpSpin {
    pub(crate) const fn new(at: SocketAddr, bind: Option<IpAddr>) -> Self {
        Self { at, bind }
    }
}

fn link(stream: tokio::net::TcpStream) -> io::Result<Link<TcpSpin>> {
    stream.set_nodelay(true)?;
    // Taken from the runtime, it stays non-blocking.
    let stream = Arc::new(stream.into_std()?);
    let half = |stream| Half { stream, waiting: Waiting::default() };
    Ok(framed(half(Arc::clone(&stream)), half(stream)))
}

/// A direction of a non-blocking stream.
pub(crate) struct Half {
    stream: Arc<TcpStream>,
    waiting: Waiting,
}

impl Calm for Half {
    fn calm(&mut self) {
        self.waiting.calm();
    }
}

impl AsyncRead for Half {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, waiting } = self.get_mut();
        let into = buf.initialize_unfilled();
        waiting.ask(cx, || (&**stream).read(into)).map_ok(|n| buf.advance(n))
    }
}

impl AsyncWrite for Half {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, waiting } = self.get_mut();
        waiting.ask(cx, || (&**stream).write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, waiting } = self.get_mut();
        waiting.ask(cx, || (&**stream).write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}

impl Wire for TcpSpin {
    type Message = Bytes;
    type Tx = FramedTx<Half>;
    type Rx = FramedRx<Half>;
    type Listener = TcpSpinListening;

    async fn listen(&self) -> io::Result<TcpSpinListening> {
        let listener = tcp::listen(self.at)?;
        Ok(TcpSpinListening { at: listener.local_addr()?, listener })
    }

    async fn connect(&self) -> io::Result<Link<Self>> {
        link(tcp::connect(self.at, self.bind).await?)
    }
}

/// Accepts as others do: only what is sent and received is busily waited for.
pub(crate) struct TcpSpinListening {
    listener: TcpListener,
    at: SocketAddr,
}

impl Listener<TcpSpin> for TcpSpinListening {
    fn url(&self) -> String {
        format!("tcp+spin://{}", self.at)
    }

    async fn accept(&mut self) -> io::Result<Link<TcpSpin>> {
        link(self.listener.accept().await?.0)
    }
}
