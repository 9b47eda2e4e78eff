//! The driver over real loopback sockets: what arrives, what is reported, when it wakes.
//!
//! Waiting is always `poll(2)` on the driver's own descriptor; its timeout only says that a test has failed.

mod datapath;
mod errors;
mod large;
mod namespace;
mod node;
mod ports;
mod split;
mod waiting;
