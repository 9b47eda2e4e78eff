//! `tcp://`: tokio's TcpStream, without delay.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::framed::{Calm, FramedRx, FramedTx, framed};
use super::{Link, Listener, Wire};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

pub(crate) struct Tcp {
    at: SocketAddr,
    bind: Option<IpAddr>,
}

impl Tcp {
    pub(crate) const fn new(at: SocketAddr, bind: Option<IpAddr>) -> Self {
        Self { at, bind }
    }
}

/// A socket of the family of `at`.
pub(super) fn socket(at: SocketAddr) -> io::Result<TcpSocket> {
    if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// Listens at `at`.
pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(at)?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Connects to `at` from `bind`.
pub(super) async fn connect(at: SocketAddr, bind: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = socket(at)?;
    if let Some(ip) = bind {
        socket.bind((ip, 0).into())?;
    }
    socket.connect(at).await
}

fn link(stream: TcpStream) -> io::Result<Link<Tcp>> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok(framed(read, write))
}

impl Calm for OwnedReadHalf {}

impl Wire for Tcp {
    type Message = Bytes;
    type Tx = FramedTx<OwnedWriteHalf>;
    type Rx = FramedRx<OwnedReadHalf>;
    type Listener = TcpListening;

    async fn listen(&self) -> io::Result<TcpListening> {
        let listener = listen(self.at)?;
        Ok(TcpListening { at: listener.local_addr()?, listener })
    }

    async fn connect(&self) -> io::Result<Link<Self>> {
        link(connect(self.at, self.bind).await?)
    }
}

pub(crate) struct TcpListening {
    listener: TcpListener,
    at: SocketAddr,
}

impl Listener<Tcp> for TcpListening {
    fn url(&self) -> String {
        format!("tcp://{}", self.at)
    }

    async fn accept(&mut self) -> io::Result<Link<Tcp>> {
        link(self.listener.accept().await?.0)
    }
}
