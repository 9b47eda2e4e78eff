//! `cargo xtask bench --dpdk`: Machnet on DPDK's wires, beside bare frames of the same length on the same wires.
//!
//! Two processes on each wire, one core each. The bare frames go through the same ports, from a plain loop that never sleeps:
//! what the wire can do on this machine, in this run. One message takes one frame there; of small ones, Machnet puts as many
//! into a frame as wait.

use super::contenders::{Contender, on_two_cores};
use super::matrix::{Experiment, FLOOD, LATENCY, RATE, Wire};
use super::results::{Results, short};
use super::rows::{Row, Want, against, alone, not_measured};

/// A pair of DPDK devices, server and client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ports {
    /// Shared memory between two processes.
    Memif,
    /// A cloud VM's own datapath: the client is the machine, the server its host.
    Virtio,
    /// Packet sockets on both ends of a veth.
    AfPacket,
}

/// Bare frames.
const RAW: Contender = on_two_cores("bare frames", "dpdk+raw", &[]);
/// An engine that never naps.
const SPIN: Contender = on_two_cores("machnet spin", "dpdk", &["--placement", "inline", "--spin"]);
/// One that yields for 100 µs before it naps.
const YIELD: Contender = on_two_cores("machnet", "dpdk", &["--placement", "inline"]);

/// What a round trip may take beyond that of bare frames, µs.
const BEYOND: f64 = 3.0;
/// Requests and replies of 1 KiB per second, with 32 outstanding.
const DEEP: f64 = 1e6;
/// How much better than the C++ system.
const BETTER: f64 = 3.0;

impl Ports {
    const ALL: [Self; 3] = [Self::Memif, Self::Virtio, Self::AfPacket];

    const fn name(self) -> &'static str {
        match self {
            Self::Memif => "memif",
            Self::Virtio => "virtio",
            Self::AfPacket => "af_packet",
        }
    }

    /// What the C++ system did on such a wire, its idle loops patched to yield (issue 7): p50 of a round trip, µs, and
    /// requests per second with 32 outstanding.
    const fn before(self) -> (f64, f64) {
        match self {
            Self::Memif => (20.5, 335e3),
            Self::Virtio => (22.0, 296e3),
            Self::AfPacket => (35.5, 55e3),
        }
    }

    /// Where a server listens, and what a client opens to reach it.
    pub(crate) fn urls(self, scheme: &str) -> (String, String) {
        let us = std::process::id();
        let socket = std::env::temp_dir().join(format!("machnet-bench-{us}.vhost"));
        let (server, client) = match self {
            Self::Memif => (
                format!("net_memif0,role=server,socket=/machnet-bench-{us}"),
                format!("net_memif0,role=client,socket=/machnet-bench-{us}"),
            ),
            Self::Virtio => (
                format!("net_vhost0,iface={}", socket.display()),
                format!("net_virtio_user0,path={},queues=1", socket.display()),
            ),
            Self::AfPacket => ("net_af_packet0,iface=eth0".to_owned(), "net_af_packet0,iface=eth0".to_owned()),
        };
        let url = |device, host| format!("{scheme}://vdev:{device}?ip=10.99.0.{host}/24&huge=no");
        (url(server, 1), format!("{}&server=10.99.0.1:7000", url(client, 2)))
    }
}

fn name(what: &str, size: &str, ports: Ports) -> String {
    format!("{what} {size}, {}", ports.name())
}

const ROUND_TRIP: &str = "round trip";
const OUTSTANDING: &str = "32 outstanding";
const ONE_WAY: &str = "one way";
const SIZES: [&str; 2] = ["64B", "1KiB"];

/// What is measured, for so long each.
pub(crate) fn experiments(millis: u64) -> Vec<Experiment> {
    let mut experiments = Vec::new();
    for ports in Ports::ALL {
        for (what, options, shows) in [
            (ROUND_TRIP, "--mode rr", LATENCY),
            (OUTSTANDING, "--mode rr --outstanding 32", RATE),
            (ONE_WAY, "--mode stream", FLOOD),
        ] {
            for size in SIZES {
                let options = format!("{options} --size {size} --duration {millis}ms");
                experiments.push(Experiment {
                    name: name(what, size, ports),
                    wire: Wire::Dpdk(ports),
                    contenders: vec![RAW, SPIN, YIELD],
                    options: options.split_whitespace().map(str::to_owned).collect(),
                    required: true,
                    repetitions: u32::MAX,
                    shows,
                });
            }
        }
    }
    experiments
}

/// The goals of issue 7, of what was measured, and how far they are met.
pub(crate) fn rows(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for ports in Ports::ALL {
        for size in SIZES {
            rows.push(beyond(results, &name(ROUND_TRIP, size, ports)));
        }
        let (round_trip, deep) = (name(ROUND_TRIP, "1KiB", ports), name(OUTSTANDING, "1KiB", ports));
        if ports != Ports::AfPacket {
            rows.push(alone(results, "b", (&deep, "rate_per_s", "/s"), &SPIN, Want::AtLeast(DEEP)));
        }
        // Theirs yielded; so does ours.
        let (p50, rate) = ports.before();
        rows.push(alone(results, "c", (&round_trip, "p50_us", " us"), &YIELD, Want::AtMost(p50 / BETTER)));
        rows.push(alone(results, "c", (&deep, "rate_per_s", "/s"), &YIELD, Want::AtLeast(rate * BETTER)));
        for (what, size) in [(OUTSTANDING, "1KiB"), (ONE_WAY, "64B"), (ONE_WAY, "1KiB")] {
            rows.push(against(results, "d", (&name(what, size, ports), "rate_per_s"), (&SPIN, &RAW), None));
        }
    }
    rows.retain(Row::is_measured);
    rows
}

/// What a round trip takes longer than one of bare frames.
fn beyond(results: &Results, experiment: &str) -> Row {
    let p50 = |contender| results.median(experiment, contender, "p50_us");
    let both = p50(&SPIN).zip(p50(&RAW));
    let beyond = both.map(|(ours, bare)| ours - bare);
    Row {
        row: "a",
        what: format!("{experiment}: p50_us of {}, beyond that of {}", SPIN.name, RAW.name),
        target: format!("<= +{BEYOND} us"),
        result: both.map_or_else(not_measured, |(ours, bare)| format!("{} - {}", short(ours), short(bare))),
        ratio: beyond,
        met: beyond.map(|beyond| beyond <= BEYOND),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::table;
    use super::*;

    #[test]
    fn each_row_finds_its_numbers() {
        let mut results = Results::new(String::new(), 1, 100);
        for experiment in experiments(100) {
            for (n, contender) in experiment.contenders.iter().enumerate() {
                let report = serde_json::json!({ "p50_us": 2.0 + n as f64, "rate_per_s": 2e6 });
                results.add(&experiment, contender, Ok(report)).unwrap();
            }
        }
        let rows = rows(&results);
        assert_eq!(rows.len(), 3 * 7 + 2);
        let table = table(&rows);
        assert!(!table.contains("NOT MET") && table.contains("3.0 - 2.0"), "{table}");
    }

    #[test]
    fn nothing_is_said_of_what_was_not_measured() {
        assert!(rows(&Results::new(String::new(), 1, 100)).is_empty());
    }
}
