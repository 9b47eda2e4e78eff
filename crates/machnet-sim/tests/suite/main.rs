//! The simulation suite: what the fabric does, and what engines on it must and must not do.
//!
//! A scenario that fails names its seed and the command that repeats it.

mod fabric;
