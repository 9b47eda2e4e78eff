//! What an engine asks of a vNIC: bursts of datagrams in and out, and no more (the least common denominator).
//!
//! A driver owns the memory of its packets and lends it: [`Driver::rx_burst`] gives frames away, [`Driver::frame`]
//! gives empty ones to build packets in, [`Driver::tx_burst`] takes counted loans and [`Driver::reap`] drops those
//! the device is done with. Ethernet devices come wrapped in core's network layer ([`crate::net`]) and look the same from here.
//!
//! Everything beyond the minimum is a [`Capabilities`] field with a fallback in software.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FrameRef};

use crate::{Drops, Instant};

/// Where a datagram comes from and goes to. `local` is complete (address and port): a flow keeps the address at which
/// it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The address on this side.
    pub local: SocketAddr,
    /// The address on the other side.
    pub remote: SocketAddr,
    /// The queue it arrived on. On transmission the engine of the peer's that it is for, as far as that is known: for devices whose queues
    /// lead to the peer's of the same number, and that have several for one engine.
    pub queue: u16,
}

/// A received datagram: the UDP payload is `frame.bytes()[range]`.
#[derive(Debug)]
pub struct RxPacket {
    /// Its addresses.
    pub meta: Meta,
    /// The frame it lies in, now the receiver's.
    pub frame: Frame,
    /// Where in the frame. The receiver checks it against the frame.
    pub range: Range<u32>,
}

/// A datagram to transmit: the UDP payload is `payload`, and `tail` behind it.
#[derive(Debug)]
pub struct TxPacket {
    /// Its addresses. An unspecified `local` address lets the driver choose; its port is one the driver has open.
    pub meta: Meta,
    /// The payload, lent until the device is done with it.
    pub payload: FrameRef,
    /// The rest of it, likewise, if that lies elsewhere: in a frame that applications build in, where others read it too. Always `None` for
    /// drivers that have no [long frames](Capabilities::long_frames).
    pub tail: Option<FrameRef>,
}

impl TxPacket {
    /// Bytes of the UDP payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.as_ref().len() + self.tail.as_ref().map_or(0, |tail| tail.as_ref().len())
    }

    /// True if the UDP payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes of a long frame: 64 KiB, what requests seldom exceed; a power of two below the size of a huge page, so that it lies in one.
pub const LONG_FRAME: u32 = 64 << 10;

/// An ICMP "port unreachable" that quotes a datagram of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Where the datagram was going.
    pub remote: SocketAddr,
    /// The first bytes of its UDP payload: our packet header. Untrusted.
    pub quoted: [u8; 16],
}

/// What a driver can do, beyond moving datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The longest UDP payload that fits the local interface's MTU, bytes.
    pub max_payload: u32,
    /// Bytes that must stay free in front of the payload of a transmitted frame, for lower headers.
    pub headroom: u32,
    /// Descriptors of the device's rings; 256 on the least common denominator.
    pub descriptors: u16,
    /// How many equal-sized datagrams to one destination the driver sends as one (GSO); 1 if it does not.
    pub segments: u16,
    /// True if [`Driver::wait`] gives a file descriptor that an idle engine can sleep on.
    pub can_sleep: bool,
    /// How many frames applications may hold to build messages in; 0 if payloads are copied on their way to the device
    /// whatever they lie in.
    pub build_frames: u32,
    /// How many frames of [`LONG_FRAME`] bytes the driver has for applications to build messages of several packets in: the device
    /// *gathers* each packet from its headers in one frame and a piece of the message in another ([`TxPacket::tail`]). 0 if what is sent
    /// must lie in one piece.
    pub long_frames: u32,
    /// In how many frames one received message may stay; 0 if it is to be copied out of them, which is faster where the application
    /// copies in any case (`docs/adr/0024-long-messages-stay-in-their-packets.md`).
    pub chain_frames: u32,
    /// True if peers are on this very host: nothing in between loses packets, or carries only shorter ones than `max_payload`.
    pub is_local: bool,
}

impl Capabilities {
    /// The part of a driver's frames that one received message may stay in.
    pub const CHAINED: u32 = 8;

    /// The least: no segmentation, no sleeping, no headroom, no frames to build in, nothing gathered.
    #[must_use]
    pub const fn minimal(max_payload: u32) -> Self {
        Self {
            max_payload,
            headroom: 0,
            descriptors: 256,
            segments: 1,
            can_sleep: false,
            build_frames: 0,
            long_frames: 0,
            chain_frames: 0,
            is_local: false,
        }
    }
}

/// A vNIC queue pair, as an engine sees it.
pub trait Driver: Send {
    /// What the driver can do. Constant.
    fn capabilities(&self) -> &Capabilities;

    /// The address flows to peers leave from: the address and port that the driver was opened with.
    fn home(&self) -> SocketAddr;

    /// The first and the last of the UDP ports that are this endpoint's alone and always open: the home port is one of
    /// them. More than one lets peers choose ports whose packets reach the right queue of several.
    fn ports(&self) -> (u16, u16) {
        (self.home().port(), self.home().port())
    }

    /// True if what is sent to `remote` comes back to this very queue, whatever ports are chosen: it never leaves the host.
    fn turns(&self, remote: SocketAddr) -> bool {
        let _ = remote;
        false
    }

    /// False if there is no way to `remote`, and will be none: whoever connects to it is told so, and need not wait.
    fn reaches(&self, remote: IpAddr) -> bool {
        let _ = remote;
        true
    }

    /// Makes `drivers` drivers of one that was not used yet: queues of the same NIC, each for an engine of its own.
    ///
    /// # Errors
    /// `Unsupported` if it has one queue and cannot have more; else what the device says.
    fn split(self, drivers: usize) -> io::Result<Vec<Self>>
    where
        Self: Sized,
    {
        if drivers == 1 {
            return Ok(vec![self]);
        }
        let text = format!("this driver serves one engine and cannot be divided among {drivers}");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    /// A round of the engine begins: the first call of each. For drivers that have timers of their own.
    fn begin(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Driver::begin`] is to be called next at the latest, if nothing happens before. After the time that it was
    /// last told.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Opens UDP port `port` (0: any free one) for receiving and sending; returns its address. Opening a port that is
    /// open already, or the home port, is counted: [`Driver::close`] must be called as often.
    ///
    /// # Errors
    /// As `bind(2)`: `AddrInUse`, `PermissionDenied`, … . Ports are exclusive.
    fn open(&mut self, port: u16) -> io::Result<SocketAddr>;

    /// Undoes one [`Driver::open`] of `port`.
    fn close(&mut self, port: u16);

    /// A free frame to build a packet in; `None` if all are in use.
    fn frame(&mut self) -> Option<Frame>;

    /// A free long frame ([`Capabilities::long_frames`]); `None` if all are in use, or there is no memory for them after all.
    fn long_frame(&mut self) -> Option<Frame> {
        None
    }

    /// The engine has no more use for a datagram it received. A driver may take the frame back here, which costs less
    /// than the detour through its region's list.
    fn recycle(&mut self, payload: FrameRef) {
        drop(payload);
    }

    /// True while fewer than half of the frames are free: received payloads are then copied instead of lent, so that
    /// slow readers cannot take the frames that everybody's traffic needs.
    fn is_short_of_frames(&self) -> bool {
        false
    }

    /// Appends up to `max` received datagrams to `out` and returns how many. Never blocks.
    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize;

    /// Takes as many datagrams as the device accepts from the front of `batch` and returns how many; the rest stays.
    /// A datagram that the device refuses for good (unreachable, too long) counts as taken and lost. Never blocks.
    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize;

    /// Drops the loans of datagrams that the device is done with.
    fn reap(&mut self) {}

    /// Bytes that [`Driver::tx_burst`] took and that have not left the device; `None` if it does not know.
    /// While it holds more than the configured [`Config::device_queue`](crate::Config::device_queue) the engine builds nothing, so that a
    /// packet that matters is not queued behind hundreds that do not, and polls on.
    fn backlog(&self) -> Option<u64> {
        None
    }

    /// The next ICMP "unreachable" that arrived, on drivers that learn of it.
    fn unreachable(&mut self) -> Option<Unreachable> {
        None
    }

    /// What was sent to `remote` was not answered, again and again. A driver that looks for neighbours looks whether that one is still
    /// where it was: the rest need not do anything.
    fn doubt(&mut self, remote: IpAddr) {
        let _ = remote;
    }

    /// A file descriptor that polls readable when [`Driver::rx_burst`], [`Driver::unreachable`] or a refused
    /// [`Driver::tx_burst`] would make progress. It stays the same for the driver's life.
    fn wait(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The bell to ring when a frame comes home after [`Driver::starve`].
    fn set_bell(&mut self, bell: Arc<Doorbell>);

    /// Called before the engine sleeps. If the driver lacks frames it asks its region for the bell; returns true if
    /// frames came home meanwhile and the engine must not sleep.
    fn starve(&mut self) -> bool;

    /// What the driver itself dropped.
    fn drops(&self) -> Drops {
        Drops::default()
    }
}
