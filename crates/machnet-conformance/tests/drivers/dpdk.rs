//! DPDK's ports for wires within one machine, under core's network layer: memif, and virtio-user with vhost, which is a cloud
//! VM's own datapath. Without huge pages, and without root.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use machnet_conformance::{Meddled, Mischief, Rig, Shape, Subject};
use machnet_core::Driver;
use machnet_core::net::{FrameDriver, Net, NetConfig};
use machnet_dpdk::{Device, Eal, HugePages, Port};

/// A port under the network layer, and under a wire that does as it is told.
type End = Net<Meddled<Port>>;

/// A kind of wire.
#[derive(Clone, Copy)]
pub(crate) enum Ports {
    Memif,
    Virtio,
}

/// How long links may take to come up.
const UP: Duration = Duration::from_secs(30);

impl Subject for Ports {
    fn name(&self) -> &'static str {
        match self {
            Self::Memif => "memif",
            Self::Virtio => "virtio",
        }
    }

    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>> {
        self.pair_with(shape, true)
    }

    fn reduced(&self) -> Vec<(&'static str, io::Result<Box<dyn Rig>>)> {
        vec![("checksums", self.pair_with(Shape::default(), false))]
    }

    fn says_unreachable(&self) -> bool {
        true
    }
}

impl Ports {
    fn pair_with(self, shape: Shape, offload: bool) -> io::Result<Box<dyn Rig>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(2, Ordering::Relaxed);
        let path = format!("/machnet-conformance-{}-{n}", std::process::id());
        let devices = match self {
            Self::Memif => [
                format!("vdev:net_memif{n},role=server,socket={path}"),
                format!("vdev:net_memif{},role=client,socket={path}", n + 1),
            ],
            Self::Virtio => [
                format!("vdev:net_vhost{n},iface=/tmp{path}"),
                format!("vdev:net_virtio_user{n},path=/tmp{path},queues=1"),
            ],
        };
        let open = |side: usize| -> io::Result<End> {
            let device: Device = devices[side].parse().map_err(|error| io::Error::other(format!("{error:?}")))?;
            let address = format!("10.0.0.{}/24", side + 1).parse().map_err(io::Error::other)?;
            let mut net = NetConfig::new(address);
            net.port = 9000;
            let builder = Port::builder(device).eal(Eal::new().huge_pages(HugePages::Never));
            let port = builder.frames(shape.frames).descriptors(shape.descriptors).checksum_offload(offload).open()?;
            Net::new(Meddled::new(port), &net).map_err(io::Error::other)
        };
        let mut wire = Wire { ends: vec![open(0)?, open(1)?], start: Instant::now() };
        while !wire.ends.iter().all(|end| end.device().is_up()) {
            wire.step();
            for end in &mut wire.ends {
                end.rx_burst(&mut Vec::new(), 8);
            }
            if wire.start.elapsed() > UP {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the link does not come up"));
            }
        }
        Ok(Box::new(wire))
    }
}

struct Wire {
    ends: Vec<End>,
    start: Instant,
}

impl Rig for Wire {
    fn driver(&mut self, side: usize) -> &mut dyn Driver {
        &mut self.ends[side]
    }

    fn free_frames(&mut self, side: usize) -> u32 {
        self.ends[side].device().device().free_frames()
    }

    fn step(&mut self) {
        let now = machnet_core::Instant(self.start.elapsed().as_nanos() as u64);
        for end in &mut self.ends {
            end.begin(now);
            Driver::reap(end);
        }
        std::thread::yield_now();
    }

    fn set_link(&mut self, up: bool) -> bool {
        self.ends.iter_mut().for_each(|end| end.device_mut().is_down = !up);
        true
    }

    fn lose(&mut self, everything: bool) -> bool {
        self.ends[1].device_mut().mischief = if everything { Mischief::Lose } else { Mischief::None };
        true
    }

    fn damage(&mut self, everything: bool) -> bool {
        self.ends[1].device_mut().mischief = if everything { Mischief::Damage } else { Mischief::None };
        true
    }
}

impl Drop for Wire {
    /// One end goes after the other has seen it go: memif's interrupt thread still works on a connection that ends, and
    /// frees what is freed with the port.
    fn drop(&mut self) {
        drop(self.ends.pop());
        let start = Instant::now();
        while let Some(end) = self.ends.first_mut()
            && end.device().is_up()
            && start.elapsed() < UP
        {
            end.rx_burst(&mut Vec::new(), 8);
            std::thread::yield_now();
        }
    }
}
