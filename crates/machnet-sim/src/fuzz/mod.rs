//! Two hosts under an adversary who holds every packet between them: the body of the fuzz target `engines`.
//!
//! The first byte says what the hosts are: their NICs move datagrams or frames, and each has an engine or several, behind one or
//! another hash.
//!
//! The adversary's operations come from bytes. He delivers, drops, repeats, reorders and replays packets, speaks from a
//! third host, forges in the peer's name without knowing its ids, lets time pass, stops engines, starts a host again, and does what
//! applications do. If the first byte allows it he also sits on the path: alters packets and forges them with the right ids. Then everything is
//! calm, the applications read and finish, and it must be true that
//!
//! - nothing panicked, no engine turned without end, no timer lay in the past;
//! - every message came exactly once, in order and unchanged, up to where its flow was ended; what was acknowledged came
//!   (neither of an adversary on the path, for packets are not authenticated, nor of flows of a host that started again);
//! - flows stayed within their limit, and a stranger was never sent more than it sent;
//! - every flow ended, and every frame came home.
//!
//! ```text
//!   mod.rs     the operations and the end
//!   host.rs    engines, polled as their runners would, and the wire between them
//!   flows.rs   the applications' ends, and what must be true of them
//!   forge.rs   packets that no engine made
//! ```

mod flows;
mod forge;
mod host;

use std::time::Duration;

use arbitrary::{Result, Unstructured};

use machnet_core::EngineStats;

use flows::Flows;
use host::{A, B, Duel, Kind, X};

/// A fuzz target.
pub type Body = fn(&[u8]);

/// Every fuzz target of this crate, by the name of its corpus in `fuzz/corpus`.
pub const TARGETS: &[(&str, Body)] = &[("engines", engines)];

/// Lengths of messages at which something changes: units, whole messages, packets, several packets, the window.
const SIZES: [usize; 10] = [0, 1, 64, 65, 200, 1148, 1149, 2300, 4096, host::MAX_MESSAGE as usize];

/// Lengths of messages that are built where the engine would have them: they lie in frames, or are a byte too short or too long for that.
const BUILT: [usize; 5] = [1023, 1024, 1148, 1149, 1400];

/// Runs the operations in `bytes`.
///
/// # Panics
/// If anything is not as the module says.
pub fn engines(bytes: &[u8]) {
    let _ = play(bytes);
}

/// The sums of what the engines counted.
fn play(bytes: &[u8]) -> EngineStats {
    let mut u = Unstructured::new(bytes);
    let kind: u8 = u.arbitrary().unwrap_or(0);
    let on_path = kind & 1 == 1;
    let mut world = World { duel: Duel::new(Kind::of(kind)), flows: Flows::default(), on_path, tampered: false };
    // The operations end where the bytes do.
    let _ = world.operate(&mut u);
    world.finish()
}

struct World {
    duel: Duel,
    flows: Flows,
    on_path: bool,
    /// A packet was altered, or forged with ids that only the two know.
    tampered: bool,
}

impl World {
    fn operate(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let home = self.duel.home(A);
        self.connect();
        while !u.is_empty() {
            let operation: u8 = u.arbitrary()?;
            let variant = operation >> 4;
            match operation & 15 {
                0 if variant == 15 => {
                    self.flows.died(A);
                    self.duel.start(A);
                }
                0 => self.connect(),
                1 => {
                    let (flow, side) = flow_and_side(u)?;
                    let size = u.choose_index(SIZES.len())?;
                    match variant & 1 {
                        0 => self.flows.post(flow, side, SIZES[size]),
                        _ => (0..=variant >> 2).for_each(|_| self.flows.build(flow, side, BUILT[size % BUILT.len()])),
                    }
                }
                2 => {
                    let (flow, side) = flow_and_side(u)?;
                    self.flows.consume(flow, side, u.int_in_range(1..=8)?, !self.tampered);
                }
                3 => {
                    let (flow, side) = flow_and_side(u)?;
                    self.flows.intend(flow, side, u.int_in_range(0..=4)?);
                }
                4..=6 => self.duel.deliver_all(u.int_in_range(1..=8)?),
                7 => {
                    if let Some(packet) = self.duel.take(u)? {
                        self.duel.deliver(&packet);
                    }
                }
                8 => drop(self.duel.take(u)?),
                9 => {
                    if let Some(packet) = self.duel.take(u)? {
                        self.duel.deliver(&packet);
                        self.duel.deliver(&packet);
                    }
                }
                10 => {
                    if let Some(packet) = self.duel.replay(u)? {
                        self.duel.deliver(&packet);
                    }
                }
                12 if variant & 3 == 3 => {
                    let time = Duration::from_micros(1 << u.int_in_range(0..=21)?);
                    self.duel.stand(if variant & 4 == 0 { A } else { B }, usize::from(variant >> 3), time);
                }
                11 => self.duel.wait(Duration::from_micros(1 << u.int_in_range(0..=21)?)),
                12 => {
                    // A host that does not run for a while.
                    self.duel.freeze(Duration::from_micros(1 << u.int_in_range(0..=21)?));
                }
                13 => {
                    let from = if u.arbitrary()? { self.duel.home(X) } else { home };
                    let payload = forge::blind(u, |id| self.duel.knows(id))?;
                    let to = if u.arbitrary()? { self.duel.home(1) } else { self.duel.service() };
                    self.duel.deliver(&host::Datagram { from, to, payload });
                }
                14 if self.on_path => {
                    if let Some(mut packet) = self.duel.take(u)? {
                        self.tampered = true;
                        forge::alter(u, &mut packet.payload)?;
                        self.duel.deliver(&packet);
                    }
                }
                15 if self.on_path => {
                    if let Some(mut packet) = self.duel.replay(u)? {
                        self.tampered = true;
                        packet.payload = forge::knowing(u, &packet.payload)?;
                        self.duel.deliver(&packet);
                    }
                }
                _ => self.duel.deliver_all(1),
            }
            self.accept();
            self.duel.poll();
            self.duel.check();
        }
        Ok(())
    }

    /// Another flow, of the engine whose turn it is.
    fn connect(&mut self) {
        let intake = self.duel.intake(A, self.flows.len());
        self.flows.connect(intake, self.duel.service());
    }

    fn accept(&mut self) {
        for listener in self.duel.listeners() {
            self.flows.accept(listener);
        }
    }

    /// Calm: everything arrives, everybody reads and finishes. Then every flow ends.
    fn finish(mut self) -> EngineStats {
        let end = self.duel.now() + Duration::from_secs(30);
        self.duel.calm();
        while self.duel.flows() > 0 || self.flows.waits() {
            self.accept();
            self.flows.drain(!self.tampered);
            if self.tampered {
                // Nothing is promised to who was lied to, except an end to those who give up.
                self.flows.leave();
            }
            self.duel.deliver_all(usize::MAX);
            self.duel.check();
            if self.duel.now() > end {
                panic!("flows do not end: {}\n{}", self.duel.report(), self.flows.report());
            }
            self.duel.wait_for_timer();
        }
        self.flows.drain(!self.tampered);
        if !self.tampered {
            self.flows.check();
        }
        self.flows.leave();
        drop(self.flows);
        self.duel.close()
    }
}

fn flow_and_side(u: &mut Unstructured<'_>) -> Result<(usize, usize)> {
    let byte: u8 = u.arbitrary()?;
    Ok((usize::from(byte >> 1) % flows::MAX, usize::from(byte & 1)))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use super::*;
    use crate::SimRng;

    /// What libFuzzer found worth keeping. An empty or missing corpus is a failure: it would test nothing.
    #[test]
    fn the_committed_corpora_pass() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, body) in TARGETS {
            let dir = corpora.join(name);
            let files = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
            let mut count = 0;
            for file in files {
                let path = file.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                let passed = catch_unwind(AssertUnwindSafe(|| body(&bytes)));
                assert!(passed.is_ok(), "{name} fails on {}: see above", path.display());
                count += 1;
            }
            assert!(count > 0, "{} is empty", dir.display());
        }
    }

    #[test]
    fn random_operations_pass() {
        let mut sum = EngineStats::default();
        for seed in 0..2000 {
            let mut rng = SimRng::new(seed, 1 << 42);
            let mut bytes = vec![0; rng.below(600) as usize];
            rng.fill(&mut bytes);
            match catch_unwind(AssertUnwindSafe(|| play(&bytes))) {
                Ok(stats) => sum.add(&stats),
                Err(_) => panic!("seed {seed} fails: see above"),
            }
        }
        // The worlds drawn have several engines, and frames that messages are built in.
        assert!(sum.handed_over > 0 && sum.sent_in_place > 0 && sum.built_and_copied > 0, "{sum:?}");
    }
}
