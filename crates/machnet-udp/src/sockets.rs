//! The open ports: one exclusive socket each, and one epoll instance over all of them.
//!
//! Invariants:
//! - `ports` is sorted by port number and always contains the home port.
//! - What epoll waits for is exactly [`Sockets::interest`]: data unless the driver is out of frames, room to send only
//!   after a send was refused, errors always. Waiting for anything that nobody is about to handle would make an idle
//!   engine spin.
//! - With a group, each port is held by this driver and its siblings as that says.
//! - The eventfd in the epoll set is readable exactly while `kicked`: work is left that no socket shows.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{UdpSockRef, UdpSocketState};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::UdpBuilder;
use crate::group::Group;

/// Stands for the eventfd where epoll names ports.
const KICK: u64 = u64::MAX;

/// How many ready ports one look finds; the others come with the next, as epoll rotates its list.
const EVENTS: usize = 64;

/// Ports for each engine of several: enough pairs that one of them hits the right one, surely.
const PORTS_PER_ENGINE: usize = 4;

/// Ports below are not taken unasked.
const FIRST_UNASKED: u16 = 1024;

/// A socket that epoll reports as ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) port: u16,
    /// Its error queue may hold something.
    pub(crate) error: bool,
}

/// One open port.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) socket: UdpSocket,
    pub(crate) state: UdpSocketState,
    pub(crate) local: SocketAddr,
    /// Its error queue may not be empty.
    pub(crate) suspect: bool,
    /// [`Sockets::open`]s not yet closed.
    opens: u32,
    /// A send was refused for lack of room.
    blocked: bool,
    /// GSO segments the kernel offered when the socket was made.
    segments: usize,
}

impl Port {
    /// Opens a port; `shared` with those that share it already.
    pub(crate) fn bind(config: &UdpBuilder, address: SocketAddr, shared: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if shared {
            setsockopt(&socket, sockopt::ReusePort, &true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Larger than allowed is cut to the limit, not refused.
        socket.set_recv_buffer_size(config.receive_buffer)?;
        socket.set_send_buffer_size(config.send_buffer)?;
        let socket = UdpSocket::from(socket);
        let state = offloads(&socket)?;
        // Last, so that no datagram arrives before the options are set.
        SockRef::from(&socket).bind(&address.into())?;
        let local = socket.local_addr()?;
        let segments = state.max_gso_segments();
        Ok(Self { socket, state, local, suspect: false, opens: 0, blocked: false, segments })
    }

    /// Undoes what a failed send did to the socket's state when it was the datagram's own fault: quinn-udp takes any
    /// EINVAL for missing GSO, and would never try it again.
    pub(crate) fn restore_offloads(&mut self) {
        if self.state.max_gso_segments() < self.segments
            && let Ok(state) = offloads(&self.socket)
        {
            self.state = state;
        }
    }

    /// How many equal datagrams can be sent as one.
    pub(crate) fn segments(&self) -> usize {
        self.state.max_gso_segments()
    }
}

/// Sets the socket options of the datapath: non-blocking, PKTINFO, DF (path MTU "probe"), GRO, error queue.
fn offloads(socket: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    state.enable_transport_errors(UdpSockRef::from(socket))?;
    // quinn-udp also asks for time stamps and ECN bits. A stamp costs a clock read per packet, and together they need
    // more control room than it provides.
    let _ = setsockopt(socket, sockopt::ReceiveTimestampns, &false);
    let _ = match socket.local_addr()? {
        SocketAddr::V4(_) => SockRef::from(socket).set_recv_tos_v4(false),
        SocketAddr::V6(_) => SockRef::from(socket).set_recv_tclass_v6(false),
    };
    Ok(state)
}

/// All open ports.
#[derive(Debug)]
pub(crate) struct Sockets {
    epoll: OwnedFd,
    kick: OwnedFd,
    kicked: bool,
    ports: Vec<Port>,
    home: SocketAddr,
    /// Data is not waited for: there is no frame to put it in.
    deaf: bool,
    blocked: usize,
    config: UdpBuilder,
    /// The first and the last of the ports that are open for ever, the home port among them.
    range: (u16, u16),
    /// The drivers that share ports with this one.
    group: Option<Arc<Group>>,
}

impl Sockets {
    pub(crate) fn open_home(config: &UdpBuilder, address: SocketAddr) -> io::Result<Self> {
        let mut sockets = Self::closed(config, address)?;
        sockets.home = sockets.bind(address)?;
        sockets.range = (sockets.home.port(), sockets.home.port());
        Ok(sockets)
    }

    /// No port yet.
    fn closed(config: &UdpBuilder, home: SocketAddr) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &kick, epoll::EventData::new_u64(KICK), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            kick,
            kicked: false,
            ports: Vec::new(),
            home,
            deaf: false,
            blocked: 0,
            config: config.clone(),
            range: (0, 0),
            group: None,
        })
    }

    /// Makes these ports those of `drivers` drivers, each with a socket of its own, and takes some more beside the home
    /// port.
    pub(crate) fn split(mut self, drivers: usize) -> io::Result<Vec<Self>> {
        self.widen(u16::try_from(PORTS_PER_ENGINE * drivers).unwrap_or(u16::MAX));
        let group = Arc::new(Group::default());
        for port in &self.ports {
            group.adopt(port)?;
        }
        self.group = Some(Arc::clone(&group));
        let mut all = vec![self];
        for _ in 1..drivers {
            let first = &all[0];
            let mut next = Self::closed(&first.config, first.home)?;
            (next.range, next.group) = (first.range, Some(Arc::clone(&group)));
            for number in first.range.0..=first.range.1 {
                let mut address = first.home;
                address.set_port(number);
                next.bind(address)?;
            }
            all.push(next);
        }
        Ok(all)
    }

    /// Opens ports after and before the home port until there are `wanted`, or others are in the way.
    fn widen(&mut self, wanted: u16) {
        let (mut first, mut last) = self.range;
        let mut take = |port: u16| {
            let mut address = self.home;
            address.set_port(port);
            self.bind(address).is_ok()
        };
        while last - first + 1 < wanted && last < u16::MAX && take(last + 1) {
            last += 1;
        }
        while last - first + 1 < wanted && first > FIRST_UNASKED && take(first - 1) {
            first -= 1;
        }
        self.range = (first, last);
    }

    /// The first and the last of the ports that are always open.
    pub(crate) const fn range(&self) -> (u16, u16) {
        self.range
    }

    pub(crate) const fn config(&self) -> &UdpBuilder {
        &self.config
    }

    pub(crate) fn home(&self) -> SocketAddr {
        self.home
    }

    pub(crate) fn len(&self) -> usize {
        self.ports.len()
    }

    pub(crate) fn get_mut(&mut self, port: u16) -> Option<&mut Port> {
        let index = self.index(port).ok()?;
        self.ports.get_mut(index)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Port> {
        self.ports.iter_mut()
    }

    pub(crate) fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        if port == 0 || self.index(port).is_err() {
            let mut address = self.home;
            address.set_port(port);
            let local = self.bind(address)?;
            return self.open(local.port());
        }
        let Some(open) = self.get_mut(port) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        open.opens += 1;
        Ok(open.local)
    }

    pub(crate) fn close(&mut self, port: u16) {
        let Ok(index) = self.index(port) else {
            return;
        };
        let open = &mut self.ports[index];
        open.opens = open.opens.saturating_sub(1);
        if open.opens > 0 || (self.range.0..=self.range.1).contains(&port) {
            return;
        }
        let closed = self.ports.remove(index);
        self.blocked -= usize::from(closed.blocked);
        // The last descriptor is closed with it; this is for a copy that a fork may have made.
        let _ = epoll::delete(&self.epoll, &closed.socket);
        drop(closed.socket);
        if let Some(group) = &self.group {
            group.release(port);
        }
        tracing::debug!(local = %closed.local, "port closed");
    }

    /// Appends the ports that have something to receive or report, without waiting.
    pub(crate) fn ready(&self, found: &mut VecDeque<Ready>) {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) else {
            return;
        };
        for event in events {
            // Copied out: the kernel's structure is packed.
            let (flags, data) = (event.flags, event.data);
            let error = flags.contains(epoll::EventFlags::ERR);
            if let Ok(port) = u16::try_from(data.u64())
                && (error || flags.contains(epoll::EventFlags::IN))
            {
                found.push_back(Ready { port, error });
            }
        }
    }

    /// Wait for room on `port` as well: a send was refused.
    pub(crate) fn block(&mut self, port: u16) {
        if let Some(open) = self.get_mut(port).filter(|open| !open.blocked) {
            open.blocked = true;
            self.blocked += 1;
            self.watch(port);
        }
    }

    /// A send on `port` succeeded again, or nobody wants to send any more.
    pub(crate) fn unblock(&mut self, port: u16) {
        if self.blocked == 0 {
            return;
        }
        if let Some(open) = self.get_mut(port).filter(|open| open.blocked) {
            open.blocked = false;
            self.blocked -= 1;
            self.watch(port);
        }
    }

    /// Nobody has anything to send.
    pub(crate) fn unblock_all(&mut self) {
        while self.blocked > 0 {
            let Some(open) = self.ports.iter().find(|open| open.blocked) else {
                return;
            };
            self.unblock(open.local.port());
        }
    }

    /// Stops (or resumes) waiting for data; returns true if that is a change.
    pub(crate) fn set_deaf(&mut self, deaf: bool) -> bool {
        if self.deaf == deaf {
            return false;
        }
        self.deaf = deaf;
        for open in &self.ports {
            self.apply(open);
        }
        true
    }

    /// Makes [`Sockets::wait`] readable although no socket is, or ends that.
    pub(crate) fn set_kick(&mut self, kicked: bool) {
        if self.kicked == kicked {
            return;
        }
        self.kicked = kicked;
        let mut word = 1u64.to_ne_bytes();
        // Neither can block or fail: the counter goes from 0 to 1 and back.
        let _ = if kicked { rustix::io::write(&self.kick, &word) } else { rustix::io::read(&self.kick, &mut word) };
    }

    pub(crate) fn wait(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Binds a new socket; it is not counted as opened yet.
    fn bind(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let port = match &self.group {
            Some(group) => group.bind(&self.config, address),
            None => Port::bind(&self.config, address, false),
        };
        let port = port.map_err(|error| explain(address, &error))?;
        let local = port.local;
        let Err(index) = self.index(local.port()) else {
            return Err(io::ErrorKind::AddrInUse.into());
        };
        epoll::add(&self.epoll, &port.socket, epoll::EventData::new_u64(local.port().into()), self.interest(&port))?;
        tracing::debug!(%local, segments = port.segments, "port open");
        self.ports.insert(index, port);
        Ok(local)
    }

    fn index(&self, port: u16) -> Result<usize, usize> {
        self.ports.binary_search_by_key(&port, |open| open.local.port())
    }

    fn interest(&self, port: &Port) -> epoll::EventFlags {
        let data = if self.deaf { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        let room = if port.blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        data | room
    }

    fn watch(&self, port: u16) {
        if let Ok(index) = self.index(port) {
            self.apply(&self.ports[index]);
        }
    }

    fn apply(&self, port: &Port) {
        let name = epoll::EventData::new_u64(port.local.port().into());
        if let Err(error) = epoll::modify(&self.epoll, &port.socket, name, self.interest(port)) {
            tracing::debug!(local = %port.local, %error, "epoll refused a change");
        }
    }
}

/// Says which address failed and what to do, and keeps the kind.
fn explain(address: SocketAddr, error: &io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another socket has this port: choose another one, or 0 for any free one",
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has this address",
        io::ErrorKind::PermissionDenied => {
            "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE: choose a higher one"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot open UDP port {address}: {error}{hint}"))
}

/// The source address to ask for when sending from `local` on a socket bound to `bound`; none if the socket's own will
/// do.
pub(crate) fn source(local: IpAddr, bound: IpAddr) -> Option<IpAddr> {
    (!local.is_unspecified() && local != bound).then_some(local)
}
