//! The targets of the project, and how far this run meets them.

use serde::Serialize;

use super::contenders::{Contender, INLINE, ONE_ENGINE, QUIC, SHM, SHM_SPIN, SPIN, TCP, TWO_ENGINES};
use super::matrix::{
    BULK, CONNECT, ENGINES, ENGINES_BULK, IDLE, LOCAL_ONE_WAY, LOCAL_OUTSTANDING, LOCAL_ROUND_TRIP, OUTSTANDING,
    ROUND_TRIP, SPARSE,
};
use super::results::{Results, short};

/// One target.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) row: &'static str,
    pub(crate) what: String,
    pub(crate) target: String,
    pub(crate) result: String,
    /// Of result and what it is compared with.
    pub(crate) ratio: Option<f64>,
    /// `None`: not measured, or without a target.
    pub(crate) met: Option<bool>,
}

impl Row {
    pub(crate) fn is_measured(&self) -> bool {
        self.ratio.is_some()
    }
}

/// Smaller is better, or larger.
#[derive(Clone, Copy)]
pub(crate) enum Want {
    AtMost(f64),
    AtLeast(f64),
}

impl Want {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}{unit}", short(most)),
            Self::AtLeast(least) => format!(">= {}{unit}", short(least)),
        }
    }
}

/// Row (e).
const INSTRUCTIONS: f64 = 2500.0;

/// A field of one contender's as a part of another's; `None`: whatever it is.
pub(crate) fn against(
    results: &Results,
    row: &'static str,
    (experiment, field): (&str, &str),
    (ours, theirs): (&Contender, &Contender),
    want: Option<Want>,
) -> Row {
    let what = format!("{experiment}: {field} of {}, of that of {}", ours.name, theirs.name);
    let both = results.median(experiment, ours, field).zip(results.median(experiment, theirs, field));
    let ratio = both.map(|(ours, theirs)| ours / theirs);
    let result = both.map_or_else(not_measured, |(ours, theirs)| format!("{} / {}", short(ours), short(theirs)));
    let target = want.map_or_else(String::new, |want| want.text("x"));
    Row { row, what, target, result, ratio, met: want.zip(ratio).map(|(want, ratio)| want.is_met(ratio)) }
}

/// A field as it is.
pub(crate) fn alone(
    results: &Results,
    row: &'static str,
    (experiment, field, unit): (&str, &str, &str),
    ours: &Contender,
    want: Want,
) -> Row {
    let value = results.median(experiment, ours, field);
    let target = match want {
        Want::AtMost(value) | Want::AtLeast(value) => value,
    };
    Row {
        row,
        what: format!("{experiment}: {field} of {}", ours.name),
        target: want.text(unit),
        result: value.map_or_else(not_measured, |value| format!("{}{unit}", short(value))),
        ratio: value.map(|value| value / target),
        met: value.map(|value| want.is_met(value)),
    }
}

pub(crate) fn not_measured() -> String {
    "not measured".to_owned()
}

/// All rows of the issue. `instructions`: of the engine at one end, per request and reply of 1 KiB.
pub(crate) fn rows(results: &Results, instructions: Option<f64>) -> Vec<Row> {
    use Want::{AtLeast, AtMost};
    let mut rows = vec![
        against(results, "a", (ROUND_TRIP, "p50_us"), (&SPIN, &TCP), Some(AtMost(0.25))),
        against(results, "a", (ROUND_TRIP, "p999_us"), (&SPIN, &TCP), Some(AtMost(0.5))),
        against(results, "b", (ROUND_TRIP, "p50_us"), (&INLINE, &TCP), Some(AtMost(1.0))),
        against(results, "b", (ROUND_TRIP, "p99_us"), (&INLINE, &TCP), Some(AtMost(1.0))),
        against(results, "c", (OUTSTANDING, "rate_per_s"), (&INLINE, &TCP), Some(AtLeast(1.0))),
        alone(results, "d", (LOCAL_ROUND_TRIP, "p50_us", " us"), &SHM_SPIN, AtMost(5.0)),
        alone(results, "d", (LOCAL_OUTSTANDING, "rate_per_s", "/s"), &SHM, AtLeast(1e6)),
        alone(results, "d", (LOCAL_ONE_WAY, "rate_per_s", "/s"), &SHM, AtLeast(10e6)),
        Row {
            row: "e",
            what: "instructions of the engine per 1 KiB request and reply, at one end".to_owned(),
            target: "< 2500".to_owned(),
            result: instructions.map_or_else(not_measured, short),
            ratio: instructions.map(|count| count / INSTRUCTIONS),
            met: instructions.map(|count| count < INSTRUCTIONS),
        },
        against(results, "f", (BULK, "gbit_per_s"), (&INLINE, &TCP), Some(AtLeast(1.0))),
        alone(results, "g", (CONNECT, "rate_per_s", "/s"), &INLINE, AtLeast(20_000.0)),
    ];
    rows.extend(
        [
            (ROUND_TRIP, "p50_us", AtMost(1.0)),
            (ROUND_TRIP, "p99_us", AtMost(1.0)),
            (OUTSTANDING, "rate_per_s", AtLeast(1.0)),
            (BULK, "gbit_per_s", AtLeast(1.0)),
            (CONNECT, "rate_per_s", AtLeast(1.0)),
            (SPARSE, "p50_us", AtMost(1.0)),
        ]
        .map(|(experiment, field, want)| against(results, "h", (experiment, field), (&INLINE, &QUIC), Some(want))),
    );
    rows.extend(["client", "server"].map(|side| {
        let field = format!("{side}/memory_per_flow_bytes");
        alone(results, "i", (IDLE, &field, " B"), &INLINE, AtMost(2048.0))
    }));
    rows.extend(
        [(ENGINES, "rate_per_s"), (ENGINES, "p99_us"), (ENGINES_BULK, "gbit_per_s")]
            .map(|what| against(results, "j", what, (&TWO_ENGINES, &ONE_ENGINE), None)),
    );
    rows
}

/// For people.
pub(crate) fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0) + 2;
    let mut text = format!("{:<4}{:<width$}{:>10}{:>22}{:>9}\n", "row", "what", "target", "result", "ratio");
    for Row { row, what, target, result, ratio, met } in rows {
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let verdict = met.map_or("", |met| if met { "  met" } else { "  NOT MET" });
        text += &format!("{row:<4}{what:<width$}{target:>10}{result:>22}{ratio:>9}{verdict}\n");
    }
    text
}
