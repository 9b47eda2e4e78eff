//! What was measured, for people and for programs.

use serde::Serialize;
use serde_json::{Map, Value};

use super::control::Mode;
use super::recorder::Recorded;
use super::usage::{Thread, Usage};
use crate::wire::{HANDED_OVER, RECEIVED};

/// One measurement. Times are µs, sizes are bytes; `None` is what was not, or cannot be, measured.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machnet: &'static str,
    pub(crate) url: String,
    pub(crate) scheme: &'static str,
    pub(crate) mode: Mode,
    pub(crate) size: usize,
    pub(crate) outstanding: usize,
    pub(crate) flows: usize,
    /// Requests per second that were due, in an open loop.
    pub(crate) offered_rate: Option<f64>,
    pub(crate) verified: bool,
    pub(crate) warm_up: String,
    pub(crate) duration_s: f64,
    pub(crate) interrupted: bool,
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) rate_per_s: f64,
    /// Payload in one direction.
    pub(crate) gbit_per_s: f64,
    pub(crate) mean_us: Option<f64>,
    pub(crate) min_us: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p90_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    pub(crate) max_us: Option<f64>,
    /// From when requests were sent, not from when they were due.
    pub(crate) service_p50_us: Option<f64>,
    pub(crate) service_p99_us: Option<f64>,
    /// Pairs of percentile and µs, for plots.
    pub(crate) percentiles: Vec<(f64, f64)>,
    /// Both sides together.
    pub(crate) cpu_us_per_op: Option<f64>,
    /// What of the packets that both sides received while it was measured belonged to another engine than the one that received
    /// them.
    pub(crate) handover_ratio: Option<f64>,
    pub(crate) client: SideReport,
    pub(crate) server: Option<SideReport>,
    /// How long it took to open the flows, s.
    pub(crate) opening_s: f64,
    pub(crate) host: Value,
    pub(crate) load_before: Option<f64>,
    pub(crate) load_after: Option<f64>,
    /// Unix time at its end, s.
    pub(crate) at: u64,
}

/// One side of a measurement.
#[derive(Default, Serialize)]
pub(crate) struct SideReport {
    pub(crate) cpu_us_per_op: Option<f64>,
    /// Of 1: how much of one core it used.
    pub(crate) cores: f64,
    pub(crate) threads: Vec<ThreadReport>,
    pub(crate) rss_bytes: u64,
    /// What opening the flows added to it, for each.
    pub(crate) memory_per_flow_bytes: Option<f64>,
    /// How it runs.
    pub(crate) runs: Value,
    /// What its transport counted since it was opened.
    pub(crate) counts: Map<String, Value>,
}

#[derive(Serialize)]
pub(crate) struct ThreadReport {
    name: String,
    cpu_us: f64,
}

impl SideReport {
    /// Of what was `used` for `operations` in `seconds`, with `flows` opened meanwhile from `rss_before` on.
    pub(crate) fn new(used: &Usage, operations: u64, seconds: f64, flows: usize, rss: (u64, u64)) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let busy = |thread: &&Thread| thread.cpu_ns > 0;
        Self {
            cpu_us_per_op: (operations > 0).then(|| us(used.cpu_ns) / operations as f64),
            cores: us(used.cpu_ns) / 1e6 / seconds,
            threads: (used.threads.iter().filter(busy))
                .map(|thread| ThreadReport { name: thread.name.clone(), cpu_us: us(thread.cpu_ns) })
                .collect(),
            rss_bytes: used.rss,
            memory_per_flow_bytes: (flows > 1).then(|| (rss.1 as f64 - rss.0 as f64) / flows as f64),
            runs: Value::Null,
            counts: Map::new(),
        }
    }
}

/// Of what both sides counted before and after.
pub(crate) fn handover_ratio(before: [&Map<String, Value>; 2], after: [&Map<String, Value>; 2]) -> Option<f64> {
    let grown = |name: &str| -> Option<u64> {
        let pairs = before.into_iter().zip(after);
        pairs.map(|(before, after)| after.get(name)?.as_u64()?.checked_sub(before.get(name)?.as_u64()?)).sum()
    };
    let received = grown(RECEIVED)?;
    (received > 0).then_some(grown(HANDED_OVER)? as f64 / received as f64)
}

/// The percentiles of `percentiles`: what a plot needs to show a tail.
const PERCENTILES: [f64; 15] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 100.0];

impl Report {
    /// Fills in what the flows found.
    pub(crate) fn found(&mut self, found: &Recorded, seconds: f64) {
        self.duration_s = seconds;
        self.operations = found.operations;
        self.errors = found.errors;
        self.first_error.clone_from(&found.first_error);
        self.rate_per_s = found.operations as f64 / seconds;
        self.gbit_per_s = self.rate_per_s * self.size as f64 * 8.0 / 1e9;
        self.mean_us = (!found.latency.is_empty()).then(|| found.latency.mean() / 1e3);
        self.min_us = found.latency_us(0.0);
        self.p50_us = found.latency_us(0.5);
        self.p90_us = found.latency_us(0.9);
        self.p99_us = found.latency_us(0.99);
        self.p999_us = found.latency_us(0.999);
        self.max_us = found.latency_us(1.0);
        self.service_p50_us = found.service_us(0.5);
        self.service_p99_us = found.service_us(0.99);
        self.percentiles = PERCENTILES.iter().filter_map(|&p| found.latency_us(p / 100.0).map(|us| (p, us))).collect();
    }

    /// One object, on one line.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// A line of names and one of values: what is a single number or text.
    pub(crate) fn csv(&self) -> anyhow::Result<String> {
        let Value::Object(fields) = serde_json::to_value(self)? else { unreachable!("a struct is an object") };
        let flat = fields.iter().filter_map(|(name, value)| match value {
            Value::Null => Some((name.as_str(), String::new())),
            Value::String(text) => Some((name.as_str(), format!("\"{}\"", text.replace('"', "\"\"")))),
            Value::Number(_) | Value::Bool(_) => Some((name.as_str(), value.to_string())),
            Value::Array(_) | Value::Object(_) => None,
        });
        let (names, values): (Vec<_>, Vec<_>) = flat.unzip();
        Ok(format!("{}\n{}", names.join(","), values.join(",")))
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![
            ("measured", format!("{} over {}", self.what(), self.url)),
            ("for", format!("{:.3} s{}", self.duration_s, if self.interrupted { ", interrupted" } else { "" })),
            ("operations", format!("{}, errors {}", self.operations, self.errors)),
        ];
        if let Some(error) = &self.first_error {
            rows.push(("first error", error.clone()));
        }
        rows.push(("rate", format!("{:.0} per second, {:.3} Gbit/s", self.rate_per_s, self.gbit_per_s)));
        if let (Some(p50), Some(p99), Some(p999), Some(max)) = (self.p50_us, self.p99_us, self.p999_us, self.max_us) {
            let from = if self.offered_rate.is_some() { ", from when due" } else { "" };
            rows.push(("latency", format!("p50 {p50:.1}  p99 {p99:.1}  p99.9 {p999:.1}  max {max:.1} us{from}")));
        }
        if let Some(cpu) = self.cpu_us_per_op {
            rows.push(("CPU", format!("{cpu:.2} us per operation, both sides")));
        }
        if let Some(ratio) = self.handover_ratio.filter(|_| self.url.contains("engines=")) {
            rows.push(("handover_ratio", format!("{ratio:.6}")));
        }
        for (name, side) in [("client", Some(&self.client)), ("server", self.server.as_ref())] {
            let Some(side) = side else { continue };
            let threads: Vec<_> =
                side.threads.iter().map(|thread| format!("{} {:.0} ms", thread.name, thread.cpu_us / 1e3)).collect();
            rows.push((name, format!("{:.2} cores: {}", side.cores, threads.join(", "))));
        }
        let mut text = String::new();
        for (name, value) in rows {
            text += &format!("{name:<16}{value}\n");
        }
        text
    }

    fn what(&self) -> String {
        let flows = if self.flows == 1 { "1 flow".to_owned() } else { format!("{} flows", self.flows) };
        let size = self.size;
        match (self.mode, self.offered_rate) {
            (Mode::Rr, None) => format!("round trips of {size} B, {flows}, {} outstanding on each,", self.outstanding),
            (Mode::Rr, Some(rate)) => format!("round trips of {size} B, {flows}, {rate} due per second,"),
            (Mode::Stream, _) => format!("messages of {size} B one way, {flows},"),
            (Mode::Connect, _) => format!("connecting and closing, {} at a time,", self.outstanding),
            (Mode::Idle, _) => format!("{flows} that do nothing,"),
        }
    }
}
