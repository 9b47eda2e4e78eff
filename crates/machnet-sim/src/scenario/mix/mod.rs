//! Worlds drawn from the seed: who talks to whom, over what, and what goes wrong meanwhile.
//!
//! ```text
//! draw.rs      links, NICs, machines and dialogs
//! talk.rs      dialogs that must end well: pairs, switches, dumbbells, incasts
//! leave.rs     applications that leave when they like
//! strange.rs   damage that nothing notices, forged packets, peers that restart, vanish or stand still
//! ```

mod draw;
mod leave;
mod strange;
mod talk;

use super::{Run, Scenario, kept};

pub(super) const SCENARIOS: &[Scenario] = &[
    kept("mix_pair", "drawn: dialogs between two machines on links with faults", talk::pair),
    kept("mix_switch", "drawn: dialogs between machines at one switch", talk::switch),
    kept("mix_dumbbell", "drawn: dialogs that share a bottleneck, policed or not", talk::dumbbell),
    kept("mix_incast", "drawn: many machines send to one with a small ring", talk::incast),
    kept("mix_short", "drawn: short dialogs on links that lose up to 30 %", talk::short),
    kept("mix_leave", "drawn: applications that leave in the middle, or abort", leave::leave),
    kept("mix_damage", "drawn: damage that no checksum notices", strange::damage),
    kept("mix_forged", "drawn: replayed, altered and random packets from anywhere", strange::forged),
    kept("mix_gone", "drawn: peers that restart, or are never heard of again", strange::gone),
    kept(
        "mix_stopped",
        "drawn: hosts that stand still for up to 12 s, and applications that leave meanwhile",
        strange::stopped,
    ),
    kept("mix", "one of the mix_ scenarios, drawn: what --seeds runs", mix),
];

fn mix(run: &Run) {
    // Dialogs between two machines are quick, and where most faults meet.
    const WEIGHTS: [u64; 10] = [8, 3, 3, 2, 2, 4, 3, 2, 2, 4];
    let mut at = run.rng().below(WEIGHTS.iter().sum());
    let chosen = WEIGHTS.iter().position(|&weight| {
        let is_here = at < weight;
        at = at.saturating_sub(weight);
        is_here
    });
    let scenario = SCENARIOS[chosen.expect("a number below the sum")];
    run.figure("drawn", scenario.name);
    (scenario.run)(run);
}
