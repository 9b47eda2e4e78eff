//! What every driver must do, whatever it drives: the least common denominator, as checks.
//!
//! A [`Subject`] makes pairs of drivers that can talk to each other; [`run`] puts each subject through every check of
//! [`CHECKS`] and prints a table, driver × check. A driver's own crate brings its subject and calls [`run`] from a test
//! without harness; `tests/drivers` of this crate does it for those that need no hardware.
//!
//! ```text
//!   checks/     bursts.rs   bursts, order, full rings
//!               frames.rs   who holds frames, and that all come home
//!               edges.rs    lengths, addresses, checksums
//!               outside.rs  what the wire does: loss, damage, links that go down; sleeping
//!   bench.rs    sending and receiving as an engine does, until it worked or was tried too often
//!   meddled.rs  a wire of one's own choosing around a device that moves frames
//!   table.rs    what the checks found
//! ```
//!
//! Checks go by counts, never by a clock: whatever is to happen must have happened after so many [`Rig::step`]s. They
//! speak to the [`Driver`] alone, so the layers below are what is tested, and no transport hides a lost datagram.

mod bench;
mod checks;
mod meddled;
mod table;

use std::io;

use machnet_core::Driver;

pub use bench::PATIENCE;
pub use checks::{CHECKS, Check};
pub use meddled::{Meddled, Mischief};
pub use table::run;

/// What a pair is to be like. Subjects whose devices have no such setting ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shape {
    /// Frames of each driver.
    pub frames: u32,
    /// Descriptors of each ring.
    pub descriptors: u16,
    /// Transmitted frames that the device keeps until others follow, as virtio does.
    pub kept: u16,
}

impl Default for Shape {
    fn default() -> Self {
        Self { frames: 1024, descriptors: 256, kept: 0 }
    }
}

/// A kind of driver.
pub trait Subject: Send + Sync {
    /// Its name, for tables and for choosing tests.
    fn name(&self) -> &'static str;

    /// Two drivers that can talk to each other.
    ///
    /// # Errors
    /// Why there are none: the check fails.
    fn pair(&self, shape: Shape) -> io::Result<Box<dyn Rig>>;

    /// Pairs of which each lacks one thing that the driver's capabilities usually have, by the name of that.
    fn reduced(&self) -> Vec<(&'static str, io::Result<Box<dyn Rig>>)> {
        Vec::new()
    }

    /// True if a datagram to a closed port is said to be unreachable.
    fn says_unreachable(&self) -> bool {
        false
    }
}

/// Two drivers, and the wire between them.
pub trait Rig {
    /// The driver of side 0 or 1.
    fn driver(&mut self, side: usize) -> &mut dyn Driver;

    /// Frames of the side's driver that nobody holds.
    fn free_frames(&mut self, side: usize) -> u32;

    /// Lets a little time pass, and begins a round of both drivers ([`Driver::begin`], [`Driver::reap`]).
    fn step(&mut self);

    /// The devices give back what they keep, as when they are stopped.
    fn give_back(&mut self) {}

    /// True if what waits unread beyond the receiver's descriptors is lost, because sending goes on to the end of the receiver.
    fn loses_unread(&self) -> bool {
        false
    }

    /// Takes the link down or up again. Returns false if that cannot be done.
    fn set_link(&mut self, up: bool) -> bool {
        let _ = up;
        false
    }

    /// From now on the wire loses everything that side 0 sends, or nothing. Returns false if it cannot.
    fn lose(&mut self, everything: bool) -> bool {
        let _ = everything;
        false
    }

    /// From now on the wire damages everything that side 0 sends, or nothing. Returns false if it cannot.
    fn damage(&mut self, everything: bool) -> bool {
        let _ = everything;
        false
    }

    /// Brings side 1 a datagram of `len` bytes of payload, longer than its driver sends. Returns false if that cannot
    /// be done.
    fn bring(&mut self, len: usize) -> bool {
        let _ = len;
        false
    }
}
