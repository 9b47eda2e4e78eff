//! Telling the service manager how far we are: the protocol of `sd_notify(3)`, a datagram to the socket that
//! `NOTIFY_SOCKET` names. Without one, nothing.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The daemon serves.
pub(crate) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// The daemon ends.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

fn tell(text: &str) {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::warn!(%error, name, "cannot tell the service manager");
    }
}
