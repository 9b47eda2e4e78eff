//! [`SimDriver`] as an Ethernet device, and a machine's driver, which may be either.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ipnet::IpNet;
use machnet_channel::{Doorbell, Frame, FrameRef};
use machnet_core::net::{FrameCapabilities, FrameDriver, Net, NetConfig, RxFrame, TxFrame};
use machnet_core::{Capabilities, Driver, Drops, Instant, RxPacket, TxPacket, Unreachable};

use crate::{SimDriver, ethernet};

impl FrameDriver for SimDriver {
    fn capabilities(&self) -> &FrameCapabilities {
        &self.frame_capabilities
    }

    fn split(mut self, queues: usize) -> io::Result<Vec<Self>> {
        let others = std::mem::take(&mut self.others);
        if others.len() + 1 != queues {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{} queues", others.len() + 1)));
        }
        Ok(std::iter::once(self).chain(others).collect())
    }

    fn is_up(&self) -> bool {
        self.is_link_up()
    }

    fn frame(&mut self) -> Option<Frame> {
        Driver::frame(self)
    }

    fn owns(&self, bytes: &FrameRef) -> bool {
        self.pool.owns(bytes)
    }

    fn long_frame(&mut self) -> Option<Frame> {
        Driver::long_frame(self)
    }

    fn gathers(&self, tail: &FrameRef) -> bool {
        self.reads(tail)
    }

    fn recycle(&mut self, bytes: FrameRef) {
        Driver::recycle(self, bytes);
    }

    fn is_short_of_frames(&self) -> bool {
        Driver::is_short_of_frames(self)
    }

    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize {
        let verifies = self.frame_capabilities.rx_checksum;
        self.pull(max, |frame, range, datagram| {
            let checksum_good = verifies && !datagram.damaged && !datagram.is_control();
            out.push(RxFrame { frame, range, checksum_good });
        })
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize {
        let fabric = self.fabric.clone();
        let mut inner = fabric.lock();
        let mut taken = 0;
        self.wants_descriptor = false;
        while !batch.is_empty() && self.has_descriptor() {
            let Some(TxFrame { bytes, tail, checksum, .. }) = batch.pop_front() else { break };
            let mut frame = self.whole(&bytes, tail.as_ref()).into_owned();
            ethernet::complete(&mut frame, checksum);
            let payload = ethernet::read(&frame).map_or(0, |udp| udp.payload.len());
            let late = self.charge(inner.now, payload);
            inner.transmit_frame(self.nic, &frame, late);
            self.hold(inner.now, late, bytes, tail);
            taken += 1;
        }
        taken
    }

    fn reap(&mut self) {
        Driver::reap(self);
    }

    fn backlog(&self) -> Option<u64> {
        Driver::backlog(self)
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        Driver::set_bell(self, bell);
    }

    fn starve(&mut self) -> bool {
        Driver::starve(self)
    }

    fn drops(&self) -> Drops {
        Driver::drops(self)
    }
}

/// A NIC with what is between it and an engine: nothing, or core's network layer.
#[derive(Debug)]
pub enum Attached {
    /// A NIC that moves datagrams.
    Datagrams(Box<SimDriver>),
    /// One that moves frames.
    Frames(Box<Net<SimDriver>>),
}

impl Attached {
    /// What `nic` is configured for. Its neighbours are all of 10/8, or all of fd00::/8: every host of the fabric.
    ///
    /// # Errors
    /// `InvalidInput` if the layer refuses the NIC.
    pub fn new(nic: SimDriver) -> io::Result<Self> {
        if nic.config.ethernet.is_none() {
            return Ok(Self::Datagrams(Box::new(nic)));
        }
        let home = Driver::home(&nic);
        let mut config = NetConfig::new(IpNet::new(home.ip(), 8).map_err(io::Error::other)?);
        config.port = home.port();
        let net = Net::new(nic, &config).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Self::Frames(Box::new(net)))
    }
}

impl Attached {
    /// The queues of one NIC, as [`Attached::new`].
    ///
    /// # Errors
    /// As [`Attached::new`].
    pub fn several(mut queues: Vec<SimDriver>) -> io::Result<Vec<Self>> {
        if queues.iter().all(|queue| queue.config.ethernet.is_none()) {
            return queues.into_iter().map(Self::new).collect();
        }
        let count = queues.len();
        let mut first = queues.remove(0);
        first.others = queues;
        match Self::new(first)? {
            Self::Frames(net) => Ok(net.split(count)?.into_iter().map(|net| Self::Frames(Box::new(net))).collect()),
            Self::Datagrams(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Deref for Attached {
    type Target = SimDriver;

    fn deref(&self) -> &SimDriver {
        match self {
            Self::Datagrams(nic) => nic,
            Self::Frames(net) => net.device(),
        }
    }
}

impl DerefMut for Attached {
    fn deref_mut(&mut self) -> &mut SimDriver {
        match self {
            Self::Datagrams(nic) => nic,
            Self::Frames(net) => net.device_mut(),
        }
    }
}

/// Calls the same on whatever it is.
macro_rules! both {
    ($this:expr, $driver:ident => $call:expr) => {
        match $this {
            Attached::Datagrams(boxed) => {
                let $driver = &mut **boxed;
                $call
            }
            Attached::Frames(boxed) => {
                let $driver = &mut **boxed;
                $call
            }
        }
    };
    (ref $this:expr, $driver:ident => $call:expr) => {
        match $this {
            Attached::Datagrams(boxed) => {
                let $driver = &**boxed;
                $call
            }
            Attached::Frames(boxed) => {
                let $driver = &**boxed;
                $call
            }
        }
    };
}

impl Driver for Attached {
    fn capabilities(&self) -> &Capabilities {
        both!(ref self, driver => Driver::capabilities(driver))
    }

    fn home(&self) -> SocketAddr {
        both!(ref self, driver => Driver::home(driver))
    }

    fn ports(&self) -> (u16, u16) {
        both!(ref self, driver => Driver::ports(driver))
    }

    fn reaches(&self, remote: IpAddr) -> bool {
        both!(ref self, driver => Driver::reaches(driver, remote))
    }

    fn begin(&mut self, now: Instant) {
        both!(self, driver => Driver::begin(driver, now));
    }

    fn next_deadline(&self) -> Option<Instant> {
        both!(ref self, driver => Driver::next_deadline(driver))
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        both!(self, driver => Driver::open(driver, port))
    }

    fn close(&mut self, port: u16) {
        both!(self, driver => Driver::close(driver, port));
    }

    fn frame(&mut self) -> Option<Frame> {
        both!(self, driver => Driver::frame(driver))
    }

    fn long_frame(&mut self) -> Option<Frame> {
        both!(self, driver => Driver::long_frame(driver))
    }

    fn recycle(&mut self, payload: FrameRef) {
        both!(self, driver => Driver::recycle(driver, payload));
    }

    fn is_short_of_frames(&self) -> bool {
        both!(ref self, driver => Driver::is_short_of_frames(driver))
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        both!(self, driver => Driver::rx_burst(driver, out, max))
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        both!(self, driver => Driver::tx_burst(driver, batch))
    }

    fn reap(&mut self) {
        both!(self, driver => Driver::reap(driver));
    }

    fn backlog(&self) -> Option<u64> {
        both!(ref self, driver => Driver::backlog(driver))
    }

    fn unreachable(&mut self) -> Option<Unreachable> {
        both!(self, driver => Driver::unreachable(driver))
    }

    fn doubt(&mut self, remote: IpAddr) {
        both!(self, driver => Driver::doubt(driver, remote));
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        both!(ref self, driver => Driver::wait(driver))
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        both!(self, driver => Driver::set_bell(driver, bell));
    }

    fn starve(&mut self) -> bool {
        both!(self, driver => Driver::starve(driver))
    }

    fn drops(&self) -> Drops {
        both!(ref self, driver => Driver::drops(driver))
    }
}
