//! The simulated wire, of datagrams and of frames.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use machnet_conformance::{Rig, Shape, Subject};
use machnet_core::{Driver, Hairpin, Instant};
use machnet_sim::{Attached, Ethernet, Fabric, HostId, Link, LinkId, NicConfig, SimDriver};

/// NICs that move datagrams.
pub(crate) struct Datagrams;

/// The same, whose hosts could talk to themselves.
pub(crate) struct Turned;

/// NICs that move Ethernet frames, and compute and verify checksums.
#[derive(Clone, Copy)]
pub(crate) enum Frames {
    V4,
    V6,
}

/// Long frames of a NIC that gathers.
pub(crate) const LONG: u32 = 8;

const OFFLOADED: Ethernet = Ethernet { tx_checksum: true, rx_checksum: true };
const BARE: Ethernet = Ethernet { tx_checksum: false, rx_checksum: false };

impl Subject for Datagrams {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>> {
        // Frames that hold the MTU and no more: what is longer does not fit.
        Wire::boxed(
            v4(),
            shape,
            NicConfig { headroom: 64, frame_size: 64 + 1472, long_frames: LONG, ..NicConfig::default() },
        )
    }

    fn reduced(&self) -> Vec<(&'static str, io::Result<Box<dyn Rig>>)> {
        vec![("headroom", Wire::boxed(v4(), Shape::default(), NicConfig::default()))]
    }

    fn says_unreachable(&self) -> bool {
        true
    }
}

impl Subject for Turned {
    fn name(&self) -> &'static str {
        "hairpin"
    }

    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>> {
        let nic = NicConfig { headroom: 64, frame_size: 64 + 1472, long_frames: LONG, ..NicConfig::default() };
        Wire::made(v4(), shape, nic, Hairpin::alone)
    }

    fn says_unreachable(&self) -> bool {
        true
    }
}

/// The simulator's driver, whatever is around it.
pub(crate) trait Simulated: Driver {
    fn simulated(&self) -> &SimDriver;
    fn simulated_mut(&mut self) -> &mut SimDriver;
}

impl Simulated for Attached {
    fn simulated(&self) -> &SimDriver {
        self
    }

    fn simulated_mut(&mut self) -> &mut SimDriver {
        self
    }
}

impl<D: Simulated> Simulated for Hairpin<D> {
    fn simulated(&self) -> &SimDriver {
        self.driver().simulated()
    }

    fn simulated_mut(&mut self) -> &mut SimDriver {
        self.driver_mut().simulated_mut()
    }
}

impl Subject for Frames {
    fn name(&self) -> &'static str {
        match self {
            Self::V4 => "ethernet",
            Self::V6 => "ethernet6",
        }
    }

    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>> {
        Wire::boxed(
            self.addresses(),
            shape,
            NicConfig { headroom: 32, ethernet: Some(OFFLOADED), long_frames: LONG, ..NicConfig::default() },
        )
    }

    fn reduced(&self) -> Vec<(&'static str, io::Result<Box<dyn Rig>>)> {
        let nic = NicConfig { headroom: 32, ..NicConfig::default() };
        let with = |nic| Wire::boxed(self.addresses(), Shape::default(), nic);
        vec![
            ("tx_checksum", with(NicConfig { ethernet: Some(Ethernet { tx_checksum: false, ..OFFLOADED }), ..nic })),
            ("rx_checksum", with(NicConfig { ethernet: Some(Ethernet { rx_checksum: false, ..OFFLOADED }), ..nic })),
            ("headroom", with(NicConfig { headroom: 0, ethernet: Some(OFFLOADED), ..nic })),
            ("anything", with(NicConfig { headroom: 0, ethernet: Some(BARE), ..nic })),
        ]
    }

    fn says_unreachable(&self) -> bool {
        true
    }
}

impl Frames {
    fn addresses(self) -> [IpAddr; 2] {
        match self {
            Self::V4 => v4(),
            Self::V6 => [1, 2].map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into()),
        }
    }
}

pub(crate) fn v4() -> [IpAddr; 2] {
    [1, 2].map(|n| IpAddr::from([10, 0, 0, n]))
}

/// Two hosts and a cable.
pub(crate) struct Wire<D> {
    fabric: Fabric,
    drivers: [D; 2],
    hosts: [HostId; 2],
    there: LinkId,
    now: Instant,
}

impl Wire<Attached> {
    fn boxed(addresses: [IpAddr; 2], shape: Shape, nic: NicConfig) -> io::Result<Box<dyn Rig>> {
        Self::made(addresses, shape, nic, |driver| driver)
    }
}

impl<D: Simulated + 'static> Wire<D> {
    /// A wire between drivers that `make` makes of the simulator's.
    pub(crate) fn made(
        addresses: [IpAddr; 2],
        shape: Shape,
        nic: NicConfig,
        make: impl Fn(Attached) -> D,
    ) -> io::Result<Box<dyn Rig>> {
        let nic = NicConfig {
            port: 9000,
            frames: shape.frames,
            rx_descriptors: shape.descriptors,
            tx_descriptors: shape.descriptors,
            hold_packets: shape.kept,
            ..nic
        };
        let fabric = Fabric::new(1);
        let hosts = addresses.map(|address| fabric.host(address));
        let link = Link::with_delay(Duration::from_micros(5));
        let (there, _) = fabric.join(hosts[0], hosts[1], link.clone(), link);
        hosts.iter().for_each(|&host| fabric.answer_unreachable(host, true));
        let driver = |host| -> io::Result<D> { Ok(make(Attached::new(fabric.nic(host, nic)?)?)) };
        let drivers = [driver(hosts[0])?, driver(hosts[1])?];
        Ok(Box::new(Self { fabric, drivers, hosts, there, now: Instant::ZERO }))
    }
}

impl<D: Simulated + 'static> Rig for Wire<D> {
    fn driver(&mut self, side: usize) -> &mut dyn Driver {
        &mut self.drivers[side]
    }

    fn free_frames(&mut self, side: usize) -> u32 {
        self.drivers[side].simulated().free_frames()
    }

    fn step(&mut self) {
        self.now += Duration::from_micros(2);
        self.fabric.advance(self.now);
        for driver in &mut self.drivers {
            driver.begin(self.now);
            Driver::reap(driver);
        }
    }

    fn give_back(&mut self) {
        self.drivers.iter_mut().for_each(|driver| driver.simulated_mut().give_back());
    }

    fn set_link(&mut self, up: bool) -> bool {
        self.drivers.iter_mut().for_each(|driver| driver.simulated_mut().set_link(up));
        true
    }

    fn lose(&mut self, everything: bool) -> bool {
        self.fabric.reconfigure(self.there, |link| link.loss = f64::from(u8::from(everything)));
        true
    }

    fn damage(&mut self, everything: bool) -> bool {
        self.fabric.reconfigure(self.there, |link| link.corrupt = f64::from(u8::from(everything)));
        true
    }

    fn bring(&mut self, len: usize) -> bool {
        let from = SocketAddr::new(self.drivers[0].home().ip(), 9000);
        self.fabric.forge(self.hosts[0], from, self.drivers[1].home(), &vec![7; len]);
        true
    }
}
