//! Networks of more than two machines.

use std::time::Duration;

use crate::{Link, LinkId, MachineId, World};

/// A machine's cable to a switch.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// From the machine to the switch.
    pub up: LinkId,
    /// From the switch's output queue to the machine.
    pub down: LinkId,
}

impl World {
    /// Joins machines by one switch: all that goes to a machine meets in the queue of its `down` link.
    pub fn switch(&mut self, machines: &[MachineId], up: &Link, down: &Link) -> Vec<Port> {
        let fabric = self.fabric().clone();
        let port = |_: &MachineId| Port { up: fabric.link(up.clone()), down: fabric.link(down.clone()) };
        let ports: Vec<Port> = machines.iter().map(port).collect();
        for (i, from) in machines.iter().enumerate() {
            for (j, to) in machines.iter().enumerate().filter(|&(j, _)| j != i) {
                fabric.route(self.host(*from), self.host(*to), &[ports[i].up, ports[j].down]);
            }
        }
        ports
    }

    /// Joins every machine on the left with every one on the right by one link in each direction, behind access links
    /// of infinite rate. Returns the links from left to right and back.
    pub fn dumbbell(&mut self, left: &[MachineId], right: &[MachineId], middle: &Link) -> [LinkId; 2] {
        let fabric = self.fabric().clone();
        let middles = [fabric.link(middle.clone()), fabric.link(middle.clone())];
        let access = || fabric.link(Link::with_delay(Duration::from_nanos(100)));
        let (lefts, rights): (Vec<_>, Vec<_>) =
            (left.iter().map(|_| (access(), access())).collect(), right.iter().map(|_| (access(), access())).collect());
        for (l, &(l_out, l_in)) in left.iter().zip(&lefts) {
            for (r, &(r_out, r_in)) in right.iter().zip(&rights) {
                fabric.route(self.host(*l), self.host(*r), &[l_out, middles[0], r_in]);
                fabric.route(self.host(*r), self.host(*l), &[r_out, middles[1], l_in]);
            }
        }
        middles
    }
}
