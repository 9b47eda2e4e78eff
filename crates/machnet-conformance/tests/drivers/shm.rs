//! Memory between two endpoints.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use machnet_conformance::{Rig, Shape, Subject};
use machnet_core::{Driver, Instant};
use machnet_shm::Shm;

/// A hub and its client, in one process.
pub(crate) struct Memory;

impl Subject for Memory {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>> {
        static PAIRS: AtomicU32 = AtomicU32::new(0);
        let name = format!("conformance-{}-{}", std::process::id(), PAIRS.fetch_add(1, Ordering::Relaxed));
        let builder = || Shm::builder().frames(shape.frames).descriptors(shape.descriptors.into());
        let hub = builder().bind(&name)?;
        let client = builder().connect(&name)?;
        Ok(Box::new(Ends([client, hub])))
    }
}

struct Ends([Shm; 2]);

impl Rig for Ends {
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
}
