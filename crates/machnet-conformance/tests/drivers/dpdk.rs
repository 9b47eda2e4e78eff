//! DPDK's ports for wires within one machine, under core's network layer: memif; virtio-user with vhost, which is a cloud
//! VM's own datapath; AF_PACKET and AF_XDP on the two ends of a veth pair. Without huge pages; only AF_XDP needs root.

use std::collections::VecDeque;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use machnet_conformance::{Meddled, Mischief, Rig, Shape, Subject};
use machnet_core::net::{FrameDriver, Net, NetConfig, TxFrame, UdpChecksum};
use machnet_core::{Driver, Meta, TxPacket};
use machnet_dpdk::{Device, Eal, HugePages, Port};

/// A port under the network layer, and under a wire that does as it is told.
type End = Net<Meddled<Port>>;

/// A kind of wire.
#[derive(Clone, Copy)]
pub(crate) enum Ports {
    Memif,
    Virtio,
    /// The second queue of two.
    MemifQueue,
    VirtioQueue,
    AfPacket,
    AfXdp,
}

/// How long links may take to come up.
const UP: Duration = Duration::from_secs(30);

impl Subject for Ports {
    fn name(&self) -> &'static str {
        match self {
            Self::Memif => "memif",
            Self::Virtio => "virtio",
            Self::MemifQueue => "memif_2",
            Self::VirtioQueue => "virtio_2",
            Self::AfPacket => "af_packet",
            Self::AfXdp => "af_xdp",
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
        let veth = matches!(self, Self::AfPacket | Self::AfXdp).then(|| Veth::new(n)).transpose()?;
        let devices = match self {
            Self::Memif | Self::MemifQueue => [
                format!("vdev:net_memif{n},role=server,socket={path}"),
                format!("vdev:net_memif{},role=client,socket={path}", n + 1),
            ],
            Self::Virtio | Self::VirtioQueue => {
                [format!("vdev:net_vhost{n},iface=/tmp{path}"), format!("vdev:net_virtio_user{n},path=/tmp{path}")]
            }
            Self::AfPacket => [0, 1].map(|end| format!("vdev:net_af_packet{},iface=veth{}", n + end, n + end)),
            Self::AfXdp => [0, 1].map(|end| format!("vdev:net_af_xdp{},iface=veth{}", n + end, n + end)),
        };
        let engines = if matches!(self, Self::MemifQueue | Self::VirtioQueue) { 2 } else { 1 };
        let mut idle = Vec::new();
        let mut open = |side: usize| -> io::Result<End> {
            let device: Device = devices[side].parse().map_err(|error| io::Error::other(format!("{error:?}")))?;
            let address = format!("10.0.0.{}/24", side + 1).parse().map_err(io::Error::other)?;
            let mut net = NetConfig::new(address);
            net.port = 9000;
            let builder = Port::builder(device).eal(Eal::new().huge_pages(HugePages::Never));
            let builder = builder.frames(shape.frames).descriptors(shape.descriptors).checksum_offload(offload);
            let mut parts = builder.engines(engines).open()?.split(engines)?;
            let port = parts.pop().ok_or_else(|| io::Error::other("a port has a queue"))?;
            idle.append(&mut parts);
            Net::new(Meddled::new(port), &net).map_err(io::Error::other)
        };
        let ends = vec![open(0)?, open(1)?];
        let mut wire = Wire { ends, idle, start: Instant::now(), veth };
        while !wire.ends.iter().all(|end| end.device().is_up()) {
            wire.step();
            for end in &mut wire.ends {
                end.rx_burst(&mut Vec::new(), 8);
            }
            if wire.start.elapsed() > UP {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the link does not come up"));
            }
        }
        if !wire.is_open() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the ports take nothing"));
        }
        Ok(Box::new(wire))
    }
}

struct Wire {
    ends: Vec<End>,
    /// The other queues of each, if there are any: a port goes with the last.
    idle: Vec<Port>,
    start: Instant,
    /// Gone after its ends.
    veth: Option<Veth>,
}

/// A veth pair in the namespace of this process; removed when dropped.
struct Veth {
    names: [String; 2],
}

impl Veth {
    fn new(n: u32) -> io::Result<Self> {
        let names = [n, n + 1].map(|n| format!("veth{n}"));
        ip(&["link", "add", &names[0], "type", "veth", "peer", "name", &names[1]])?;
        let veth = Self { names };
        for name in &veth.names {
            // The kernel says nothing of its own there.
            ip(&["link", "set", name, "addrgenmode", "none"])?;
        }
        veth.set(true)?;
        Ok(veth)
    }

    /// Takes the link down, or up again; done when the kernel says so.
    fn set(&self, up: bool) -> io::Result<()> {
        let (state, sign) = if up { ("up", "state UP") } else { ("down", "state DOWN") };
        for name in &self.names {
            ip(&["link", "set", name, state])?;
        }
        let start = Instant::now();
        for name in &self.names {
            while !ip(&["link", "show", name])?.contains(sign) {
                if start.elapsed() > UP {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{name} does not go {state}")));
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The namespace's end removes what stays.
        let _ = ip(&["link", "del", &self.names[0]]);
    }
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
        if let Some(veth) = &self.veth {
            return veth.set(up).is_ok() && self.notices(up) && (!up || self.clears_its_throat());
        }
        self.ends.iter_mut().for_each(|end| end.device_mut().is_down = !up);
        true
    }

    fn loses_unread(&self) -> bool {
        self.ends[0].device().device().facts().driver == "net_af_xdp"
    }

    fn lose(&mut self, everything: bool) -> bool {
        self.meddle(if everything { Mischief::Lose } else { Mischief::None })
    }

    fn damage(&mut self, everything: bool) -> bool {
        self.meddle(if everything { Mischief::Damage } else { Mischief::None })
    }

    /// The device says of a frame that it is longer. That devices say so is tested with the ports themselves.
    fn bring(&mut self, len: usize) -> bool {
        self.meddle(Mischief::Stretch(28 + len as u32));
        let (local, remote) = (self.ends[0].home(), self.ends[1].home());
        let start = self.ends[0].capabilities().headroom;
        let Some(frame) = self.ends[0].frame() else { return false };
        let payload = frame.share(start..start + 100);
        let mut batch = VecDeque::from([TxPacket { meta: Meta { local, remote, queue: 0 }, payload, tail: None }]);
        self.ends[0].tx_burst(&mut batch);
        let before = self.ends[1].drops().total();
        let start = Instant::now();
        while self.ends[1].drops().total() == before && start.elapsed() < UP {
            self.step();
            self.ends[1].rx_burst(&mut Vec::new(), 8);
        }
        batch.is_empty() && self.meddle(Mischief::None)
    }
}

impl Wire {
    /// A step in which what comes is thrown away.
    fn discard(&mut self) {
        self.step();
        for end in &mut self.ends {
            end.rx_burst(&mut Vec::new(), 8);
        }
    }

    /// Both ports take a frame, which means nothing to anybody: memif's are closed until the thread that hears of the peer is done with it,
    /// which no number of steps bounds.
    fn is_open(&mut self) -> bool {
        for side in [0, 1] {
            let port = self.ends[side].device_mut();
            let start = port.capabilities().headroom;
            let Some(mut frame) = port.frame() else { return false };
            if let Some(bytes) = frame.bytes_mut() {
                bytes[start as usize..start as usize + 60].fill(0xff);
            }
            let bytes = frame.share(start..start + 60);
            let mut batch = VecDeque::from([TxFrame { bytes, checksum: UdpChecksum::Done, tail: None, queue: 0 }]);
            let start = Instant::now();
            while !batch.is_empty() && start.elapsed() < UP {
                self.ends[side].device_mut().tx_burst(&mut batch);
                self.discard();
            }
            if !batch.is_empty() {
                return false;
            }
        }
        true
    }

    /// Both ports see that their link is up, or down.
    fn notices(&mut self, up: bool) -> bool {
        let start = Instant::now();
        while self.ends.iter().any(|end| end.device().is_up() != up) && start.elapsed() < UP {
            self.discard();
        }
        self.ends.iter().all(|end| end.device().is_up() == up)
    }

    /// Both sides send something that may be lost: AF_PACKET's first frame after its link came back waits for the next.
    fn clears_its_throat(&mut self) -> bool {
        for side in [0, 1, 0, 1] {
            let (local, remote) = (self.ends[side].home(), self.ends[1 - side].home());
            let start = self.ends[side].capabilities().headroom;
            let Some(frame) = self.ends[side].frame() else { return false };
            let meta = Meta { local, remote, queue: 0 };
            let mut batch = VecDeque::from([TxPacket { meta, payload: frame.share(start..start + 8), tail: None }]);
            self.ends[side].tx_burst(&mut batch);
            self.step();
        }
        for _ in 0..2000 {
            self.discard();
        }
        true
    }

    fn meddle(&mut self, mischief: Mischief) -> bool {
        self.ends[1].device_mut().mischief = mischief;
        true
    }
}

impl Drop for Wire {
    /// One end goes after the other has seen it go: memif's interrupt thread still works on a connection that ends, and
    /// frees what is freed with the port.
    fn drop(&mut self) {
        drop((self.ends.pop(), self.idle.pop()));
        let start = Instant::now();
        while let Some(end) = self.ends.first_mut()
            && self.veth.is_none()
            && end.device().is_up()
            && start.elapsed() < UP
        {
            end.rx_burst(&mut Vec::new(), 8);
            std::thread::yield_now();
        }
    }
}
