//! What the engine's work costs, without sockets: two engines joined by memory, in time that stands still unless told.
//!
//! ```text
//! pair.rs    two engines and the memory between them
//! cases.rs   what is measured with them
//! hop.rs     between application and engine
//! wire.rs    building and reading one packet
//! net.rs     core's network layer around one packet
//! ```
//!
//! `cargo bench --bench engine` measures time (criterion). `cargo xtask bench --instructions` counts instructions:
//! it runs this program as `engine --count CASE STEPS` under callgrind, which counts inside of the functions named
//! `counted_*` only. What is not the engine's (applications, copying from one memory to the other) is outside of them.
#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

mod cases;
mod hop;
mod net;
mod pair;
mod wire;

use criterion::{Criterion, Throughput};

/// Something to measure.
#[derive(Clone, Copy)]
struct Case {
    /// Its name: no blanks, so that it can be typed.
    name: &'static str,
    /// Operations in a step.
    operations: u64,
    /// It is one thread's work, so instructions say what it costs.
    counts: bool,
    /// Sets it up. A step is counted if its argument says so.
    make: fn() -> Box<dyn FnMut(bool)>,
}

/// Steps before anything is counted: windows open, buffers and tables have grown, caches are warm.
const WARM_UP: u64 = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let cases = [wire::CASES, net::CASES, hop::CASES, cases::CASES].concat();
    match arguments[..] {
        ["--count-list"] => {
            for Case { name, operations, .. } in cases.iter().filter(|case| case.counts) {
                println!("{name} {operations}");
            }
        }
        ["--count", name, steps] => {
            let case = cases.iter().find(|case| case.name == name).expect("a case of --count-list");
            let steps: u64 = steps.parse().expect("a number of steps");
            let mut step = (case.make)();
            (0..WARM_UP).for_each(|_| step(false));
            (0..steps).for_each(|_| step(true));
        }
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            for case in cases {
                let mut group = criterion.benchmark_group("engine");
                group.throughput(Throughput::Elements(case.operations));
                let mut step = None;
                group.bench_function(case.name, |bencher| {
                    let step = step.get_or_insert_with(|| (case.make)());
                    bencher.iter(|| step(false));
                });
                group.finish();
            }
            criterion.final_summary();
        }
    }
}
