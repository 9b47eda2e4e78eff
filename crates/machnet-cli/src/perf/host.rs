//! What machine a measurement was made on, and how busy it was.

use std::fs;

use serde_json::{Value, json};

/// Kernel, processor, cores.
pub(crate) fn facts() -> Value {
    let uname = rustix::system::uname();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    json!({
        "kernel": uname.release().to_string_lossy(),
        "machine": uname.machine().to_string_lossy(),
        "cpu": field("model name"),
        "virtual": field("flags").map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
    })
}

/// Threads that ran or wanted to, on average of the last minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
