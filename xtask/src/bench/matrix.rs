//! What is measured.

use super::contenders::{
    Contender, INLINE, ONE_ENGINE, QUIC, SHM, SHM_SPIN, SPIN, TCP, TCP_ONE_CORE, TCP_SPIN, THREAD, TWO_ENGINES,
    UDP_SPIN, UDS,
};
use super::dpdk::Ports;

/// Between which ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire {
    /// Two network namespaces and a veth pair.
    Veth,
    /// The loopback interface.
    Loopback,
    /// Shared memory or a Unix socket: no network at all.
    Local,
    /// Loopback, through a process that loses so many of 10 000 datagrams, in each direction.
    Lossy(u32),
    /// Two DPDK ports.
    Dpdk(Ports),
}

/// Something to measure, of several contenders.
pub(crate) struct Experiment {
    pub(crate) name: String,
    pub(crate) wire: Wire,
    pub(crate) contenders: Vec<Contender>,
    /// The client's options.
    pub(crate) options: Vec<String>,
    /// A row needs it.
    pub(crate) required: bool,
    pub(crate) repetitions: u32,
    /// What to show: a field of the report, and what to call it.
    pub(crate) shows: &'static [(&'static str, &'static str)],
}

impl Experiment {
    /// Shows who is measured.
    pub(crate) fn list(&self) {
        let names: Vec<_> = self.contenders.iter().map(|contender| contender.name).collect();
        println!("{:<42}{}", self.name, names.join(", "));
    }
}

pub(crate) const ROUND_TRIP: &str = "round trip 1KiB, veth";
pub(crate) const OUTSTANDING: &str = "32 outstanding 1KiB, veth";
pub(crate) const BULK: &str = "bulk one way 64KiB, veth";
pub(crate) const CONNECT: &str = "connect and close, loopback";
pub(crate) const LOCAL_ROUND_TRIP: &str = "round trip 1KiB, local";
pub(crate) const LOCAL_OUTSTANDING: &str = "32 outstanding 1KiB, local";
pub(crate) const LOCAL_ONE_WAY: &str = "one way 64B, local";
pub(crate) const IDLE: &str = "idle flows, loopback";
pub(crate) const ENGINES: &str = "8 flows, 32 outstanding 1KiB each, veth";
pub(crate) const ENGINES_BULK: &str = "8 flows, bulk one way 64KiB, veth";
pub(crate) const SPARSE: &str = "sparse, one per 10 ms, veth";

/// Names of the open loops begin so; the rate follows.
pub(crate) const OPEN_LOOP: &str = "open loop 1KiB, veth, per s ";
/// Names of experiments on a lossy wire begin so; the losses of 10 000 follow.
pub(crate) const LOSSY: &str = "goodput 64KiB, lost of 10000: ";

const OFFERED: [u32; 6] = [2_000, 5_000, 10_000, 20_000, 40_000, 80_000];
const LOST: [u32; 4] = [0, 10, 100, 300];

type Shows = &'static [(&'static str, &'static str)];
pub(crate) const LATENCY: Shows =
    &[("p50_us", "p50 us"), ("p99_us", "p99 us"), ("p999_us", "p99.9 us"), ("cpu_us_per_op", "CPU us")];
pub(crate) const RATE: Shows =
    &[("rate_per_s", "per s"), ("p50_us", "p50 us"), ("p99_us", "p99 us"), ("cpu_us_per_op", "CPU us")];
pub(crate) const FLOOD: Shows = &[("rate_per_s", "per s"), ("gbit_per_s", "Gbit/s"), ("cpu_us_per_op", "CPU us")];
const MEMORY: Shows = &[("operations", "flows"), ("opening_s", "opened in s"), ("cpu_us_per_op", "CPU us")];

/// All of them; those that rows need come first.
pub(crate) fn experiments(quick: bool, millis: u64) -> Vec<Experiment> {
    let for_so_long = format!("--duration {millis}ms");
    let make = |name: &str, wire, contenders: &[Contender], options: &str, required, shows| Experiment {
        name: name.to_owned(),
        wire,
        contenders: contenders.to_vec(),
        options: options.split_whitespace().map(str::to_owned).collect(),
        required,
        repetitions: u32::MAX,
        shows,
    };
    let all = [SPIN, INLINE, THREAD, TCP, TCP_ONE_CORE, TCP_SPIN, UDP_SPIN, QUIC];
    let streams = [INLINE, THREAD, TCP, TCP_ONE_CORE, QUIC];
    let rr = format!("--mode rr --size 1KiB {for_so_long}");
    let deep = format!("{rr} --outstanding 32");
    let one_way = |size| format!("--mode stream --size {size} {for_so_long}");
    let flows = if quick { 20_000 } else { 100_000 };
    let idle = format!("--mode idle --flows {flows} --duration 1s --timeout 60s");
    let connect = format!("--mode connect --outstanding 64 {for_so_long}");
    let sparse = "--mode rr --size 1KiB --rate 100 --duration 1s";
    let mut experiments = vec![
        make(ROUND_TRIP, Wire::Veth, &all, &rr, true, LATENCY),
        make(OUTSTANDING, Wire::Veth, &streams, &deep, true, RATE),
        make(LOCAL_ROUND_TRIP, Wire::Local, &[SHM_SPIN, SHM, UDS], &rr, true, LATENCY),
        make(LOCAL_OUTSTANDING, Wire::Local, &[SHM_SPIN, SHM, UDS], &deep, true, RATE),
        make(LOCAL_ONE_WAY, Wire::Local, &[SHM_SPIN, SHM, UDS], &one_way("64B"), true, FLOOD),
        make(BULK, Wire::Veth, &streams, &one_way("64KiB"), true, FLOOD),
        make(CONNECT, Wire::Loopback, &[INLINE, THREAD, TCP, QUIC], &connect, true, RATE),
        Experiment { repetitions: 1, ..make(IDLE, Wire::Loopback, &[INLINE], &idle, true, MEMORY) },
        make(ENGINES, Wire::Veth, &[ONE_ENGINE, TWO_ENGINES], &format!("{deep} --flows 8"), false, RATE),
        make(
            ENGINES_BULK,
            Wire::Veth,
            &[ONE_ENGINE, TWO_ENGINES],
            &format!("{} --flows 8", one_way("64KiB")),
            false,
            FLOOD,
        ),
        make(SPARSE, Wire::Veth, &[INLINE, THREAD, TCP, QUIC], sparse, false, LATENCY),
    ];
    for rate in OFFERED {
        let options = format!("--mode rr --size 1KiB --rate {rate} {for_so_long}");
        let name = format!("{OPEN_LOOP}{rate}");
        experiments.push(make(&name, Wire::Veth, &[INLINE, THREAD, TCP, QUIC], &options, false, LATENCY));
    }
    for lost in LOST {
        let name = format!("{LOSSY}{lost}");
        experiments.push(make(&name, Wire::Lossy(lost), &[INLINE, QUIC], &one_way("64KiB"), false, FLOOD));
    }
    experiments
}
