//! `udp://`, `shm://`, `dpdk://`: flows of a Machnet endpoint, over UDP sockets, shared memory or a DPDK port; `unix://`: of
//! one whose engine is in a daemon.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use bytes::BufMut as _;
#[cfg(feature = "dpdk")]
use machnet::Congestion;
use machnet::{AttachBuilder, Config, Driver, Endpoint, Message, RecvHalf, SendHalf, Udp};
use machnet_shm::Shm;
use serde_json::{Map, Value};

use super::url::DEFAULT_PORT;
use super::{Link, Listener, Rx, Setup, Side, Tx, Wire};

/// Flows that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Facts: packets received, and those of them that belonged to another engine of the endpoint.
pub(crate) const RECEIVED: &str = "packets_received";
pub(crate) const HANDED_OVER: &str = "packets_handed_over";

pub(crate) struct Machnet {
    endpoint: Endpoint,
    at: SocketAddr,
    max_size: usize,
    /// The URL of a server that listens at a port.
    url: fn(&str, SocketAddr) -> String,
    name: String,
}

impl Machnet {
    /// Starts an endpoint on UDP sockets: a server's at the address that `at` names, a client's at one that reaches it.
    pub(crate) fn udp(at: SocketAddr, engines: usize, setup: &Setup, side: Side) -> io::Result<Self> {
        let from = match (side, at) {
            (Side::Server, _) => at.ip(),
            (Side::Client, _) => setup.bind.unwrap_or_else(|| source(at)),
        };
        Self::open(Udp::bind((from, 0))?, engines, at, setup, |_, at| format!("udp://{at}"), "")
    }

    /// Starts an endpoint on shared memory: the server is the hub of `name`.
    pub(crate) fn shm(name: &str, port: u16, setup: &Setup, side: Side) -> io::Result<Self> {
        let driver = match side {
            Side::Server => Shm::bind(name)?,
            Side::Client => Shm::connect(name)?,
        };
        // Packets as large as the hub's wires carry.
        let setup =
            Setup { max_payload: setup.max_payload.or(Some(driver.capabilities().max_payload)), ..setup.clone() };
        Self::open(driver, 1, (Shm::HUB, port).into(), &setup, |name, at| format!("shm://{name}:{}", at.port()), name)
    }

    /// Starts an endpoint on a DPDK port. A client elsewhere needs a port of its own to name beside the server's address.
    #[cfg(feature = "dpdk")]
    pub(crate) fn dpdk(port: &machnet::dpdk::DpdkUrl, server: SocketAddr, setup: &Setup) -> io::Result<Self> {
        let driver = port.open()?;
        let mut setup = setup.clone();
        setup.max_payload.get_or_insert(driver.capabilities().max_payload);
        // As the library's default endpoint.
        setup.congestion.get_or_insert(Congestion::Cubic);
        Self::open(driver, port.engines(), server, &setup, super::url::with_server, &port.to_string())
    }

    /// Attaches to a daemon. The server is at `server`; without it, at the daemon's own address.
    pub(crate) fn unix(path: &Path, server: Option<SocketAddr>, setup: &Setup) -> io::Result<Self> {
        let builder = AttachBuilder::new(path).flows(setup.flows).recv_spin(setup.recv_spin);
        let endpoint = builder.attach()?;
        let at = server.unwrap_or_else(|| SocketAddr::new(reachable(endpoint.local_addr().ip()), DEFAULT_PORT));
        let url = |path: &str, at| format!("unix://{path}?server={}", reachable_at(at));
        Ok(Self { endpoint, at, max_size: super::MAX_SIZE, url, name: path.display().to_string() })
    }

    fn open<D: Driver + 'static>(
        driver: D,
        engines: usize,
        at: SocketAddr,
        setup: &Setup,
        url: fn(&str, SocketAddr) -> String,
        name: &str,
    ) -> io::Result<Self> {
        let mut config = Config::default();
        config.max_flows = setup.max_flows;
        config.dead_peer_timeout = setup.timeout;
        config.congestion = setup.congestion;
        if let Some(bytes) = setup.max_payload {
            config.max_payload = bytes;
        }
        let max_size = config.max_message as usize;
        let mut builder = Endpoint::builder().driver(driver).engines(engines).config(config);
        if let Some(core) = setup.engine_core {
            builder = builder.pin_to_core(core);
        }
        let endpoint = builder.placement(setup.placement).idle(setup.idle).thread_name("engine").start()?;
        Ok(Self { endpoint, at, max_size, url, name: name.to_owned() })
    }
}

/// An address of this host's to reach who is at all of them.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn reachable_at(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(reachable(at.ip()), at.port())
}

/// The address that the kernel would send to `to` from: an endpoint there has packets as long as that one interface takes,
/// as TCP has. Any, if there is no way.
fn source(to: SocketAddr) -> IpAddr {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // Connecting a UDP socket sends nothing.
    let routed = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to).and_then(|()| socket.local_addr()));
    routed.map_or(any, |from| from.ip())
}

impl Tx<Message> for SendHalf {
    async fn send(&mut self, message: Message) -> io::Result<()> {
        Ok(Self::send(self, message).await?)
    }

    async fn send_filled(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) + Send) -> io::Result<()> {
        let mut message = self.reserve(len).await?;
        message.put_bytes(0, len);
        fill(&mut message);
        message.send();
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        Self::close(self).await
    }
}

impl Rx<Message> for RecvHalf {
    async fn recv(&mut self) -> io::Result<Option<Message>> {
        Self::recv(self).await
    }

    fn is_ready(&self) -> bool {
        true // there is nothing to flush
    }
}

impl Wire for Machnet {
    type Message = Message;
    type Tx = SendHalf;
    type Rx = RecvHalf;
    type Listener = MachnetListening;

    async fn listen(&self) -> io::Result<MachnetListening> {
        let listener = self.endpoint.listen_with(self.at.port(), BACKLOG).await?;
        Ok(MachnetListening { url: (self.url)(&self.name, listener.local_addr()), listener })
    }

    async fn connect(&self) -> io::Result<Link<Self>> {
        Ok(self.endpoint.connect(self.at).await?.into_split())
    }

    fn max_size(&self) -> usize {
        self.max_size
    }

    fn facts(&self) -> Map<String, Value> {
        let (wakes, engine) = (self.endpoint.wake_stats(), self.endpoint.stats());
        let facts = [
            ("wakers_called", wakes.wakers_called),
            ("wakes_handed_over", wakes.handed_over),
            ("doorbell_rings", wakes.rings),
            ("engine_parks", wakes.parks),
            ("packets_sent", engine.packets_sent),
            (RECEIVED, engine.packets_received),
            ("packets_lost", engine.packets_lost),
            ("packets_dropped", engine.drops.total()),
            (HANDED_OVER, engine.handed_over),
            ("probes_sent", engine.probes_sent),
            ("sent_in_place", engine.sent_in_place),
            ("engine_rounds", engine.rounds),
            ("engine_busy_us", engine.busy_ns / 1000),
        ];
        facts.into_iter().map(|(name, count)| (name.to_owned(), Value::from(count))).collect()
    }

    async fn shut_down(&self) -> io::Result<()> {
        self.endpoint.shutdown().await
    }
}

pub(crate) struct MachnetListening {
    listener: machnet::Listener,
    url: String,
}

impl Listener<Machnet> for MachnetListening {
    fn url(&self) -> String {
        self.url.clone()
    }

    async fn accept(&mut self) -> io::Result<Link<Machnet>> {
        Ok(self.listener.accept().await?.0.into_split())
    }
}
