//! `udp+spin://`: bare datagrams on busily polled sockets, the least that a message through the kernel's UDP costs.
//!
//! Nothing is repeated: what the network loses is lost. Each connection has a socket of its own on both sides: a client
//! greets the server's port, is answered from another one, and goes on with that. The first byte of a datagram is its kind.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;

use super::spin::Waiting;
use super::{Link, Listener, Rx, Tx, Wire};

const DATA: u8 = 0;
const FIN: u8 = 1;
const HELLO: u8 = 2;

/// What a datagram can carry over IPv4, less the kind.
const MAX_DATAGRAM: usize = 65_507;
/// How often a greeting is repeated, and how long it is waited for each time.
const GREETINGS: u32 = 20;
const PATIENCE: Duration = Duration::from_millis(100);
/// An end may get lost: it is said several times.
const ENDS: u32 = 3;

pub(crate) struct UdpSpin {
    at: SocketAddr,
    bind: Option<IpAddr>,
}

impl UdpSpin {
    pub(crate) const fn new(at: SocketAddr, bind: Option<IpAddr>) -> Self {
        Self { at, bind }
    }
}

fn link(socket: UdpSocket) -> Link<UdpSpin> {
    let socket = Arc::new(socket);
    let tx = DatagramTx { socket: Arc::clone(&socket), datagram: Vec::new(), waiting: Waiting::default() };
    (tx, DatagramRx { socket, buffer: vec![0; 1 << 16].into(), waiting: Waiting::default() })
}

pub(crate) struct DatagramTx {
    socket: Arc<UdpSocket>,
    datagram: Vec<u8>,
    waiting: Waiting,
}

impl Tx<Bytes> for DatagramTx {
    async fn send(&mut self, message: Bytes) -> io::Result<()> {
        self.datagram.clear();
        self.datagram.push(DATA);
        self.datagram.extend_from_slice(&message);
        std::future::poll_fn(|cx| self.waiting.ask(cx, || self.socket.send(&self.datagram))).await.map(drop)
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        for _ in 0..ENDS {
            // The peer may have heard the first, and be gone.
            let _ = self.socket.send(&[FIN]);
        }
        Ok(())
    }
}

pub(crate) struct DatagramRx {
    socket: Arc<UdpSocket>,
    buffer: Box<[u8]>,
    waiting: Waiting,
}

impl Rx<Bytes> for DatagramRx {
    async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| {
            loop {
                let len = ready!(self.waiting.ask(cx, || self.socket.recv(&mut self.buffer)))?;
                match self.buffer[..len] {
                    [DATA, ref message @ ..] => return Ok(Some(Bytes::copy_from_slice(message))).into(),
                    [FIN, ..] => return Ok(None).into(),
                    _ => {} // a greeting that was answered already
                }
            }
        })
        .await
    }

    fn is_ready(&self) -> bool {
        true // there is nothing to flush
    }

    fn calm(&mut self) {
        self.waiting.calm();
    }
}

impl Wire for UdpSpin {
    type Message = Bytes;
    type Tx = DatagramTx;
    type Rx = DatagramRx;
    type Listener = UdpSpinListening;

    async fn listen(&self) -> io::Result<UdpSpinListening> {
        let socket = tokio::net::UdpSocket::bind(self.at).await?;
        Ok(UdpSpinListening { at: socket.local_addr()?, socket })
    }

    async fn connect(&self) -> io::Result<Link<Self>> {
        let any: IpAddr = if self.at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = tokio::net::UdpSocket::bind((self.bind.unwrap_or(any), 0)).await?;
        for _ in 0..GREETINGS {
            socket.send_to(&[HELLO], self.at).await?;
            if let Ok(answer) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut [0])).await {
                let (_, peer) = answer?;
                socket.connect(peer).await?;
                return Ok(link(socket.into_std()?));
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers"))
    }

    fn max_size(&self) -> usize {
        MAX_DATAGRAM - 1
    }
}

pub(crate) struct UdpSpinListening {
    socket: tokio::net::UdpSocket,
    at: SocketAddr,
}

impl Listener<UdpSpin> for UdpSpinListening {
    fn url(&self) -> String {
        format!("udp+spin://{}", self.at)
    }

    async fn accept(&mut self) -> io::Result<Link<UdpSpin>> {
        loop {
            let mut kind = [0];
            let (_, peer) = self.socket.recv_from(&mut kind).await?;
            if kind == [HELLO] {
                let socket = UdpSocket::bind((self.at.ip(), 0))?;
                socket.set_nonblocking(true)?;
                socket.connect(peer)?;
                socket.send(&[HELLO])?;
                return Ok(link(socket));
            }
        }
    }
}
