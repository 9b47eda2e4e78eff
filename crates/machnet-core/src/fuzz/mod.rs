//! The bodies of core's fuzz targets: functions of bytes that panic when a model disagrees.
//!
//! They are here, and not in `fuzz/`, because the sub-machines they drive are nobody's business outside this crate: the
//! module exists for tests and for cargo-fuzz (which sets the cfg `fuzzing`), and in no other build. Every body runs three
//! times over: under libFuzzer (`cargo xtask fuzz`), on the committed corpus and on random bytes (both in `cargo test`).
//!
//! ```text
//!   wire.rs            parsers: total, and parse → emit → parse gives the same
//!   hello.rs           the same for what is said on a daemon's socket
//!   flow/fuzz/…        sub-machines of a flow against naive models
//!   engine/fuzz.rs     the timing wheel against a sorted map; tokens
//!   net/fuzz.rs        the network layer against hostile frames
//!   channel/tenants/fuzz.rs   applications that write what they like, beside honest ones
//! ```
mod hello;
mod wire;

use crate::channel::fuzz_tenants as tenants;
use crate::engine::fuzz::{timers, token};
use crate::flow::fuzz::{acks, credit, loss, receive, units};
use crate::net::fuzz::net;

/// A fuzz target.
pub type Body = fn(&[u8]);

/// Every target of this crate, by the name of its corpus in `fuzz/corpus`.
pub const TARGETS: &[(&str, Body)] = &[
    ("header", wire::header),
    ("ack", wire::ack),
    ("chunks", wire::chunks),
    ("data", wire::data),
    ("handshake", wire::handshake),
    ("retry", wire::retry),
    ("reset", wire::reset),
    ("probe", wire::probe),
    ("packet", wire::packet),
    ("hello", hello::hello),
    ("acks", acks),
    ("receive", receive),
    ("credit", credit),
    ("loss", loss),
    ("units", units),
    ("timers", timers),
    ("token", token),
    ("net", net),
    ("tenants", tenants),
];

/// Runs the target called `name` on `bytes`.
///
/// # Panics
/// If a model disagrees, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target of this name");
    body(bytes);
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The models hold for random operations too: no corpus needed.
        #[test]
        fn random_bytes_pass(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for (_, body) in TARGETS {
                body(&bytes);
            }
        }
    }
}
