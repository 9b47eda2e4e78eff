//! How a driver is set up, and what is wrong with a setting that cannot work.

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};

use crate::Udp;

/// The longest UDP payload that IPv4 can carry; also the most that is sent as one GSO batch.
pub(crate) const MAX_DATAGRAM: usize = 65_507;

/// A handshake is padded to 1 280 bytes with its IP header, 1 252 without headers (`docs/spec/wire.md`): a smaller
/// frame could not receive it.
const MIN_FRAME: u32 = 1_252;

/// No datagram is longer, so a larger frame would only waste memory.
const MAX_FRAME: u32 = 65_536;

/// The least and the most that frames have if nothing is said.
pub(crate) const MIN_DEFAULT_FRAME: u32 = 2_048;
pub(crate) const MAX_DEFAULT_FRAME: u32 = 9_216;

/// Settings of a [`Udp`] driver; made by [`Udp::builder`].
#[derive(Clone, Debug)]
pub struct UdpBuilder {
    pub(crate) frames: u32,
    /// What the interface carries, up to [`MAX_DEFAULT_FRAME`], if nothing is said.
    pub(crate) frame_size: Option<u32>,
    pub(crate) receive_buffer: usize,
    pub(crate) send_buffer: usize,
    pub(crate) batch: usize,
}

impl UdpBuilder {
    pub(crate) const fn new() -> Self {
        Self {
            frames: 4096,
            frame_size: None,
            receive_buffer: 4 << 20,
            send_buffer: 4 << 20,
            batch: quinn_udp::BATCH_SIZE,
        }
    }

    /// Number of frames, for what is received, built and lent to the application together. Default 4096.
    #[must_use]
    pub const fn frames(mut self, frames: u32) -> Self {
        self.frames = frames;
        self
    }

    /// Bytes per frame, 1 252 to 65 536: the longest datagram that is sent or accepted. Default: what the interface carries
    /// (of several, the least), but at least 2 048, which takes any Ethernet's, and at most 9 216, which takes jumbo frames
    /// (loopback carries 64 KiB, and 4 096 such frames are much memory). Frames are address space: only what is used costs memory.
    #[must_use]
    pub const fn frame_size(mut self, bytes: u32) -> Self {
        self.frame_size = Some(bytes);
        self
    }

    /// What each socket asks for as SO_RCVBUF; the system grants at most `net.core.rmem_max`. Default 4 MiB.
    #[must_use]
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// What each socket asks for as SO_SNDBUF; the system grants at most `net.core.wmem_max`. Default 4 MiB.
    #[must_use]
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// How many (coalesced) datagrams one system call receives, 1 to 32. Each takes 64 KiB of address space, of which
    /// only the part that is used costs memory. Default 32.
    #[must_use]
    pub const fn batch(mut self, slots: usize) -> Self {
        self.batch = slots;
        self
    }

    /// Opens the home port. Port 0 means any free one; an unspecified address means all of its family.
    ///
    /// # Errors
    /// `InvalidInput` for an address that does not parse or resolve, or a setting outside its limits; as `bind(2)`:
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`; `OutOfMemory`.
    pub fn bind<A: ToSocketAddrs + Debug>(self, address: A) -> io::Result<Udp> {
        self.check()?;
        let mut failed = None;
        for candidate in resolve(&address)? {
            match Udp::open_home(&self, candidate) {
                Ok(udp) => return Ok(udp),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed
            .unwrap_or_else(|| io::Error::new(ErrorKind::InvalidInput, unusable(&address, "it names no address"))))
    }

    fn check(&self) -> io::Result<()> {
        let bad = |text: String| Err(io::Error::new(ErrorKind::InvalidInput, text));
        if let Some(size) = self.frame_size.filter(|size| !(MIN_FRAME..=MAX_FRAME).contains(size)) {
            return bad(format!("frames of {size} bytes: they must have {MIN_FRAME} to {MAX_FRAME}"));
        }
        if self.frames == 0 {
            return bad("no frames: a driver needs at least one".to_owned());
        }
        if !(1..=quinn_udp::BATCH_SIZE).contains(&self.batch) {
            return bad(format!("a batch of {} datagrams: it must be 1 to {}", self.batch, quinn_udp::BATCH_SIZE));
        }
        Ok(())
    }
}

fn resolve<A: ToSocketAddrs + Debug>(address: &A) -> io::Result<impl Iterator<Item = SocketAddr>> {
    address
        .to_socket_addrs()
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, unusable(address, &error.to_string())))
}

fn unusable(address: &dyn Debug, why: &str) -> String {
    format!(
        "cannot bind to {address:?}: {why}; give an address and a port, such as 127.0.0.1:9000, [::1]:9000 or 0.0.0.0:0 (port 0: any free one)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unparseable_address_is_named_with_what_would_be_right() {
        for text in ["127.0.0.1", "[::1]", "127.0.0.1:99999", "", "no address at all"] {
            let error = Udp::bind(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            let shown = error.to_string();
            assert!(shown.contains(&format!("{text:?}")) && shown.contains("127.0.0.1:9000"), "{shown}");
        }
        let nothing: &[SocketAddr] = &[];
        assert_eq!(Udp::bind(nothing).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn settings_outside_their_limits_are_refused() {
        let anew = UdpBuilder::new;
        for bad in [
            anew().frames(0),
            anew().frame_size(0),
            anew().frame_size(MIN_FRAME - 1),
            anew().frame_size(MAX_FRAME + 1),
            anew().batch(0),
            anew().batch(quinn_udp::BATCH_SIZE + 1),
        ] {
            assert_eq!(bad.clone().bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        for good in [anew().frame_size(MIN_FRAME), anew().frame_size(MAX_FRAME).frames(1), anew().batch(1)] {
            good.bind("127.0.0.1:0").unwrap();
        }
    }
}
