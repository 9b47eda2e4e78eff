//! Transmission: runs of equal datagrams, sent as one (GSO).
//!
//! A *run* is what stands at the front of the batch with one (local, remote) pair and one size, of which the last may be
//! shorter. It is copied into one staging buffer; a run of one is sent from where it lies.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use machnet_channel::FramePool;
use machnet_core::{DropReason, Drops, TxPacket};
use nix::libc;
use quinn_udp::{Transmit, UdpSockRef};

use crate::config::MAX_DATAGRAM;
use crate::icmp::{ErrorReader, may_be_of_another};
use crate::sockets::{Port, Sockets, source};

/// How often a send is repeated that failed with an error of an earlier one.
const RETRIES: usize = 8;

/// What became of a run.
#[derive(Debug)]
#[must_use]
enum Sent {
    Yes,
    /// The socket's buffer is full.
    Blocked,
    /// It will not be sent, ever.
    Refused(io::Error),
}

/// The sending half of the driver.
#[derive(Debug)]
pub(crate) struct Transmitter {
    staging: Vec<u8>,
}

impl Transmitter {
    pub(crate) fn new() -> Self {
        Self { staging: Vec::with_capacity(MAX_DATAGRAM) }
    }

    /// Sends from the front of `batch` until it is empty or a socket is full; returns how many it took.
    pub(crate) fn burst(
        &mut self,
        sockets: &mut Sockets,
        errors: &mut ErrorReader,
        pool: &mut FramePool,
        drops: &mut Drops,
        batch: &mut VecDeque<TxPacket>,
    ) -> usize {
        let mut taken = 0;
        // Datagrams of a run that failed as one; they are tried one by one.
        let mut singly = 0;
        while let Some(first) = batch.front() {
            let local = first.meta.local.port();
            let Some(port) = sockets.get_mut(local) else {
                drops.count(DropReason::Unsendable);
                batch.pop_front();
                taken += 1;
                continue;
            };
            let most = if singly > 0 { 1 } else { port.segments() };
            let run = self.stage(batch, most);
            let contents = if run > 1 { &self.staging } else { first.payload.as_ref() };
            let transmit = Transmit {
                destination: first.meta.remote,
                ecn: None,
                contents,
                segment_size: (run > 1).then(|| first.payload.as_ref().len()),
                src_ip: source(first.meta.local.ip(), port.local.ip()),
            };
            match send(port, errors, &transmit) {
                Sent::Yes => sockets.unblock(local),
                Sent::Blocked => {
                    sockets.block(local);
                    return taken;
                }
                Sent::Refused(error) if run > 1 && may_be_for_gso(&error) => {
                    singly = run;
                    continue;
                }
                Sent::Refused(error) => {
                    tracing::trace!(remote = %first.meta.remote, %error, run, "datagrams refused");
                    port.restore_offloads();
                    for _ in 0..run {
                        drops.count(DropReason::Unsendable);
                    }
                }
            }
            for packet in batch.drain(..run) {
                pool.recycle(packet.payload);
            }
            taken += run;
            singly = singly.saturating_sub(run);
        }
        sockets.unblock_all();
        taken
    }

    /// The length of the run at the front of `batch`, at most `most`; copied if it is longer than one.
    fn stage(&mut self, batch: &VecDeque<TxPacket>, most: usize) -> usize {
        let run = run_length(batch, most);
        if run > 1 {
            self.staging.clear();
            for packet in batch.iter().take(run) {
                self.staging.extend_from_slice(packet.payload.as_ref());
            }
        }
        run
    }
}

fn run_length(batch: &VecDeque<TxPacket>, most: usize) -> usize {
    let Some(first) = batch.front() else {
        return 0;
    };
    let (size, way) = (first.payload.as_ref().len(), (first.meta.local, first.meta.remote));
    let (mut run, mut total) = (1, size);
    for packet in batch.iter().skip(1) {
        let len = packet.payload.as_ref().len();
        // Empty datagrams cannot be told apart in one buffer.
        let elsewhere = (packet.meta.local, packet.meta.remote) != way;
        if run == most || len == 0 || len > size || total + len > MAX_DATAGRAM || elsewhere {
            break;
        }
        run += 1;
        total += len;
        if len < size {
            break;
        }
    }
    run
}

/// Sends once, and again for as long as the errors are those of earlier datagrams.
fn send(port: &mut Port, errors: &mut ErrorReader, transmit: &Transmit<'_>) -> Sent {
    let mut refused = None;
    for attempt in 0..RETRIES {
        match port.state.try_send(UdpSockRef::from(&port.socket), transmit) {
            Ok(()) => return Sent::Yes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Blocked,
            // The device's queue is full, as a socket's buffer is: the datagram is good, and comes again.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Sent::Blocked,
            Err(error) => {
                let drained = errors.drain(&port.socket);
                port.suspect = drained.more;
                // Whose error it is cannot be told for sure: ICMP and the routing table use the same numbers. One that
                // comes back although the queue was empty is this datagram's own.
                let again = may_be_of_another(&error) && (drained.remote > 0 || attempt == 0);
                let foreign = error.kind() == ErrorKind::ConnectionRefused;
                refused = Some(error);
                if !again && !foreign {
                    break;
                }
            }
        }
    }
    match refused {
        // An unconnected socket is refused only on behalf of others: this datagram is good.
        Some(error) if error.kind() != ErrorKind::ConnectionRefused => Sent::Refused(error),
        _ => Sent::Blocked,
    }
}

/// True if the datagrams of a run may get through one by one: the interface lacks what GSO needs, or only the longer
/// ones are too long.
fn may_be_for_gso(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use machnet_channel::{FramePool, Region};
    use machnet_core::Meta;

    use super::*;

    fn packet(pool: &mut FramePool, len: u32, remote: u16) -> TxPacket {
        let meta = Meta {
            local: "127.0.0.1:1".parse().unwrap(),
            remote: format!("127.0.0.1:{remote}").parse().unwrap(),
            queue: 0,
        };
        TxPacket { meta, payload: pool.take().unwrap().share(0..len), tail: None }
    }

    #[test]
    fn a_run_ends_at_another_size_another_address_and_the_limits() {
        let (_region, mut pool) = Region::anonymous(40_000, 16).unwrap();
        let mut run = |packets: &[(u32, u16)], most| {
            let batch = packets.iter().map(|&(len, remote)| packet(&mut pool, len, remote)).collect();
            run_length(&batch, most)
        };
        assert_eq!(run(&[], 64), 0);
        assert_eq!(run(&[(100, 2)], 64), 1);
        assert_eq!(run(&[(100, 2), (100, 2), (100, 2)], 64), 3);
        assert_eq!(run(&[(100, 2), (100, 2), (100, 2)], 2), 2);
        assert_eq!(run(&[(100, 2), (100, 2), (100, 2)], 1), 1);
        assert_eq!(run(&[(100, 2), (99, 2), (100, 2)], 64), 2);
        assert_eq!(run(&[(100, 2), (101, 2)], 64), 1);
        assert_eq!(run(&[(100, 2), (100, 3), (100, 2)], 64), 1);
        assert_eq!(run(&[(0, 2), (0, 2)], 64), 1);
        assert_eq!(run(&[(100, 2), (0, 2)], 64), 1);
        assert_eq!(run(&[(40_000, 2), (25_507, 2), (1, 2)], 64), 2);
        assert_eq!(run(&[(40_000, 2), (25_508, 2)], 64), 1);
    }
}
