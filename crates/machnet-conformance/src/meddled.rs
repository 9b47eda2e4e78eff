//! A device whose wire can be told to lose and to damage frames, and whose link to go down.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::{Doorbell, Frame, FrameRef};
use machnet_core::Drops;
use machnet_core::net::{FrameCapabilities, FrameDriver, RxFrame, TxFrame};

/// What the wire does to frames that come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mischief {
    /// Nothing.
    #[default]
    None,
    /// It loses them.
    Lose,
    /// It flips a bit behind the IP header of each that carries IPv4; no device would vouch for those.
    Damage,
    /// They are longer than they were sent: so many bytes behind the Ethernet header. What is behind their end is whatever is there.
    Stretch(u32),
}

/// A [`FrameDriver`] as it is, but for what comes in and for the state of its link.
#[derive(Debug)]
pub struct Meddled<F> {
    device: F,
    /// What is done to frames that come.
    pub mischief: Mischief,
    /// The link is said to be down, and is.
    pub is_down: bool,
    flips: usize,
}

impl<F: FrameDriver> Meddled<F> {
    /// `device`, left in peace at first.
    pub const fn new(device: F) -> Self {
        Self { device, mischief: Mischief::None, is_down: false, flips: 0 }
    }

    /// The device.
    pub const fn device(&self) -> &F {
        &self.device
    }

    fn damage(&mut self, received: &mut RxFrame) {
        let RxFrame { frame, range, checksum_good } = received;
        let Some(bytes) = frame.bytes_mut().and_then(|all| all.get_mut(range.start as usize..range.end as usize))
        else {
            return;
        };
        if bytes.get(12..14) != Some(&[8, 0]) || bytes.len() < 42 {
            return;
        }
        let end = 14 + usize::from(u16::from_be_bytes([bytes[16], bytes[17]])).min(bytes.len() - 14);
        // Each time another bit of the UDP header or payload.
        let bit = self.flips % ((end - 34) * 8);
        self.flips += 37;
        bytes[34 + bit / 8] ^= 1 << (bit % 8);
        *checksum_good = false;
    }
}

impl<F: FrameDriver> FrameDriver for Meddled<F> {
    fn capabilities(&self) -> &FrameCapabilities {
        self.device.capabilities()
    }

    fn is_up(&self) -> bool {
        !self.is_down && self.device.is_up()
    }

    fn frame(&mut self) -> Option<Frame> {
        self.device.frame()
    }

    fn long_frame(&mut self) -> Option<Frame> {
        self.device.long_frame()
    }

    fn gathers(&self, tail: &FrameRef) -> bool {
        self.device.gathers(tail)
    }

    fn owns(&self, bytes: &FrameRef) -> bool {
        self.device.owns(bytes)
    }

    fn recycle(&mut self, bytes: FrameRef) {
        self.device.recycle(bytes);
    }

    fn is_short_of_frames(&self) -> bool {
        self.device.is_short_of_frames()
    }

    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize {
        let before = out.len();
        self.device.rx_burst(out, max);
        if self.mischief == Mischief::Lose || self.is_down {
            out.truncate(before);
        }
        if self.mischief == Mischief::Damage {
            out[before..].iter_mut().for_each(|frame| self.damage(frame));
        }
        if let Mischief::Stretch(len) = self.mischief {
            out[before..].iter_mut().for_each(|frame| frame.range.end = frame.range.start + 14 + len);
        }
        out.len() - before
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize {
        self.device.tx_burst(batch)
    }

    fn reap(&mut self) {
        self.device.reap();
    }

    fn backlog(&self) -> Option<u64> {
        self.device.backlog()
    }

    fn wait(&self) -> Option<BorrowedFd<'_>> {
        self.device.wait()
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.device.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        self.device.starve()
    }

    fn drops(&self) -> Drops {
        self.device.drops()
    }
}
