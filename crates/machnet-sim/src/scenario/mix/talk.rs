//! Dialogs that must end well, whatever the links do.

use super::draw;
use crate::scenario::Run;
use crate::setup::{PORT, config, ip, micros, nic, seconds};
use crate::{Dialog, Ended, Link, LinkId, MachineId, NicConfig, Plan, SimRng, Task, World};

/// Two machines and up to eight flows.
pub(super) fn pair(run: &Run) {
    let rng = &mut run.rng();
    let mut world = run.world(draw::world_config(rng));
    let machines = machines(&mut world, rng, 2);
    let (there, back) = (draw::link(rng), draw::link(rng));
    let fabric = world.fabric().clone();
    let links: [LinkId; 2] = fabric.join(world.host(machines[0]), world.host(machines[1]), there, back).into();
    draw::outages(rng, &fabric, &links);
    let flows = 1 + rng.log_uniform(7) as u16;
    let pairs: Vec<_> = (0..flows).map(|i| if i % 3 == 2 { (1, 0) } else { (0, 1) }).collect();
    talk(rng, world, &machines, &pairs, 100 / u64::from(flows) + 2);
}

/// Up to six machines at a switch; each talks to some others.
pub(super) fn switch(run: &Run) {
    let rng = &mut run.rng();
    let mut world = run.world(draw::world_config(rng));
    let count = 3 + rng.below(4) as usize;
    let machines = machines(&mut world, rng, count);
    let (up, down) = (draw::link(rng), draw::link(rng));
    let ports = world.switch(&machines, &up, &down);
    let links: Vec<LinkId> = ports.iter().flat_map(|port| [port.up, port.down]).collect();
    let fabric = world.fabric().clone();
    draw::outages(rng, &fabric, &links);
    let pairs: Vec<_> =
        (0..count).map(|from| (from, (from + 1 + rng.below(count as u64 - 1) as usize) % count)).collect();
    talk(rng, world, &machines, &pairs, 30);
}

/// Up to three machines on each side of one link.
pub(super) fn dumbbell(run: &Run) {
    let rng = &mut run.rng();
    let mut world = run.world(draw::world_config(rng));
    let width = 1 + rng.below(3) as usize;
    let machines = machines(&mut world, rng, 2 * width);
    let links = world.dumbbell(&machines[..width], &machines[width..], &draw::link(rng));
    let fabric = world.fabric().clone();
    draw::outages(rng, &fabric, &links);
    let pairs: Vec<_> = (0..2 * width).map(|i| (i % width, width + rng.below(width as u64) as usize)).collect();
    talk(rng, world, &machines, &pairs, 30);
}

/// Many machines send to one, whose ring and engine are small.
pub(super) fn incast(run: &Run) {
    let rng = &mut run.rng();
    let mut world = run.world(draw::world_config(rng));
    let senders = 4 + rng.below(13) as usize;
    let small = NicConfig { rx_descriptors: draw::one_of(rng, &[32, 64, 256]), ..nic() };
    let mut machines: Vec<_> = (0..senders).map(|i| world.machine(ip(1 + i as u8), nic(), config())).collect();
    let receiver = world.machine(ip(100), small, config());
    machines.push(receiver);
    let rate = draw::one_of(rng, &[1_000_000_000, 10_000_000_000]);
    let queue = 16_384 << rng.below(6);
    world.switch(&machines, &Link::with_rate(rate, micros(2), 1 << 20), &Link::with_rate(rate, micros(2), queue));
    let running: Vec<_> = (0..senders)
        .map(|i| {
            let port = PORT + i as u16;
            let dialog = Dialog { port, ..Dialog::new(draw::plan(rng, 40, 1 << 17), draw::plan(rng, 3, 1000)) };
            let tasks = dialog.start(&mut world, machines[i], receiver);
            (dialog, tasks)
        })
        .collect();
    draw::run(rng, &mut world, &machines);
    end(&mut world, running);
}

/// Of a flow that just opened, nearly every second exchange fails: timers, probes and tombstones have to do it.
pub(super) fn short(run: &Run) {
    let rng = &mut run.rng();
    let loss = 0.3 * rng.unit();
    let mut pair = run.pair(&Link::with_delay(micros(1 + rng.below(100))));
    let (a, b) = pair.open();
    for link in [pair.there, pair.back] {
        pair.world.fabric().reconfigure(link, |link| link.loss = loss);
    }
    let dialog = Dialog::new(Plan::fixed(1, rng.below(5) as usize, 100), Plan::fixed(2, rng.below(5) as usize, 3000));
    let tasks = [(0, pair.a, a), (1, pair.b, b)].map(|(side, machine, flow)| {
        let (node, dialog) = (pair.world.node(machine), dialog.clone());
        pair.world.spawn("side", async move { dialog.side(side, &node, flow).await })
    });
    pair.world.run(seconds(60)).unwrap();
    end(&mut pair.world, vec![(dialog, tasks)]);
}

fn machines(world: &mut World, rng: &mut SimRng, count: usize) -> Vec<MachineId> {
    (0..count)
        .map(|i| {
            let (nic, config) = (draw::nic_config(rng), draw::engine_config(rng));
            world.machine(ip(1 + i as u8), nic, config)
        })
        .collect()
}

/// A dialog for each of `pairs`, all to their ends.
fn talk(rng: &mut SimRng, mut world: World, machines: &[MachineId], pairs: &[(usize, usize)], messages: u64) {
    let running: Vec<_> = pairs
        .iter()
        .enumerate()
        .map(|(i, &(from, to))| {
            let dialog = draw::dialog(rng, PORT + i as u16, messages, 1 << 20);
            let tasks = dialog.start(&mut world, machines[from], machines[to]);
            (dialog, tasks)
        })
        .collect();
    draw::run(rng, &mut world, machines);
    end(&mut world, running);
}

fn end(world: &mut World, running: Vec<(Dialog, [Task<Ended>; 2])>) {
    for (dialog, tasks) in running {
        dialog.check(&tasks.map(|task| task.take().expect("the task is done")));
    }
    world.settle(seconds(30)).unwrap();
}
