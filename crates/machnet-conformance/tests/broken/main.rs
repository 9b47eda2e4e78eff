//! Each check fails on a driver that does what the check forbids: the simulator's, with one bug each.

#[allow(dead_code, reason = "the wire is what is used of it")]
#[path = "../drivers/sim.rs"]
mod sim;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FrameRef};
use machnet_conformance::{CHECKS, Rig, Shape, Subject};
use machnet_core::{Capabilities, Driver, Drops, Instant, RxPacket, TxPacket, Unreachable};
use machnet_sim::{Attached, NicConfig, SimDriver};
use sim::{LONG, Simulated, Wire, v4};

/// What is wrong with a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// `rx_burst` gives all there is.
    Greedy,
    /// `tx_burst` says one less than it took.
    Liar,
    /// What the device refuses is thrown away.
    Careless,
    /// A burst comes with its last first.
    Backwards,
    /// What the device refuses for want of descriptors it refuses sooner than it says.
    Shallow,
    /// Every 500th frame stays.
    Hoarder,
    /// The bell is not passed on.
    Mute,
    /// The last byte is lost.
    Short,
    /// Nothing is counted.
    Forgetful,
    /// Local addresses lack the port.
    Vague,
    /// Ports once open stay the only free ones.
    Stuck,
    /// ICMP is not listened to.
    Deaf,
    /// The last datagram goes with the next one.
    Latch,
    /// While the link is down, datagrams pile up.
    Patient,
    /// It says that it sleeps, and has no descriptor.
    Sleepless,
    /// Every 50th received datagram is overwritten by the next: what a device does that writes where somebody reads.
    Scribbler,
    /// What the sender keeps is sent again as something else.
    Stale,
    /// Of an end that lies elsewhere the last byte is lost.
    Frayed,
    /// Every 100th of those stays.
    Clinging,
}

/// Which check finds it.
const FOUND: &[(Bug, &str)] = &[
    (Bug::Greedy, "bursts"),
    (Bug::Liar, "bursts"),
    (Bug::Careless, "partial_tx"),
    (Bug::Shallow, "full_rings"),
    (Bug::Backwards, "order"),
    (Bug::Mute, "exhaustion"),
    (Bug::Scribbler, "held_by_reader"),
    (Bug::Stale, "held_by_device"),
    (Bug::Frayed, "two_pieces"),
    (Bug::Clinging, "two_pieces"),
    (Bug::Hoarder, "no_leak"),
    (Bug::Latch, "tail_loss"),
    (Bug::Short, "lengths"),
    (Bug::Forgetful, "too_long"),
    (Bug::Forgetful, "long_arrival"),
    (Bug::Vague, "addresses"),
    (Bug::Stuck, "ports"),
    (Bug::Deaf, "unreachable"),
    (Bug::Forgetful, "checksums"),
    (Bug::Patient, "link_down"),
    (Bug::Sleepless, "sleep"),
    (Bug::Short, "reduced"),
];

impl Subject for Bug {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>> {
        let shallow = |shape: Shape| {
            let mut shape = shape;
            shape.descriptors = 64;
            shape
        };
        let shape = if *self == Self::Shallow { shallow(shape) } else { shape };
        let nic = NicConfig { headroom: 64, frame_size: 64 + 1472, long_frames: LONG, ..NicConfig::default() };
        Wire::made(v4(), shape, nic, |driver| Broken::new(driver, *self))
    }

    fn reduced(&self) -> Vec<(&'static str, io::Result<Box<dyn Rig>>)> {
        vec![("nothing", self.pair(Shape::default()))]
    }

    fn says_unreachable(&self) -> bool {
        true
    }
}

/// A driver with a bug.
struct Broken {
    driver: Attached,
    bug: Bug,
    capabilities: Capabilities,
    kept: Vec<FrameRef>,
    latched: Option<TxPacket>,
    first_port: Option<SocketAddr>,
    count: u64,
}

impl Broken {
    fn new(driver: Attached, bug: Bug) -> Self {
        let mut capabilities = *Driver::capabilities(&driver);
        if bug == Bug::Shallow {
            capabilities.descriptors = 256;
        }
        capabilities.can_sleep = bug == Bug::Sleepless;
        Self { driver, bug, capabilities, kept: Vec::new(), latched: None, first_port: None, count: 0 }
    }

    /// Writes over the frame's bytes, as nobody may who is not a device.
    fn scribble(packet: &mut RxPacket) {
        let range = packet.range.start as usize..packet.range.end as usize;
        if let Some(bytes) = packet.frame.bytes_mut() {
            bytes[range].reverse();
        }
    }
}

impl Simulated for Broken {
    fn simulated(&self) -> &SimDriver {
        &self.driver
    }

    fn simulated_mut(&mut self) -> &mut SimDriver {
        &mut self.driver
    }
}

impl Driver for Broken {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn home(&self) -> SocketAddr {
        self.driver.home()
    }

    fn begin(&mut self, now: Instant) {
        self.driver.begin(now);
    }

    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        let opened = self.driver.open(port)?;
        let first = *self.first_port.get_or_insert(opened);
        Ok(if self.bug == Bug::Stuck { first } else { opened })
    }

    fn close(&mut self, port: u16) {
        self.driver.close(port);
    }

    fn frame(&mut self) -> Option<Frame> {
        Driver::frame(&mut self.driver)
    }

    fn long_frame(&mut self) -> Option<Frame> {
        Driver::long_frame(&mut self.driver)
    }

    fn recycle(&mut self, payload: FrameRef) {
        Driver::recycle(&mut self.driver, payload);
    }

    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        let before = out.len();
        let max = if self.bug == Bug::Greedy { 256 } else { max };
        let n = Driver::rx_burst(&mut self.driver, out, max);
        if self.bug == Bug::Backwards {
            out[before..].reverse();
        }
        for packet in &mut out[before..] {
            self.count += 1;
            match self.bug {
                Bug::Scribbler if self.count.is_multiple_of(50) => Self::scribble(packet),
                Bug::Short => packet.range.end = packet.range.end.saturating_sub(1).max(packet.range.start),
                Bug::Vague => packet.meta.local.set_port(0),
                _ => {}
            }
        }
        n
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        if self.bug == Bug::Patient && !self.driver.is_link_up() {
            return 0;
        }
        self.count += 1;
        if self.bug == Bug::Hoarder && self.count.is_multiple_of(500) {
            self.kept.extend(batch.front().map(|packet| packet.payload.clone()));
        }
        if let Some(tail) = batch.front_mut().and_then(|packet| packet.tail.as_mut()) {
            match self.bug {
                Bug::Frayed => *tail = tail.slice(0..tail.as_ref().len() as u32 - 1),
                Bug::Clinging if self.count.is_multiple_of(100) => self.kept.push(tail.clone()),
                _ => {}
            }
        }
        if self.bug == Bug::Stale
            && let Some(packet) = batch.front_mut()
            && packet.payload.as_ref().len() > 100
        {
            let shorter = packet.payload.slice(0..100);
            packet.payload = shorter;
        }
        if self.bug == Bug::Latch
            && let Some(last) = batch.pop_back()
        {
            batch.extend(self.latched.replace(last));
            return Driver::tx_burst(&mut self.driver, batch).max(1);
        }
        let taken = Driver::tx_burst(&mut self.driver, batch);
        match self.bug {
            Bug::Liar => taken.saturating_sub(1),
            Bug::Careless => taken + batch.drain(..).count(),
            _ => taken,
        }
    }

    fn reap(&mut self) {
        Driver::reap(&mut self.driver);
    }

    fn unreachable(&mut self) -> Option<Unreachable> {
        if self.bug == Bug::Deaf { None } else { Driver::unreachable(&mut self.driver) }
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        if self.bug != Bug::Mute {
            Driver::set_bell(&mut self.driver, bell);
        }
    }

    fn starve(&mut self) -> bool {
        Driver::starve(&mut self.driver)
    }

    fn drops(&self) -> Drops {
        if self.bug == Bug::Forgetful { Drops::default() } else { Driver::drops(&self.driver) }
    }
}

#[test]
fn without_a_bug_all_checks_pass() {
    for check in CHECKS {
        assert_eq!(check.run(&Bug::None), Ok(()), "{}", check.name);
    }
}

#[test]
fn each_check_finds_its_bug() {
    for (bug, name) in FOUND {
        let check = CHECKS.iter().find(|check| check.name == *name).expect("a check of this name");
        let why = check.run(bug).expect_err(&format!("{name} does not find {bug:?}"));
        println!("{name:<16} finds {bug:?}: {why}");
    }
    let unproven: Vec<_> = CHECKS
        .iter()
        .filter(|check| FOUND.iter().all(|(_, name)| *name != check.name))
        .map(|check| check.name)
        .collect();
    assert!(unproven.is_empty(), "no bug for {unproven:?}");
}
