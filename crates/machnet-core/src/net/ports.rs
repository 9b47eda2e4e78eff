//! The UDP ports that are open.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The first port that `open(0)` tries (RFC 6335 §6: dynamic ports).
const FIRST_FREE: u16 = 49_152;

/// How many engines of a host have each port open: what comes to one and is for another's port is handed over, not refused. Only good to
/// know, so no order is needed: whoever opens a port for others to use tells them by other means.
#[derive(Debug)]
pub(crate) struct Held(Box<[AtomicU8]>);

impl Held {
    /// No port is open.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self((0..=u16::MAX).map(|_| AtomicU8::new(0)).collect()))
    }

    fn is_open(&self, port: u16) -> bool {
        self.0[usize::from(port)].load(Ordering::Relaxed) > 0
    }
}

/// Open ports, and how often each was opened.
#[derive(Debug)]
pub(crate) struct Ports {
    open: BTreeMap<u16, u32>,
    /// Of all engines, if there are several, up to 64.
    held: Option<Arc<Held>>,
    next_free: u16,
    /// The port looked up last: bursts go to one.
    last: u16,
}

impl Ports {
    pub(crate) const fn new() -> Self {
        Self { open: BTreeMap::new(), held: None, next_free: FIRST_FREE, last: 0 }
    }

    /// Those of one of several engines.
    pub(crate) const fn of(held: Arc<Held>) -> Self {
        Self { open: BTreeMap::new(), held: Some(held), next_free: FIRST_FREE, last: 0 }
    }

    /// Opens `port`, or a free one, once more.
    pub(crate) fn open(&mut self, port: u16) -> io::Result<u16> {
        let port = if port == 0 { self.free()? } else { port };
        let count = self.open.entry(port).or_insert(0);
        *count = count.checked_add(1).ok_or(io::ErrorKind::QuotaExceeded)?;
        if let Some(held) = self.held.as_ref().filter(|_| *count == 1) {
            held.0[usize::from(port)].fetch_add(1, Ordering::Relaxed);
        }
        Ok(port)
    }

    /// Undoes one [`Ports::open`].
    pub(crate) fn close(&mut self, port: u16) {
        if let Some(count) = self.open.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&port);
                self.last = 0;
                if let Some(held) = &self.held {
                    held.0[usize::from(port)].fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    pub(crate) fn is_open(&mut self, port: u16) -> bool {
        if port == self.last && port != 0 {
            return true;
        }
        let open = self.open.contains_key(&port);
        if open {
            self.last = port;
        }
        open || self.is_held(port)
    }

    fn is_held(&self, port: u16) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_open(port))
    }

    fn free(&mut self) -> io::Result<u16> {
        for _ in FIRST_FREE..=u16::MAX {
            let port = self.next_free;
            self.next_free = port.checked_add(1).unwrap_or(FIRST_FREE);
            if !self.open.contains_key(&port) && !self.is_held(port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port from 49152 to 65535"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_are_counted() {
        let mut ports = Ports::new();
        assert_eq!((ports.open(9000).unwrap(), ports.open(9000).unwrap()), (9000, 9000));
        ports.close(9000);
        assert!(ports.is_open(9000) && ports.is_open(9000) && !ports.is_open(9001) && !ports.is_open(0));
        ports.close(9000);
        assert!(!ports.is_open(9000));
        ports.close(9000);
    }

    #[test]
    fn what_one_of_several_has_open_is_open_to_all() {
        let held = Held::new();
        let (mut a, mut b) = (Ports::of(Arc::clone(&held)), Ports::of(held));
        for _ in 0..2 {
            assert_eq!(a.open(9000).unwrap(), 9000);
        }
        assert!(b.is_open(9000) && !b.is_open(9001));
        assert_eq!((a.open(0).unwrap(), b.open(0).unwrap()), (FIRST_FREE, FIRST_FREE + 1));
        assert_eq!(b.open(9000).unwrap(), 9000);
        a.close(9000);
        a.close(9000);
        assert!(a.is_open(9000), "the other's");
        b.close(9000);
        b.close(9000);
        assert!(!a.is_open(9000) && !b.is_open(9000));
    }

    #[test]
    fn free_ports_differ_until_none_is_left() {
        let mut ports = Ports::new();
        let all: std::collections::BTreeSet<_> = (FIRST_FREE..=u16::MAX).map(|_| ports.open(0).unwrap()).collect();
        assert_eq!((all.len(), all.first()), (16_384, Some(&FIRST_FREE)));
        assert_eq!(ports.open(0).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        ports.close(50_000);
        assert_eq!(ports.open(0).unwrap(), 50_000);
    }
}
