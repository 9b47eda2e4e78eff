//! Kernel sockets on loopback.

use std::io;
use std::net::UdpSocket;

use machnet_conformance::{Rig, Shape, Subject};
use machnet_core::{Driver, Instant};
use machnet_udp::Udp;

/// Two drivers on loopback.
pub(crate) struct Loopback;

/// Shorter than what loopback carries, so that something can be too long.
const FRAME: u32 = 2048;

impl Subject for Loopback {
    fn name(&self) -> &'static str {
        "udp"
    }

    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>> {
        let bind = || Udp::builder().frames(shape.frames).frame_size(FRAME).bind("127.0.0.1:0");
        Ok(Box::new(Sockets([bind()?, bind()?])))
    }

    fn reduced(&self) -> Vec<(&'static str, io::Result<Box<dyn Rig>>)> {
        let bind = || Udp::builder().frames(1024).frame_size(FRAME).batch(1).bind("127.0.0.1:0");
        let pair = || -> io::Result<Box<dyn Rig>> { Ok(Box::new(Sockets([bind()?, bind()?]))) };
        vec![("batches", pair())]
    }

    fn says_unreachable(&self) -> bool {
        true
    }
}

struct Sockets([Udp; 2]);

impl Rig for Sockets {
    fn driver(&mut self, side: usize) -> &mut dyn Driver {
        &mut self.0[side]
    }

    fn free_frames(&mut self, side: usize) -> u32 {
        self.0[side].free_frames()
    }

    fn step(&mut self) {
        for driver in &mut self.0 {
            driver.begin(Instant::ZERO);
            driver.reap();
        }
        std::thread::yield_now();
    }

    fn bring(&mut self, len: usize) -> bool {
        let stranger = UdpSocket::bind("127.0.0.1:0");
        stranger.and_then(|socket| socket.send_to(&vec![7; len], self.0[1].home())).is_ok()
    }
}
