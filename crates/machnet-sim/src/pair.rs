//! Two machines joined by a link.

use std::io;
use std::time::Duration;

use machnet_core::Config;

use crate::setup::{PORT, TOMBSTONES, ip, seconds};
use crate::{Dialog, Ended, Flow, Link, LinkId, Listener, MachineId, NicConfig, Task, World, WorldConfig};

/// Two machines joined by a link.
#[derive(Debug)]
pub struct Pair {
    /// Their world.
    pub world: World,
    /// The machine that connects.
    pub a: MachineId,
    /// The machine that listens.
    pub b: MachineId,
    /// From A to B.
    pub there: LinkId,
    /// From B to A.
    pub back: LinkId,
    /// Of [`Pair::open`].
    listener: Option<Listener>,
}

impl Pair {
    /// A world of its own with two machines.
    #[must_use]
    pub fn with(seed: u64, link: &Link, nics: [NicConfig; 2], configs: [Config; 2], config: WorldConfig) -> Self {
        Self::in_world(World::new(seed, config), link, nics, configs)
    }

    /// Two machines in a world that has none.
    #[must_use]
    pub fn in_world(
        mut world: World,
        link: &Link,
        [nic_a, nic_b]: [NicConfig; 2],
        [config_a, config_b]: [Config; 2],
    ) -> Self {
        let a = world.machine(ip(1), nic_a, config_a);
        let b = world.machine(ip(2), nic_b, config_b);
        let (there, back) = world.join(a, b, link);
        Self { world, a, b, there, back, listener: None }
    }

    /// Starts `dialog` from A to B.
    pub fn start(&mut self, dialog: &Dialog) -> [Task<Ended>; 2] {
        dialog.start(&mut self.world, self.a, self.b)
    }

    /// A listener on B.
    ///
    /// # Panics
    /// If it does not come about.
    pub fn listen(&mut self) -> Listener {
        listen(&mut self.world, self.b, PORT, 128).unwrap()
    }

    /// An open flow: both sides of it.
    ///
    /// # Panics
    /// If it does not open within a second.
    pub fn open(&mut self) -> (Flow, Flow) {
        let mut listener = self.listener.take().unwrap_or_else(|| listen(&mut self.world, self.b, PORT, 128).unwrap());
        let (node, to) = (self.world.node(self.a), self.world.node(self.b).at(PORT));
        let accepting = self.world.spawn("accept", async move { (listener.accept().await.unwrap(), listener) });
        let connecting = self.world.spawn("connect", async move { node.connect(to).await.unwrap() });
        let limit = seconds(1);
        let (accepted, listener) = self.world.wait(&accepting, limit).unwrap();
        // The port stays open, so that packets of forgotten flows are answered.
        self.listener = Some(listener);
        (self.world.wait(&connecting, limit).unwrap(), accepted)
    }

    /// Runs `dialog` to its end, checks that it ended as it should, and that nothing is left.
    ///
    /// # Panics
    /// If one of that is not so.
    pub fn run(&mut self, dialog: &Dialog, limit: Duration) -> [Ended; 2] {
        let tasks = self.start(dialog);
        self.world.run(limit).unwrap();
        let ended = tasks.map(|task| task.take().expect("the task is done"));
        dialog.check(&ended);
        self.world.settle(TOMBSTONES).unwrap();
        ended
    }
}

/// Listens on `port` of `machine`.
///
/// # Errors
/// What the driver said.
///
/// # Panics
/// If the engine does not answer within a second.
pub fn listen(world: &mut World, machine: MachineId, port: u16, limit: u32) -> io::Result<Listener> {
    let node = world.node(machine);
    let task = world.spawn("listen", async move { node.listen(port, limit).await });
    world.wait(&task, seconds(1)).unwrap()
}
