//! How a driver is set up.

use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::Shm;
use crate::geometry::Geometry;
use crate::rendezvous::Name;
use crate::slots::MAX_CLIENTS;

/// Settings of a [`Shm`] driver; made by [`Shm::builder`].
///
/// The sizes of a wire are the hub's to choose; its clients learn them when they attach.
#[derive(Clone, Debug)]
pub struct ShmBuilder {
    pub(crate) frames: u32,
    pub(crate) geometry: Geometry,
    pub(crate) clients: usize,
    pub(crate) patience: Duration,
}

impl ShmBuilder {
    pub(crate) const fn new() -> Self {
        Self {
            frames: 4096,
            geometry: Geometry { descriptors: 1024, data: 1 << 20, max_payload: 16_640 },
            clients: 64,
            patience: Duration::from_secs(3),
        }
    }

    /// Number of private frames, for what is received, built and lent to the application together. Default 4096: 66 MiB
    /// of address space, which cost memory once used.
    #[must_use]
    pub const fn frames(mut self, frames: u32) -> Self {
        self.frames = frames;
        self
    }

    /// The longest datagram of the hub's wires, bytes, 1 252 to 65 507. Default 16 640: a message of 16 KiB and its
    /// headers.
    #[must_use]
    pub const fn max_payload(mut self, bytes: u32) -> Self {
        self.geometry.max_payload = bytes;
        self
    }

    /// Descriptors of each of the two rings of the hub's wires, a power of two from 64 to 32 768. Default 1024.
    #[must_use]
    pub const fn descriptors(mut self, descriptors: u32) -> Self {
        self.geometry.descriptors = descriptors;
        self
    }

    /// Bytes underway in each direction of the hub's wires: a multiple of 4096, at least four of the longest datagrams,
    /// up to 4 MiB. Default 1 MiB. Each client costs twice this, once used.
    #[must_use]
    pub const fn data_bytes(mut self, bytes: u32) -> Self {
        self.geometry.data = bytes;
        self
    }

    /// How many clients a hub takes at once, 1 to 1023. Default 64.
    #[must_use]
    pub const fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// How long a client waits for its hub. Default 3 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Becomes the hub of `name`.
    ///
    /// # Errors
    /// `AddrInUse`: it has one. `InvalidInput`: the name, or a setting outside its limits; the error says which. Else
    /// what the system says if it has no memory, thread or descriptor left.
    pub fn bind(self, name: &str) -> io::Result<Shm> {
        self.check()?;
        Shm::hub(&self, Name::new(name)?)
    }

    /// Attaches to the hub of `name` as a client. Waits for the hub's process to answer, which takes tens of microseconds,
    /// whether or not its engine is polled.
    ///
    /// # Errors
    /// `ConnectionRefused`: it has no hub. `ResourceBusy`: the hub has as many clients as it takes. `Unsupported`: it
    /// speaks another version. `PermissionDenied`: it belongs to another user. `TimedOut`: it does not answer.
    /// `InvalidData`: what it sent makes no sense. `InvalidInput`: the name, or a setting outside its limits.
    pub fn connect(self, name: &str) -> io::Result<Shm> {
        self.check()?;
        Shm::client(&self, &Name::new(name)?)
    }

    /// Attaches to the hub of `name`, or becomes it if there is none.
    ///
    /// # Errors
    /// As [`ShmBuilder::connect`] and [`ShmBuilder::bind`].
    pub fn attach(self, name: &str) -> io::Result<Shm> {
        self.check()?;
        let name = Name::new(name)?;
        let began = std::time::Instant::now();
        loop {
            match Shm::hub(&self, name.clone()) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                other => return other,
            }
            match Shm::client(&self, &name) {
                // The hub has gone meanwhile, or has just come and does not listen yet.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && began.elapsed() < self.patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        let bad = |text: String| Err(io::Error::new(ErrorKind::InvalidInput, text));
        if self.frames == 0 {
            return bad("no frames: a driver needs at least one".to_owned());
        }
        if !(1..=MAX_CLIENTS).contains(&self.clients) {
            return bad(format!("{} clients: it must be 1 to {MAX_CLIENTS}", self.clients));
        }
        self.geometry.check().or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_their_limits_are_refused() {
        let anew = ShmBuilder::new;
        for (bad, part) in [
            (anew().frames(0), "no frames"),
            (anew().clients(0), "0 clients"),
            (anew().clients(MAX_CLIENTS + 1), "1 to 1023"),
            (anew().max_payload(100), "100 bytes"),
            (anew().descriptors(100), "100 descriptors"),
            (anew().data_bytes(8192), "8192 bytes"),
        ] {
            for result in [bad.clone().bind("x"), bad.clone().connect("x"), bad.attach("x")] {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        assert!(anew().bind("a b").unwrap_err().to_string().contains("\"a b\""));
    }
}
