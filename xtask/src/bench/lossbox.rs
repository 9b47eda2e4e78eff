//! A wire that loses datagrams: a forwarder between clients and a server, in user space, on loopback.
//!
//! Each client gets a socket of its own towards the server. What is lost follows from a seed, so the same losses meet
//! whoever sends the same datagrams. TCP does not pass: it is the kernel's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a thread waits for a datagram before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A forwarder; it ends when dropped.
pub(crate) struct Lossbox {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    forward: Option<JoinHandle<()>>,
}

impl Lossbox {
    /// Forwards to `server`, and loses `lost` of 10 000 datagrams each way.
    pub(crate) fn start(server: SocketAddr, lost: u32) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("cannot open the lossy wire")?;
        socket.set_read_timeout(Some(LOOK))?;
        let (address, stop) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let forward = thread::Builder::new().name("lossbox".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || forward(&Arc::new(socket), server, lost, &stop)
        })?;
        Ok(Self { address, stop, forward: Some(forward) })
    }

    /// What clients connect to.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Lossbox {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(forward) = self.forward.take() {
            // It has nothing to say.
            let _ = forward.join();
        }
    }
}

/// From the clients to the server; a thread for each client does the other direction.
fn forward(socket: &Arc<UdpSocket>, server: SocketAddr, lost: u32, stop: &Arc<AtomicBool>) {
    let mut clients: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut threads = Vec::new();
    let mut dice = Dice::new(1, lost);
    let mut datagram = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let Some((len, client)) = received(socket.recv_from(&mut datagram)) else { continue };
        let upstream = match clients.entry(client) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(place) => {
                let Ok(upstream) = upstream(server) else { continue };
                let (socket, from, stop) = (Arc::clone(socket), Arc::clone(&upstream), Arc::clone(stop));
                threads.push(thread::spawn(move || back(&from, &socket, client, lost, &stop)));
                Arc::clone(place.insert(upstream))
            }
        };
        if !dice.loses() {
            // A full queue loses too, as on any wire.
            let _ = upstream.send(&datagram[..len]);
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// From the server to one client.
fn back(upstream: &UdpSocket, socket: &UdpSocket, client: SocketAddr, lost: u32, stop: &AtomicBool) {
    let mut dice = Dice::new(2, lost);
    let mut datagram = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let Some(len) = received(upstream.recv(&mut datagram)) else { continue };
        if !dice.loses() {
            let _ = socket.send_to(&datagram[..len], client);
        }
    }
}

fn upstream(server: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let upstream = UdpSocket::bind("127.0.0.1:0")?;
    upstream.set_read_timeout(Some(LOOK))?;
    upstream.connect(server)?;
    Ok(Arc::new(upstream))
}

/// `None` if there is nothing: a time-out, or news that an end is gone.
fn received<T>(result: io::Result<T>) -> Option<T> {
    if let Err(error) = &result
        && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
    {
        thread::sleep(Duration::from_millis(1));
    }
    result.ok()
}

/// Decides what is lost: splitmix64.
struct Dice {
    state: u64,
    lost: u64,
}

impl Dice {
    const fn new(seed: u64, lost: u32) -> Self {
        Self { state: seed, lost: lost as u64 }
    }

    const fn loses(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 10_000 < self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loses_as_many_as_it_should() {
        let mut dice = Dice::new(7, 100);
        let lost = (0..100_000).filter(|_| dice.loses()).count();
        assert!((800..1200).contains(&lost), "{lost} of 100000 lost, at 1 %");
        assert!(!(0..1000).any(|_| Dice::new(1, 0).loses()));
    }

    #[test]
    fn forwards_both_ways() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let lossbox = Lossbox::start(server.local_addr().unwrap(), 0).unwrap();
        for _client in 0..2 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"there", lossbox.address()).unwrap();
            let mut buffer = [0; 16];
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"there");
            server.send_to(b"back", from).unwrap();
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"back"[..], lossbox.address()));
        }
    }
}
