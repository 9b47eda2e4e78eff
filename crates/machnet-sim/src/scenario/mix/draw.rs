//! Draws the parts of a world.

use std::time::Duration;

use machnet_channel::Congestion;
use machnet_core::{Config, Instant};

use crate::fault::{outage, outage_of_acknowledgements, outage_of_long};
use crate::setup::{config, micros, millis, nic};
use crate::{
    Bursts, Corruption, Dialog, Ethernet, Fabric, Link, LinkId, MachineId, NicConfig, NoFrame, Pace, Plan, Policer,
    SimRng, World, WorldConfig,
};

/// One of `choices`.
pub(super) fn one_of<T: Copy>(rng: &mut SimRng, choices: &[T]) -> T {
    choices[rng.below(choices.len() as u64) as usize]
}

/// What rounds and packets cost.
pub(super) fn world_config(rng: &mut SimRng) -> WorldConfig {
    WorldConfig {
        poll_cost: Duration::from_nanos(200 + rng.log_uniform(5_000) as u64),
        packet_cost: Duration::from_nanos(rng.below(300)),
        ethernet: ethernet(rng),
        ..WorldConfig::default()
    }
}

/// Half of the worlds have Ethernet under the engines' network layer.
fn ethernet(rng: &mut SimRng) -> Option<Ethernet> {
    let word = rng.below(8);
    (word >= 4).then_some(Ethernet { tx_checksum: word & 1 != 0, rx_checksum: word & 2 != 0 })
}

/// A delay from 1 µs to 3 ms.
fn delay(rng: &mut SimRng) -> Duration {
    micros(1 + rng.log_uniform(3000) as u64)
}

/// A link of any rate and delay, with any of the faults of [`Link`].
pub(super) fn link(rng: &mut SimRng) -> Link {
    let mut link = Link {
        delay: delay(rng),
        rate: one_of(rng, &[None, Some(1_000_000_000), Some(10_000_000_000), Some(25_000_000_000)]),
        queue_packets: 64 + rng.below(1000) as u32,
        ..Link::default()
    };
    // Each fault in every third link.
    let mut fault = |most: f64| if rng.below(3) == 0 { most * rng.unit() } else { 0.0 };
    (link.loss, link.duplicate, link.reorder, link.corrupt) = (fault(0.05), fault(0.1), fault(0.2), fault(0.02));
    link.reorder_by = micros(1 + rng.log_uniform(300) as u64);
    link.corruption = Corruption::Noticed;
    if rng.below(6) == 0 {
        link.bursts = Some(Bursts { begin: 0.01 * rng.unit(), end: 0.1 + 0.5 * rng.unit(), loss: 0.9 * rng.unit() });
    }
    if rng.below(6) == 0 {
        link.police = Some(Policer { rate: 100_000_000 << rng.below(7), burst: 4096 << rng.below(6) });
    }
    link
}

/// A NIC that holds frames for a while, and may have few.
pub(super) fn nic_config(rng: &mut SimRng) -> NicConfig {
    // Jumbo frames are rare, and few: they are much memory.
    let (max_payload, frames) = if rng.below(6) == 0 { (9216, [600, 1024, 1024]) } else { (1472, [600, 1024, 4096]) };
    NicConfig {
        max_payload,
        frame_size: max_payload + 256,
        hold: Duration::from_nanos(rng.below(20_000)),
        hold_packets: rng.below(64) as u16,
        headroom: 64 * rng.below(2) as u32,
        frames: one_of(rng, &frames),
        rx_descriptors: one_of(rng, &[64, 256, 1024]),
        no_frame: one_of(rng, &[NoFrame::Wait, NoFrame::Drop]),
        ..nic()
    }
}

/// An engine that may be generous or tight.
pub(super) fn engine_config(rng: &mut SimRng) -> Config {
    let mut config = config();
    config.receive_window = one_of(rng, &[8 << 10, 64 << 10, 1 << 20, 2 << 20]);
    config.send_buffer = one_of(rng, &[8 << 10, 64 << 10, 2 << 20]);
    config.max_ack_delay = micros(one_of(rng, &[50, 250, 1000]));
    config.congestion = one_of(rng, &[None, Some(Congestion::Cubic), Some(Congestion::Swift)]);
    config.max_payload = one_of(rng, &[1232, 1472, 9216]);
    // From one whole message at a time to plenty.
    config.reassembly_bytes = one_of(rng, &[0, 1 << 20, 7 << 22]);
    config.peer_reassembly_bytes = one_of(rng, &[1 << 20, 2 << 20, 64 << 20]);
    config
}

/// A plan of up to `most` messages of up to `largest` bytes.
pub(super) fn plan(rng: &mut SimRng, most: u64, largest: u32) -> Plan {
    let count = rng.below(most) as usize;
    let flow = rng.word();
    match rng.below(4) {
        0 => Plan::fixed(flow, 20 * count, rng.log_uniform(200) as u32),
        _ => Plan::log_uniform(flow, count, largest, rng),
    }
}

/// A dialog with readers of all kinds; of four ports in a row one has none that takes messages in pieces.
pub(super) fn dialog(rng: &mut SimRng, port: u16, most: u64, largest: u32) -> Dialog {
    let mut dialog = Dialog::new(plan(rng, most, largest), plan(rng, most, largest));
    dialog.port = port;
    dialog.chunked = [port % 2 == 1, port % 4 > 1];
    for (side, pace) in dialog.paces.iter_mut().enumerate() {
        let messages = dialog.plans[1 - side].len() as u64;
        *pace = match rng.below(5) {
            0 => Pace::Each(Duration::from_nanos(rng.below(40_000_000 / messages.max(20)))),
            1 => Pace::Stop { after: 1 + rng.below(5) as usize, pause: millis(rng.below(100)) },
            _ => Pace::Eager,
        };
    }
    dialog
}

/// Times in which a link passes nothing, no bare acknowledgements or no long packets; each well below the 100 ms that a
/// flow in order is remembered, since one of them may hide the answer to a flow's end.
pub(super) fn outages(rng: &mut SimRng, fabric: &Fabric, links: &[LinkId]) {
    for _ in 0..rng.below(3) {
        let link = one_of(rng, links);
        let start = Instant(0) + millis(rng.below(50));
        let when = start..start + micros(rng.log_uniform(30_000) as u64);
        fabric.also_filter(
            link,
            match rng.below(4) {
                0 => outage_of_acknowledgements(when),
                1 => outage_of_long(when, 1232),
                _ => outage(when),
            },
        );
    }
}

/// Runs the world until its tasks are done, for 120 s at most; some engine stands still now and then.
pub(super) fn run(rng: &mut SimRng, world: &mut World, machines: &[MachineId]) {
    if rng.below(3) == 0 {
        for _ in 0..1 + rng.below(5) {
            world.pause(one_of(rng, machines), micros(rng.log_uniform(10_000) as u64));
            world.run_for(micros(rng.log_uniform(20_000) as u64)).unwrap();
        }
    }
    world.run(Duration::from_secs(120)).unwrap();
}
