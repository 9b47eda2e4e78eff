//! The UDP ports of an endpoint. Each endpoint has an address of its own, so nobody else can have them.

use std::collections::BTreeMap;
use std::io;

/// Where ports begin that nobody asked for by number (RFC 6335 §6). The first is the home port.
pub(crate) const HOME_PORT: u16 = 49_152;

/// Open ports, counted.
#[derive(Debug)]
pub(crate) struct OpenPorts {
    opens: BTreeMap<u16, u32>,
    /// Where to look for the next free one.
    next: u16,
}

impl OpenPorts {
    pub(crate) const fn new() -> Self {
        Self { opens: BTreeMap::new(), next: HOME_PORT }
    }

    /// Opens `port`, or any free one for 0.
    pub(crate) fn open(&mut self, port: u16) -> io::Result<u16> {
        let port = if port == 0 { self.find()? } else { port };
        *self.opens.entry(port).or_default() += 1;
        Ok(port)
    }

    pub(crate) fn close(&mut self, port: u16) {
        if let Some(opens) = self.opens.get_mut(&port) {
            *opens -= 1;
            if *opens == 0 {
                self.opens.remove(&port);
            }
        }
    }

    /// Ports above the home port, in turn.
    fn find(&mut self) -> io::Result<u16> {
        for _ in HOME_PORT..=u16::MAX {
            self.next = self.next.checked_add(1).unwrap_or(HOME_PORT + 1);
            if !self.opens.contains_key(&self.next) {
                return Ok(self.next);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("all ports above {HOME_PORT} are in use")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_free_port_until_there_is_none() {
        let mut ports = OpenPorts::new();
        assert_eq!(ports.open(0).unwrap(), 49_153);
        assert_eq!(ports.open(49_154).unwrap(), 49_154);
        assert_eq!(ports.open(49_154).unwrap(), 49_154);
        assert_eq!(ports.open(0).unwrap(), 49_155);
        for _ in 49_156..=u16::MAX {
            ports.open(0).unwrap();
        }
        assert_eq!(ports.open(0).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        ports.close(49_154);
        assert!(ports.open(0).is_err(), "opened twice, closed once");
        ports.close(49_154);
        assert_eq!(ports.open(0).unwrap(), 49_154);
        ports.close(9);
    }
}
