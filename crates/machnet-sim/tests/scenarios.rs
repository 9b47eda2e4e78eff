//! Every scenario of the registry as a test of its name, with seed 1; those drawn from the seed with a few more.
//! `cargo xtask sim` runs the same functions with any seed.

use libtest_mimic::{Arguments, Failed, Trial};
use machnet_sim::scenario::{self, Scenario};
use machnet_sim::{attempt, keep_panics};

/// Seeds of a scenario that is drawn.
const DRAWN: u64 = 40;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    keep_panics();
    let trials = scenario::all().map(|scenario| Trial::test(scenario.name, move || run(&scenario))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(scenario: &Scenario) -> Result<(), Failed> {
    let is_drawn = scenario.name.starts_with("mix") || ["rss-mix", "rss-restarts"].contains(&scenario.name);
    let seeds = if is_drawn { 1..=DRAWN } else { 1..=1 };
    for seed in seeds {
        let outcome = attempt(scenario, seed);
        if !outcome.is_as_expected(scenario) {
            let error = outcome.result.err().unwrap_or_else(|| "pending, and passes".to_owned());
            let Scenario { name, about, .. } = scenario;
            let repeat = format!("repeat: cargo xtask sim --scenario {name} --seed {seed} --trace FILE");
            return Err(format!("{about}\n{error}\n{repeat}").into());
        }
    }
    Ok(())
}
