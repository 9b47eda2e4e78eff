//! The driver alone: datagrams between hub and clients, sleeping, and a hostile other side; and what an engine makes of it.

mod datagrams;
mod handshake;
mod hostile;
mod node;
mod raw;
mod sleeping;
mod small;
