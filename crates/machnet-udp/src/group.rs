//! Ports that several drivers have open together: one socket of each in a `SO_REUSEPORT` group, over which the kernel spreads
//! what arrives by a hash that it keeps to itself.
//!
//! The first socket of a port is bound alone, and only then marked as shareable: a port that somebody else has, another
//! endpoint of this very program included, is refused and not joined.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{setsockopt, sockopt};

use crate::UdpBuilder;
use crate::sockets::Port;

/// The ports of one endpoint's drivers, and how many of them have each open. Locked to open and close only.
#[derive(Debug, Default)]
pub(crate) struct Group(Mutex<BTreeMap<u16, u32>>);

impl Group {
    /// Opens a port for one of the drivers: with the others, if it is theirs already.
    pub(crate) fn bind(&self, config: &UdpBuilder, address: SocketAddr) -> io::Result<Port> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = open.contains_key(&address.port());
        let port = Port::bind(config, address, shared)?;
        if !shared {
            share(&port)?;
        }
        *open.entry(port.local.port()).or_default() += 1;
        Ok(port)
    }

    /// Takes in a port that was bound alone.
    pub(crate) fn adopt(&self, port: &Port) -> io::Result<()> {
        share(port)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(port.local.port(), 1);
        Ok(())
    }

    /// One of the drivers has closed its socket.
    pub(crate) fn release(&self, port: u16) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                open.remove(&port);
            }
        }
    }
}

fn share(port: &Port) -> io::Result<()> {
    Ok(setsockopt(&port.socket, sockopt::ReusePort, &true)?)
}
