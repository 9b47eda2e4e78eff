//! The checks, by name.

mod bursts;
mod edges;
mod frames;
mod outside;

use crate::Subject;
use crate::bench::{Outcome, Stop};

/// A check.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it asks of a driver.
    pub about: &'static str,
    pub(crate) run: fn(&dyn Subject) -> Outcome,
}

impl Check {
    /// Puts `subject` through the check. What does not apply to it passes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn run(&self, subject: &dyn Subject) -> Result<(), String> {
        match (self.run)(subject) {
            Ok(()) | Err(Stop::NotApplicable(_)) => Ok(()),
            Err(Stop::Wrong(why)) => Err(why),
        }
    }
}

const fn check(name: &'static str, about: &'static str, run: fn(&dyn Subject) -> Outcome) -> Check {
    Check { name, about, run }
}

/// Every check, in the order of the table.
pub const CHECKS: &[Check] = &[
    check("bursts", "rx_burst appends up to `max`, tx_burst takes a prefix and says how long it is", bursts::bursts),
    check("partial_tx", "what a full device refuses stays in the batch, in order, and goes later", bursts::partial_tx),
    check(
        "full_rings",
        "as many datagrams as there are descriptors wait for a receiver that does not look",
        bursts::full_rings,
    ),
    check("order", "datagrams of one pair of ports come in order, none twice", bursts::order),
    check("exhaustion", "without frames nothing breaks; the first to come home rings the bell", frames::exhaustion),
    check("held_by_reader", "frames that the application holds are not written", frames::held_by_reader),
    check(
        "held_by_device",
        "frames that the device holds are not written, nor is what the sender keeps of them",
        frames::held_by_device,
    ),
    check(
        "two_pieces",
        "a datagram whose end lies elsewhere comes whole; the end is sent again as it is, and comes home",
        frames::two_pieces,
    ),
    check("no_leak", "after many rounds of all lengths every frame is home", frames::no_leak),
    check("tail_loss", "a lost datagram whose frame the device keeps is sent again in another", frames::tail_loss),
    check("lengths", "0 bytes, short ones that Ethernet pads, and everything up to the MTU", edges::lengths),
    check(
        "too_long",
        "a datagram over the MTU is dropped, counted by either side, and its neighbours are not",
        edges::too_long,
    ),
    check("long_arrival", "one that arrives over the MTU is dropped and counted", edges::long_arrival),
    check("addresses", "both addresses are complete; an unspecified one is filled in", edges::addresses),
    check("ports", "opened ports receive, are counted, and free ones differ", edges::ports),
    check("unreachable", "a closed port is said to be unreachable, with our header", edges::unreachable),
    check("checksums", "damage on the wire is noticed, and what follows is whole", outside::checksums),
    check("link_down", "while the link is down nothing breaks or piles up, and then all goes on", outside::link_down),
    check("sleep", "the file descriptor tells of what arrives, and of nothing else", outside::sleep),
    check("reduced", "without each optional capability, all goes on", outside::reduced),
];
