//! Packets to this very host, turned around before they reach the NIC.
//!
//! ```text
//!   engine ── tx_burst ──▶ to an own address? ─ no ──▶ driver
//!      ▲                        │ yes: copied into a fresh frame
//!      └──── rx_burst ◀─────────┘
//! ```
//!
//! Two applications of one daemon are two flows of one engine, and what they say to each other need not leave it: no NIC,
//! no system call, and no network that would have to send packets back to where they came from (many do not). Nothing else
//! changes: the same packets, acknowledgements and congestion control, so a flow does not know whether its peer is near.
//!
//! Own addresses are the driver's home, and those that its owner names: of a driver that is bound to all addresses only
//! the owner knows them. Where the address is the driver's alone ([`Hairpin::alone`]) a closed port is said to be
//! unreachable. Where other sockets of the host share it, packets to ports that are not open here are left to the driver.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use machnet_channel::{Doorbell, Frame, FrameRef};

use crate::driver::{Capabilities, Driver, Meta, RxPacket, TxPacket, Unreachable};
use crate::ports::PortWords;
use crate::{DropReason, Drops, Instant};

/// Packets on their way around: more than an engine sends before it receives again.
const WAITING: usize = 1024;
/// Refusals that wait to be looked at; more are forgotten, as ICMP is.
const REFUSALS: usize = 64;

/// A driver whose host can talk to itself. See the module.
#[derive(Debug)]
pub struct Hairpin<D> {
    driver: D,
    own: Vec<IpAddr>,
    /// Nobody but this driver has these addresses.
    alone: bool,
    /// How often each port was opened, by any of several queues.
    open: Arc<PortWords>,
    turned: VecDeque<RxPacket>,
    refused: VecDeque<Unreachable>,
    drops: Drops,
    turned_packets: u64,
}

impl<D: Driver> Hairpin<D> {
    /// Around a driver that shares its host with others. `own` are addresses that it is reached at, besides its home.
    #[must_use]
    pub fn shared(driver: D, own: Vec<IpAddr>) -> Self {
        Self::new(driver, own, false)
    }

    /// Around a driver whose home address is its own alone.
    #[must_use]
    pub fn alone(driver: D) -> Self {
        Self::new(driver, Vec::new(), true)
    }

    fn new(driver: D, mut own: Vec<IpAddr>, alone: bool) -> Self {
        own.push(driver.home().ip());
        own.retain(|ip| !ip.is_unspecified() && !ip.is_multicast());
        own.sort_unstable();
        own.dedup();
        Self::on(driver, own, alone, Arc::new(PortWords::new()))
    }

    fn on(driver: D, own: Vec<IpAddr>, alone: bool, open: Arc<PortWords>) -> Self {
        Self {
            driver,
            own,
            alone,
            open,
            turned: VecDeque::new(),
            refused: VecDeque::new(),
            drops: Drops::default(),
            turned_packets: 0,
        }
    }

    /// The driver.
    pub const fn driver(&self) -> &D {
        &self.driver
    }

    /// The driver.
    pub const fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Packets turned around so far.
    pub const fn turned(&self) -> u64 {
        self.turned_packets
    }

    fn is_open(&self, port: u16) -> bool {
        let (first, last) = self.driver.ports();
        (first..=last).contains(&port) || self.open.get(port).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    fn turn(&mut self, packet: &TxPacket) -> Result<(), DropReason> {
        let Meta { local, remote, .. } = packet.meta;
        let (bytes, len) = (packet.payload.as_ref(), packet.len());
        if !self.is_open(remote.port()) {
            let mut quoted = [0; 16];
            let len = bytes.len().min(quoted.len());
            quoted[..len].copy_from_slice(&bytes[..len]);
            if self.refused.len() < REFUSALS {
                self.refused.push_back(Unreachable { remote, quoted });
            }
            return Ok(());
        }
        if len > self.driver.capabilities().max_payload as usize {
            return Err(DropReason::Unsendable);
        }
        if self.turned.len() >= WAITING {
            return Err(DropReason::Congested);
        }
        let mut frame = self.driver.frame().ok_or(DropReason::NoFrames)?;
        let room = frame.bytes_mut().and_then(|all| all.get_mut(..len)).ok_or(DropReason::Oversized)?;
        room[..bytes.len()].copy_from_slice(bytes);
        if let Some(tail) = &packet.tail {
            room[bytes.len()..].copy_from_slice(tail.as_ref());
        }
        // A flow that leaves the choice to the driver is answered where it called.
        let from = if local.ip().is_unspecified() { remote.ip() } else { local.ip() };
        let meta = Meta { local: remote, remote: SocketAddr::new(from, local.port()), queue: 0 };
        self.turned.push_back(RxPacket { meta, frame, range: 0..len as u32 });
        self.turned_packets += 1;
        Ok(())
    }

    fn receive_turned(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        let n = self.turned.len().min(max);
        out.extend(self.turned.drain(..n));
        n
    }
}

impl<D: Driver> Driver for Hairpin<D> {
    fn capabilities(&self) -> &Capabilities {
        self.driver.capabilities()
    }

    fn home(&self) -> SocketAddr {
        self.driver.home()
    }

    fn ports(&self) -> (u16, u16) {
        self.driver.ports()
    }

    fn turns(&self, to: SocketAddr) -> bool {
        self.own.contains(&to.ip()) && (self.alone || self.is_open(to.port()))
    }

    fn reaches(&self, remote: IpAddr) -> bool {
        self.own.contains(&remote) || self.driver.reaches(remote)
    }

    fn split(self, drivers: usize) -> io::Result<Vec<Self>> {
        let Self { driver, own, alone, open, .. } = self;
        let parts = driver.split(drivers)?;
        Ok(parts.into_iter().map(|part| Self::on(part, own.clone(), alone, Arc::clone(&open))).collect())
    }

    fn begin(&mut self, now: Instant) {
        self.driver.begin(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.driver.next_deadline()
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        let address = self.driver.open(port)?;
        self.open.make(address.port()).fetch_add(1, Ordering::Relaxed);
        Ok(address)
    }

    fn close(&mut self, port: u16) {
        self.driver.close(port);
        let fewer = |count: u64| count.checked_sub(1);
        let _ = self.open.make(port).fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    fn frame(&mut self) -> Option<Frame> {
        self.driver.frame()
    }

    fn long_frame(&mut self) -> Option<Frame> {
        self.driver.long_frame()
    }

    fn recycle(&mut self, payload: FrameRef) {
        self.driver.recycle(payload);
    }

    fn is_short_of_frames(&self) -> bool {
        self.driver.is_short_of_frames()
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        // Half for each, and the rest for who has more.
        let mut n = self.receive_turned(out, max / 2);
        n += self.driver.rx_burst(out, max - n);
        n + self.receive_turned(out, max - n)
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let before = batch.len();
        if batch.iter().any(|packet| self.turns(packet.meta.remote)) {
            batch.retain(|packet| {
                let turns = self.turns(packet.meta.remote);
                if turns && let Err(reason) = self.turn(packet) {
                    self.drops.count(reason);
                }
                !turns
            });
        }
        if !batch.is_empty() {
            self.driver.tx_burst(batch);
        }
        before - batch.len()
    }

    fn reap(&mut self) {
        self.driver.reap();
    }

    fn backlog(&self) -> Option<u64> {
        self.driver.backlog()
    }

    fn unreachable(&mut self) -> Option<Unreachable> {
        self.refused.pop_front().or_else(|| self.driver.unreachable())
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        self.driver.wait()
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.driver.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        let came_home = self.driver.starve();
        came_home || !self.turned.is_empty() || !self.refused.is_empty()
    }

    fn drops(&self) -> Drops {
        let mut drops = self.driver.drops();
        drops.add(&self.drops);
        drops
    }
}

#[cfg(test)]
mod tests {
    use machnet_channel::{FramePool, Region};

    use super::*;

    const HOME: &str = "10.0.0.1:5000";

    /// A device that keeps what it is given.
    struct Nic {
        capabilities: Capabilities,
        pool: FramePool,
        sent: Vec<(Meta, Vec<u8>)>,
        accepts: usize,
        home: SocketAddr,
    }

    impl Nic {
        fn new(home: &str) -> Self {
            let pool = Region::anonymous(2048, 8).unwrap().1;
            let capabilities = Capabilities::minimal(1472);
            Self { capabilities, pool, sent: Vec::new(), accepts: usize::MAX, home: home.parse().unwrap() }
        }
    }

    impl Driver for Nic {
        fn capabilities(&self) -> &Capabilities {
            &self.capabilities
        }
        fn home(&self) -> SocketAddr {
            self.home
        }
        fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
            Ok(SocketAddr::new(self.home.ip(), port))
        }
        fn close(&mut self, _: u16) {}
        fn frame(&mut self) -> Option<Frame> {
            self.pool.take()
        }
        fn rx_burst(&mut self, _: &mut Vec<RxPacket>, _: usize) -> usize {
            0
        }
        fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
            let n = batch.len().min(self.accepts);
            self.sent.extend(batch.drain(..n).map(|packet| (packet.meta, packet.payload.as_ref().to_vec())));
            n
        }
        fn set_bell(&mut self, _: Arc<Doorbell>) {}
        fn starve(&mut self) -> bool {
            false
        }
    }

    fn batch(driver: &mut impl Driver, packets: &[(&str, &str, &[u8])]) -> VecDeque<TxPacket> {
        let mut make = |&(local, remote, bytes): &(&str, &str, &[u8])| {
            let mut frame = driver.frame().unwrap();
            frame.bytes_mut().unwrap()[..bytes.len()].copy_from_slice(bytes);
            let meta = Meta { local: local.parse().unwrap(), remote: remote.parse().unwrap(), queue: 0 };
            TxPacket { meta, payload: frame.share(0..bytes.len() as u32), tail: None }
        };
        packets.iter().map(&mut make).collect()
    }

    #[test]
    fn what_is_for_this_host_comes_back_and_the_rest_leaves() {
        let mut driver = Hairpin::alone(Nic::new(HOME));
        driver.open(9000).unwrap();
        driver.driver_mut().accepts = 1;
        let mut out = batch(
            &mut driver,
            &[
                (HOME, "10.0.0.2:9000", b"far"),
                (HOME, "10.0.0.1:9000", b"near"),
                (HOME, "10.0.0.2:9000", b"farther"),
                ("0.0.0.0:5000", "10.0.0.1:9000", b"nearer"),
            ],
        );
        assert_eq!(driver.tx_burst(&mut out), 3);
        assert_eq!((out.len(), out[0].payload.as_ref()), (1, &b"farther"[..]), "the device takes one");
        assert_eq!(driver.driver().sent[0].1, b"far");
        assert!(driver.starve(), "no sleep while something waits");
        let mut received = Vec::new();
        assert_eq!(driver.rx_burst(&mut received, 256), 2);
        let seen: Vec<_> = received.iter().map(|p| (&p.frame.bytes()[..p.range.end as usize], p.meta)).collect();
        let (local, remote) = ("10.0.0.1:9000".parse().unwrap(), HOME.parse().unwrap());
        let meta = Meta { local, remote, queue: 0 };
        assert_eq!(seen, [(&b"near"[..], meta), (&b"nearer"[..], meta)]);
        drop((received, out));
        assert!(!driver.starve());
        assert_eq!((driver.driver().pool.free(), driver.turned()), (8, 2), "every frame came home");
    }

    #[test]
    fn closed_ports_are_refused_where_nobody_else_has_the_address() {
        let mut driver = Hairpin::alone(Nic::new(HOME));
        let mut out = batch(&mut driver, &[(HOME, "10.0.0.1:9000", b"anybody?")]);
        assert_eq!(driver.tx_burst(&mut out), 1);
        let refusal = driver.unreachable().unwrap();
        assert_eq!((refusal.remote, &refusal.quoted[..8]), ("10.0.0.1:9000".parse().unwrap(), &b"anybody?"[..]));
        assert!(driver.unreachable().is_none() && driver.driver().sent.is_empty());

        let mut driver = Hairpin::shared(Nic::new("0.0.0.0:5000"), vec!["10.0.0.1".parse().unwrap()]);
        driver.open(9001).unwrap();
        driver.open(9001).unwrap();
        driver.close(9001);
        for (open, sent) in [(true, 0), (false, 1)] {
            let mut out = batch(&mut driver, &[(HOME, "10.0.0.1:9001", b"x")]);
            assert_eq!(driver.tx_burst(&mut out), 1);
            assert_eq!(driver.driver().sent.len(), sent, "open: {open}");
            driver.close(9001);
        }
        assert!(driver.unreachable().is_none());
    }

    #[test]
    fn without_frames_it_is_loss_and_counted() {
        let mut driver = Hairpin::alone(Nic::new(HOME));
        let all = [(HOME, HOME, &b"me"[..]); 5];
        let mut out = batch(&mut driver, &all);
        assert_eq!((driver.tx_burst(&mut out), driver.turned()), (5, 3), "eight frames: five sent, three received");
        assert_eq!(driver.drops().get(DropReason::NoFrames), 2);
        let long = vec![0; 1473];
        let mut driver = Hairpin::alone(Nic::new(HOME));
        let mut out = batch(&mut driver, &[(HOME, HOME, &long)]);
        assert_eq!((driver.tx_burst(&mut out), driver.drops().get(DropReason::Unsendable)), (1, 1));
    }
}
