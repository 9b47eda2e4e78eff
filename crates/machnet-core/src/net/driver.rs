//! What the network layer asks of an Ethernet device: bursts of frames in and out, and no more.
//!
//! [`FrameDriver`] is to frames what [`Driver`](crate::Driver) is to datagrams, and has the same rules: it owns the
//! memory of its frames and lends it, never blocks, takes a prefix of what it is given, and may keep transmitted frames
//! as long as it likes. The least common denominator of cloud vNICs is enough: no checksum offload, no interrupts, no
//! events. What a device can do beyond that it says in [`FrameCapabilities`].
//!
//! # Where a datagram lies
//! ```text
//!   frame of the driver's own pool, from FrameDriver::frame
//!   ├─ FrameCapabilities::headroom ─┼─ Ethernet 14 ─┼─ IPv4 20, IPv6 40 ─┼─ UDP 8 ─┼─ payload ─┼─ padding to 60 ─┤
//!   └──────────────── Capabilities::headroom of the Net around it ─────────────────┘
//! ```
//! The engine builds the payload behind the headroom, the layer writes the headers in front of it, and the device reads
//! the whole in place: no byte of payload is copied. It is copied once if somebody else refers to what is in front of it
//! ([`FrameRef::may_grow`]), or if it is not the device's.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FrameRef};

use super::MacAddr;
use crate::Drops;

/// A received Ethernet frame, without the frame check sequence: `frame.bytes()[range]`.
#[derive(Debug)]
pub struct RxFrame {
    /// The frame it lies in, now the receiver's: nobody else writes it until it is dropped.
    pub frame: Frame,
    /// Where in the frame. The layer checks it against the frame.
    pub range: Range<u32>,
    /// The device vouches for the UDP checksum: it verified it, or the frame never left the machine. Never set for
    /// checksums that it found wrong or did not look at: those are verified in software.
    pub checksum_good: bool,
}

/// An Ethernet frame to transmit, without the frame check sequence; at least 60 bytes.
#[derive(Debug)]
pub struct TxFrame {
    /// The frame, lent until the device is done with it. In memory that [`FrameDriver::frame`] gave.
    pub bytes: FrameRef,
    /// The rest of it, if that lies elsewhere: where the device can [gather](FrameDriver::gathers) it from.
    pub tail: Option<FrameRef>,
    /// Who computes the UDP checksum.
    pub checksum: UdpChecksum,
    /// The queue that it had best leave from, of a device that does not [spread](FrameCapabilities::spreads) and has several for this engine.
    /// Any other number, and any queue, are good enough.
    pub queue: u16,
}

/// Who computes the UDP checksum of a frame to transmit. The IPv4 header's is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// Nobody: it is there, or the frame is not UDP.
    Done,
    /// The device ([`FrameCapabilities::tx_checksum`]), over everything behind the IPv4 header of 20 bytes. The field
    /// holds the folded sum of the pseudo-header, not inverted.
    Ipv4,
    /// Likewise, behind the IPv6 header of 40 bytes.
    Ipv6,
}

/// What an Ethernet device can do, beyond moving frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameCapabilities {
    /// The device's address.
    pub mac: MacAddr,
    /// The longest IP packet that it sends and receives, bytes.
    pub mtu: u32,
    /// Bytes that must stay free in front of a transmitted Ethernet header, for what the device itself puts there.
    pub headroom: u32,
    /// Descriptors of each ring; 256 on the least common denominator.
    pub descriptors: u16,
    /// Frames in all, of which applications may hold a quarter to build messages in; 0: none.
    pub frames: u32,
    /// As [`Capabilities::long_frames`](crate::Capabilities::long_frames); the device sends frames of two pieces.
    pub long_frames: u32,
    /// The device computes UDP checksums of frames that it sends.
    pub tx_checksum: bool,
    /// The device verifies UDP checksums of frames that it receives. For display: [`RxFrame::checksum_good`] counts.
    pub rx_checksum: bool,
    /// [`FrameDriver::wait`] gives a file descriptor that an idle engine can sleep on.
    pub can_sleep: bool,
    /// If it has several queues: what comes in is spread over them by a hash of addresses and ports, so that ports choose the queue. If
    /// not, what was sent from a queue comes to the peer's queue of the same number, whatever it is.
    pub spreads: bool,
}

impl FrameCapabilities {
    /// The least: no offload, no sleeping, no headroom, no frames for applications.
    #[must_use]
    pub const fn minimal(mac: MacAddr, mtu: u32) -> Self {
        Self {
            mac,
            mtu,
            headroom: 0,
            descriptors: 256,
            frames: 0,
            long_frames: 0,
            tx_checksum: false,
            rx_checksum: false,
            can_sleep: false,
            spreads: false,
        }
    }
}

/// An Ethernet device's queue pair, as the network layer sees it. See the module; [`Net`](super::Net) makes a
/// [`Driver`](crate::Driver) of it.
pub trait FrameDriver: Send {
    /// What the device can do. Constant.
    fn capabilities(&self) -> &FrameCapabilities;

    /// As [`Driver::split`](crate::Driver::split): `queues` devices of one that was not used yet, with the same address.
    ///
    /// # Errors
    /// As that.
    fn split(self, queues: usize) -> io::Result<Vec<Self>>
    where
        Self: Sized,
    {
        if queues == 1 {
            return Ok(vec![self]);
        }
        let text = format!("this device has one queue and cannot be divided among {queues} engines");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    /// False while the link is known to be down: what is to be sent is dropped then, and counted. Asked in every burst,
    /// so it must be cheap; a device that knows nothing of its link says true.
    fn is_up(&self) -> bool {
        true
    }

    /// A free frame to build in, with room for headroom and an Ethernet frame of the MTU; `None` if all are in use.
    fn frame(&mut self) -> Option<Frame>;

    /// True if `bytes` is in memory that the device can transmit from.
    fn owns(&self, bytes: &FrameRef) -> bool;

    /// As [`Driver::long_frame`](crate::Driver::long_frame).
    fn long_frame(&mut self) -> Option<Frame> {
        None
    }

    /// True if `tail` is in memory that the device can read the end of a frame from ([`TxFrame::tail`]).
    fn gathers(&self, tail: &FrameRef) -> bool {
        let _ = tail;
        false
    }

    /// As [`Driver::recycle`](crate::Driver::recycle).
    fn recycle(&mut self, bytes: FrameRef) {
        drop(bytes);
    }

    /// As [`Driver::is_short_of_frames`](crate::Driver::is_short_of_frames).
    fn is_short_of_frames(&self) -> bool {
        false
    }

    /// Appends up to `max` received frames to `out` and returns how many. Never blocks. Frames longer than the MTU
    /// allows may be among them, and such as are not for this host.
    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize;

    /// Takes as many frames as the device accepts from the front of `batch` and returns how many; the rest stays. A
    /// frame that the device refuses for good counts as taken and lost. Never blocks.
    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize;

    /// Drops the loans of frames that the device is done with. Called in each round, before [`FrameDriver::rx_burst`].
    fn reap(&mut self) {}

    /// As [`Driver::backlog`](crate::Driver::backlog).
    fn backlog(&self) -> Option<u64> {
        None
    }

    /// A file descriptor that polls readable when [`FrameDriver::rx_burst`] or a refused [`FrameDriver::tx_burst`] would
    /// make progress. It stays the same for the driver's life.
    fn wait(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The bell to ring when a frame comes home after [`FrameDriver::starve`].
    fn set_bell(&mut self, bell: Arc<Doorbell>);

    /// As [`Driver::starve`](crate::Driver::starve).
    fn starve(&mut self) -> bool;

    /// What the device and its driver dropped.
    fn drops(&self) -> Drops {
        Drops::default()
    }
}
