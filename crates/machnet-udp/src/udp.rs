//! The driver itself: sockets, receiver and transmitter behind [`Driver`].

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FramePool, FrameRef, Region};
use machnet_core::{Capabilities, Driver, DropReason, Drops, RxPacket, TxPacket, Unreachable};

use crate::UdpBuilder;
use crate::config::{MAX_DEFAULT_FRAME, MIN_DEFAULT_FRAME};
use crate::icmp::ErrorReader;
use crate::mtu;
use crate::route;
use crate::rx::Receiver;
use crate::sockets::Sockets;
use crate::tx::Transmitter;

/// A [`Driver`] over kernel UDP sockets.
///
/// ```
/// use machnet_core::Driver;
/// use machnet_udp::Udp;
///
/// let udp = Udp::bind("127.0.0.1:0")?;
/// assert_ne!(udp.home().port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Udp {
    capabilities: Capabilities,
    pool: FramePool,
    sockets: Sockets,
    receiver: Receiver,
    transmitter: Transmitter,
    errors: ErrorReader,
    drops: Drops,
    /// The last address that a route led to, while nothing was refused since: who connects often connects there again.
    reached: Cell<Option<IpAddr>>,
}

impl Udp {
    /// Opens a driver with default settings; see [`UdpBuilder::bind`].
    ///
    /// # Errors
    /// As [`UdpBuilder::bind`].
    pub fn bind<A: ToSocketAddrs + Debug>(address: A) -> io::Result<Self> {
        Self::builder().bind(address)
    }

    /// Settings to change before binding.
    #[must_use]
    pub const fn builder() -> UdpBuilder {
        UdpBuilder::new()
    }

    pub(crate) fn open_home(config: &UdpBuilder, address: SocketAddr) -> io::Result<Self> {
        Self::on(config, Sockets::open_home(config, address)?)
    }

    fn on(config: &UdpBuilder, mut sockets: Sockets) -> io::Result<Self> {
        let home = sockets.home();
        let max_payload = mtu::max_payload(home);
        let frame_size = config.frame_size.unwrap_or(max_payload.clamp(MIN_DEFAULT_FRAME, MAX_DEFAULT_FRAME));
        let (_, pool) = Region::anonymous(frame_size, config.frames)?;
        let segments = sockets.get_mut(home.port()).map_or(1, |port| port.segments());
        let mut capabilities = Capabilities::minimal(max_payload.min(frame_size));
        capabilities.segments = u16::try_from(segments).unwrap_or(u16::MAX);
        capabilities.can_sleep = true;
        Ok(Self {
            capabilities,
            pool,
            sockets,
            receiver: Receiver::new(config.batch, home),
            transmitter: Transmitter::new(),
            errors: ErrorReader::new(),
            drops: Drops::default(),
            reached: Cell::new(None),
        })
    }

    /// Number of free frames. Exact only while nobody drops one.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.pool.free()
    }

    /// Sees to it that [`Driver::wait`] is readable if work is left that no socket shows.
    fn show_work(&mut self) {
        let deliverable = self.receiver.holds() && self.pool.free() > 0;
        self.sockets.set_kick(deliverable || !self.errors.is_empty());
    }
}

impl Driver for Udp {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        self.sockets.home()
    }

    fn ports(&self) -> (u16, u16) {
        self.sockets.range()
    }

    fn reaches(&self, remote: IpAddr) -> bool {
        if self.reached.get() == Some(remote) {
            return true;
        }
        let leads = route::leads(self.home().ip(), remote);
        if leads {
            self.reached.set(Some(remote));
        }
        leads
    }

    /// Each driver has a socket of its own for every port, with memory of its own, and the kernel chooses between them. The
    /// ports beside the home port are taken for all of them: four for each driver, fewer if others are in the way.
    fn split(self, drivers: usize) -> io::Result<Vec<Self>> {
        if drivers == 1 {
            return Ok(vec![self]);
        }
        let config = self.sockets.config().clone();
        self.sockets.split(drivers)?.into_iter().map(|sockets| Self::on(&config, sockets)).collect()
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        self.sockets.open(port)
    }

    fn close(&mut self, port: u16) {
        self.sockets.close(port);
    }

    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn recycle(&mut self, payload: FrameRef) {
        self.pool.recycle(payload);
    }

    fn is_short_of_frames(&self) -> bool {
        self.pool.free() < self.pool.capacity() / 2
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        let count = if self.pool.free() > 0 {
            self.sockets.set_deaf(false);
            let Self { receiver, sockets, errors, pool, drops, .. } = self;
            receiver.burst(sockets, errors, pool, drops, out, max)
        } else {
            // Data stays where it is; errors take no frames, and nobody else would find them.
            for port in self.sockets.iter_mut() {
                port.suspect = self.errors.drain(&port.socket).more;
            }
            0
        };
        self.show_work();
        count
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let refused = self.drops.get(DropReason::Unsendable);
        let taken = self.transmitter.burst(&mut self.sockets, &mut self.errors, &mut self.pool, &mut self.drops, batch);
        if self.drops.get(DropReason::Unsendable) != refused {
            // The route may be gone.
            self.reached.set(None);
        }
        self.show_work();
        taken
    }

    fn reap(&mut self) {
        self.pool.gather();
    }

    fn unreachable(&mut self) -> Option<Unreachable> {
        let report = self.errors.next();
        self.show_work();
        report
    }

    /// Readable also while [`Driver::tx_burst`] left datagrams and their socket has room again: call it then, if only
    /// with an empty batch.
    fn wait(&self) -> Option<BorrowedFd<'_>> {
        Some(self.sockets.wait())
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.pool.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        if self.pool.free() == 0 && !self.pool.starve() {
            // Data that cannot be received must not keep the engine awake.
            self.sockets.set_deaf(true);
            self.show_work();
            return false;
        }
        let came_home = self.sockets.set_deaf(false);
        self.show_work();
        came_home || self.receiver.holds()
    }

    fn drops(&self) -> Drops {
        self.drops
    }
}

impl Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp")
            .field("home", &self.home())
            .field("capabilities", &self.capabilities)
            .field("free_frames", &self.free_frames())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use machnet_core::Meta;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn readable(udp: &Udp) -> bool {
        let fd = udp.wait().unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    fn datagram(udp: &mut Udp, remote: &str) -> TxPacket {
        let payload = udp.frame().unwrap().share(0..100);
        TxPacket { meta: Meta { local: udp.home(), remote: remote.parse().unwrap(), queue: 0 }, payload, tail: None }
    }

    /// Loopback never refuses for lack of room, so the refusal is told to the sockets by hand.
    #[test]
    fn a_blocked_socket_is_waited_for_until_it_sends_again() {
        let mut udp = Udp::bind("127.0.0.1:0").unwrap();
        let home = udp.home();
        let other = udp.open(0).unwrap().port();
        assert!(!readable(&udp));
        udp.sockets.block(home.port());
        udp.sockets.block(other);
        assert!(readable(&udp));
        let mut batch: VecDeque<_> = [datagram(&mut udp, &home.to_string())].into();
        assert_eq!(udp.tx_burst(&mut batch), 1);
        assert_eq!(udp.rx_burst(&mut Vec::new(), 8), 1);
        assert!(!readable(&udp), "sent, and nothing is left to send");
        udp.sockets.block(other);
        udp.close(other);
        assert!(!readable(&udp), "closed");
        udp.sockets.block(home.port());
        assert_eq!(udp.tx_burst(&mut batch), 0);
        assert!(!readable(&udp), "an empty batch ends the waiting");
    }

    /// quinn-udp takes the EINVAL that a loopback source gets on its way out for missing GSO.
    #[test]
    fn a_datagram_that_cannot_be_sent_does_not_cost_segmentation() {
        let mut udp = Udp::bind("127.0.0.1:0").unwrap();
        let port = udp.home().port();
        let before = udp.sockets.get_mut(port).unwrap().segments();
        let home = udp.home().to_string();
        for burst in 1..4 {
            let mut batch: VecDeque<_> = (0..burst).map(|_| datagram(&mut udp, "203.0.113.1:9")).collect();
            batch.push_back(datagram(&mut udp, &home));
            assert_eq!(udp.tx_burst(&mut batch), burst + 1);
            assert_eq!(udp.rx_burst(&mut Vec::new(), 8), 1);
            assert_eq!(udp.sockets.get_mut(port).unwrap().segments(), before);
        }
        assert_eq!(udp.drops().get(DropReason::Unsendable), 1 + 2 + 3);
        assert_eq!(udp.free_frames(), 4096);
    }

    #[test]
    fn what_is_refused_is_asked_for_again() {
        let mut udp = Udp::bind("127.0.0.1:0").unwrap();
        let home = udp.home();
        assert!(udp.reaches(home.ip()) && !udp.reaches("203.0.113.1".parse().unwrap()));
        assert_eq!(udp.reached.get(), Some(home.ip()));
        let mut batch: VecDeque<_> = [datagram(&mut udp, &home.to_string())].into();
        assert_eq!(udp.tx_burst(&mut batch), 1);
        assert_eq!(udp.reached.get(), Some(home.ip()), "sent");
        let mut batch: VecDeque<_> = [datagram(&mut udp, "203.0.113.1:9")].into();
        assert_eq!(udp.tx_burst(&mut batch), 1);
        assert_eq!(udp.reached.get(), None);
    }

    #[test]
    fn datagrams_are_never_fragmented() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let mut udp = Udp::bind(address).unwrap();
            assert!(udp.sockets.iter_mut().all(|port| !port.state.may_fragment()), "{address}");
        }
    }

    #[test]
    fn capabilities_are_what_interface_and_frames_allow() {
        let udp = Udp::bind("127.0.0.1:0").unwrap();
        let capabilities = udp.capabilities();
        assert_eq!((capabilities.max_payload, capabilities.can_sleep), (9216, true));
        let udp = Udp::builder().frame_size(65_536).frames(4).bind("127.0.0.1:0").unwrap();
        assert_eq!(udp.capabilities().max_payload, mtu::max_payload(udp.home()));
    }
}
