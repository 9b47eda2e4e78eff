//! A daemon, and applications that a test plays word by word: good ones, bad ones, and real processes that are killed.
#![allow(unused_crate_dependencies, reason = "a test")]

mod client;
mod control;
mod elsewhere;
mod halted;
mod hostile;
mod kills;
mod rounds;
mod several;
mod stage;
mod talk;
